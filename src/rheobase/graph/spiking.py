"""A user's own network as a spiking net, to be trained directly."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from rheobase.graph.layers import Cat, Flow, Graph, Layer, Step
from rheobase.graph.net import Became, GraphNet
from rheobase.graph.reader import read
from rheobase.layers import Fire, PerStep
from rheobase.neurons import LIF, Neuron
from rheobase.norm import TEBN, CurrentNorm


def to_spiking(module: nn.Module, neuron: Neuron | None = None, steps: int = 4) -> GraphNet:
    """A network of torch as a spiking net for direct training.

    Each place of an activation gets a neuron of its own; batch norms become `CurrentNorm`, with their weights and
    statistics; a norm, a sum and an activation in a row become one `Fire`; all else runs at every step (`PerStep`).
    Weights are copies. `net.report` tells what became of each layer, and the paths in `net.features` are those of the
    network's own modules. As with `rb.models.create`, images lie in channels-last memory.

    Args:
        module: what `rheobase.graph.read` understands, such as `nn.Sequential` or a ResNet of timm or torchvision.
        neuron: a prototype, copied at each place; default `LIF()`.
        steps: T for static images.

    Returns:
        A `rheobase.models.Net`: images `[B, C, H, W]`, the same at every step, or sequences `[T, B, C, H, W]`, to
        logits `[T, B, classes]`. (Of a network that begins with a linear layer inputs are `[B, F]` or `[T, B, F]`;
        with a Conv1d, `[B, C, L]` or `[T, B, C, L]`.)

    Raises:
        TypeError: no module, or no neuron.
        ValueError: something in it is not understood: the error names its path and line; or it has no activation.
    """
    prototype = LIF() if neuron is None else neuron
    if not isinstance(prototype, Neuron):
        raise TypeError(f"to_spiking: neuron must be a rheobase.Neuron, got {type(prototype).__name__}")
    graph = read(module, training=True)
    if not graph.of("activation"):
        raise ValueError(f"to_spiking: {graph.owner} has no activation that could become a neuron")
    plan = _Plan(graph, prototype)
    steps_of_flow, became = plan.made()
    net = GraphNet(graph, Flow(steps_of_flow, graph.output), steps, "to_spiking", became)
    like = next(iter(module.parameters()), None)
    if like is not None:
        net.to(like.device, like.dtype if like.dtype is torch.float64 else None)
    if not module.training:
        net.eval()
    return net.laid()


class _Plan:
    """Which layers become what."""

    def __init__(self, graph: Graph, prototype: Neuron) -> None:
        self.graph = graph
        self.prototype = prototype
        self.by = {layer.name: layer for layer in graph.layers}
        self.uses = graph.uses
        self.taken: dict[str, Step | None] = {}  # layers that are part of a Fire, and it, where its place is
        self.became: dict[str, Became] = {}
        self.norms: dict[nn.Module, CurrentNorm] = {}
        self.wrapped: dict[nn.Module, nn.Module] = {}

    def made(self) -> tuple[list[Step], list[Became]]:
        """The steps of the flow, and what became of the layers."""
        for layer in self.graph.of("activation"):
            if layer.name not in self.taken:
                self._fire(layer)
        steps: list[Step] = []
        for layer in self.graph.layers:
            step = self.taken[layer.name] if layer.name in self.taken else self._step(layer)
            if step is not None:
                steps.append(step)
        became = [self.became[layer.name] for layer in self.graph.layers if layer.name in self.became]
        unused = [Became(one.name, _told(one), "not used by the output: left out") for one in self.graph.unused]
        return steps, became + unused

    def _fire(self, activation: Layer) -> None:
        """An activation, and the norm, the sum before and the sum after that go into one operator with it."""
        before = self.by.get(activation.inputs[0])
        norm, residual = self._norm_before(before)
        if norm is None:
            self.taken[activation.name] = Step(activation.name, self._neuron(), activation.inputs)
            self._note([activation], "neuron")
            return
        assert before is not None
        drive = self.uses[before.name] > 1
        after = None if drive else self._sum_after(activation)
        skip = None
        last, outputs = activation, [activation.name]
        if after is not None:
            skip = after.inputs[1 - after.inputs.index(activation.name)]
            last, outputs = after, [after.name]
        elif drive:
            last, outputs = before, [activation.name, before.name]
        fire = Fire(self._norm(norm), self._neuron(), drive)
        step = Step(norm.name, fire, (norm.inputs[0], residual, skip), tuple(outputs))
        parts = [norm, *([] if before is norm else [before]), activation, *([after] if after else [])]
        self.taken |= dict.fromkeys([part.name for part in parts])
        self.taken[last.name] = step
        kinds = ["Fire", f"residual {residual}" * bool(residual), f"skip {skip}" * bool(skip), "drive" * drive]
        self._note(parts, ", ".join(filter(None, kinds)))

    def _norm_before(self, before: Layer | None) -> tuple[Layer | None, str | None]:
        """A norm that is free to go into a Fire with the activation behind it, and what is added to it."""
        if before is None or before.name in self.taken:
            return None, None
        if before.kind == "norm":
            return before, None
        if before.kind == "add":
            for place, name in enumerate(before.inputs):
                norm = self.by.get(name)
                if norm is not None and norm.kind == "norm" and self.uses[name] == 1 and name not in self.taken:
                    return norm, before.inputs[1 - place]
        return None, None

    def _sum_after(self, activation: Layer) -> Layer | None:
        """A sum that alone reads the activation, and that no norm goes into: it is then the other's residual."""
        if self.uses[activation.name] != 1:
            return None
        after = next((one for one in self.graph.layers if activation.name in one.inputs), None)
        if after is None or after.kind != "add" or after.name in self.taken:
            return None
        others = [self.by.get(name) for name in after.inputs if name != activation.name]
        return None if any(one is not None and one.kind == "norm" for one in others) else after

    def _neuron(self) -> Neuron:
        return copy.deepcopy(self.prototype)

    def _norm(self, layer: Layer) -> CurrentNorm:
        if layer.module not in self.norms:
            try:
                self.norms[layer.module] = current_norm(layer.module)
            except ValueError as error:
                raise ValueError(f"to_spiking: {layer}: {error}") from error
        return self.norms[layer.module]

    def _step(self, layer: Layer) -> Step:
        """A layer by itself."""
        module: nn.Module
        if layer.kind == "norm":
            module = self._norm(layer)
        elif layer.kind == "add":
            module = layer.module
        elif isinstance(layer.module, Cat):
            module = layer.module.timed()
        else:
            module = self.wrapped.setdefault(layer.module, PerStep(layer.module))
        self._note([layer], type(module).__name__ if module is not layer.module else "as it is, at every step")
        return Step(layer.name, module, layer.inputs)

    def _note(self, layers: list[Layer], now: str) -> None:
        names, kinds = (" + ".join(text) for text in ([one.name for one in layers], map(_told, layers)))
        self.became[layers[0].name] = Became(names, kinds, now)


def _told(layer: Layer) -> str:
    return type(layer.module).__name__


def current_norm(norm: Any) -> CurrentNorm:
    """A batch norm as a norm of currents, with its weight, bias and statistics."""
    if type(norm) is CurrentNorm:
        return norm
    factor = norm.factor.detach().mean() if isinstance(norm, TEBN) else 1.0
    channels = norm.channels if isinstance(norm, CurrentNorm) else norm.num_features
    scale = norm.scale if isinstance(norm, CurrentNorm) else 1.0
    found = CurrentNorm(channels, norm.eps, norm.momentum, scale=scale).to(norm.running_mean)
    with torch.no_grad():
        found.running_mean.copy_(norm.running_mean)
        found.running_var.copy_(norm.running_var)
        for mine, given in ((found.weight, norm.weight), (found.bias, norm.bias)):
            if given is None:  # affine=False
                mine.requires_grad_(False)
            else:
                mine.copy_(given * factor)
                mine.requires_grad_(given.requires_grad)
    found.training = norm.training
    return found
