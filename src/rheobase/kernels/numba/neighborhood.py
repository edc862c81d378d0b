"""The backward pass of `rules/neighborhood.py`: all neighbours of a block of neurons, while it is in cache."""

# ruff: noqa: N806  (T, N and C are the axes, as everywhere)

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from rheobase.kernels.layout import aligned, empty_like
from rheobase.kernels.numba import threads
from rheobase.kernels.numba.blocks import block, share
from rheobase.kernels.numba.elements import at, put, wide
from rheobase.kernels.numba.intrinsics import array, enter, fence, finish, row, stream, take
from rheobase.kernels.numba.jit import ELEMENTS, Array, Kernel, exact, f32, u32
from rheobase.kernels.numba.rows import NONE, RESETS, assign, charge, settled, spike
from rheobase.kernels.numba.scratch import numbers, read, refill
from rheobase.kernels.numba.tasks import neurons, numbers_of
from rheobase.kernels.numba.walk import ROWS, walk
from rheobase.kernels.ops import Inputs, laid
from rheobase.kernels.spec import How


@exact
def _turn(g: Array, us: Array, v: Array, extra: Array, delta: Array, reset: int, threshold: Any) -> None:
    """What a neighbour does at its own step, and what is left of its potential there."""
    for i in range(g.size):
        bar = at(threshold, i)
        change = f32(1) - f32(2) * spike(us[i], bar)
        extra[i] = change
        delta[i] = wide(g[i]) * change
        below = u32(f32(bar).view(u32) - u32(1)).view(f32)  # the largest potential without a spike
        v[i] = below if us[i] >= bar else (bar if reset == NONE else f32(0))


@exact
def _follow(
    g: Array, us: Array, ys: Array, v: Array, extra: Array, delta: Array, reset: int, twice: bool,
    decay: Any, threshold: Any, input_scale: Any, leak: Any,
) -> None:  # fmt: skip
    """A step after it."""
    for i in range(g.size):
        bar = at(threshold, i)
        u = at(decay, i) * v[i] + at(input_scale, i) * ys[i]
        change = (f32(1) if u >= bar else f32(0)) - spike(us[i], bar)
        if twice:
            change = at(leak, i) * extra[i] + change
            extra[i] = change
        delta[i] += wide(g[i]) * change
        v[i] = settled(u, u >= bar, bar, reset)


@exact
def _divide(
    us: Array, delta: Array, w: Array, gy: Array, cuba: bool, power: int, clip: Any, threshold: Any, input_scale: Any,
    leak: Any,
) -> None:  # fmt: skip
    """Over the distance, and through the synapse: w is the gradient of its current a step later."""
    for i in range(us.size):
        far = abs(at(threshold, i) - us[i])
        over = far
        for _ in range(power - 1):
            over = over * far
        factor = f32(1) / over
        factor = clip if factor > clip else factor
        q = delta[i] * (f32(1) - f32(2) * spike(us[i], at(threshold, i))) * factor * at(input_scale, i)
        if cuba:
            q = q + w[i]
            w[i] = at(leak, i) * q
        put(gy, i, q)


@cache
def _kernel(element: type, reset: int, cuba: bool, rows: bool, power: int, twice: bool) -> Kernel:
    """The gradient `gy [T, N]` of inputs `x [T or 1, N]` from that of spikes, `g [T, N]`."""
    by_rows = (1,) if rows else ()

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        me = job.scratch + enter(address) * job.room
        T, N, w, span, per, P = job.T, job.N, job.width, job.span, job.per, job.pitch
        step = N if job.moving else 0  # from an input to the next
        x, g, gy = array(job.x, T * N, element), array(job.g, T * N, element), array(job.gy, T * N, element)
        ones, zeros, nothing = array(me, w, f32), array(me + P, w, f32), array(me + 2 * P, w, element)
        assign(ones, f32(1))
        assign(zeros, f32(0))
        assign(nothing, f32(0))
        clip, new_gy = f32(job.clip), array(me + 6 * P, w, element)
        us, ys, ds = me + ROWS * P, me + (ROWS + T) * P, me + (ROWS + 2 * T) * P
        p = numbers(job, me, by_rows)
        blocks = N // span * per
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            for k in range(first, end):
                lo, n = block(k, w, span, per)
                refill(job, p, lo, n)
                v, o = array(me + 3 * P, n, f32), array(me + 4 * P, n, f32)
                before, extra = array(me + 5 * P, n, f32), array(me + 7 * P, n, f32)
                read(job.state, lo, v)
                if cuba:
                    read(job.other, lo, o)
                for t in range(T):
                    charge(
                        row(x, t * step + lo, n), row(nothing, 0, n), ones, zeros, v, o, array(us + t * P, n, f32),
                        before, before, array(ys + t * P, n, f32), reset, cuba, False, False, True,
                        p[0], p[1], p[2], p[3], p[4],
                    )  # fmt: skip
                for t in range(T):
                    delta = array(ds + t * P, n, f32)
                    _turn(row(g, t * N + lo, n), array(us + t * P, n, f32), v, extra, delta, reset, p[1])
                    for later in range(t + 1, T):
                        _follow(
                            row(g, later * N + lo, n), array(us + later * P, n, f32), array(ys + later * P, n, f32),
                            v, extra, delta, reset, twice, p[0], p[1], p[2], p[3],
                        )  # fmt: skip
                assign(o, f32(0))
                for t in range(T - 1, -1, -1):
                    q = row(new_gy, 0, n) if job.large else row(gy, t * N + lo, n)
                    _divide(
                        array(us + t * P, n, f32), array(ds + t * P, n, f32), o, q, cuba, power, clip, p[1], p[2], p[3]
                    )
                    if job.large:
                        stream(q, gy, t * N + lo, n)
            finish(address)

    return Kernel(body, element.__name__, reset, cuba, rows, power, twice)


def backward(given: Inputs, how: How, grad: Tensor, power: int, clip: float, twice: bool) -> Tensor:
    """The gradient of the currents, from that of spikes."""
    given = laid(given)
    x = given.currents
    found = empty_like(x)
    if not x.numel():
        return found
    of_neurons = numbers_of(given, x)
    shape = walk(x, of_neurons.channels, of_neurons.neurons, 3)
    work = neurons(given, how, of_neurons, shape, g=aligned(grad, x), gy=found)
    work.clip = clip
    rows = of_neurons.channels or of_neurons.neurons
    threads.run(_kernel(ELEMENTS[x.dtype], RESETS.index(how.reset), how.kind == "CubaLIF", rows, power, twice), work)
    return found
