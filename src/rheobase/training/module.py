"""The Lightning module: what happens in a batch, as a function of the recipe and the step alone."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from rheobase.data import Batches, seed_of
from rheobase.data.batches import Batch as Batch
from rheobase.training import build, losses
from rheobase.training.journal import Journal, Meter
from rheobase.training.recipe import Recipe
from rheobase.training.schedule import learning_rate


class Training(lightning.LightningModule):
    """A net in training.

    Its checkpoint holds Lightning's (weights, optimizer, precision) plus our journal, the sums of the epoch so far and
    the best weights; Lightning's own loop counters are left out, and set from the journal (`_place`).
    """

    def __init__(self, recipe: Recipe, net: nn.Module, batches: Batches, validation: Batches) -> None:
        super().__init__()
        self.recipe = recipe
        self.net = net
        self.batches = batches
        self.validation = validation
        self.journal = Journal()
        self.trained = Meter()
        self.validated = Meter()
        self.best: dict[str, Tensor] | None = None
        self.threads = torch.get_num_threads()  # those that the run began with

    @property
    def step(self) -> int:
        """The next step, counted from 0 over all epochs."""
        return self.journal.epoch * self.batches.count + self.journal.batch

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        recipe = self.recipe
        return learning_rate(recipe.schedule, recipe.optimizer.lr, step, self.batches.count, recipe.trainer.epochs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimizer."""
        return build.optimizer(self.net, self.recipe.optimizer)

    def train_dataloader(self) -> Batches:
        """Batches of the training split."""
        return self.batches

    def val_dataloader(self) -> Batches:
        """Batches of the validation split."""
        return self.validation

    def on_train_epoch_start(self) -> None:
        """Put the loader where the journal is."""
        self.batches.seek(self.journal.epoch, self.journal.batch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed and learning rate of this step."""
        torch.manual_seed(seed_of("step", self.recipe.seed, self.step, self.global_rank))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(self.step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        images, labels, _ = batch
        logits = self.net(images)
        loss = losses.loss(logits, labels, self.recipe.loss)
        self.trained.add(loss, losses.correct(logits.detach(), labels), len(labels))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Validation always begins with the first sample."""
        self.validation.seek(0)
        self.validated = Meter()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of a batch."""
        images, labels, _ = batch
        logits = self.net(images)
        self.validated.add(losses.loss(logits, labels, self.recipe.loss), losses.correct(logits, labels), len(labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is ours; drop Lightning's counters."""
        del checkpoint["loops"]
        checkpoint["rheobase"] = {
            "journal": self.journal.to_dict(),
            "trained": self.trained.sums(),
            "best": self.best,
            "recipe_sha256": self.recipe.sha256,
            "threads": self.threads,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what is ours."""
        ours = checkpoint["rheobase"]
        if ours["recipe_sha256"] != self.recipe.sha256:
            raise ValueError("recipe.json is not the recipe that this run began with: it was changed since")
        self.threads = ours["threads"]
        self.journal = Journal(**ours["journal"])
        self.trained.restore(ours["trained"])
        self.best = ours["best"]
        self._place()

    def _place(self) -> None:
        """Put Lightning's loop and the loader where the journal is."""
        epoch = self.journal.epoch
        counters = dict.fromkeys(("ready", "started", "processed", "completed"), epoch)
        self.trainer.fit_loop.epoch_progress.current.load_state_dict(counters)
        self.batches.seek(self.journal.epoch, self.journal.batch)
