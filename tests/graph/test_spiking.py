"""`to_spiking` makes the net that one would write by hand with `Fire`."""

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from tests.graph.networks import NETWORKS, BasicBlock, TorchvisionResNet, images, mlp, randomized, vgg


def spiking(module: nn.Module, **options: Any) -> rb.models.Net:
    return rb.to_spiking(module, **{"neuron": rb.LIF(0.6, 0.5), "steps": 3, **options})


def rates(net: nn.Module, *args: Any) -> dict[str, float]:
    with rb.record(net) as tape, torch.no_grad():
        net(*args)
    return {path: trace.spikes.mean().item() for path, trace in tape.items()}


class Block(nn.Module):
    """The torchvision block by hand."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.fire1 = rb.PerStep(block.conv1), fire(block.bn1)
        self.conv2, self.fire2 = rb.PerStep(block.conv2), fire(block.bn2)
        self.shortcut: nn.Module = nn.Identity()
        if block.downsample is not None:
            self.shortcut = nn.Sequential(rb.PerStep(block.downsample[0]), current_norm(block.downsample[1]))

    def forward(self, s: Tensor) -> Tensor:
        return self.fire2(self.conv2(self.fire1(self.conv1(s))), self.shortcut(s))


def current_norm(norm: nn.BatchNorm2d) -> rb.CurrentNorm:
    found = rb.CurrentNorm(norm.num_features)
    found.load_state_dict({key: value for key, value in norm.state_dict().items() if key != "num_batches_tracked"})
    return found


def fire(norm: nn.BatchNorm2d) -> rb.Fire:
    return rb.Fire(current_norm(norm), rb.LIF(0.6, 0.5))


class Hand(nn.Module):
    def __init__(self, ann: TorchvisionResNet) -> None:
        super().__init__()
        ann = copy.deepcopy(ann)
        self.stem = nn.Sequential(rb.PerStep(ann.conv1), fire(ann.bn1), rb.PerStep(ann.maxpool))
        self.blocks = nn.Sequential(*[Block(block) for block in (*ann.layer1, *ann.layer2)])
        self.pool, self.fc = rb.PerStep(nn.Sequential(ann.avgpool, nn.Flatten())), rb.PerStep(ann.fc)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, steps: int = 3) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return self.fc(self.pool(self.blocks(self.stem(x.expand(steps, *x.shape)))))


def both() -> tuple[rb.models.Net, nn.Module]:
    ann = randomized(TorchvisionResNet())
    return spiking(ann), Hand(ann)


def test_it_is_the_net_written_by_hand_bit_for_bit() -> None:
    net, hand = both()
    x = images(6)
    labels = torch.arange(6)
    for _ in range(2):  # in training, twice, so that running statistics count
        found, wanted = net(x), hand(x)
        assert torch.equal(found, wanted)
        grads = []
        for logits, one in ((found, net), (wanted, hand)):
            F.cross_entropy(rb.readout(logits), labels).backward()
            named = {id(p): p.grad for p in one.parameters()}
            grads.append(sorted(float(g.abs().sum()) for g in named.values()))
        assert grads[0] == grads[1]
        assert min(grads[0]) > 0
    assert torch.equal(net.features.conv1.module.weight.grad, hand.stem[0].module.weight.grad)
    net.eval(), hand.eval()
    assert torch.equal(net(x), hand(x))
    found = rates(net, x)
    assert len(found) == 9
    assert 0.02 < min(found.values()) < max(found.values()) < 0.9


@pytest.mark.parametrize("junction", ["sew", "ms", "spiking"])
def test_a_twin_becomes_the_spiking_net_of_its_name(junction: str) -> None:
    # 8 channels: of fewer, the backward pass of a strided 1x1 convolution writes where it must not (oneDNN issue 6035)
    options = {"classes": 3, "in_channels": 1, "width": 8, "steps": 3, "start": "plain"}
    torch.manual_seed(0)
    twin = rb.models.create(f"{junction}_resnet18", spiking=False, **options)
    net = rb.models.create(f"{junction}_resnet18", neuron=rb.LIF(0.6, 0.5), **options)
    net.load_state_dict(twin.state_dict())
    mine = spiking(twin)
    x = 2 * images(6)
    found, wanted = mine(x), net(x)
    assert min(rates(net, x).values()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for logits in (found, wanted):
        F.cross_entropy(rb.readout(logits), torch.arange(6) % 3).backward()
    theirs = dict(net.named_parameters())
    last = f"features.{len(net.features)}"
    assert len(theirs) == len(list(mine.parameters()))
    for path, parameter in mine.named_parameters():
        other = theirs[path.replace("norm.norm", "norm").replace(last, "head")]
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-5)
    fires = [[m for m in one.modules() if isinstance(m, rb.Fire)] for one in (mine, net)]
    assert len(fires[0]) == len(fires[1])
    assert sum(f.drive for f in fires[0]) == sum(f.drive for f in fires[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_learn_fire_and_stream(name: str) -> None:
    net = spiking(randomized(NETWORKS[name]()))
    x = images(6)
    net(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    net.eval()
    with torch.no_grad():
        whole = net(x, steps=5)
    assert whole.shape == (5, 6, 10)
    found = rates(net, x)
    assert 0.005 < min(found.values()) <= max(found.values()) < 0.95
    frames = x.expand(5, *x.shape)
    first, state = rb.run(net, frames[:2])
    rest, _ = rb.run(net, frames[2:], state)
    torch.testing.assert_close(torch.cat([first, rest]), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net(frames.clone()), whole, rtol=1e-5, atol=1e-6)
    moving = x * torch.tensor([1.0, 0.3, 1.5, 0.1, 2.0]).view(5, 1, 1, 1, 1)
    assert not torch.allclose(net(moving), whole)


def test_weights_and_statistics_are_kept_and_are_copies() -> None:
    ann = randomized(TorchvisionResNet()).train()
    ann.bn1.eval()  # frozen
    ann.bn1.weight.requires_grad_(False)
    net = spiking(ann)
    norm = net.features.bn1.norm
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(norm, name), getattr(ann.bn1, name))
    assert (norm.training, norm.weight.requires_grad, norm.bias.requires_grad) == (False, False, True)
    assert net.features.layer2.get_submodule("0").bn1.norm.training
    with torch.no_grad():
        net.features.conv1.module.weight.zero_()
    assert ann.conv1.weight.abs().sum() > 0
    assert not spiking(ann.eval()).training


def test_it_is_saved_and_loaded_by_the_users_own_code() -> None:
    net = spiking(randomized(TorchvisionResNet()))
    net(images())
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    again = spiking(TorchvisionResNet(), neuron=rb.LIF(0.1))
    again.load_state_dict(torch.load(file, weights_only=True))
    again.eval(), net.eval()
    assert torch.equal(again(images()), net(images()))
    assert torch.equal(copy.deepcopy(net)(images()), net(images()))
    with pytest.raises(TypeError, match="save: load would not give this model back"):
        rb.save(net, "nowhere")


def test_each_place_has_a_neuron_of_its_own() -> None:
    mine = rb.LIF(0.7, learn="decay")
    net = spiking(randomized(TorchvisionResNet()), neuron=mine)
    neurons = [m for m in net.modules() if isinstance(m, rb.LIF)]
    assert len(neurons) == len({id(n.raw_decay) for n in neurons}) == 9
    assert mine not in neurons


def test_sequences_are_padded_as_in_any_net() -> None:
    net, hand = both()
    frames, lengths = torch.rand(3, 6, 1, 8, 8), torch.tensor([1, 2, 3, 3, 2, 1])
    with rb.padding(lengths):
        net(frames)
    moved = net.features.bn1.norm.running_mean
    frames[1:, 0] = frames[2:, 1] = frames[1:, 5] = 7.0
    frames[2:, 4] = 7.0
    other, _ = both()
    with rb.padding(lengths):
        other(frames)
    torch.testing.assert_close(other.features.bn1.norm.running_mean, moved)
    hand(frames[0])
    assert not torch.allclose(hand.stem[1].norm.running_mean, moved)


def test_inputs_of_other_shapes() -> None:
    torch.manual_seed(0)
    dense = rb.to_spiking(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), steps=4).eval()
    x = 3 * torch.rand(5, 6)
    assert dense(x).shape == (4, 5, 2)
    assert torch.equal(rb.run(dense, x)[0], dense(x))
    assert dense(x.expand(7, 5, 6)).shape == (7, 5, 2)
    with pytest.raises(ValueError, match=r"images must be \[B, 6\] or \[T, B, 6\], got shape \[5, 7\]"):
        dense(torch.rand(5, 7))
    sound = rb.to_spiking(nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 2, 1)))
    assert sound(torch.rand(5, 3, 9)).shape == (4, 5, 2, 7)
    with pytest.raises(ValueError, match=r"\[B, 3, W\] or \[T, B, 3, W\]"):
        sound(torch.rand(5, 2, 9))
    volume = rb.to_spiking(nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)))
    assert volume(torch.rand(6, 2, 4, 4, 4)).shape == (4, 6, 5)
    wider = rb.to_spiking(nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten()))
    assert wider(torch.rand(6, 3, 4, 4)).shape == (4, 6, 18)
    with pytest.raises(
        ValueError, match=r"images must be \[B, 1, H, W\] or \[T, B, 1, H, W\], got shape \[4, 3, 8, 8\]"
    ):
        spiking(TorchvisionResNet())(torch.rand(4, 3, 8, 8))
    assert rb.to_spiking(mlp())(images()).shape == (4, 4, 10)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(6, 2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(input=self.fc(input=x))


def test_inputs_may_be_named() -> None:
    assert rb.to_spiking(Named())(torch.rand(5, 6)).shape == (4, 5, 2)


def test_float64() -> None:
    net = spiking(randomized(TorchvisionResNet()).double())
    assert net(images().double()).dtype is torch.float64


def test_images_lie_in_channels_last_memory() -> None:
    net = spiking(randomized(vgg()))
    assert net.features.get_submodule("0.0").module.weight.is_contiguous(memory_format=torch.channels_last)
    with rb.record(net) as tape:
        net(images())
    trace = next(iter(tape.values()))
    assert trace.spikes[0].is_contiguous(memory_format=torch.channels_last)


def test_it_tells_what_became_of_each_layer() -> None:
    net = spiking(TorchvisionResNet())
    text = net.report
    assert repr(net).startswith("GraphNet(TorchvisionResNet, to_spiking, steps=3")
    for said in (
        "layer1.0.bn2 + layer1.0.add + layer1.0.relu_2",
        "Fire, residual maxpool",
        "BatchNorm2d + ReLU",
        "PerStep",
    ):
        assert said in text
    assert sum(" + " not in line and "PerStep" in line for line in text.splitlines()) >= 11


class Changing(nn.Module):
    """Another network in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.relu(x) if self.training else x


def test_mistakes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Changing cannot be read: .*\(test_spiking.py, line \d+\).* in training than"
    ):
        rb.to_spiking(Changing())
    with pytest.raises(ValueError, match="to_spiking: Conv2d has no activation"):
        rb.to_spiking(nn.Conv2d(1, 2, 3))
    with pytest.raises(TypeError, match="neuron must be a rheobase.Neuron, got ReLU"):
        rb.to_spiking(mlp(), nn.ReLU())
    with pytest.raises(ValueError, match="to_spiking: steps must be a positive integer, got 0"):
        rb.to_spiking(mlp(), steps=0)


def test_it_compiles() -> None:
    net = spiking(randomized(TorchvisionResNet())).eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()), net(images()))
