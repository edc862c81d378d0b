"""Residual networks of 11 to 152 layers with three junctions: the classic spiking one, SEW and MS.

With F the branch, S the block's input and SN the neuron:
    classic  O = SN(F(S) + S)        currents are added, then the neuron
    SEW      O = g(SN(F(S)), S)      spikes are joined by g: add, and, iand (Fang et al. 2021)
    MS       O = F(SN(S)) + S        potentials are added, neurons sit inside the branch (Hu et al. 2021)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from rheobase.layers import JUNCTIONS, Fire, PerStep
from rheobase.models.family import Count, Family
from rheobase.models.net import Parts, Pool
from rheobase.models.registry import register

Connect = Literal["add", "and", "iand"]
Start = Literal["identity", "plain"]
_SUMMED = 0.5**0.5
"""tdBN's alpha where two normed currents are added (Zheng et al. 2021)."""


class Conv(NamedTuple):
    """A convolution within a block."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1


class Block(nn.Module):
    """A branch conv-fire-...-conv, a last norm and neuron `fire`, and a shortcut around them.

    With `identity` the last norm (without one, the last convolution) begins at zero, so that nothing comes out of the
    branch and the block passes on what its shortcut does.
    """

    def __init__(
        self, parts: Parts, convs: list[Conv], identity: bool, fire: Any, last: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        *inner, end = convs
        layers: list[nn.Module] = []
        for conv in inner:
            layers += [parts.conv(*conv), parts.fire(conv.outputs)]
        final = parts.conv(*end)
        if identity and not parts.normed:
            for parameter in final.parameters():
                nn.init.zeros_(parameter)
        self.branch = nn.Sequential(*layers, final)
        self.fire: Fire = fire(end.outputs, gain=0.0 if identity else 1.0)
        inputs, stride = convs[0].inputs, max(conv.stride for conv in convs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != end.outputs or stride > 1:
            self.shortcut = nn.Sequential(parts.conv(inputs, end.outputs, 1, stride), last(end.outputs))


class Classic(Block):
    """O = SN(F(S) + S)."""

    def __init__(self, parts: Parts, convs: list[Conv], identity: bool = False) -> None:
        fire, norm = partial(parts.fire, alpha=_SUMMED), partial(parts.norm, alpha=_SUMMED)
        super().__init__(parts, convs, identity, fire, norm)

    def forward(self, s: Tensor) -> Tensor:
        """Spikes to spikes."""
        out: Tensor = self.fire(self.branch(s), self.shortcut(s))
        return out


class SEW(Block):
    """O = g(SN(F(S)), S)."""

    def __init__(self, parts: Parts, convs: list[Conv], connect: Connect, identity: bool = False) -> None:
        super().__init__(parts, convs, identity, parts.fire, parts.fire)
        self.connect = connect
        if identity and connect == "and":  # the branch has to fire at every step
            last: Any = self.fire.norm if parts.normed else self.branch[-1].module
            nn.init.constant_(last.bias, parts.threshold() if parts.spiking else 1.0)

    def forward(self, s: Tensor) -> Tensor:
        """Spikes to spikes (small integers with "add")."""
        currents, s = self.branch(s), self.shortcut(s)
        if self.connect == "add":  # as one operator with the neuron
            out: Tensor = self.fire(currents, skip=s)
            return out
        return JUNCTIONS[self.connect](self.fire(currents), s)


class MS(Block):
    """O = F(SN(S)) + S.

    What it takes in is the pair (SN(S), S), and what it gives out such a pair of O: norm, sum and neuron are one
    operator. The network's last block gives SN(O) alone (`last`).
    """

    def __init__(self, parts: Parts, convs: list[Conv], identity: bool = True, last: bool = False) -> None:
        super().__init__(parts, convs, identity, partial(parts.fire, drive=not last), parts.norm)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Any:
        """Spikes and potentials to the next ones."""
        s, v = inputs
        return self.fire(self.branch(s), self.shortcut(v))


class Plan(NamedTuple):
    """Blocks in each stage, whether they are bottlenecks, the first stage's channels, and units of a hidden layer."""

    blocks: tuple[int, ...]
    bottleneck: bool = False
    width: int = 64
    hidden: int = 0  # in units of the width


PLANS = {
    11: Plan((1, 1, 1, 1), hidden=16),
    18: Plan((2, 2, 2, 2)),
    19: Plan((3, 3, 2), width=128, hidden=2),
    20: Plan((3, 3, 3), width=16),
    34: Plan((3, 4, 6, 3)),
    50: Plan((3, 4, 6, 3), True),
    101: Plan((3, 4, 23, 3), True),
    152: Plan((3, 8, 36, 3), True),
}


def _stages(plan: Plan, width: int) -> list[list[Conv]]:
    """The convolutions of every block; a stage doubles the channels and (but for the first) halves the size."""
    blocks: list[list[Conv]] = []
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


@dataclass(frozen=True, kw_only=True)
class ResNet(Family):
    """Stem, residual blocks, mean over space, linear head.

    Depths 18 to 152 are those of He et al. 2016 for ImageNet, 20 the one for CIFAR (widths 16, 32, 64). 19 is that of
    Zheng et al. 2021 (128, 256, 512, and a hidden layer of 256; here with a norm, as all layers). 11 is a reading of
    its number, which is all that Ledinauskas et al. 2020 tell: four blocks, one a stage, and a hidden layer of 1024.

    Attributes:
        junction: see above.
        depth: number of layers with weights.
        width: channels of the first stage; None: those of the papers.
        stem: "cifar", a 3x3 convolution; or "imagenet", one of 7x7 with stride 2, and a pooling.
        connect: g of the SEW junction.
        start: whether each block begins as the identity, but for a convolution in its shortcut; None: MS blocks with a
            norm do, as in their authors' code.
    """

    junction: Literal["classic", "sew", "ms"]
    depth: Literal[11, 18, 19, 20, 34, 50, 101, 152]
    width: Count | None = None
    stem: Literal["cifar", "imagenet"] = "cifar"
    connect: Connect = "add"
    start: Start | None = None

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """Its layers."""
        plan = PLANS[self.depth]
        width = self.width or plan.width
        *branches, last = _stages(plan, width)
        default = "identity" if self.junction == "ms" and parts.normed else "plain"
        identity = (self.start or default) == "identity"
        block: Any = partial({"classic": Classic, "sew": SEW, "ms": MS}[self.junction], parts, identity=identity)
        if self.junction == "sew":
            block = partial(block, connect=self.connect)
        layers = [*self._stem(parts, width), *map(block, branches)]
        layers += [block(last, last=True) if self.junction == "ms" else block(last), Pool()]
        features = last[-1].outputs
        if plan.hidden:
            hidden = plan.hidden * width
            return [*layers, parts.dense(features, hidden), parts.fire(hidden)], hidden
        return layers, features

    def _stem(self, parts: Parts, width: int) -> list[nn.Module]:
        """The first layers, up to what blocks take: spikes, and in an MS net also potentials."""
        potentials = self.junction == "ms"
        if self.stem == "cifar":
            return [parts.conv(self.in_channels, width, 3), parts.fire(width, drive=potentials)]
        conv, pool = parts.conv(self.in_channels, width, 7, 2), PerStep(nn.MaxPool2d(3, 2, 1))
        if potentials:
            return [conv, parts.norm(width), pool, Fire(nn.Identity(), parts.neuron(), drive=True)]
        return [conv, parts.fire(width), pool]


for _depth in PLANS:
    if _depth not in (11, 19, 20):
        register(f"sew_resnet{_depth}", ResNet, junction="sew", depth=_depth)
        register(f"ms_resnet{_depth}", ResNet, junction="ms", depth=_depth, connect="add")
    register(f"spiking_resnet{_depth}", ResNet, junction="classic", depth=_depth, connect="add")
