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

from rheobase.kernels.blocks import block, collect, count, fill, share
from rheobase.kernels.intrinsics import array, fence, finish, least, prefetch, row, stream, take
from rheobase.kernels.jit import Array, Kernel, called, exact, f32, f64
from rheobase.kernels.rows import add, assign, charge, combine, copy, descend, fire, gather, narrow, squares


@exact
def _constants(job: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Decay, threshold, input scale, and the surrogate's parameter and height."""
    found = array(job.constants, 5, f32)
    return found[0], found[1], found[2], found[3], found[4]


@called
def _affine(job: Any, normed: bool, scale: Array, shift: Array) -> None:
    """The norm as scale and shift of what goes through it; 1 and 0 for none."""
    if normed:
        weight, bias = array(job.weight, job.C, f32), array(job.bias, job.C, f32)
        mean, var = array(job.mean, job.C, f64), array(job.var, job.C, f64)
        for c in range(job.C):
            k = weight[c] / np.sqrt(var[c] + job.eps)
            scale[c] = k
            shift[c] = bias[c] - mean[c] * k
    else:
        assign(scale, f32(1))
        assign(shift, f32(0))


@exact
def _read(address: int, start: int, v: Array) -> None:
    """V = a part of a state, or zeros where there is no state."""
    if address:
        copy(array(address + 4 * start, v.size, f32), v)
    else:
        assign(v, f32(0))


@exact
def _write(v: Array, address: int, start: int) -> None:
    if address:
        copy(v, array(address + 4 * start, v.size, f32))


@called
def _sum_up(job: Any) -> None:
    """The sums of the first piece become those of all."""
    size = 2 * job.C
    sums = array(job.sums, job.pieces * size, f64)
    for piece in range(1, job.pieces):
        add(row(sums, 0, size), row(sums, piece * size, size))


@called
def _norm_gradients(job: Any) -> None:
    """Gradients of the norm's weight and bias from the sums of `backward`, which become their total."""
    C = job.C
    sums, var = array(job.sums, 2 * C, f64), array(job.var, C, f64)
    g_weight, g_bias = array(job.g_weight, C, f32), array(job.g_bias, C, f32)
    _sum_up(job)
    for c in range(C):
        g_bias[c] = sums[c]
        g_weight[c] = sums[C + c] / np.sqrt(var[c] + job.eps)


@cache
def forward(element: type) -> Kernel:
    """Spikes `[T, N]` of inputs `x [T or 1, N]`; where wanted, the final state `[N]` and the drive `[T or 1, N]`.

    The drive, the neuron's current, is x after the norm, if there is one, plus the residual `[T or 1, N]`, if there is
    one. A skip `[T, N]` is added to the spikes.
    """

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        T, N, w, inner, plane = job.T, job.N, job.width, job.inner, job.plane
        step = N if job.moving else 0  # from an input to the next
        x, drive = array(job.x, T * N, element), array(job.drive, T * N, element)
        residual, skip = array(job.residual, T * N, element), array(job.skip, T * N, element)
        spikes, nothing = array(job.spikes, T * N, element), np.empty(w, element)
        decay, threshold, input_scale, _, _ = _constants(job)
        scale, shift = np.empty(job.C, f32), np.empty(job.C, f32)
        _affine(job, job.weight != 0, scale, shift)
        scales, shifts, potentials = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
        new_spikes, new_drive = np.empty(w, element), np.empty(w, element)
        assign(nothing, f32(0))
        if plane == 0:
            fill(scales, scale, inner, plane, plane)
            fill(shifts, shift, inner, plane, plane)
        blocks = count(N, w, plane)
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            for k in range(first, end):
                lo, n, p = block(k, N, w, plane)
                if plane:
                    fill(scales, scale, inner, plane, p)
                    fill(shifts, shift, inner, plane, p)
                v = row(potentials, 0, n)
                _read(job.state, lo, v)
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
                    if job.drive:
                        y = row(new_drive, 0, n) if job.large else row(drive, at, n)
                        fire(
                            row(x, at, n), more, scales, shifts, y, extra, v, s,
                            input_scale, decay, threshold, f32(job.soft), True,
                        )  # fmt: skip
                        if job.large:
                            stream(y, drive, at, n)
                    else:
                        fire(
                            row(x, at, n), more, scales, shifts, row(new_drive, 0, n), extra, v, s,
                            input_scale, decay, threshold, f32(job.soft), False,
                        )  # fmt: skip
                    if job.large:
                        stream(s, spikes, t * N + lo, n)
                _write(v, job.final, lo)

    return Kernel(body, element.__name__)


@cache
def backward(element: type, kind: int, soft: bool, detach: bool, sums: bool) -> Kernel:
    """Gradients of `forward`: of the drive into `gy [T or 1, N]`, of the state into `g_state [N]`.

    The drive is read where it was kept, else computed anew. `g_drive [T or 1, N]` is the gradient that it gets from
    elsewhere. With `sums`, the gradients of the norm's weight and bias too, and `sums [2, C]`, of gy and of
    gy (x - mean).
    """

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        T, N, C, w, inner, plane = job.T, job.N, job.C, job.width, job.inner, job.plane
        step = N if job.moving else 0  # from an input to the next
        x, gy = array(job.x, T * N, element), array(job.gy, T * N, element)
        g, g_drive = array(job.g, T * N, element), array(job.g_drive, T * N, element)
        drive = array(job.drive if job.drive else job.x, T * N, element)
        residual, nothing = array(job.residual, T * N, element), np.empty(w, element)
        decay, threshold, input_scale, a, height = _constants(job)
        scale, shift, mean = np.empty(C, f32), np.empty(C, f32), np.empty(C, f32)
        _affine(job, job.weight != 0 and job.drive == 0, scale, shift)
        if sums:
            copy(array(job.mean, C, f64), mean)
        scales, shifts, means = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
        sum_y, sum_yx = np.empty(w, f32), np.empty(w, f32)
        us, current, over_time = np.empty(T * w, f32), np.empty(w, f32), np.empty(w, f32)
        scratch = np.empty(w, element)
        assign(nothing, f32(0))
        assign(sum_y, f32(0))
        assign(sum_yx, f32(0))
        if plane == 0:
            fill(scales, scale, inner, plane, plane)
            fill(shifts, shift, inner, plane, plane)
            fill(means, mean, inner, plane, plane)
        blocks = count(N, w, plane)
        found = array(job.sums, job.pieces * 2 * C, f64)
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            found_y, found_yx = row(found, 2 * C * piece, C), row(found, 2 * C * piece + C, C)
            if sums:
                assign(found_y, f32(0))
                assign(found_yx, f32(0))
            for k in range(first, end):
                lo, n, p = block(k, N, w, plane)
                if plane:
                    fill(scales, scale, inner, plane, p)
                    fill(shifts, shift, inner, plane, p)
                    fill(means, mean, inner, plane, p)
                v, total = row(current, 0, n), row(over_time, 0, n)
                ahead = least(w, N - lo - n)
                _read(job.state, lo, v)
                for t in range(T):
                    prefetch(g, (T - 1 - t) * N + lo, n)
                    if job.g_drive:
                        prefetch(g_drive, (T - 1 - t) * step + lo, n)
                    if job.drive:
                        prefetch(x, (T - 1 - t) * step + lo, n)
                    more = row(nothing, 0, n)
                    if job.residual:
                        more = row(residual, t * job.residual_step + lo, n)
                        prefetch(residual, t * job.residual_step + lo + n, ahead)
                    charge(
                        row(drive, t * step + lo, n), more, scales, shifts, v, row(us, t * w, n),
                        input_scale, decay, threshold, f32(job.soft),
                    )  # fmt: skip
                _read(job.g_final, lo, v)
                assign(total, f32(0))
                for t in range(T - 1, -1, -1):
                    more = row(nothing, 0, n)
                    if job.g_drive and (step or t == 0):
                        more = row(g_drive, t * step + lo, n)
                    prefetch(drive, (T - 1 - t) * step + lo + n, ahead)
                    xs, gs, u = row(x, t * step + lo, n), row(g, t * N + lo, n), row(us, t * w, n)
                    q = row(scratch, 0, n) if job.large or not step else row(gy, t * N + lo, n)
                    descend(
                        gs, more, u, xs, v, q, means, sum_y, sum_yx,
                        input_scale, decay, threshold, a, height, kind, soft, detach, sums,
                    )  # fmt: skip
                    if not step:
                        gather(total, q)
                    elif job.large:
                        stream(q, gy, t * N + lo, n)
                if not step:
                    narrow(total, row(gy, lo, n))
                _write(v, job.g_state, lo)
                if sums and plane:
                    collect(found_y, row(sum_y, 0, n), inner, plane, p)
                    collect(found_yx, row(sum_yx, 0, n), inner, plane, p)
            if sums and plane == 0:
                collect(found_y, sum_y, inner, plane, plane)
                collect(found_yx, sum_yx, inner, plane, plane)
            if sums and finish(address) == job.pieces - 1:
                _norm_gradients(job)

    return Kernel(body, element.__name__, kind, soft, detach, sums)


@called
def _settle(job: Any) -> None:
    """Mean and variance of the `count` values of a channel from their sums.

    The running mean and (unbiased) variance move towards them by `momentum`.
    """
    C, n = job.C, job.count
    mean, var, sums = array(job.mean, C, f64), array(job.var, C, f64), array(job.sums, 2 * C, f64)
    running_mean, running_var = array(job.running_mean, C, f32), array(job.running_var, C, f32)
    _sum_up(job)
    for c in range(C):
        mean[c] = sums[c] / n
        var[c] = abs(sums[C + c] / n - mean[c] * mean[c])  # (rounding may bring a zero below it)
        running_mean[c] += job.momentum * (mean[c] - running_mean[c])
        running_var[c] += job.momentum * (var[c] * n / (n - 1) - running_var[c])


@cache
def moments(element: type) -> Kernel:
    """Mean and variance `[C]`, and running ones that follow them, of x `[T or 1, N]`."""

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        N, C, w, inner, plane = job.N, job.C, job.width, job.inner, job.plane
        steps = job.T if job.moving else 1
        x = array(job.x, steps * N, element)
        sums = array(job.sums, job.pieces * 2 * C, f64)
        a, b = np.empty(w, f64), np.empty(w, f64)
        assign(a, f32(0))
        assign(b, f32(0))
        blocks = count(N, w, plane)
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
                    lo, n, p = block(k, N, w, plane)
                    prefetch(x, t * N + lo + n, least(w, N - lo - n))
                    squares(row(x, t * N + lo, n), a, b)
                    if plane:
                        collect(sum_x, row(a, 0, n), inner, plane, p)
                        collect(sum_xx, row(b, 0, n), inner, plane, p)
            if plane == 0:
                collect(sum_x, a, inner, plane, plane)
                collect(sum_xx, b, inner, plane, plane)
            if finish(address) == job.pieces - 1:
                _settle(job)

    return Kernel(body, element.__name__)


@cache
def norm_backward(element: type) -> Kernel:
    """Gradient gx `[T or 1, N]` of the norm's input from that of its output, gy; they may be the same memory.

    With y = weight (x - mean) / std + bias, g the gradient of y, and averages over the `count` values of a channel,
    dL/dx = weight / std (g - avg(g) - (x - mean) / std^2 avg(g (x - mean)))    (Ioffe and Szegedy 2015),
    where `sums`, as `backward` left them, give the averages. Without batch statistics, mean and std are
    constants: weight / std g.
    """

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        N, C, w, inner, plane = job.N, job.C, job.width, job.inner, job.plane
        steps = job.T if job.moving else 1
        x = array(job.x, steps * N, element)
        gy, gx = array(job.gy, steps * N, element), array(job.gx, steps * N, element)
        weight, sums = array(job.weight, C, f32), array(job.sums, 2 * C, f64)
        mean, var = array(job.mean, C, f64), array(job.var, C, f64)
        portion = 1 / job.count if job.batch_statistics else 0.0
        scale, factor, offset = np.empty(C, f32), np.empty(C, f32), np.empty(C, f32)
        for c in range(C):
            a = weight[c] / np.sqrt(var[c] + job.eps)
            b = -a * portion * sums[C + c] / (var[c] + job.eps)
            scale[c], factor[c], offset[c] = a, b, -a * portion * sums[c] - b * mean[c]
        scales, factors, offsets = np.empty(w, f32), np.empty(w, f32), np.empty(w, f32)
        scratch = np.empty(w, element)
        if plane == 0:
            fill(scales, scale, inner, plane, plane)
            fill(factors, factor, inner, plane, plane)
            fill(offsets, offset, inner, plane, plane)
        blocks = count(N, w, plane)
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            for t in range(steps):
                for number in range(first, end):
                    lo, n, p = block(number, N, w, plane)
                    if plane:
                        fill(scales, scale, inner, plane, p)
                        fill(factors, factor, inner, plane, p)
                        fill(offsets, offset, inner, plane, p)
                    start, ahead = t * N + lo, least(w, N - lo - n)
                    prefetch(x, start + n, ahead)
                    prefetch(gy, start + n, ahead)
                    part = row(gx, start, n)
                    if job.gx != job.gy:
                        part = row(scratch, 0, n)
                        copy(row(gy, start, n), part)
                    combine(part, row(x, start, n), scales, factors, offsets)
                    if job.gx != job.gy:
                        stream(part, gx, start, n)

    return Kernel(body, element.__name__)
