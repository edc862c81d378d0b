"""The arithmetic of the kernels: each function is one flat loop over at most five arrays, which LLVM vectorises.

Potentials are computed without fused multiply-add, so that spikes equal those of `reference.py` bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rheobase.kernels.jit import Array, exact, f32, f64, fast, i32, u32

SUPERSPIKE, ATAN, SIGMOID, TRIANGLE, RECTANGLE, GAUSSIAN = range(6)  # as in surrogate.KINDS


@exact
def charge(x: Array, scale: Array, shift: Array, v: Array, u: Array, decay: Any, threshold: Any, soft: Any) -> None:
    """u = decay v + (scale x + shift); v = u after its reset."""
    for i in range(x.size):
        p = decay * v[i] + (x[i] * scale[i] + shift[i])
        u[i] = p
        v[i] = soft * (p - threshold) if p >= threshold else p


@exact
def fire(x: Array, scale: Array, shift: Array, v: Array, s: Array, decay: Any, threshold: Any, soft: Any) -> None:
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
def surrogate(u: Array, h: Array, kind: int, threshold: Any, a: Any, height: Any) -> None:
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
def descend(g: Array, u: Array, h: Array, gv: Array, decay: Any, cut: Any) -> None:
    """h becomes the gradient of u, gv that of the state before; reset detached. Hard: nothing passes a spike."""
    for i in range(g.size):
        q = g[i] * h[i] + (f32(0) if u[i] >= cut else gv[i])
        h[i] = q
        gv[i] = decay * q


@fast
def descend_full(g: Array, u: Array, h: Array, gv: Array, decay: Any, cut: Any, threshold: Any, soft: Any) -> None:
    """The same with the gradient through the reset: -threshold h (soft) or -u h (hard)."""
    for i in range(g.size):
        r = soft * threshold + (f32(1) - soft) * u[i]
        q = g[i] * h[i] + ((f32(0) if u[i] >= cut else gv[i]) - gv[i] * r * h[i])
        h[i] = q
        gv[i] = decay * q


@exact
def assign(row: Array, value: Any) -> None:
    """Row = value. (A loop, here and below: it compiles ten times faster than a slice assignment.)"""
    for i in range(row.size):
        row[i] = value


@exact
def copy(source: Array, row: Array) -> None:
    """Row = source."""
    for i in range(row.size):
        row[i] = source[i]


@fast
def multiply(q: Array, scale: Array) -> None:
    """Q *= scale."""
    for i in range(q.size):
        q[i] *= scale[i]


@fast
def add(total: Array, q: Array) -> None:
    """Total += q."""
    for i in range(q.size):
        total[i] += q[i]


@fast
def accumulate(q: Array, x: Array, mean: Array, a: Array, b: Array) -> None:
    """a += q; b += q (x - mean)."""
    for i in range(q.size):
        a[i] += q[i]
        b[i] += q[i] * (x[i] - mean[i])


@fast
def squares(x: Array, a: Array, b: Array) -> None:
    """a += x; b += x^2, in float64, so that a large mean does not eat the variance."""
    for i in range(x.size):
        y = f64(x[i])
        a[i] += y
        b[i] += y * y


@fast
def combine(q: Array, x: Array, k1: Array, k2: Array, k3: Array) -> None:
    """q = k1 q + k2 x + k3."""
    for i in range(q.size):
        q[i] = k1[i] * q[i] + (k2[i] * x[i] + k3[i])
