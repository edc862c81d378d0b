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
from rheobase.neurons.base import outermost
from rheobase.training import own
from rheobase.training.recipe import ModelOptions, NeuronOptions, OptimizerOptions, Recipe

SURROGATES = {name.lower(): shape for name, shape in surrogate.SHAPES.items() if "." not in name}
"""The built-in shapes by the names that a recipe gives them."""
_AUGMENTATION = [field.name for field in fields(Augmentation)]


def dataset(recipe: Recipe, given: Dataset | None = None) -> Dataset:
    """The data set (or the one given), with the training split limited where the recipe says so.

    Errors as in `own.check`, `own.call` and `rheobase.data.load`; or a limit or batch is larger than the split.
    """
    options = recipe.data
    name, root, limit = options.name, options.root, options.train_limit
    own.check("data.name", name, given, Dataset)
    if given is not None:
        found = given
    elif ":" in name:
        found = own.call("data.name", name, Dataset, {"root": root}, ["root"] if root else [])
    else:
        others = {"name", "root", "batch_size", "train_limit", "workers", *_AUGMENTATION}
        chosen = {key: value for key, value in options if key not in others and value is not None}
        if options.validation is not None and options.validation >= 1:
            chosen["validation"] = round(options.validation)
        found = load(name, root, **chosen)
    if limit is not None and limit > len(found.train):
        raise ValueError(
            f"data.train_limit must be at most {len(found.train)}, the training samples of {found.name}, got {limit}"
        )
    return found if limit is None else found.limited(limit)


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


def evaluation_batches(recipe: Recipe, data: Dataset, split: Samples) -> Batches:
    """All samples of a split in order, as they are; in larger batches, as nothing is kept for a backward pass."""
    return Batches(split, batch_size=min(2 * recipe.data.batch_size, len(split)), mean=data.mean, std=data.std)


def sample(recipe: Recipe, data: Dataset, split: Samples) -> Tensor:
    """The first images of a split, to try it or a net."""
    few = split.at(torch.arange(min(16, len(split))))
    images: Tensor = evaluation_batches(recipe, data, few).batch(0, 0)[0]
    return images


def model(recipe: Recipe, data: Dataset, given: nn.Module | None = None) -> nn.Module:
    """The model, freshly initialised from the recipe's seed, or the one given. The global random state stays.

    Errors as in `own.check`, `own.call` and `rheobase.models.create`; or it cannot be divided into segments.
    """
    options, segments = recipe.model, recipe.trainer.checkpoint_segments
    own.check("model.name", options.name, given, nn.Module)
    net = _made(recipe, data) if given is None else given
    parts = [module for module in net.modules() if isinstance(module, models.Segmented)] if segments > 1 else []
    if segments > 1 and not parts:
        raise ValueError(
            f"trainer.checkpoint_segments must be 1 for model {options.name}, in which there is no "
            f"rheobase.models.Segmented to divide, got {segments}"
        )
    for part in parts:
        try:
            part.segments = segments
        except ValueError as error:
            raise ValueError(f"trainer.checkpoint_segments: model {options.name}: {error}") from error
    return net


def _made(recipe: Recipe, data: Dataset) -> nn.Module:
    options, default = recipe.model, ModelOptions()
    chosen = {name: value for name, value in options if name != "name"}
    offered = {**chosen, "neuron": neuron(options.neuron), "classes": data.classes, "in_channels": data.channels}
    if not options.spiking:
        del offered["neuron"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("weights", recipe.seed))
        if ":" in options.name:
            changed = [name for name in chosen if chosen[name] != getattr(default, name)]
            return own.call("model.name", options.name, nn.Module, offered, changed)
        return models.create(options.name, **{name: value for name, value in offered.items() if value is not None})


def prepare(recipe: Recipe, data: Dataset | None, net: nn.Module | None) -> tuple[Dataset, nn.Module]:
    """What the recipe names (or is given), tried on a few images: what does not fit shows before a run begins."""
    found, name = dataset(recipe, data), f"model {recipe.model.name}"
    net = model(recipe, found, net)
    logits(recipe, found, net)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError(f"{name} has no parameter to train")
    if not net(sample(recipe, found, found.train).narrow(-4, 0, 1)).requires_grad:
        raise ValueError(f"{name}: its logits carry no gradient, so that nothing can be trained")
    if recipe.loss.rate_penalty and not outermost(net):
        raise ValueError(f"loss.rate_penalty must be 0 for a model without neurons, got {recipe.loss.rate_penalty}")
    odd = [key for key, value in net.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"{name}: {odd[0]!r} of its state_dict is no tensor, so it cannot be saved")
    sample(recipe, found, found.test)
    return found, net.train()


def logits(recipe: Recipe, data: Dataset, net: nn.Module) -> Tensor:
    """What the net, in evaluation mode, gives for a few images; a ValueError if that is not `[T, B, classes]`."""
    images = sample(recipe, data, data.validation)
    tried = f"model {recipe.model.name}: for images {list(images.shape)} it"
    try:
        with torch.no_grad():
            found: Tensor = net.eval()(images)
    except Exception as error:
        raise ValueError(f"{tried} failed: {own.told(error)}") from error
    wanted, is_tensor = [images.shape[-4], data.classes], isinstance(found, Tensor)
    if not is_tensor or not found.is_floating_point() or list(found.shape[1:]) != wanted or not len(found):
        got = f"{found.dtype} {list(found.shape)}".removeprefix("torch.float32 ") if is_tensor else type(found).__name__
        raise ValueError(f"{tried} must give floating point logits [T, {wanted[0]}, {wanted[1]}], got {got}")
    return found


def neuron(options: NeuronOptions) -> Neuron:
    """The prototype of all neurons."""
    kind: Any = SURROGATES[options.surrogate]
    common: dict[str, Any] = {
        "threshold": options.threshold,
        "reset": options.reset,
        "detach_reset": options.detach_reset,
        "surrogate": kind() if options.surrogate_parameter is None else kind(options.surrogate_parameter),
    }
    if options.kind == "if":
        return IF(**common)
    return LIF(decay=0.5 if options.decay is None else options.decay, **common)


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
