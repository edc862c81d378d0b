"""What a run remembers besides weights and optimizer: where it is, what it has measured."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Mapping[str, Any])

COLUMNS = (
    *("epoch", "step", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
    *("lr", "images_per_second", "seconds"),
)
"""Of metrics.csv. `seconds` is the training time since the start of the run, summed over resumes."""


@dataclass
class Journal:
    """The state of a run. `epoch` and `batch` are the next to train, so every moment between two batches has a name."""

    epoch: int = 0
    batch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float = 0.0  # of training alone, without validation
    sums: list[float] = field(default_factory=lambda: [0.0] * 3)  # of the epoch so far: loss, right, images
    weights: dict[str, Any] | None = None  # those that it was given to begin with
    tuned: dict[str, Any] | None = None  # what tuning did before the first step
    readings: list[dict[str, Any]] = field(default_factory=list)  # of probes
    warned: list[str] = field(default_factory=list)  # of what in them

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best epoch."""
        return best_of(self.rows)

    @property
    def best_is_new(self) -> bool:
        """Whether the last epoch is the best one."""
        return self.best is self.rows[-1]

    @property
    def speed(self) -> float:
        """Images a second in the epoch so far."""
        return self.sums[2] / max(self.epoch_seconds, 1e-9)

    def count(self, sums: Sequence[float], since: float) -> float:
        """A batch with these sums has been trained, which took from then to now; now."""
        now = time.perf_counter()
        self.epoch_seconds += now - since
        self.seconds += now - since
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)]
        self.batch += 1
        return now

    def record(self, row: dict[str, Any]) -> None:
        """End an epoch with its row."""
        self.rows.append(row)
        self.epoch, self.batch = self.epoch + 1, 0
        self.epoch_seconds, self.sums = 0.0, [0.0] * 3


def to_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a CSV file with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def best_of(rows: Sequence[Row]) -> Row:
    """The best epoch's: by validation accuracy, then loss (a nan is worse than all others), then the earliest."""
    return max(rows, key=_rank)


def _rank(row: Mapping[str, Any]) -> tuple[bool, float, float]:
    accuracy, loss = row["validation_accuracy"], row["validation_loss"]
    return (False, accuracy, 0.0) if math.isnan(loss) else (True, accuracy, -loss)


def means(sums: Sequence[float]) -> tuple[float, float]:
    """Mean loss and accuracy, from the sums of the loss, of what was right, and of images; nan without images."""
    loss, right, images = sums
    return (loss / images, right / images) if images else (math.nan, math.nan)
