"""Descriptions of models: what they tell, how they build, and families of one's own."""

import copy
import pickle
from dataclasses import MISSING, FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.models import registry
from rheobase.models.resnet import ResNet
from rheobase.models.written import Convnet


@dataclass(frozen=True, kw_only=True)
class Tower(rb.models.Family):
    """A family of one's own."""

    units: int
    tall: bool = False
    shape: Literal["round", "square"] = "round"

    def stack(self, parts: rb.models.Parts) -> tuple[list[nn.Module], int]:
        layers: list[nn.Module] = [nn.Flatten(2)]
        for _ in range(1 + self.tall):
            layers += [parts.dense(16 if len(layers) == 1 else self.units, self.units), parts.fire(self.units)]
        return layers, self.units


def house(
    *, classes: int, in_channels: int, steps: int, spiking: bool, units: int, tall: bool = False
) -> rb.models.Net:
    assert not tall
    layers = nn.Sequential(nn.Flatten(2), rb.PerStep(nn.Linear(16, units)), rb.LIF() if spiking else nn.ReLU())
    return rb.models.Net(layers, rb.PerStep(nn.Linear(units, classes)), in_channels, steps, spiking)


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered here is forgotten afterwards."""
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    torch.manual_seed(0)


def images() -> Tensor:
    return 2 * torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_a_description_builds_the_model_that_create_does() -> None:
    described = ResNet(junction="sew", depth=18, width=4, classes=3, in_channels=1, connect="iand")
    torch.manual_seed(1)
    ours = described.build()
    torch.manual_seed(1)
    theirs = rb.models.create("sew_resnet18", width=4, classes=3, in_channels=1, connect="iand")
    assert ours.description == theirs.description == described
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    with pytest.raises(FrozenInstanceError):
        described.width = 3


def test_a_description_that_was_built_alone_is_saved_by_its_name(tmp_path: Path) -> None:
    model = ResNet(junction="ms", depth=18, width=2, classes=3, in_channels=1, start="plain").build()
    rb.save(model, tmp_path / "m")
    assert rb.load(tmp_path / "m").description == model.description
    assert registry.arguments(model.description)["name"] == "ms_resnet18"


def test_the_prototype_of_a_description_is_a_copy() -> None:
    mine = rb.LIF(0.9)
    model = rb.models.create("plain_convnet", classes=2, width=2, depth=1, neuron=mine)
    mine.threshold = 3.0
    assert model.description.neuron.threshold == 1


def test_options_are_told_with_types_and_defaults() -> None:
    options = rb.models.options("sew_resnet18")
    assert options["width"] == (int | None, None)
    assert options["stem"] == (Literal["cifar", "imagenet"], "cifar")
    assert options["connect"].default == "add"
    assert not options.keys() & {"depth", "junction", "classes", "in_channels", "steps", "spiking", "rule"}
    assert "connect" not in rb.models.options("ms_resnet18")
    with pytest.raises(ValueError, match=r"options: no model 'sew_resnet81'; nearest: .*sew_resnet18"):
        rb.models.options("sew_resnet81")
    for name in rb.models.names():
        assert {"neuron", "norm"} <= rb.models.options(name).keys()


@pytest.mark.parametrize("kind", [Tower, house])
def test_a_family_of_ones_own(kind: object, tmp_path: Path) -> None:
    rb.models.register("own", kind)
    rb.models.register("own5", kind, units=5)
    with pytest.raises(TypeError, match=r"create\('own'\): units must be given"):
        rb.models.create("own", classes=2)
    with pytest.raises(ValueError, match="no option 'units'"):
        rb.models.create("own5", classes=2, units=3)
    with pytest.raises(ValueError, match="did you mean 'units'"):
        rb.models.create("own", classes=2, unitss=3)
    model = rb.models.create("own5", classes=2, in_channels=1)
    with torch.no_grad(), rb.record(model) as tape:
        logits = model(images())
    assert logits.shape == (4, 5, 2)
    assert all(trace.spikes.mean() > 0.02 for trace in tape.values())
    rb.save(model, tmp_path / "m")
    for again in (rb.load(tmp_path / "m"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.description == model.description
        with torch.no_grad():
            assert torch.equal(again(images()), logits)


def barn(classes: int, in_channels: int, steps: int, spiking: bool) -> rb.models.Net:
    return house(classes=classes, in_channels=in_channels, steps=steps, spiking=spiking, units=4)


def test_a_function_tells_what_it_takes() -> None:
    rb.models.register("fn", barn)
    assert rb.models.options("fn") == {}
    assert rb.models.create("fn", classes=2, in_channels=1)(images()).shape == (4, 5, 2)
    with pytest.raises(ValueError, match="no option 'neuron'"):
        rb.models.create("fn", classes=2, neuron=rb.LIF())
    with pytest.raises(ValueError, match="rule must be .*membrane.*, got 'stdp'"):
        rb.models.create("fn", classes=2, in_channels=1, rule="stdp")
    rb.models.register("house", house)
    assert rb.models.options("house") == {"units": (int, MISSING), "tall": (bool, False)}
    with pytest.raises(ValueError, match="tall must be true or false, got 2"):
        rb.models.create("house", classes=2, units=3, tall=2)


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        (lambda classes, steps, spiking: None, "takes no 'in_channels'"),
        (lambda classes, in_channels, steps, spiking, **rest: None, r"takes '\*\*rest', which cannot be given by name"),
        (lambda classes, in_channels, steps, spiking, *rest: None, r"takes '\*rest', which cannot be given by name"),
        (lambda width, /, classes, in_channels, steps, spiking: None, "takes 'width', which cannot be given by name"),
    ],
)
def test_a_function_that_cannot_be_called_so_is_refused(function: object, wrong: str) -> None:
    with pytest.raises(TypeError, match=f"register: a function must take classes, in_channels, .* 'fn' {wrong}"):
        rb.models.register("fn", function)


def test_a_function_that_gives_no_net_is_told() -> None:
    rb.models.register("fn", lambda classes, in_channels, steps, spiking: nn.Linear(2, 3))
    with pytest.raises(TypeError, match=r"the function of 'fn' must return a rheobase\.models\.Net, got Linear"):
        rb.models.create("fn", classes=2)


def test_fields_of_ones_own_are_checked_by_their_types() -> None:
    rb.models.register("own", Tower)
    with pytest.raises(ValueError, match="tall must be true or false, got 2"):
        rb.models.create("own", classes=2, units=2, tall=2)
    with pytest.raises(ValueError, match="shape must be 'round' or 'square', got 'flat'"):
        rb.models.create("own", classes=2, units=2, shape="flat")


def test_what_is_no_family_is_refused() -> None:
    class Bare(Tower):
        rooms: int = 3

    for kind in (Bare, nn.Linear):
        with pytest.raises(TypeError, match=f"{kind.__name__} must be a frozen dataclass that extends"):
            rb.models.register("own", kind)
    with pytest.raises(TypeError, match="Tower has no option 'floors'"):
        rb.models.register("own", Tower, floors=3)
    with pytest.raises(ValueError, match="exists already"):
        rb.models.register("vgg11", Tower)


def test_a_description_without_a_name_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no model is registered that is a Tower"):
        rb.save(Tower(classes=2, in_channels=1, units=3).build(), tmp_path / "m")
    odd = replace(ResNet(junction="ms", depth=18, classes=2, width=1), connect="and")
    with pytest.raises(TypeError, match="no model is registered that is a ResNet"):
        rb.save(odd.build(), tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layers", "padding", "size", "features"),
    [
        ("15C5-P2-40C5-P2", "valid", 28, 40 * 4 * 4),
        ("15C5-P2-40C5-P2", "same", 28, 40 * 7 * 7),
        ("12C5-P2-64C5-P2", "valid", 34, 64 * 5 * 5),
        ("3C4", "same", 5, 3 * 6 * 6),
        ("P3", "same", 8, 2 * 2 * 2),
        ("4C5s2-P3s2", "same", 17, 4 * 4 * 4),
        ("4C5s3", "valid", 18, 4 * 5 * 5),
    ],
)
def test_sizes_of_what_is_written(layers: str, padding: str, size: int, features: int) -> None:
    model = Convnet(layers=layers, padding=padding, image_size=size, classes=3, in_channels=2).build()
    assert model.head.module.in_features == features
    with torch.no_grad():
        assert model(torch.rand(2, 2, size, size)).shape == (4, 2, 3)


def test_units_are_left_out_in_training_alone_and_anew_at_every_step() -> None:
    torch.manual_seed(0)
    model = rb.models.create("convnet", classes=3, in_channels=1, image_size=8, layers="4C3-40-40", dropout=0.5)
    left = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert [m.p for m in left] == [0.5, 0.5]  # behind units, not behind maps
    x = 2 * torch.randn(1, 16, 1, 8, 8).expand(4, 16, 1, 8, 8)
    seen: list[Tensor] = []
    with (
        torch.no_grad(),
        left[0].register_forward_hook(lambda _, given, out: seen.append(torch.stack([given[0], out]))),
    ):
        model(x)
        model.eval()(x)
    before, after = seen[0].unflatten(1, (4, 16))
    assert before.mean() > 0.05
    assert 0.4 < after.count_nonzero() / before.count_nonzero() < 0.6
    assert torch.equal(after[after > 0].unique(), torch.tensor([2.0]))
    both = before[:-1].bool() & before[1:].bool()
    assert (after[:-1].bool() ^ after[1:].bool())[both].any()
    assert torch.equal(*seen[1])


def test_speech_and_event_frames() -> None:
    """Frames without space, `[T, B, mels, 1, 1]`, and those of event cameras, `[T, B, 2, 34, 34]`."""
    with torch.no_grad():
        for name, frames, options in (
            ("mlp", (9, 3, 20, 1, 1), {"image_size": 1, "layers": "16-R16"}),
            ("plain_mlp", (9, 3, 20, 1, 1), {"image_size": 1, "width": 16}),
            ("convnet", (9, 3, 2, 34, 34), {"image_size": 34, "layers": "4C5-P2-6C5-P2"}),
            ("7b_net", (9, 3, 2, 34, 34), {"width": 4}),
        ):
            model = rb.models.create(name, classes=4, in_channels=frames[2], **options)
            with rb.record(model) as tape:
                logits = model(2 * torch.randn(frames))
            assert logits.shape == (9, 3, 4)
            assert all(trace.spikes.mean() > 0.02 for trace in tape.values())


def test_r_layers_hear_themselves() -> None:
    model = rb.models.create("mlp", classes=2, in_channels=1, image_size=4, layers="8-R6", steps=3).eval()
    first, back = (m for m in model.features if isinstance(m, rb.Fire))
    assert isinstance(first.neuron, rb.LIF)
    assert isinstance(back.neuron, rb.Recurrent)
    with torch.no_grad():
        for fire in (first, back):
            fire.norm.bias.fill_(0.9)
        heard = model(images())
        assert back(torch.rand(3, 5, 6)).mean() > 0.02
        back.neuron.module.weight.zero_()
        unheard = model(images())
    assert torch.equal(heard[0], unheard[0])
    assert not torch.equal(heard[1:], unheard[1:])
