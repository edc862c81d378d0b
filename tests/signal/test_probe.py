"""What a report tells, and that a probe changes nothing."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.passing import passing


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def net(name: str = "spiking_resnet18", **options: Any) -> tuple[nn.Module, Tensor, Tensor]:
    model = rb.models.create(name, classes=3, in_channels=1, steps=4, width=8, **options)
    return model, 2 * torch.randn(24, 1, 8, 8), torch.arange(24) % 3


@pytest.mark.parametrize("preset", ["quick", "standard", "full"])
def test_readings_are_those_of_a_pass(preset: str) -> None:
    model, x, y = net()
    report, passed = rb.probe(model, x, y, preset=preset), passing(model, x, y, halves=True)  # type: ignore[arg-type]
    for i, (layer, seen) in enumerate(zip(report.layers, passed.layers, strict=True)):
        gradient = float(seen.currents_grad.double().norm())
        assert layer.path == seen.path
        assert layer.shape == tuple(seen.spikes.shape[2:])
        assert layer.rate == pytest.approx(float(seen.spikes.mean()))
        assert layer.dead == pytest.approx(float((seen.spikes.amax((0, 1)) == 0).double().mean()))
        assert layer.saturated == pytest.approx(float((seen.spikes.amin((0, 1)) == 1).double().mean()))
        assert layer.gradient_norm == pytest.approx(gradient, rel=1e-5)
        assert layer.gradient_rms == pytest.approx(float(seen.currents_grad.double().square().mean().sqrt()), rel=1e-5)
        if i + 1 < len(report.layers) and report.layers[i + 1].gradient_norm > 0:
            assert layer.gain == pytest.approx(gradient / report.layers[i + 1].gradient_norm, rel=1e-5)
        if preset == "full":
            assert layer.rates == pytest.approx(seen.spikes.flatten(1).mean(1).tolist())
            assert sum(norm**2 for norm in layer.gradient_norms) == pytest.approx(gradient**2, rel=1e-4)
        else:
            assert layer.rates == ()
        for name in seen.weights:
            whole, half = passed.weights[name]
            rest = whole - half
            if preset == "full" and len(seen.weights) == 1 and half.any():
                cosine = float((half * rest).sum() / (half.norm() * rest.norm()))
                assert layer.agreement == pytest.approx(cosine, abs=1e-4)
        assert (layer.noisy is None) == (layer.accuracy is None) == (preset == "quick")
    assert report.layers[-1].gain is None
    assert 0.05 < sum(layer.rate for layer in report.layers) / len(report.layers) < 0.6


@pytest.mark.parametrize("preset", ["quick", "standard", "full"])
def test_it_changes_nothing(preset: str) -> None:
    model, x, y = net("sew_resnet18")
    model.features.insert(1, nn.Dropout(0.3))
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    first = rb.probe(model, x, y, preset=preset)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert first == rb.probe(model, x, y, preset=preset)  # type: ignore[arg-type]


def test_neurons_that_are_run_once_more_draw_no_numbers_of_the_hosts() -> None:
    own = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
    model = nn.Sequential(
        rb.PerStep(nn.Linear(4, 6)), rb.Recurrent(rb.LIF(threshold=0.3), own), rb.PerStep(nn.Linear(6, 3))
    )
    x = 3 * torch.randn(7, 16, 4)
    random = torch.get_rng_state()
    assert rb.probe(model, x, torch.arange(16) % 3).layers[0].in_window is not None
    assert torch.equal(torch.get_rng_state(), random)


def test_two_views_are_one_where_nothing_is_lost() -> None:
    model, x, y = net()
    first, *_, last = rb.probe(model, x, y).layers
    assert first.similarity > 0.6
    assert (first.noisy or 0) > 0.8
    assert first.similarity > last.similarity


def test_without_labels_and_for_a_loss_of_ones_own() -> None:
    model, x, y = net()
    assert all(layer.accuracy is None for layer in rb.probe(model, x).layers)
    assert rb.probe(model, x).loss == rb.probe(model, x).loss
    report = rb.probe(model, x, y.float(), loss=lambda logits, t: (logits.mean((0, 2)) - t).square())
    assert report.layers[0].accuracy is None
    assert report.layers[0].gradient_norm > 0


def test_frames_and_other_modes() -> None:
    model, x, y = net("plain_convnet")
    frames = torch.stack([x + 0.1 * torch.randn_like(x) for _ in range(5)])
    report = rb.probe(model, frames, y)
    assert (report.steps, report.batch) == (5, 24)
    assert report.layers[0].similarity > 0.6, "inputs are compared sample by sample"
    assert rb.probe(model, x, y, training=False).layers != rb.probe(model, x, y).layers


def test_neurons_of_other_kinds() -> None:
    linear = nn.Linear(6, 6)
    model = nn.Sequential(
        rb.PerStep(nn.Linear(4, 6)), rb.AdaptiveLIF(), rb.Recurrent(rb.LIF(threshold=0.3), linear), rb.CubaLIF(),
        rb.PerStep(nn.Linear(6, 3)), rb.Integrator(),
    )  # fmt: skip
    report = rb.probe(model, 3 * torch.randn(7, 16, 4), torch.arange(16) % 3)
    adaptive, recurrent, cuba, readout = report.layers
    assert adaptive.in_window is None
    assert recurrent.in_window is not None
    assert recurrent.weight_ratio is not None, "its own weights"
    assert readout.dead is readout.saturated is readout.in_window is None
    assert cuba.rate > 0


def test_table_json_and_figure(tmp_path: Path) -> None:
    model, x, y = net()
    report = rb.probe(model, x, y, preset="full")
    table = report.table()
    assert all(layer.path in table for layer in report.layers)
    assert table.endswith(report.verdict)
    content = json.loads(report.to_json())
    assert [layer["path"] for layer in content["layers"]] == [layer.path for layer in report.layers]
    assert content["healthy"] == report.healthy
    for preset in ("quick", "full"):
        file = tmp_path / f"{preset}.png"
        rb.probe(model, x, y, preset=preset).plot(file)  # type: ignore[arg-type]
        assert file.read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_told() -> None:
    model, x, y = net()
    with pytest.raises(TypeError, match=r"probe: model must be a torch.nn.Module, got str"):
        rb.probe("digits", x, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="probe: preset must be one of quick, standard, full, got 'slow'"):
        rb.probe(model, x, y, preset="slow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="probe: the model has no neurons"):
        rb.probe(nn.Linear(3, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"the loss must be one a sample, \[B\] with B >= 1, got \[\]"):
        rb.probe(model, x, y, loss=lambda logits, labels: logits.mean())
    with pytest.raises(ValueError, match="without a gradient"):
        rb.probe(model, x, y, loss=lambda logits, labels: logits.detach().mean((0, 2)))

    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.lif = nn.Linear(3, 3), rb.LIF()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            current, v = self.layer(x), torch.zeros(2, 3)
            return torch.stack([self.lif.step(current, v)[0] for _ in range(3)])

    with pytest.raises(ValueError, match=r"no neuron ran; they are called on sequences \[T, B, ...\]"):
        rb.probe(Stepped(), torch.randn(2, 3))


def test_surrogates_that_differ_from_channel_to_channel() -> None:
    model = nn.Sequential(
        rb.PerStep(nn.Linear(4, 6)), rb.LIF(threshold=torch.rand(6) + 0.2), rb.PerStep(nn.Linear(6, 3))
    )
    model[1].surrogate_width = torch.rand(6) + 1
    report = rb.probe(model, 3 * torch.randn(7, 16, 4), torch.arange(16) % 3)
    assert 0 < (report.layers[0].in_window or 0) < 1
    assert rb.tune(model, 3 * torch.randn(7, 16, 4), torch.arange(16) % 3).left == {
        "1": "its surrogate is not one for all"
    }


def test_labels_that_are_no_classes() -> None:
    model, x, y = net()
    for labels, loss in (
        (torch.where(y == 0, -100, y), None),
        (torch.arange(24) * 10**9, lambda logits, y: logits.mean((0, 2)) * y),
    ):
        report = rb.probe(model, x, labels, loss=loss)
        assert (report.layers[0].accuracy is None) == (loss is not None)
    assert rb.probe(model, x, torch.zeros(24).long()).layers[0].accuracy is None


def test_inputs_for_a_poisson_coding_stay_rates_in_the_other_view() -> None:
    torch.manual_seed(0)
    model = rb.models.create("mlp", classes=3, in_channels=1, layers="16-16", image_size=4, coding="poisson", steps=6)
    x = torch.rand(16, 1, 4, 4)
    report = rb.probe(model, x, torch.arange(16) % 3)
    assert all(layer.noisy is not None and 0 < layer.noisy < 1 for layer in report.layers)


def test_sequences_of_different_lengths_have_another_view_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(rb.PerStep(nn.Linear(8, 8)), rb.CurrentNorm(8), rb.LIF(), rb.PerStep(nn.Linear(8, 3)))
    x, lengths = torch.randn(5, 12, 8), torch.arange(12) % 3 + 3

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(rb.readout(logits, lengths), y, reduction="none")

    with rb.padding(lengths):
        report = rb.probe(model, x, torch.arange(12) % 3, loss=loss)
    assert report.layers[0].noisy is not None


def test_a_model_without_values_is_told() -> None:
    model, x, y = net("plain_convnet")
    with pytest.raises(ValueError, match="must have values, got some on the device meta"):
        rb.probe(model.to("meta"), x, y)
    with pytest.raises(ValueError, match="must have values, got some on the device meta"):
        rb.tune(model, x, y)


def test_a_figure_of_no_known_format_is_told(tmp_path: Path) -> None:
    model, x, y = net("plain_convnet")
    report = rb.probe(model, x, y, preset="quick")
    with pytest.raises(ValueError, match=r"a figure must end in one of .*\.pdf.*\.png.*\.svg.*, got '.*\.xyz'"):
        report.plot(tmp_path / "figure.xyz")
    report.plot(tmp_path / "figure.SVG")
    assert (tmp_path / "figure.SVG").exists()


def test_the_noise_is_not_the_inputs_once_more() -> None:
    """As it were if both came from one seed: then a norm would take the difference away."""
    x = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    model = rb.models.create("mlp", classes=3, in_channels=1, layers="32-32", image_size=16, norm="current")
    found = [rb.probe(model, x, seed=seed).layers[-1].noisy or 0.0 for seed in range(5)]
    assert all(abs(noisy - found[0]) < 0.1 for noisy in found), found
    assert 0.5 < found[0] < 0.99


class Own(rb.Neuron):
    """A loop of its own over time."""

    def run(self, currents: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        v, found = torch.zeros_like(currents[0]) if state is None else state, []
        for current in currents:
            u = 0.5 * v + current
            found.append(rb.spike(u - 1))
            v = u - found[-1]
        return torch.stack(found), v


class Stepped(rb.LIF):
    """A step of its own, whose potential nobody knows."""

    def step(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        u = 0.5 * state + current
        s = rb.spike(u - 1)
        return s, u - s


class Twice(rb.LIF):
    def run(self, currents: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return super().run(currents, state)


def layers(neuron: type[rb.Neuron] = rb.LIF, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(rb.PerStep(nn.Linear(4, 16)), rb.CurrentNorm(16), neuron(), rb.PerStep(nn.Linear(16, classes)))


def sequences() -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(7, 16, 4), torch.arange(16) % 3


@pytest.mark.parametrize("neuron", [Own, Stepped, Twice])
def test_neurons_of_ones_own_have_the_readings_of_a_lif_but_for_its_potentials(neuron: type[rb.Neuron]) -> None:
    x, y = sequences()
    torch.manual_seed(0)
    [want] = rb.probe(layers(), x, y).layers
    torch.manual_seed(0)
    [found] = rb.probe(layers(neuron), x, y).layers
    assert found.in_window is None
    assert (found.rate, found.similarity, found.accuracy) == (want.rate, want.similarity, want.accuracy)
    assert found.finite
    assert rb.tune(layers(neuron), x, y).left


def test_in_inference_mode_and_with_tensors_of_it() -> None:
    x, y = sequences()
    model = layers()
    want = rb.probe(model, x, y)
    with torch.inference_mode():
        assert rb.probe(model, 1 * x, 1 * y) == want
        rb.tune(model, 1 * x, 1 * y)
    model(x).sum().backward()
    assert model[0].module.weight.grad is not None  # type: ignore[union-attr]


class Counts(nn.Module):
    """Puts another tensor in its buffer's place, and makes another at its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        self.register_buffer("last", x.detach().mean(), persistent=False)
        return x


def test_buffers_that_are_put_in_anothers_place_are_as_before_also_after_an_error() -> None:
    x, y = sequences()
    for loss in (None, lambda outputs, y: outputs.mean()):
        model = nn.Sequential(layers(), Counts())
        try:
            rb.probe(model, x, y, loss=loss)
        except ValueError:
            assert loss is not None
        assert list(dict(model[1].named_buffers())) == ["mean"]
        assert model[1].mean == 0


@pytest.mark.parametrize("count", [1, 2, 16])
def test_inputs_that_are_all_the_same_tell_nothing_of_what_is_left_of_them(count: int) -> None:
    x, y = sequences()
    x = x[:, :count] if count < 3 else x[:, :1].expand(-1, 16, -1)
    model = nn.Sequential(rb.PerStep(nn.Linear(4, 16)), rb.LIF(), rb.PerStep(nn.Linear(16, 3)))
    report = rb.probe(model, x, y[:count])
    assert "information lost" not in report.verdict
    assert "they cannot tell what is left of them" in report.verdict
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "cannot tell" not in rb.probe(model, *sequences()).verdict


def test_inputs_of_one_number_each() -> None:
    class Lines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layers(x.view(-1, 1).expand(5, -1, 4))
            return logits

    assert rb.probe(Lines(), torch.linspace(-3, 3, 16), torch.arange(16) % 3).layers[0].similarity > 0.5


def test_outputs_that_are_no_logits_are_told() -> None:
    class Gives(nn.Module):
        def __init__(self, of: Any) -> None:
            super().__init__()
            self.layers, self.of = layers(), of

        def forward(self, x: Tensor) -> Any:
            return self.of(self.layers(x))

    x, y = sequences()
    for of, got in ((lambda o: o.mean(0), r"\[16, 3\]"), (lambda o: (o, o), "tuple")):
        for labels in (y, None):
            with pytest.raises(ValueError, match=rf"probe: .* logits \[T, B, classes\], got {got}: give loss="):
                rb.probe(Gives(of), x, labels)
    report = rb.probe(
        Gives(lambda o: o.mean(0)), x, y, loss=lambda o, y: nn.functional.cross_entropy(o, y, reduction="none")
    )
    assert report.batch == 16
    with pytest.raises(ValueError, match=r"one a sample, \[B\] with B >= 1, got \[3\] for inputs \[7, 16, 4\]"):
        rb.probe(layers(), x, y, loss=lambda o, y: o.mean((0, 1)))


@pytest.mark.parametrize("sick", ["not finite", "no gradient", "silent"])
@pytest.mark.parametrize("preset", ["quick", "full"])
def test_the_figure_of_a_sick_net(sick: str, preset: Any, tmp_path: Path) -> None:
    x, y = sequences()
    model = nn.Sequential(layers(classes=4), layers())
    if sick == "no gradient":
        with torch.no_grad():
            model[1][3].module.weight.zero_()  # type: ignore[index, union-attr]
    if sick == "silent":
        model[0][2].threshold = 1e9  # type: ignore[index]
    report = rb.probe(model, x * torch.nan if sick == "not finite" else x, y, preset)
    assert report.faults[0].kind == sick
    report.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_labels_and_losses_of_another_number_are_refused_in_words() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(rb.PerStep(nn.Linear(6, 8)), rb.LIF(), rb.PerStep(nn.Linear(8, 3)))
    x, y = torch.rand(5, 8, 6), torch.arange(8) % 3
    for labels, got in ((y[:5], r"\[5\]"), (y.tolist(), "list")):
        with pytest.raises(
            ValueError, match=rf"one a sample, \[8\] for logits \[5, 8, 3\], got {got} \(time comes first"
        ):
            rb.probe(net, x, labels)
    with pytest.raises(ValueError, match=r"one a sample, \[B\] with B >= 1, got \[5\] for inputs \[5, 8, 6\]"):
        rb.probe(net, x, y, loss=lambda logits, labels: logits.mean((1, 2)))
    whole, short = rb.probe(net, x, y), rb.probe(net, x, y.int())
    assert whole.layers[0].gradient_norm == short.layers[0].gradient_norm > 0


def test_within_padding_real_steps_alone_count() -> None:
    """What stands past a sample's end changes no reading; without lengths it does."""
    torch.manual_seed(0)
    model = nn.Sequential(rb.PerStep(nn.Linear(8, 8)), rb.CurrentNorm(8), rb.LIF(), rb.PerStep(nn.Linear(8, 3)))
    x, lengths, y = 2 * torch.randn(6, 24, 8), torch.arange(24) % 5 + 2, torch.arange(24) % 3
    real = torch.arange(6).unsqueeze(1) < lengths
    found = []
    for fill in (0.0, 3.0):
        given = torch.where(real.unsqueeze(-1), x, fill)
        with rb.padding(lengths):
            found.append(
                (rb.probe(model, given, y, preset="quick"), rb.probe(model, given, y, preset="quick", loss=None))
            )
            with rb.record(model) as tape:
                model.eval()(given)
        model.train()
    first, second = found[0][0], found[1][0]
    assert first.loss == pytest.approx(second.loss)
    for name in ("rate", "dead", "similarity", "gradient_norm"):
        assert getattr(first.layers[0], name) == pytest.approx(getattr(second.layers[0], name)), name
    assert tape["2"].spikes[~real].mean() != tape["2"].spikes[real].mean()
    plain = [rb.probe(model, torch.where(real.unsqueeze(-1), x, fill), y, preset="quick") for fill in (0.0, 3.0)]
    assert plain[0].layers[0].rate != pytest.approx(plain[1].layers[0].rate, rel=1e-3)


class Strange(nn.Module):
    """A net whose way depends on its inputs, or of which a part has the batch folded into it, or no state."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = (rb.PerStep(nn.Linear(8, 8)) for _ in range(2))
        self.head = rb.PerStep(nn.Linear(8, 3))
        self.first, self.second = rb.LIF(threshold=0.3), Stateless() if kind == "stateless" else rb.LIF(threshold=0.3)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.first(self.a(x))
        if self.kind == "folded":
            spikes = self.second(self.b(spikes).flatten(0, 1).unsqueeze(0)).view_as(spikes)
        elif self.kind == "stateless" or x[0, 0, 0] == 7:
            spikes = self.second(self.b(spikes))
        logits: Tensor = self.head(spikes)
        return logits


class Stateless(rb.Neuron):
    def step(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        return rb.spike(current - 0.1), ()


def test_strange_nets_are_read_or_refused_in_words() -> None:
    torch.manual_seed(0)
    x, y = 2 * torch.randn(4, 12, 8), torch.arange(12) % 3
    with pytest.raises(ValueError, match='goes another way, or gives other shapes, .*: preset="quick" takes one'):
        rb.probe(Strange("dependent"), x.index_put([torch.tensor(0)] * 3, torch.tensor(7.0)), y)
    first, second = rb.probe(Strange("stateless"), x, y, preset="full").layers
    assert (second.in_window, first.stopped, second.stopped) == (None, False, False)
    assert second.similarity == second.similarity
    first, second = rb.probe(Strange("folded"), x, y, preset="full").layers
    assert first.similarity == first.similarity
    assert (second.similarity != second.similarity, second.accuracy) == (True, None)
