"""From a network's layers, and the thresholds of its neurons, to the spiking network that computes the same in time.

Spikes are 0 and 1; what one stands for, its neuron's threshold, is a factor in the weights that it meets. So currents
and potentials are in the units of the network's own activations.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.graph.converted import Charged, Scale
from rheobase.graph.folding import Affine
from rheobase.graph.layers import INPUT, Cat, Flow, Graph, Layer, Step
from rheobase.layers import PerStep
from rheobase.neurons import IF, MaxSpikes, Neuron, RefractoryLIF
from rheobase.surrogate import ATan


@dataclass
class Choices:
    """What a method chooses: of each activation the threshold, and the potential that its neurons start at.

    Or neurons of another kind, whose spikes stand for that threshold.
    """

    reset: str = "soft"
    thresholds: dict[str, float] = field(default_factory=dict)
    initial: dict[str, float | Tensor] = field(default_factory=dict)
    neurons: dict[str, RefractoryLIF] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A spiking network, or its beginning.

    Attributes:
        flow: it, from `[T, B, ...]` to `[T, B, ...]`.
        unit: what an output of 1 stands for.
        now: what became of each layer.
    """

    flow: Flow
    unit: float
    now: dict[str, str]


def build(graph: Graph, choices: Choices, until: str | None = None, currents: bool = False) -> Built:
    """The spiking network of folded layers.

    Args:
        graph: folded layers.
        choices: of the neurons that it has.
        until: name of an activation whose output is to be the network's.
        currents: what drives those neurons instead, in the units of the activations.
    """
    return _Builder(graph, choices).built(until, currents)


class _Builder:
    def __init__(self, graph: Graph, choices: Choices) -> None:
        self.graph = graph
        self.choices = choices
        self.steps: list[Step] = []
        self.now: dict[str, str] = {}
        self.units = {INPUT: 1.0}

    def built(self, until: str | None, currents: bool) -> Built:
        output = self.graph.output
        for layer in self.graph.layers:
            if layer.name == until and currents:
                output = self._in_units(layer.inputs[0])
                return self._done(output, 1.0)
            self._add(layer)
            if layer.name == until:
                return self._done(until, self.units[until])
        return self._done(self._in_units(output), 1.0)

    def _done(self, output: str, unit: float) -> Built:
        needed, steps = {output}, []
        for step in reversed(self.steps):
            if needed & set(step.outputs):
                needed.update(name for name in step.inputs if name is not None)
                steps.append(step)
        return Built(Flow(steps[::-1], output), unit, self.now)

    def _in_units(self, name: str) -> str:
        """A value in the units of the activations: itself, or multiplied."""
        unit, scaled = self.units[name], f"{name}_in_units"
        if unit == 1:
            return name
        if scaled not in self.units:
            self.steps.append(Step(scaled, Scale(unit), (name,)))
            self.units[scaled] = 1.0
        return scaled

    def _add(self, layer: Layer) -> None:
        inputs, unit = layer.inputs, self.units[layer.inputs[0]]
        module: nn.Module
        if layer.kind == "weights":
            module, unit = PerStep(_scaled(layer.module, unit)), 1.0
        elif layer.kind == "activation":
            inputs, unit = (self._in_units(inputs[0]),), self.choices.thresholds[layer.name]
            module = self._neuron(layer)
        elif layer.kind == "max":
            module = MaxSpikes(layer.module)
        elif layer.kind in ("add", "cat"):
            if len({self.units[name] for name in inputs}) > 1:
                inputs, unit = tuple(self._in_units(name) for name in inputs), 1.0
            module = layer.module.timed() if isinstance(layer.module, Cat) else layer.module
        else:
            module = PerStep(layer.module)
        self.steps.append(Step(layer.name, module, inputs))
        self.units[layer.name] = unit
        self.now[layer.name] = _told(module)

    def _neuron(self, layer: Layer) -> Neuron:
        if layer.name in self.choices.neurons:
            return self.choices.neurons[layer.name]
        threshold = self.choices.thresholds[layer.name]
        initial = self.choices.initial.get(layer.name, 0.0)
        # (a spike stands for the threshold: so its gradient is that of the activation, for who trains the net on)
        options: dict[str, Any] = {"reset": self.choices.reset, "surrogate": ATan(2.0 / threshold)}
        if isinstance(initial, float) and initial == 0:
            return IF(threshold, **options)
        return Charged(threshold, initial, **options)


def _scaled(module: Any, unit: float) -> nn.Module:
    """A copy of a linear layer for inputs of which 1 stands for `unit`."""
    found: nn.Module = copy.deepcopy(module)
    if unit != 1:
        with torch.no_grad():
            found.get_parameter("weight").mul_(unit)
    return found


def _told(module: nn.Module) -> str:
    if isinstance(module, IF):
        start = f", starts at {_number(module.initial)}" if isinstance(module, Charged) else ""
        return f"IF, threshold {_number(module.threshold)}{start}"
    if isinstance(module, RefractoryLIF):
        return str(module)
    if isinstance(module, PerStep):
        return (
            f"{type(module.module).__name__}, norm and scale in its weights"
            if _weighted(module.module)
            else "as it was"
        )
    return "as it was" if not isinstance(module, MaxSpikes) else "maximum of spike counts"


def _weighted(module: nn.Module) -> bool:
    return isinstance(module, Affine) or hasattr(module, "weight")


def _number(values: Tensor) -> str:
    return f"{float(values):.4g}" if not values.dim() else f"{values.min():.4g} to {values.max():.4g}"
