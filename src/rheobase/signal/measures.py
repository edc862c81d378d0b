"""What can be read from a layer: pure functions of what went up and what came down. Sums are float64."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = torch.finfo(torch.float64).tiny


def norm(x: Tensor) -> float:
    """L2 norm of all of it."""
    return float(x.double().square().sum().sqrt())


def agreement(a: Tensor, b: Tensor) -> float | None:
    """Cosine between two gradients of the same thing; None where one is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    size = a.norm() * b.norm()
    return float((a @ b) / size) if size > 0 else None


def rates(spikes: Tensor) -> Tensor:
    """Mean over time, float64 `[B, N]`, of spikes `[T, B, ...]`."""
    return spikes.mean(0, dtype=torch.float64).flatten(1)


def gram(features: Tensor) -> Tensor:
    """Inner products `[B, B]` of features `[B, N]` about their mean over the batch."""
    centred = features - features.mean(0)
    return centred @ centred.T


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
    """Mean cosine between two views `[B, N]` of the same samples, about their common mean."""
    middle = (features.mean(0) + others.mean(0)) / 2
    a, b = features - middle, others - middle
    size = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=_SMALL)
    return float(((a * b).sum(1) / size).mean())


def told_apart(products: Tensor, labels: Tensor, ridge: float = 0.1) -> float:
    """Accuracy of a linear reader of a layer, each sample left out in turn (ridge regression in closed form).

    With H = K (K + l I)^-1, K inner products `[B, B]` about the mean, Y the labels, what sample i gets from the others
    is (H Y - H_ii Y_i) / (1 - H_ii); l is `ridge` times the mean of K's diagonal.
    """
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


def in_window(distance: Tensor, surrogate: object) -> float:
    """Share of potentials, as distance u - threshold, at which the surrogate is at least half as high as its peak."""
    h = surrogate.derivative(distance)  # type: ignore[attr-defined]
    peak = surrogate.derivative(torch.zeros_like(distance[:1]))  # type: ignore[attr-defined]
    return float((2 * h >= peak).double().mean())


def share_silent(spikes: Tensor) -> float:
    """Share of neurons that fire at no step of any sample."""
    return float((spikes.flatten(0, 1).amax(0) == 0).double().mean())


def share_always(spikes: Tensor) -> float:
    """Share of neurons that fire at every step of every sample."""
    return float((spikes.flatten(0, 1).amin(0) > 0).double().mean())
