"""A training step by each line of work's rule, against surrogate gradients through time on the same network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

import rheobase as rb
from benchmarks.harness import Call, Case, Table, measure
from benchmarks.health_workload import busy, still
from benchmarks.memory import add_peaks
from rheobase.kernels.rules import named
from rheobase.training import build, losses, sources

IMAGE = (1, 28, 28)
RECIPES: dict[str, tuple[int, ...]] = {
    "mnist-membrane-800": IMAGE,
    "mnist-spike-train-conv": IMAGE,
    "fashion-mnist-spike-train": IMAGE,
    "spoken-digits-spike-train": (400, 64, 1, 1),
    "mnist-neighborhood-conv": IMAGE,
}
"""By name: the shape of a sample, as long as a spoken digit is on average."""
FEW = 10  # samples, one a class


def rules(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Of each recipe with a rule, on made inputs; process time, as other work on the machine does not count there."""
    for name, shape in RECIPES.items():
        recipe = sources.load(name)
        batch = FEW if quick else recipe.data.batch_size
        cases = [Case(rule, partial(step, name, rule, batch, shape)) for rule in ("surrogate", recipe.model.rule)]
        table = measure(f"{name}, training step, B={batch}", cases, repeats, clock=busy)
        if not quick:
            add_peaks(table, cases, partial(_small, name, shape))
        yield table


def rule_steps(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Of neurons alone, forward and backward, by T; process time."""
    neurons = 256 if quick else 16384
    for steps in (2, 5) if quick else (2, 5, 10, 20, 50):
        cases = [Case(rule, partial(_alone, rule, steps, neurons)) for rule in ("surrogate", "neighborhood")]
        yield measure(f"{neurons} CubaLIF, hard reset, T={steps}", cases, repeats, least=0.05, clock=busy)


def _alone(rule: str, steps: int, neurons: int) -> Call:
    torch.manual_seed(0)
    neuron = rb.CubaLIF(0.5, 0.8, reset="hard", input_scale=0.5)
    neuron.rule = named(rule)
    x, g = torch.randn(steps, 1, neurons).requires_grad_(), torch.randn(steps, 1, neurons)
    return lambda: torch.autograd.grad(neuron(x), x, g)


def _small(name: str, shape: tuple[int, ...], case: Case) -> Callable[[], Call]:
    """What brings the code of a case in."""
    return partial(step, name, case.name, FEW, shape)


def step(name: str, rule: str, batch: int, shape: tuple[int, ...]) -> Call:
    """A step of the recipe's network and loss."""
    recipe = sources.load(name).replace({"model.rule": rule})
    torch.manual_seed(0)
    sequence = len(shape) == 4
    x = (torch.rand(batch, *shape) < 0.06).byte() if sequence else (255 * torch.rand(batch, *shape) ** 3).byte()
    lengths = torch.full((batch,), shape[0]) if sequence else None
    split = rb.data.Split(x, torch.arange(batch) % 10, lengths)
    made = rb.data.Dataset.of("made", 10, split, split, split, white=None if sequence else 255.0)
    recipe = build.instead(recipe, (), made, None)
    data = build.dataset(recipe, made)
    net, inputs = build.model(recipe, data), next(iter(build.training_batches(recipe, data)))
    return still(net, lambda: losses.loss(net(inputs.inputs), inputs.labels, recipe.loss))
