"""7B-Net and Wide-7B-Net, for event cameras (Fang et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rheobase.layers import PerStep
from rheobase.models.family import Count, Family
from rheobase.models.net import Parts, Pool
from rheobase.models.registry import register
from rheobase.models.resnet import SEW, Begin, Connect, Conv, Start


@dataclass(frozen=True, kw_only=True)
class SevenBlocks(Family):
    """Seven SEW blocks, each with a pooling (the maximum of 2x2), behind a 1x1 convolution; frames are 128x128 there.

    Attributes:
        wide: whether the channels double after four blocks (another 1x1 convolution).
        width: channels of the first block; None: 32, wide 64.
        connect: g of the SEW junction.
        start: whether each block begins as the identity.
    """

    wide: bool
    width: Count | None = None
    connect: Connect = "add"
    start: Start = "plain"

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """Its layers."""
        width = self.width or (64 if self.wide else 32)
        layers: list[nn.Module] = [parts.conv(self.in_channels, width, 1), parts.fire(width)]
        for i in range(7):
            if self.wide and i == 4:
                layers += [parts.conv(width, 2 * width, 1), parts.fire(2 * width)]
                width *= 2
            convs = [Conv(width, width, 3)] * 2
            layers.append(SEW(parts, convs, self.connect, Begin(self.start == "identity")))
            layers.append(PerStep(nn.MaxPool2d(2, ceil_mode=True)))
        return [*layers, Pool()], width


register("7b_net", SevenBlocks, wide=False)
register("wide_7b_net", SevenBlocks, wide=True)
