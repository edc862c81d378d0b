import pytest
import torch

import rheobase as rb
from rheobase.data import Batch, load
from rheobase.training import Recipe, build
from rheobase.training.activity import activity
from rheobase.training.evaluation import CONFIDENCES, _left, accuracies, weights_sha256
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


def test_early_exits_by_hand(digits):
    model = net()
    with torch.no_grad():
        for p in model.head.parameters():
            p.mul_(30)
    batches = build.evaluation_batches(Recipe(), digits, digits.validation)
    exits = []
    [whole] = accuracies(model, batches, [6], exits=exits)
    batches.seek(0)
    logits = torch.cat([model(x, steps=6) for x, *_ in batches], 1).detach()
    labels = digits.validation.labels
    for one in exits:
        steps, right = 0, 0
        for sample, label in enumerate(labels):
            means = [logits[: t + 1, sample].mean(0) for t in range(6)]
            step = next((t for t, mean in enumerate(means) if mean.softmax(0).max() >= one.confidence), 5)
            steps, right = steps + step + 1, right + int(means[step].argmax() == label)
        assert (one.steps, one.accuracy) == (steps / len(labels), right / len(labels))
    assert [one.steps for one in exits] == sorted(one.steps for one in exits)
    assert exits[0].steps < exits[-1].steps == 6
    assert exits[-1].accuracy == whole


def test_an_early_exit_is_not_after_the_end_of_a_sequence():
    logits = torch.zeros(3, 2, 2)
    logits[0, 0, 1], logits[2, 1, 0], lengths = 2.0, 9.0, torch.tensor([3, 2])  # the last is not real
    steps, right = _left(logits, torch.tensor([1, 0]), lengths, LossOptions())
    assert CONFIDENCES[5:7] == (0.8, 0.9)
    assert steps[5:7].tolist() == [1 + 2, 3 + 2]
    assert right[5:7].tolist() == [2, 2]  # of equal scores the first class is taken


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
    [layer] = activity(model, Batch(currents, torch.zeros(1), None))
    assert layer["layer"] == "0"
    assert layer["shape"] == [3]
    assert layer["rate"] == pytest.approx(2 / 6)
    assert layer["dead"] == pytest.approx(1 / 3)


def test_activity_lists_layers_in_order_and_leaves_the_model():
    model = net()
    table = activity(model, Batch(torch.randn(3, 1, 8, 8), torch.zeros(3), None))
    assert [layer["layer"] for layer in table] == [n for n, m in model.named_modules() if isinstance(m, rb.Neuron)]
    assert [layer["shape"][0] for layer in table] == [
        fire.norm.channels for fire in model.modules() if isinstance(fire, rb.Fire)
    ]
    assert all(0 <= layer["rate"] <= 1 for layer in table)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert activity(net(spiking=False), Batch(torch.randn(3, 1, 8, 8), torch.zeros(3), None)) == []
