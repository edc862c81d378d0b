"""What is written into the run folder while a net trains: checkpoints, metrics, the best model."""

from __future__ import annotations

import copy
import shlex
import time
from typing import TYPE_CHECKING

from rheobase.files import write_atomic
from rheobase.interop.weights import save
from rheobase.training.folder import RunFolder

if TYPE_CHECKING:
    from rheobase.training.loop import Training


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
            or (options.checkpoint_every_steps is not None and steps >= options.checkpoint_every_steps)
            or (options.checkpoint_every_seconds is not None and seconds >= options.checkpoint_every_seconds)
        ):
            self.save(training)

    def save(self, training: Training) -> None:
        """Write the checkpoint, unless that of this step is there."""
        if training.step != self._saved_step:
            if self._first:
                self.folder.write_checkpoint(training.state_dict())
            self._saved, self._saved_step = time.perf_counter(), training.step

    def write_files(self, training: Training, best: bool | None = None) -> None:
        """Write metrics and, if it is new, the best model: what the checkpoint says already."""
        if not self._first:
            return
        write_atomic(self.folder.metrics, training.journal.to_csv())
        if training.journal.best_is_new if best is None else best:
            model = copy.deepcopy(training.net)
            model.load_state_dict(training.best)
            save(model, self.folder.best)

    def where(self) -> str:
        """Where the saved run is, and how to go on."""
        return f"saved after step {self._saved_step}; go on with: rheobase resume {shlex.quote(str(self.folder.path))}"
