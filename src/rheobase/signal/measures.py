"""What can be read from a layer: pure functions of what went up and what came down."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rheobase.padded import real_mean

_SMALL = 1e-30
_SMALLEST = 1e-37  # whose inverse is still a float32
_SQUARED = 1e-10  # from here on, and up to its inverse, squares that count are within float32
_ROW = 4096


def packed(x: Tensor, axis: int = 1, like: Tensor | None = None) -> Tensor:
    """The axes from one on as one, in the order of memory, so that it is a view where nothing lies between them.

    With another tensor of the same shape they come in the order of its memory: place by place they are the same then.
    """
    x, like = x.detach(), x if like is None else like
    inner = sorted(range(axis, x.dim()), key=like.stride, reverse=True)
    return x.permute(*range(axis), *inner).flatten(axis) if inner else x.unsqueeze(-1)


class Size(NamedTuple):
    """L2 norm, and the largest magnitude. Where that is not finite, or nothing, so is the norm."""

    norm: float
    most: float


def size(x: Tensor) -> Size:
    """Of all of it: float32 within rows of a few thousand, float64 over them.

    Where squares would leave what float32 holds, rows are scaled to a largest value of 1.
    """
    x = packed(x, 0)
    most = float(torch.stack(x.aminmax()).abs().amax()) if x.numel() else 0.0
    if not 0 < most < math.inf:
        return Size(most, most)
    if x.dtype is torch.float64:
        return Size(float(torch.linalg.vector_norm(x)), most)
    scale = 1.0
    if not _SQUARED < most < 1 / _SQUARED:
        scale, x = most, (x.float() * (1 / most) if most > _SMALLEST else x.double() / most)
    whole = len(x) // _ROW * _ROW
    rows = torch.linalg.vector_norm(x[:whole].float().view(-1, _ROW), dim=1).double()
    return Size(scale * float(torch.linalg.vector_norm(torch.cat([rows, x[whole:].double()]))), most)


def norm(x: Tensor) -> float:
    """L2 norm of all of it."""
    return size(x).norm


def some(x: Tensor, most: int = 1 << 14) -> Tensor:
    """Of `[T, ...]`, about so many places of each step, `[T, N]`, evenly over all axes.

    The step from one to the next has no factor in common with their number, so that it does not keep to some channels,
    rows or samples.
    """
    flat = packed(x)
    count = flat.shape[1]
    stride = max(1, -(-count // most))
    while math.gcd(stride, count) > 1:
        stride += 1
    return flat[:, ::stride]


def agreement(a: Tensor, b: Tensor) -> float | None:
    """Cosine between two gradients of the same thing; None where one is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    size = a.norm() * b.norm()
    return float((a @ b) / size) if size > 0 else None


def rates(spikes: Tensor, like: Tensor | None = None, real: Tensor | None = None) -> Tensor:
    """Mean over time, `[B, N]`, of spikes `[T, B, ...]`; at least float32. Their order is that of `packed`.

    With `real`, `[B]`, over so many steps of each sample; of steps that are others than those of the inputs, over all.
    """
    values = packed(spikes, 2, like).to(torch.promote_types(spikes.dtype, torch.float32))
    if real is None or real.shape != values.shape[1:2] or not 1 < int(real.max()) <= len(values):
        return values.mean(0)
    return real_mean(values, real, "rates")


def centred(features: Tensor) -> Tensor:
    """Features `[B, N]` about their mean over the batch; a sample of which only rounding is left becomes nothing."""
    about = features - features.mean(0)
    rounding = 8 * torch.finfo(features.dtype).eps * torch.stack(features.aminmax()).abs().amax()
    nothing = about.norm(dim=1) <= rounding * features.shape[1] ** 0.5
    return about.masked_fill_(nothing.unsqueeze(1), 0) if nothing.any() else about


def gram(about: Tensor) -> Tensor:
    """Inner products `[B, B]`, float64, of features that are centred."""
    return (about @ about.T).double()


def likeness(products: Tensor) -> Tensor:
    """Cosines `[B, B]` from inner products; 0 where a sample is the mean itself."""
    size = products.diagonal().clamp(min=0).sqrt()
    return products / (size.unsqueeze(0) * size.unsqueeze(1)).clamp(min=_SMALL)


def pairs(products: Tensor) -> Tensor:
    """Likeness of each pair of samples, from inner products `[B, B]`, about the mean over pairs."""
    rows, columns = torch.triu_indices(len(products), len(products), 1, device=products.device)
    found = likeness(products)[rows, columns]
    return found - found.mean()


def kept(above: Tensor, below: Tensor) -> float:
    """How much of the likeness between samples is left: correlation of the `pairs` of two layers.

    It is 0 where all samples look the same.
    """
    size = above.norm() * below.norm()
    return float((above @ below) / size) if size > _SMALL else 0.0


def alike(about: Tensor, others: Tensor) -> float:
    """Mean cosine between two views `[B, N]` of the same samples, both centred."""
    size = (about.norm(dim=1) * others.norm(dim=1)).clamp(min=_SMALL)
    return float(((about * others).sum(1) / size).mean())


def told_apart(products: Tensor, labels: Tensor, ridge: float = 0.1) -> float:
    """Accuracy of a linear reader of a layer, each sample left out in turn (ridge regression in closed form).

    With H = 1 / B + K (K + l I)^-1, K inner products `[B, B]` about the mean, Y the labels, what sample i gets from the
    others, by their own mean, is (H Y - H_ii Y_i) / (1 - H_ii); l is `ridge` times the mean of K's diagonal. It is read
    about the others' mean label, so that a class is not guessed for being frequent: of features that tell nothing the
    accuracy is one over the number of classes, however many features, and however many samples of each class there are.
    """
    labels = torch.unique(labels, return_inverse=True)[1]
    wanted = torch.nn.functional.one_hot(labels).double()
    size, count = products.diagonal().mean(), len(products)
    if not size > 0:
        return 1 / wanted.shape[1]
    eye = torch.eye(count, dtype=torch.float64, device=products.device)
    hat = torch.linalg.solve(products + ridge * size * eye, products) + 1 / count
    own = hat.diagonal().unsqueeze(1)
    left_out = (hat @ wanted - own * wanted) / (1 - own) - (wanted.sum(0) - wanted) / (count - 1)
    return float((left_out.argmax(1) == labels).double().mean())


def in_window(distance: Tensor, derivative: Callable[[Tensor], Tensor]) -> float:
    """Share of potentials, as distance u - threshold, at which the surrogate is at least half as high as its peak."""
    return float((2 * derivative(distance) >= derivative(torch.zeros_like(distance))).float().mean())
