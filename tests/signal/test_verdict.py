"""A zoo of planted faults, each of which the probe has to call by its name; and nets that have none."""

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.verdict import bearable, lost

WIDTH = 32


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def digits(count: int = 64) -> tuple[Tensor, Tensor]:
    data = rb.data.load("digits")
    mean, std = (value.view(-1, 1, 1) for value in (data.mean, data.std))
    return (data.train.inputs[:count] - mean) / std, data.train.labels[:count]


class Ladder(nn.Module):
    """Layers of 32 units one after the other, on pixels as currents."""

    def __init__(self, depth: int = 6, neuron: rb.Neuron | None = None, norm: bool = True, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList()
        for i in range(depth):
            linear = nn.Linear(WIDTH if i else 64, WIDTH, bias=False)
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            fire: nn.Module = rb.LIF() if neuron is None else neuron
            if isinstance(neuron, rb.LIF):
                fire = type(neuron)(**{"surrogate": neuron.surrogate, "threshold": float(neuron.threshold)})
                if not isinstance(neuron, rb.IF):
                    fire.decay = float(neuron.decay)
            self.layers.append(
                nn.Sequential(rb.PerStep(linear), rb.CurrentNorm(WIDTH) if norm else nn.Identity(), fire)
            )
        self.head = rb.PerStep(nn.Linear(WIDTH, 10))

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1).expand(self.steps, -1, -1)
        for layer in self.layers:
            s = layer(s)
        logits: Tensor = self.head(s)
        return logits

    def part(self, layer: int, index: int) -> Any:
        return self.layers[layer][index]  # type: ignore[index]


def ladder(*arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: Ladder(*arguments, **options)


def spoilt(spoil: Callable[[Ladder], Any], *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    """A ladder, and something done to it."""

    def make() -> nn.Module:
        model = Ladder(*arguments, **options)
        with torch.no_grad():
            spoil(model)
        return model

    return make


def registry(name: str, steps: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: rb.models.create(name, classes=10, in_channels=1, steps=steps, width=8, **options)


class Compares(rb.Neuron):
    """Spikes by a comparison, which has no gradient."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.5 * state + current
        s = (v >= 1).to(v.dtype)
        return s, v - s


class Detaches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def compares(model: Ladder) -> None:
    model.part(3, 2)
    model.layers[3][2] = Compares()  # type: ignore[index]


def detaches(model: Ladder) -> None:
    model.layers[2][1] = nn.Sequential(model.part(2, 1), Detaches())  # type: ignore[index]


@dataclass
class Fault:
    """What is planted, what it is called, and where it is, if that can be said."""

    make: Callable[[], nn.Module]
    kind: str
    where: str = ""
    inputs: Callable[[Tensor], Tensor] = lambda x: x


NARROW, WIDE = rb.surrogate.SuperSpike(100.0), rb.surrogate.SuperSpike(0.3)
ZOO = {
    "a threshold out of reach": Fault(
        spoilt(lambda m: setattr(m.part(2, 2), "threshold", 50.0)), "silent", "layers.2.2"
    ),
    "weights too small, without a norm": Fault(
        spoilt(lambda m: [m.part(i, 0).module.weight.mul_(0.01) for i in range(6)], norm=False), "silent", "layers.0.2"
    ),
    "a norm that pushes currents down": Fault(spoilt(lambda m: m.part(1, 1).bias.fill_(-20.0)), "silent", "layers.1.2"),
    "inputs that are nothing, without a norm": Fault(ladder(norm=False), "silent", "layers.0.2", torch.zeros_like),
    "weights of zero": Fault(spoilt(lambda m: m.part(4, 0).module.weight.zero_()), "silent", "layers.4.2"),
    "a norm that pushes currents up": Fault(spoilt(lambda m: m.part(1, 1).bias.fill_(20.0)), "saturated", "layers.1.2"),
    "positive weights and no norm": Fault(
        spoilt(lambda m: [m.part(i, 0).module.weight.abs_().mul_(20) for i in range(6)], norm=False),
        "saturated",
        inputs=torch.abs,
    ),
    "a threshold of next to nothing": Fault(
        spoilt(lambda m: (setattr(m.part(3, 2), "threshold", 1e-3), m.part(3, 1).bias.fill_(4.0))),
        "saturated",
        "layers.3.2",
    ),
    "a narrow surrogate, deep": Fault(ladder(8, rb.LIF(surrogate=NARROW)), "vanishing"),
    "a narrow rectangle, deep": Fault(
        ladder(10, rb.LIF(surrogate=rb.surrogate.Rectangle(0.02).scaled(0.02))), "vanishing"
    ),
    "so narrow and deep that nothing is left": Fault(ladder(50, rb.LIF(surrogate=NARROW)), "underflow"),
    "a wide surrogate, deep": Fault(ladder(20, rb.LIF(surrogate=WIDE)), "exploding"),
    "a surrogate that is too high": Fault(ladder(8, rb.LIF(surrogate=rb.surrogate.ATan(2.0).scaled(8.0))), "exploding"),
    "IF neurons, residual, the reset detached": Fault(
        registry("spiking_resnet50", 10, neuron=rb.IF(), start="plain"), "exploding"
    ),
    "a comparison for a spike": Fault(spoilt(compares), "no gradient", "layers.3.2"),
    "something detached": Fault(spoilt(detaches), "no gradient", "layers.2.2"),
    "weights that are not a number": Fault(
        spoilt(lambda m: m.part(2, 0).module.weight[0].fill_(math.nan)), "not finite", "layers.2.2"
    ),
    "inputs that are not finite": Fault(ladder(), "not finite", "layers.0.2", lambda x: x.clone().fill_(math.inf)),
    "a head that is not finite": Fault(spoilt(lambda m: m.head.module.bias.fill_(math.inf)), "not finite"),  # type: ignore[operator, union-attr]
    "deep and random": Fault(ladder(40, rb.LIF(surrogate=rb.surrogate.SuperSpike(1.2))), "information lost"),
    "the classic ResNet-34 from a plain start": Fault(
        registry("spiking_resnet34", 10, start="plain", shortcut="conv"), "information lost"
    ),
    "the classic ResNet-50 from a plain start": Fault(
        registry("spiking_resnet50", 10, start="plain", shortcut="conv"), "information lost"
    ),
}


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.filterwarnings("ignore:Compares. its outputs carry no gradient:RuntimeWarning")
def test_a_planted_fault_is_called_by_its_name(name: str) -> None:
    fault = ZOO[name]
    x, y = digits()
    report = rb.probe(fault.make(), fault.inputs(x), y)
    assert not report.healthy
    found = [each for each in report.faults if each.kind == fault.kind]
    assert found, report.table()
    if fault.kind not in ("exploding", "vanishing", "underflow"):  # (what is deep enough for them also tells nothing)
        assert report.faults[0].kind == fault.kind, report.table()
    if fault.where:
        assert found[0].where == fault.where
    assert str(found[0]) in report.verdict
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        *((f"{junction}_resnet18", steps, {}) for junction in ("spiking", "sew", "ms") for steps in (4, 10)),
        *((f"spiking_resnet{depth}", 10, {}) for depth in (34, 50, 101)),
        ("spiking_resnet50", 4, {}),
        ("spiking_resnet50", 10, {"neuron": rb.IF()}),
        ("sew_resnet50", 4, {}),
        ("sew_resnet101", 10, {}),
        *(("sew_resnet18", 4, {"start": "identity", "connect": connect}) for connect in ("add", "and", "iand")),
        ("plain_convnet", 4, {}),
        *(("spiking_resnet18", steps, {"start": "plain", "shortcut": "conv"}) for steps in (4, 10)),
    ],
)
def test_nets_that_learn_are_healthy(name: str, steps: int, options: dict[str, Any]) -> None:
    x, y = digits()
    for labels in (y, None):
        report = rb.probe(registry(name, steps, **options)(), x, labels)
        assert report.healthy, report.table()
        assert report.verdict == "healthy"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_no_draw_is_information_lost_at_the_border(seed: int) -> None:
    """The classic nets of 18 layers learn from a plain start, those of 34 do not; eight places lost are too many."""
    x, y = digits()
    plain = {"start": "plain", "shortcut": "conv"}
    for name, steps, options, few, many in (
        ("spiking_resnet18", 4, plain, 2, 5),
        ("spiking_resnet34", 10, plain, 8, 10),
        ("sew_resnet50", 4, {}, 0, 7),
    ):
        torch.manual_seed(seed)
        report = rb.probe(registry(name, steps, **options)(), x, y)
        assert few <= sum(lost(place, 10, 64) for place in report.places) <= many, report.table()
        assert report.healthy == (few < 8)


def test_few_places_bear_a_larger_share_that_is_lost() -> None:
    faint = ((2, 3), (3, 3), (6, 9), (7, 9), (7, 17), (8, 17))
    assert [bearable(few, 0, places) for few, places in faint] == 3 * [True, False]
    assert bearable(11, 0, 34)
    assert not bearable(12, 0, 34)
    assert not bearable(1, 0, 1)
    assert [bearable(gone, gone, places) for gone, places in ((1, 3), (2, 3), (3, 9), (4, 9))] == 2 * [True, False]
    assert bearable(9, 4, 17, read=False)
    assert not bearable(0, 5, 17, read=False)


class Drowned(nn.Module):
    """Noise that tells nothing of the currents, another for others, with their gradient."""

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(1e6 * float(x.detach().abs().sum())) % 2**31)
        return x - x.detach() + torch.randn(x.shape[1:], generator=generator)


@pytest.mark.parametrize(("lost", "depth"), [(2, 3), (3, 5), (5, 8), (6, 9)])
def test_a_net_of_few_layers_whose_last_tell_nothing(lost: int, depth: int) -> None:
    model = Ladder(depth)
    for i in range(depth - lost, depth):
        model.layers[i][1] = nn.Sequential(model.part(i, 1), Drowned())  # type: ignore[index]
    report = rb.probe(model, *digits())
    assert [fault.kind for fault in report.faults][:1] == ["information lost"], report.verdict
    assert report.faults[0].where == f"layers.{depth - lost}.2"


def test_up_and_down_are_not_mistaken_for_each_other() -> None:
    """Another profiler calls a net vanishing whose gradient grows on its way down, and passes one that vanishes."""
    x, y = digits()
    for surrogate, kind in ((WIDE, "exploding"), (NARROW, "vanishing")):
        report = rb.probe(Ladder(8 if kind == "vanishing" else 20, rb.LIF(surrogate=surrogate)), x, y)
        first, last = report.layers[0].gradient_norm, report.layers[-1].gradient_norm
        assert (first > last) == (kind == "exploding")
        assert [fault.kind for fault in report.faults if fault.kind in ("exploding", "vanishing")] == [kind]


def test_a_net_that_was_reported_not_to_learn() -> None:
    """snnTorch issue 377, in our words: it learns the digits with an arctangent, and not with a fast sigmoid of 25."""
    file = Path(__file__).parents[2] / "recipes" / "studies" / "reported.py"
    spec = importlib.util.spec_from_file_location("reported", file)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    images, labels = study.digits()
    reports = {
        name: rb.probe(study.Reported(shape), images[:64], labels[:64]) for name, shape in study.SURROGATES.items()
    }
    assert reports["arctangent"].healthy, reports["arctangent"].table()
    narrow = reports["fast sigmoid of slope 25"]
    assert [fault.kind for fault in narrow.faults] == ["vanishing"], narrow.table()
    assert narrow.faults[0].where == "from (output)"
    assert all(0.01 < layer.rate < 0.5 for layer in narrow.layers), "by its firing alone it looks well"


@pytest.mark.filterwarnings("ignore:Compares. its outputs carry no gradient:RuntimeWarning")
@pytest.mark.parametrize("place", [2, 5])
@pytest.mark.parametrize("compared", [True, False])
def test_a_neuron_that_hands_no_gradient_down_is_told_from_what_is_above_it(place: int, compared: bool) -> None:
    x, y = digits()
    model = Ladder(6)
    if compared:
        model.layers[place][2] = Compares()  # type: ignore[index]
    else:
        model.part(place, 2).surrogate = rb.surrogate.Rectangle(1e-7)
    [fault] = rb.probe(model, x, y).faults
    assert (fault.kind, fault.where) == ("no gradient", f"layers.{place}.2")
    assert ("rb.spike" in fault.mend) == compared
    assert ("Widen its surrogate" in fault.mend) != compared
    told = rb.tune(model, x, y).account
    assert "there is no gradient at the first neurons" in told
    assert "does not level another" not in told
    with torch.no_grad():
        model = Ladder(6)
        model.head.module.weight.zero_()  # type: ignore[operator, union-attr]
    [fault] = rb.probe(model, x, y).faults
    assert "what is between it and the loss" in fault.mend


def test_too_few_samples_are_told() -> None:
    x, y = digits(7)
    verdict = rb.probe(Ladder(3), x, y).verdict
    assert "of 7 samples, where some 32 to 256 tell" in verdict
    assert verdict.startswith("healthy\n")
    x, y = digits(8)
    assert rb.probe(Ladder(3), x, y).verdict == "healthy"


def test_alarms_are_of_each_layer_by_itself() -> None:
    x, y = digits()
    assert not rb.probe(Ladder(3), x, y).alarms
    model = Ladder()
    model.part(2, 2).threshold = 50.0
    silent = [alarm.where for alarm in rb.probe(model, x, y).alarms if alarm.kind == "silent"]
    assert silent == ["layers.2.2", "layers.3.2", "layers.4.2", "layers.5.2"]
    report = rb.probe(Ladder(8, rb.LIF(surrogate=NARROW)), x, y)
    gains = {layer.path: layer.gain for layer in report.layers}
    alarms = [alarm for alarm in report.alarms if alarm.kind == "gain"]
    assert [alarm.where for alarm in alarms] == [p for p, g in gains.items() if g is not None and not 0.5 <= g <= 2]
    assert len(alarms) > 4
    assert f"has a gradient {gains['layers.0.2']:.2g} times" in str(alarms[0])
    assert "Widen the surrogates" in str(alarms[0])


def scaled(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return scale * nn.functional.cross_entropy(rb.readout(logits.float()), labels, reduction="none")

    return loss


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("scale", [1e-7, 1e-9])
def test_a_gradient_that_float16_rounds_to_nothing_wants_a_scaled_loss(norm: bool, scale: float) -> None:
    model, (x, y), small = ladder(norm=norm)(), digits(), scaled(scale)
    assert "underflow" not in rb.probe(model, x, y, loss=small).verdict  # in float32 it is there
    with torch.autocast("cpu", torch.float16), rb.engine("reference"):
        report = rb.probe(model, x, y, loss=small)
    assert any(fault.kind == "underflow" for fault in report.faults), report.table()
    assert "torch.amp.GradScaler" in report.verdict
    assert {layer.dtype for layer in report.layers} == {"float16"}


def test_what_is_detached_is_no_underflow_of_float16() -> None:
    x, y = digits()
    with torch.autocast("cpu", torch.float16), rb.engine("reference"):
        report = rb.probe(spoilt(detaches, norm=False)(), 10 * x, y, loss=scaled(2.0**8))
    assert [fault.kind for fault in report.faults if "grad" in fault.what] == ["no gradient"], report.table()
    assert "GradScaler" not in report.verdict


class Heads(nn.Module):
    """Two heads of neurons on a trunk, or a branch that is detached."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk, self.left, self.right = (
            nn.Sequential(rb.PerStep(nn.Linear(64, 64)), rb.CurrentNorm(64), rb.LIF()) for _ in range(3)
        )
        self.head = rb.PerStep(nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x.flatten(1).expand(4, -1, -1))
        if self.kind == "a branch":
            return self.head(self.right(x) + self.left(x).detach())  # type: ignore[no-any-return]
        if self.kind == "first":
            self.left(x)
        logits: Tensor = self.head(self.right(x))
        if self.kind == "last":
            self.left(x)
        return logits


@pytest.mark.parametrize("kind", ["a branch", "first", "last"])
def test_what_the_loss_does_not_depend_on_is_named_wherever_it_runs(kind: str) -> None:
    x, y = digits()
    report = rb.probe(Heads(kind), x, y)
    [fault] = report.faults
    assert (fault.kind, fault.where) == ("no gradient", "left.2")
    assert "the loss does not depend on it" in fault.what
    assert 0.2 < report.level < 5


def test_a_neuron_that_encodes_the_inputs_wants_no_gradient() -> None:
    x, y = digits()
    model = nn.Sequential(
        rb.LIF(), rb.PerStep(nn.Linear(64, 64)), rb.CurrentNorm(64), rb.LIF(), rb.PerStep(nn.Linear(64, 10))
    )
    report = rb.probe(model, x.flatten(1).expand(4, -1, -1), y)
    assert report.healthy, report.verdict
    assert report.layers[0].gain is None
    assert report.layers[0].rate > 0.05
    assert report.level == 1


class Past(nn.Module):
    """What is called before the encoding neuron goes past all neurons, to the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.past, self.encode, self.rest = rb.PerStep(nn.Linear(64, 10)), rb.LIF(), rb.PerStep(nn.Linear(64, 64))
        self.fire, self.head = rb.Fire(rb.CurrentNorm(64), rb.LIF()), rb.PerStep(nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        past = self.past(x)
        logits: Tensor = past + self.head(self.fire(self.rest(self.encode(x))))
        return logits


def test_what_goes_past_a_neuron_is_not_below_it() -> None:
    x, y = digits()
    report = rb.probe(Past(), x.flatten(1).expand(4, -1, -1), y)
    assert report.healthy, report.verdict
    assert [layer.bottom for layer in report.layers] == [True, False]


def test_a_neuron_above_something_detached_is_not_at_the_bottom() -> None:
    x, y = digits()
    model = nn.Sequential(
        *(rb.LIF(), rb.PerStep(nn.Linear(64, 64)), rb.CurrentNorm(64), Detaches(), rb.LIF()),
        rb.PerStep(nn.Linear(64, 10)),
    )
    [fault] = rb.probe(model, x.flatten(1).expand(4, -1, -1), y).faults
    assert (fault.kind, fault.where) == ("no gradient", "4")


def test_under_a_rule_nothing_is_said_of_surrogates() -> None:
    x, y = digits()
    model = Ladder(20, rb.LIF(surrogate=WIDE))
    assert "surrogates" in rb.probe(model, x, y).verdict
    for layer in model.layers:
        layer[2].rule = rb.rules.Membrane()  # type: ignore[index]
    report = rb.probe(model, x, y)
    assert {(layer.rule, layer.in_window) for layer in report.layers} == {("membrane", None)}
    assert "surrogate" not in report.verdict.replace("which knows no surrogate", "")
