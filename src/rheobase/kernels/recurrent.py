"""Neurons whose spikes come back a step later through a linear layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rheobase.compat import below_autograd
from rheobase.kernels.ops import LEARNABLE, Inputs, refuse_second
from rheobase.kernels.registry import Engine
from rheobase.kernels.spec import How


class Steps(NamedTuple):
    """All steps: spikes and what drove the neurons `[T, B, N]`; states `[T + 1, B, N]`, float32, from the first on."""

    spikes: Tensor
    drives: Tensor
    states: Tensor
    others: Tensor | None

    @classmethod
    def of(cls, given: Inputs, two: bool) -> Steps:
        """Room for them, with the states that are given, or rest."""
        x = given.currents
        states = []
        for first in (given.state, given.other)[: 1 + two]:
            states.append(x.new_empty((len(x) + 1, *x.shape[1:]), dtype=torch.float32))
            states[-1][0] = 0 if first is None else first
        return cls(torch.empty_like(x), torch.empty_like(x), states[0], states[1] if two else None)


class Recurrent(torch.autograd.Function):
    """I[t] = currents[t] + s[t-1] weight^T + bias drives a neuron, step by step; differentiable once.

    `forward(engine, how, spikes before, weight, bias, *inputs)` gives spikes `[T, B, N]` and the states `[B, N]`.
    """

    @staticmethod
    def forward(
        ctx: Any, engine: Engine, how: How, before: Tensor, weight: Tensor, bias: Tensor | None, *inputs: Any
    ) -> Any:
        """Spikes, and the states after the last step."""
        given = Inputs(*inputs)
        given = given._replace(currents=given.currents.contiguous())
        with below_autograd():
            found: Steps = engine.recur(given, how, before, weight, bias)  # type: ignore[misc]
        ctx.engine, ctx.how = engine, how
        ctx.save_for_backward(before, weight, *given._replace(currents=found.drives), *found)
        ctx.set_materialize_grads(False)
        return found.spikes, found.states[-1].clone(), None if found.others is None else found.others[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """Gradients of the inputs."""
        refuse_second(ctx.engine)
        before, weight, *saved = ctx.saved_tensors
        given, steps = Inputs(*saved[:-4]), Steps(*saved[-4:])
        needs = ctx.needs_input_grad
        learned = tuple(needs[5 + Inputs._fields.index(name)] for name in LEARNABLE)
        found = ctx.engine.recur_backward(given, ctx.how, grads, steps, weight, learned)
        rows = found.drive.flatten(0, -2)
        heard = torch.cat([before.unsqueeze(0), steps.spikes[:-1]]).flatten(0, -2)
        g_weight = rows.t() @ heard if needs[3] else None
        g_bias = rows.sum(0) if needs[4] else None
        g_numbers = {name: getattr(found, name) for name in LEARNABLE}
        g_inputs = Inputs(*[None] * len(Inputs._fields))._replace(  # type: ignore[arg-type]
            currents=found.drive, state=found.state, other=found.other, **g_numbers
        )
        return None, None, found.drive[0] @ weight if needs[2] else None, g_weight, g_bias, *g_inputs
