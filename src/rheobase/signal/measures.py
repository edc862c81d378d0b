"""What can be read from a layer: pure functions of what went up and what came down."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_SMALL = 1e-30
_SMALLEST = 1e-37  # whose inverse is still a float32
_ROW = 4096


class Size(NamedTuple):
    """L2 norm, and the largest magnitude. Where that is not finite, or nothing, so is the norm."""

    norm: float
    most: float


def size(x: Tensor) -> Size:
    """Of all of it: float32 within rows of what is scaled to a largest value of 1, float64 over them."""
    x = x.detach().flatten()
    most = float(x.abs().amax()) if x.numel() else 0.0
    if not 0 < most < math.inf:
        return Size(most, most)
    if x.dtype is torch.float64:
        return Size(float(torch.linalg.vector_norm(x)), most)
    x = x.float() * (1 / most) if most > _SMALLEST else x.double() / most
    whole = len(x) // _ROW * _ROW
    rows = torch.linalg.vector_norm(x[:whole].view(-1, _ROW), dim=1).double()
    return Size(most * float(torch.linalg.vector_norm(torch.cat([rows, x[whole:].double()]))), most)


def norm(x: Tensor) -> float:
    """L2 norm of all of it."""
    return size(x).norm


def some(x: Tensor, most: int = 1 << 16) -> Tensor:
    """Of `[T, ...]`, so many places of each step, `[T, N]`."""
    flat = x.detach().flatten(1)
    return flat[:, :: -(-flat.shape[1] // most)]


def agreement(a: Tensor, b: Tensor) -> float | None:
    """Cosine between two gradients of the same thing; None where one is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    size = a.norm() * b.norm()
    return float((a @ b) / size) if size > 0 else None


def rates(spikes: Tensor) -> Tensor:
    """Mean over time, `[B, N]`, of spikes `[T, B, ...]`; at least float32."""
    return spikes.to(torch.promote_types(spikes.dtype, torch.float32)).mean(0).flatten(1)


def gram(features: Tensor) -> Tensor:
    """Inner products `[B, B]`, float64, of features `[B, N]` about their mean over the batch."""
    about = centred(features)
    return (about @ about.T).double()


def centred(features: Tensor) -> Tensor:
    """Features about their mean over the batch; nothing where all that is left is rounding."""
    found = features - features.mean(0)
    rounding = 8 * torch.finfo(features.dtype).eps * features.abs().amax()
    return found.masked_fill_(found.abs() <= rounding, 0)


def likeness(products: Tensor) -> Tensor:
    """Cosines `[B, B]` from inner products; 0 where a sample is the mean itself."""
    size = products.diagonal().clamp(min=0).sqrt()
    return products / (size.unsqueeze(0) * size.unsqueeze(1)).clamp(min=_SMALL)


def kept(above: Tensor, below: Tensor) -> float:
    """How much of the likeness between samples is left: correlation, over pairs, of the cosines of two layers.

    From inner products `[B, B]` above and below. It is 0 where all samples look the same.
    """
    pairs = torch.triu_indices(len(above), len(above), 1, device=above.device)
    a, b = (likeness(products)[pairs[0], pairs[1]] for products in (above, below))
    a, b = a - a.mean(), b - b.mean()
    size = a.norm() * b.norm()
    return float((a @ b) / size) if size > _SMALL else 0.0


def alike(features: Tensor, others: Tensor) -> float:
    """Mean cosine between two views `[B, N]` of the same samples, each about its mean over the batch."""
    a, b = centred(features), centred(others)
    size = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=_SMALL)
    return float(((a * b).sum(1) / size).mean())


def told_apart(products: Tensor, labels: Tensor, ridge: float = 0.1) -> float:
    """Accuracy of a linear reader of a layer, each sample left out in turn (ridge regression in closed form).

    With H = K (K + l I)^-1, K inner products `[B, B]` about the mean, Y the labels, what sample i gets from the others
    is (H Y - H_ii Y_i) / (1 - H_ii); l is `ridge` times the mean of K's diagonal.
    """
    labels = torch.unique(labels, return_inverse=True)[1]
    wanted = torch.nn.functional.one_hot(labels).double()
    wanted = wanted - wanted.mean(0)
    size = products.diagonal().mean()
    if not size > 0:
        return float((labels == labels.mode().values).double().mean())
    eye = torch.eye(len(products), dtype=torch.float64, device=products.device)
    hat = torch.linalg.solve(products + ridge * size * eye, products)
    own = hat.diagonal().unsqueeze(1)
    left_out = (hat @ wanted - own * wanted) / (1 - own)
    return float((left_out.argmax(1) == labels).double().mean())


def in_window(distance: Tensor, derivative: Callable[[Tensor], Tensor]) -> float:
    """Share of potentials, as distance u - threshold, at which the surrogate is at least half as high as its peak."""
    return float((2 * derivative(distance) >= derivative(torch.zeros_like(distance))).float().mean())
