"""Where the time of a training step goes, part by part: the spiking net beside its ANN twin."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import rheobase as rb
from benchmarks.harness import Row, Table
from benchmarks.network_workloads import images, loss, no_bfloat16

# what a node of autograd's graph belongs to, by its name
NODES = {
    "ConvolutionBackward0": "convolutions",
    "NormFireBackward": "norms and neurons",
    "FireBackward": "norms and neurons",
    "NativeBatchNormBackward0": "norms and neurons",
    "ReluBackward0": "norms and neurons",
}
PARTS = ("convolutions", "norms and neurons", "all else")


class _Clock:
    """Adds up the seconds between starts and stops, part by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._starts: list[float] = []

    def start(self, *_: Any) -> None:
        self._starts.append(time.perf_counter())

    def stop(self, part: str) -> None:
        self.seconds[part] += time.perf_counter() - self._starts.pop()

    def forward(self, model: nn.Module) -> None:
        """Clock the model's forward pass."""
        fires = tuple(path + "." for path, module in model.named_modules() if isinstance(module, rb.Fire))
        for path, module in model.named_modules():
            part = "convolutions" if isinstance(module, nn.Conv2d) else "norms and neurons"
            apart = isinstance(module, rb.CurrentNorm | rb.LIF | nn.ReLU) and not path.startswith(fires)
            if isinstance(module, nn.Conv2d | rb.Fire) or apart:
                module.register_forward_pre_hook(self.start)
                module.register_forward_hook(lambda *_, part=part: self.stop(part))

    def backward(self, loss: Tensor) -> None:
        """Clock the backward pass from here."""
        nodes, seen = [loss.grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
            part = NODES.get(node.name())
            if part is not None:
                node.register_prehook(self.start)
                node.register_hook(lambda *_, part=part: self.stop(part))


def _parts(title: str, name: str, steps: int, batch: int, width: int, precision: str, repeats: int) -> Table:
    """Seconds of each part, round after round, both nets in turn."""
    rows = [Row(f"{net}: {part}") for net in ("rheobase", "ANN twin") for part in PARTS]
    nets = []
    for spiking in (True, False):
        clock, model = _Clock(), rb.models.create(name, classes=100, steps=steps, spiking=spiking, width=width)
        clock.forward(model)
        nets.append((clock, model, batch if spiking else steps * batch))
    for number in range(repeats + 2):
        for place, (clock, model, count) in enumerate(nets):
            frames, labels = images(count), torch.randint(0, 100, (count,))
            model.zero_grad()
            clock.seconds.clear()
            start = time.perf_counter()
            found = loss(model, frames, labels, precision)
            clock.backward(found)
            found.backward()
            clock.seconds["all else"] = time.perf_counter() - start - sum(clock.seconds.values())
            if number >= 2:
                for row, part in zip(rows[place * len(PARTS) :], PARTS, strict=False):
                    row.samples.append(clock.seconds[part])
    return Table(title, rows)


def shares(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Where the time of a training step goes, ours and the twin's."""
    steps, batch, width = (2, 2, 8) if quick else (4, 16, 64)
    names = ("sew_resnet18",) if quick else ("sew_resnet18", "ms_resnet18", "spiking_resnet18")
    for name, precision in itertools.product(
        names, ("float32",) if quick or no_bfloat16() else ("float32", "bfloat16")
    ):
        title = f"{name}, width {width}, parts of a training step, T={steps}, B={batch}, {precision}"
        yield _parts(title, name, steps, batch, width, precision, repeats)
