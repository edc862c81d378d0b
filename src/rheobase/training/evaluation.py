"""Accuracy against time steps, and the weights as a number."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rheobase.data import Batches
from rheobase.training.losses import scores
from rheobase.training.recipe import LossOptions


@torch.inference_mode()
def accuracies(
    model: nn.Module,
    batches: Batches,
    steps: Sequence[int | None],
    device: torch.device | str = "cpu",
    precision: str = "32",
    loss: LossOptions = LossOptions(),  # noqa: B008  (it is frozen)
) -> list[float]:
    """Accuracy of the model in evaluation at each number of time steps, in one pass over the batches.

    A network from rest cannot see the future: its first t logits of T are those of a run of t steps. None stands for
    the model's own number (in an ANN twin, its one pass).

    Raises:
        ValueError: a number below 1, or more steps than the model has (an ANN twin has one).
    """
    model.eval().to(device)
    wanted = [count for count in steps if count is not None]
    if any(count < 1 for count in wanted):
        raise ValueError(f"steps must be at least 1, got {min(wanted)}")
    correct = torch.zeros(len(steps), dtype=torch.int64, device=device)
    total = 0
    batches.seek(0)
    takes_steps = None not in steps and "steps" in inspect.signature(model.forward).parameters
    for batch in batches:
        images, labels, lengths = batch.to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images, steps=max(wanted)) if takes_steps and images.dim() == 4 else model(images)
        if wanted and max(wanted) > len(logits):
            raise ValueError(f"steps must be at most {len(logits)} for this model, got {max(wanted)}")
        for place, count in enumerate(steps):
            few = logits[:count]
            real = None if lengths is None else lengths.clamp(max=len(few))
            correct[place] += (scores(few, loss, real).argmax(1) == labels).sum()
        total += len(labels)
    return [count / total for count in correct.tolist()]


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over a state_dict: name, dtype, shape and bytes of each tensor, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
