"""The arithmetic of the kernels: each function is one flat loop over rows in cache, which LLVM vectorises.

Potentials are computed without fused multiply-add, so that spikes equal those of `reference.py` bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rheobase.kernels.numba.elements import at, kept, mark, put, wide
from rheobase.kernels.numba.jit import Array, exact, f32, f64, fast, i32, u32

SURROGATES = ("SuperSpike", "ATan", "Sigmoid", "Triangle", "Rectangle", "Gaussian")  # by their place here
RESETS = ("soft", "hard", "none", "delayed")
SUPERSPIKE, ATAN, SIGMOID, TRIANGLE, RECTANGLE, GAUSSIAN = range(6)
SOFT, HARD, NONE, DELAYED = range(4)


@exact
def _drive(x: Any, more: Any, scale: Any, shift: Any) -> Any:
    """(scale x + shift) + more."""
    return (wide(x) * scale + shift) + wide(more)


@exact
def _potential(y: Any, v: Any, decay: Any, threshold: Any, input_scale: Any, reset: int) -> Any:
    u = decay * v + input_scale * y
    if reset == DELAYED:
        u = u - (threshold if v >= threshold else f32(0))
    return u


@exact
def settled(u: Any, fired: bool, threshold: Any, reset: int) -> Any:
    """What the reset leaves of the potential."""
    if reset == SOFT:
        return u - threshold if fired else u
    if reset == HARD:
        return u * f32(0) if fired else u
    return u


@exact
def spike(u: Any, bar: Any) -> Any:
    """1 or 0; not a number where it cannot be told."""
    return f32(1) if u >= bar else (f32(0) if u < bar else u - bar)


@exact
def fire(
    x: Array, more: Array, scale: Array, shift: Array, skip: Array, v: Array, w: Array, drive: Array, s: Array,
    reset: int, cuba: bool, adaptive: bool, alone: bool, decay: Any, threshold: Any, input_scale: Any, leak: Any,
    adaptation: Any,
) -> None:  # fmt: skip
    """One step up: drive = y = (scale x + shift) + more; s = the spikes of y, plus skip; v and w move on.

    With `alone` there is no skip, and no drive is kept. See `reference.py`; w is the synapse's current (`cuba`) or the
    adaptation (`adaptive`).
    """
    for i in range(x.size):
        y = kept(x, _drive(x[i], more[i], scale[i], shift[i]))  # as it would lie in memory
        if not alone:
            put(drive, i, y)
        if cuba:
            y = at(leak, i) * w[i] + y
            w[i] = y
        u = _potential(y, v[i], at(decay, i), at(threshold, i), at(input_scale, i), reset)
        bar = at(threshold, i)
        if adaptive:
            bar = bar + at(adaptation, i) * w[i]
            w[i] = at(leak, i) * w[i] + spike(u, bar)
        if alone:
            mark(s, i, u, bar)
        else:
            put(s, i, spike(u, bar) + wide(skip[i]))
        v[i] = settled(u, u >= bar, at(threshold, i), reset)


@exact
def charge(
    x: Array, more: Array, scale: Array, shift: Array, v: Array, w: Array, us: Array, ws: Array, vs: Array,
    ys: Array, reset: int, cuba: bool, adaptive: bool, keep_v: bool, keep_y: bool, decay: Any, threshold: Any,
    input_scale: Any, leak: Any, adaptation: Any,
) -> None:  # fmt: skip
    """The same without spikes, for the backward pass: potentials us; ws, vs: the states before; ys: what was scaled."""
    for i in range(x.size):
        y = kept(x, _drive(x[i], more[i], scale[i], shift[i]))
        if cuba or adaptive:
            ws[i] = w[i]
        if keep_v:
            vs[i] = v[i]
        if cuba:
            y = at(leak, i) * w[i] + y
            w[i] = y
        if keep_y:
            ys[i] = y
        u = _potential(y, v[i], at(decay, i), at(threshold, i), at(input_scale, i), reset)
        bar = at(threshold, i)
        if adaptive:
            bar = bar + at(adaptation, i) * w[i]
            w[i] = at(leak, i) * w[i] + (f32(1) if u >= bar else f32(0))
        us[i] = u
        v[i] = settled(u, u >= bar, at(threshold, i), reset)


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
    g: Array, more: Array, x: Array, us: Array, ws: Array, vs: Array, ys: Array, gv: Array, gw: Array, gr: Array,
    gy: Array, mean: Array, sum_y: Array, sum_yx: Array, sum_decay: Array, sum_threshold: Array, sum_scale: Array,
    sum_leak: Array, sum_adaptation: Array, kind: int, reset: int, cuba: bool, adaptive: bool, detach: bool,
    normed: bool, learn_decay: bool, learn_threshold: bool, learn_scale: bool, learn_leak: bool,
    learn_adaptation: bool, decay: Any, threshold: Any, input_scale: Any, leak: Any, adaptation: Any, width: Any,
    height: Any,
) -> None:  # fmt: skip
    """One step down in time: gy = dL/dy + more; gv, gw and gr become the gradients of the states before.

    With h the surrogate derivative at u - bar, e the gradient of the spike and r the spike as the reset sees it,
    dL/du = e h + gv dv/du, where v is u after its reset. Unless the reset is detached, e has its part in it: -threshold
    gv (soft), -u gv (hard), or gr, the gradient of the reset that comes a step later (delayed).
    With `normed`: sum_y += gy, sum_yx += gy (x - mean). Each number that is learned has its sum too.
    """
    for i in range(g.size):
        bar = at(threshold, i)
        if adaptive:
            bar = bar + at(adaptation, i) * ws[i]
        h = derivative(us[i] - bar, kind, at(width, i), at(height, i))
        e = wide(g[i])
        if adaptive:
            e += gw[i]
        down = gv[i]
        if reset == HARD:
            down = gv[i] if us[i] < bar else f32(0)
        if not detach:
            if reset == SOFT:
                e -= at(threshold, i) * gv[i]
            if reset == HARD:
                e -= us[i] * gv[i]
            if reset == DELAYED:
                e += gr[i]
        q = e * h + down
        if learn_threshold:
            part = -e * h
            if reset == SOFT:
                part -= gv[i] if us[i] >= bar else f32(0)
            if reset == DELAYED:
                part -= q if vs[i] >= at(threshold, i) else f32(0)
            sum_threshold[i] += part
        if learn_decay:
            sum_decay[i] += q * vs[i]
        if learn_scale:
            sum_scale[i] += q * ys[i]
        y = q * at(input_scale, i)
        if cuba:
            y += gw[i]
            if learn_leak:
                sum_leak[i] += y * ws[i]
            gw[i] = at(leak, i) * y
        if adaptive:
            if learn_leak:
                sum_leak[i] += gw[i] * ws[i]
            if learn_adaptation:
                sum_adaptation[i] -= e * h * ws[i]
            gw[i] = at(leak, i) * gw[i] - e * h * at(adaptation, i)
        if reset == DELAYED:
            gr[i] = -at(threshold, i) * q
        gv[i] = at(decay, i) * q
        y += wide(more[i])
        put(gy, i, y)
        if normed:
            sum_y[i] += y
            sum_yx[i] += y * (wide(x[i]) - mean[i])


@fast
def settle(
    v: Array, gv: Array, gr: Array, sum_threshold: Array, kind: int, learn_threshold: bool, threshold: Any,
    width: Any, height: Any,
) -> None:  # fmt: skip
    """The state that a delayed reset began with: its own gradient through that reset."""
    for i in range(v.size):
        part = gr[i] * derivative(v[i] - at(threshold, i), kind, at(width, i), at(height, i))
        gv[i] += part
        if learn_threshold:
            sum_threshold[i] -= part


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


@fast
def add(sums: Array, q: Array) -> None:
    """Sums += q."""
    for i in range(q.size):
        sums[i] += q[i]


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
