import math

import pytest
import torch

import rheobase as rb
from rheobase.training import Recipe, loop, losses, resume
from rheobase.training.boosting import Boosting, weigh
from rheobase.training.recipe import LossOptions


def test_weights_by_hand():
    """Two epochs of two classes; the second epoch's shares are those of weights, not of samples."""
    boosting = Boosting(0.5, torch.tensor([0, 0, 0, 2, 2]))
    boosting.note(torch.tensor([3, 0, 2]), torch.tensor([True, True, False]))
    boosting.note(torch.tensor([1, 4]), torch.tensor([False, False]))
    boosting.end_epoch()
    a, b = math.exp(0.5 / 3), math.exp(0.5 / 2)
    assert boosting.weights.tolist() == pytest.approx([a, 1, 1, b, 1])
    boosting.note(torch.arange(5), torch.tensor([True, True, False, False, False]))
    boosting.end_epoch()
    more = math.exp(0.5 * (a + 1) / (a + 2))
    assert boosting.weights.tolist() == pytest.approx([a * more, more, 1, b, 1])


@pytest.mark.parametrize("name", ["cross_entropy", "tet", "count", "membrane"])
def test_gradients_are_those_of_the_weighted_mean(name):
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 5, dtype=torch.float64)
    labels, weights, options = torch.tensor([4, 0, 2]), torch.tensor([1.0, 2.5, 1.25]), LossOptions(name=name)
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    seen = one * 1  # what a net gives is no leaf
    weigh(seen, weights)
    losses.loss(seen, labels, options).backward()
    each = [losses.loss(other[:, i : i + 1], labels[i : i + 1], options) for i in range(3)]
    (torch.stack(each) @ weights / 3).backward()
    torch.testing.assert_close(one.grad, other.grad)
    assert one.grad.abs().max() > 1e-3


def test_resumed_is_uninterrupted(tiny, tmp_path, stopping, firing, checkpoint):
    """In the middle of an epoch, of which the flags so far must live on; accumulated pieces have their own weights."""
    options = {**tiny, "loss.boosting": 1.0, "trainer.accumulate": 2}
    whole = rb.train("digits", **{**options, "run": str(tmp_path / "whole")})
    plain = rb.train("digits", **{**options, "run": str(tmp_path / "plain"), "loss.boosting": 0.0})
    firing(whole)
    with stopping(10):
        rb.train("digits", **options)
    assert checkpoint(options["run"])["boosting"]["wrong"].any()
    run = resume(options["run"])
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"] != plain.summary["weights_sha256"]
    found, wanted = (checkpoint(each.folder)["boosting"] for each in (run, whole))
    assert torch.equal(found["weights"], wanted["weights"])
    assert found["weights"].max() > 1.5
    assert found["weights"].min() == 1
    assert not found["wrong"].any()


def test_who_went_wrong_weighs_more(tiny, monkeypatch):
    """Were all of an odd class wrong, and no others, then these have the larger weights, piece by piece."""
    own, seen = loop.Training.loss, []

    def loss(self, model, batch, weights=None):
        if weights is not None:
            seen.append((self.journal.epoch, batch.labels, weights))
        return own(self, model, batch, weights)[0], batch.labels % 2 == 0

    monkeypatch.setattr(loop.Training, "loss", loss)
    rb.train("digits", **tiny, **{"loss.boosting": 0.5, "trainer.accumulate": 2})
    assert len(seen) == 3 * 6 * 2
    for epoch, labels, weights in seen:
        assert weights.tolist() == pytest.approx([math.exp(0.5 * epoch) if label % 2 else 1 for label in labels])


def test_mixed_samples_are_refused():
    with pytest.raises(ValueError, match=r"loss\.boosting must be 0 where mixup or cutmix mixes samples, got 0\.05"):
        Recipe().replace({"loss.boosting": 0.05, "data.mixup": 0.2})
