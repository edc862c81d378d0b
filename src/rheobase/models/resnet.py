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
from rheobase.models.margin import margin
from rheobase.models.net import Parts, Pool, firing_current
from rheobase.models.registry import register
from rheobase.neurons import LIF

Connect = Literal["add", "and", "iand"]
Start = Literal["identity", "plain"]
Shortcut = Literal["conv", "pool"]
WIDE = 3.0
"""How much wider surrogates are on the identity path of classic blocks."""
_SUMMED = 0.5**0.5
"""tdBN's alpha where two normed currents are added (Zheng et al. 2021)."""


class Conv(NamedTuple):
    """A convolution within a block."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1


class Begin(NamedTuple):
    """How blocks begin: as the identity or not, and with which shortcuts where there has to be a layer."""

    identity: bool = False
    shortcut: Shortcut = "conv"


class Block(nn.Module):
    """A branch conv-fire-...-conv, a last norm and neuron `fire`, and a shortcut around them.

    A block that begins as the identity lets nothing out of its branch at first: the last norm (without one, the last
    convolution) begins at zero. It passes on what its shortcut does.
    """

    def __init__(
        self, parts: Parts, convs: list[Conv], begin: Begin, fire: Any, last: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        *inner, end = convs
        layers: list[nn.Module] = []
        for conv in inner:
            layers += [parts.conv(*conv), parts.fire(conv.outputs)]
        self.branch = nn.Sequential(*layers, parts.conv(*end))
        self.fire: Fire = fire(end.outputs)
        inputs, stride = convs[0].inputs, max(conv.stride for conv in convs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 and begin.shortcut == "pool":
            pool = PerStep(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
            self.shortcut = nn.Sequential(pool, parts.conv(inputs, end.outputs, 1), last(end.outputs))
        elif inputs != end.outputs or stride > 1:
            self.shortcut = nn.Sequential(parts.conv(inputs, end.outputs, 1, stride), last(end.outputs))
        if begin.identity:
            self.begin_as_identity()

    def begin_as_identity(self) -> None:
        """Let nothing out of the branch."""
        last = self._last
        for parameter in (last.weight, last.bias):
            nn.init.zeros_(parameter)

    @property
    def begun(self) -> bool:
        """Whether nothing comes out of its branch yet."""
        return not self._last.weight.any()

    @property
    def _last(self) -> Any:
        """The last norm, or without one the last convolution."""
        convolution: Any = self.branch[-1]
        return convolution.module if isinstance(self.fire.norm, nn.Identity) else self.fire.norm


class Classic(Block):
    """O = SN(F(S) + S)."""

    def __init__(self, parts: Parts, convs: list[Conv], begin: Begin = Begin()) -> None:  # noqa: B008  (a constant)
        fire, norm = partial(parts.fire, alpha=_SUMMED), partial(parts.norm, alpha=_SUMMED)
        self.steps = parts.steps
        super().__init__(parts, convs, begin, fire, norm)

    def begin_as_identity(self) -> None:
        """Besides, see to it that the neuron passes spikes on safely, and their gradient as it is.

        For the spikes a constant current comes with them (`margin`). For the gradient it goes through the reset: with a
        soft one dv/du = 1 - threshold h, so that what goes to the spikes does not also stay in the potential. Were the
        reset detached, the gradient of a neuron that fires at every step would grow by up to 1 / (1 - decay) a block.
        And the surrogate is `WIDE` times as wide as in the branch, so that h is near its peak wherever u stands.
        """
        super().begin_as_identity()
        neuron: Any = self.fire.neuron
        if isinstance(neuron, LIF) and isinstance(self.shortcut, nn.Identity):
            neuron.detach_reset = False
            if not neuron.surrogate_width.is_meta:
                within: Any = next(layer.neuron for layer in self.branch if isinstance(layer, Fire))
                neuron.surrogate = within.surrogate.stretched(WIDE)
                nn.init.constant_(self._last.bias, margin(neuron, self.steps) or 0.0)

    def forward(self, s: Tensor) -> Tensor:
        """Spikes to spikes."""
        out: Tensor = self.fire(self.branch(s), self.shortcut(s))
        return out


class SEW(Block):
    """O = g(SN(F(S)), S)."""

    def __init__(self, parts: Parts, convs: list[Conv], connect: Connect, begin: Begin = Begin()) -> None:  # noqa: B008
        self.connect = connect
        super().__init__(parts, convs, begin, parts.fire, parts.fire)

    def begin_as_identity(self) -> None:
        """With "and" the branch has to fire at every step."""
        super().begin_as_identity()
        if self.connect == "and":
            nn.init.constant_(self._last.bias, firing_current(self.fire.neuron))

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

    def __init__(self, parts: Parts, convs: list[Conv], begin: Begin = Begin(True), last: bool = False) -> None:  # noqa: B008
        super().__init__(parts, convs, begin, partial(parts.fire, drive=not last), parts.norm)

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
        start: whether each block begins as the identity, but for what has to be in its shortcut (`Block`); None:
            classic blocks do where their neurons pass spikes on (`margin`), and MS blocks with a norm, as in their
            authors' code. Classic nets of 34 layers and more hardly learn from a plain start.
        shortcut: what a shortcut is where a block has a stride: "conv", a 1x1 convolution with that stride; or "pool",
            the mean over as many places, and a 1x1 convolution (He et al. 2019, ResNet-D), which throws nothing away;
            None: "pool" for classic blocks, which have nothing else at first where they begin as the identity.
    """

    junction: Literal["classic", "sew", "ms"]
    depth: Literal[11, 18, 19, 20, 34, 50, 101, 152]
    width: Count | None = None
    stem: Literal["cifar", "imagenet"] = "cifar"
    connect: Connect = "add"
    start: Start | None = None
    shortcut: Shortcut | None = None

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """Its layers."""
        plan = PLANS[self.depth]
        width = self.width or plan.width
        *branches, last = _stages(plan, width)
        classic, able = self.junction == "classic", margin(parts.prototype, self.steps) is not None
        if classic and not able and self.start == "identity":
            raise ValueError(
                f"start 'identity' needs neurons that pass on the spikes they get, got {parts.prototype!r}"
            )
        default = "identity" if (classic and able) or (self.junction == "ms" and parts.normed) else "plain"
        identity = (self.start or default) == "identity"
        begin = Begin(identity, self.shortcut or ("pool" if classic else "conv"))
        block: Any = partial({"classic": Classic, "sew": SEW, "ms": MS}[self.junction], parts, begin=begin)
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
