"""Where the time of a training step goes, part by part: the spiking net beside its ANN twin."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from rheobase.bench.harness import Row, Table

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
        for path, module in model.named_modules():
            inside = any(isinstance(model.get_submodule(p), rb.Fire) for p in _above(path))
            part = "convolutions" if isinstance(module, nn.Conv2d) else "norms and neurons"
            if isinstance(module, nn.Conv2d | rb.Fire) or (not inside and _is_norm_or_neuron(module)):
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


def _above(path: str) -> Iterator[str]:
    names = path.split(".")
    return (".".join(names[:i]) for i in range(1, len(names)))


def _is_norm_or_neuron(module: nn.Module) -> bool:
    return isinstance(module, rb.CurrentNorm | rb.LIF | nn.ReLU)


def shares(title: str, name: str, steps: int, batch: int, width: int, precision: str, repeats: int) -> Table:
    """Seconds of each part, round after round, both nets in turn."""
    rows = [Row(f"{net}: {part}") for net in ("rheobase", "ANN twin") for part in PARTS]
    clocks = [_Clock(), _Clock()]
    models = [
        rb.models.create(name, classes=100, steps=steps, spiking=spiking, width=width) for spiking in (True, False)
    ]
    for clock, model in zip(clocks, models, strict=True):
        clock.forward(model)
    for number in range(repeats + 2):
        for place, (clock, model, count) in enumerate(zip(clocks, models, (batch, steps * batch), strict=True)):
            images = torch.rand(count, 3, 32, 32).contiguous(memory_format=torch.channels_last)
            labels = torch.randint(0, 100, (count,))
            model.zero_grad()
            clock.seconds.clear()
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(images)
            loss = F.cross_entropy(rb.readout(logits.float()), labels)
            clock.backward(loss)
            loss.backward()
            clock.seconds["all else"] = time.perf_counter() - start - sum(clock.seconds.values())
            if number >= 2:
                for row, part in zip(rows[place * len(PARTS) :], PARTS, strict=False):
                    row.samples.append(clock.seconds[part])
    return Table(title, rows)
