"""Train, resume, evaluate: a recipe in, a run folder out."""

from __future__ import annotations

import datetime
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import nn

from rheobase.data import Dataset
from rheobase.interop.weights import load as load_model
from rheobase.training import board, build, sources
from rheobase.training.activity import activity
from rheobase.training.console import Lines, say
from rheobase.training.evaluation import accuracies, weights_sha256
from rheobase.training.folder import RunFolder, read_json, write_json
from rheobase.training.keeper import Keeper
from rheobase.training.loop import Training, fit
from rheobase.training.machine import commit, machine, versions
from rheobase.training.recipe import Recipe
from rheobase.training.stopping import Stopper

if TYPE_CHECKING:
    from lightning.fabric import Fabric

T = TypeVar("T")
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
        raise ValueError("train: overrides go with a file or a name; use recipe.replace({key: value}) on a Recipe")
    return start(recipe, f"{recipe.model.name}-{recipe.data.name}")


def start(recipe: Recipe, name: str) -> Run:
    """Train a recipe; `name` goes into the default run folder. Everything is checked before a folder is made."""
    data, net = _prepare(recipe)
    return _fit(recipe, lambda: RunFolder.create(recipe, name), "run folder {}", data, net)


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
    data, net = _prepare(recipe)
    return _fit(recipe, lambda: place, "{} has no checkpoint yet: starting from the beginning", data, net)


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
    images, _ = build.evaluation_batches(recipe, data, data.validation.at(torch.arange(1))).batch(0, 0)
    with torch.inference_mode():
        net.eval()(images)
    return data, net.train()


def _fit(recipe: Recipe, place: Callable[[], RunFolder], greeting: str, data: Dataset, net: nn.Module) -> Run:
    """Train to the end from the last checkpoint, or with a greeting from the start; test once, write the summary.

    Of several processes the first alone touches the folder; the others hear from it.
    """
    with _quiet(), ExitStack() as stack:
        fabric = _launched(recipe)
        folder = _on_first(fabric, place)
        _on_first(fabric, lambda: stack.enter_context(folder.locked()))
        _on_first(fabric, folder.clean)
        state = _on_first(fabric, folder.read_checkpoint)
        stack.enter_context(_threads(recipe.trainer.threads))
        keeper, stopper = Keeper(folder, fabric.is_global_zero), Stopper()
        stack.enter_context(stopper.listening(keeper.where))
        training = Training(recipe, fabric, net, data)
        if state is None:
            say(greeting.format(folder.path))
        else:
            training.load_state_dict(state)
            _tell_changes(training)
        keeper.begin(training)
        tensorboard = recipe.trainer.tensorboard and fabric.is_global_zero
        fit(training, keeper, Lines(), board.Board(folder.tensorboard, training.step) if tensorboard else None, stopper)
        stopper.trained()
        sha256 = weights_sha256(net.state_dict())
        net.load_state_dict(training.best)
        net.eval()
        summary = _on_first(fabric, lambda: _finish(folder, data, training, sha256))
        return Run(folder.path, net.cpu(), summary)


def _launched(recipe: Recipe) -> Fabric:
    """The processes of the run, of which this is one."""
    from lightning.fabric import Fabric

    fabric = Fabric(
        accelerator=recipe.trainer.accelerator,
        devices=1,
        precision="bf16-mixed" if recipe.trainer.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _on_first(fabric: Fabric, call: Callable[[], T]) -> T:
    """What `call` returns, or raises, in the first process: in all of them."""
    result: T | None = None
    error: Exception | None = None
    if fabric.is_global_zero:
        try:
            result = call()
        except Exception as caught:
            error = caught
    result, error = fabric.broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


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
    [test_accuracy] = accuracies(training.net, batches, [None], device, recipe.trainer.precision)
    images, _ = build.evaluation_batches(recipe, data, data.validation).batch(0, 0)
    head, changed = commit()
    summary = {
        "test_accuracy": test_accuracy,
        "validation_accuracy": journal.best_accuracy,
        "best_epoch": journal.best_epoch,
        "train_seconds": round(journal.seconds, 3),
        "images_per_second": statistics.median(row["images_per_second"] for row in journal.rows),
        "seed": recipe.seed,
        "weights_sha256": sha256,
        "recipe_sha256": recipe.sha256,
        "commit": head,
        "uncommitted_changes": changed,
        "versions": versions(),
        "machine": machine(device),
        "date": _now(),
        "layers": activity(training.net, images.to(device)),
    }
    write_json(folder.summary, summary)
    return summary


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
    """Without Lightning's notes on hardware; its warnings stay."""
    import lightning.fabric  # (which sets the level)

    logger = logging.getLogger(lightning.fabric.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # between versions of Lightning and torch; nothing a user could change
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.")
            yield
    finally:
        logger.setLevel(level)
