"""From a recipe to the things it names: data, batches, model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rheobase import models, surrogate
from rheobase.data import Augmentation, Batch, Batches, Dataset, load
from rheobase.data.dataset import Samples, Split, Streamed, systematic
from rheobase.graph import with_qcfs
from rheobase.modes import in_mode
from rheobase.neurons import IF, LIF, AdaptiveLIF, CubaLIF, LateralLIF, Neuron, SoftLIF
from rheobase.neurons.base import outermost
from rheobase.training import board, losses, own, processes
from rheobase.training.evaluation import weights_sha256 as sha256
from rheobase.training.keys import build, taken
from rheobase.training.passes import padded, seeded, tried
from rheobase.training.recipe import ModelOptions, NeuronOptions, Recipe

SURROGATES = {name.lower(): shape for name, shape in surrogate.SHAPES.items() if "." not in name}
"""The built-in shapes by the names that a recipe gives them."""
NEURONS: dict[str, Any] = {
    **{"lif": LIF, "if": IF, "cuba_lif": CubaLIF, "adaptive_lif": AdaptiveLIF},
    **{"lateral": LateralLIF, "soft_lif": SoftLIF},
}
"""The kinds of neurons by the names that a recipe gives them."""
_AUGMENTATION = [field.name for field in fields(Augmentation)]
_FEW = 64  # samples of a split whose inputs tell it from another
_OF_RECIPE = {"name", "options", "qcfs_levels", "qcfs_threshold", "weights"}
"""Keys of `model` that no model takes."""
_OF_BATCHES = {"batch_size", "train_limit", "workers", "scale", *_AUGMENTATION}
"""Keys of `data` that any data set goes with; the others choose and make one."""


def instead(recipe: Recipe, chosen: Collection[str], data: Dataset | None, model: nn.Module | None) -> Recipe:
    """The recipe with objects in place of the data and the model that it names, where they are given.

    Raises:
        ValueError: a key is chosen that is of no use then.
        TypeError: an object of another type.
    """
    values = recipe.flat()
    for what, given, kind in (("data", data, Dataset), ("model", model, nn.Module)):
        if given is None:
            continue
        own.check(f"{what}.name", own.GIVEN, given, kind)
        used = _OF_BATCHES if what == "data" else set()
        unused = [key for key in values if key.startswith(f"{what}.") and key.partition(".")[2] not in used]
        for key in unused:
            if key in chosen and values[key] not in (None, own.GIVEN):
                raise ValueError(f"{key} is {values[key]!r}, but with {what}=..., an object, it is of no use")
        values = {key: value for key, value in values.items() if key not in unused} | {f"{what}.name": own.GIVEN}
    return build(Recipe, values)


def dataset(recipe: Recipe, given: Dataset | None = None) -> Dataset:
    """The data set (or the one given), with the training split limited where the recipe says so.

    Errors as in `own.check`, `own.call` and `rheobase.data.load`; or a limit larger than the split.
    """
    options = recipe.data
    name, root, limit = options.name, options.root, options.train_limit
    own.check("data.name", name, given, Dataset)
    others = {"name", "root", *_OF_BATCHES}
    chosen = {key: value for key, value in options if key not in others and value is not None}
    if options.validation is not None and options.validation >= 1 and options.validation == int(options.validation):
        chosen["validation"] = int(options.validation)
    if given is not None:
        found = given
    elif ":" in name:
        wanted = [*chosen, *["root"] * bool(root)]
        found = own.call("data.name", name, Dataset, {"root": root, **chosen}, wanted)
    else:
        found = load(name, root, **chosen)
    if limit is not None and limit > len(found.train):
        raise ValueError(
            f"data.train_limit must be at most {len(found.train)}, the training samples of {found.name}, got {limit}"
        )
    found = found if limit is None else found.limited(limit)
    if options.scale == "normal":
        return found
    top = found.white if options.scale == "unit" else 1.0
    if top is None:
        raise ValueError(
            f"data.scale 'unit' is for pixels, and inputs of {found.name} are none: take 'normal' or 'none'"
        )
    inputs = getattr(found.train, "inputs", None)
    if options.scale == "unit" and inputs is not None and inputs.is_floating_point():
        most = inputs.max().item()
        if most > top or most <= 1 < top:
            raise ValueError(
                f"data.scale 'unit' divides by white, {top:g}, and inputs of {found.name} reach {most:g}: give the "
                "data set its own white"
            )
    std = torch.full_like(found.std, top)
    return replace(found, mean=torch.zeros_like(found.mean), std=std)


def fingerprint(data: Dataset) -> dict[str, Any]:
    """What tells a data set from another: sizes, statistics of the training pixels, all labels, some of the inputs."""
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    sizes = {name: len(split) for name, split in splits.items()}
    sums = {f"{name}_sha256": sha256(_telling(split)) for name, split in splits.items()}
    return {"classes": data.classes, **sizes, "mean": data.mean.tolist(), "std": data.std.tolist(), **sums}


def _telling(split: Samples) -> dict[str, Tensor]:
    """All labels and lengths of a split, and the inputs of a few (which samples of one's own might draw anew)."""
    found = {"labels": split.labels}
    if isinstance(split, Split | Streamed):
        few = systematic(split.labels.cpu(), min(_FEW, len(split)))
        found["inputs"] = split.read(few).inputs
    if isinstance(split, Split) and split.lengths is not None:
        found["lengths"] = split.lengths
    return found


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


def sample(data: Dataset, split: Samples, count: int = 16) -> Batch:
    """A few samples of a split, of all its classes, to try it or a net."""
    few = split.some(min(count, len(split)))
    return Batches(few, batch_size=len(few), mean=data.mean, std=data.std).batch(0, 0)


def model(recipe: Recipe, data: Dataset, given: nn.Module | None = None) -> nn.Module:
    """The model, freshly initialised from the recipe's seed, or the one given. The global random state stays.

    Errors as in `own.check`, `own.call` and `rheobase.models.create`; or it cannot be divided into segments.
    """
    options, segments = recipe.model, recipe.trainer.checkpoint_segments
    own.check("model.name", options.name, given, nn.Module)
    net = _made(recipe, data) if given is None else given
    if options.qcfs_levels is not None:
        try:
            net = with_qcfs(net, options.qcfs_levels, options.qcfs_threshold or 8.0)
        except ValueError as error:
            raise ValueError(f"model.qcfs_levels: {error}") from error
    parts = [module for module in net.modules() if isinstance(module, models.Segmented) and segments > 1]
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
    chosen = {name: value for name, value in options if name not in _OF_RECIPE}
    # an ANN twin has no neurons, but the scale of its norms and the form of its blocks are those that go with them
    offered = {**chosen, "neuron": neuron(options.neuron), "classes": data.classes, "in_channels": data.channels}
    with seeded("weights", recipe.seed):
        if ":" in options.name:
            changed = [name for name in chosen if chosen[name] != getattr(default, name)]
            more = _more(options, own.takes("model.name", options.name))
            return own.call("model.name", options.name, nn.Module, offered | more, changed)
        takes = {name: option.type for name, option in models.options(options.name).items()}
        if "neuron" not in takes and (options.neuron == default.neuron or not options.spiking):
            del offered["neuron"]  # else it is told that it takes none
        more = _more(options, takes)
        given = {name: value for name, value in offered.items() if value is not None}
        return models.create(options.name, **given, **more)


def _more(options: ModelOptions, takes: Mapping[str, Any]) -> dict[str, Any]:
    """`model.options`, in the types of what takes them. Errors as `keys.taken`; or one that is a key of its own."""
    given = options.options.model_dump()
    for option in given:
        if option in ModelOptions.model_fields:
            raise ValueError(f"model.options.{option} is set: give it as model.{option}")
    ours = {*ModelOptions.model_fields, "classes", "in_channels"}
    more = {option: kind for option, kind in takes.items() if option not in ours}
    return taken("model.options", f"model {options.name}", more, given)


def prepare(recipe: Recipe, data: Dataset | None, net: nn.Module | None) -> tuple[Dataset, nn.Module]:
    """What the recipe names (or is given), tried on a few images: what does not fit shows before a run begins."""
    if recipe.trainer.tensorboard:
        board.require()
    devices, gpus = recipe.trainer.devices, torch.cuda.device_count()
    if recipe.trainer.accelerator == "gpu" and gpus < devices:
        raise ValueError(f"trainer.accelerator is 'gpu', trainer.devices {devices}; torch sees {gpus} GPUs")
    found, name = dataset(recipe, data), f"model {recipe.model.name}"
    net = model(recipe, found, net)
    count = processes.world(recipe.trainer)
    for key, most in (("data.batch_size", recipe.data.batch_size), ("the validation samples", len(found.validation))):
        if most < count:
            raise ValueError(f"{key} must be at least {count}, one a process (trainer.devices * nodes), got {most}")
    if not net.training:  # else what is in evaluation mode within is meant to be
        net.train()
    with seeded("weights", recipe.seed):  # lazy layers are made in their first pass
        logits(recipe, found, net)
    penalised = recipe.loss.weight_penalty > 0
    if penalised and not losses.hidden(net, lambda: tried(net, sample(found, found.validation))):
        raise ValueError(
            f"loss.weight_penalty must be 0 for a model without hidden layers, got {recipe.loss.weight_penalty}"
        )
    lazy = [key for key, value in (*net.named_parameters(), *net.named_buffers()) if is_lazy(value)]
    if lazy:
        raise ValueError(f"{name}: {lazy[0]} is of a lazy layer that has not run, so its shape is not known")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError(f"{name} has no parameter to train")
    few = sample(found, found.train)
    inputs, _, lengths = few.divide(len(few.labels))[0]
    copied = net
    with suppress(Exception):  # a net that keeps what a pass with gradients gave could not be copied later
        copied = copy.deepcopy(net)
    with in_mode(copied, training=False), padded(lengths), seeded("trial", recipe.seed):
        learns = copied(inputs).requires_grad
    del copied
    if not learns:
        raise ValueError(f"{name}: its logits carry no gradient, so that nothing can be trained")
    for key, value, off in (
        ("loss.rate_penalty", recipe.loss.rate_penalty, 0),
        ("tune.samples", recipe.tune.samples, None),
        ("probe.every_steps", recipe.probe.every_steps, None),
    ):
        if value != off and not outermost(net):
            raise ValueError(f"{key} must be {'null' if off is None else off} for a model without neurons, got {value}")
    for key, wanted in (("tune", recipe.tune.samples), ("probe", recipe.probe.every_steps and recipe.probe.samples)):
        if wanted and wanted > len(found.train):
            raise ValueError(
                f"{key}.samples must be at most {len(found.train)}, the training samples of {found.name}, got {wanted}"
            )
    odd = [key for key, value in net.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"{name}: {odd[0]!r} of its state_dict is no tensor, so it cannot be saved")
    sample(found, found.test)
    return found, net


def logits(recipe: Recipe, data: Dataset, net: nn.Module, count: int = 16) -> Tensor:
    """What the net, in evaluation mode, gives for a few images; a ValueError if that is not `[T, B, classes]`."""
    few = sample(data, data.validation, count)
    images = few.inputs
    what = f"model {recipe.model.name}: for images {list(images.shape)} it"
    try:
        found = tried(net, few)
    except Exception as error:
        other = [f"; {name} is {p.dtype}" for name, p in net.named_parameters() if p.dtype != images.dtype]
        hint = f"{other[0]}, and images are {images.dtype}" if other else ""
        raise ValueError(f"{what} failed: {own.told(error)}{hint}") from error
    wanted, is_tensor = [images.shape[-4], data.classes], isinstance(found, Tensor)
    if not is_tensor or not found.is_floating_point() or list(found.shape[1:]) != wanted or not len(found):
        got = f"{found.dtype} {list(found.shape)}".removeprefix("torch.float32 ") if is_tensor else type(found).__name__
        raise ValueError(f"{what} must give floating point logits [T, {wanted[0]}, {wanted[1]}], got {got}")
    if len(found) == wanted[0] > 1:  # which of the two axes is time, another number of images tells
        logits(recipe, data, net, wanted[0] - 1)
    return found


def neuron(options: NeuronOptions) -> Neuron | SoftLIF:
    """The prototype of all neurons."""
    kind, given = NEURONS[options.kind], options.model_dump(exclude_defaults=True, exclude={"kind"})
    if kind is SoftLIF and (strange := given.keys() - inspect.signature(SoftLIF).parameters.keys()):
        raise ValueError(f"model.neuron: SoftLIF takes no {min(strange)!r}")
    if kind is IF:
        given.pop("decay", None)  # (which is 1, else it were refused)
    shape: Any = SURROGATES[options.surrogate]
    parameter = given.pop("surrogate_parameter", None)
    if "surrogate" in given or parameter is not None:
        given["surrogate"] = shape() if parameter is None else shape(parameter)
    learn = [name.strip() for name in given.pop("learn", "").split(",") if name]
    learn += ["threshold"] * given.pop("learn_threshold", False)
    try:
        return kind(**given, **({"learn": learn} if learn else {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.neuron: {error}") from error
