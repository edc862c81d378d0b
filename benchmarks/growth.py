"""Does a run's memory grow: `python -m benchmarks.growth`; ends with status 1 where tensors pile up."""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import rheobase as rb
from benchmarks.__main__ import positive
from benchmarks.memory import resident
from benchmarks.record import heading
from rheobase.files import write_atomic
from rheobase.training import Run
from rheobase.training.console import console

IMAGES, BATCH = 1197, 16  # of the training split of the digits
EPOCH = math.ceil(IMAGES / BATCH)


class Sample(NamedTuple):
    """What a process holds before a step: resident MiB, tensors that Python knows and their MiB, other objects."""

    step: int
    resident_mib: float | None
    tensors: int
    tensors_mib: float
    objects: int


def sample(step: int) -> Sample:
    """Now."""
    gc.collect()
    everything = gc.get_objects()
    tensors = [found for found in everything if type(found) in (Tensor, nn.Parameter)]  # (not fakes of a compiler)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.is_meta}
    return Sample(step, resident(), len(tensors), sum(storages.values()) / (1 << 20), len(everything))


def watched(model: nn.Module, every: int, note: Callable[[int], Any]) -> nn.Module:
    """The model, which calls `note` with the number of the step before every so many training steps."""
    count = itertools.count()

    def before(module: nn.Module, inputs: object) -> None:
        if module.training:
            step = next(count)
            if step % every == 0:
                note(step)

    model.register_forward_pre_hook(before)
    return model


def small_net() -> nn.Module:
    """One that takes some milliseconds a step."""
    torch.manual_seed(0)
    return rb.models.create("plain_convnet", classes=10, in_channels=1, depth=3, width=8, steps=4)


def run(model: nn.Module, epochs: int, folder: str, **keys: Any) -> Run:
    """Train on the digits, with augmentation, a moving average, a penalty on firing rates, and checkpoints."""
    options: dict[str, Any] = {"data.batch_size": BATCH, "data.shift": 1, "loss.rate_penalty": 0.1, "trainer.ema": 0.99}
    options |= {"trainer.epochs": epochs, "trainer.checkpoint_every_steps": 50, "run": folder}
    return rb.train("digits", model=model, **{**options, **keys})


def grown(samples: Sequence[Sample]) -> str:
    """What piles up after the first epoch (from which on there is a best model), in words, or nothing."""
    later = [found for found in samples if found.step >= EPOCH]
    first, last = later[0], later[-1]
    if last.tensors > first.tensors or last.tensors_mib > first.tensors_mib:
        return (
            f"from step {first.step} to {last.step} tensors grew from {first.tensors} of {first.tensors_mib:.2f} MiB "
            f"to {last.tensors} of {last.tensors_mib:.2f} MiB"
        )
    return ""


def main(arguments: Sequence[str]) -> int:
    """Run, print a line every so many steps, write them where asked; 1 if tensors piled up."""
    parser = argparse.ArgumentParser("python -m benchmarks.growth", description=__doc__, allow_abbrev=False)
    parser.add_argument("--steps", type=positive, default=20_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--every", type=positive, default=1000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args(arguments)
    samples: list[Sample] = []

    def note(step: int) -> None:
        samples.append(sample(step))
        print(*samples[-1], sep="\t", flush=True)

    print(*Sample._fields, sep="\t")
    record = heading(arguments, "benchmarks.growth")
    epochs = max(2, math.ceil((options.steps + 1) / EPOCH))
    with tempfile.TemporaryDirectory() as folder, console.capture():
        run(watched(small_net(), options.every, note), epochs, f"{folder}/run")
    found = grown(samples)
    if options.json:
        record |= {"samples": [one._asdict() for one in samples], "grown": found}
        write_atomic(options.json, (json.dumps(record, indent=1) + "\n").encode())
    print(found or "no tensor is left behind")
    return 1 if found else 0


if __name__ == "__main__":
    from rheobase.cli import settle

    settle()
    sys.exit(main(sys.argv[1:]))
