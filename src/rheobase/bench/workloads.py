"""What is timed: a LIF layer, norm and LIF, training steps, inference, and the cost as work grows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from rheobase.bench.harness import Case, Table, measure, peak
from rheobase.bench.rivals import Layer, lif_rivals
from rheobase.layers import readout

Call = Callable[[], object]


def bfloat16() -> str:
    """Why bfloat16 is not worth timing on this processor, or nothing."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "no /proc/cpuinfo to tell whether the processor has bfloat16"
    return "" if "avx512_bf16" in flags or "amx_bf16" in flags else "the processor has no bfloat16 instructions"


def backward(layer: Layer, x: Tensor, grad: Tensor) -> Call:
    """Forward and backward of a layer, down to the gradient of its input."""

    def call() -> None:
        x.grad = None
        layer(x).backward(grad)

    return call


def _loop(compiled: bool) -> Layer:
    """The definition, step by step in plain torch."""
    lif = rb.LIF()

    def layer(currents: Tensor) -> Tensor:
        with rb.engine("reference"):
            spikes: Tensor = lif(currents)
            return spikes

    return torch.compile(layer) if compiled else layer


def _copies(x: Tensor) -> Call:
    """Copy the least bytes: forward reads currents and writes spikes; backward reads the spikes' gradient and the
    currents, and writes the currents' gradient. That is two copies and a half.
    """
    a = x.detach().numpy()
    b = np.empty_like(a)
    half = len(a) // 2

    def call() -> None:
        np.copyto(b, a)
        np.copyto(b, a)
        np.copyto(b[:half], a[:half])

    return call


def lif(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """One LIF layer, forward and backward."""
    for shape in [(10, 32, 1024)] if quick else [(10, 32, 65536), (100, 64, 512)]:
        x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
        layers: list[tuple[str, Layer | None, str]] = [("rheobase", rb.LIF(), ""), ("torch loop", _loop(False), "")]
        if compiled:
            layers.append(("torch.compile of the loop", _loop(True), ""))
        layers += lif_rivals()
        cases = [Case(name, partial(backward, layer, x, grad) if layer else None, why) for name, layer, why in layers]
        cases.append(Case("copy of the least bytes", partial(_copies, x)))
        yield measure(f"LIF layer, forward and backward, T x B x N = {shape}", cases, repeats)


class _NormLIF(nn.Module):
    """What a spiking ResNet puts after a convolution, on `[T*B, C, H, W]`."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.fire = rb.Fire(rb.CurrentNorm(channels), rb.LIF())
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.fire(x.unflatten(0, (self.steps, -1)))
        return spikes.flatten(0, 1)


def norm(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """CurrentNorm and LIF, forward and backward, at the shapes of a CIFAR ResNet-18."""
    steps, batch = 4, 16
    for channels, size in [(16, 8)] if quick else [(64, 32), (128, 16), (256, 8), (512, 4)]:
        x = torch.randn(steps * batch, channels, size, size).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        grad = torch.randn_like(x)
        twin = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        cases = [
            Case("rheobase", partial(backward, _NormLIF(channels, steps), x, grad)),
            Case("BatchNorm2d and ReLU", partial(backward, twin, x, grad)),
        ]
        title = f"CurrentNorm and LIF, forward and backward, T={steps}, B={batch}, {channels} x {size} x {size}"
        yield measure(title, cases, repeats)


def training_step(name: str, spiking: bool, steps: int, batch: int, width: int, precision: str = "32") -> Call:
    """Forward, loss, backward and SGD; the twin gets steps x batch images."""
    model = rb.models.create(name, classes=100, steps=steps, spiking=spiking, width=width)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    count = batch if spiking else steps * batch
    images = torch.rand(count, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 100, (count,))

    def call() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        F.cross_entropy(readout(logits.float()), labels).backward()
        optimizer.step()

    return call


def _against_twin(*arguments: Any) -> list[Case]:
    """A training step and its twin's, of `training_step(name, spiking, *the rest)`."""
    name, *rest = arguments
    return [
        Case("rheobase", partial(training_step, name, True, *rest)),
        Case("ANN twin on T x B images", partial(training_step, name, False, *rest)),
    ]


def _peak(name: str, spiking: bool, *rest: Any) -> float | None:
    """Peak memory of a training step, in MiB; a small step before it brings code and kernels in."""
    return peak(
        "from rheobase.bench.workloads import training_step as step\n"
        f"step({name!r}, {spiking}, 2, 2, 4)()\n"
        "# measured\n"
        f"call = step({name!r}, {spiking}, *{rest!r})\n"
        "call()\ncall()\n"
    )


def step(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """A training step of the three residual families against the ANN twin on T x B images, and its peak memory."""
    width, batch = (8, 2) if quick else (64, 16)
    names = ("sew_resnet18", "ms_resnet18", "spiking_resnet18")
    for name, steps, precision in itertools.product(names, (4,) if quick else (4, 10), ("32", "bf16")):
        if quick and (name, precision) not in (("sew_resnet18", "bf16"), (name, "32")):
            continue
        obstacle = bfloat16() if precision == "bf16" else ""
        cases = _against_twin(name, steps, batch, width, precision)
        if obstacle:
            cases = [Case(case.name, None, obstacle) for case in cases]
        title = f"{name}, width {width}, training step, T={steps}, B={batch}, precision {precision}"
        table = measure(title, cases, repeats)
        if not obstacle and not quick:
            for row, spiking in zip(table.rows, (True, False), strict=True):
                row.peak_mib = _peak(name, spiking, steps, batch, width, precision)
        yield table


def _inference(spiking: bool, count: int, width: int) -> Call:
    model = rb.models.create("sew_resnet18", classes=100, steps=4, spiking=spiking, width=width).eval()
    images = torch.rand(count, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def call() -> None:
        with torch.inference_mode():
            model(images)

    return call


def inference(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Evaluation without gradients, T=4, against the twin on one batch and on T times as many images."""
    width = 8 if quick else 64
    for batch in (1,) if quick else (1, 16):
        cases = [
            Case("rheobase", partial(_inference, True, batch, width)),
            Case("ANN twin on B images", partial(_inference, False, batch, width)),
            Case("ANN twin on T x B images", partial(_inference, False, 4 * batch, width)),
        ]
        yield measure(f"sew_resnet18, width {width}, inference, T=4, B={batch}", cases, repeats)


def scaling(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """A training step of sew_resnet18 as T or B grows, against the twin's on T x B images."""
    width = 8 if quick else 64
    sizes = [(2, 4), (4, 4)] if quick else [(2, 4), (4, 4), (10, 4), (20, 4), (50, 4), (4, 16), (4, 64)]
    for steps, batch in sizes:
        title = f"sew_resnet18, width {width}, training step, T={steps}, B={batch}"
        yield measure(title, _against_twin("sew_resnet18", steps, batch, width), repeats)


WORKLOADS: dict[str, Callable[[int, bool, bool], Iterator[Table]]] = {
    "lif": lif,
    "norm": norm,
    "step": step,
    "inference": inference,
    "scaling": scaling,
}
