"""The Numba engine: neurons over a whole sequence, with a norm's affine map before them, on the CPU.

Memory is the limit. So time is walked inside a block of neurons that stays in cache (`blocks.py`), the rows of the
next block are fetched ahead, and the backward pass computes the potentials anew instead of reading them.

Sums run over fixed pieces of the work, each in fixed order: results do not depend on the number of threads, nor on
which of them takes which piece. A kernel is compiled for what changes its inner loops, at the first such call.
"""

# ruff: noqa: N806  (T, N and C are the axes, as everywhere)

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from rheobase.kernels.numba.blocks import block, collect, fill, share
from rheobase.kernels.numba.intrinsics import array, enter, fence, finish, least, prefetch, row, stream, take
from rheobase.kernels.numba.jit import Kernel, called, f32, f64, i64
from rheobase.kernels.numba.rows import DELAYED, assign, charge, copy, descend, fire, settle
from rheobase.kernels.numba.scratch import (
    LANES,
    affine,
    numbers,
    read,
    refill,
    sum_up,
    variance,
    write,
)
from rheobase.kernels.numba.walk import ROWS


@cache
def forward(element: type, reset: int, cuba: bool, adaptive: bool, rows: bool) -> Kernel:
    """Spikes `[T, N]` of inputs `x [T or 1, N]`; where wanted, the final states `[N]` and the drive `[T, N]`.

    The drive, the neuron's current, is x after the norm, if there is one, plus the residual `[T or 1, N]`, if there is
    one. A skip `[T, N]` is added to the spikes. With `rows` a neuron's numbers differ from one to the next.
    """
    by_rows = (1,) if rows else ()

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        me = job.scratch + enter(address) * job.room
        T, N, C, w, inner, span, per = job.T, job.N, job.C, job.width, job.inner, job.span, job.per
        P, Q, anew = job.pitch, job.channel_pitch, job.anew
        step = N if job.moving else 0  # from an input to the next
        x, drive = array(job.x, T * N, element), array(job.drive, T * N, element)
        residual, skip = array(job.residual, T * N, element), array(job.skip, T * N, element)
        spikes, nothing = array(job.spikes, T * N, element), array(me + 2 * P, w, element)
        scale, shift = array(me + ROWS * P, C, f32), array(me + ROWS * P + Q, C, f32)
        scales, shifts = array(me, w, f32), array(me + P, w, f32)
        again = affine(job, job.weight != 0, scale, shift, scales, shifts)
        new_spikes, new_drive = array(me + 5 * P, w, element), array(me + 6 * P, w, element)
        p = numbers(job, me, by_rows)
        assign(nothing, f32(0))
        blocks = N // span * per
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            for k in range(first, end):
                lo, n = block(k, w, span, per)
                if again:
                    fill(row(scales, 0, n), scale, inner, anew, lo)
                    fill(row(shifts, 0, n), shift, inner, anew, lo)
                refill(job, p, lo, n)
                v, o = array(me + 3 * P, n, f32), array(me + 4 * P, n, f32)
                read(job.state, lo, v)
                if cuba or adaptive:
                    read(job.other, lo, o)
                ahead = least(w, N - lo - n)
                for t in range(T):
                    at = t * step + lo
                    prefetch(x, at + n, ahead)
                    more, extra = row(nothing, 0, n), row(nothing, 0, n)
                    if job.residual:
                        more = row(residual, t * job.residual_step + lo, n)
                        prefetch(residual, t * job.residual_step + lo + n, ahead)
                    if job.skip:
                        extra = row(skip, t * N + lo, n)
                        prefetch(skip, t * N + lo + n, ahead)
                    s = row(new_spikes, 0, n) if job.large else row(spikes, t * N + lo, n)
                    y = row(drive, t * N + lo, n) if job.drive and not job.large else row(new_drive, 0, n)
                    if job.drive or job.skip:
                        fire(
                            row(x, at, n), more, scales, shifts, extra, v, o, y, s,
                            reset, cuba, adaptive, False, p[0], p[1], p[2], p[3], p[4],
                        )  # fmt: skip
                        if job.drive and job.large:
                            stream(y, drive, t * N + lo, n)
                    else:
                        fire(
                            row(x, at, n), more, scales, shifts, extra, v, o, y, s,
                            reset, cuba, adaptive, True, p[0], p[1], p[2], p[3], p[4],
                        )  # fmt: skip
                    if job.large:
                        stream(s, spikes, t * N + lo, n)
                write(v, job.final, lo)
                if cuba or adaptive:
                    write(o, job.final_other, lo)
            finish(address)

    return Kernel(body, element.__name__, reset, cuba, adaptive, rows)


@called
def _norm_gradients(job: Any) -> None:
    """Gradients of the norm's weight and bias from the sums of `backward`."""
    C = job.C
    sums = array(job.sums, 2 * C, f64)
    g_weight, g_bias = array(job.g_weight, C, f32), array(job.g_bias, C, f32)
    for c in range(C):
        g_bias[c] = sums[c]
        g_weight[c] = sums[C + c] / np.sqrt(variance(job, c) + job.eps)


@cache
def backward(
    element: type, kind: int, reset: int, cuba: bool, adaptive: bool, detach: bool, rows: bool, normed: bool,
    learned: tuple[bool, ...], apart: bool,
) -> Kernel:  # fmt: skip
    """Gradients of `forward`: of the drive into `gy [T, N]`, of the states into `g_state` and `g_other [N]`.

    The drive is read where it was kept, else computed anew. `g_drive [T, N]` is the gradient that it gets from
    elsewhere. `sums [sum_rows, C]` are with a norm those of gy and of gy (x - mean); then comes the gradient of each
    number that is learned, or with `apart` it goes to `g_numbers [.., N]`, one for each neuron and sample.
    """
    by_rows = (1,) if rows else ()
    for_decay, for_threshold, for_scale, for_leak, for_adaptation = learned
    two, delayed = cuba or adaptive, reset == DELAYED
    keep_v = for_decay or (for_threshold and delayed)
    of_norm = 2 if normed else 0
    lanes = of_norm + sum(learned)
    summed = of_norm if apart else lanes
    l0, l1, l2, l3, l4 = (LANES + of_norm + sum(learned[:k]) for k in range(5))
    vs_from, ys_from = 1 + two, 1 + two + keep_v  # which of the rows for each time step

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        me = job.scratch + enter(address) * job.room
        T, N, C, w, inner, span, per = job.T, job.N, job.C, job.width, job.inner, job.span, job.per
        P, Q, anew = job.pitch, job.channel_pitch, job.anew
        step = N if job.moving else 0  # from an input to the next
        x, gy = array(job.x, T * N, element), array(job.gy, T * N, element)
        g, g_drive = array(job.g, T * N, element), array(job.g_drive, T * N, element)
        drive, drive_step = array(job.x, T * N, element), step
        if job.drive:
            drive, drive_step = array(job.drive, T * N, element), N
        residual, nothing = array(job.residual, T * N, element), array(me + 2 * P, w, element)
        scale, shift = array(me + ROWS * P, C, f32), array(me + ROWS * P + Q, C, f32)
        mean, means = array(me + ROWS * P + 2 * Q, C, f32), array(me + 7 * P, w, f32)
        scales, shifts = array(me, w, f32), array(me + P, w, f32)
        again = affine(job, job.weight != 0 and job.drive == 0, scale, shift, scales, shifts)
        us = me + ROWS * P + 3 * Q  # the rows for each time step
        ws, vs, ys = us + T * P, us + vs_from * T * P, us + ys_from * T * P
        new_gy = array(me + 6 * P, w, element)
        p = numbers(job, me, by_rows)
        assign(nothing, f32(0))
        if normed:
            copy(array(job.mean, C, f64), mean)
            if not anew:
                fill(means, mean, inner, anew, i64(0))
        for j in range(lanes):
            assign(array(me + (LANES + j) * P, w, f32), f32(0))
        blocks = N // span * per
        found, apart_to = array(job.sums, job.pieces * summed * C, f64), array(job.g_numbers, 5 * N, f32)
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            mine = row(found, summed * C * piece, summed * C)
            assign(mine, f64(0))
            for k in range(first, end):
                lo, n = block(k, w, span, per)
                if again:
                    fill(row(scales, 0, n), scale, inner, anew, lo)
                    fill(row(shifts, 0, n), shift, inner, anew, lo)
                if normed and anew:
                    fill(row(means, 0, n), mean, inner, anew, lo)
                refill(job, p, lo, n)
                v, o, gr = array(me + 3 * P, n, f32), array(me + 4 * P, n, f32), array(me + 5 * P, n, f32)
                ahead = least(w, N - lo - n)
                read(job.state, lo, v)
                if two:
                    read(job.other, lo, o)
                for t in range(T):
                    prefetch(g, (T - 1 - t) * N + lo, n)
                    if job.g_drive:
                        prefetch(g_drive, (T - 1 - t) * N + lo, n)
                    if job.drive:
                        prefetch(x, (T - 1 - t) * step + lo, n)
                    more = row(nothing, 0, n)
                    if job.residual:
                        more = row(residual, t * job.residual_step + lo, n)
                        prefetch(residual, t * job.residual_step + lo + n, ahead)
                    charge(
                        row(drive, t * drive_step + lo, n), more, scales, shifts, v, o,
                        array(us + t * P, n, f32), array(ws + t * P, n, f32), array(vs + t * P, n, f32),
                        array(ys + t * P, n, f32), reset, cuba, adaptive, keep_v, for_scale,
                        p[0], p[1], p[2], p[3], p[4],
                    )  # fmt: skip
                read(job.g_final, lo, v)
                if two:
                    read(job.g_final_other, lo, o)
                if delayed:
                    assign(gr, f32(0))
                for t in range(T - 1, -1, -1):
                    more = row(nothing, 0, n)
                    if job.g_drive:
                        more = row(g_drive, t * N + lo, n)
                    prefetch(drive, (T - 1 - t) * drive_step + lo + n, ahead)
                    q = row(new_gy, 0, n) if job.large else row(gy, t * N + lo, n)
                    descend(
                        row(g, t * N + lo, n), more, row(x, t * step + lo, n),
                        array(us + t * P, n, f32), array(ws + t * P, n, f32), array(vs + t * P, n, f32),
                        array(ys + t * P, n, f32), v, o, gr, q, means,
                        array(me + LANES * P, n, f32), array(me + (LANES + 1) * P, n, f32),
                        array(me + l0 * P, n, f32), array(me + l1 * P, n, f32), array(me + l2 * P, n, f32),
                        array(me + l3 * P, n, f32), array(me + l4 * P, n, f32),
                        kind, reset, cuba, adaptive, detach, normed,
                        for_decay, for_threshold, for_scale, for_leak, for_adaptation,
                        p[0], p[1], p[2], p[3], p[4], p[5], p[6],
                    )  # fmt: skip
                    if job.large:
                        stream(q, gy, t * N + lo, n)
                if delayed and not detach:
                    before = array(me + 15 * P, n, f32)
                    read(job.state, lo, before)
                    settle(before, v, gr, array(me + l1 * P, n, f32), kind, for_threshold, p[1], p[5], p[6])
                write(v, job.g_state, lo)
                if two:
                    write(o, job.g_other, lo)
                if anew or k == end - 1:
                    for j in range(summed):
                        lane = array(me + (LANES + j) * P, n if anew else w, f32)
                        collect(row(mine, j * C, C), lane, inner, anew, lo)
                for j in range(summed, lanes):
                    lane = array(me + (LANES + j) * P, n, f32)
                    copy(lane, row(apart_to, (j - summed) * N + lo, n))
                    assign(lane, f32(0))
            if finish(address) == job.pieces - 1:
                sum_up(job)
                if normed:
                    _norm_gradients(job)

    return Kernel(body, element.__name__, kind, reset, cuba, adaptive, detach, rows, normed, *learned, apart)
