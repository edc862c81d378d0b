"""The backward pass of `rules/spike_train.py`: two walks over the trains, one for the errors and one back in time."""

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
from rheobase.kernels.numba.jit import ELEMENTS, Array, Kernel, exact, f32
from rheobase.kernels.numba.rows import assign
from rheobase.kernels.numba.scratch import numbers, read, refill
from rheobase.kernels.numba.tasks import neurons, numbers_of
from rheobase.kernels.numba.walk import walk
from rheobase.kernels.ops import Inputs, laid
from rheobase.kernels.spec import How


@exact
def _told(s: Array, g: Array, told: Array) -> None:
    """The gradient of the spikes that there are."""
    for i in range(s.size):
        told[i] += wide(s[i]) * wide(g[i])


@exact
def _weigh(told: Array, weight: Array) -> None:
    """The product; a negative weight stands for its size, and takes what is told only where that is positive."""
    for i in range(told.size):
        product = weight[i] * told[i]
        weight[i] = (f32(0) if product > f32(0) else -product) if weight[i] < f32(0) else product


@exact
def _back(
    s: Array, weight: Array, p: Array, b: Array, gy: Array, cuba: bool, decay: Any, input_scale: Any, leak: Any
) -> None:
    """A step back in time: b as in `responses`."""
    for i in range(s.size):
        spike = wide(s[i])
        p[i] = spike + (f32(1) - spike) * (at(decay, i) * p[i])
        b[i] = (at(leak, i) * b[i] if cuba else f32(0)) + at(input_scale, i) * p[i]
        put(gy, i, weight[i] * b[i])


@cache
def _kernel(element: type, cuba: bool, rows: bool, summed: bool) -> Kernel:
    """`gy [T, N]` = weight b, and with `summed` times sum_t g s, of trains `x [T, N]` and `g [T, N]`."""
    by_rows = (1,) if rows else ()

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        me = job.scratch + enter(address) * job.room
        T, N, w, span, per, P = job.T, job.N, job.width, job.span, job.per, job.pitch
        s, gy = array(job.x, T * N, element), array(job.gy, T * N, element)
        g = array(job.g if summed else job.x, T * N, element)
        new_gy = array(me + 4 * P, w, element)
        numbered = numbers(job, me, by_rows)
        blocks = N // span * per
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, blocks)
            for k in range(first, end):
                lo, n = block(k, w, span, per)
                refill(job, numbered, lo, n)
                weight, told = array(me, n, f32), array(me + P, n, f32)
                p, b = array(me + 2 * P, n, f32), array(me + 3 * P, n, f32)
                read(job.state, lo, weight)
                if summed:
                    assign(told, f32(0))
                    for t in range(T):
                        _told(row(s, t * N + lo, n), row(g, t * N + lo, n), told)
                    _weigh(told, weight)
                assign(p, f32(0))
                assign(b, f32(0))
                for t in range(T - 1, -1, -1):
                    to = row(new_gy, 0, n) if job.large else row(gy, t * N + lo, n)
                    _back(row(s, t * N + lo, n), weight, p, b, to, cuba, numbered[0], numbered[2], numbered[3])
                    if job.large:
                        stream(to, gy, t * N + lo, n)
            finish(address)

    return Kernel(body, element.__name__, cuba, rows, summed)


def backward(given: Inputs, how: How, weight: Tensor, grad: Tensor | None = None) -> Tensor:
    """The responses b of trains, `given.currents`, times a weight of each neuron `[B, ...]`.

    And times the sum over time of the gradient where there is a spike, if it is given.
    """
    given = laid(given._replace(state=weight))
    x = given.currents
    found = empty_like(x)
    if not x.numel():
        return found
    of_neurons = numbers_of(given, x)
    shape = walk(x, of_neurons.channels, of_neurons.neurons)
    work = neurons(given, how, of_neurons, shape, g=None if grad is None else aligned(grad, x), gy=found)
    rows = of_neurons.channels or of_neurons.neurons
    threads.run(_kernel(ELEMENTS[x.dtype], how.kind == "CubaLIF", rows, grad is not None), work)
    return found
