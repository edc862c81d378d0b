"""From a recipe to the things it names: data, batches, model, optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rheobase import models, surrogate
from rheobase.data import Augmentation, Batches, Dataset, load, seed_of
from rheobase.data.dataset import Samples
from rheobase.neurons import IF, LIF, Neuron
from rheobase.training.recipe import NeuronOptions, OptimizerOptions, Recipe

SURROGATES = {name.lower(): shape for name, shape in surrogate.SHAPES.items() if "." not in name}
"""The built-in shapes by the names that a recipe gives them."""


def dataset(recipe: Recipe) -> Dataset:
    """The data set, with the training split limited where the recipe says so.

    Raises:
        ValueError, FileNotFoundError: as `rheobase.data.load`, or a limit larger than the split.
    """
    found = load(recipe.data.name, recipe.data.root)
    limit = recipe.data.train_limit
    if limit is None:
        return found
    if limit > len(found.train):
        raise ValueError(f"data.train_limit must be at most {len(found.train)} for {found.name}, got {limit}")
    return found.limited(limit)


def training_batches(recipe: Recipe, data: Dataset, rank: int = 0, world_size: int = 1) -> Batches:
    """Shuffled and augmented batches of the training split."""
    options = recipe.data
    return Batches(
        data.train,
        batch_size=options.batch_size,
        mean=data.mean,
        std=data.std,
        seed=recipe.seed,
        augmentation=Augmentation(shift=options.shift, flip=options.flip),
        rank=rank,
        world_size=world_size,
    )


def evaluation_batches(recipe: Recipe, data: Dataset, split: Samples, rank: int = 0, world_size: int = 1) -> Batches:
    """All samples of a split in order, as they are; in larger batches, as nothing is kept for a backward pass."""
    size = max(world_size, min(2 * recipe.data.batch_size, len(split)))
    return Batches(split, batch_size=size, mean=data.mean, std=data.std, rank=rank, world_size=world_size)


def model(recipe: Recipe, data: Dataset) -> nn.Module:
    """The model, freshly initialised from the recipe's seed. The global random state is left as it was.

    Raises:
        ValueError: an option that the model family does not have, or a value that it refuses.
    """
    options = recipe.model
    own: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("width", "depth", "stem", "connect", "norm", "image_size")
        if getattr(options, name) is not None
    }
    if options.spiking:
        own["neuron"] = neuron(options.neuron)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("weights", recipe.seed))
        return models.create(
            options.name,
            classes=data.classes,
            in_channels=data.channels,
            steps=options.steps,
            spiking=options.spiking,
            rule=options.rule,
            **own,
        )


def neuron(options: NeuronOptions) -> Neuron:
    """The prototype of all neurons."""
    kind = SURROGATES[options.surrogate]
    shape = kind() if options.surrogate_parameter is None else kind(options.surrogate_parameter)  # type: ignore[call-arg]
    common: dict[str, Any] = {
        "threshold": options.threshold,
        "reset": options.reset,
        "detach_reset": options.detach_reset,
        "surrogate": shape,
    }
    return (
        IF(**common) if options.kind == "if" else LIF(decay=0.5 if options.decay is None else options.decay, **common)
    )


def groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weights of layers (two axes or more), and norms, biases and neurons, without decay."""
    neurons = {p for m in net.modules() if isinstance(m, Neuron) for p in m.parameters(recurse=False)}
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    weights = [p for p in trainable if p.dim() > 1 and p not in neurons]
    others = [p for p in trainable if p.dim() <= 1 or p in neurons]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def optimizer(net: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters of a net."""
    parts = groups(net, options.weight_decay)
    if options.name == "sgd":
        return torch.optim.SGD(parts, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)
    return torch.optim.AdamW(parts, lr=options.lr, betas=(options.momentum, 0.999))
