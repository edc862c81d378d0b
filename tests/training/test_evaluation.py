import pytest
import torch

import rheobase as rb
from rheobase.data import load
from rheobase.training import Recipe, build
from rheobase.training.activity import activity
from rheobase.training.evaluation import accuracies, weights_sha256
from rheobase.training.recipe import LossOptions


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def net(**options):
    torch.manual_seed(0)
    return rb.models.create("plain_convnet", classes=10, in_channels=1, depth=2, width=4, **options)


def test_one_pass_gives_the_accuracy_of_each_number_of_steps(digits):
    model = net()
    batches = build.evaluation_batches(Recipe(), digits, digits.validation)
    steps = [1, 2, 3, 6]
    found = accuracies(model, batches, steps)
    alone = [accuracies(model, batches, [count])[0] for count in steps]
    assert found == alone
    assert accuracies(model, batches, [None]) == [accuracies(model, batches, [4])[0]]
    everything = build.evaluation_batches(Recipe(), digits, digits.validation)
    right = sum((rb.readout(model(x, steps=3)).argmax(1) == y).sum().item() for x, y, _ in everything)
    assert found[2] == right / len(digits.validation)


def test_accuracy_is_by_what_the_loss_takes_for_a_score(digits):
    model, loss = net(), LossOptions(name="membrane", membrane_decay=0.3, membrane_at="max")
    batches = build.evaluation_batches(Recipe(), digits, digits.validation)
    [found] = accuracies(model, batches, [3], loss=loss)
    batches.seek(0)
    potentials = torch.cat([rb.Integrator(0.3)(model(x, steps=3)) for x, *_ in batches], 1)
    assert found == (potentials.amax(0).argmax(1) == digits.validation.labels).sum().item() / len(digits.validation)
    assert found != accuracies(model, batches, [3])[0]


def test_steps_are_checked(digits):
    batches = build.evaluation_batches(Recipe(), digits, digits.validation)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        accuracies(net(), batches, [2, 0])
    with pytest.raises(ValueError, match="at most 1 for this model, got 4"):
        accuracies(net(spiking=False), batches, [4])


def test_hash_follows_name_type_shape_and_bytes():
    state = {"b": torch.zeros(2, 3), "a": torch.ones(4, dtype=torch.bfloat16), "n": torch.tensor(3)}
    same = {name: state[name].clone() for name in reversed(state)}
    assert weights_sha256(state) == weights_sha256(same)
    others = [
        {**state, "b": torch.zeros(3, 2)},
        {**state, "b": torch.zeros(2, 3, dtype=torch.int32)},
        {**state, "b": torch.tensor([[0, 0, 0], [0, 0, 1e-45]])},
        {"c": state["b"], "a": state["a"], "n": state["n"]},
    ]
    assert len({weights_sha256(other) for other in (state, *others)}) == 5


def test_hash_does_not_see_the_memory_format():
    state = torch.randn(2, 3, 4, 4)
    last = state.contiguous(memory_format=torch.channels_last)
    assert weights_sha256({"w": state}) == weights_sha256({"w": last})


def test_activity_by_hand():
    class Often(rb.Neuron):
        """Fires at the first step where the current is positive."""

        def initial_state(self, current):
            return torch.ones_like(current)

        def step(self, current, state):
            return (current > 0).float() * state, torch.zeros_like(state)

    model = torch.nn.Sequential(Often())
    currents = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]]])  # T=2, B=1; the third starts too late
    [layer] = activity(model, currents)
    assert layer["layer"] == "0"
    assert layer["shape"] == [3]
    assert layer["rate"] == pytest.approx(2 / 6)
    assert layer["dead"] == pytest.approx(1 / 3)


def test_activity_lists_layers_in_order_and_leaves_the_model():
    model = net()
    table = activity(model, torch.randn(3, 1, 8, 8))
    assert [layer["layer"] for layer in table] == [n for n, m in model.named_modules() if isinstance(m, rb.Neuron)]
    assert [layer["shape"][0] for layer in table] == [
        fire.norm.channels for fire in model.modules() if isinstance(fire, rb.Fire)
    ]
    assert all(0 <= layer["rate"] <= 1 for layer in table)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert activity(net(spiking=False), torch.randn(3, 1, 8, 8)) == []
