"""TensorBoard events, on request."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from rheobase.training.journal import COLUMNS
from rheobase.training.module import Training


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


class Board(Callback):
    """Writes each row of the journal as scalars; at a resume, events after the checkpoint are superseded."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._kind = SummaryWriter
        self._writer: SummaryWriter | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Open, dropping what lies after this step."""
        assert isinstance(module, Training)
        self._writer = self._kind(str(self._folder), purge_step=module.step + 1 if module.step else None)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch's row."""
        assert isinstance(module, Training)
        assert self._writer is not None
        row = module.journal.rows[-1]
        for name in COLUMNS[2:]:
            self._writer.add_scalar(name, row[name], int(row["step"]))
        self._writer.flush()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Close."""
        if self._writer is not None:
            self._writer.close()
