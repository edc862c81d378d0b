"""Which modules are told of, and what the update of a neuron takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from rheobase.layers import Fire, PerStep
from rheobase.neurons import LIF, AdaptiveLIF, CubaLIF, Integrator, MaxSpikes, Neuron, Recurrent, RefractoryLIF
from rheobase.norm import CurrentNorm


def parts(model: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """Modules on which hooks may look; and whether it is one within a recurrent neuron.

    Hooks on a norm or a neuron within `Fire` would part what is one operator, and those within a `PerStep` would have a
    static input computed at every step.
    """
    seen: set[nn.Module] = set()

    def walk(module: nn.Module) -> Iterator[nn.Module]:
        if module not in seen:
            seen.add(module)
            yield module
            if not isinstance(module, PerStep | CurrentNorm | Fire | Neuron):
                for child in module.children():
                    yield from walk(child)

    for module in walk(model):
        yield module, False
    for module in model.modules():
        if isinstance(module, Recurrent):
            yield module.module, True


class Update(NamedTuple):
    """Multiplications and additions of a neuron's update, the states it keeps; whether it spikes, and is known."""

    multiplications: int
    additions: int
    states: int
    spikes: bool = True
    known: bool = True


def innermost(neuron: Neuron) -> Any:
    """Of a recurrent neuron the one within."""
    found: Any = neuron
    while isinstance(found, Recurrent):
        found = found.neuron
    return found


def update(neuron: Neuron) -> Update:
    """That of a LIF: leak; current, comparison, reset. A neuron that is not known is taken for one.

    (A factor on the current is one on the weights. Of `RefractoryLIF` two filters, and a count down; the moment of a
    spike inside a step is our simulation's. A maximum of counts has at each place that goes in a sum and a comparison.)
    """
    if type(neuron) is MaxSpikes:
        return Update(0, 2, 1, spikes=False)
    if type(neuron) is RefractoryLIF:
        return Update(3, 6, 4) if neuron.synapse else Update(1, 4, 2)
    if not isinstance(neuron, LIF | Integrator) or (isinstance(neuron, LIF) and not neuron.native):
        return Update(1, 3, 1, known=False)
    leak = int(bool((neuron.decay != 1).any()))
    if isinstance(neuron, Integrator):
        return Update(leak, 1, 1, spikes=False)
    if isinstance(neuron, CubaLIF):
        return Update(leak + 1, 4, 2)
    return Update(leak + 2, 5, 2) if isinstance(neuron, AdaptiveLIF) else Update(leak, 3, 1)
