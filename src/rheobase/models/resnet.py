"""Residual networks of 18 to 152 layers with three junctions: the classic spiking one, SEW and MS.

With F the branch, S the block's input and SN the neuron:
    classic  O = SN(F(S) + S)        currents are added, then the neuron
    SEW      O = g(SN(F(S)), S)      spikes are joined by g: add, and, iand (Fang et al. 2021)
    MS       O = F(SN(S)) + S        potentials are added, neurons sit inside the branch (Hu et al. 2021)
Depths and widths are those of He et al. 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from rheobase.layers import JUNCTIONS, Fire, PerStep
from rheobase.models.net import Net, Parts, Pool, linear
from rheobase.models.registry import register
from rheobase.neurons import Neuron

Connect = Literal["add", "and", "iand"]
Stem = Literal["cifar", "imagenet"]


class Conv(NamedTuple):
    """A convolution within a block."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1


Branch = list[Conv]


def _branch(parts: Parts, convs: Branch) -> list[nn.Module]:
    """conv-fire-...-conv."""
    *inner, end = convs
    layers: list[nn.Module] = []
    for conv in inner:
        layers += [parts.conv(*conv), parts.fire(conv.outputs)]
    return [*layers, parts.conv(*end)]


def _shortcut(parts: Parts, convs: Branch, last: Callable[[int], nn.Module]) -> nn.Module:
    """The identity, or a 1x1 convolution where the shape changes."""
    inputs, outputs, stride = convs[0].inputs, convs[-1].outputs, max(conv.stride for conv in convs)
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(parts.conv(inputs, outputs, 1, stride), last(outputs))


class Classic(nn.Module):
    """O = SN(F(S) + S)."""

    def __init__(self, parts: Parts, convs: Branch) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_branch(parts, convs))
        self.fire = parts.fire(convs[-1].outputs)  # the branch's norm, and the neuron of the sum
        self.shortcut = _shortcut(parts, convs, parts.norm)

    def forward(self, s: Tensor) -> Tensor:
        """Spikes to spikes."""
        out: Tensor = self.fire(self.branch(s), self.shortcut(s))
        return out


class SEW(nn.Module):
    """O = g(SN(F(S)), S)."""

    def __init__(self, parts: Parts, convs: Branch, connect: Connect) -> None:
        super().__init__()
        if connect not in JUNCTIONS:
            raise ValueError(f"connect must be one of {', '.join(JUNCTIONS)}, got {connect!r}")
        self.branch = nn.Sequential(*_branch(parts, convs))
        self.fire = parts.fire(convs[-1].outputs)  # the branch's last norm and neuron
        self.shortcut = _shortcut(parts, convs, parts.fire)
        self.connect = connect

    def forward(self, s: Tensor) -> Tensor:
        """Spikes to spikes (small integers with "add")."""
        currents, s = self.branch(s), self.shortcut(s)
        if self.connect == "add":  # as one operator with the neuron
            out: Tensor = self.fire(currents, skip=s)
            return out
        return JUNCTIONS[self.connect](self.fire(currents), s)


class MS(nn.Module):
    """O = F(SN(S)) + S; the branch's last norm begins at zero, so that the block begins as the identity.

    What it takes in is the pair (SN(S), S), and what it gives out such a pair of O: norm, sum and neuron are one
    operator. The network's last block gives SN(O) alone (`last`).
    """

    def __init__(self, parts: Parts, convs: Branch, last: bool = False) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_branch(parts, convs))
        self.fire = parts.fire(convs[-1].outputs, gain=0.0, drive=not last)  # the branch's norm, the next neuron
        self.shortcut = _shortcut(parts, convs, parts.norm)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Any:
        """Spikes and potentials to the next ones."""
        s, v = inputs
        return self.fire(self.branch(s), self.shortcut(v))


class Plan(NamedTuple):
    """Blocks in each stage, and whether they are bottlenecks."""

    blocks: tuple[int, ...]
    bottleneck: bool


PLANS = {
    18: Plan((2, 2, 2, 2), False),
    34: Plan((3, 4, 6, 3), False),
    50: Plan((3, 4, 6, 3), True),
    101: Plan((3, 4, 23, 3), True),
    152: Plan((3, 8, 36, 3), True),
}


def _stages(plan: Plan, width: int) -> list[Branch]:
    """The convolutions of every block; a stage doubles the channels and (but for the first) halves the size."""
    blocks: list[Branch] = []
    inputs = width
    for stage, count in enumerate(plan.blocks):
        w = width * 2**stage
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            if plan.bottleneck:
                blocks.append([Conv(inputs, w, 1), Conv(w, w, 3, stride), Conv(w, 4 * w, 1)])
            else:
                blocks.append([Conv(inputs, w, 3, stride), Conv(w, w, 3)])
            inputs = blocks[-1][-1].outputs
    return blocks


def _stem(parts: Parts, stem: Stem, in_channels: int, width: int, potentials: bool) -> list[nn.Module]:
    """cifar: 3x3; imagenet: 7x7 with stride 2 and a pooling of 3x3 with stride 2, of what blocks pass on."""
    if stem == "cifar":
        return [parts.conv(in_channels, width, 3), parts.fire(width, drive=potentials)]
    if stem != "imagenet":
        raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
    conv, pool = parts.conv(in_channels, width, 7, 2), PerStep(nn.MaxPool2d(3, 2, 1))
    if potentials:
        return [conv, parts.norm(width), pool, Fire(nn.Identity(), parts.neuron(), drive=True)]
    return [conv, parts.fire(width), pool]


def _assemble(
    plan: Plan,
    parts: Parts,
    block: Callable[..., nn.Module],
    potentials: bool,
    classes: int,
    in_channels: int,
    steps: int,
    spiking: bool,
    width: int,
    stem: Stem,
) -> Net:
    """Stem, blocks, mean over space, linear head; with `potentials`, blocks pass them on beside the spikes."""
    if width < 1:
        raise ValueError(f"width must be a positive integer, got {width!r}")
    *branches, last = _stages(plan, width)
    layers = _stem(parts, stem, in_channels, width, potentials)
    layers += [block(parts, convs) for convs in branches]
    layers += [block(parts, last, last=True) if potentials else block(parts, last)]
    head = linear(last[-1].outputs, classes)
    return Net(nn.Sequential(*layers, Pool()), head, in_channels, steps, spiking)


def _spiking(
    plan: Plan,
    *,
    classes: int,
    in_channels: int,
    steps: int,
    spiking: bool,
    width: int = 64,
    stem: Stem = "cifar",
    neuron: Neuron | None = None,
    norm: str = "current",
) -> Net:
    parts = Parts(spiking, neuron, norm)
    return _assemble(plan, parts, Classic, False, classes, in_channels, steps, spiking, width, stem)


def _sew(
    plan: Plan,
    *,
    classes: int,
    in_channels: int,
    steps: int,
    spiking: bool,
    width: int = 64,
    stem: Stem = "cifar",
    connect: Connect = "add",
    neuron: Neuron | None = None,
    norm: str = "current",
) -> Net:
    parts, block = Parts(spiking, neuron, norm), partial(SEW, connect=connect)
    return _assemble(plan, parts, block, False, classes, in_channels, steps, spiking, width, stem)


def _ms(
    plan: Plan,
    *,
    classes: int,
    in_channels: int,
    steps: int,
    spiking: bool,
    width: int = 64,
    stem: Stem = "cifar",
    neuron: Neuron | None = None,
    norm: str = "current",
) -> Net:
    parts = Parts(spiking, neuron, norm)
    return _assemble(plan, parts, MS, True, classes, in_channels, steps, spiking, width, stem)


for _depth, _plan in PLANS.items():
    register(f"spiking_resnet{_depth}", partial(_spiking, _plan))
    register(f"sew_resnet{_depth}", partial(_sew, _plan))
    register(f"ms_resnet{_depth}", partial(_ms, _plan))
