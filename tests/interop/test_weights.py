"""rheobase.save and load: the same model comes back, or a refusal says why not; files are whole."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import rheobase as rb
from rheobase.models import registry
from rheobase.surrogate import SHAPES, ATan, Gaussian, SuperSpike, Triangle

Net = rb.models.Net


class Tent(Triangle):
    """A surrogate of one's own."""


class Mine(rb.LIF):
    pass


class Own(rb.Neuron):
    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        u = 0.5 * state + current
        return rb.spike(u - 1), u


class OtherConv(nn.Conv2d):
    pass


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    """Engines have their own tests, and would have to compile for each kind of neuron; tiny layers want one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with rb.engine("reference"):
        yield
    torch.set_num_threads(threads)


def images(batch: int = 8) -> Tensor:
    return 2 * torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def made(name: str = "plain_convnet", **options: Any) -> Net:
    """A small model in which all layers fire, and nothing is as create made it."""
    torch.manual_seed(5)
    sizes = {"width": 4, "layers": "5-R4"} | ({"depth": 4} if name == "plain_convnet" else {"image_size": 8})
    takes = rb.models.options(name) if name in rb.models.names() else {}
    sizes = {key: value for key, value in sizes.items() if key in takes}
    model = rb.models.create(name, **{"classes": 3, "in_channels": 1, "steps": 2, **sizes, **options})
    ranges = {"bias": (-0.2, 0.8), "running_mean": (-0.1, 0.1), "running_var": (0.5, 1.5)}
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.rpartition(".")[2] in ranges:
                tensor.uniform_(*ranges[key.rpartition(".")[2]])
    return model


def neuron(model: nn.Module, index: int = 0) -> Any:
    return [m for m in model.modules() if isinstance(m, rb.Neuron)][index]


def norm(model: nn.Module, index: int = 0) -> Any:
    return [m for m in model.modules() if isinstance(m, rb.CurrentNorm)][index]


def bits(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    flat = {n: t.contiguous().reshape(-1).view(torch.uint8) for n, t in model.state_dict().items()}
    return {n: (t.dtype, t.shape, flat[n].numpy().tobytes()) for n, t in model.state_dict().items()}


def ties(model: nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tied for tied in names.values() if len(tied) > 1]


def seen(model: Net) -> list[Any]:
    """What has to come back."""
    return [
        repr(model),
        model.steps,
        bits(model),
        ties(model),
        [(n, p.requires_grad) for n, p in model.named_parameters()],
        [type(m) for m in model.modules()],
        [(m.eps, m.momentum) for m in model.modules() if isinstance(m, rb.CurrentNorm)],
        {k: (repr(v), bits(v)) if isinstance(v, nn.Module) else v for k, v in vars(model.description).items()},
    ]


def there_and_back(model: Net, folder: Path, dtype: torch.dtype | None = torch.float32) -> Net:
    """Save, load, compare, save again; with images of a dtype the logits too."""
    before = seen(model)
    rb.save(model, folder / "one")
    assert seen(model) == before
    again = rb.load(folder / "one")
    assert again.training
    assert seen(again) == before
    rb.save(again, folder / "two")
    assert (folder / "two").read_bytes() == (folder / "one").read_bytes()
    if dtype is not None:
        a, b, x = copy.deepcopy(model).eval(), copy.deepcopy(again).eval(), images().to(dtype)
        rates = [1.0]
        if model.spiking:
            rates.clear()
            for module in a.modules():
                if isinstance(module, rb.Neuron):
                    module.register_forward_hook(lambda _, __, out: rates.append(float(out.abs().mean())))
        with torch.no_grad():
            logits = a(x)
            assert torch.equal(b(x), logits)
        assert max(rates) > 0.01
        assert not torch.equal(logits, logits.roll(1, 1))  # what is in an image reaches the head
    return again


@pytest.mark.parametrize("spiking", [True, False])
@pytest.mark.parametrize("name", rb.models.names())
def test_every_name(name: str, spiking: bool, tmp_path: Path) -> None:
    if name.endswith(("101", "152", "vgg16")):  # they would be silent
        model = made(name, spiking=spiking, width=1)
        rb.save(model, tmp_path / "m")
        again = rb.load(tmp_path / "m")
        assert seen(again) == seen(model)
    else:
        again = there_and_back(made(name, spiking=spiking), tmp_path)
    assert again.spiking == spiking


ramp = partial(torch.linspace, steps=4)
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("plain_convnet", {"depth": 1, "width": 7}),
    ("plain_convnet", {"steps": 7, "classes": 2, "neuron": None}),
    ("plain_convnet", {"norm": "none"}),
    ("plain_mlp", {"depth": 3, "width": 5}),
    ("plain_mlp", {"norm": "none"}),
    ("sew_resnet18", {"connect": "and", "neuron": rb.LIF(threshold=0.3)}),
    ("sew_resnet18", {"start": "identity", "norm": "tebn"}),
    ("spiking_resnet18", {"norm": "tdbn", "neuron": rb.LIF(threshold=0.8)}),
    ("vgg11", {"image_size": 8}),
    ("convnet", {"layers": "3C3-P2-4C3-5", "padding": "valid"}),
    ("sew_resnet18", {"connect": "iand", "stem": "imagenet"}),
    ("ms_resnet18", {"stem": "imagenet"}),
    ("spiking_resnet18", {"stem": "imagenet", "norm": "none"}),
    ("plain_convnet", {"neuron": rb.LIF(0.7, 0.9, "hard", False, SuperSpike(1.3).scaled(0.7), 1.1)}),
    ("plain_convnet", {"neuron": rb.LIF(reset="delayed", surrogate=Gaussian(0.3))}),
    ("plain_convnet", {"neuron": rb.LIF(reset="none", learn=("decay", "threshold", "input_scale"))}),
    ("plain_convnet", {"neuron": rb.LIF(surrogate=Tent(0.8))}),
    ("plain_convnet", {"neuron": rb.IF(0.7, learn="threshold")}),
    ("plain_convnet", {"neuron": rb.CubaLIF(0.3, 0.6, learn="current_decay")}),
    ("plain_convnet", {"neuron": rb.AdaptiveLIF(0.8, 0.2, reset="hard", learn=("adaptation", "adaptation_decay"))}),
    ("plain_convnet", {"neuron": rb.LateralLIF(-0.3, 2, learn="threshold")}),
    ("plain_convnet", {"rule": "membrane"}),
    ("plain_convnet", {"rule": "neighborhood"}),
    ("mlp", {"layers": "P2-5", "norm": "none", "alpha": 2.0, "alpha_out": 0.5, "output": "spikes", "rule": "membrane"}),
    (
        "mlp",
        {"layers": "3C3-5", "output": "spikes", "coding_rate": 0.3, "neuron": rb.LIF(threshold=0.1, learn="threshold")},
    ),
    ("plain_convnet", {"neuron": rb.Integrator(0.6, learn="decay")}),
    ("plain_mlp", {"neuron": rb.LIF(ramp(0.1, 0.9), ramp(0.5, 1))}),
    ("plain_mlp", {"neuron": rb.LIF(ramp(0.1, 0.9), input_scale=ramp(0.5, 1), learn="decay")}),
    ("plain_mlp", {"neuron": rb.LIF(surrogate=ATan(ramp(1, 2), ramp(0.5, 1)))}),
    ("plain_mlp", {"neuron": rb.Recurrent(rb.LIF(0.4, learn="decay"), nn.Linear(4, 4, bias=False))}),
    ("plain_mlp", {"neuron": rb.Recurrent(rb.Recurrent(rb.CubaLIF(), nn.Linear(4, 4)), nn.Linear(4, 4))}),
    ("plain_mlp", {"neuron": rb.LIF(0.8), "spiking": False}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_every_option(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    again = there_and_back(made(name, **options), tmp_path)
    assert vars(again.description).keys() >= options.keys()


def put(**attributes: Any) -> Callable[[Net], None]:
    """Assign attributes of the first neuron."""

    def change(model: Net) -> None:
        for name, value in attributes.items():
            setattr(neuron(model), name, value)

    return change


def place(module: nn.Module, path: str = "features.1.neuron") -> Callable[[Net], None]:
    """Put a module where another was."""
    return lambda model: model.set_submodule(path, copy.deepcopy(module))


def both(*changes: Callable[[Net], Any]) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        for one in changes:
            one(model)

    return change


def norms(model: Net) -> None:
    norm(model).eps, norm(model).momentum, norm(model, 2).momentum = 1e-3, 0.05, 0.0


def one_decay(model: Net) -> None:
    for path in ("features.1.neuron", "features.3.neuron"):
        place(rb.LIF(0.6, learn="decay"), path)(model)
    neuron(model, 1).raw_decay = neuron(model).raw_decay
    neuron(model).raw_decay.requires_grad_(False)


def frozen(model: Net) -> None:
    model.head.module.weight.requires_grad_(False)
    norm(model).requires_grad_(False)


def odd_bits(model: Net) -> None:
    with torch.no_grad():
        model.head.module.bias.copy_(torch.tensor([-0.0, torch.inf, -torch.inf]))


def hook_gone(model: Net) -> None:
    model.features[0].register_full_backward_hook(lambda *_: None).remove()
    model.features[0].register_forward_hook(lambda *_: None).remove()


conv_same = nn.Conv2d(4, 4, (3, 5), padding="same", groups=2, bias=False, padding_mode="reflect")
CHANGES: dict[str, Callable[[Net], Any]] = {
    "numbers": put(decay=0.81, threshold=0.7, input_scale=1.2),
    "per channel": put(decay=ramp(0.1, 0.9), surrogate_width=ramp(1, 2)),
    "per neuron": put(threshold=torch.linspace(0.5, 1, 256).reshape(4, 8, 8)),
    "choices": put(reset="hard", detach_reset=False, surrogate=SuperSpike(0.9).scaled(0.5)),
    "own surrogate": put(surrogate=Tent(1.7)),
    "no rule": put(rule=None),
    "IF": both(place(rb.IF(0.8, reset="none")), put(decay=ramp(0.5, 1))),
    "CubaLIF": place(rb.CubaLIF(0.2, learn="threshold")),
    "AdaptiveLIF": place(rb.AdaptiveLIF(adaptation=ramp(0, 0.3))),
    "Integrator": place(rb.Integrator(0.3)),
    "learned": place(rb.LIF(ramp(0.1, 0.9), learn=("decay", "threshold"))),
    "recurrent": place(rb.Recurrent(rb.AdaptiveLIF(learn="decay"), nn.Conv2d(4, 4, 3, padding=1))),
    "recurrent, same": place(rb.Recurrent(rb.LIF(), conv_same)),
    "later": place(rb.LIF(0.2, reset="hard"), "features.7.neuron"),
    "norm alone": lambda model: setattr(norm(model), "sync", False),
    "norm scaled": place(rb.CurrentNorm(4, scale=0.3), "features.1.norm"),
    "norm put": place(rb.CurrentNorm(4, 1e-4, 0.2), "features.1.norm"),
    "norms": norms,
    "tied": lambda model: setattr(norm(model, 1), "weight", norm(model).weight),
    "tied buffer": lambda model: setattr(norm(model, 1), "running_var", norm(model).running_var),
    "one decay": one_decay,
    "frozen": frozen,
    "steps": lambda model: setattr(model, "steps", 9),
    "double": both(put(decay=0.3), Net.double),
    "bfloat16": both(place(rb.LIF(learn="decay")), Net.bfloat16),
    "odd bits": odd_bits,
    "evaluation": Net.eval,
    "hook that is gone": hook_gone,
    "compiled in place": lambda model: model.features.compile(backend="eager"),
    "gradients": lambda model: model(images()).sum().backward(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_after_create(what: str, tmp_path: Path) -> None:
    model = made()
    before = seen(model)
    CHANGES[what](model)
    if what not in ("no rule", "evaluation", "hook that is gone", "compiled in place", "gradients"):
        assert seen(model) != before
    dtypes = {"double": torch.float64, "bfloat16": torch.bfloat16, "odd bits": None, "compiled in place": None}
    dtype = dtypes.get(what, torch.float32)
    again = there_and_back(model, tmp_path, dtype)
    if what == "tied buffer":
        assert norm(again, 1).running_var is norm(again).running_var


@pytest.mark.parametrize("name", ["sew_resnet18", "mlp"])
def test_rounded_to_half(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"layers": "32-R32", "image_size": 8} if name == "mlp" else {"width": 16}
    model = made(name, **options).train()
    model(images())  # statistics of its own
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    rb.save(model, whole)
    rb.save(model, half, half=True)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    found = rb.load(half)
    rounded = 0
    for key, value in model.state_dict().items():
        short = key.endswith("weight") and value.dim() > 1
        rounded += short
        got = found.state_dict()[key]
        assert torch.equal(got, value.half().float() if short else value), key
        assert got.dtype == value.dtype
    assert rounded >= 4 or name == "mlp"
    rb.save(found, tmp_path / "again.safetensors", half=True)
    assert (tmp_path / "again.safetensors").read_bytes() == half.read_bytes()
    weight = next(p for p in model.parameters() if p.dim() > 1)
    for size, which in ((1e6, "largest"), (1e-8, "small")):
        weight.data.fill_(size)
        with pytest.raises(TypeError, match=rf"cannot hold the {which} values of .*weight, which wants half=False"):
            rb.save(model, half, half=True)
    assert (tmp_path / "again.safetensors").read_bytes() == half.read_bytes()  # nothing was written


def test_mixed_dtypes(tmp_path: Path) -> None:
    model = made()
    model.head.double()
    neuron(model).double()
    there_and_back(model, tmp_path, None)


def attach(path: str, **attributes: Any) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        for name, value in attributes.items():
            setattr(model.get_submodule(path), name, value)

    return change


def one_module_twice(model: Net) -> None:
    model.features[3].neuron = model.features[1].neuron


def one_memory_twice(model: Net) -> None:
    norm(model, 1).weight = nn.Parameter(norm(model).weight.data)


def weight_norm(model: Net) -> None:
    parametrizations.weight_norm(model.features[0].module)


def described(**values: Any) -> Callable[[Net], None]:
    """A description that its family would not take."""

    def change(model: Net) -> None:
        for name, value in values.items():
            object.__setattr__(model.description, name, value)

    return change


def hook(kind: str, path: str = "features.0.module") -> Callable[[Net], None]:
    return lambda model: getattr(model.get_submodule(path), f"register_{kind}")(lambda *_: None)


REFUSED: dict[str, tuple[Callable[[Net], Any], str]] = {
    "own subclass": (place(Mine()), "features.1.neuron is a Mine, which load does not know how to make"),
    "own neuron": (place(Own()), "features.1.neuron is a Own"),
    "own prototype": (described(neuron=Mine()), "arguments.neuron is a Mine"),
    "own recurrence": (place(rb.Recurrent(rb.LIF(), nn.Sequential())), "features.1.neuron.module is a Sequential"),
    "own step": (put(step=lambda current, state: (current, state)), "step of module features.1.neuron"),
    "own forward": (attach("features.2", forward=lambda x: x), "forward of module features.2 "),
    "a rule": (put(rule=rb.rules.Membrane()), "rule of module features.1.neuron"),
    "other layer": (place(nn.Identity(), "features.1"), "features.1.norm.weight' is missing"),
    "other kernel": (place(nn.Conv2d(1, 4, 5, padding=2, bias=False), "features.0.module"), "features.0.module.weight"),
    "other stride": (attach("features.0.module", stride=(2, 2)), r"module features.0.module is .*stride=\(2, 2\)"),
    "other class": (
        place(OtherConv(1, 4, 3, 1, 1, bias=False), "features.0.module"),
        "features.0.module is .*OtherCo",
    ),
    "one more layer": (lambda model: model.features.append(nn.Identity()), "module features.9 is .*Identity"),
    "one more weight": (lambda model: model.head.register_parameter("x", nn.Parameter(torch.ones(1))), "head.x"),
    "one more buffer": (lambda model: model.head.register_buffer("x", torch.ones(1)), "head.x"),
    "buffer that learns": (lambda model: norm(model).running_mean.requires_grad_(), "features.1.norm.running_mean is"),
    "passing buffer": (lambda model: model.head.register_buffer("x", torch.ones(1), False), "s_set of module head"),
    "attribute": (attach("features.0", note=torch.ones(3)), "note of module features.0"),
    "channels": (attach("", in_channels=2), "in_channels of module"),
    "argument": (described(width=(4,)), "width"),
    "no JSON": (described(width=object()), "JSON"),
    "parametrization": (weight_norm, "features.0.module.weight' is missing"),
    "old weight norm": (lambda model: nn.utils.weight_norm(model.head.module), "head.module.weight"),
    "forward hook": (hook("forward_hook"), "_forward_hooks of module features.0.module"),
    "pre-hook": (hook("forward_pre_hook"), "_forward_pre_hooks of module features.0.module"),
    "backward hook": (hook("full_backward_hook", "features.1.neuron"), "_backward_hooks of module features.1.neuron"),
    "state hook": (hook("state_dict_post_hook"), "_state_dict_hooks of module features.0.module"),
    "module twice": (one_module_twice, "module features.3.neuron is .*'features.1.neuron'"),
    "memory twice": (one_memory_twice, "features.3.norm.weight"),
    "out of range": (lambda model: neuron(model).threshold.fill_(-1), "threshold must be a number in"),
    "meta": (lambda model: model.to("meta"), "meta"),
    "subclass": (lambda model: setattr(model, "__class__", type("MyNet", (Net,), {})), "module is .*MyNet"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_refused(what: str, tmp_path: Path) -> None:
    change, reason = REFUSED[what]
    model = made()
    rb.save(model, tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    change(model)
    with pytest.raises(TypeError, match=f"^save: load would not give this model back: .*{reason}") as caught:
        rb.save(model, tmp_path / "m")
    assert "safetensors.torch.save_model(model, path)" in str(caught.value)
    assert (tmp_path / "m").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_refused_junction(tmp_path: Path) -> None:
    model = made("sew_resnet18")
    model.features[2].connect = "and"
    with pytest.raises(TypeError, match=r"connect of module features.2 is and, and would come back as add"):
        rb.save(model, tmp_path / "m")


def test_refused_view(tmp_path: Path) -> None:
    model = made("plain_mlp", depth=3)
    model.features[5].module.weight = nn.Parameter(model.features[3].module.weight.data.t())
    with pytest.raises(TypeError, match=r"features\.5\.module\.weight is .*'features\.3\.module\.weight'"):
        rb.save(model, tmp_path / "m")


def test_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rb.save(made(), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        rb.save(made(depth=2), tmp_path / "m")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_not_of_create(tmp_path: Path) -> None:
    net = made()
    by_hand = Net(net.features, net.head, 1, 3, True)
    for other in (nn.Linear(2, 2), by_hand, torch.compile(net, backend="eager"), nn.Sequential(net)):
        with pytest.raises(TypeError, match=f"{type(other).__name__} is not of rheobase.models.create"):
            rb.save(other, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(
        *, classes: int, in_channels: int, steps: int, spiking: bool, table: Any = None, first: Any = None
    ) -> Net:
        layer = nn.Linear(64, 4) if first is None else copy.deepcopy(first)
        layer.mask = torch.arange(3)
        layer.register_buffer("seen", torch.zeros(2), persistent=False)
        head = rb.PerStep(nn.Linear(4, classes))
        return Net(nn.Sequential(nn.Flatten(2), rb.PerStep(layer), rb.LIF()), head, in_channels, steps, spiking)

    monkeypatch.setattr(registry, "_models", dict(registry._models))
    rb.models.register("own", build)
    for options in ({"table": {"a": [1, None]}}, {"first": nn.Linear(64, 4, bias=False)}):
        model = rb.models.create("own", classes=2, in_channels=1, **options)
        there_and_back(model, tmp_path, None)
    with pytest.raises(TypeError, match="argument table is"):
        rb.save(rb.models.create("own", classes=2, in_channels=1, table=(1, 2)), tmp_path / "m")
    other = copy.deepcopy(model)
    other.features[1].module.seen += 1
    with pytest.raises(TypeError, match=r"value of features\.1\.module\.seen"):
        rb.save(other, tmp_path / "m")
    monkeypatch.delitem(registry._models, "own")
    with pytest.raises(TypeError, match="no model is registered that is a own"):
        rb.save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="no model 'own'"):
        rb.load(tmp_path / "one")


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> Path:
    """The file with another header."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["rheobase"])
    tensors = load_file(path)
    header = change(about, tensors)
    save_file(tensors, path, {"rheobase": header if isinstance(header, str) else json.dumps(about)})
    return path


DAMAGE: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "newer": (lambda about, _: about.update(format=3), "it has format 3, and this version of rheobase reads format 2"),
    "older": (lambda about, _: about.update(format=1), "it has format 1, and this version of rheobase reads format 2"),
    "no JSON": (lambda *_: "{", "Expecting property name"),
    "no header": (lambda *_: "[]", "list indices"),
    "no format": (lambda about, _: about.clear(), "'format' is missing, or not known here"),
    "no modules": (lambda about, _: about.pop("modules") and None, "'modules' is missing, or not known here"),
    "model": (lambda about, _: about["arguments"].update(name="plain_convnett"), "no model 'plain_convnett'; near"),
    "option": (lambda about, _: about["arguments"].update(widht=3), "did you mean 'width'"),
    "width": (lambda about, _: about["arguments"].update(width=5), "size mismatch for features.0.module.weight"),
    "neuron": (
        lambda about, _: about["modules"]["features.1.neuron"].update(type="FooLIF"),
        "'FooLIF' is missing, or not known here",
    ),
    "kind": (lambda about, _: about["modules"]["features.1.neuron"].update(type="IF"), "of a LIF, and this is a IF"),
    "place": (lambda about, _: about["modules"].update({"x.y": {"type": "LIF"}}), "'x.y.decay' is missing"),
    "less": (
        lambda _, tensors: [tensors.pop("features.0.module.weight")],
        "'features.0.module.weight' is missing, or not known here",
    ),
    "more": (lambda _, tensors: tensors.update(x=torch.ones(1)), "Unexpected key.*x"),
    "range": (lambda _, tensors: tensors["features.1.neuron.decay"].fill_(2), "decay must be a number in"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged(what: str, tmp_path: Path) -> None:
    change, reason = DAMAGE[what]
    rb.save(made(), tmp_path / "m")
    path = rewritten(tmp_path / "m", change)
    with pytest.raises(ValueError, match=f"^load: {re.escape(str(path))} cannot be read here: .*{reason}"):
        rb.load(path)


def test_not_a_file_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        rb.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not written by rheobase.save: its header names no model"):
        rb.load(path)
    rb.save(made(), path)
    whole = path.read_bytes()
    for content in (b"", b"no tensors here", whole[:7], whole[:100], whole[:-1], whole + b"x", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^load: {re.escape(str(path))} is not a safetensors file, or not the"):
            rb.load(path)


def test_plain_weights(tmp_path: Path) -> None:
    """Whoever has only safetensors finds the state_dict."""
    model = made()
    rb.save(model, tmp_path / "m")
    other = rb.models.create("plain_convnet", classes=3, in_channels=1, depth=4, width=4)
    other.load_state_dict(load_file(tmp_path / "m"))
    assert bits(other) == bits(model)


def test_nothing_of_the_host_is_seen_or_changed(tmp_path: Path) -> None:
    model = made(neuron=rb.LIF(0.3, learn="threshold"))
    before = seen(model)
    state = torch.get_rng_state()
    rb.save(model, tmp_path / "m")
    rb.load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    content = (tmp_path / "m").read_bytes()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            again = rb.load(tmp_path / "m")
            rb.save(model, tmp_path / "m")
    finally:
        torch.set_default_dtype(torch.float32)
    assert (tmp_path / "m").read_bytes() == content
    assert seen(again) == before


def test_files_memory_is_not_the_models(tmp_path: Path) -> None:
    model = made()
    rb.save(model, tmp_path / "m")
    one, other = rb.load(tmp_path / "m"), rb.load(tmp_path / "m")
    before = bits(other)
    (tmp_path / "m").write_bytes(bytes((tmp_path / "m").stat().st_size))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1)
    one(images())
    assert bits(other) == before
    assert bits(one) != before


def test_in_another_process(tmp_path: Path) -> None:
    model = made(neuron=rb.AdaptiveLIF(learn="decay"))
    norm(model).eps = 1e-3
    rb.save(model, tmp_path / "m")
    with torch.no_grad():
        save_file({"x": images(), "logits": model.eval()(images())}, tmp_path / "wanted")
    put(surrogate=Tent())(model)
    rb.save(model, tmp_path / "own")
    program = f"""
import torch, rheobase as rb
from safetensors.torch import load_file
wanted = load_file({str(tmp_path / "wanted")!r})
with torch.no_grad(), rb.engine("reference"):
    print(torch.equal(rb.load({str(tmp_path / "m")!r}).eval()(wanted["x"]), wanted["logits"]))
try:
    rb.load({str(tmp_path / "own")!r})
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    equal, error = run.stdout.strip().split("\n", 1)
    assert equal == "True"
    assert f"surrogate {Tent.name}: import the module that defines it" in error
    assert Tent.name in SHAPES
