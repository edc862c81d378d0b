"""The Numba engine: the statistics of a batch norm, and the way back through it."""

# ruff: noqa: N806  (T, N and C are the axes, as everywhere)

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from rheobase.kernels.numba.blocks import block, collect, fill, share
from rheobase.kernels.numba.intrinsics import array, enter, fence, finish, least, prefetch, row, stream, take
from rheobase.kernels.numba.jit import Kernel, called, f32, f64, i64
from rheobase.kernels.numba.rows import assign, combine, copy, squares
from rheobase.kernels.numba.scratch import sum_up, variance
from rheobase.kernels.numba.walk import ROWS


@called
def _settle(job: Any) -> None:
    """Mean and sum of squared deviations of the `count` values of a channel from their sums over the distinct ones.

    Running mean and (unbiased) variance move towards them by `momentum`.
    """
    C = job.C
    mean, m2, sums = array(job.mean, C, f64), array(job.m2, C, f64), array(job.sums, 2 * C, f64)
    repeats = 1 if job.moving else job.T
    n = job.count / repeats
    sum_up(job)
    for c in range(C):
        mean[c] = sums[c] / n
        m2[c] = abs(sums[C + c] - n * mean[c] * mean[c]) * repeats  # (rounding may bring a zero below it)
    if job.running_mean:
        running_mean, running_var = array(job.running_mean, C, f32), array(job.running_var, C, f32)
        for c in range(C):
            running_mean[c] += job.momentum * (mean[c] - running_mean[c])
            running_var[c] += job.momentum * (m2[c] / (job.count - 1) - running_var[c])


@cache
def moments(element: type) -> Kernel:
    """Mean and sum of squared deviations `[C]` of x `[T or 1, N]`."""

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        me = job.scratch + enter(address) * job.room
        N, C, w, inner, span, per, anew = job.N, job.C, job.width, job.inner, job.span, job.per, job.anew
        steps = job.T if job.moving else 1
        x = array(job.x, steps * N, element)
        sums = array(job.sums, job.pieces * 2 * C, f64)
        a, b = array(me, w, f64), array(me + 2 * job.pitch, w, f64)
        assign(a, f32(0))
        assign(b, f32(0))
        blocks = N // span * per
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return
            first, end = share(piece, job.pieces, blocks)
            sum_x, sum_xx = row(sums, 2 * C * piece, C), row(sums, 2 * C * piece + C, C)
            assign(sum_x, f32(0))
            assign(sum_xx, f32(0))
            for t in range(steps):
                for k in range(first, end):
                    lo, n = block(k, w, span, per)
                    prefetch(x, t * N + lo + n, least(w, N - lo - n))
                    squares(row(x, t * N + lo, n), a, b)
                    if anew:
                        collect(sum_x, row(a, 0, n), inner, anew, lo)
                        collect(sum_xx, row(b, 0, n), inner, anew, lo)
            if not anew:
                collect(sum_x, a, inner, anew, i64(0))
                collect(sum_xx, b, inner, anew, i64(0))
            if finish(address) == job.pieces - 1:
                _settle(job)

    return Kernel(body, element.__name__)


@cache
def norm_backward(element: type) -> Kernel:
    """Gradient gx `[T, N]` of the norm's input x `[T or 1, N]` from that of its output, gy; they may be one memory.

    With y = weight (x - mean) / std + bias, g the gradient of y, and averages over the `count` values of a channel,
    dL/dx = weight / std (g - avg(g) - (x - mean) / std^2 avg(g (x - mean)))    (Ioffe and Szegedy 2015),
    where `sums`, as `backward` left them, give the averages. With count 0, mean and std are constants:
    weight / std g.
    """

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        me = job.scratch + enter(address) * job.room
        T, N, C, w, inner, span, per = job.T, job.N, job.C, job.width, job.inner, job.span, job.per
        P, Q, anew = job.pitch, job.channel_pitch, job.anew
        step = N if job.moving else 0
        x = array(job.x, T * N, element)
        gy, gx = array(job.gy, T * N, element), array(job.gx, T * N, element)
        weight, sums = array(job.weight, C, f32), array(job.sums, 2 * C, f64)
        mean = array(job.mean, C, f64)
        portion = 1 / job.count if job.count > 0 else 0.0
        scale, factor = array(me + ROWS * P, C, f32), array(me + ROWS * P + Q, C, f32)
        offset, offsets = array(me + ROWS * P + 2 * Q, C, f32), array(me + 2 * P, w, f32)
        scales, factors, scratch = array(me, w, f32), array(me + P, w, f32), array(me + 3 * P, w, element)
        for c in range(C):
            var = variance(job, c) + job.eps
            a = weight[c] / np.sqrt(var)
            b = -a * portion * sums[C + c] / var
            scale[c], factor[c], offset[c] = a, b, -a * portion * sums[c] - b * mean[c]
        if not anew:
            fill(scales, scale, inner, anew, i64(0))
            fill(factors, factor, inner, anew, i64(0))
            fill(offsets, offset, inner, anew, i64(0))
        blocks = N // span * per
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            for t in range(T):
                for k in range(first, end):
                    lo, n = block(k, w, span, per)
                    if anew:
                        fill(row(scales, 0, n), scale, inner, anew, lo)
                        fill(row(factors, 0, n), factor, inner, anew, lo)
                        fill(row(offsets, 0, n), offset, inner, anew, lo)
                    start, ahead = t * N + lo, least(w, N - lo - n)
                    prefetch(x, t * step + lo + n, ahead)
                    prefetch(gy, start + n, ahead)
                    target = row(gx, start, n)
                    if job.gx != job.gy:
                        target = row(scratch, 0, n)
                        copy(row(gy, start, n), target)
                    combine(target, row(x, t * step + lo, n), scales, factors, offsets)
                    if job.gx != job.gy:
                        stream(target, gx, start, n)
            finish(address)

    return Kernel(body, element.__name__)
