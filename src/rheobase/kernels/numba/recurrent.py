"""Neurons that hear themselves through a linear layer: one job that moves from step to step, a product between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rheobase.kernels import ops
from rheobase.kernels.numba import threads
from rheobase.kernels.numba.tasks import Task, backward_task, fill, forward_task, zeroed
from rheobase.kernels.ops import Gradients, Inputs, Outputs
from rheobase.kernels.recurrent import Steps
from rheobase.kernels.spec import How


def _stepper(task: Task, **tensors: Tensor | None) -> Callable[[int], None]:
    """Runs the job of a step: these fields of it are the addresses of that step in these tensors."""
    moving = [(name, x.data_ptr(), x.stride(0) * x.element_size()) for name, x in tensors.items() if x is not None]
    kernel, job = task

    def step(t: int) -> None:
        for name, start, length in moving:
            setattr(job, name, start + t * length)
        threads.work_off(kernel, job)

    return step


def _rows(step: Tensor) -> Tensor:
    """`[B, ..., N]` as the matrix that a linear layer takes it for."""
    return step.reshape(-1, step.shape[-1])


def forward(given: Inputs, how: How, before: Tensor, weight: Tensor, bias: Tensor | None) -> Steps:
    """See `kernels.recurrent.Recurrent`."""
    x = given.currents
    found = Steps.of(given, how.kind != "LIF")
    if not x.numel():
        return found
    spikes, drives, states, others = found
    heard = torch.empty_like(x[0])
    one = given._replace(currents=x[:1], residual=heard.unsqueeze(0), state=states[0])
    last, last_other = states[1:], None
    if others is not None:
        one, last_other = one._replace(other=others[0]), others[1:]
    task = forward_task(one, how, Outputs(spikes[:1], drives[:1], last[0], None if others is None else others[1]))
    moving = {"x": x, "spikes": spikes, "drive": drives, "state": states, "final": last}
    step, across = _stepper(task, **moving, other=others, final_other=last_other), weight.t()
    rows = _rows(heard)
    for t, said in enumerate((before, *spikes[:-1].unbind(0))):
        if bias is None:
            torch.mm(_rows(said), across, out=rows)
        else:
            torch.addmm(bias, _rows(said), across, out=rows)
        step(t)
    return found


def backward(
    given: Inputs, how: How, grads: Sequence[Tensor | None], steps: Steps, weight: Tensor, learned: tuple[bool, ...]
) -> Gradients:
    """See `kernels.recurrent.Recurrent`; the gradient of the drive is that of every step."""
    drives, states, others = steps.drives, steps.states, steps.others
    spikes_grad, final, final_other = grads
    one = given._replace(currents=drives[:1], state=states[0], other=None if others is None else others[0])
    found = ops.gradients(drives[:1], one, learned)
    for gradient, of_final in ((found.state, final), (found.other, final_other)):
        if gradient is not None:  # it is carried from step to step in place
            gradient.zero_() if of_final is None else gradient.copy_(of_final)
    heard, found = torch.zeros_like(drives[0]), found._replace(drive=torch.empty_like(drives))
    if not drives.numel():
        return zeroed(found)
    ones = found._replace(drive=found.drive[:1])
    task, sums = backward_task(one, how, (heard.unsqueeze(0), None, found.state, found.other), None, learned, ones)
    totals = [(part, torch.zeros_like(part)) for part in sums if part is not None and part.numel()]
    step = _stepper(task, x=drives, gy=found.drive, state=states, other=others)
    rows, down = _rows(heard), found.drive.unbind(0)
    direct = None if spikes_grad is None else spikes_grad.unbind(0)
    if direct is not None:
        heard.copy_(direct[-1])
    for t in range(len(drives) - 1, -1, -1):
        step(t)
        for part, total in totals:
            total += part
        if t and direct is None:
            torch.mm(_rows(down[t]), weight, out=rows)
        elif t:
            torch.addmm(_rows(direct[t - 1]), _rows(down[t]), weight, out=rows)  # type: ignore[index]
    for part, total in totals:
        part.copy_(total)
    fill(found, sums, drives[:1])
    return found
