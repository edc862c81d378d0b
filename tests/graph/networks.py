"""Networks as users write them: look-alikes of torchvision and timm, and others."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """As torchvision writes it: one activation for two places, in place, and a sum in place."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class TorchvisionResNet(nn.Module):
    def __init__(self, width: int = 8, channels: int = 1, classes: int = 10, pool: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(x, 1))


class SelectPool(nn.Module):
    """As timm's global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.pool(x))


class Bottleneck(nn.Module):
    """As timm writes it: identities for what is switched off, an activation for each place."""

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 2 * planes
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2, self.drop_block = nn.BatchNorm2d(planes), nn.Identity()
        self.act2, self.aa = nn.ReLU(inplace=True), nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.se = self.drop_path = None
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
            conv = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.downsample = nn.Sequential(pool, conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(x)))))
        x = self.bn3(self.conv3(x))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x += shortcut
        return self.act3(x)


class TimmResNet(nn.Module):
    def __init__(self, width: int = 8, channels: int = 1, classes: int = 10, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.act1, self.maxpool = nn.ReLU(inplace=True), nn.Identity()
        self.layer1 = nn.Sequential(Bottleneck(width, width), Bottleneck(2 * width, width))
        self.layer2 = nn.Sequential(Bottleneck(2 * width, 2 * width, 2))
        self.global_pool = SelectPool()
        self.fc = nn.Linear(4 * width, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer2(self.layer1(x))

    def forward_head(self, x: Tensor) -> Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class FunctionalResNet(nn.Module):
    """A CIFAR ResNet as in many repositories: all but the layers with weights are functions."""

    def __init__(self, width: int = 8, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(x)), inplace=True)
        out = F.relu(x + self.bn3(self.conv3(out)))
        out = F.avg_pool2d(out, 4)
        out = out.view(out.size(0), -1)
        return self.linear(out)


class PreActivation(nn.Module):
    """Norm and activation before each convolution; the activation in place, as timm's."""

    def __init__(self, width: int = 8, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(self.act(self.norm1(x)))
        x = x + self.conv2(self.act(self.norm2(y)))
        return self.head(self.act(self.norm(x)).mean((2, 3)))


class Branches(nn.Module):
    """Two branches one behind the other, as in Inception and DenseNet."""

    def __init__(self, width: int = 8, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 1, 1))
        self.head = nn.Sequential(nn.BatchNorm2d(2 * width), nn.Conv2d(2 * width, width, 3), nn.ReLU())
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.fc(self.head(x).mean(dim=[-1, -2]))


class Shortcut(nn.Module):
    """Strided without weights, and channels of zeros, as He et al. have it for CIFAR."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2), "constant", 0)


class CifarResNet(nn.Module):
    """As the repositories for CIFAR write it: that shortcut, and pooling over the size that there is."""

    def __init__(self, width: int = 8, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.conv3, self.bn3 = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.shortcut = Shortcut(width)
        self.linear = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(x)))
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        out = F.relu(out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class Squeezed(nn.Module):
    """Padding by itself, axes of one taken off in several ways, and a view of known size."""

    def __init__(self, width: int = 8, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.conv1 = nn.Conv2d(channels, width, 3, 2)
        self.conv2, self.conv3 = nn.Conv2d(width, width, 3), nn.Conv2d(width, width, 4)
        self.fc1, self.fc2 = nn.Linear(width, 4), nn.Linear(16 * width, classes)
        self.fc3, self.fc4 = nn.Linear(width, 4), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(self.pad(x)))
        wide = F.relu(self.conv2(F.pad(x, [1, 1, 1, 1])))
        narrow = F.relu(self.conv3(wide))
        one, two = narrow.squeeze(-1).squeeze(2), F.avg_pool2d(wide, kernel_size=wide.shape[2:])[:, :, 0, 0]
        joined = torch.cat([self.fc1(one), self.fc3(torch.squeeze(two, 1))], 1)
        return self.fc2(wide.view(-1, 128)) + self.fc4(F.relu(joined).reshape(joined.size(0), 8))


def vgg(width: int = 8, channels: int = 1, classes: int = 10, norm: bool = True) -> nn.Sequential:
    """As torchvision's, but for its size."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        norms = [nn.BatchNorm2d(outputs)] if norm else []
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *norms, nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)]

    features = nn.Sequential(*stage(channels, width), *stage(width, 2 * width))
    head = nn.Sequential(nn.Linear(8 * width, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, classes))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), head)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": TorchvisionResNet,
    "timm": TimmResNet,
    "timm with dropout": lambda: TimmResNet(drop_rate=0.2),
    "functional": FunctionalResNet,
    "pre-activation": PreActivation,
    "branches": Branches,
    "cifar": CifarResNet,
    "squeezed": Squeezed,
    "vgg": vgg,
    "vgg without norm": lambda: vgg(norm=False),
    "mlp": mlp,
}


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights, and statistics of norms, that are those of a seed and of no symmetry."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator).to(like)

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.weight.copy_(0.5 + draw(part.weight))
                part.bias.copy_(draw(part.bias) - 0.3)
                part.running_mean.copy_(draw(part.running_mean) - 0.5)
                part.running_var.copy_(0.3 + draw(part.running_var))
            elif isinstance(part, nn.Conv2d | nn.Linear):
                fan = part.weight[0].numel()
                part.weight.copy_((draw(part.weight) - 0.5) * (12 * 1.5 / fan) ** 0.5)
                if part.bias is not None:
                    part.bias.copy_(0.2 * (draw(part.bias) - 0.5))
    return module


def images(count: int = 4, seed: int = 1, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 0.5


class Small(nn.Module):
    """A residual network that learns digits in seconds, with average pooling, and an activation for each place."""

    def __init__(self, width: int = 12, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), activation(), nn.AvgPool2d(2)
        )
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.act1, self.act2 = activation(), activation()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * width, 48), activation(), nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.head(self.act2(y + x))
