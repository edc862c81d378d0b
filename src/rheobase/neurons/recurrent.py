"""Neurons that hear themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheobase import kernels
from rheobase.compat import hooked
from rheobase.kernels.spec import HALF, Ran
from rheobase.neurons.base import Neuron, State, altered
from rheobase.neurons.lif import LIF


class Recurrent(Neuron):
    """A neuron whose spikes come back a step later: its current is I[t] + module(s[t-1]).

    The state is (the neuron's state, s). From rest, s[-1] = 0. Hooks on the neuron itself are not called.

    Args:
        neuron: any neuron.
        module: from spikes `[B, ...]` to currents of the same shape, such as `nn.Linear(n, n)`.

    Raises:
        TypeError: one of the two is something else.
    """

    def __init__(self, neuron: Neuron, module: nn.Module) -> None:
        super().__init__()
        if not isinstance(neuron, Neuron):
            raise TypeError(f"Recurrent: neuron must be a rheobase.Neuron, got {type(neuron).__name__}")
        if altered(neuron, Neuron, "forward"):
            raise TypeError(f"Recurrent: {type(neuron).__name__} has a forward of its own, which would not be called")
        if not isinstance(module, nn.Module) or any(isinstance(m, Neuron) for m in module.modules()):
            raise TypeError(f"Recurrent: module must be a torch.nn.Module without neurons, got {type(module).__name__}")
        self.neuron = neuron
        self.module = module

    def initial_state(self, current: Tensor) -> State:
        """State at rest for a current `[B, ...]`."""
        return self.neuron.initial_state(current), torch.zeros_like(current)

    def _ran(self, currents: Tensor, state: State, watch: bool = False, **_: Any) -> Ran:
        """By the neuron's rule, if it has one that knows neurons which hear each other."""
        self.check(currents)
        rule = self.neuron.rule
        if rule is not None and torch.is_grad_enabled():
            if not hasattr(rule, "recurrent"):
                raise ValueError(f"the rule {rule.name!r} cannot be used here: it does not know recurrent neurons")
            return self._by_rule(rule, currents, state, watch)
        return self._alone(currents, state, watch)

    def _may_have(self, rule: Any) -> None:
        raise ValueError("Recurrent: the rule is that of the neuron in it: set .neuron.rule")

    def _by_rule(self, rule: Any, currents: Tensor, state: State, watch: bool) -> Ran:
        """The rule takes the whole loop for one neuron: no gradient goes from step to step.

        Raises:
            ValueError: what is between the neurons is not a linear layer over all of them.
        """
        size = currents.shape[-1]
        if not self._linear(currents) or currents.dim() != 3:
            raise ValueError(
                f"the rule {rule.name!r} cannot be used here: Recurrent must have its own step, and for currents "
                f"[T, B, {size}] a torch.nn.Linear({size}, {size}) without hooks, got {self.module} for "
                f"{list(currents.shape)}"
            )
        neuron: Any = self.neuron
        weight: Any = self.module.weight
        with torch.no_grad():
            ran = self._alone(currents, state, watch)
        before = torch.zeros_like(currents[0]) if state is None else state[1]
        heard = torch.cat([before.detach().unsqueeze(0), ran.outputs[:-1]]).to(weight.dtype)
        inner = None if state is None else state[0]
        this = rule.recurrent(weight.detach().clone(), ran._replace(state=ran.state[0]))
        found = kernels.fire(neuron.spec(), currents + self.module(heard), inner, rule=this)
        return ran._replace(outputs=found.outputs, drive=currents)

    def _alone(self, currents: Tensor, state: State, watch: bool) -> Ran:
        """All steps in one go where the neuron and the module are such that an engine can."""
        if watch or torch.compiler.is_compiling() or not self._usual(currents):
            return super()._ran(currents, state, watch)
        rest = self.initial_state(currents[0].float() if currents.dtype in HALF else currents[0])
        if state is not None:
            self._check_state(state, rest)
        inner, before = rest if state is None else state
        neuron: Any = self.neuron
        module: Any = self.module
        fired = kernels.recur(neuron.spec(), currents, inner, before.to(currents.dtype), module.weight, module.bias)
        if fired is None:
            return super()._ran(currents, state, watch)
        return fired._replace(state=(fired.state, fired.outputs[-1].to(before.dtype, copy=True)))

    def _usual(self, currents: Tensor) -> bool:
        """Whether an engine knows the neuron and how it hears itself."""
        neuron = self.neuron
        if _autocast(currents) or not isinstance(neuron, LIF) or not neuron.native:
            return False
        return self._linear(currents)

    def _linear(self, currents: Tensor) -> bool:
        """Whether it hears itself through a linear layer over the last axis, as torch has it, and nobody looks on."""
        module = self.module
        if not isinstance(module, nn.Linear) or altered(module, nn.Linear, "forward") or hooked(module):
            return False
        if altered(self, Recurrent, "step"):
            return False
        return module.in_features == module.out_features == currents.shape[-1]

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step."""
        drive, inner = self._drive(current, state)
        found, inner = self.neuron.run(drive, inner)
        return found[0], (inner, found[0])

    def _watched(self, current: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        drive, inner = self._drive(current, state)
        ran = self.neuron._call(drive, inner, watch=True)
        assert ran.potentials is not None
        return ran.outputs[0], (ran.state, ran.outputs[0]), ran.potentials[0]

    def _drive(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """What goes into the neuron, `[1, B, ...]`, and its state."""
        inner, spikes = state
        if type(self.module) is nn.Linear and self.module.in_features != current.shape[-1]:
            raise ValueError(f"Recurrent: module must take spikes {list(current.shape)}, got {self.module}")
        weight = next(self.module.parameters(), spikes)
        if weight.is_floating_point() and not _autocast(current):
            spikes = spikes.to(weight.dtype)
        back = self.module(spikes)
        if back.shape != current.shape:
            raise ValueError(f"Recurrent: module must give currents {list(current.shape)}, got {list(back.shape)}")
        return (current + back).unsqueeze(0), inner


def _autocast(x: Tensor) -> bool:
    """Whether products of such a tensor are taken in another dtype (the meta device knows of no such thing)."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
