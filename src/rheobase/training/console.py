"""What a run says while it trains: a line an epoch, and a bar within the epoch on a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rheobase.training.journal import means

if TYPE_CHECKING:
    from rheobase.training.loop import Training

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line on stdout, above a bar if there is one."""
    console.print(text, markup=False)


class Lines:
    """Loss, accuracy and images/s: a bar of the running epoch (terminals only), then a line."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
        off = not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=off)
        self._task = self._bar.add_task("")
        self._drawn = 0.0

    def batch(self, training: Training) -> None:
        """Redraw the bar, at most four times a second."""
        if self._bar.disable or time.perf_counter() - self._drawn < 0.25:
            return
        journal, total = training.journal, training.batches.count
        loss, accuracy = means(journal.sums)
        text = f"epoch {journal.epoch + 1}  loss {loss:.3f}  accuracy {accuracy:.2%}  {journal.speed:.0f} images/s"
        self._bar.update(self._task, completed=journal.batch, total=total, description=text)
        self._bar.start()  # (if it has not)
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def epoch(self, training: Training) -> None:
        """The epoch's line."""
        row, epochs = training.journal.rows[-1], training.recipe.trainer.epochs
        say(
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
            f"  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.2%}"
            f"  validation loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.2%}"
            f"  {row['images_per_second']:.0f} images/s  {row['seconds']:.0f} s"
            + ("  best" if training.journal.best_is_new else "")
        )

    def end(self) -> None:
        """Remove the bar."""
        self._bar.stop()
