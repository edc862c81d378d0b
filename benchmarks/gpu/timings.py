"""How fast a device is: a LIF layer, batches, and training steps of networks against their ANN twins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import rheobase as rb
from benchmarks.device import clock, engines, peak
from benchmarks.gpu.checks import in_words
from benchmarks.harness import Call, Case, Table, measure
from benchmarks.layer_workloads import SAMPLE, backward, copies
from benchmarks.loader_workload import in_memory
from benchmarks.network_workloads import TWIN, rate, training_step
from benchmarks.rivals import Layer
from rheobase.kernels.reference import INLINED


def table(title: str, cases: Sequence[Case], device: torch.device, repeats: int, least: float = 0) -> Table:
    """Time and peak memory of the cases that run here; of the others, why not."""
    ready, peaks = [], {}
    for case in cases:
        try:
            if case.setup is not None:
                peaks[case.name] = peak(device, case.setup)
        except Exception as error:  # out of memory, or a compiler that is missing
            case = replace(case, setup=None, why_not=in_words(error))
        ready.append(case)
    ready.sort(key=lambda case: case.setup is None)  # the first is what others are compared with
    found = measure(title, ready, repeats, warmup=3, least=least, clock=clock(device))
    for row in found.rows:
        row.peak_mib = peaks.get(row.name)
    return found


def _layer(engine: str, x: Tensor, grad: Tensor, compiled: bool = False) -> Call:
    """Forward and backward of a LIF layer by an engine."""
    call = backward(partial(_lif, x.device, compiled), x, grad)

    def named() -> None:
        with rb.engine(engine):
            call()

    return named


def _lif(device: torch.device, compiled: bool = False) -> Layer:
    lif = rb.LIF().to(device)
    return torch.compile(lif) if compiled else lif


def layers(device: torch.device, repeats: int, quick: bool) -> Iterator[Table]:
    """A LIF layer by each engine, the definition compiled, and the least bytes."""
    for shape in [(4, 8, 64)] if quick else [(4, 64, 65536), (8, 32, 65536), (100, 64, 512)]:
        why_not = "it takes seconds to compile" if quick else ""
        if shape[0] > INLINED:
            why_not = f"torch.compile leaves more than {INLINED} steps as they are written"
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape, device=device).to(dtype).requires_grad_()
            grad = torch.randn(shape, device=device).to(dtype)
            cases = [Case(f"engine {name}", partial(_layer, name, x, grad)) for name in engines(device)]
            compiled = None if why_not else partial(_layer, "reference", x, grad, True)
            cases.append(Case("the definition, compiled", compiled, why_not))
            cases.append(Case("copy of the least bytes", partial(copies, x)))
            size, name = " x ".join(map(str, shape)), str(dtype).removeprefix("torch.")
            with torch.no_grad():
                fired = float(_lif(device)(x).float().mean())
            title = f"LIF, soft reset, forward and backward, T x B x N = {size}, {name}, firing rate {fired:.1%}"
            yield table(title, cases, device, repeats, least=SAMPLE)


def batches(device: torch.device, repeats: int, quick: bool) -> Iterator[Table]:
    """Images that live on the device, and ways of others to it."""
    yield in_memory(repeats, quick, None, device)
    shape = (4, 3, 8, 8) if quick else (64, 3, 224, 224)
    images = torch.randint(0, 256, shape).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    cases = [
        Case("float32, as batches go", partial(_sent, images.float(), device)),
        Case("float32, from pinned memory", partial(_sent, images.float(), device, pinned=True)),
        Case("bytes, which become float32 there", partial(_sent, images, device)),
        Case("bytes, from pinned memory", partial(_sent, images, device, pinned=True)),
    ]
    found = table(f"a batch of {' x '.join(map(str, shape))} to {device}", cases, device, repeats, least=SAMPLE)
    found.items, found.unit = len(images), "images"
    yield found


def _sent(images: Tensor, device: torch.device, pinned: bool = False) -> Call:
    there = images.pin_memory() if pinned else images
    return lambda: there.to(device, non_blocking=pinned).to(torch.float32)


class Shape(NamedTuple):
    """Of a training step."""

    name: str
    steps: int
    batch: int
    width: int
    size: int


def networks(device: torch.device, shapes: Sequence[Shape], repeats: int, compiled: bool) -> Iterator[Table]:
    """A training step by each engine against that of the twin on T x B images, in each precision."""
    for shape in shapes:
        name, steps, batch, width, size = shape
        fired = rate(name, steps, width)
        for precision in ("float32", "tf32", "bfloat16") if device.type == "cuda" else ("float32", "bfloat16"):
            step = partial(training_step, name, steps=steps, batch=batch, width=width, precision=precision)
            step = partial(step, device=device, size=size)
            cases = [Case(f"engine {engine}", partial(step, True, engine=engine)) for engine in engines(device)]
            if compiled:
                whole = partial(step, True, engine="reference", compiled=True)
                cases.append(Case("the definition, compiled", whole))
            cases.append(Case(TWIN, partial(step, False)))
            if compiled:
                cases.append(Case(f"{TWIN}, compiled", partial(step, False, compiled=True)))
            title = f"{name}, width {width}, {size} x {size}, training step, T={steps}, B={batch}, {precision}"
            yield table(f"{title}, firing rate {fired:.1%} at 32 x 32", cases, device, repeats)
