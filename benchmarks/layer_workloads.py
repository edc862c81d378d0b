"""Single layers, forward and backward: LIF, and norm with LIF."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import rheobase as rb
from benchmarks.harness import Call, Case, Table, measure
from benchmarks.memory import add_peaks
from benchmarks.rivals import NEURONS, Build, Layer, Neuron, builds
from rheobase.kernels import stepper
from rheobase.kernels.numba import threads

SAMPLE = 0.02  # seconds
HOLLOW = "rheobase without its kernels"


def backward(build: Build, x: Tensor, grad: Tensor) -> Call:
    """Forward and backward of a layer, down to the gradient of its input."""
    layer = build()

    def call() -> None:
        x.grad = None
        layer(x).backward(grad)

    return call


def hollow(build: Build, x: Tensor, grad: Tensor) -> Call:
    """`backward` with every kernel left out: what a call costs besides them, whatever the size."""
    whole = backward(build, x, grad)

    def call() -> None:
        run, threads.work_off = threads.work_off, lambda kernel, job: None
        try:
            whole()
        finally:
            threads.work_off = run

    return call


def cases(neuron: Neuron, call: Callable[[Build], Call]) -> list[Case]:
    """Our neuron and its rivals, each under `call`."""
    found = [Case("rheobase", partial(call, neuron.ours))]
    for name, build, why_not in builds(neuron):
        found.append(Case(name, partial(call, build) if build else None, why_not))
    return found


def _tiny(case: Case) -> Callable[[], Call] | None:
    """The case on a few neurons, if it is a layer."""
    if case.name == HOLLOW or not isinstance(case.setup, partial) or "grad" not in case.setup.keywords:
        return None
    some = {name: value[:4, ..., :8].detach() for name, value in case.setup.keywords.items()}
    return partial(case.setup, x=some["x"].requires_grad_(), grad=some["grad"])


def rate(neuron: Neuron, currents: Tensor) -> float:
    """Mean spikes per neuron and step of ours."""
    with torch.no_grad():
        return float(neuron.ours()(currents).mean())


def _loop(compiled: bool) -> Layer:
    """The definition, step by step in plain torch with autograd; compiled, however many steps there are."""
    lif = rb.LIF()

    def layer(currents: Tensor) -> Tensor:
        step, v, spikes = stepper(lif.spec(), currents[0]), torch.zeros_like(currents[0]), []
        for current in currents.unbind(0):
            s, v, _ = step(current, v)
            spikes.append(s)
        return torch.stack(spikes)

    return torch.compile(layer) if compiled else layer


def copies(x: Tensor) -> Call:
    """Copy the least bytes.

    Forward reads the currents and writes the spikes; backward reads the spikes' gradient and the currents, and writes
    the currents' gradient: five passes over memory, which are two copies and a half.
    """
    a = x.detach()
    b = torch.empty_like(a)
    half = len(a) // 2

    def call() -> None:
        b.copy_(a)
        b.copy_(a)
        b[:half].copy_(a[:half])

    return call


def lif(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """One LIF layer, against a plain loop, the least bytes, and other libraries' layers."""
    for shape in [(10, 32, 1024)] if quick else [(10, 32, 65536), (100, 64, 512)]:
        x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
        for number, neuron in enumerate(NEURONS):
            rows = cases(neuron, partial(backward, x=x, grad=grad))
            if number == 0:
                rows.insert(1, Case("torch loop", partial(backward, partial(_loop, False), x=x, grad=grad)))
                if compiled:
                    loop = partial(_loop, True)
                    rows.insert(2, Case("torch.compile of the loop", partial(backward, loop, x=x, grad=grad)))
                rows.append(Case("copy of the least bytes", partial(copies, x)))
                rows.append(Case(HOLLOW, partial(hollow, rb.LIF, x=x, grad=grad)))
            size = " x ".join(map(str, shape))
            title = f"{neuron.title}, forward and backward, T x B x N = {size}, firing rate {rate(neuron, x):.1%}"
            table = measure(title, rows, repeats, least=SAMPLE)
            if not quick:
                add_peaks(table, rows, _tiny)
            yield table


class _NormLIF(nn.Module):
    """What a spiking ResNet puts after a convolution, on `[T*B, C, H, W]`."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.fire = rb.Fire(rb.CurrentNorm(channels), rb.LIF())
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.fire(x.unflatten(0, (self.steps, -1)))
        return spikes.flatten(0, 1)


def _twin(channels: int) -> Layer:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def norm(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """CurrentNorm and LIF at the shapes of a CIFAR ResNet-18, channels last, against BatchNorm2d and ReLU."""
    steps, batch = 4, 16
    shapes = [(16, 8)] if quick else [(64, 32), (128, 16), (256, 8), (512, 4)]
    for dtype, (channels, size) in itertools.product((torch.float32, torch.bfloat16), shapes):
        x = torch.randn(steps * batch, channels, size, size).contiguous(memory_format=torch.channels_last).to(dtype)
        x.requires_grad_()
        grad = torch.randn_like(x)
        rows = [
            Case("rheobase", partial(backward, partial(_NormLIF, channels, steps), x=x, grad=grad)),
            Case("BatchNorm2d and ReLU", partial(backward, partial(_twin, channels), x=x, grad=grad)),
            Case(HOLLOW, partial(hollow, partial(_NormLIF, channels, steps), x=x, grad=grad)),
        ]
        name = f"{str(dtype).removeprefix('torch.')}, T={steps}, B={batch}, {channels} x {size} x {size}"
        table = measure(f"CurrentNorm and LIF, forward and backward, {name}", rows, repeats, least=SAMPLE)
        if not quick:
            add_peaks(table, rows, _tiny)
        yield table
