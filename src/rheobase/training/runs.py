"""Train, resume, evaluate: a recipe in, a run folder out."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from rheobase.data import Dataset
from rheobase.figures import check as check_figure
from rheobase.machine import commit, machine, versions
from rheobase.training import board, build, curve, processes, sources, watch, weights
from rheobase.training.activity import activity
from rheobase.training.build import prepare
from rheobase.training.console import Lines, say
from rheobase.training.evaluation import Exit, accuracies, longest, weights_sha256
from rheobase.training.folder import RunFolder, read_json, write_json
from rheobase.training.guard import NotFiniteError
from rheobase.training.keeper import Keeper, load_best, reopened
from rheobase.training.keys import flatten
from rheobase.training.loop import Training, fit
from rheobase.training.passes import hosted, seeded
from rheobase.training.recipe import Recipe
from rheobase.training.stopping import Stopper

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its model (best on validation, in evaluation mode, on the CPU), its summary."""

    folder: Path
    model: nn.Module
    summary: dict[str, Any]


def train(
    recipe: Recipe | str | Path, *, data: Dataset | None = None, model: nn.Module | None = None, **overrides: Any
) -> Run:
    """Train a recipe (a `Recipe`, a file, or a name that `rheobase recipes` lists) in a new run folder.

    Args:
        recipe: what to train.
        data: in place of the recipe's. What a file or name says of its own data, or model, does not count then; a key
            given here, or set in a `Recipe`, that is of no use is refused.
        model: in place of the recipe's, from images to logits `[T, B, classes]`; it is trained as it is, and ends as
            the best model.
        overrides: keys on top of a file or name, as in `train("digits", **{"model.steps": 2})`.

    Raises:
        ValueError: an unknown key or bad value; the error names it.
        TypeError: data or model of another type.
        FileNotFoundError: no such recipe, or a data file is missing.
        FileExistsError: the run folder is not empty.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise ValueError("train: overrides go with a file or a name; use recipe.replace({key: value}) on a Recipe")
        name, chosen = None, {key for key, _ in recipe.flat().items() - Recipe().flat().items()}
    else:
        name, chosen = Path(recipe).stem, set(flatten(overrides, Recipe))
        recipe = sources.load(recipe, overrides)
    recipe = build.instead(recipe, chosen, data, model)
    return start(recipe, name or f"{recipe.model.name}-{recipe.data.name}".replace(":", "-"), data, model)


@hosted()
def start(recipe: Recipe, name: str, data: Dataset | None = None, model: nn.Module | None = None) -> Run:
    """Train a recipe; `name` goes into the default run folder. Everything is checked before a folder is made."""
    return _fit(recipe, name, *prepare(recipe, data, model))


@hosted()
def resume(folder: str | Path, *, data: Dataset | None = None, model: nn.Module | None = None) -> Run:
    """Continue a run exactly where its last checkpoint is; a finished run comes back as it is.

    Args:
        folder: of the run.
        data, model: those that it was begun with, if it was given them.

    Raises:
        FileNotFoundError: no run there.
        ValueError: what the run needs is damaged, missing, or not what it was.
        BlockingIOError: another process trains there.
    """
    place = RunFolder.open(folder)
    recipe, summary = place.read_recipe(), place.read_summary()
    if summary is not None:
        place.check(recipe)
        say(f"{place.path} is finished: nothing left to train")
        best = load_best(recipe, lambda: prepare(recipe, data, model)[1], place.best)
        return Run(place.path, best, dict(summary))
    return _fit(recipe, place, *prepare(recipe, data, model))


@hosted()
def evaluate(
    folder: str | Path,
    steps: Sequence[int] | None = None,
    split: SplitName = "validation",
    *,
    plot: str | Path | None = None,
    data: Dataset | None = None,
    model: nn.Module | None = None,
) -> dict[int, float]:
    """{T: accuracy} of the best model of a run at several numbers of time steps (default: 1 to the trained T).

    The split is validation unless asked otherwise, so that choices do not look at the test set; a look at the test set
    is noted in RUN/evaluations.json and said aloud.

    Args:
        folder: of the run.
        steps: numbers of time steps.
        split: validation, test or train.
        plot: of a figure, with early exits beside: its ending tells the format.
        data, model: those that it was begun with, if it was given them.

    Raises:
        FileNotFoundError: no run there, or no model yet.
        ValueError: bad steps or split, another ending of the figure, damaged files, or others than the run began with.
    """
    place = RunFolder.open(folder)
    recipe = place.read_recipe()
    check_split(place, split)
    if steps is not None and not steps:
        raise ValueError("steps must name at least one number of time steps")
    if plot is not None:
        check_figure(plot)
    dataset, best = reopened(place, recipe, data, model)
    exits: list[Exit] | None = None if plot is None else []
    result = against_steps(recipe, dataset, best, split, steps, exits)
    note_look(place, split, result)
    if plot is not None:
        curve.draw(plot, result, exits or [], split)
    return result


def against_steps(
    recipe: Recipe,
    dataset: Dataset,
    best: nn.Module,
    split: SplitName,
    steps: Sequence[int] | None = None,
    exits: list[Exit] | None = None,
) -> dict[int, float]:
    """{T: accuracy} of a recipe's net, on its device, at these numbers of time steps (None: 1 to the trained T).

    `exits` as in `evaluation.accuracies`.
    """
    batches = build.evaluation_batches(recipe, dataset, getattr(dataset, split))
    if steps is None:
        few = build.sample(dataset, dataset.validation).inputs
        steps = range(1, longest(batches.split, few, build.logits(recipe, dataset, best)) + 1)
    device = processes.alone_on(recipe.trainer)
    with processes.threads(recipe.trainer.threads), seeded("evaluation", recipe.seed, 0):
        found = accuracies(best, batches, list(steps), device, recipe.trainer.precision, recipe.loss, exits)
    return dict(zip(steps, found, strict=True))


def check_split(place: RunFolder, split: str) -> None:
    """Refuse a run without a best model, and a split that may not be looked at yet.

    Raises:
        FileNotFoundError: no epoch has ended.
        ValueError: no such split, or the test split of a run that is not finished.
    """
    if not place.best.is_file():
        raise FileNotFoundError(f"{place.path} has no best model yet: no epoch has ended")
    if split not in get_args(SplitName):
        raise ValueError(f"split must be train, validation or test, got {split!r}")
    if split == "test" and place.read_summary() is None:
        raise ValueError(f"{place.path} is not finished: the test set is for the end of a run, choose on validation")


def note_look(place: RunFolder, split: str, accuracy: Mapping[int, float], **about: str) -> None:
    """Note a look at the test set in the run folder, and say so."""
    if split != "test":
        return
    looks = read_json(place.evaluations, list, "mend it or move it away") if place.evaluations.is_file() else []
    found = {str(count): value for count, value in accuracy.items()}
    write_json(place.evaluations, [*looks, {"date": _now(), "split": split, **about, "accuracy": found}])
    say(f"this is look number {len(looks) + 1} at the test set after training, noted in {place.evaluations}")


def _fit(recipe: Recipe, place: RunFolder | str, data: Dataset, net: nn.Module) -> Run:
    """Train to the end in a run folder, or in a new one with that name; test once, write the summary.

    Of several processes the first alone touches the folder; the others hear from it.
    """
    with ExitStack() as stack:
        fabric = stack.enter_context(processes.launched(recipe.trainer))
        stack.enter_context(processes.threads(recipe.trainer.threads))
        fresh = isinstance(place, str) or not place.last.is_file()
        given = tuned = None
        if fresh:
            if (source := recipe.model.weights) is not None:
                given = weights.begin(net, processes.on_first(fabric, lambda: weights.read(source)), data.classes)
                say(weights.told(given))
            tuned = watch.begin(recipe, data, net.to(fabric.device))
        folder = processes.on_first(
            fabric, lambda: RunFolder.create(recipe, place) if isinstance(place, str) else place
        )
        processes.on_first(fabric, lambda: stack.enter_context(folder.locked()))
        processes.on_first(fabric, folder.clean)
        state = processes.on_first(fabric, folder.read_checkpoint)
        keeper, stopper, lines = Keeper(folder, fabric.is_global_zero), Stopper(), Lines()
        stack.enter_context(stopper.listening(keeper.where))
        stack.callback(lines.end)
        training = Training(recipe, fabric, net, data)
        if state is None:
            training.journal.weights, training.journal.tuned = given, tuned
            again = f"{folder.path} has no checkpoint yet: starting from the beginning"
            say(f"run folder {folder.path}" if isinstance(place, str) else again)
        else:
            try:
                training.load_state_dict(state)
            except ValueError as error:
                raise ValueError(f"{folder.last}: {error}") from error
            _tell_changes(training)
            journal = training.journal
            say(f"continuing after step {training.step} (epoch {journal.epoch + 1}, batch {journal.batch})")
        stack.enter_context(_telling(keeper.where))
        keeper.begin(training)
        events = stack.enter_context(board.opened(folder, training))
        fit(training, keeper, lines, events, stopper)
        stopper.trained()
        sha256 = weights_sha256(net.state_dict())
        net.load_state_dict(training.best)
        net.eval()
        summary = processes.on_first(fabric, lambda: _finish(folder, data, training, sha256))
        return Run(folder.path, net.cpu(), summary)


@contextmanager
def _telling(where: Callable[[], str]) -> Iterator[None]:
    """Let an error within say where the run was saved, and what helps where memory is short."""
    try:
        yield
    except NotFiniteError as error:
        raise ValueError(f"{error}; {where()}") from error
    except Exception as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            error.add_note(where())
            raise
        advice = "lower data.batch_size, or raise trainer.accumulate or trainer.checkpoint_segments"
        raise ValueError(f"ran out of memory ({' '.join(str(error).split())}): {advice}; {where()}") from error


def _tell_changes(training: Training) -> None:
    """Say what keeps a resumed run from being bit for bit what it would have been."""
    now = {"threads": torch.get_num_threads(), "processes": training.fabric.world_size}
    for what, count in now.items():
        before = getattr(training, what)
        if before != count:
            say(
                f"the run began with {before} {what} and goes on with {count}, so it will not be bit for bit what it "
                "would have been" + ("; trainer.threads fixes their number" if what == "threads" else "")
            )


def _finish(folder: RunFolder, data: Dataset, training: Training, sha256: str) -> dict[str, Any]:
    """Test the best model, which the net is by now; write the summary."""
    recipe, journal, device = training.recipe, training.journal, training.fabric.device
    batches = build.evaluation_batches(recipe, data, data.test)
    with seeded("evaluation", recipe.seed, 0):
        [test_accuracy] = accuracies(training.net, batches, [None], device, recipe.trainer.precision, recipe.loss)
        few = build.sample(data, data.validation, 2 * recipe.data.batch_size)
        layers = activity(training.net, few.to(device))
    head, changed = commit()
    summary = {
        "test_accuracy": test_accuracy,
        "validation_accuracy": journal.best["validation_accuracy"],
        "best_epoch": journal.best["epoch"],
        "train_seconds": round(journal.seconds, 3),
        "images_per_second": statistics.median(row["images_per_second"] for row in journal.rows),
        "seed": recipe.seed,
        "weights_sha256": sha256,
        "best_sha256": weights_sha256(training.best),
        "recipe_sha256": recipe.sha256,
        "data": training.data,
        "commit": head,
        "uncommitted_changes": changed,
        "versions": versions(),
        "machine": machine(device),
        "date": _now(),
        "layers": layers,
        **({"weights": journal.weights} if journal.weights else {}),
        **({"tuned": journal.tuned} if journal.tuned else {}),
    }
    write_json(folder.summary, summary)
    return summary


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
