"""Every model of the registry: shapes, twin, options, clear errors; and the structure of the residual families."""

import pytest
import torch
from torch import nn

import rheobase as rb
from rheobase.models.resnet import MS, SEW, Classic

SMALL = {"classes": 3, "in_channels": 2, "steps": 3, "width": 4}


def small(name: str, **options: object) -> rb.models.Net:
    extra = {"image_size": 16} if name == "plain_mlp" else {}
    return rb.models.create(name, **{**SMALL, **extra, **options})


@pytest.mark.parametrize("name", rb.models.names())
def test_shapes_gradients_and_twin(name: str) -> None:
    model, images = small(name), torch.rand(2, 2, 16, 16)
    logits = model(images)
    assert logits.shape == (3, 2, 3)
    assert model(images, steps=2).shape == (2, 2, 3)
    logits.sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
    twin = small(name, spiking=False)
    assert twin(images).shape == twin(images, steps=5).shape == (1, 2, 3)
    count = [sum(p.numel() for p in m.parameters()) for m in (model, twin)]
    assert count[0] == count[1], "the twin is the same graph"
    assert not any(isinstance(m, rb.Neuron) for m in twin.modules())


@pytest.mark.parametrize("name", ["sew_resnet18", "ms_resnet18", "spiking_resnet18", "plain_convnet"])
def test_images_stay_channels_last_and_engines_agree(name: str) -> None:
    model, images = small(name).eval(), torch.rand(2, 2, 16, 16)
    with torch.no_grad():
        fast = model(images)
        with rb.engine("reference"):
            torch.testing.assert_close(model(images), fast)
        torch.testing.assert_close(model(torch.stack([images] * 3)), fast)


def test_parameters_are_those_of_the_resnets() -> None:
    """21.79 M and 25.56 M with the ImageNet stem and 1000 classes, as torchvision's ResNet-34 and 50."""
    for depth, want in ((34, 21_797_672), (50, 25_557_032)):
        model = rb.models.create(f"sew_resnet{depth}", classes=1000, stem="imagenet", spiking=False)
        assert sum(p.numel() for p in model.parameters()) == want


@pytest.mark.parametrize(("name", "convolutions"), [(18, 17), (34, 33), (50, 49), (101, 100), (152, 151)])
def test_depth_counts_weight_layers(name: int, convolutions: int) -> None:
    model = small(f"ms_resnet{name}", width=1)
    found = sum(
        isinstance(m, nn.Conv2d) and (m.kernel_size != (1, 1) or "branch" in path) for path, m in model.named_modules()
    )
    assert found == convolutions


def blocks(kind: type[nn.Module], **options: object) -> list[nn.Module]:
    name = {SEW: "sew_resnet18", MS: "ms_resnet18", Classic: "spiking_resnet18"}[kind]
    return [m for m in small(name, **options).eval().modules() if isinstance(m, kind)]


def test_blocks_by_their_equations() -> None:
    x = (torch.rand(3, 2, 4, 6, 6) > 0.7).float()
    sew, classic, ms = blocks(SEW)[0], blocks(Classic)[0], blocks(MS)[0]
    assert torch.equal(sew(x), sew.fire(sew.branch(x)) + x)
    assert torch.equal(classic(x), classic.fire.neuron(classic.fire.norm(classic.branch(x)) + x))
    nn.init.ones_(ms.fire.norm.weight)
    v = torch.randn(3, 2, 4, 6, 6)
    spikes, potentials = ms((x, v))
    assert torch.equal(potentials, ms.fire.norm(ms.branch(x)) + v)
    assert torch.equal(spikes, ms.fire.neuron(potentials))


def test_sew_and_ms_blocks_can_be_the_identity() -> None:
    x = (torch.rand(3, 2, 4, 6, 6) > 0.5).float()
    for connect in ("add", "iand"):
        sew = blocks(SEW, connect=connect)[0]
        nn.init.zeros_(sew.fire.norm.weight)
        assert torch.equal(sew(x), x)
    v = torch.randn(3, 2, 4, 6, 6)
    assert torch.equal(blocks(MS)[0]((x, v))[1], v), "an MS block begins as the identity"


def test_the_last_ms_block_gives_spikes_alone() -> None:
    *others, last = blocks(MS)
    assert all(block.fire.drive for block in others)
    assert not last.fire.drive


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_ms_resnet_by_its_equations(stem: str) -> None:
    """Potentials alone go from block to block; each has its neuron first, and one comes last."""
    model = small("ms_resnet18", stem=stem).eval()
    for module in model.modules():
        if isinstance(module, rb.CurrentNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
    images = torch.rand(2, 2, 16, 16)
    first = next(i for i, m in enumerate(model.features) if isinstance(m, MS))
    v = model.frames(images)
    for layer in model.features[: first - 1]:
        v = layer(v)
    v = model.features[first - 1].norm(v)
    for block in model.features[first:-1]:
        v = block.fire.norm(block.branch(rb.LIF()(v))) + block.shortcut(v)
    want = model.head(model.features[-1](rb.LIF()(v)))
    torch.testing.assert_close(model(images), want)


def test_neuron_option_is_a_prototype() -> None:
    model = small("sew_resnet18", neuron=rb.IF(0.7, reset="hard"))
    neurons = [m for m in model.modules() if isinstance(m, rb.Neuron)]
    assert len({id(n) for n in neurons}) == len(neurons) > 16
    assert all(isinstance(n, rb.IF) and n.threshold == 0.7 for n in neurons)


def test_without_norm_convolutions_have_biases() -> None:
    model = small("plain_convnet", norm="none")
    assert not any(isinstance(m, rb.CurrentNorm) for m in model.modules())
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"name": "sew_resnet81"}, "nearest: .*sew_resnet18"),
        ({"name": "sew_resnet18", "witdh": 3}, "did you mean 'width'"),
        ({"name": "spiking_resnet18", "connect": "and"}, "no option 'connect'"),
        ({"name": "sew_resnet18", "connect": "or"}, "connect must be one of add, and, iand, got 'or'"),
        ({"name": "sew_resnet18", "stem": "mnist"}, "stem must be 'cifar' or 'imagenet', got 'mnist'"),
        ({"name": "sew_resnet18", "norm": "layer"}, "norm must be one of current, none, got 'layer'"),
        ({"name": "sew_resnet18", "classes": 0}, "classes must be a positive integer, got 0"),
        ({"name": "sew_resnet18", "rule": "stdp"}, "rule must be 'surrogate', got 'stdp'"),
        ({"name": "sew_resnet18", "neuron": "lif"}, "neuron must be a rheobase.Neuron, got 'lif'"),
        ({"name": "plain_convnet", "depth": 0}, "depth must be a positive integer, got 0"),
    ],
)
def test_clear_errors(call: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rb.models.create(**{"classes": 2, **call})


def test_images_are_checked() -> None:
    model = small("plain_convnet")
    with pytest.raises(ValueError, match=r"images must be \[B, 2, H, W\] or .*, got shape \[4, 3, 8, 8\]"):
        model(torch.rand(4, 3, 8, 8))
    with pytest.raises(ValueError, match="this sequence has 5, got steps=3"):
        model(torch.rand(5, 4, 2, 8, 8), steps=3)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        model(torch.rand(4, 2, 8, 8), steps=0)
    with pytest.raises(ValueError, match="image_size"):
        small("plain_mlp", image_size=8)(torch.rand(4, 2, 9, 9))


def test_registering_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="exists already"):
        rb.models.register("plain_mlp", lambda **_: None)


def test_a_bfloat16_model_runs() -> None:
    model = small("sew_resnet18").bfloat16()
    logits = model(torch.rand(2, 2, 16, 16).bfloat16())
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
