"""What a run says while it trains: a line an epoch, and a bar within the epoch on a terminal."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rheobase.training.module import Batch, Training

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line on stdout, above a bar if there is one."""
    console.print(text, markup=False)


class Lines(Callback):
    """Loss, accuracy and images/s: a bar of the running epoch (terminals only), then a line."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._drawn = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Say where it begins."""
        assert isinstance(module, Training)
        journal = module.journal
        if journal.epoch or journal.batch:
            say(f"continuing after step {module.step} (epoch {journal.epoch + 1}, batch {journal.batch})")
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
            self._task = self._bar.add_task("", total=module.batches.count)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Redraw the bar, at most four times a second: reading the sums waits for the device."""
        assert isinstance(module, Training)
        if self._bar is None or time.perf_counter() - self._drawn < 0.25:
            return
        journal = module.journal
        loss, accuracy = module.trained.values()
        speed = journal.epoch_images / max(journal.epoch_seconds, 1e-9)
        text = f"epoch {journal.epoch + 1}  loss {loss:.3f}  accuracy {accuracy:.2%}  {speed:.0f} images/s"
        self._bar.update(self._task, completed=journal.batch, description=text)
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """The epoch's line."""
        assert isinstance(module, Training)
        row, epochs = module.journal.rows[-1], module.recipe.trainer.epochs
        best = "  best" if module.journal.best_epoch == module.journal.epoch else ""
        say(
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
            f"  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.2%}"
            f"  validation loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.2%}"
            f"  {row['images_per_second']:.0f} images/s  {row['seconds']:.0f} s{best}"
        )

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self.on_train_end(trainer, module)
