import math

import pytest
import torch

from rheobase.training.recipe import ScheduleOptions
from rheobase.training.schedule import learning_rate


def rates(name, warmup=None, peak=1.0, per_epoch=10, epochs=4):
    options = ScheduleOptions(name=name, warmup_epochs=warmup)
    return [learning_rate(options, peak, step, per_epoch, epochs) for step in range(per_epoch * epochs)]


def test_constant():
    assert rates("constant", peak=0.3) == [0.3] * 40


def test_cosine_by_hand():
    found = rates("cosine", peak=2.0)
    assert found[0] == 2.0
    assert found[20] == pytest.approx(1.0)
    assert found[10] == pytest.approx(1 + math.sqrt(0.5))
    assert 0 < found[39] < 0.01


@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_warmup_rises_linearly_to_the_peak(name):
    found = rates(name, warmup=0.5)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert found[5:] == sorted(found[5:], reverse=True)


@pytest.mark.parametrize(("warmup", "share"), [(None, 0.3), (1.0, 0.25), (2.0, 0.5)])
def test_one_cycle_is_that_of_torch(warmup, share):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.7, total_steps=40, pct_start=share)
    wanted = []
    for _ in range(40):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(wanted) < 40:
            scheduler.step()
    assert rates("one_cycle", warmup, peak=0.7) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["cosine", "constant", "one_cycle"])
def test_a_run_of_one_step(name):
    assert 0 < learning_rate(ScheduleOptions(name=name), 0.5, 0, 1, 1) <= 0.5
