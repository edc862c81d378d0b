"""The Numba engine: neurons over a whole sequence, with a norm's affine map before them, on the CPU.

Memory is the limit. So time is walked inside a block of neurons that stays in cache, the rows of the next block are
fetched ahead, and the backward pass computes the potentials anew instead of reading them.

A tensor is seen as rows `[T, N]` in storage order. A channel's factor is read from a row of the block's length.
`inner` neighbours share a channel (1 in channels-last storage); where whole patterns of channels fit into a block, one
row serves all blocks (`plane` = 0); else a block stays within a plane of `plane` = `inner` neighbours and the row is
filled anew. Each row function is one flat loop over at most five arrays, which LLVM vectorises; that takes
`error_model="numpy"` (a checked division is not vectorised).

Potentials are computed without fused multiply-add, so that spikes equal those of `reference.py` bit for bit.
Sums run over fixed pieces in fixed order: results do not depend on the number of threads.
bfloat16 comes as its bits, int16; arithmetic and states are float32.
"""

# ruff: noqa: N803, N806  (T, N and C are the axes, as everywhere)

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from rheobase.kernels.prefetch import prefetch

PIECES = 32  # the work is cut into so many pieces, whatever the number of threads
BLOCK = 512  # neurons walked together, about
CACHED = 1 << 15  # potentials (T x block) a thread keeps in cache, about

SUPERSPIKE, ATAN, SIGMOID, TRIANGLE, RECTANGLE, GAUSSIAN = range(6)  # as in surrogate.KINDS
KINDS = range(6)

_options: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
exact = numba.njit(fastmath={"nsz"}, **_options)
fast = numba.njit(fastmath={"nsz", "arcp", "contract", "reassoc"}, **_options)
parallel = numba.njit(parallel=True, **_options)

f32, f64, i32, u32, i16 = np.float32, np.float64, np.int32, np.uint32, np.int16
Array = np.ndarray[Any, Any]


# ---- bfloat16 -------------------------------------------------------------------------------------------------------


def load(row: Array, scratch: Array) -> Array:
    """The row as float32: itself, or its bfloat16 bits widened into `scratch`."""
    raise TypeError


def target(row: Array, scratch: Array) -> Array:
    """Where to compute what goes into the row: in it, or in `scratch` when it holds bfloat16 bits."""
    raise TypeError


def store(values: Array, row: Array) -> None:
    """Bring what was computed in `target(row, ...)` into the row: nothing to do, or round to bfloat16."""
    raise TypeError


@exact
def _widen(row: Array, scratch: Array) -> None:
    for i in range(row.size):
        scratch[i] = u32(u32(row[i]) << u32(16)).view(f32)


@exact
def _narrow(values: Array, row: Array) -> None:
    """Round to nearest, ties to even; a NaN stays one."""
    for i in range(row.size):
        bits = f32(values[i]).view(u32)
        odd = u32(u32(bits >> u32(16)) & u32(1))
        rounded = u32(u32(bits + u32(0x7FFF)) + odd)
        row[i] = i16(u32((rounded if values[i] == values[i] else u32(0x7FC00000)) >> u32(16)))


@overload(load, inline="always", strict=False)
def _load(row: Any, scratch: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda row, scratch: row

    def widened(row: Any, scratch: Any) -> Any:
        _widen(row, scratch)
        return scratch[: row.size]

    return widened


@overload(target, inline="always", strict=False)
def _target(row: Any, scratch: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda row, scratch: row
    return lambda row, scratch: scratch[: row.size]


@overload(store, inline="always", strict=False)
def _store(values: Any, row: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda values, row: None
    return lambda values, row: _narrow(values, row)


# ---- rows: one flat loop each ---------------------------------------------------------------------------------------


@exact
def _charge(x: Array, scale: Array, shift: Array, v: Array, u: Array, decay: Any, threshold: Any, soft: Any) -> None:
    """u = decay v + (scale x + shift); v = u after its reset."""
    for i in range(x.size):
        p = decay * v[i] + (x[i] * scale[i] + shift[i])
        u[i] = p
        v[i] = soft * (p - threshold) if p >= threshold else p


@exact
def _fire(x: Array, scale: Array, shift: Array, v: Array, s: Array, decay: Any, threshold: Any, soft: Any) -> None:
    """The same, keeping the spikes instead of u."""
    for i in range(x.size):
        p = decay * v[i] + (x[i] * scale[i] + shift[i])
        s[i] = f32(1) if p >= threshold else f32(0)
        v[i] = soft * (p - threshold) if p >= threshold else p


@fast
def _exp(x: Any) -> Any:
    """e^x for x <= 0 to about 1e-7, in operations that vectorise (the library's exp does not)."""
    x = max(x, f32(-87))
    k = np.floor(x * f32(1.44269504) + f32(0.5))
    r = (x - k * f32(0.693359375)) + k * f32(2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    return (p * (r * r) + r + f32(1)) * u32(u32(i32(k) + i32(127)) << u32(23)).view(f32)


@fast
def _surrogate(u: Array, h: Array, kind: int, threshold: Any, a: Any, height: Any) -> None:
    """h = height h(u - threshold; a), for each shape of surrogate.py."""
    n = u.size
    if kind == SUPERSPIKE:
        for i in range(n):
            d = f32(1) + a * abs(u[i] - threshold)
            h[i] = height / (d * d)
    elif kind == ATAN:
        height *= f32(0.5) * a
        a *= f32(0.5 * math.pi)
        for i in range(n):
            d = a * (u[i] - threshold)
            h[i] = height / (f32(1) + d * d)
    elif kind == SIGMOID:
        height *= a
        for i in range(n):
            e = _exp(-a * abs(u[i] - threshold))
            d = f32(1) + e
            h[i] = height * e / (d * d)
    elif kind == TRIANGLE:
        a = f32(1) / a
        for i in range(n):
            h[i] = height * max(f32(0), f32(1) - a * abs(u[i] - threshold))
    elif kind == RECTANGLE:
        height /= a
        for i in range(n):
            h[i] = height if f32(2) * abs(u[i] - threshold) < a else f32(0)
    elif kind == GAUSSIAN:
        height /= a * f32(math.sqrt(2 * math.pi))
        a = f32(1) / a
        for i in range(n):
            d = a * (u[i] - threshold)
            h[i] = height * _exp(f32(-0.5) * d * d)


@fast
def _descend(g: Array, u: Array, h: Array, gv: Array, decay: Any, cut: Any) -> None:
    """h becomes the gradient of u, gv that of the state before; reset detached. Hard: nothing passes a spike."""
    for i in range(g.size):
        q = g[i] * h[i] + (f32(0) if u[i] >= cut else gv[i])
        h[i] = q
        gv[i] = decay * q


@fast
def _descend_full(g: Array, u: Array, h: Array, gv: Array, decay: Any, cut: Any, threshold: Any, soft: Any) -> None:
    """The same with the gradient through the reset: -threshold h (soft) or -u h (hard)."""
    for i in range(g.size):
        r = soft * threshold + (f32(1) - soft) * u[i]
        q = g[i] * h[i] + ((f32(0) if u[i] >= cut else gv[i]) - gv[i] * r * h[i])
        h[i] = q
        gv[i] = decay * q


@fast
def _scaled(q: Array, scale: Array) -> None:
    for i in range(q.size):
        q[i] *= scale[i]


@fast
def _add(total: Array, q: Array) -> None:
    for i in range(q.size):
        total[i] += q[i]


@fast
def _accumulate(q: Array, x: Array, mean: Array, a: Array, b: Array) -> None:
    """a += q; b += q (x - mean)."""
    for i in range(q.size):
        a[i] += q[i]
        b[i] += q[i] * (x[i] - mean[i])


@fast
def _squares(x: Array, a: Array, b: Array) -> None:
    """a += x; b += x^2, in float64, so that a large mean does not eat the variance."""
    for i in range(x.size):
        y = f64(x[i])
        a[i] += y
        b[i] += y * y


@fast
def _combine(q: Array, x: Array, k1: Array, k2: Array, k3: Array) -> None:
    """q = k1 q + k2 x + k3."""
    for i in range(q.size):
        q[i] = k1[i] * q[i] + (k2[i] * x[i] + k3[i])


# ---- blocks ---------------------------------------------------------------------------------------------------------


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
        row[:] = values[0]
    elif plane:
        row[:] = values[p % C]
    elif inner == 1:
        for lo in range(0, row.size, C):
            row[lo : lo + C] = values
    else:
        for lo in range(0, row.size, inner):
            row[lo : lo + inner] = values[lo // inner % C]


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


# ---- kernels --------------------------------------------------------------------------------------------------------


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
    T, N = s.shape
    moving = i32(x.shape[0] > 1)
    blocks = _count(N, w, plane)
    pieces = min(PIECES, blocks)
    for piece in numba.prange(pieces):
        first = piece * blocks // pieces
        v, scratch, wide = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
        a, b = np.empty(w, f32), np.empty(w, f32)
        for k in range(first, (piece + 1) * blocks // pieces):
            lo, hi, p = _block(k, N, w, plane)
            if plane or k == first:
                _fill(a, scale, inner, plane, p)
                _fill(b, shift, inner, plane, p)
            if state.size:
                v[: hi - lo] = state[lo:hi]
            else:
                v[:] = f32(0)
            ahead, beyond = min(N, hi), min(N, hi + w)
            for t in range(T):
                prefetch(x[t * moving, ahead:beyond])
                prefetch(s[t, ahead:beyond])
                spikes = target(s[t, lo:hi], scratch)
                _fire(load(x[t * moving, lo:hi], wide), a, b, v, spikes, decay, threshold, soft)
                store(spikes, s[t, lo:hi])
            if final.size:
                final[lo:hi] = v[: hi - lo]


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
    T, N = g.shape
    moving = i32(x.shape[0] > 1)
    blocks = _count(N, w, plane)
    pieces = min(PIECES, blocks)
    cut = threshold if soft == f32(0) else f32(np.inf)
    for piece in numba.prange(pieces):
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
                v[:n] = state[lo:hi]
            else:
                v[:] = f32(0)
            for t in range(T):
                prefetch(g[T - 1 - t, lo:hi])
                _charge(load(x[t * moving, lo:hi], wide), a, b, v, us[t, :n], decay, threshold, soft)
            if g_final.size:
                v[:n] = g_final[lo:hi]
            else:
                v[:] = f32(0)
            if not moving:
                total[:] = f32(0)
            ahead, beyond = min(N, hi), min(N, hi + w)
            for t in range(T - 1, -1, -1):
                prefetch(x[(T - 1 - t) * moving, ahead:beyond])
                prefetch(gx[t * moving, ahead:beyond])
                u = us[t, :n]
                q = target(gx[t, lo:hi], scratch) if moving else scratch[:n]
                _surrogate(u, q, kind, threshold, parameter, height)
                if detach:
                    _descend(load(g[t, lo:hi], wide), u, q, v, decay, cut)
                else:
                    _descend_full(load(g[t, lo:hi], wide), u, q, v, decay, cut, threshold, soft)
                if sums.size:
                    _accumulate(q, load(x[t * moving, lo:hi], wide), m, sum_q, sum_qx)
                if scaled:
                    _scaled(q, a)
                if moving:
                    store(q, gx[t, lo:hi])
                else:
                    _add(total[:n], q)
            if not moving:
                q = target(gx[0, lo:hi], scratch)
                q[:] = total[:n]
                store(q, gx[0, lo:hi])
            if g_state.size:
                g_state[lo:hi] = v[:n]
            if plane and sums.size:
                _collect(sums[piece, 0], sum_q[:n], inner, plane, p)
                _collect(sums[piece, 1], sum_qx[:n], inner, plane, p)
                sum_q[:] = f32(0)
                sum_qx[:] = f32(0)
        if plane == 0 and sums.size:
            _collect(sums[piece, 0], sum_q, inner, plane, 0)
            _collect(sums[piece, 1], sum_qx, inner, plane, 0)


@parallel
def moments(x: Array, sums: Array, w: int, inner: int, plane: int) -> None:
    """Sums of x and of x^2 over x `[N]` into `sums [pieces, 2, C]`, at zero."""
    N = x.size
    blocks = _count(N, w, plane)
    pieces = min(PIECES, blocks)
    for piece in numba.prange(pieces):
        wide, a, b = np.empty(w, f32), np.zeros(w, f64), np.zeros(w, f64)
        for k in range(piece * blocks // pieces, (piece + 1) * blocks // pieces):
            lo, hi, p = _block(k, N, w, plane)
            _squares(load(x[lo:hi], wide), a, b)
            if plane:
                _collect(sums[piece, 0], a[: hi - lo], inner, plane, p)
                _collect(sums[piece, 1], b[: hi - lo], inner, plane, p)
                a[:] = 0.0
                b[:] = 0.0
        if plane == 0:
            _collect(sums[piece, 0], a, inner, plane, 0)
            _collect(sums[piece, 1], b, inner, plane, 0)


@parallel
def norm_backward(gx: Array, x: Array, k1: Array, k2: Array, k3: Array, w: int, inner: int, plane: int) -> None:
    """gx `[N]` becomes k1 gx + k2 x + k3, channel by channel: the last step of a norm's gradient."""
    N = x.size
    blocks = _count(N, w, plane)
    pieces = min(PIECES, blocks)
    for piece in numba.prange(pieces):
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
            _combine(q, load(x[lo:hi], wide), a, b, c)
            store(q, gx[lo:hi])
