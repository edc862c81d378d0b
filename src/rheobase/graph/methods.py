"""The methods of conversion: what each chooses for thresholds, starting potentials and biases."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rheobase.graph.biases import add_bias, with_carriers
from rheobase.graph.building import Choices, build
from rheobase.graph.distribution import ann, distributions
from rheobase.graph.layers import Graph
from rheobase.graph.qcfs import QCFS
from rheobase.graph.simulation import mean, stream
from rheobase.neurons import SoftLIF


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of the methods: each a frozen dataclass whose fields are its options.

    Raises:
        ValueError: an option out of range.
    """

    name: ClassVar[str]
    activations: ClassVar[tuple[type[nn.Module], ...]] = (nn.ReLU, nn.ReLU6)
    """Those that it converts."""

    def choose(self, graph: Graph, images: list[Tensor], steps: int) -> tuple[Graph, Choices]:
        """The layers to build of, and its choices for them.

        Args:
            graph: folded layers.
            images: to calibrate with.
            steps: T.
        """
        raise NotImplementedError

    def _check(self, name: str, fits: bool, wanted: str) -> None:
        if not fits:
            raise ValueError(f"{type(self).__name__}: {name} must be {wanted}, got {getattr(self, name)!r}")

    def _initial(self, share: float, thresholds: dict[str, float]) -> dict[str, float | Tensor]:
        return {name: share * threshold for name, threshold in thresholds.items()}


@dataclass(frozen=True, kw_only=True)
class Percentile(Method):
    """Data-based normalisation: a layer's threshold is a percentile of its non-zero activations.

    Neurons reset by subtraction, and inputs and biases are constant currents.

    Attributes:
        percentile: in (0, 100]; 100 is the largest activation (Diehl et al. 2015).
        initial: the share of the threshold that neurons start at.

    Source: Rueckauer et al. 2017.
    """

    name = "percentile"
    percentile: float = 99.9
    initial: float = 0.0

    def __post_init__(self) -> None:
        self._check("percentile", 0 < self.percentile <= 100, "a number in (0, 100]")
        self._check("initial", 0 <= self.initial < 1, "a number in [0, 1)")

    def choose(self, graph: Graph, images: list[Tensor], steps: int) -> tuple[Graph, Choices]:
        """Thresholds."""
        found = distributions(graph, images)
        thresholds = {name: one.percentile(self.percentile) for name, one in found.items()}
        thresholds = _usable(graph, thresholds)
        return graph, Choices("soft", thresholds, self._initial(self.initial, thresholds))


@dataclass(frozen=True, kw_only=True)
class ThresholdBalancing(Method):
    """Spike-Norm: a layer's threshold is the largest current that spikes drive it with, layer by layer.

    Of the paper's demands on the network (no bias, no norm, both branches of a junction with one threshold) none is
    made: norms are folded, biases are currents, and what a spike stands for is in the weights that it meets. Its
    Poisson input is a constant current here, as in all methods.

    Attributes:
        simulate: steps of the simulation.
        scale: factor on the thresholds (Rathi et al. 2020 have 0.7 for few steps).
        reset: "soft" as in Han et al. 2020; "hard" as in the paper.

    Source: Sengupta et al. 2019.
    """

    name = "threshold_balancing"
    simulate: int = 100
    scale: float = 1.0
    reset: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        self._check("simulate", type(self.simulate) is int and self.simulate > 0, "a positive integer")
        self._check("scale", 0 < self.scale < math.inf, "a number > 0")
        self._check("reset", self.reset in ("soft", "hard"), "'soft' or 'hard'")

    def choose(self, graph: Graph, images: list[Tensor], steps: int) -> tuple[Graph, Choices]:
        """Thresholds."""
        choices = Choices(self.reset)
        for layer in graph.of("activation"):
            flow = build(graph, choices, layer.name, currents=True).flow.eval()
            largest = max(piece.max().item() for batch in images for piece in stream(flow, batch, self.simulate))
            choices.thresholds |= _usable(graph, {layer.name: self.scale * largest})
        return graph, choices


@dataclass(frozen=True, kw_only=True)
class Calibrated(Method):
    """Thresholds that lose least of the activations at T steps, then biases and starting potentials that mend the rest.

    The threshold V minimises |a - V/T floor(clip(a T/V, 0, T))|^2; a current of V/(2T) at each step makes the floor a
    rounding. Then layer by layer, from the input on, each channel's bias takes what its mean activation differs by
    from the network's, and each neuron's starting potential what then is left of its own mean, times T. All of it is
    for T steps alone: those of `convert`.

    Attributes:
        bias: whether to correct biases (the paper's light pipeline).
        potential: whether to correct starting potentials; they belong to neurons, so images keep the size they have.
        grid: thresholds that are tried.

    Source: Li et al. 2021 (a free lunch from ANN); there with running averages over batches in place of the whole.
    """

    name = "calibrated"
    bias: bool = True
    potential: bool = True
    grid: int = 95

    def __post_init__(self) -> None:
        self._check("bias", isinstance(self.bias, bool), "true or false")
        self._check("potential", isinstance(self.potential, bool), "true or false")
        self._check("grid", type(self.grid) is int and 1 <= self.grid <= 100, "an integer from 1 to 100")

    def choose(self, graph: Graph, images: list[Tensor], steps: int) -> tuple[Graph, Choices]:
        """Thresholds, biases and potentials."""
        if len(sizes := {tuple(batch.shape[1:]) for batch in images}) > 1:
            one, other = list(map(list, sizes))[:2]
            raise ValueError(f"convert by 'calibrated': images must be of one size, got {one} and {other}")
        graph = with_carriers(graph, images[0])
        found = distributions(graph, images)
        wanted = _means(graph, images)
        choices = Choices("soft", _usable(graph, {name: one.fitted(steps, self.grid) for name, one in found.items()}))
        for layer in graph.of("activation"):
            name, threshold = layer.name, choices.thresholds[layer.name]
            add_bias(graph, layer, threshold / (2 * steps))
            if self.bias:
                short = wanted[name] - self._reached(graph, choices, name, images, steps)
                add_bias(graph, layer, short)
            if self.potential:
                short = wanted[name] - self._reached(graph, choices, name, images, steps)
                choices.initial[name] = steps * short
        return graph, choices

    @staticmethod
    def _reached(graph: Graph, choices: Choices, name: str, images: list[Tensor], steps: int) -> Tensor:
        """The mean activation of each neuron of the spiking network."""
        built = build(graph, choices, name)
        flow = built.flow.eval()
        total: Any = sum(mean(flow, batch, steps).sum(0) for batch in images)
        found: Tensor = total * (built.unit / sum(map(len, images)))
        return found


@dataclass(frozen=True, kw_only=True)
class ClipFloorShift(Method):
    """For networks that were trained with `QCFS` activations: their thresholds, and neurons that start at half of it.

    Attributes:
        initial: the share of the threshold that neurons start at.

    Source: Bu et al. 2022.
    """

    name = "qcfs"
    activations = (QCFS,)
    initial: float = 0.5

    def __post_init__(self) -> None:
        self._check("initial", 0 <= self.initial < 1, "a number in [0, 1)")

    def choose(self, graph: Graph, images: list[Tensor], steps: int) -> tuple[Graph, Choices]:
        """Thresholds and potentials."""
        thresholds = {one.name: one.module.threshold.item() for one in graph.of("activation")}  # type: ignore[operator]
        return graph, Choices("soft", thresholds, self._initial(self.initial, thresholds))


@dataclass(frozen=True, kw_only=True)
class SpikingTwin(Method):
    """For networks that were trained with `SoftLIF` activations: LIF neurons in their place, with the same weights.

    T steps are an image's presentation of T dt seconds. Rates are there only when filters and potentials have settled,
    so logits are best read from a later step on: `rb.readout(logits[skip:])`, `accuracies(..., skip=skip)`.

    Attributes:
        dt: duration of a step, in seconds; at most tau_ref of each neuron.
        synapse: time constant of the filter on each neuron's input, in seconds; 0: none.

    Source: Hunsberger and Eliasmith 2016.
    """

    name = "soft_lif"
    activations = (SoftLIF,)
    dt: float = 0.001
    synapse: float = 0.002

    def __post_init__(self) -> None:
        self._check("dt", 0 < self.dt < math.inf, "a number > 0")
        self._check("synapse", 0 <= self.synapse < math.inf, "a number >= 0")

    def choose(self, graph: Graph, images: list[Tensor], steps: int) -> tuple[Graph, Choices]:
        """Neurons, and what a spike stands for."""
        soft: dict[str, Any] = {one.name: one.module for one in graph.of("activation")}
        thresholds = {name: one.amplitude / self.dt for name, one in soft.items()}
        neurons = {name: one.spiking(self.dt, self.synapse) for name, one in soft.items()}
        return graph, Choices(thresholds=thresholds, neurons=neurons)


METHODS: dict[str, type[Method]] = {
    one.name: one for one in (Percentile, ThresholdBalancing, Calibrated, ClipFloorShift, SpikingTwin)
}


def method_of(given: Any) -> Method:
    """A method by its name, or as it is given.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a method.
    """
    if isinstance(given, Method):
        return given
    if not isinstance(given, str):
        raise TypeError(f"convert: method must be a name or one of rheobase.graph's, got {type(given).__name__}")
    if given not in METHODS:
        raise ValueError(f"convert: method must be one of {', '.join(METHODS)}, got {given!r}")
    return METHODS[given]()


def _usable(graph: Graph, thresholds: dict[str, float]) -> dict[str, float]:
    """Thresholds that are numbers of a neuron: none above where an activation ends; 1 where nothing ever is active."""
    found = {}
    for name, value in thresholds.items():
        value = min(value, 6.0) if isinstance(graph[name].module, nn.ReLU6) else value
        found[name] = float(torch.tensor(value)) if value > 0 else 1.0  # as the neuron will have it
        if not 0 < found[name] < math.inf or 2 / found[name] > torch.finfo(torch.float32).max:  # (of the surrogate)
            raise ValueError(
                f"convert: the threshold of {graph[name]} would be {value:g}, beyond float32: scale weights"
            )
    return found


@torch.no_grad()
def _means(graph: Graph, images: list[Tensor]) -> dict[str, Tensor]:
    """The mean activation of each unit over the images."""
    sums: dict[str, Any] = defaultdict(int)
    names = {one.name for one in graph.of("activation")}

    def add(name: str, value: Tensor) -> None:
        if name in names:
            sums[name] = sums[name] + value.sum(0)

    flow = ann(graph)
    for batch in images:
        flow(batch, add)
    return {name: total / sum(map(len, images)) for name, total in sums.items()}
