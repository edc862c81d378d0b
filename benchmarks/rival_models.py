"""SpikingJelly's residual networks with 18 layers, with the CIFAR stem, doing the mathematics of ours."""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from benchmarks.harness import Call
from benchmarks.rivals import lif_arguments

WIDTH = 64  # two of the three have no option for it


class Rival(nn.Module):
    """One of them: images `[B, C, H, W]` to logits `[B, classes]`.

    Args:
        name: as in our registry.
        classes: number of logits.
        steps: T.
    """

    def __init__(self, name: str, classes: int, steps: int) -> None:
        super().__init__()
        _without_torchvision()
        neuron: Any = _part("neuron")
        self._functional: Any = _part("functional")
        self.steps = steps
        options = {"num_classes": classes, "spiking_neuron": neuron.LIFNode, **lif_arguments()}
        self.net: Any = _ms(options) if name == "ms_resnet18" else _torchvision_like(name, options)
        self._functional.set_step_mode(self.net, "m")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, the mean over time."""
        self._functional.reset_net(self.net)
        if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
            # repeated as four axes, since five have no channels-last
            frames = images.repeat(self.steps, 1, 1, 1).contiguous(memory_format=torch.channels_last)
            frames = frames.unflatten(0, (self.steps, -1))
        else:
            frames = images.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)  # as in its documentation
        logits: Tensor = self.net(frames)
        return logits.mean(0) if logits.dim() == 3 else logits


def _part(name: str) -> ModuleType:
    return importlib.import_module(f"spikingjelly.activation_based.{name}")


def _without_torchvision() -> None:
    """Two model files import a download function from torchvision; where that is missing, an empty one will do."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        names = ("torchvision", "torchvision.models", "torchvision.models.utils")
        sys.modules.update({name: ModuleType(name) for name in names})
        sys.modules[names[-1]].load_state_dict_from_url = None  # type: ignore[attr-defined]


def _ms(options: dict[str, Any]) -> Any:
    class MS(_part("model.ms_resnet").MSResNet):  # type: ignore[misc]
        _first_stage_stride = 1

    return MS(stem_kernel_size=3, stem_stride=1, **options)


def _torchvision_like(name: str, options: dict[str, Any]) -> Any:
    family = name.removesuffix("18")
    more = {"cnf": "ADD"} if family == "sew_resnet" else {}
    net = getattr(_part(f"model.{family}"), name)(**more, **options)
    net.conv1 = _part("layer").Conv2d(3, WIDTH, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


@functools.cache
def obstacle(name: str, width: int) -> str:
    """Why it cannot be timed against ours, or nothing."""
    if width != WIDTH:
        return f"its width is fixed at {WIDTH}"
    try:
        return _difference(name)
    except ImportError as error:
        return f"not installed: {error}"


def _difference(name: str) -> str:
    """What it does differently from our network, or nothing; in float64, where no rounding tips a spike."""
    torch.manual_seed(0)
    ours = rb.models.create(name, classes=10, steps=3, width=WIDTH).double()
    theirs = Rival(name, 10, 3).double()
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    for a, b in pairs:
        if a.shape != b.shape:
            return f"its parameters differ from ours: {list(b.shape)} for {list(a.shape)}"
        if a.dim() == 1:
            nn.init.uniform_(a, 0.5, 1.0)  # norms that begin at zero would hide their branch
        b.data.copy_(a.data)
    images, labels = torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.tensor([1, 2])
    with rb.engine("reference"):
        ours_logits = rb.readout(ours(images))
        F.cross_entropy(ours_logits, labels).backward()
    theirs_logits = theirs(images)
    F.cross_entropy(theirs_logits, labels).backward()
    if not torch.allclose(ours_logits, theirs_logits, atol=1e-8):
        return "its logits differ from ours: it is not the same network"
    for a, b in pairs:
        if a.grad is None or b.grad is None or not torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-8):
            return "its gradients differ from ours: it is not the same network"
    return ""


def training_step(name: str, steps: int, batch: int, precision: str = "float32", channels_last: bool = True) -> Call:
    """As `network_workloads.training_step`; without `channels_last` as its documentation does it."""
    model = Rival(name, 100, steps)
    images, labels = torch.rand(batch, 3, 32, 32), torch.randint(0, 100, (batch,))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def call() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return call


def warm() -> Call:
    """A small net of its layers: brings code in, and leaves little memory behind."""
    _without_torchvision()
    layer, neuron, functional = _part("layer"), _part("neuron"), _part("functional")
    for family in ("sew_resnet", "spiking_resnet", "ms_resnet"):
        _part(f"model.{family}")
    net = nn.Sequential(layer.Conv2d(3, 4, 3), layer.BatchNorm2d(4), neuron.LIFNode(**lif_arguments()))
    functional.set_step_mode(net, "m")

    def call() -> None:
        functional.reset_net(net)
        net(torch.rand(2, 2, 3, 8, 8)).sum().backward()

    return call
