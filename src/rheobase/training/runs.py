"""Train, resume, evaluate: a recipe in, a run folder out."""

from __future__ import annotations

import datetime
import logging
import statistics
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from rheobase.data import Dataset
from rheobase.interop.weights import load as load_model
from rheobase.training import board, build, sources
from rheobase.training.activity import activity
from rheobase.training.console import Lines, say
from rheobase.training.evaluation import accuracies, weights_sha256
from rheobase.training.folder import RunFolder, read_json, write_json
from rheobase.training.keeper import AtomicCheckpoints, Keeper
from rheobase.training.machine import commit, machine, versions
from rheobase.training.module import Training
from rheobase.training.recipe import Recipe
from rheobase.training.stopping import Stopper

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its model (best on validation, in evaluation mode, on the CPU), its summary."""

    folder: Path
    model: nn.Module
    summary: dict[str, Any]


def train(recipe: Recipe | str | Path, **overrides: Any) -> Run:
    """Train a recipe (a `Recipe`, a file, or a name that `rheobase recipes` lists) in a new run folder.

    Args:
        recipe: what to train.
        overrides: keys on top of a file or name, as in `train("digits", **{"model.steps": 2})`.

    Raises:
        ValueError: an unknown key or bad value; the error names it.
        FileNotFoundError: no such recipe, or a data file is missing.
        FileExistsError: the run folder is not empty.
    """
    if not isinstance(recipe, Recipe):
        return start(sources.load(recipe, overrides), Path(recipe).stem)
    if overrides:
        raise ValueError("train: overrides go with a file or a name; use dataclasses.replace on a Recipe")
    return start(recipe, f"{recipe.model.name}-{recipe.data.name}")


def start(recipe: Recipe, name: str) -> Run:
    """Train a recipe; `name` goes into the default run folder. Everything is checked before a folder is made."""
    data, net = _prepare(recipe)
    folder = RunFolder.create(recipe, name)
    with folder.locked():
        say(f"run folder {folder.path}")
        return _fit(recipe, folder, data, net)


def resume(folder: str | Path) -> Run:
    """Continue a run exactly where its last checkpoint is; a finished run comes back as it is.

    Raises:
        FileNotFoundError: no run there.
        BlockingIOError: another process trains there.
    """
    place = RunFolder.open(folder)
    recipe, summary = place.read_recipe(), place.read_summary()
    if summary is not None:
        say(f"{place.path} is finished: nothing left to train")
        return Run(place.path, load_model(place.best).eval(), summary)
    with place.locked():
        place.clean()
        data, net = _prepare(recipe)
        if not place.last.is_file():
            say(f"{place.path} has no checkpoint yet: starting from the beginning")
        return _fit(recipe, place, data, net)


def evaluate(
    folder: str | Path, steps: Sequence[int] | None = None, split: SplitName = "validation"
) -> dict[int, float]:
    """{T: accuracy} of the best model of a run at several numbers of time steps (default: 1 to the trained T).

    The split is validation unless asked otherwise, so that choices do not look at the test set; a look at the test set
    is noted in RUN/evaluations.json and said aloud.

    Raises:
        FileNotFoundError: no run there, or no model yet.
        ValueError: bad steps or split.
    """
    place = RunFolder.open(folder)
    recipe = place.read_recipe()
    if not place.best.is_file():
        raise FileNotFoundError(f"{place.path} has no best model yet: no epoch has ended")
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be train, validation or test, got {split!r}")
    if split == "test" and place.read_summary() is None:
        raise ValueError(f"{place.path} is not finished: the test set is for the end of a run, choose on validation")
    data, model = build.dataset(recipe), load_model(place.best)
    if steps is None:
        steps = range(1, (recipe.model.steps if recipe.model.spiking else 1) + 1)
    if not steps:
        raise ValueError("steps must name at least one number of time steps")
    batches = build.evaluation_batches(recipe, data, getattr(data, split))
    gpu = recipe.trainer.accelerator != "cpu" and torch.cuda.is_available()
    with _threads(recipe.trainer.threads):
        found = accuracies(model, batches, list(steps), "cuda" if gpu else "cpu", recipe.trainer.precision)
    result = dict(zip(steps, found, strict=True))
    if split == "test":
        looks = read_json(place.evaluations, list, "mend it or move it away") if place.evaluations.is_file() else []
        accuracy = {str(count): value for count, value in result.items()}
        write_json(place.evaluations, [*looks, {"date": _now(), "split": split, "accuracy": accuracy}])
        say(f"this is look number {len(looks) + 1} at the test set after training, noted in {place.evaluations}")
    return result


def _prepare(recipe: Recipe) -> tuple[Dataset, nn.Module]:
    """What the recipe names, tried on one image, so that what does not fit shows before a folder is made."""
    if recipe.trainer.tensorboard:
        board.require()
    if recipe.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator is 'gpu', but torch sees no GPU here")
    data = build.dataset(recipe)
    net = build.model(recipe, data)
    images, *_ = build.evaluation_batches(recipe, data, data.validation.at(torch.arange(1))).batch(0, 0)
    with torch.inference_mode():
        net.eval()(images)
    return data, net.train()


def _fit(recipe: Recipe, folder: RunFolder, data: Dataset, net: nn.Module) -> Run:
    """Train to the end from the last checkpoint, if there is one; then test once and write the summary."""
    options = recipe.trainer
    training = Training(
        recipe, net, build.training_batches(recipe, data), build.evaluation_batches(recipe, data, data.validation)
    )
    keeper = Keeper(folder)
    stopper = Stopper(keeper)
    boards: list[Callback] = [board.Board(folder.tensorboard)] if options.tensorboard else []
    with _threads(options.threads), _quiet(), stopper.listening():
        trainer = lightning.Trainer(
            accelerator=options.accelerator,
            devices=1,
            precision="bf16-mixed" if options.precision == "bf16" else "32-true",
            max_epochs=options.epochs,
            gradient_clip_val=options.clip_gradient,
            callbacks=[keeper, Lines(), *boards, stopper],
            plugins=[AtomicCheckpoints()],
            default_root_dir=folder.path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(training, ckpt_path=folder.last if folder.last.is_file() else None, weights_only=True)
        stopper.trained()
        return _finish(recipe, folder, data, training, trainer.strategy.root_device)


def _finish(recipe: Recipe, folder: RunFolder, data: Dataset, training: Training, device: torch.device) -> Run:
    model = load_model(folder.best)
    journal = training.journal
    batches = build.evaluation_batches(recipe, data, data.test)
    [test_accuracy] = accuracies(model, batches, [None], device, recipe.trainer.precision)
    model.cpu().eval()
    images, *_ = build.evaluation_batches(recipe, data, data.validation).batch(0, 0)
    head, changed = commit()
    summary = {
        "test_accuracy": test_accuracy,
        "validation_accuracy": journal.best_accuracy,
        "best_epoch": journal.best_epoch,
        "train_seconds": round(journal.seconds, 3),
        "images_per_second": statistics.median(row["images_per_second"] for row in journal.rows),
        "seed": recipe.seed,
        "weights_sha256": weights_sha256(training.net.state_dict()),
        "recipe_sha256": recipe.sha256,
        "commit": head,
        "uncommitted_changes": changed,
        "versions": versions(),
        "machine": machine(device),
        "date": _now(),
        "layers": activity(model, images),
    }
    write_json(folder.summary, summary)
    return Run(folder.path, model, summary)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware and its tips; its warnings stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # between versions of Lightning and torch; nothing a user could change
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
