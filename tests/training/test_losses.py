import math

import pytest
import torch
from torch import nn

import rheobase as rb
from rheobase.training.losses import correct, hidden, loss, rate_penalty, scores, weight_penalty
from rheobase.training.recipe import LossOptions

LOGITS = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]]])  # T=2, B=1, two classes; mean [1, 0]
LABELS = torch.tensor([0])


def entropy(a, b):
    """Cross entropy of logits [a, b] for class 0, by hand."""
    return math.log(math.exp(a) + math.exp(b)) - a


def test_cross_entropy_is_of_the_mean_over_time():
    assert loss(LOGITS, LABELS, LossOptions()).item() == pytest.approx(entropy(1, 0))


def test_label_smoothing():
    found = loss(LOGITS, LABELS, LossOptions(label_smoothing=0.2)).item()
    assert found == pytest.approx(0.9 * entropy(1, 0) + 0.1 * entropy(0, 1))


def test_tet_is_the_mean_of_each_step_and_a_pull():
    options = LossOptions(name="tet", tet_lambda=0.25, tet_target=3.0)
    entropies = (entropy(2, 0) + entropy(0, 0)) / 2
    pull = ((2 - 3) ** 2 + 3 * (0 - 3) ** 2) / 4
    assert loss(LOGITS, LABELS, options).item() == pytest.approx(0.75 * entropies + 0.25 * pull)


def test_count_is_the_squared_error_of_the_mean_over_time():
    spikes = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]]])  # 3 and 1 of 4 steps
    found = loss(spikes, LABELS, LossOptions(name="count")).item()
    assert found == pytest.approx(((0.75 - 1) ** 2 + 0.25**2) / 2)
    smooth = loss(spikes, LABELS, LossOptions(name="count", label_smoothing=0.2)).item()
    assert smooth == pytest.approx(((0.75 - 0.9) ** 2 + (0.25 - 0.1) ** 2) / 2)
    rates = {"name": "count", "count_high": 0.5, "count_low": 0.1}
    assert loss(spikes, LABELS, LossOptions(**rates)).item() == pytest.approx((0.25**2 + 0.15**2) / 2)
    spikes.requires_grad_()
    near = loss(spikes, LABELS, LossOptions(**rates, count_margin=0.2))
    assert near.item() == pytest.approx(0.25**2 / 2)
    near.backward()
    torch.testing.assert_close(spikes.grad, torch.tensor([0.25 / 4, 0.0]).expand(4, 1, 2))


@pytest.mark.parametrize(
    ("decay", "at", "a", "b"),
    [(1.0, "last", 3, -1), (0.5, "last", 1.5, -1.25), (0.0, "last", 1, -1), (1.0, "max", 3, 1), (0.5, "max", 2, 1)],
)
def test_membrane_is_the_cross_entropy_of_an_integrators_potential(decay, at, a, b):
    logits = torch.tensor([[[2.0, 1.0]], [[0.0, -1.0]], [[1.0, -1.0]]])
    # v, decay 1: 2 2 3 and 1 0 -1; decay 1/2: 2 1 1.5 and 1 -0.5 -1.25
    options = LossOptions(name="membrane", membrane_decay=decay, membrane_at=at)
    assert loss(logits, LABELS, options).item() == pytest.approx(entropy(a, b), rel=1e-5)
    torch.testing.assert_close(scores(logits, options), torch.tensor([[float(a), float(b)]]))


def test_what_decides_is_what_is_trained():
    logits = torch.tensor([[[5.0, 0.0]], [[0.0, 1.0]], [[0.0, 2.0]]])  # the mean is for 0, a leaky potential for 1
    leaky = LossOptions(name="membrane", membrane_decay=0.25)
    assert correct(logits, torch.tensor([0]), LossOptions()).sum() == 1
    assert correct(logits, torch.tensor([1]), leaky).sum() == 1


def test_rate_penalty_is_the_mean_over_layers():
    layers = [torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), torch.ones(2, 1, 3)]  # rates 1/4 and 1
    found = rate_penalty(layers, LossOptions(rate_penalty=3.0, rate_target=0.5)).item()
    assert found == pytest.approx(3 * (0.25**2 + 0.5**2) / 2)


def test_weight_penalty():
    """lambda / 2 sum exp(beta (sum w^2 - 1)) over hidden neurons, and its gradient, by hand; the tangent above e^10."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2), nn.Linear(2, 5))
    options = LossOptions(weight_penalty=0.1, weight_penalty_beta=2.0)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.5, 1.0]).view(2, 1, 1, 1))
        net[1].weight.copy_(torch.tensor([[0.6, 0.8], [30.0, -40.0]]))
    found = weight_penalty([net[0].weight, net[1].weight], options)
    want = 0.05 * (math.exp(2 * -0.75) + 1 + 1 + math.exp(10) * (1 + 2 * 2499 - 10))
    assert found.item() == pytest.approx(want)
    found.backward()
    assert net[0].weight.grad[0].item() == pytest.approx(0.1 * 2 * 0.5 * math.exp(2 * -0.75))
    assert net[1].weight.grad[0].tolist() == pytest.approx([0.1 * 2 * 0.6, 0.1 * 2 * 0.8])
    assert net[1].weight.grad[1].tolist() == pytest.approx([0.1 * 2 * w * math.exp(10) for w in (30, -40)])
    assert net[2].weight.grad is None
    assert net[1].bias.grad is None


class Backwards(nn.Module):
    """Its head is registered before what it hears; the middle layer has weights of its own."""

    def __init__(self):
        super().__init__()
        self.head = rb.PerStep(nn.Linear(4, 5))
        self.middle = nn.Parameter(torch.eye(4))
        self.fire = rb.LIF(threshold=torch.ones(4, 1), learn=["threshold"])
        self.first = rb.PerStep(nn.Linear(3, 4))

    def forward(self, x):
        return self.head(self.first(x) @ self.middle.T)


def test_the_hidden_layers_are_those_before_the_last_to_run():
    net = Backwards()
    names = [name for name, _ in net.named_parameters()]
    assert [names[place] for place in hidden(net, lambda: net(torch.ones(2, 1, 3)))] == [
        "middle",
        "first.module.weight",
    ]
    assert hidden(nn.Linear(2, 3), lambda: None) == []


def test_tet_pairs_steps_and_labels():
    logits, labels = torch.randn(3, 5, 4), torch.tensor([0, 1, 2, 3, 1])
    wanted = sum(torch.nn.functional.cross_entropy(step, labels) for step in logits) / 3
    torch.testing.assert_close(loss(logits, labels, LossOptions(name="tet", tet_lambda=0.0)), wanted)


def test_correct_goes_by_the_mean_over_time():
    logits = torch.tensor([[[3.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]])
    assert correct(logits, torch.tensor([0, 0]), LossOptions()).sum() == 1


def test_low_precision_logits_are_averaged_in_float32():
    logits = torch.tensor([[[256.0, 0.0]], [[1.0, 0.0]]], dtype=torch.bfloat16)
    assert loss(logits, LABELS, LossOptions()).dtype == torch.float32


NAMES = ["cross_entropy", "tet", "count", "membrane"]


@pytest.mark.parametrize("at", ["last", "max"])
@pytest.mark.parametrize("name", NAMES)
def test_steps_past_a_samples_length_do_not_count(name, at):
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3, 4), torch.tensor([0, 3, 1])
    options = LossOptions(name=name, membrane_at=at, membrane_decay=0.5)
    lengths = torch.tensor([2, 5, 3])
    want = [loss(logits[:n, i : i + 1], labels[i : i + 1], options) for i, n in enumerate(lengths.tolist())]
    assert loss(logits, labels, options, lengths).item() == pytest.approx(sum(want).item() / 3)
    assert loss(logits, labels, options).item() != pytest.approx(sum(want).item() / 3)
    right = sum(
        correct(logits[:n, i : i + 1], labels[i : i + 1], options).sum() for i, n in enumerate(lengths.tolist())
    )
    assert correct(logits, labels, options, lengths).sum() == right


@pytest.mark.parametrize("name", NAMES)
def test_mixed_labels(name):
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 5), torch.tensor([4, 0, 2])
    options, pure = LossOptions(name=name, label_smoothing=0.1), torch.nn.functional.one_hot(labels, 5).float()
    assert loss(logits, pure, options).item() == pytest.approx(loss(logits, labels, options).item())
    assert torch.equal(correct(logits, pure, options), correct(logits, labels, options))
    if name != "count":  # which is not linear in the label
        other = pure.roll(1, 0)
        want = 0.7 * loss(logits, pure, options) + 0.3 * loss(logits, other, options)
        assert loss(logits, 0.7 * pure + 0.3 * other, options).item() == pytest.approx(want.item())
