"""The gradient below a recurrent layer, by equations that the study writes out."""

from typing import Any

import torch

import rheobase as rb
from recipes.studies.coupling import WAYS, deltas, watched


def net() -> Any:
    torch.manual_seed(0)
    neuron = rb.CubaLIF(0.5, 0.875, reset="hard", input_scale=0.5)
    options = {"layers": "18-R3x3x2", "norm": "none", "output": "spikes", "alpha": 3.0, "neuron": neuron, "steps": 30}
    return rb.models.create("mlp", classes=10, in_channels=1, image_size=8, rule="spike_train", **options)


def test_to_first_order_it_is_what_the_rule_gives() -> None:
    model, x, y = net(), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    model.features.insert(0, rb.PerStep(torch.nn.Identity()))  # where the recipe's net has its coding
    found, strength = deltas(model, x, y)
    spikes, grads = watched(model, x, y)
    first = next(iter(spikes))
    assert spikes[first].mean() > 0.05
    counts = spikes[first].sum(0)
    own = (grads[first] * spikes[first]).sum(0) / (counts.clamp(min=1) * model.features[3].neuron.threshold)
    fired = counts > 0
    torch.testing.assert_close(found["first_order"].float()[fired], own[fired], rtol=1e-3, atol=1e-6)
    far = {way: (found[way] - found["inverse"])[fired].norm() / found["inverse"][fired].norm() for way in WAYS}
    assert far["first_order"] < far["none"] < far["as_coded"]
    assert (strength["eigenvalue"] > 0).sum() >= 4
    assert 0.01 < strength["others"].max() < 1


def test_without_weights_between_neurons_all_ways_are_one() -> None:
    model, x, y = net(), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    model.features.insert(0, rb.PerStep(torch.nn.Identity()))
    with torch.no_grad():
        model.features[5].neuron.module.values.zero_()
    found, strength = deltas(model, x, y)
    assert found["inverse"].norm() > 0
    torch.testing.assert_close(found["first_order"], found["inverse"])
    torch.testing.assert_close(found["none"], found["inverse"])
    assert not any(each.any() for each in strength.values())
