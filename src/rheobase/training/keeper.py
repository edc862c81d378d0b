"""The callback that keeps the journal, and writes checkpoints, metrics and the best model into the run folder."""

from __future__ import annotations

import io
import math
import shlex
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO

from rheobase.files import write_atomic
from rheobase.interop.weights import save
from rheobase.training.console import say
from rheobase.training.folder import RunFolder
from rheobase.training.journal import Meter
from rheobase.training.module import Batch, Training


class AtomicCheckpoints(CheckpointIO):
    """Checkpoints that are whole at any moment, and run no code when read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomic(Path(path), content.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read, onto the CPU.

        Raises:
            ValueError: damaged.
        """
        content = Path(path).read_bytes()
        try:
            checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            checkpoint["rheobase"]
        except MemoryError:
            raise
        except Exception as error:  # bytes that are no checkpoint raise whatever they happen to
            raise ValueError(
                f"{path} is damaged ({len(content)} bytes, which are no checkpoint of a run: "
                f"{type(error).__name__}): put back a copy, or remove it, and `rheobase resume` begins anew"
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete."""
        Path(path).unlink(missing_ok=True)


class Keeper(Callback):
    """Keeps the run folder. It comes first among the callbacks: the others read the journal.

    `last.ckpt` is the truth: it carries all rows and the best weights; metrics.csv and best.safetensors are written
    from it again at each resume. Checkpoints lie between two batches, or after an epoch with its validation: never
    between the last batch and its validation, so that validation is neither skipped nor run twice.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._mark = self._saved = time.perf_counter()
        self._saved_step = 0

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Bring the folder to the state of the checkpoint, even where nothing is left to train."""
        assert isinstance(module, Training)
        if module.threads != torch.get_num_threads():
            say(
                f"the run began with {module.threads} threads and goes on with {torch.get_num_threads()}, so it will "
                "not be bit for bit what it would have been; trainer.threads fixes their number"
            )
        self._saved_step = module.step
        write_atomic(self.folder.metrics, module.journal.to_csv())
        if module.best is not None:
            current = {name: tensor.clone() for name, tensor in module.net.state_dict().items()}
            module.net.load_state_dict(module.best)
            save(module.net, self.folder.best)
            module.net.load_state_dict(current)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._mark = self._saved = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch; save if it is time to."""
        assert isinstance(module, Training)
        journal, options = module.journal, module.recipe.trainer
        journal.epoch_seconds += self._tick(module)
        journal.epoch_images += len(batch[1])
        journal.batch += 1
        if journal.batch == module.batches.count:
            return  # the end of the epoch saves
        steps, seconds = module.step - self._saved_step, time.perf_counter() - self._saved
        if (
            module.step == 1  # early, so that a place that cannot be written to shows at once
            or (options.checkpoint_every_steps is not None and steps >= options.checkpoint_every_steps)
            or (options.checkpoint_every_seconds is not None and seconds >= options.checkpoint_every_seconds)
        ):
            self.save(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch's row, the best model, and the checkpoint of all that."""
        assert isinstance(module, Training)
        journal = module.journal
        self._tick(module)
        train_loss, train_accuracy = module.trained.values()
        validation_loss, validation_accuracy = module.validated.values()
        # a NaN potential never fires, so NaN weights can hide behind a finite loss
        if not math.isfinite(train_loss) or not all(p.isfinite().all() for p in module.net.parameters()):
            raise ValueError(
                f"training diverged: the loss of epoch {journal.epoch + 1} is {train_loss}, or weights are not finite; "
                f"lower optimizer.lr ({module.recipe.optimizer.lr:g}) or set trainer.clip_gradient"
            )
        best = journal.record(
            {
                "epoch": journal.epoch + 1,
                "step": module.step,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
                "lr": module.rate(module.step - 1),
                "images_per_second": round(journal.epoch_images / max(journal.epoch_seconds, 1e-9), 1),
                "seconds": round(journal.seconds, 3),
            }
        )
        module.trained = Meter()
        if best:
            module.best = {name: tensor.detach().cpu().clone() for name, tensor in module.net.state_dict().items()}
        self.save(trainer, module)
        write_atomic(self.folder.metrics, journal.to_csv())
        if best:
            save(module.net, self.folder.best)

    def save(self, trainer: Trainer, module: Training) -> None:
        """Write the checkpoint, unless that of this step is there."""
        if module.step != self._saved_step:
            trainer.save_checkpoint(self.folder.last)
            self._saved, self._saved_step = time.perf_counter(), module.step

    def where(self) -> str:
        """Where the saved run is, and how to go on."""
        return f"saved after step {self._saved_step}; go on with: rheobase resume {shlex.quote(str(self.folder.path))}"

    def _tick(self, module: Training) -> float:
        """Seconds since the last call, also added to the run's."""
        now = time.perf_counter()
        passed, self._mark = now - self._mark, now
        module.journal.seconds += passed
        return passed
