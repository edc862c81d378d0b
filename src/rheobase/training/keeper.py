"""What is written into the run folder while a net trains: checkpoints, metrics, the best model."""

from __future__ import annotations

import copy
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
from torch import Tensor, nn

from rheobase import models
from rheobase.data import Dataset
from rheobase.files import write_atomic
from rheobase.interop.weights import load, save, saved
from rheobase.training import build, watch
from rheobase.training.folder import RunFolder
from rheobase.training.journal import COLUMNS, to_csv
from rheobase.training.recipe import Recipe

if TYPE_CHECKING:
    from rheobase.training.loop import Training


def save_best(recipe: Recipe, net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Write the best model: as `rheobase.save` does if it can, else (it is, or has in it, the user's) a state_dict."""
    if recipe.model.name in models.names():
        model = copy.deepcopy(net)
        model.load_state_dict(state)
        with suppress(TypeError):  # load would not give it back
            save(model, path)
            return
    apart = {name: tensor.contiguous().clone() for name, tensor in state.items()}  # tied ones twice
    write_atomic(path, safetensors.torch.save(apart))


def load_best(recipe: Recipe, make: Callable[[], nn.Module], path: Path) -> nn.Module:
    """The best model, in evaluation mode, on the CPU; one of which there is a state_dict is made and gets it."""
    try:
        if saved(path) and recipe.model.name in models.names():
            return load(path).eval()
        net = make()
        net.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, or of another model: {' '.join(str(error).split())}") from error
    return net.cpu().eval()


def reopened(
    place: RunFolder, recipe: Recipe, data: Dataset | None = None, model: nn.Module | None = None
) -> tuple[Dataset, nn.Module]:
    """The data of a run, and its best model, in evaluation mode, on the CPU.

    Args:
        place, recipe: the run's.
        data, model: those that it was begun with, if it was given them.

    Raises:
        ValueError: they are not what the run began with, or damaged.
    """
    found, net = build.prepare(recipe, data, model)
    place.check(recipe, build.fingerprint(found))
    return found, load_best(recipe, lambda: net, place.best)


class Keeper:
    """Keeps the run folder; of several processes, the first one's does.

    `last.ckpt` is the truth: it carries all rows and the best weights; metrics.csv and best.safetensors are written
    from it again at each resume.
    """

    def __init__(self, folder: RunFolder, first: bool) -> None:
        self.folder = folder
        self._first = first
        self._saved = time.perf_counter()
        self._saved_step = 0

    def begin(self, training: Training) -> None:
        """Bring the folder to the state of the checkpoint, even where nothing is left to train."""
        self._saved_step = training.step
        self.write_files(training, best=bool(training.best))

    def save_if_due(self, training: Training) -> None:
        """Save in mid-epoch if it is time to."""
        options = training.recipe.trainer
        steps, seconds = training.step - self._saved_step, time.perf_counter() - self._saved
        if (
            training.step == 1  # early, so that a place that cannot be written to shows at once
            or steps >= (options.checkpoint_every_steps or float("inf"))
            or seconds >= (options.checkpoint_every_seconds or float("inf"))
        ):
            self.save(training)

    def save(self, training: Training) -> None:
        """Write the checkpoint, unless that of this step is there, or `training.check` refuses."""
        if training.step != self._saved_step:
            training.check()
            if self._first:
                self.folder.write_checkpoint(training.state_dict())
            self._saved, self._saved_step = time.perf_counter(), training.step

    def write_files(self, training: Training, best: bool) -> None:
        """Write metrics and, if wanted, the best model: what the checkpoint says already."""
        if self._first:
            journal = training.journal
            write_atomic(self.folder.metrics, to_csv(COLUMNS, journal.rows))
            if journal.readings:
                write_atomic(self.folder.probe, to_csv(watch.COLUMNS, journal.readings))
            if best:
                save_best(training.recipe, training.net, training.best, self.folder.best)

    def where(self) -> str:
        """Where the saved run is, and how to go on."""
        return f"saved after step {self._saved_step}; go on with: rheobase resume {shlex.quote(str(self.folder.path))}"
