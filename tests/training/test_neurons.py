"""Every kind of neuron that the library has, from a recipe."""

from pathlib import Path

import pytest
import torch

import rheobase as rb
from rheobase.training import Recipe, build, evaluate, resume, sources
from rheobase.training.recipe import NeuronOptions

KINDS = {
    "lif": ({"decay": 0.7, "input_scale": 2.0}, "decay,threshold"),
    "if": ({"threshold": 0.8}, "threshold, input_scale"),
    "cuba_lif": ({"current_decay": 0.3, "decay": 0.6}, "current_decay"),
    "lateral": ({"inhibition": -0.1, "refractory": 2.0}, "threshold"),
    "adaptive_lif": ({"adaptation_decay": 0.8, "adaptation": 0.2, "reset": "hard"}, "adaptation,adaptation_decay"),
}


def options_of(kind):
    numbers, learn = KINDS[kind]
    return {f"model.neuron.{name}": value for name, value in {"kind": kind, "learn": learn, **numbers}.items()}


def test_every_kind_and_all_its_numbers_are_keys():
    kinds = (getattr(rb, name) for name in rb.__all__)
    kinds = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, rb.LIF)}
    assert set(build.NEURONS.values()) == kinds | {rb.SoftLIF}
    assert set(build.NEURONS) == {*KINDS, "soft_lif"}
    for name in KINDS:
        kind = build.NEURONS[name]
        default, made = kind(), build.neuron(NeuronOptions(kind=name))
        assert str(made) == str(default)
        for number in kind.dynamics:
            if not number.startswith("surrogate") and (name, number) != ("if", "decay") and name != "lateral":
                made = build.neuron(NeuronOptions(kind=name, **{number: 0.25}, learn=number))
                torch.testing.assert_close(getattr(made, number), torch.tensor(0.25))
                assert [key for key, _ in made.named_parameters()] == [f"raw_{number}"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_resumes_and_comes_back(kind, tiny, tmp_path, firing, stopping, rows):
    options = {**tiny, **options_of(kind), "trainer.epochs": 2, "model.steps": 3}  # adaptation decays from the third on
    learn = KINDS[kind][1].replace(" ", "").split(",")
    whole = rb.train("digits", **{**options, "run": str(tmp_path / "whole")})
    firing(whole)
    recipe = Recipe.from_json((whole.folder / "recipe.json").read_text())
    start = build.model(recipe, build.dataset(recipe)).features[1].neuron
    neuron = whole.model.features[1].neuron
    assert type(neuron) is type(start) is build.NEURONS[kind]
    for name, value in KINDS[kind][0].items():
        assert name == "reset" or torch.allclose(getattr(start, name), torch.tensor(value)), name
    assert {key for key, _ in neuron.named_parameters()} == {f"raw_{name}" for name in learn}
    assert all(getattr(neuron, name) != getattr(start, name) for name in learn), "it has learned them"
    with stopping(9):
        rb.train("digits", **options)
    run = resume(tiny["run"])
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert rows(run.folder) == rows(whole.folder)
    assert evaluate(tiny["run"])[3] == run.summary["validation_accuracy"]
    loaded, images = rb.load(run.folder / "checkpoints" / "best.safetensors").eval(), torch.rand(4, 1, 8, 8)
    assert str(loaded.features[1].neuron) == str(neuron)
    assert torch.equal(loaded(images), run.model(images))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "model",
    [
        {"name": "sew_resnet18", "connect": "and", "start": "identity"},
        {"name": "spiking_resnet20", "norm": "tdbn"},
        {"name": "ms_resnet18"},
        {"name": "mlp", "layers": "20-R20", "image_size": 8},
    ],
    ids=lambda model: model["name"],
)
def test_every_model_takes_it_and_its_twin_has_the_same_weights(kind, model):
    width = {} if model["name"] == "mlp" else {"width": 4}
    base = Recipe().replace({f"model.{key}": value for key, value in {**model, **width}.items()})
    recipe = base.replace(options_of(kind))
    data = build.dataset(recipe)
    net, twin = (build.model(recipe.replace({"model.spiking": spiking}), data) for spiking in (True, False))
    neurons = [module for module in net.modules() if type(module) is build.NEURONS[kind]]
    assert neurons
    assert not any(isinstance(module, rb.Neuron) for module in twin.modules())
    with rb.record(net) as tape:
        net(2 * torch.randn(8, 1, 8, 8)).sum().backward()
    assert any(trace.spikes.any() for trace in tape.values())
    assert any(
        parameter.grad.any() for neuron in neurons for parameter in neuron.parameters() if parameter.grad is not None
    )
    net.load_state_dict(twin.state_dict())
    twin.load_state_dict(net.state_dict())
    norms = [[module.scale for module in one.modules() if isinstance(module, rb.CurrentNorm)] for one in (net, twin)]
    assert norms[0] == norms[1]


@pytest.mark.parametrize(
    ("neuron", "match"),
    [
        ({"kind": "adaptive_lif", "reset": "delayed"}, "soft, hard or none where kind is 'adaptive_lif', whose state"),
        ({"kind": "if", "decay": 0.5}, "decay must be 1 or null where kind is 'if', got 0.5"),
        ({"learn": 3.0}, "learn must be a text or null, got 3.0"),
        ({"kind": "glif"}, "kind must be one of lif, if, cuba_lif, adaptive_lif, lateral, soft_lif, got 'glif'"),
        ({"adaptation_decay": 1.5}, "adaptation_decay must be a number >= 0 and <= 1 or null, got 1.5"),
        ({"tau_rc": 0.05}, "model.neuron: LIF takes no 'tau_rc'"),
        ({"kind": "soft_lif", "decay": 0.5}, "model.neuron: SoftLIF takes no 'decay'"),
        ({"kind": "soft_lif", "learn": "gain"}, "model.neuron: SoftLIF takes no 'learn'"),
        ({"kind": "soft_lif", "noise": -1.0}, "model.neuron.noise must be a number >= 0 or null, got -1.0"),
        ({"taum": 2}, "unknown key 'model.neuron.taum'"),
        ({"current_decay": 0.5}, "model.neuron: LIF takes no 'current_decay'"),
        ({"kind": "cuba_lif", "adaptation": 0.5}, "model.neuron: CubaLIF takes no 'adaptation'"),
        ({"learn": "adaptation"}, "LIF: learn must name some of decay, threshold, input_scale, got 'adaptation'"),
        ({"learn": "decay;threshold"}, "LIF: learn must name some of .* got 'decay;threshold'"),
        ({"kind": "if", "learn": "threshold,decay"}, "decay must begin inside|IF takes no decay"),
        ({"learn": "decay", "decay": 1.0}, "model.neuron: LIF: a learned decay must begin inside"),
    ],
)
@pytest.mark.parametrize("spiking", [True, False])
def test_what_does_not_fit_is_refused(tiny, neuron, match, spiking):
    with pytest.raises(ValueError, match=match):
        rb.train("digits", **tiny, **{"model.neuron": neuron, "model.spiking": spiking})
    assert not Path(tiny["run"]).exists()


def test_the_command_and_a_file_name_what_is_learned_alike(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {neuron: {learn: 'decay, threshold'}}")
    _, recipe = sources.from_arguments(["digits", "--model.neuron.learn", "decay, threshold"])
    assert recipe.model.neuron == sources.load(tmp_path / "mine.yaml").model.neuron
    assert hash(recipe) == hash(Recipe.from_json(recipe.to_json()))
