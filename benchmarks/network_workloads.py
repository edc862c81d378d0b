"""Whole networks against the ANN twin: training steps, inference, and the cost as work grows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import rheobase as rb
from benchmarks import rival_models
from benchmarks.device import rounding
from benchmarks.harness import Call, Case, Table, measure
from benchmarks.memory import add_peaks

TWIN = "ANN twin on T x B images"


def no_bfloat16() -> str:
    """Why bfloat16 is not worth timing on this processor, or nothing."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "no /proc/cpuinfo to tell whether the processor has bfloat16"
    return "" if "avx512_bf16" in flags or "amx_bf16" in flags else "the processor has no bfloat16 instructions"


def images(count: int, size: int = 32, device: str | torch.device = "cpu") -> Tensor:
    """CIFAR-sized, if nothing else is said; channels-last."""
    return torch.rand(count, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)


def loss(model: Callable[[Tensor], Tensor], frames: Tensor, labels: Tensor, precision: str) -> Tensor:
    """Forward and cross entropy."""
    with torch.autocast(frames.device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext():
        logits = model(frames)
    return F.cross_entropy(rb.readout(logits.float()), labels)


def training_step(
    name: str,
    spiking: bool,
    steps: int,
    batch: int,
    width: int = 64,
    precision: str = "float32",
    packed: bool = False,
    *,
    device: str | torch.device = "cpu",
    size: int = 32,
    engine: str = "auto",
    compiled: bool = False,
) -> Call:
    """Forward, cross entropy, backward and SGD; the twin gets steps x batch images.

    Precision is float32 in earnest, tf32 (float32 that is rounded before products, on GPUs), or bfloat16 autocast.
    """
    stem = "imagenet" if size >= 128 else "cifar"
    net = rb.models.create(name, classes=100, steps=steps, spiking=spiking, width=width, stem=stem).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    frames = images(batch if spiking else steps * batch, size, device)
    labels = torch.randint(0, 100, (len(frames),), device=device)
    model = torch.compile(net) if compiled else net

    def call() -> None:
        optimizer.zero_grad()
        with rounding(device, precision == "tf32"), rb.engine(engine, packed=packed):
            loss(model, frames, labels, precision).backward()
            optimizer.step()

    return call


def rate(name: str, steps: int, width: int) -> float:
    """Mean spikes per neuron and step of the network as it begins."""
    torch.manual_seed(0)
    model, found = rb.models.create(name, classes=100, steps=steps, width=width), []
    for module in model.modules():
        if isinstance(module, rb.Neuron):
            module.register_forward_hook(lambda module, inputs, spikes: found.append((spikes.sum(), spikes.numel())))
    with torch.no_grad():
        model(images(16))
    spikes, places = map(sum, zip(*found, strict=True))
    return float(spikes) / places


def _cases(name: str, steps: int, batch: int, width: int, precision: str = "float32") -> list[Case]:
    """Ours, the twin, and SpikingJelly in its best mode and as its documentation runs it."""
    obstacle = no_bfloat16() if precision == "bfloat16" else ""
    ours = (("rheobase", True, False), (TWIN, False, False), ("rheobase, spikes kept as bytes", True, True))
    cases = []
    for row, spiking, packed in ours:
        setup = partial(training_step, name, spiking, steps, batch, width, precision, packed)
        cases.append(Case(row, None if obstacle else setup, obstacle))
    obstacle = obstacle or rival_models.obstacle(name, width)
    for row, mode in (
        (f"SpikingJelly, channels-last, {precision}", (precision, True)),
        ("SpikingJelly as documented: contiguous, float32", ("float32", False)),
    ):
        theirs = partial(rival_models.training_step, name, steps, batch, *mode)
        cases.append(Case(row, None if obstacle else theirs, obstacle))
    return cases


def _small(case: Case) -> Callable[[], Call]:
    """What brings the code of a case in."""
    if "SpikingJelly" in case.name:
        return rival_models.warm
    return partial(training_step, "sew_resnet18", True, 2, 2, 4)


def step(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """A training step of the three residual families against twin and rival, in time and peak memory."""
    width, batch = (8, 2) if quick else (64, 16)
    families = ("sew_resnet18", "ms_resnet18", "spiking_resnet18")
    for name, steps, precision in itertools.product(families, (4,) if quick else (4, 10), ("float32", "bfloat16")):
        if quick and precision == "bfloat16" and name != families[0]:
            continue
        cases = _cases(name, steps, batch, width, precision)
        title = f"{name}, width {width}, training step, T={steps}, B={batch}, {precision}"
        table = measure(f"{title}, firing rate {rate(name, steps, width):.1%}", cases, repeats)
        if not quick or (name, precision) == (families[0], "float32"):  # a process each: seconds
            add_peaks(table, cases, _small)
        yield table


def memory(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Peak memory of a training step of sew_resnet18 as T grows (W10), backpropagation through time."""
    width, batch = (8, 2) if quick else (64, 4)
    for steps in (2,) if quick else (4, 8, 16, 32, 64):
        cases = _cases("sew_resnet18", steps, batch, width)
        table = measure(f"sew_resnet18, width {width}, training step, T={steps}, B={batch}", cases, min(repeats, 3), 1)
        add_peaks(table, cases, _small)
        yield table


def _inference(spiking: bool, count: int, width: int) -> Call:
    model = rb.models.create("sew_resnet18", classes=100, steps=4, spiking=spiking, width=width).eval()
    frames = images(count)

    def call() -> None:
        with torch.no_grad():
            model(frames)

    return call


def inference(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Evaluation without gradients, T=4, against the twin on one batch and on T times as many images."""
    width = 8 if quick else 64
    for batch in (1,) if quick else (1, 16):
        cases = [
            Case("rheobase", partial(_inference, True, batch, width)),
            Case("ANN twin on B images", partial(_inference, False, batch, width)),
            Case(TWIN, partial(_inference, False, 4 * batch, width)),
        ]
        table = measure(f"sew_resnet18, width {width}, inference, T=4, B={batch}", cases, repeats)
        if not quick:
            add_peaks(table, cases, lambda case: partial(_inference, True, 1, 4))
        yield table


def scaling(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """A training step of sew_resnet18 as T or B grows; per image-step, it costs `reference / this` times the twin's."""
    width = 8 if quick else 64
    sizes = [(2, 2), (4, 2)] if quick else [(2, 4), (4, 4), (10, 4), (20, 4), (50, 4), (4, 16), (4, 64)]
    for steps, batch in sizes:
        cases = [
            Case("rheobase", partial(training_step, "sew_resnet18", True, steps, batch, width)),
            Case(TWIN, partial(training_step, "sew_resnet18", False, steps, batch, width)),
        ]
        yield measure(f"sew_resnet18, width {width}, training step, T={steps}, B={batch}", cases, repeats)
