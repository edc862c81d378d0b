"""The Numba engine: neurons over a whole sequence, with a norm's affine map before them, on the CPU.

Memory is the limit. So time is walked inside a block of neurons that stays in cache, the rows of the next block are
fetched ahead, and the backward pass computes the potentials anew instead of reading them.

A tensor is seen as rows `[T, N]` in storage order. A channel's factor is read from a row of the block's length.
`inner` neighbours share a channel (1 in channels-last storage); where whole patterns of channels fit into a block, one
row serves all blocks (`plane` = 0); else a block stays within a plane of `plane` = `inner` neighbours and the row is
filled anew.

Sums run over fixed pieces in fixed order: results do not depend on the number of threads. A kernel is a short parallel
loop around the function of one piece, as the time to compile grows with what stands inside a parallel function.
"""

# ruff: noqa: N803, N806  (T, N and C are the axes, as everywhere)

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from rheobase.kernels.bfloat16 import load, store, target
from rheobase.kernels.jit import Array, exact, f32, f64, fast, i32, parallel
from rheobase.kernels.prefetch import prefetch
from rheobase.kernels.rows import (
    accumulate,
    add,
    assign,
    charge,
    combine,
    copy,
    descend,
    descend_full,
    fire,
    multiply,
    squares,
    surrogate,
)

PIECES = 32  # the work is cut into so many pieces, whatever the number of threads
BLOCK = 512  # neurons walked together, about
CACHED = 1 << 15  # potentials (T x block) a thread keeps in cache, about


@exact
def _count(N: int, w: int, plane: int) -> int:
    """How many blocks there are."""
    if plane == 0:
        return (N + w - 1) // w
    return N // plane * ((plane + w - 1) // w)


@exact
def _block(b: int, N: int, w: int, plane: int) -> tuple[int, int, int]:
    """Where block b begins and ends, and its plane (0 when the pattern of channels repeats)."""
    if plane == 0:
        return b * w, min(N, (b + 1) * w), 0
    per = (plane + w - 1) // w
    p = b // per
    lo = p * plane + (b - p * per) * w
    return lo, min(lo + w, (p + 1) * plane), p


@exact
def _fill(row: Array, values: Array, inner: int, plane: int, p: int) -> None:
    """The factor of each neuron of a block, from one value a channel, or one in all."""
    C = values.size
    if C == 1:
        assign(row, values[0])
    elif plane:
        assign(row, values[p % C])
    elif inner == 1:
        for lo in range(0, row.size, C):
            copy(values, row[lo : lo + C])
    else:
        for lo in range(0, row.size, inner):
            assign(row[lo : lo + inner], values[lo // inner % C])


@fast
def _collect(sums: Array, lanes: Array, inner: int, plane: int, p: int) -> None:
    """Add the lanes of a block to the sums of their channels."""
    C = sums.size
    if plane == 0 and inner == 1:
        for lo in range(0, lanes.size, C):
            part = lanes[lo : lo + C]
            for c in range(part.size):
                sums[c] += f64(part[c])
    else:
        step = lanes.size if plane else inner
        for lo in range(0, lanes.size, step):
            total = f64(0)
            for i in range(lo, min(lo + step, lanes.size)):
                total += f64(lanes[i])
            sums[p % C if plane else lo // inner % C] += total


@fast
def _forward(
    piece: int,
    pieces: int,
    x: Array,
    s: Array,
    state: Array,
    final: Array,
    scale: Array,
    shift: Array,
    decay: Any,
    threshold: Any,
    soft: Any,
    w: int,
    inner: int,
    plane: int,
) -> None:
    T, N = s.shape
    moving = i32(x.shape[0] > 1)
    blocks = _count(N, w, plane)
    first = piece * blocks // pieces
    v, scratch, wide = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
    a, b = np.empty(w, f32), np.empty(w, f32)
    for k in range(first, (piece + 1) * blocks // pieces):
        lo, hi, p = _block(k, N, w, plane)
        if plane or k == first:
            _fill(a, scale, inner, plane, p)
            _fill(b, shift, inner, plane, p)
        if state.size:
            copy(state[lo:hi], v[: hi - lo])
        else:
            assign(v, f32(0))
        ahead, beyond = min(N, hi), min(N, hi + w)
        for t in range(T):
            prefetch(x[t * moving, ahead:beyond])
            prefetch(s[t, ahead:beyond])
            spikes = target(s[t, lo:hi], scratch)
            fire(load(x[t * moving, lo:hi], wide), a, b, v, spikes, decay, threshold, soft)
            store(spikes, s[t, lo:hi])
        if final.size:
            copy(v, final[lo:hi])


@parallel
def forward(
    x: Array,
    s: Array,
    state: Array,
    final: Array,
    scale: Array,
    shift: Array,
    decay: Any,
    threshold: Any,
    soft: Any,
    w: int,
    inner: int,
    plane: int,
) -> None:
    """Spikes `s [T, N]` and final state `[N]` of currents `x [T or 1, N]`.

    An empty `state` is rest, an empty `final` is not wanted; so in all kernels.
    """
    pieces = min(PIECES, _count(s.shape[1], w, plane))
    for piece in numba.prange(pieces):
        _forward(piece, pieces, x, s, state, final, scale, shift, decay, threshold, soft, w, inner, plane)


@fast
def _backward(
    piece: int,
    pieces: int,
    g: Array,
    g_final: Array,
    x: Array,
    gx: Array,
    state: Array,
    g_state: Array,
    scale: Array,
    shift: Array,
    mean: Array,
    sums: Array,
    decay: Any,
    threshold: Any,
    soft: Any,
    kind: int,
    parameter: Any,
    height: Any,
    detach: bool,
    scaled: bool,
    w: int,
    inner: int,
    plane: int,
) -> None:
    T, N = g.shape
    moving = i32(x.shape[0] > 1)
    blocks = _count(N, w, plane)
    cut = threshold if soft == f32(0) else f32(np.inf)
    first = piece * blocks // pieces
    us = np.empty((T, w), f32)
    v, scratch, wide, total = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
    a, b, m = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
    sum_q, sum_qx = np.zeros(w, f32), np.zeros(w, f32)
    for k in range(first, (piece + 1) * blocks // pieces):
        lo, hi, p = _block(k, N, w, plane)
        n = hi - lo
        if plane or k == first:
            _fill(a, scale, inner, plane, p)
            _fill(b, shift, inner, plane, p)
            if sums.size:
                _fill(m, mean, inner, plane, p)
        if state.size:
            copy(state[lo:hi], v[:n])
        else:
            assign(v, f32(0))
        for t in range(T):
            prefetch(g[T - 1 - t, lo:hi])
            charge(load(x[t * moving, lo:hi], wide), a, b, v, us[t, :n], decay, threshold, soft)
        if g_final.size:
            copy(g_final[lo:hi], v[:n])
        else:
            assign(v, f32(0))
        if not moving:
            assign(total, f32(0))
        ahead, beyond = min(N, hi), min(N, hi + w)
        for t in range(T - 1, -1, -1):
            prefetch(x[(T - 1 - t) * moving, ahead:beyond])
            prefetch(gx[t * moving, ahead:beyond])
            u = us[t, :n]
            q = target(gx[t, lo:hi], scratch) if moving else scratch[:n]
            surrogate(u, q, kind, threshold, parameter, height)
            if detach:
                descend(load(g[t, lo:hi], wide), u, q, v, decay, cut)
            else:
                descend_full(load(g[t, lo:hi], wide), u, q, v, decay, cut, threshold, soft)
            if sums.size:
                accumulate(q, load(x[t * moving, lo:hi], wide), m, sum_q, sum_qx)
            if scaled:
                multiply(q, a)
            if moving:
                store(q, gx[t, lo:hi])
            else:
                add(total[:n], q)
        if not moving:
            q = target(gx[0, lo:hi], scratch)
            copy(total, q)
            store(q, gx[0, lo:hi])
        if g_state.size:
            copy(v, g_state[lo:hi])
        if plane and sums.size:
            _collect(sums[piece, 0], sum_q[:n], inner, plane, p)
            _collect(sums[piece, 1], sum_qx[:n], inner, plane, p)
            assign(sum_q, f32(0))
            assign(sum_qx, f32(0))
    if plane == 0 and sums.size:
        _collect(sums[piece, 0], sum_q, inner, plane, 0)
        _collect(sums[piece, 1], sum_qx, inner, plane, 0)


@parallel
def backward(
    g: Array,
    g_final: Array,
    x: Array,
    gx: Array,
    state: Array,
    g_state: Array,
    scale: Array,
    shift: Array,
    mean: Array,
    sums: Array,
    decay: Any,
    threshold: Any,
    soft: Any,
    kind: int,
    parameter: Any,
    height: Any,
    detach: bool,
    scaled: bool,
    w: int,
    inner: int,
    plane: int,
) -> None:
    """Gradients of `forward`: of the currents into `gx [T or 1, N]`, of the state into `g_state [N]`.

    `scaled`: gx is the gradient of x, else that of the affine map's output y = scale x + shift.
    `sums [pieces, 2, C]`, at zero, takes the sums of grad y and of grad y (x - mean).
    """
    pieces = min(PIECES, _count(g.shape[1], w, plane))
    for piece in numba.prange(pieces):
        _backward(
            piece,
            pieces,
            g,
            g_final,
            x,
            gx,
            state,
            g_state,
            scale,
            shift,
            mean,
            sums,
            decay,
            threshold,
            soft,
            kind,
            parameter,
            height,
            detach,
            scaled,
            w,
            inner,
            plane,
        )


@fast
def _moments(piece: int, pieces: int, x: Array, sums: Array, w: int, inner: int, plane: int) -> None:
    N = x.size
    blocks = _count(N, w, plane)
    wide, a, b = np.empty(w, f32), np.zeros(w, f64), np.zeros(w, f64)
    for k in range(piece * blocks // pieces, (piece + 1) * blocks // pieces):
        lo, hi, p = _block(k, N, w, plane)
        squares(load(x[lo:hi], wide), a, b)
        if plane:
            _collect(sums[piece, 0], a[: hi - lo], inner, plane, p)
            _collect(sums[piece, 1], b[: hi - lo], inner, plane, p)
            assign(a, 0.0)
            assign(b, 0.0)
    if plane == 0:
        _collect(sums[piece, 0], a, inner, plane, 0)
        _collect(sums[piece, 1], b, inner, plane, 0)


@parallel
def moments(x: Array, sums: Array, w: int, inner: int, plane: int) -> None:
    """Sums of x and of x^2 over x `[N]` into `sums [pieces, 2, C]`, at zero."""
    pieces = min(PIECES, _count(x.size, w, plane))
    for piece in numba.prange(pieces):
        _moments(piece, pieces, x, sums, w, inner, plane)


@fast
def _norm_backward(
    piece: int, pieces: int, gx: Array, x: Array, k1: Array, k2: Array, k3: Array, w: int, inner: int, plane: int
) -> None:
    N = x.size
    blocks = _count(N, w, plane)
    first = piece * blocks // pieces
    wide, scratch = np.empty(w, f32), np.empty(w, f32)
    a, b, c = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
    for k in range(first, (piece + 1) * blocks // pieces):
        lo, hi, p = _block(k, N, w, plane)
        if plane or k == first:
            _fill(a, k1, inner, plane, p)
            _fill(b, k2, inner, plane, p)
            _fill(c, k3, inner, plane, p)
        q = load(gx[lo:hi], scratch)
        combine(q, load(x[lo:hi], wide), a, b, c)
        store(q, gx[lo:hi])


@parallel
def norm_backward(gx: Array, x: Array, k1: Array, k2: Array, k3: Array, w: int, inner: int, plane: int) -> None:
    """gx `[N]` becomes k1 gx + k2 x + k3, channel by channel: the last step of a norm's gradient."""
    pieces = min(PIECES, _count(x.size, w, plane))
    for piece in numba.prange(pieces):
        _norm_backward(piece, pieces, gx, x, k1, k2, k3, w, inner, plane)
