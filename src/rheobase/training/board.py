"""TensorBoard events, on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rheobase.training.activity import activity
from rheobase.training.journal import COLUMNS

if TYPE_CHECKING:
    from rheobase.training.loop import Training


def require() -> None:
    """Refuse if TensorBoard is not installed.

    Raises:
        ValueError: says how to install it.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"trainer.tensorboard needs TensorBoard ({error}): pip install 'rheobase[tensorboard]'"
        ) from error


class Board:
    """Writes each row of the journal as scalars; events after step `step` are superseded."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def epoch(self, training: Training) -> None:
        """Write the epoch's row, each layer's firing rate, and the norm of each gradient in the last step."""
        row = training.journal.rows[-1]
        rates = {layer["layer"]: layer["rate"] for layer in activity(training.kept, training.sample)}
        norms = {name: p.grad.norm().item() for name, p in training.net.named_parameters() if p.grad is not None}
        for group, values in (("", {c: row[c] for c in COLUMNS[2:]}), ("rate/", rates), ("gradient/", norms)):
            for name, value in values.items():
                self._writer.add_scalar(group + name, value, int(row["step"]))
        self._writer.flush()

    def end(self) -> None:
        """Close."""
        self._writer.close()
