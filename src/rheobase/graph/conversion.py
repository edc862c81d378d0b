"""From a trained network of torch to a spiking one that computes the same in time, without training."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rheobase.graph.building import build
from rheobase.graph.distribution import ann as as_network
from rheobase.graph.folding import folded
from rheobase.graph.layers import Graph, table
from rheobase.graph.methods import Method, method_of
from rheobase.graph.net import Became, GraphNet, input_of
from rheobase.graph.qcfs import continuous
from rheobase.graph.reader import read
from rheobase.graph.simulation import Counts, stream
from rheobase.kernels.spec import HALF
from rheobase.models import Net
from rheobase.modes import in_mode
from rheobase.neurons import Neuron
from rheobase.padded import real_mean


class Converted(NamedTuple):
    """What became of an activation.

    Attributes:
        name: its name.
        threshold: of its neurons: the activation that a spike stands for.
        rate: spikes of a neuron and step, on average.
        error: |spikes' mean in time - activations| / |activations|, L2 norms, on the calibration images after T steps
            (nan where nothing is active).
    """

    name: str
    threshold: float
    rate: float
    error: float


class ConvertedNet(GraphNet):
    """A spiking net that `convert` made.

    Attributes:
        method: how.
        layers: what became of each activation.
    """

    method: Method
    layers: list[Converted]

    @property
    def report(self) -> str:
        """What became of each layer, and how far each activation is from the network's, as tables."""
        rows = [(one.name, f"{one.threshold:.4g}", f"{one.rate:.2%}", f"{one.error:.2%}") for one in self.layers]
        return f"{super().report}\n{table(('activations', 'threshold', 'rate', 'error'), rows)}"


def convert(
    ann: nn.Module, batches: Iterable[Any], method: str | Method = "percentile", steps: int = 32
) -> ConvertedNet:
    """A spiking net with the weights of a trained network, in evaluation mode.

    Batch norms are folded into weights, each activation becomes neurons (integrate-and-fire with a threshold; by
    "soft_lif" leaky ones, in seconds), sums and average pooling stay, maximum pooling is of spike counts, and the last
    layer's logits are left as they are: their mean over time (`rheobase.readout`) is its accumulated potential over T.
    `net.report` tells the error of each layer.

    Args:
        ann: what `rheobase.graph.read` understands, with ReLU or ReLU6 (`method="qcfs"`: with `QCFS`; "soft_lif": with
            `SoftLIF`).
        batches: images `[B, C, H, W]` as it was trained on (or tuples that begin with them, such as `rb.data.Batches`
            gives), some hundred in all: they are kept while it works. (Of sequences `[T, B, C, H, W]` the mean counts.)
        method: "percentile", "threshold_balancing", "calibrated", "qcfs" or "soft_lif"; or one of
            `rheobase.graph.Percentile`, `ThresholdBalancing`, `Calibrated`, `ClipFloorShift`, `SpikingTwin` with
            options of its own.
        steps: T for static images, and the T that "calibrated" is for.

    Returns:
        A `rheobase.models.Net` as `to_spiking` gives it.

    Raises:
        TypeError: no module, or no such method.
        ValueError: something in the network is not understood, or not by this method: the error names its path and
            line; or there are no batches.
        RuntimeError: what was read is not what the network computes.
    """
    chosen = method_of(method)
    if type(steps) is not int or steps < 1:
        raise ValueError(f"convert: steps must be a positive integer, got {steps!r}")
    graph = read(ann)
    _check(graph, chosen)
    like = next(ann.parameters(), torch.zeros(()))
    given = [
        (_images(batch).to(like.device, like.dtype), getattr(batch, "lengths", None)) for batch in _listed(batches)
    ]
    if not given:
        raise ValueError("convert: batches must have at least one batch of images to calibrate with")
    rank = input_of(graph)[1] or _rank(ann, given[0][0])
    images = [_static(batch, lengths, rank) for batch, lengths in given]
    whole, (graph, gone) = graph, folded(graph)
    logits = _compare(graph, ann, images[0])
    changed, choices = chosen.choose(graph, images, steps)
    built = build(changed, choices)
    net = ConvertedNet(
        graph, built.flow, steps, f"convert by {chosen}", _became(whole, changed, {**gone, **built.now})
    ).to(like.device)
    net.method = chosen
    if logits.dim() == 2 and net.rank != images[0].dim() - 1:  # (a first layer does not always tell)
        net.rank, net.in_channels = images[0].dim() - 1, None
    net.laid().eval().requires_grad_(False)
    net.layers = _errors(graph, net, choices.thresholds, images, steps)
    return net


def _became(whole: Graph, changed: Graph, now: dict[str, str]) -> list[Became]:
    """What became of the layers that were read, and the layers that are new."""
    rows = [Became(one.name, type(one.module).__name__, now[one.name]) for one in whole.layers]
    rows += [Became(one.name, type(one.module).__name__, "not used by the output: left out") for one in whole.unused]
    known = {one.name for one in whole.layers}
    return rows + [Became(one.name, "", f"{now[one.name]} (new)") for one in changed.layers if one.name not in known]


def _check(graph: Graph, method: Method) -> None:
    """Refuse activations that the method does not convert."""
    found = graph.of("activation")
    for layer in found:
        if not isinstance(layer.module, method.activations):
            names = " or ".join(one.__name__ for one in method.activations)
            raise ValueError(f"convert by {method.name!r} takes activations {names}, got {layer}")
    if not found:
        raise ValueError(f"convert: {graph.owner} has no activation that could become a neuron")


def _listed(batches: Any) -> Iterable[Any]:
    """The batches one by one, and no batch for many."""
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise TypeError(f"convert: batches must be several batches of images, got one {type(batches).__name__}")
    return batches


def _images(batch: Any) -> Tensor:
    """What a batch begins with."""
    images = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"convert: batches must begin with images of floating point, got {got}")
    if not images.numel() or not images.isfinite().all():
        what = "not finite" if images.numel() else "empty"
        raise ValueError(f"convert: batches must have finite images, got one that is {what}: {list(images.shape)}")
    return images


@torch.no_grad()
def _rank(ann: nn.Module, images: Tensor) -> int:
    """How many axes a sample has where no layer tells: what the network takes as it is are no sequences."""
    if images.dim() == 5:
        with suppress(Exception), in_mode(ann, training=False):
            if len(ann(images.clone())) == len(images):
                return 4
    return 3


def _static(images: Tensor, lengths: Tensor | None, rank: int) -> Tensor:
    """`[B, ...]`, each of so many axes; of sequences `[T, B, ...]` their means."""
    if images.dim() < (rank if rank > 1 else 3) + 2:  # (what begins with a linear layer may have any number of axes)
        return images
    return images.mean(0) if lengths is None else real_mean(images, lengths, "convert")


@torch.no_grad()
def _compare(graph: Graph, ann: nn.Module, images: Tensor) -> Tensor:
    """The logits, and that the folded layers are the network.

    Where activations have steps, the last bit of a folded weight may decide for one: they are compared without.
    """
    flow = as_network(graph)
    with in_mode(ann, training=False), continuous(ann, flow):
        wanted, found = ann(images.clone()), flow(images)  # (it may change its input in place)
    if isinstance(ann, Net) or (wanted.shape != found.shape and len(wanted) == 1):  # a time axis in front
        wanted = wanted[0]
    if not wanted.isfinite().all():
        raise ValueError(f"convert: {graph.owner} gives values that are not finite on the images to calibrate with")
    if found.shape != wanted.shape or not torch.allclose(
        found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item()
    ):
        coarse = f": {found.dtype} rounds too much to tell, take .float()" if found.dtype in HALF else ""
        raise RuntimeError(
            f"convert: {graph.owner} was not understood: its layers, run one by one, do not give what it gives{coarse}"
        )
    return found


@torch.no_grad()
def _errors(
    graph: Graph, net: ConvertedNet, thresholds: dict[str, float], images: list[Tensor], steps: int
) -> list[Converted]:
    """How far each activation is from the network's."""
    names = [layer.name for layer in graph.of("activation")]
    neurons: dict[str, Neuron] = {name: net.features.get_submodule(name) for name in names}  # type: ignore[misc]
    flow = as_network(graph)
    away, size, rate = (dict.fromkeys(names, 0.0) for _ in range(3))
    for batch in images:
        counts = Counts({neuron: name for name, neuron in neurons.items()})
        for _ in stream(net.features, batch, steps, counts):
            pass

        def compare(name: str, value: Tensor, counts: Counts = counts) -> None:
            if name in neurons:
                mean = counts.sums[name] / steps
                away[name] += float((mean * thresholds[name] - value).double().square().sum())
                size[name] += float(value.double().square().sum())
                rate[name] += float(mean.mean()) * len(value)

        flow(batch, compare)
    total = sum(map(len, images))
    return [
        Converted(
            name,
            thresholds[name],
            rate[name] / total,
            (away[name] / size[name]) ** 0.5 if size[name] else float("nan"),
        )
        for name in names
    ]
