import dataclasses
import typing

import pytest
import torch

import rheobase as rb
from rheobase.training import Recipe, build, own, sources
from rheobase.training.recipe import DataOptions, ModelOptions, NeuronOptions


def test_neuron_has_the_recipes_numbers():
    options = NeuronOptions(decay=0.25, threshold=2.0, reset="hard", surrogate="triangle", surrogate_parameter=0.5)
    neuron = build.neuron(options)
    assert type(neuron) is rb.LIF
    assert (neuron.decay, neuron.threshold, neuron.reset) == (0.25, 2.0, "hard")
    assert neuron.surrogate == rb.surrogate.Triangle(0.5)
    assert build.neuron(NeuronOptions()).decay == 0.5
    assert type(build.neuron(NeuronOptions(kind="if"))) is rb.IF
    assert build.neuron(NeuronOptions(surrogate="sigmoid")).surrogate == rb.surrogate.Sigmoid()


def test_a_lateral_neuron_with_learned_thresholds():
    neuron = build.neuron(NeuronOptions(kind="lateral", inhibition=-0.25, refractory=2.0, learn_threshold=True))
    assert type(neuron) is rb.LateralLIF
    assert (neuron.inhibition, neuron.refractory, neuron.decay) == (-0.25, 2, 0.5)
    assert [name for name, _ in neuron.named_parameters()] == ["raw_threshold"]
    assert type(build.neuron(NeuronOptions(learn_threshold=True))) is rb.LIF


@pytest.mark.parametrize(("scale", "divisor"), [("unit", 16), ("none", 1)])
def test_inputs_as_they_are(scale, divisor):
    recipe = tiny(**{"data.scale": scale, "data.shift": 0})
    data = build.dataset(recipe)
    raw = data.train.at(build.training_batches(recipe, data).order(0)[:32]).inputs
    torch.testing.assert_close(build.training_batches(recipe, data).batch(0, 0).inputs, raw / divisor)
    assert build.sample(data, data.test).inputs.max() == data.test.inputs.max() / divisor
    usual = build.training_batches(tiny(), build.dataset(tiny())).batch(0, 0).inputs
    assert abs(usual.mean()) < 0.1


def test_unit_is_for_pixels():
    other = dataclasses.replace(build.dataset(tiny()), name="mine", white=None)
    with pytest.raises(ValueError, match="data.scale 'unit' is for pixels, and inputs of mine are none"):
        build.dataset(tiny(**{"data.scale": "unit", "data.name": own.GIVEN}), other)


def test_every_built_in_surrogate_has_its_name_in_the_schema():
    names = typing.get_args(typing.get_type_hints(NeuronOptions)["surrogate"])
    assert sorted(build.SURROGATES) == sorted(names)
    for name in names:
        shape = build.neuron(NeuronOptions(surrogate=name)).surrogate
        assert type(shape).__name__.lower() == name
        assert rb.surrogate.SHAPES[type(shape).__name__] is type(shape)


def tiny(**overrides):
    return sources.load("digits", {"model.name": "plain_convnet", "model.depth": 2, "model.width": 4, **overrides})


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state():
    data = build.dataset(tiny())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = build.model(tiny(), data).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again, other = build.model(tiny(), data).state_dict(), build.model(tiny(seed=1), data).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_twin_takes_no_neuron():
    net = build.model(tiny(**{"model.spiking": False}), build.dataset(tiny()))
    assert not any(isinstance(module, rb.Neuron) for module in net.modules())


def test_an_option_that_the_family_lacks_is_refused():
    with pytest.raises(ValueError, match="no option 'connect'"):
        build.model(tiny(**{"model.connect": "and"}), build.dataset(tiny()))


def test_train_limit():
    recipe = tiny(**{"data.train_limit": 50})
    assert len(build.dataset(recipe).train) == 50
    too_many = recipe.replace({"data.train_limit": 5000})
    with pytest.raises(ValueError, match=r"data\.train_limit must be at most 1197, the training .*, got 5000"):
        build.dataset(too_many)


def test_evaluation_sees_the_images_as_they_are():
    recipe = Recipe()
    data = build.dataset(recipe)
    batches = build.evaluation_batches(recipe, data, data.test)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), data.test.labels)


def test_every_option_of_data_and_models_is_a_key():
    keys = set(DataOptions.model_fields)
    assert {field.name for field in dataclasses.fields(rb.data.Augmentation)} < keys
    for name in rb.data.names():
        assert set(rb.data.options(name)) <= keys, name
    for name in rb.models.names():
        assert set(rb.models.options(name)) <= set(ModelOptions.model_fields), name


def test_augmentation_and_the_sets_options_come_from_the_recipe():
    recipe = tiny(**{"data.cutout": 2, "data.mixup": 0.2, "data.crop": 0.5})
    data = build.dataset(recipe)
    batches = build.training_batches(recipe, data)
    assert batches.augmentation == rb.data.Augmentation(shift=1, cutout=2, mixup=0.2, crop=0.5)
    assert batches.batch(0, 0).labels.shape == (32, 10)
    with pytest.raises(ValueError, match="data set 'digits' has the options"):
        build.dataset(tiny(**{"data.size": 16}))
