"""The arithmetic of the kernels: each function is one flat loop over rows in cache, which LLVM vectorises.

Potentials are computed without fused multiply-add, so that spikes equal those of `reference.py` bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rheobase.kernels.bfloat16 import put, wide
from rheobase.kernels.jit import Array, exact, f32, f64, fast, i32, u8, u32

SUPERSPIKE, ATAN, SIGMOID, TRIANGLE, RECTANGLE, GAUSSIAN = range(6)  # as in surrogate.KINDS


@exact
def _drive(x: Any, more: Any, scale: Any, shift: Any) -> Any:
    """(scale x + shift) + more."""
    return (wide(x) * scale + shift) + wide(more)


@exact
def _reset(u: Any, threshold: Any, soft: Any) -> Any:
    return soft * (u - threshold) if u >= threshold else u


@exact
def charge(
    x: Array,
    more: Array,
    scale: Array,
    shift: Array,
    v: Array,
    u: Array,
    input_scale: Any,
    decay: Any,
    threshold: Any,
    soft: Any,
) -> None:
    """u = decay v + input_scale ((scale x + shift) + more); v = u after its reset."""
    for i in range(x.size):
        u[i] = decay * v[i] + input_scale * _drive(x[i], more[i], scale[i], shift[i])
        v[i] = _reset(u[i], threshold, soft)


@exact
def fire(
    x: Array,
    more: Array,
    scale: Array,
    shift: Array,
    drive: Array,
    skip: Array,
    v: Array,
    s: Array,
    input_scale: Any,
    decay: Any,
    threshold: Any,
    soft: Any,
    keep: bool,
) -> None:
    """The same, with the spikes plus skip instead of u; with `keep`, drive = (scale x + shift) + more is kept too."""
    for i in range(x.size):
        y = _drive(x[i], more[i], scale[i], shift[i])
        if keep:
            put(drive, i, y)
            y = wide(drive[i])  # as the backward pass will read it
        u = decay * v[i] + input_scale * y
        put(s, i, (f32(1) if u >= threshold else f32(0)) + wide(skip[i]))
        v[i] = _reset(u, threshold, soft)


@fast
def _exp(x: Any) -> Any:
    """e^x for x <= 0 to about 1e-7, in operations that vectorise (the library's exp does not)."""
    x = f32(-87) if x < f32(-87) else x  # (a NaN stays one)
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
def derivative(x: Any, kind: int, a: Any, height: Any) -> Any:
    """height h(x; a), for each shape of surrogate.py; called with a constant kind, of which the rest folds away."""
    if kind == SUPERSPIKE:
        d = f32(1) + a * abs(x)
        return height / (d * d)
    if kind == ATAN:
        d = f32(0.5 * math.pi) * a * x
        return f32(0.5) * a * height / (f32(1) + d * d)
    if kind == SIGMOID:
        e = _exp(-a * abs(x))
        d = f32(1) + e
        return height * a * e / (d * d)
    if kind == TRIANGLE:
        d = f32(1) - abs(x) / a
        return f32(0) if d < f32(0) else height * d
    if kind == RECTANGLE:
        return height / a if f32(2) * abs(x) < a else f32(0)
    d = x / a  # Gaussian
    return height / (a * f32(math.sqrt(2 * math.pi))) * _exp(f32(-0.5) * d * d)


@fast
def descend(
    g: Array,
    more: Array,
    u: Array,
    x: Array,
    gv: Array,
    gy: Array,
    mean: Array,
    sum_y: Array,
    sum_yx: Array,
    input_scale: Any,
    decay: Any,
    threshold: Any,
    a: Any,
    height: Any,
    kind: int,
    soft: bool,
    detach: bool,
    sums: bool,
) -> None:
    """One step down in time: q, the gradient of u; gv becomes that of the state before, gy is input_scale q + more.

    q = g h(u - threshold) + gv dv/du, where v is u after its reset. With the reset detached, dv/du is 1, or after a
    hard reset 0 where it fired; else -threshold h (soft) or -u h (hard) comes to it.
    With `sums`: sum_y += gy, sum_yx += gy (x - mean).
    """
    for i in range(g.size):
        h = derivative(u[i] - threshold, kind, a, height)
        down = gv[i] if soft or u[i] < threshold else f32(0)
        if not detach:
            down -= gv[i] * h * (threshold if soft else u[i])
        q = wide(g[i]) * h + down
        gv[i] = decay * q
        y = q * input_scale + wide(more[i])
        put(gy, i, y)
        if sums:
            sum_y[i] += y
            sum_yx[i] += y * (wide(x[i]) - mean[i])


@exact
def assign(row: Array, value: Any) -> None:
    """Row = value. (A loop, here and below: it compiles ten times faster than a slice assignment.)"""
    for i in range(row.size):
        row[i] = value


@exact
def copy(source: Array, row: Array) -> None:
    """Row = source, as it is."""
    for i in range(row.size):
        row[i] = source[i]


@exact
def narrow(source: Array, row: Array) -> None:
    """Row = source, float32."""
    for i in range(row.size):
        put(row, i, source[i])


@fast
def add(sums: Array, q: Array) -> None:
    """Sums += q."""
    for i in range(q.size):
        sums[i] += q[i]


@fast
def gather(total: Array, q: Array) -> None:
    """Total += q, as it lies in memory."""
    for i in range(q.size):
        total[i] += wide(q[i])


@fast
def total(q: Array) -> Any:
    """Sum of q, in float64."""
    found = f64(0)
    for i in range(q.size):
        found += f64(q[i])
    return found


@fast
def squares(x: Array, a: Array, b: Array) -> None:
    """a += x; b += x^2, in float64, so that a large mean does not eat the variance."""
    for i in range(x.size):
        y = f64(wide(x[i]))
        a[i] += y
        b[i] += y * y


@fast
def combine(g: Array, x: Array, a: Array, b: Array, c: Array) -> None:
    """G = a g + (b x + c)."""
    for i in range(g.size):
        put(g, i, a[i] * wide(g[i]) + (b[i] * wide(x[i]) + c[i]))


@exact
def pack(x: Array, y: Array) -> bool:
    """Y = x as bytes; whether that is exact."""
    wrong = 0
    for i in range(x.size):
        value = wide(x[i])
        low = value if value > f32(0) else f32(0)  # (of a NaN, 0: it is found wrong)
        byte = u8(low if low < f32(255) else f32(255))
        y[i] = byte
        wrong |= f32(byte) != value
    return wrong == 0


@exact
def unpack(x: Array, y: Array) -> None:
    """Y = x, bytes."""
    for i in range(x.size):
        put(y, i, f32(x[i]))
