"""Neurons whose spikes come back through a linear layer: a loop over the steps, and one product for its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheobase.compat import below_autograd
from rheobase.kernels.ops import LEARNABLE, Inputs, refuse_second
from rheobase.kernels.registry import Engine
from rheobase.kernels.spec import How


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
        spikes, drives, states, others = [], [], [given.state], [given.other]
        back = before
        with below_autograd():
            for current in given.currents.unbind(0):
                drive = current + torch.nn.functional.linear(back, weight, bias)
                step = given._replace(currents=drive.unsqueeze(0), state=states[-1], other=others[-1])
                found = engine.forward(step, how, True, False)
                back = found.spikes[0]
                spikes.append(back)
                drives.append(drive)
                states.append(found.final)
                others.append(found.final_other)
        ctx.engine, ctx.how = engine, how
        numbers = given._replace(currents=drives[0], state=None, other=None)
        ctx.save_for_backward(before, weight, bias, *numbers, *spikes, *drives, *states[:-1], *others[:-1])
        ctx.set_materialize_grads(False)
        return torch.stack(spikes), states[-1], others[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """Gradients of the inputs."""
        refuse_second(ctx.engine.name)
        engine, needs = ctx.engine, ctx.needs_input_grad
        before, weight, bias, *saved = ctx.saved_tensors
        given, steps = Inputs(*saved[: len(Inputs._fields)]), saved[len(Inputs._fields) :]
        count = len(steps) // 4
        spikes, drives, states, others = (steps[i * count : (i + 1) * count] for i in range(4))
        grad, g_state, g_other = grads
        learned = tuple(needs[5 + Inputs._fields.index(name)] for name in LEARNABLE)
        sums: dict[str, Tensor] = {}
        g_drives: list[Any] = [None] * count
        back: Tensor | None = None
        for t in range(count - 1, -1, -1):
            g = torch.zeros_like(drives[t]) if grad is None else grad[t]
            if back is not None:
                g = g + back
            step = given._replace(currents=drives[t].unsqueeze(0), state=states[t], other=others[t])
            found = engine.backward(step, ctx.how, (g.unsqueeze(0), None, g_state, g_other), None, learned)
            g_state, g_other, g_drives[t] = found.state, found.other, found.drive[0]
            back = g_drives[t] @ weight
            for name, wanted in zip(LEARNABLE, learned, strict=True):
                if wanted:
                    part = getattr(found, name)
                    sums[name] = sums[name] + part if name in sums else part
        flat = torch.stack(g_drives)
        rows = flat.flatten(0, -2)
        g_weight = rows.t() @ torch.stack([before, *spikes[:-1]]).flatten(0, -2) if needs[3] else None
        g_inputs = Inputs(*[None] * len(Inputs._fields))._replace(currents=flat, state=g_state, other=g_other, **sums)  # type: ignore[arg-type]
        return None, None, back, g_weight, rows.sum(0) if bias is not None else None, *g_inputs
