"""What else may break on another device than the CPU: each function is a claim that raises where it does not hold."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import rheobase as rb
from benchmarks.gpu.checks import Check, attempt, close
from rheobase.training import Recipe, build, evaluate, resume
from rheobase.training.console import console

CLAIMS: dict[str, Callable[[torch.device], str | None]] = {}


def claim(words: str) -> Callable[[Callable[[torch.device], str | None]], Callable[[torch.device], str | None]]:
    """Add a function to the claims."""

    def add(function: Callable[[torch.device], str | None]) -> Callable[[torch.device], str | None]:
        CLAIMS[words] = function
        return function

    return add


def behaviour(device: torch.device) -> Iterator[Check]:
    """Every claim."""
    for words, function in CLAIMS.items():
        yield attempt(words, lambda function=function: function(device))  # type: ignore[misc]


def _net(device: torch.device, name: str = "sew_resnet18", **options: Any) -> rb.models.Net:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return rb.models.create(name, classes=5, steps=3, width=4, **options).to(device)


def _images(device: torch.device, count: int = 4) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)


def _learn(net: Any, images: Tensor) -> Tensor:
    """A forward and a backward pass; the logits.

    Raises:
        AssertionError: a logit or a gradient is not finite, or there is none.
    """
    net.zero_grad()
    logits: Tensor = net(images)
    F.cross_entropy(rb.readout(logits.float()), torch.arange(len(images), device=images.device) % 5).backward()
    assert logits.isfinite().all(), "logits are not finite"
    for name, p in net.named_parameters():
        assert p.grad is not None, f"{name} has no gradient"
        assert p.grad.isfinite().all(), f"the gradient of {name} is not finite"
    return logits


def _gradients(net: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@claim("a model that is made on the device lies there, and learns")
def made_there(device: torch.device) -> None:
    """Buffers and numbers follow torch's default device."""
    with torch.device(device):
        net = rb.models.create(
            "ms_resnet18", classes=5, steps=3, width=4, neuron=rb.AdaptiveLIF(learn=("decay",), threshold=0.8)
        )
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            assert tensor.device.type == device.type, f"{name} is on {tensor.device}"
        _learn(net, _images(device))


@claim("under bfloat16 autocast nets learn, spikes are whole, states float32")
def autocast(device: torch.device) -> None:
    """The mode of `trainer.precision: bf16`."""
    for name in ("sew_resnet18", "ms_resnet18", "spiking_resnet18"):
        net = _net(device, name)
        with torch.autocast(device.type, torch.bfloat16), rb.record(net) as tape:
            _learn(net, _images(device))
        assert any(trace.spikes.dtype is torch.bfloat16 for trace in tape.values()), "nothing was in bfloat16"
        for path, trace in tape.items():
            assert trace.spikes.eq(trace.spikes.round()).all(), f"spikes of {path} are not whole"
    _, state = rb.LIF().to(device).run(torch.rand(3, 2, 5, device=device).bfloat16())
    assert state.dtype is torch.float32, f"a state is {state.dtype}"


@claim("a training step waits for nothing")
def without_waiting(device: torch.device) -> str | None:
    """No number is read back to the host within forward and backward."""
    if device.type != "cuda":
        return "only a GPU can tell"
    net, images = _net(device), _images(device)
    _learn(net, images)
    targets = torch.arange(len(images), device=device) % 5
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            F.cross_entropy(rb.readout(net(images)), targets).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not waits, f"{len(waits)} waits, the first: {waits[0].message}"
    return None


@claim("images in any memory layout give the same logits")
def layouts(device: torch.device) -> str:
    """Channels-last, every second pixel, and a sequence of equal images; whether convolutions get channels-last."""
    net, images = _net(device).eval(), _images(device)
    copied: list[bool] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs: copied.append(not inputs[0][0].is_contiguous(memory_format=torch.channels_last))
        )
        for module in net.modules()
        if isinstance(module, rb.PerStep) and isinstance(module.module, torch.nn.Conv2d)
    ]
    net(images)  # in float32: cuDNN has no channels-last for float64
    for hook in hooks:
        hook.remove()
    net, images = net.double(), images.double()
    want = net(images)
    for other in (
        images.contiguous(memory_format=torch.channels_last),
        images.repeat_interleave(2, -1)[..., ::2],
        images.expand(3, *images.shape),
        images.repeat(3, 1, 1, 1, 1),
    ):
        close(net(other), want, 1e-10, "logits")
    return f"{sum(copied)} of {len(copied)} convolutions get memory that is not channels-last"


@claim("what is recorded or packed changes nothing")
def looked_into(device: torch.device) -> None:
    """The same logits and, packed, the same gradients."""
    net, images = _net(device).double(), _images(device).double()
    want, gradients = _learn(net, images), _gradients(net)
    with rb.record(net, potentials=True):
        close(_learn(net, images), want, 1e-10, "logits while recorded")
    with rb.engine(packed=True):
        close(_learn(net, images), want, 1e-10, "logits with spikes as bytes")
    close(_gradients(net), gradients, 1e-10, "gradients with spikes as bytes")


@claim("a sequence streams in pieces")
def streamed(device: torch.device) -> None:
    """The logits of one call."""
    net = _net(device).double().eval()
    frames = _images(device, 12).double().unflatten(0, (6, 2))
    first, state = rb.run(net, frames[:4])
    rest, _ = rb.run(net, frames[4:], state)
    with torch.no_grad():
        close(torch.cat([first, rest]), net(frames), 1e-10, "streamed logits")


@claim("models are saved from the device, copied, and loaded into another")
def saved(device: torch.device) -> None:
    """By `rb.save`, by deepcopy, by the state_dict, and from the twin."""
    net, images = _net(device, neuron=rb.LIF(learn="decay")).double().eval(), _images(device).double()
    want = net(images)
    close(copy.deepcopy(net)(images), want, 1e-10, "logits of a copy")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        rb.save(net, path)
        close(rb.load(path).to(device).eval()(images), want, 1e-10, "logits of what was saved")
    here = _net(torch.device("cpu"), neuron=rb.LIF(learn="decay")).double().eval()
    here.load_state_dict(net.state_dict())
    close(here(images.cpu()), want, 1e-10, "logits on the CPU")
    net.load_state_dict(_net(device, spiking=False).double().state_dict())
    assert next(net.parameters()).device.type == device.type


@claim("padding is left out on the device")
def padded(device: torch.device) -> None:
    """Lengths go where the currents are."""
    net, frames = _net(device), _images(device, 12).unflatten(0, (3, 4))
    lengths = torch.tensor([3, 1, 2, 3], device=device)
    with rb.padding(lengths):
        rb.readout(net(frames), lengths).sum().backward()


@claim("batches on the device are those on the CPU, also where it is torch's default")
def batches(device: torch.device) -> None:
    """Order and augmentation; those that interpolate may round to the next byte."""
    data = rb.data.load("digits")
    assert isinstance(data.train, rb.data.Split)
    plain = rb.data.Augmentation(shift=2, flip=True, cutout=3)
    some: list[tuple[rb.data.Augmentation, float]] = [(plain, 1e-6)]
    some += [(rb.data.Augmentation(mixup=0.4, cutmix=0.4), 1e-5), (rb.data.Augmentation(crop=0.5), 2e-2)]
    for augmentation, bound in some:
        options: dict[str, Any] = {"batch_size": 64, "mean": data.mean, "std": data.std, "seed": 3, "classes": 10}
        here = rb.data.Batches(data.train, augmentation=augmentation, **options).batch(1, 2)
        there = rb.data.Batches(data.train.to(device), augmentation=augmentation, **options).batch(1, 2)
        assert there.inputs.device.type == device.type, f"inputs are on {there.inputs.device}"
        close(there.inputs, here.inputs, bound, f"inputs under {augmentation}")
        close(there.labels, here.labels, 1e-6, f"labels under {augmentation}")
    want = rb.data.Batches(data.train, augmentation=plain, **options).batch(1, 2)
    with torch.device(device):
        got = rb.data.Batches(rb.data.load("digits").train, augmentation=plain, **options).batch(1, 2)
    close(got.inputs, want.inputs, 0, "inputs")


@claim("making a recipe's model leaves the device's random state")
def random_state(device: torch.device) -> str | None:
    """As it leaves that of the CPU."""
    if device.type != "cuda":
        return "only a GPU has one"
    before = torch.cuda.get_rng_state(device)
    build.model(Recipe().replace({"model.width": 4}), rb.data.load("digits"))
    assert torch.equal(before, torch.cuda.get_rng_state(device)), "it is another one"
    return None


@claim("a run trains there, is resumed, and evaluated")
def trained(device: torch.device) -> str:
    """Through the recipe, in float32 and in bfloat16."""
    told = []
    for precision in ("32", "bf16"):
        keys: dict[str, Any] = {"model.name": "plain_convnet", "model.depth": 2, "model.width": 4, "model.steps": 2}
        keys |= {"data.train_limit": 64, "data.shift": 1, "trainer.epochs": 1, "trainer.precision": precision}
        keys |= {"trainer.ema": 0.9, "trainer.accelerator": "gpu" if device.type == "cuda" else "cpu"}
        with tempfile.TemporaryDirectory() as folder, console.capture():
            run = rb.train(Recipe().replace({**keys, "run": f"{folder}/run"}))
            assert run.summary["layers"], "no layer is told of"
            (run.folder / "summary.json").unlink()
            again = resume(run.folder)
            assert again.summary["weights_sha256"] == run.summary["weights_sha256"], "it is another model when resumed"
            told.append(f"{evaluate(run.folder, [1, 2])[2]:.0%}")
    return f"accuracy after one epoch, which says nothing: {', '.join(told)}"
