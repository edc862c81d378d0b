"""Skip-free networks of any depth: the hard case for signal and gradient."""

from __future__ import annotations

from torch import Tensor, nn

from rheobase.layers import PerStep
from rheobase.models.net import Net, Parts, Pool, linear
from rheobase.models.registry import register
from rheobase.neurons import Neuron


def _sizes(depth: int, width: int) -> None:
    for key, value in (("depth", depth), ("width", width)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive integer, got {value!r}")


def plain_convnet(
    *,
    classes: int,
    in_channels: int,
    steps: int,
    spiking: bool,
    depth: int = 6,
    width: int = 32,
    neuron: Neuron | None = None,
    norm: str = "current",
) -> Net:
    """`depth` times conv3x3-norm-neuron in three stages of `width`, 2 and 4 `width` channels, each half the size."""
    _sizes(depth, width)
    parts = Parts(spiking, neuron, norm)
    layers: list[nn.Module] = []
    inputs, stage = in_channels, 0
    for i in range(depth):
        before, stage = stage, 3 * i // depth
        outputs = width * 2**stage
        layers += [parts.conv(inputs, outputs, 3, 2 if stage > before else 1), parts.fire(outputs)]
        inputs = outputs
    return Net(nn.Sequential(*layers, Pool()), linear(inputs, classes), in_channels, steps, spiking)


class Flatten(nn.Module):
    """`[T, B, C, H, W]` -> `[T, B, C H W]`, for images of one size."""

    def __init__(self, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.shape = [in_channels, image_size, image_size]

    def forward(self, x: Tensor) -> Tensor:
        """Pixels in one axis."""
        if list(x.shape[2:]) != self.shape:
            raise ValueError(f"plain_mlp: frames must be [T, B, *{self.shape}] (image_size), got {list(x.shape)}")
        return x.flatten(2)


def plain_mlp(
    *,
    classes: int,
    in_channels: int,
    steps: int,
    spiking: bool,
    depth: int = 2,
    width: int = 512,
    image_size: int = 32,
    neuron: Neuron | None = None,
    norm: str = "current",
) -> Net:
    """`depth` times linear-norm-neuron, all of `width` units."""
    _sizes(depth, width)
    parts = Parts(spiking, neuron, norm)
    layers: list[nn.Module] = [Flatten(in_channels, image_size)]
    inputs = in_channels * image_size**2
    for _ in range(depth):
        dense = nn.Linear(inputs, width, bias=norm == "none")
        nn.init.kaiming_normal_(dense.weight, nonlinearity="relu")
        layers += [PerStep(dense), parts.fire(width)]
        inputs = width
    return Net(nn.Sequential(*layers), linear(inputs, classes), in_channels, steps, spiking)


register("plain_convnet", plain_convnet)
register("plain_mlp", plain_mlp)
