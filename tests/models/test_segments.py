"""Layers that the backward pass computes again: everything is as if they were kept, and less is kept."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import rheobase as rb
from rheobase.models import Segmented

RESNETS = ["sew_resnet18", "spiking_resnet18", "ms_resnet18"]
ENGINES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "numba": nullcontext,
    "reference": lambda: rb.engine("reference"),
    "unfused": lambda: rb.engine(fused=False),
}


def model(name: str, segments: int, **options: Any) -> Any:
    torch.manual_seed(0)
    net = rb.models.create(name, classes=3, in_channels=2, steps=3, width=8, **options)
    net.features.segments = segments
    return net


def trained(net: nn.Module, x: Tensor, during: Any = nullcontext, recorded: bool = False) -> list[Tensor]:
    """Loss, gradients and buffers after a step, whose backward pass is out of the contexts of the forward pass."""
    torch.manual_seed(1)
    with during(), rb.record(net, potentials=True) if recorded else nullcontext() as tape:
        logits = net(x)
    loss = logits.square().mean()
    if tape is not None:
        loss = loss + sum((trace.spikes.mean() - 0.1) ** 2 + trace.potentials.mean() for trace in tape.values())
    loss.backward()
    return [loss, *(p.grad for p in net.parameters()), *net.buffers(), torch.rand(2)]


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def images(size: int = 16) -> Tensor:
    return torch.randn(4, 2, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RESNETS)
def test_a_step_is_the_same_bit_for_bit(name: str, engine: str) -> None:
    net, x = model(name, 1), images()
    with torch.no_grad(), rb.record(net) as tape:
        net(x)
    assert torch.stack([trace.spikes.mean() for trace in tape.values()]).min() > 0.005
    for recorded in (False, True):
        wanted = trained(model(name, 1), x, ENGINES[engine], recorded)
        for segments in (3, 11):
            assert same(trained(model(name, segments), x, ENGINES[engine], recorded), wanted)


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("engine", ["numba", "reference"])
def test_less_is_kept(name: str, engine: str) -> None:
    def peak(segments: int) -> int:
        net = model(name, segments)
        with ENGINES[engine]():
            net(images(32)).sum().backward()
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                net(images(32)).sum().backward()
        now, most = 0, 0
        for event in seen.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                most = max(most, now)
        return most

    whole, halves, each = peak(1), peak(2), peak(11)
    assert whole > 1.2 * halves > 1.2 * 1.2 * each


class Noisy(rb.Neuron):
    """Of one's own; it draws random numbers, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.calls = self.calls + 1
        u = 0.5 * state + current + 0.1 * torch.randn_like(current)
        spikes = rb.spike(u - 1)
        return spikes, u - spikes.detach()


def test_random_numbers_and_buffers_of_ones_own_are_as_if_kept() -> None:
    class Own(nn.Module):
        def __init__(self, segments: int) -> None:
            super().__init__()
            self.body = Segmented(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 4))
            self.body.segments = segments

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    def step(segments: int) -> list[Tensor]:
        torch.manual_seed(0)
        return trained(Own(segments), torch.randn(5, 6))

    assert same(step(4), step(1))
    found = [trained(model("plain_convnet", segments, neuron=Noisy()), images()) for segments in (1, 4)]
    assert same(*found)
    assert any(b.ndim == 0 and b == 3 for b in found[0]), "the neuron has counted"


def test_padding_is_known_in_the_backward_pass() -> None:
    lengths, x = torch.tensor([3, 1, 2, 3]), images().expand(3, -1, -1, -1, -1).clone()
    wanted = trained(model("sew_resnet18", 1), x, lambda: rb.padding(lengths))
    assert same(trained(model("sew_resnet18", 5), x, lambda: rb.padding(lengths)), wanted)
    assert not same(trained(model("sew_resnet18", 5), x), wanted)


def test_a_second_backward_pass_through_the_same_graph() -> None:
    def gradients(segments: int) -> list[Tensor]:
        net = model("plain_convnet", segments)
        loss = net(images()).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        return [*(p.grad for p in net.parameters()), *net.buffers()]

    assert same(gradients(3), gradients(1))


def test_a_recording_around_both_passes_holds_what_the_first_saw() -> None:
    net = model("sew_resnet18", 11)
    with rb.record(net) as tape:
        loss = net(images()).sum()
        before = dict(tape)
        loss.backward()
    assert all(tape[path] is trace for path, trace in before.items())


def test_evaluation_keeps_nothing_to_begin_with() -> None:
    net = model("sew_resnet18", 4).eval()
    with torch.no_grad():
        assert torch.equal(net(images()), model("sew_resnet18", 1).eval()(images()))


@pytest.mark.parametrize("count", [0, 12, 2.0, True])
def test_a_number_of_segments_that_cannot_be_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match=rf"segments must be an integer from 1 to 11, one a layer, got {count}"):
        model("sew_resnet18", count)
