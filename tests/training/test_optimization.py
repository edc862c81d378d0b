import math

import pytest
import torch

import rheobase as rb
from rheobase.training import Recipe
from rheobase.training.optimization import groups, learning_rate, optimizer
from rheobase.training.recipe import OptimizerOptions


def test_weight_decay_is_on_weights_of_layers_only():
    net = rb.models.create("sew_resnet18", classes=10, in_channels=1, width=4)
    decayed, free = groups(net, 0.3)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    layers = {id(module.weight) for module in net.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)}
    assert {id(parameter) for parameter in decayed["params"]} == layers
    assert len(decayed["params"]) + len(free["params"]) == len(names)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizer(name, kind):
    net = rb.models.create("plain_convnet", classes=10, in_channels=1, depth=1)
    made = optimizer(net, OptimizerOptions(name=name, lr=0.5, momentum=0.8, weight_decay=0.1))
    assert type(made) is kind
    group = made.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.1)
    assert 0.8 in (group.get("momentum"), group.get("betas", [None])[0])


def rates(name, warmup=None, peak=1.0, per_epoch=10, epochs=4):
    keys = {"schedule.name": name, "schedule.warmup_epochs": warmup, "optimizer.lr": peak, "trainer.epochs": epochs}
    recipe = Recipe().replace(keys)
    return [learning_rate(recipe, step, per_epoch) for step in range(per_epoch * epochs)]


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
    [found] = rates(name, peak=0.5, per_epoch=1, epochs=1)
    assert 0 < found <= 0.5
