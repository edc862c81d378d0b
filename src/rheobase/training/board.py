"""TensorBoard events, on request."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rheobase.training.activity import activity
from rheobase.training.folder import RunFolder
from rheobase.training.journal import COLUMNS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rheobase.training.loop import Training


def require() -> type[SummaryWriter]:
    """What writes events; a ValueError that says how to install TensorBoard where it is not."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"trainer.tensorboard needs TensorBoard ({error}): pip install 'rheobase[tensorboard]'"
        ) from error
    return SummaryWriter


def opened(folder: RunFolder, training: Training) -> AbstractContextManager[SummaryWriter | None]:
    """A writer, in whose folder events after the training's step are superseded; None where no events are wanted."""
    if not training.recipe.trainer.tensorboard or not training.fabric.is_global_zero:
        return nullcontext()
    return require()(str(folder.tensorboard), purge_step=training.step + 1 if training.step else None)


def write(writer: SummaryWriter, training: Training) -> None:
    """Write the epoch's row, each layer's firing rate, and the norm of each gradient in the last step."""
    row = training.journal.rows[-1]
    scalars = {name: row[name] for name in COLUMNS[2:]}
    scalars |= {f"rate/{layer['layer']}": layer["rate"] for layer in activity(training.kept, training.sample)}
    gradients = ((name, p.grad) for name, p in training.net.named_parameters() if p.grad is not None)
    scalars |= {f"gradient/{name}": gradient.norm().item() for name, gradient in gradients}
    for name, value in scalars.items():
        writer.add_scalar(name, value, row["step"])
    writer.flush()
