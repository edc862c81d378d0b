"""Every model of the registry: shapes, twin, options, clear errors; and the structure of the residual families."""

import gc
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rheobase as rb
from rheobase.models.margin import margin
from rheobase.models.resnet import MS, SEW, Block, Classic

SMALL = {"classes": 3, "in_channels": 2, "steps": 3}
OPTIONS = {"width": 4, "image_size": 16, "layers": "9-R7"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(name: str, **options: object) -> rb.models.Net:
    takes = rb.models.options(name)
    return rb.models.create(name, **SMALL, **{**{k: v for k, v in OPTIONS.items() if k in takes}, **options})


def images(batch: int = 3, size: int = 16) -> Tensor:
    return torch.randn(batch, 2, size, size, generator=torch.Generator().manual_seed(1))


def awake(model: nn.Module, x: Tensor) -> Any:
    """In evaluation mode, the norms with the statistics of these inputs, so that every layer fires."""
    norms = [m for m in model.modules() if isinstance(m, rb.CurrentNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.8, 1.2)
        model.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def rates(model: nn.Module, x: Tensor) -> Tensor:
    """The share of steps at which each layer fires."""
    with torch.no_grad(), rb.record(model) as tape:
        model(x)
    return torch.stack([trace.spikes.mean() for trace in tape.values()])


def parameters(model: nn.Module, weights_only: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.dim() > 1 or not weights_only)


@pytest.mark.parametrize("name", rb.models.names())
def test_shapes_gradients_and_twin(name: str) -> None:
    options = {"width": 2} if name.endswith(("101", "152")) else {}
    model, x = small(name, **options), images(2)
    logits = model(x)
    assert logits.shape == (3, 2, 3)
    assert model(x, steps=2).shape == (2, 2, 3)
    logits.square().sum().backward()
    reached = []
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        reached.append(bool(parameter.grad.any()))
    assert reached[0]
    assert sum(reached) > 0.2 * len(reached), "(an MS block begins as the identity: only its last norm learns at first)"
    assert rates(model, x)[-1] > 0.02, "the readout sees spikes"
    twin = small(name, spiking=False, **options)
    assert twin(x).shape == twin(x, steps=5).shape == (1, 2, 3)
    back = sum(m.module.weight.numel() for m in model.modules() if isinstance(m, rb.Recurrent))
    assert parameters(model) - back == parameters(twin), "the twin is the same graph"
    twin.load_state_dict(model.state_dict())
    model.load_state_dict(twin.state_dict())
    assert not any(isinstance(m, rb.Neuron) for m in twin.modules())


@pytest.mark.parametrize("name", ["sew_resnet18", "ms_resnet18", "spiking_resnet18", "plain_convnet"])
@torch.no_grad()
def test_images_stay_channels_last_and_engines_agree(name: str) -> None:
    x = images()
    model = awake(small(name), x)
    assert rates(model, x).min() > 0.02
    fast = model(x)
    with rb.engine("reference"):
        torch.testing.assert_close(model(x), fast, rtol=1e-4, atol=1e-4)
    with rb.engine(fused=False):
        torch.testing.assert_close(model(x), fast, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(torch.stack([x] * 3)), fast, rtol=1e-4, atol=1e-4)
    contiguous = awake(small(name), x).to(memory_format=torch.contiguous_format)
    contiguous.load_state_dict(model.state_dict())
    torch.testing.assert_close(contiguous(x), fast, rtol=1e-4, atol=1e-4)
    seen = []
    handle = model.features[2].register_forward_hook(lambda _, inputs, output: seen.append(output))
    model(x)
    handle.remove()
    found = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_the_same_with_activation_checkpointing(reentrant: bool) -> None:
    def gradients(checkpointed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = small("plain_convnet", depth=3, neuron=rb.LIF(0.9))
        hidden = model.frames(images().requires_grad_(reentrant))  # the reentrant form wants an input with a gradient
        for layer in model.features:
            hidden = checkpoint(layer, hidden, use_reentrant=reentrant) if checkpointed else layer(hidden)
        model.head(hidden).square().sum().backward()
        return [p.grad for p in model.parameters()]

    want = gradients(False)
    assert all(g.any() for g in want)
    torch.testing.assert_close(gradients(True), want, rtol=1e-4, atol=1e-5)


def test_a_pixel_that_is_not_a_number_shows() -> None:
    for name in ("plain_convnet", "sew_resnet18"):
        model, x = small(name), images()
        x[0, 0, 0, 0] = math.nan
        assert rb.readout(model(x)).isnan().any(), "as in the ANN twin"


class Deaf(rb.Neuron):
    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return (current >= 1).to(current.dtype), state


def test_a_net_of_neurons_that_cannot_learn_is_told_so() -> None:
    with pytest.warns(RuntimeWarning, match=r"Deaf: .*rheobase\.spike"):
        small("plain_convnet", neuron=Deaf())(images())


def test_training_leaves_nothing_behind() -> None:
    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    model = small("plain_convnet", depth=3)
    optimizer, counts = torch.optim.SGD(model.parameters(), 0.01), []
    for i in range(12):
        optimizer.zero_grad()
        rb.readout(model(images(2 + i % 3), steps=1 + i % 4)).square().mean().backward()
        optimizer.step()
        model.features[1].neuron.surrogate = rb.surrogate.ATan(2 + i / 10)
        if i % 4 == 3:
            counts.append(alive())
    assert counts[2] - counts[0] < 4, counts  # one tensor a step would be eight; other tests' may die meanwhile


@pytest.mark.parametrize(
    ("name", "options", "want"),
    [
        # torchvision's ResNets (He et al. 2016): the published 21.79, 25.56, 44.55 and 60.19 M
        ("sew_resnet34", {"classes": 1000, "stem": "imagenet"}, 21_797_672),
        ("sew_resnet50", {"classes": 1000, "stem": "imagenet"}, 25_557_032),
        ("sew_resnet101", {"classes": 1000, "stem": "imagenet"}, 44_549_160),
        ("sew_resnet152", {"classes": 1000, "stem": "imagenet"}, 60_192_808),
        ("wide_7b_net", {"in_channels": 2}, 1_192_202),  # Fang et al. 2021: 1.19 M, and 0.13 M for 11 classes
        ("7b_net", {"in_channels": 2, "classes": 11}, 130_411),
        ("spiking_resnet20", {}, 272_474),  # He et al. 2016: 0.27 M
    ],
)
def test_parameters_are_as_many_as_published(name: str, options: dict[str, Any], want: int) -> None:
    with torch.device("meta"):
        assert parameters(rb.models.create(name, spiking=False, **{"classes": 10, **options})) == want


@pytest.mark.parametrize(
    ("name", "options", "want"),
    [
        ("vgg16", {"image_size": 224, "classes": 1000}, 138_344_128),  # Simonyan and Zisserman 2015: 138 M
        ("vgg11", {"image_size": 224, "classes": 1000}, 132_851_392),  # 133 M
        # 16C5-P2-64C5-P2-2000 (Hunsberger and Eliasmith 2016): 6,318,000
        ("convnet", {"layers": "16C5-P2-64C5-P2-2000", "image_size": 28, "in_channels": 1}, 6_318_000),
        (
            "convnet",  # of its ILSVRC-2012 network, in all 61,090,496
            {"layers": "64C11s4-P3s2-192C5-P3s2-384C3-256C3-256C3-P3s2-4096-4096", "image_size": 224, "classes": 1000},
            61_090_496,
        ),
        (
            "mlp",
            {"layers": "400-R400", "image_size": 28, "in_channels": 1, "spiking": True},
            784 * 400 + 2 * 160_000 + 4_000,
        ),
    ],
)
def test_weights_are_as_many_as_published(name: str, options: dict[str, Any], want: int) -> None:
    with torch.device("meta"):
        model = rb.models.create(name, **{"classes": 10, "spiking": False, **options})
    assert parameters(model, weights_only=True) == want


@pytest.mark.parametrize("depth", [11, 19, 20])
def test_depth_of_the_small_resnets_counts_weight_layers(depth: int) -> None:
    model = small(f"spiking_resnet{depth}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in p for p, m in model.named_modules()) == depth


@pytest.mark.parametrize(("name", "depth"), [("vgg11", 11), ("vgg16", 16)])
def test_depth_of_vgg_counts_weight_layers(name: str, depth: int) -> None:
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in small(name).modules()) == depth
    whole, mean = small(name, image_size=40), small(name, image_size=None)
    assert whole(images(2, 40)).shape == mean(images(2, 40)).shape == mean(images(2, 7)).shape == (3, 2, 3)
    with pytest.raises(ValueError, match="image_size"):
        whole(images(2, 80))


@pytest.mark.parametrize(("name", "convolutions"), [(18, 17), (34, 33), (50, 49), (101, 100), (152, 151)])
def test_depth_counts_weight_layers(name: int, convolutions: int) -> None:
    model = small(f"ms_resnet{name}", width=1)
    found = sum(
        isinstance(m, nn.Conv2d) and (m.kernel_size != (1, 1) or "branch" in path) for path, m in model.named_modules()
    )
    assert found == convolutions


def blocks(kind: type[nn.Module], **options: object) -> list[nn.Module]:
    name = {SEW: "sew_resnet18", MS: "ms_resnet18", Classic: "spiking_resnet18"}[kind]
    return [m for m in awake(small(name, **options), images()).modules() if isinstance(m, kind)]


def test_blocks_by_their_equations() -> None:
    x = (torch.rand(3, 2, 4, 6, 6) > 0.7).float()
    sew, classic, ms = blocks(SEW)[0], blocks(Classic)[0], blocks(MS)[0]
    assert sew.fire(sew.branch(x)).mean() > 0.02
    assert torch.equal(sew(x), sew.fire(sew.branch(x)) + x)
    assert torch.equal(classic(x), classic.fire.neuron(classic.fire.norm(classic.branch(x)) + x))
    v = torch.randn(3, 2, 4, 6, 6)
    spikes, potentials = ms((x, v))
    torch.testing.assert_close(potentials, ms.fire.norm(ms.branch(x)) + v)
    assert torch.equal(spikes, ms.fire.neuron(potentials))


@pytest.mark.parametrize("norm", ["current", "tdbn", "tebn", "none"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("spiking_resnet18", {}),
        ("sew_resnet18", {"connect": "add"}),
        ("sew_resnet18", {"connect": "and"}),
        ("sew_resnet18", {"connect": "and", "neuron": rb.LIF(0.9, 0.7, input_scale=0.6)}),
        ("sew_resnet18", {"connect": "and", "spiking": False}),
        ("sew_resnet18", {"connect": "iand"}),
        ("ms_resnet18", {}),
    ],
)
def test_blocks_that_start_as_the_identity_pass_on_what_they_take(
    name: str, options: dict[str, Any], norm: str
) -> None:
    s, v = (torch.rand(3, 2, 4, 6, 6) > 0.5).float(), torch.randn(3, 2, 4, 6, 6)
    s = s[: 3 if options.get("spiking", True) else 1]
    for start in ("identity", "plain"):
        model = small(name, start=start, norm=norm, **options)
        block = next(m for m in model.modules() if isinstance(m, Block))
        passed = block((s, v))[1] if isinstance(block, MS) else block(s)
        assert torch.equal(passed, v if isinstance(block, MS) else s) == (start == "identity")


def test_how_blocks_start_by_default() -> None:
    for name, gain in (("spiking_resnet18", 0), ("sew_resnet18", 1), ("ms_resnet18", 0), ("7b_net", 1)):
        block = next(m for m in small(name).modules() if isinstance(m, Block))
        assert block.fire.norm.weight.unique().tolist() == [gain]
        assert block.begun == (gain == 0)


def test_classic_blocks_begin_plain_where_neurons_do_not_pass_spikes_on() -> None:
    for neuron in (rb.CubaLIF(), rb.LIF(reset="none"), rb.LIF(threshold=0.4), Deaf()):
        for spiking in (True, False):  # the twin is made alike
            model = small("spiking_resnet18", neuron=neuron, spiking=spiking)
            assert not any(m.begun for m in model.modules() if isinstance(m, Block))
        with pytest.raises(ValueError, match="start 'identity' needs neurons that pass on the spikes they get, got"):
            small("spiking_resnet18", neuron=neuron, start="identity")


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize(
    "neuron", [rb.LIF(), rb.LIF(0.9), rb.IF(), rb.LIF(reset="hard"), rb.LIF(0.5, 1.1), rb.IF(0.97)]
)
def test_the_margin_is_safe(neuron: rb.LIF, steps: int) -> None:
    """With it a neuron gives any spikes it gets, also where something less than it is taken off or added."""
    torch.manual_seed(0)
    b = margin(neuron, steps)
    assert b is not None
    spikes = (torch.rand(steps, 64, 50) < torch.linspace(0, 1, 50)).float()
    assert torch.equal(neuron(spikes + b), spikes)
    if float(neuron.threshold) == 1:
        for off in (-0.99 * b, 0.9 * b):
            assert torch.equal(neuron(spikes + b + off), spikes)
        assert not torch.equal(neuron(spikes - 0.01), spikes), "without it, the least takes spikes away"


def test_weights_of_a_twin_replace_the_margin_as_any_start() -> None:
    """A state_dict is loaded as it is: blocks are the identity then too, with potentials just at the threshold."""
    model, twin = (small("spiking_resnet18", spiking=spiking).train() for spiking in (True, False))
    blocks = [m for m in model.modules() if isinstance(m, Classic) and isinstance(m.shortcut, torch.nn.Identity)]
    assert all((block.fire.norm.bias > 0).all() for block in blocks)  # type: ignore[operator, union-attr]
    weights = twin.state_dict()
    model.load_state_dict(weights)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())
    spikes = (torch.rand(3, 2, blocks[0].fire.norm.weight.numel(), 4, 4) < 0.4).float()  # type: ignore[operator, union-attr]
    assert torch.equal(blocks[0](spikes), spikes)
    images, labels = torch.randn(8, 2, 8, 8), torch.arange(8) % 3
    assert len(rb.tune(model, images, labels, start="identity", widths=False).begun) == 8
    assert all((block.fire.norm.bias > 0).all() for block in blocks)  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("depth", [18, 50])
def test_the_identity_start_hands_images_and_gradient_on(depth: int) -> None:
    """Within a stage spikes go unchanged through every block, and the gradient keeps its size."""
    torch.manual_seed(0)
    model = rb.models.create(f"spiking_resnet{depth}", classes=3, in_channels=3, steps=10, width=8)
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    outputs: dict[Block, Tensor] = {}
    for block in blocks:
        block.register_forward_hook(lambda block, _, out: outputs.update({block: out}))
    logits = model(torch.randn(16, 3, 16, 16))
    grads = torch.autograd.grad(rb.readout(logits).logsumexp(1).sum(), list(outputs.values()))
    sizes = dict(zip(outputs, (g.norm() for g in grads), strict=True))
    for before, block in pairwise(blocks):
        if isinstance(block.shortcut, nn.Identity):
            assert torch.equal(outputs[block], outputs[before])
            assert 0.7 < float(sizes[before] / sizes[block]) < 1.1
    assert 0.05 < float(outputs[blocks[0]].detach().mean()) < 0.6


def test_a_pooled_shortcut_throws_no_place_away() -> None:
    """Each place of the input moves the output of a block at its start; of a 1x1 convolution one in four does."""
    torch.manual_seed(0)
    for shortcut, share in (("pool", 1.0), ("conv", 0.25)):
        model = small("spiking_resnet18", shortcut=shortcut, width=8)
        block = next(m for m in model.modules() if isinstance(m, Block) and isinstance(m.shortcut, nn.Sequential))
        x = torch.randn(4, 2, 8, 8, 8, requires_grad=True)
        block.shortcut(x).square().sum().backward()
        assert x.grad is not None
        assert float((x.grad.abs().sum((0, 1, 2)) > 1e-6).float().mean()) == share


def test_the_last_ms_block_gives_spikes_alone() -> None:
    *others, last = blocks(MS)
    assert all(block.fire.drive for block in others)
    assert not last.fire.drive


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_ms_resnet_by_its_equations(stem: str) -> None:
    """Potentials alone go from block to block; each has its neuron first, and one comes last."""
    model = small("ms_resnet18", stem=stem)
    x = images()
    awake(model, x)
    first = next(i for i, m in enumerate(model.features) if isinstance(m, MS))
    v = model.frames(x)
    for layer in model.features[: first - 1]:
        v = layer(v)
    v = model.features[first - 1].norm(v)
    for block in model.features[first:-1]:
        v = block.fire.norm(block.branch(rb.LIF()(v))) + block.shortcut(v)
    want = model.head(model.features[-1](rb.LIF()(v)))
    torch.testing.assert_close(model(x), want)
    assert rates(model, x).min() > 0.02


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
        ({"name": "sew_resnet18", "norm": "layer"}, "norm must be one of current, tdbn, tebn, none, got 'layer'"),
        ({"name": "sew_resnet18", "classes": 0}, "classes must be a positive integer, got 0"),
        ({"name": "sew_resnet18", "rule": "stdp"}, "rule must be .*membrane.*, got 'stdp'"),
        ({"name": "sew_resnet18", "neuron": "lif"}, "neuron must be a rheobase.Neuron or .*, got 'lif'"),
        ({"name": "plain_convnet", "depth": 0}, "depth must be a positive integer, got 0"),
        ({"name": "plain_convnet", "depth": True}, "depth must be a positive integer, got True"),
        ({"name": "plain_convnet", "spiking": 1}, "spiking must be true or false, got 1"),
        ({"name": "vgg11", "image_size": 0}, "image_size must be a positive integer, got 0"),
        ({"name": "ms_resnet18", "start": "zero"}, "start must be 'identity' or 'plain', got 'zero'"),
        (
            {"name": "mlp", "layers": "400-X"},
            "layers must be some of nCk, nCksm, Pk, Pksm, n, Rn and Rnxmxk .*, got 'X' in '400-X'",
        ),
        ({"name": "mlp", "layers": "400s2"}, "got '400s2' in '400s2'"),
        ({"name": "mlp", "dropout": 1.0}, "dropout must be a number from 0 to below 1, got 1.0"),
        ({"name": "mlp", "layers": "28x28-400-10"}, "input and readout are not written.*'28x28'"),
        ({"name": "mlp", "layers": ""}, "got '' in ''"),
        ({"name": "mlp", "layers": 400}, "layers must be a string, got 400"),
        ({"name": "convnet", "layers": "400-P2"}, "'P2' in '400-P2' cannot follow 400 units"),
        ({"name": "convnet", "layers": "P5-P7", "image_size": 32}, "'P7' .* cannot follow maps of 6x6 .image_size=32"),
        (
            {"name": "convnet", "layers": "3C5", "padding": "valid", "image_size": 4},
            "'3C5' .* cannot follow maps of 4x4",
        ),
        (
            {"name": "plain_mlp", "norm": "tdbn", "neuron": rb.LIF(torch.ones(3), torch.ones(3))},
            "need a neuron with one",
        ),
    ],
)
def test_clear_errors(call: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rb.models.create(**{"classes": 2, **call})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_images_are_checked() -> None:
    model = small("plain_convnet")
    x = torch.rand(4, 2, 8, 8)
    for bad, got in (
        (x.byte(), "torch.uint8"),
        (x.long(), "torch.int64"),
        (None, "NoneType"),
        ([x], "list"),
        (x.to_sparse(), "one of torch.sparse_coo"),
        (torch.nested.nested_tensor([*x]), "a nested one"),
    ):
        with pytest.raises(TypeError, match=f"^images must be a dense floating point tensor, got {got}$"):
            model(bad)
    with pytest.raises(ValueError, match=r"images must be \[B, 2, H, W\] or .*, got shape \[4, 3, 8, 8\]"):
        model(torch.rand(4, 3, 8, 8))
    with pytest.raises(ValueError, match="this sequence has 5, got steps=3"):
        model(torch.rand(5, 4, 2, 8, 8), steps=3)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        model(torch.rand(4, 2, 8, 8), steps=0)
    with pytest.raises(ValueError, match="image_size"):
        small("plain_mlp", image_size=8)(torch.rand(4, 2, 9, 9))


def sequences() -> tuple[Tensor, Tensor]:
    """Four sequences of 2 to 5 steps, with something for padding that would be seen."""
    x, lengths = torch.randn(5, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 5, 3, 4])
    for sample, length in enumerate(lengths):
        x[length:, sample] = 50
    return x, lengths


@pytest.mark.parametrize("norm", ["current", "tebn"])
@pytest.mark.parametrize("spiking", [True, False])
@torch.no_grad()
def test_padding_changes_no_logits(spiking: bool, norm: str) -> None:
    x, lengths = sequences()
    if norm == "tebn" and spiking:
        pytest.skip("it runs at its own number of steps alone")
    model = awake(small("plain_convnet", spiking=spiking, norm=norm), x[:2])
    with rb.padding(lengths):
        together = rb.readout(model(x), lengths)
    alone = [rb.readout(model(x[:length, [b]])) for b, length in enumerate(lengths)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert together.std(0).min() > 1e-3, "they are not all the same"


def test_a_twin_learns_from_sequences_as_from_their_means() -> None:
    """Logits, gradients and running statistics are those of the means over the real steps, given as images."""
    x, lengths = sequences()
    means = torch.stack([x[:length, b].mean(0) for b, length in enumerate(lengths)])
    found = []
    for images in (x, means):
        torch.manual_seed(0)
        twin = small("plain_convnet", spiking=False).train()
        with rb.padding(lengths if images is x else None):
            logits = rb.readout(twin(images), lengths)
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        assert all(p.grad.any() for p in twin.parameters())
        found.append([logits.detach(), *(p.grad for p in twin.parameters()), *twin.buffers()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_an_unknown_rule_is_refused_with_those_that_there_are() -> None:
    for spiking in (True, False):
        with pytest.raises(ValueError, match=r"create\('vgg11'\): rule must be .*membrane.*, got 'stdp'"):
            rb.models.create("vgg11", classes=2, rule="stdp", spiking=spiking)


def test_registering_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="exists already"):
        rb.models.register("plain_mlp", lambda **_: None)


def test_a_bfloat16_model_runs() -> None:
    model, x = small("sew_resnet18").bfloat16(), images().bfloat16()
    logits = model(x)
    assert logits.dtype == torch.bfloat16
    assert rates(model, x).min() > 0.02
    logits.float().square().sum().backward()
    assert all(p.grad.any() for p in model.parameters())


def test_classic_nets_are_built_on_meta() -> None:
    with torch.device("meta"):
        model = rb.models.create("spiking_resnet18", classes=3, in_channels=1, steps=4, width=4)
    real = rb.models.create("spiking_resnet18", classes=3, in_channels=1, steps=4, width=4)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in real.named_parameters()]
    model.to_empty(device="cpu").load_state_dict(real.state_dict())
    assert torch.equal(model.eval()(images(2)[:, :1]), real.eval()(images(2)[:, :1]))


@pytest.mark.parametrize("spiking", [True, False])
def test_it_compiles_with_all_sizes_unknown(spiking: bool) -> None:
    torch.manual_seed(0)
    model = rb.models.create("plain_convnet", classes=3, in_channels=2, depth=2, width=4, steps=2, spiking=spiking)
    compiled = torch.compile(model.eval(), dynamic=True, fullgraph=True, backend="eager")
    for shape in ((3, 2, 8, 8), (5, 2, 6, 6)):
        images = 3 * torch.rand(shape)
        assert torch.equal(compiled(images), model(images))
