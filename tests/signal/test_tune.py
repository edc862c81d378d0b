"""Tuning levels the gradient on batches it has not seen, and says where it does not."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.models.resnet import Block
from tests.signal.test_verdict import Ladder, digits


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Tower(nn.Module):
    """Convolutions without skips, on 8x8 images."""

    def __init__(self, depth: int, steps: int, neuron: rb.LIF, width: int = 12) -> None:
        super().__init__()
        self.steps = steps
        layers: list[nn.Module] = []
        for i in range(depth):
            conv = nn.Conv2d(width if i else 1, width, 3, padding=1, bias=False)
            nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
            layers += [rb.PerStep(conv), rb.Fire(rb.CurrentNorm(width), copy.deepcopy(neuron))]
        self.layers = nn.Sequential(*layers)
        self.head = rb.PerStep(nn.Sequential(nn.Flatten(), nn.Linear(64 * width, 10)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x.expand(self.steps, *x.shape)))
        return logits


class Wide(nn.Module):
    """Layers of 256 units one after the other, weights random or orthogonal, on an input that stays the same."""

    def __init__(self, depth: int, steps: int, neuron: rb.LIF, orthogonal: bool = False) -> None:
        super().__init__()
        self.steps, self.layers, self.head = steps, nn.Sequential(), rb.PerStep(nn.Linear(256, 10))
        for _ in range(depth):
            linear = nn.Linear(256, 256, bias=False)
            if orthogonal:
                nn.init.orthogonal_(linear.weight)
            else:
                nn.init.normal_(linear.weight, std=1 / 16)
            self.layers.append(nn.Sequential(rb.PerStep(linear), rb.Fire(rb.CurrentNorm(256), copy.deepcopy(neuron))))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x.expand(self.steps, *x.shape)))
        return logits


@pytest.mark.parametrize(
    ("depth", "steps", "neuron"),
    [
        (30, 10, rb.LIF(surrogate=rb.surrogate.SuperSpike(3.0))),
        (30, 4, rb.IF(surrogate=rb.surrogate.SuperSpike(2.0))),
        (30, 4, rb.LIF(reset="hard", surrogate=rb.surrogate.Triangle(1.5))),
        (30, 4, rb.LIF(surrogate=rb.surrogate.ATan(3.0))),
    ],
)
def test_the_gradient_is_level_on_fresh_batches(depth: int, steps: int, neuron: rb.LIF) -> None:
    x, y = digits(160)
    model = Tower(depth, steps, neuron)
    found = rb.tune(model, x[:64], y[:64])
    assert not 0.2 < found.before.level < 5
    assert 0.9 < found.after.level < 1.1
    for batch in (slice(64, 112), slice(112, 160)):
        assert 0.5 < rb.probe(model, x[batch], y[batch], preset="quick").level < 2
    assert found.holds
    assert min(layer.rate for layer in found.after.layers) > 0.05


@pytest.mark.parametrize(("steps", "neuron"), [(4, rb.LIF(surrogate=rb.surrogate.SuperSpike(1.6))), (10, rb.LIF())])
def test_a_hundred_random_layers_are_level_on_fresh_batches(steps: int, neuron: rb.LIF) -> None:
    x, labels = torch.randn(4, 32, 256), torch.arange(32) % 10
    model = Wide(100, steps, neuron)
    found = rb.tune(model, x[0], labels, held_out=(x[1], labels))
    fresh = [found.held_out, *(rb.probe(model, each, labels, "quick") for each in x[2:])]
    assert not 0.01 < found.before.level < 100
    assert 0.8 < found.after.level < 1.25
    assert all(0.5 <= report.level <= 2 for report in fresh), [report.level for report in fresh]
    assert min(layer.rate for layer in found.after.layers) > 0.05


def test_it_is_the_same_again_and_a_part_of_the_model() -> None:
    x, y = digits()
    models = [Tower(8, 4, rb.LIF(surrogate=rb.surrogate.SuperSpike(5.0))) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    a, b = (rb.tune(model, x, y) for model in models[:2])
    assert a == b
    assert any(before != after for before, after in a.surrogates.values())
    models[2].load_state_dict(models[0].state_dict())
    assert rb.probe(models[2], x, y).level == rb.probe(models[0], x, y).level
    for path, (_, after) in a.surrogates.items():
        assert models[2].get_submodule(path).surrogate == after


@pytest.mark.parametrize("height", [False, True])
@pytest.mark.parametrize("kind", ["tower", "classic", "one neuron at several places"])
def test_what_it_tells_of_the_net_after_is_what_a_probe_finds(kind: str, height: bool) -> None:
    """The pass that levels is read, and not another one after it: surrogates give the gradient that levellers gave."""
    x, y = digits()
    if kind == "classic":
        model: nn.Module = rb.models.create("spiking_resnet18", classes=10, in_channels=1, steps=4, width=4)
    else:
        model = Tower(6, 4, rb.LIF(surrogate=rb.surrogate.SuperSpike(5.0)))
    if kind.startswith("one"):
        model.layers[5].neuron = model.layers[3].neuron  # type: ignore[index, union-attr]
    found = rb.tune(model, x, y, height=height)
    after = rb.probe(model, x[:32], y[:32], preset="quick")
    assert any(before != set_ for before, set_ in found.surrogates.values())
    assert found.after == after
    assert len(after.layers) > 5


def test_widths_change_nothing_that_goes_up_and_nothing_else() -> None:
    x, y = digits()
    model = Tower(6, 4, rb.LIF(surrogate=rb.surrogate.SuperSpike(5.0)))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    rb.tune(model, x, y)
    assert torch.equal(random, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) or name.endswith(("surrogate_width", "surrogate_height"))
    assert all(m.rule is None for m in model.modules() if isinstance(m, rb.LIF))
    assert not any(m._forward_hooks for m in model.modules())


def test_heights_where_widths_do_not_do() -> None:
    x, y = digits()
    narrow = rb.LIF(surrogate=rb.surrogate.SuperSpike(2000.0).scaled(0.05))
    level = {}
    for height in (False, True):
        torch.manual_seed(0)
        level[height] = rb.tune(Tower(8, 4, narrow), x, y, height=height).after.level
    assert level[False] < 0.1
    assert 0.98 < level[True] < 1.02


def test_learned_numbers_and_what_cannot_be_tuned() -> None:
    x, y = digits()
    torch.manual_seed(1)

    class Own(rb.Neuron):
        def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            v = 0.5 * state + current
            s = rb.spike(v - 1)
            return s, v - s

    model = Ladder(5)
    model.layers[1][2] = Own()  # type: ignore[index]
    model.layers[2][2] = rb.LIF(learn=("decay",), surrogate=rb.surrogate.SuperSpike(8.0))  # type: ignore[index]
    found = rb.tune(model, x, y)
    assert found.left == {"layers.1.2": "a Own has no surrogate to be set"}
    assert "layers.2.2" in found.surrogates
    assert model.part(2, 2).raw_decay.requires_grad
    assert "left as they were: layers.1.2" in found.verdict


def test_the_identity_start_mends_a_classic_net() -> None:
    x, y = digits()
    model = rb.models.create(
        "spiking_resnet34", classes=10, in_channels=1, steps=10, width=8, start="plain", shortcut="pool"
    )
    found = rb.tune(model, x, y, start="identity", widths=False)
    assert [fault.kind for fault in found.before.faults] == ["information lost"]
    assert found.after.healthy, found.after.table()
    assert found.held_out.healthy
    assert len(found.begun) == 16
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    surrogates = [block.fire.neuron.surrogate for block in blocks]
    rb.tune(model, x, y, start="identity", widths=False)
    assert [block.fire.neuron.surrogate for block in blocks] == surrogates, "a second time nothing gets wider"


def test_the_identity_start_of_a_net_without_skips() -> None:
    x, y = digits()
    for start, lost in ((None, True), ("identity", False)):
        torch.manual_seed(0)
        model = Tower(40, 4, rb.LIF())
        found = rb.tune(model, x, y, start=start, widths=False)  # type: ignore[arg-type]
        assert ("information lost" in [fault.kind for fault in found.after.faults]) == lost


def test_orthogonal_weights() -> None:
    x, y = digits()
    model = Tower(4, 4, rb.LIF())
    head = model.head.module[1].weight.clone()  # type: ignore[index, union-attr]
    rb.tune(model, x, y, start="orthogonal", widths=False)
    for layer in model.layers:
        if isinstance(layer, rb.PerStep):
            rows = layer.module.weight.flatten(1)  # type: ignore[union-attr, operator]
            torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5) if rows.shape[
                0
            ] <= rows.shape[1] else None
    assert torch.equal(model.head.module[1].weight, head)  # type: ignore[index, union-attr]


def test_fluctuations_make_a_net_without_norms_fire() -> None:
    x, y = digits()
    model = Ladder(12, norm=False)
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.mul_(0.02)
    assert rb.probe(model, x, y).faults[0].kind == "silent"
    found = rb.tune(model, x, y, start="fluctuation")
    assert found.begun == tuple(f"layers.{i}.0.module" for i in range(12))
    assert min(layer.rate for layer in found.after.layers) > 0.05
    with rb.record(model) as tape:
        model(x[:32])
    assert all(0.8 < float(trace.currents.detach().std()) < 1.25 for trace in tape.values())


def test_it_says_when_batches_disagree() -> None:
    x, y = digits()
    found = rb.tune(Ladder(4), x, y, held_out=(1e-3 * x, y), widths=True)
    assert found.holds == (0.5 <= found.held_out.level / found.after.level <= 2)
    found = rb.tune(Tower(4, 4, rb.LIF()), x, y)
    other = copy.copy(found)
    object.__setattr__(other, "held_out", rb.probe(Tower(40, 4, rb.LIF(surrogate=rb.surrogate.SuperSpike(9))), x, y))
    assert not other.holds
    assert "what levels one batch does not level another" in other.verdict


def test_bad_input_is_told() -> None:
    x, y = digits()
    with pytest.raises(ValueError, match="tune: start must be None or one of identity, orthogonal, fluctuation, got"):
        rb.tune(Ladder(2), x, y, start="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tune: the batch must have at least 4 samples, half of them held out, got 3"):
        rb.tune(Ladder(2), x[:3], y[:3])
    with pytest.raises(ValueError, match="probe: the model has no neurons"):
        rb.tune(nn.Linear(3, 3), torch.randn(8, 3))
    assert math.isfinite(rb.tune(Ladder(2), x, y, widths=False).after.level)


@pytest.mark.parametrize(
    ("depth", "surrogate"),
    [
        (12, rb.surrogate.SuperSpike(100.0)),
        (20, rb.surrogate.SuperSpike(10.0)),
        (20, rb.surrogate.SuperSpike(0.3)),
        (12, rb.surrogate.SuperSpike(30.0)),
    ],
)
def test_what_is_far_from_level_is_levelled_too(depth: int, surrogate: rb.surrogate.Surrogate) -> None:
    x, y = digits(128)
    found = rb.tune(Tower(depth, 4, rb.LIF(surrogate=surrogate)), x, y)
    assert not 1e-3 < found.before.level < 1e3
    assert 0.5 < found.after.level < 2
    assert 0.4 < found.held_out.level < 2.5
    assert len(found.unreached) <= 2, "beside the last neuron, which keeps its width"


def test_it_tells_where_no_width_is_enough() -> None:
    x, y = digits()
    found = rb.tune(Tower(8, 4, rb.LIF(surrogate=rb.surrogate.SuperSpike(2.0).scaled(1e-3))), x, y)
    assert found.unreached
    assert "no width was enough at layers." in found.verdict


def test_what_was_begun_by_tuning_is_saved_with_the_model(tmp_path: Path) -> None:
    x, y = digits()
    model = rb.models.create(
        "spiking_resnet18", classes=10, in_channels=1, steps=4, width=4, start="plain", shortcut="pool"
    )
    rb.tune(model, x, y, start="identity")
    rb.save(model, tmp_path / "net.safetensors")
    again = rb.load(tmp_path / "net.safetensors")
    assert torch.equal(again.eval()(x[:4]), model.eval()(x[:4]))
    surrogates = [m.surrogate for m in model.modules() if isinstance(m, rb.LIF)]
    assert [m.surrogate for m in again.modules() if isinstance(m, rb.LIF)] == surrogates
    rb.tune(again, x, y, start="identity", widths=False)
    fires = [m.fire.neuron.surrogate for m in again.modules() if isinstance(m, Block)]
    rb.tune(again, x, y, start="identity", widths=False)
    assert [m.fire.neuron.surrogate for m in again.modules() if isinstance(m, Block)] == fires


def test_frozen_layers_are_looked_through() -> None:
    x, y = digits()
    for frozen in (1, 6):
        model = Ladder(6, rb.LIF(surrogate=rb.surrogate.SuperSpike(8.0)))
        for layer in list(model.layers)[:frozen]:
            layer.requires_grad_(False)
        report = rb.probe(model, x, y)
        assert report.layers[0].gradient_norm > 0
        assert "no gradient" not in report.verdict
        assert report.layers[0].weight_ratio is None
        rb.tune(model, x, y)
        assert not any(p.requires_grad for p in model.layers[0].parameters())


def test_a_start_that_does_not_go_with_the_model_is_refused_and_changes_nothing() -> None:
    x, y = digits()

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ladder, self.lif = Ladder(3), rb.LIF()

        def forward(self, x: Tensor) -> Tensor:
            s = self.ladder.layers[0](x.flatten(1).expand(4, -1, -1))
            for layer in list(self.ladder.layers)[1:]:
                s = s + layer(s)
            logits: Tensor = self.ladder.head(s)
            return logits

    for model, start, told in (
        (Own(), "identity", "let the last norm of a branch begin at zero"),
        (Ladder(3), "fluctuation", "it is for nets without norms and without skips"),
    ):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=told):
            rb.tune(model, x, y, start=start)  # type: ignore[arg-type]
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])


def test_an_error_on_the_way_leaves_the_model_as_it_was() -> None:
    x, y = digits()
    model = Ladder(4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"labels must be a tensor of one a sample, .* got \[4\]"):
        rb.tune(model, x, y, start="orthogonal", held_out=(x[:8], y[:4]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(m.rule is None for m in model.modules() if isinstance(m, rb.LIF))


def test_sequences_are_divided_by_samples() -> None:
    x, y = digits(24)
    model = Tower(4, 10, rb.LIF())
    model.forward = lambda frames: model.head(model.layers(frames))  # type: ignore[method-assign]
    found = rb.tune(model, x.expand(10, *x.shape), y)
    assert (found.after.steps, found.after.batch) == (10, 12)
    with pytest.raises(ValueError, match=r"there are 5 labels, and x"):
        rb.tune(model, x.expand(10, *x.shape), y[:5])
    with pytest.raises(ValueError, match="give held_out"):
        rb.tune(model, {"x": x}, y)  # type: ignore[arg-type]


def test_one_neuron_for_several_places_is_left_alone() -> None:
    x, y = digits()
    model, lif = Ladder(4), rb.LIF(surrogate=rb.surrogate.SuperSpike(9.0))
    for layer in model.layers:
        layer[2] = lif  # type: ignore[index]
    found = rb.tune(model, x, y)
    assert found.left == {"layers.0.2": "it runs at several places, and has one surrogate"}
    assert lif.surrogate == rb.surrogate.SuperSpike(9.0)


def test_the_head_is_what_runs_last_wherever_it_is_declared() -> None:
    x, y = digits()

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.ladder = rb.PerStep(nn.Linear(32, 10)), Ladder(2)

        def forward(self, x: Tensor) -> Tensor:
            s = x.flatten(1).expand(4, -1, -1)
            for layer in self.ladder.layers:
                s = layer(s)
            logits: Tensor = self.head(s)
            return logits

    assert rb.tune(Turned(), x, y, start="orthogonal").begun == tuple(f"ladder.layers.{i}.0.module" for i in range(2))


def test_a_batch_that_is_divided_along_another_axis_is_told() -> None:
    x, _ = digits(24)
    model = Tower(2, 8, rb.LIF())
    model.forward = lambda frames: model.head(model.layers(frames.unflatten(2, (1, 8, 8))))  # type: ignore[method-assign]
    frames = x.flatten(1).expand(8, 24, 64)
    with pytest.raises(ValueError, match=r"neurons see 24 samples: it was divided along another axis"):
        rb.tune(model, frames)
    for held_out in (frames, (frames,), {"x": frames}):
        with pytest.raises(ValueError, match=r"tune: held_out must be a pair \(x, y\), got"):
            rb.tune(model, frames, held_out=held_out)  # type: ignore[arg-type]
    assert rb.tune(model, frames, held_out=(frames, None)).after.batch == 24


def test_a_neuron_that_starts_from_a_state_of_its_own_is_left_alone() -> None:
    class Warm(rb.LIF):
        def initial_state(self, current: Tensor) -> Tensor:
            return torch.full_like(current, 0.8)

    model, (x, y) = Tower(4, 4, Warm(0.95)), digits(32)
    found = rb.tune(model, x, y)
    assert set(found.left.values()) == {"it starts from a state of its own"}
    assert not found.surrogates


@pytest.mark.parametrize("start", ["orthogonal", "identity"])
def test_frozen_weights_stay(start: str) -> None:
    model, (x, y) = Tower(4, 4, rb.LIF(0.9)), digits(32)
    frozen = model.layers[2].module
    frozen.requires_grad_(False)
    before = frozen.weight.clone()
    found = rb.tune(model, x, y, start=start, widths=False)  # type: ignore[arg-type]
    assert torch.equal(frozen.weight, before)
    assert "layers.4.module" in found.begun
    assert "layers.2.module" not in found.begun


def test_frozen_blocks_do_not_begin_as_the_identity() -> None:
    torch.manual_seed(0)
    model = rb.models.create("spiking_resnet18", classes=10, in_channels=1, steps=4, width=4, start="plain")
    model.features.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = rb.tune(model, *digits(16), start="identity", widths=False)
    assert found.begun == ()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_time_is_not_taken_for_samples_where_there_are_as_many() -> None:
    model = nn.Sequential(rb.PerStep(nn.Linear(10, 12)), rb.LIF(), rb.PerStep(nn.Linear(12, 3)))
    x, y = torch.randn(8, 8, 10), torch.randn(8)
    with pytest.raises(ValueError, match="the loss must be one a sample"):
        rb.tune(model, x, y, loss=lambda o, y: (o.mean((0, 2)).mean() - y).square())


@pytest.mark.parametrize("beside", [False, True])
def test_of_two_layers_before_a_neuron_fluctuations_scale_what_it_hears(beside: bool) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = (rb.PerStep(nn.Linear(8, 8)) for _ in range(3))
            self.fire = rb.LIF()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.fire(self.b(x) + self.a(x) if beside else self.b(self.a(x))))
            return logits

    torch.manual_seed(0)
    model, x, y = Two(), torch.randn(4, 16, 8), torch.arange(16) % 3
    found = rb.tune(model, x, y, start="fluctuation", held_out=(x, y))
    assert set(found.begun) == ({"a.module", "b.module"} if beside else {"b.module"})
    with rb.record(model) as tape:
        model(x)
    assert float(tape["fire"].currents.detach().std()) == pytest.approx(1, abs=1e-4)
