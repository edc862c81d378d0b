"""From a recipe to the things it names: data, batches, model, optimizer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from rheobase import models, surrogate
from rheobase.data import Augmentation, Batches, Dataset, load, seed_of
from rheobase.data.dataset import Samples
from rheobase.neurons import IF, LIF, Neuron
from rheobase.training import own
from rheobase.training.recipe import DataOptions, ModelOptions, NeuronOptions, OptimizerOptions, Recipe

SURROGATES = {name.lower(): shape for name, shape in surrogate.SHAPES.items() if "." not in name}
"""The built-in shapes by the names that a recipe gives them."""
_AUGMENTATION = [field.name for field in fields(Augmentation)]


def dataset(recipe: Recipe, given: Dataset | None = None) -> Dataset:
    """The data set (or the one given), with the training split limited where the recipe says so.

    Raises:
        ValueError, FileNotFoundError: as `rheobase.data.load`, or a limit larger than the split.
    """
    name, root, limit = recipe.data.name, recipe.data.root, recipe.data.train_limit
    if (given is None) == (name == own.GIVEN):
        raise own.missing("data.name") if given is None else own.surplus("data.name", name)
    if given is not None:
        found = given
    elif ":" in name:
        found = own.call("data.name", name, Dataset, {"root": root}, ["root"] if root else [])
    else:
        found = load(name, root, **_loading(recipe.data))
    for key, most in (("train_limit", len(found.train)), ("batch_size", limit or len(found.train))):
        got = getattr(recipe.data, key)
        if got is not None and got > most:
            raise ValueError(f"data.{key} must be at most {most}, the training samples of {found.name}, got {got}")
    return found if limit is None else found.limited(limit)


def _loading(options: DataOptions) -> dict[str, Any]:
    """What goes to `rheobase.data.load`, of what is not null."""
    others = {"name", "root", "batch_size", "train_limit", "workers", *_AUGMENTATION}
    chosen = {name: getattr(options, name) for name in type(options).model_fields if name not in others}
    if options.validation is not None and options.validation >= 1:
        chosen["validation"] = round(options.validation)
    return {name: value for name, value in chosen.items() if value is not None}


def fingerprint(data: Dataset) -> dict[str, Any]:
    """What tells a data set from another: sizes, and statistics of the training pixels."""
    sizes = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
    return {"classes": data.classes, **sizes, "mean": data.mean.tolist(), "std": data.std.tolist()}


def training_batches(recipe: Recipe, data: Dataset, rank: int = 0, world_size: int = 1) -> Batches:
    """Shuffled and augmented batches of the training split."""
    options = recipe.data
    return Batches(
        data.train,
        batch_size=options.batch_size,
        mean=data.mean,
        std=data.std,
        seed=recipe.seed,
        augmentation=Augmentation(**{name: getattr(options, name) for name in _AUGMENTATION}),
        classes=data.classes,
        workers=options.workers,
        rank=rank,
        world_size=world_size,
    )


def evaluation_batches(recipe: Recipe, data: Dataset, split: Samples, rank: int = 0, world_size: int = 1) -> Batches:
    """All samples of a split in order, as they are; in larger batches, as nothing is kept for a backward pass."""
    size = max(world_size, min(2 * recipe.data.batch_size, len(split)))
    return Batches(split, batch_size=size, mean=data.mean, std=data.std, rank=rank, world_size=world_size)


def model(recipe: Recipe, data: Dataset, given: nn.Module | None = None) -> nn.Module:
    """The model, freshly initialised from the recipe's seed, or the one given. The global random state stays.

    Raises:
        ValueError: an option that the model family does not have, or a value that it refuses.
    """
    net = _model(recipe, data, given)
    segments = recipe.trainer.checkpoint_segments
    if segments > 1:
        parts = [module for module in net.modules() if isinstance(module, models.Segmented)]
        try:
            for part in parts:
                part.segments = segments
        except ValueError as error:
            raise ValueError(f"trainer.checkpoint_segments: model {recipe.model.name}: {error}") from error
        if not parts:
            raise ValueError(
                f"trainer.checkpoint_segments must be 1 for model {recipe.model.name}, in which there is no "
                f"rheobase.models.Segmented to divide, got {segments}"
            )
    return net


def _model(recipe: Recipe, data: Dataset, given: nn.Module | None) -> nn.Module:
    options, default = recipe.model, ModelOptions()
    if (given is None) == (options.name == own.GIVEN):
        raise own.missing("model.name") if given is None else own.surplus("model.name", options.name)
    if given is not None:
        return given
    names = [name for name in ModelOptions.model_fields if name != "name"]
    chosen: dict[str, Any] = {name: getattr(options, name) for name in names}
    offered = {**chosen, "neuron": neuron(options.neuron), "classes": data.classes, "in_channels": data.channels}
    if not options.spiking:
        del offered["neuron"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("weights", recipe.seed))
        if ":" in options.name:
            changed = [name for name in names if chosen[name] != getattr(default, name)]
            return own.call("model.name", options.name, nn.Module, offered, changed)
        return models.create(options.name, **{name: value for name, value in offered.items() if value is not None})


def sample(recipe: Recipe, data: Dataset, split: Samples) -> Tensor:
    """The first images of a split, to try it or a net."""
    few = split.at(torch.arange(min(16, len(split))))
    images: Tensor = evaluation_batches(recipe, data, few).batch(0, 0)[0]
    return images


def logits(recipe: Recipe, data: Dataset, net: nn.Module) -> Tensor:
    """What the net, in evaluation mode, gives for a few images: checked to be `[T, B, classes]`.

    Raises:
        ValueError: it is not.
    """
    [images, *_] = [sample(recipe, data, split) for split in (data.validation, data.train, data.test)]
    name = recipe.model.name
    try:
        with torch.inference_mode():
            found = net.eval()(images)
        one = net(images.narrow(-4, 0, 1))
    except Exception as error:
        raise ValueError(f"model {name}: for images {list(images.shape)} it failed: {own.told(error)}") from error
    wanted = (images.shape[-4], data.classes)
    fits = isinstance(found, Tensor) and found.dim() == 3 and found.shape[1:] == wanted and len(found)
    if not fits or not found.is_floating_point():
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"model {name}: for images {list(images.shape)} it must give floating point logits "
            f"[T, {wanted[0]}, {wanted[1]}], got {got.removeprefix('torch.float32 ')}"
        )
    if not one.requires_grad and any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError(f"model {name}: its logits carry no gradient, so that nothing can be trained")
    logits: Tensor = found
    return logits


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
