"""How the values of a layer's activations are distributed over a calibration set."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rheobase.graph.layers import Flow, Graph, Step

BINS = 2**16


class Distribution:
    """A histogram of positive values, in equal bins from zero to the largest.

    What is read from it is right to within a bin, the largest value over 65,536.

    Args:
        largest: an upper bound of the values.
    """

    def __init__(self, largest: float) -> None:
        self.largest = largest
        self.counts = torch.zeros(BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count the positive ones."""
        if self.largest > 0:
            positive = values.detach()[values > 0]
            places = (positive.double() * (BINS / self.largest)).long().clamp_(max=BINS - 1)
            self.counts += torch.bincount(places, minlength=BINS).cpu()

    def percentile(self, percent: float) -> float:
        """The value that this share of the positive values is at or below; 0 where there is none."""
        total = self.counts.sum().item()
        if not total or percent == 100:
            return self.largest if total else 0.0
        place = int(torch.searchsorted(self.counts.cumsum(0), percent / 100 * total))
        return (place + 1) * self.largest / BINS

    def fitted(self, steps: int, grid: int) -> float:
        """The threshold V of which V/T floor(clip(a T/V, 0, T)) is nearest to the values a, in mean square.

        Args:
            steps: T.
            grid: how many V are tried, in hundredths of the largest value downwards.
        """
        used = self.counts.nonzero()[:, 0]
        counts, values = self.counts[used].double(), (used.double() + 0.5) * self.largest / BINS
        best, least = 0.0, float("inf")
        for i in range(grid if len(used) else 0):
            v = self.largest * (1 - 0.01 * i)
            error = float((counts * (values - v / steps * (values * steps / v).clamp(0, steps).floor()).square()).sum())
            if error < least:
                best, least = v, error
        return best


@torch.no_grad()
def distributions(graph: Graph, images: Iterable[Tensor]) -> dict[str, Distribution]:
    """Of the outputs of all activations of folded layers; two passes over the images.

    Raises:
        ValueError: one is not finite.
    """
    flow, names = ann(graph), {one.name for one in graph.of("activation")}
    images = list(images)
    largest = dict.fromkeys(names, 0.0)

    def maximum(name: str, value: Tensor) -> None:
        if name in names:
            if not value.isfinite().all():
                raise ValueError(f"convert: {graph[name]} gives values that are not finite on the images")
            largest[name] = max(largest[name], value.max().item())

    for batch in images:
        flow(batch, maximum)
    found = {name: Distribution(value) for name, value in largest.items()}

    def count(name: str, value: Tensor) -> None:
        if name in names:
            found[name].add(value)

    for batch in images:
        flow(batch, count)
    return found


def ann(graph: Graph, output: str | None = None) -> Flow:
    """Folded layers as a network from `[B, ...]` to `[B, ...]`, up to the layer of that name."""
    needed = {output or graph.output}
    steps = []
    for layer in reversed(graph.layers):
        if layer.name in needed:
            needed.update(layer.inputs)
            steps.append(Step(layer.name, layer.module, layer.inputs))
    return Flow(steps[::-1], output or graph.output)
