"""The training loop. What happens in a batch is a function of the recipe, the step and the process alone."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rheobase.data import Dataset, seed_of
from rheobase.training import build, losses
from rheobase.training.board import Board
from rheobase.training.console import Lines
from rheobase.training.journal import Journal, Meter
from rheobase.training.keeper import Keeper
from rheobase.training.recipe import Recipe
from rheobase.training.schedule import learning_rate
from rheobase.training.stopping import Stopper

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def fit(training: Training, keeper: Keeper, lines: Lines, board: Board | None, stopper: Stopper) -> None:
    """Train from where the journal is to the end.

    The run is saved between two batches, or after an epoch with its validation; never between the last batch and its
    validation, so that validation is neither skipped nor run twice.

    Raises:
        ValueError: something is not finite.
        Stopped: by a signal, when all is saved.
    """
    recipe, journal, batches = training.recipe, training.journal, training.batches
    if training.agreed(stopper.wanted):  # it came before there was anything to save
        stopper.stop()
    lines.begin(training)
    mark = time.perf_counter()
    while journal.epoch < recipe.trainer.epochs:
        batches.seek(journal.epoch, journal.batch)
        for images, labels in batches:
            mark = journal.count(training.train_on(images, labels), mark)
            lines.batch(training)
            if journal.batch == batches.count:
                break  # its validation comes first
            keeper.save_if_due(training)
            if training.agreed(stopper.wanted):
                keeper.save(training)
                training.fabric.barrier()
                stopper.stop()
        train_loss, train_accuracy = training.trained.values()
        validation_loss, validation_accuracy = training.validate()
        training.check_weights()
        now = time.perf_counter()
        journal.seconds += now - mark
        mark = now
        training.end_epoch(
            {
                "epoch": journal.epoch + 1,
                "step": training.step,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
                "lr": training.rate(training.step - 1),
                "images_per_second": round(journal.epoch_images / max(journal.epoch_seconds, 1e-9), 1),
                "seconds": round(journal.seconds, 3),
            }
        )
        keeper.save(training)
        keeper.write_files(training)
        lines.epoch(training)
        if board is not None:
            board.epoch(training)
        if training.agreed(stopper.wanted):
            training.fabric.barrier()
            stopper.stop()
    lines.end()
    if board is not None:
        board.end()


class Training:
    """A net in training: what a step does, and all that a checkpoint holds."""

    def __init__(self, recipe: Recipe, fabric: Fabric, net: nn.Module, data: Dataset) -> None:
        rank, world = fabric.global_rank, fabric.world_size
        self.recipe = recipe
        self.fabric = fabric
        self.net = net.to(fabric.device)
        self.model, self.optimizer = fabric.setup(self.net, build.optimizer(self.net, recipe.optimizer))
        self.batches = build.training_batches(recipe, data, rank, world)
        mine = data.validation.at(torch.arange(rank, len(data.validation), world))
        self.validation = build.evaluation_batches(recipe, data, mine)
        self.journal = Journal()
        self.trained = Meter()
        self.best: dict[str, Tensor] = {}
        self.threads = torch.get_num_threads()  # those that the run began with
        self.processes = world

    @property
    def step(self) -> int:
        """The next step, counted from 0 over all epochs."""
        return self.journal.epoch * self.batches.count + self.journal.batch

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        recipe = self.recipe
        return learning_rate(recipe.schedule, recipe.optimizer.lr, step, self.batches.count, recipe.trainer.epochs)

    def train_on(self, images: Tensor, labels: Tensor) -> int:
        """One step on this process's part of a batch; how many images the whole batch has."""
        images, labels = images.to(self.fabric.device), labels.to(self.fabric.device)
        torch.manual_seed(seed_of("step", self.recipe.seed, self.step, self.fabric.global_rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = losses.loss(logits, labels, self.recipe.loss)
        self.fabric.backward(loss)
        if self.recipe.trainer.clip_gradient is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.trainer.clip_gradient)
        self.optimizer.step()
        sums = self.total(loss.detach() * len(labels), losses.correct(logits.detach(), labels), len(labels))
        self.trained.add(sums)
        return int(sums[2])

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean loss and accuracy over the validation split, from its first sample."""
        self.net.eval()
        self.validation.seek(0)
        meter = Meter()
        for images, labels in self.validation:
            images, labels = images.to(self.fabric.device), labels.to(self.fabric.device)
            with self.fabric.autocast():
                logits = self.net(images)
            loss = losses.loss(logits, labels, self.recipe.loss)
            meter.add([(loss.double() * len(labels)).item(), losses.correct(logits, labels).item(), len(labels)])
        self.net.train()
        meter.sums = self.total(*meter.sums)
        return meter.values()

    def check_weights(self) -> None:
        """Refuse weights that are not finite.

        Raises:
            ValueError: names them.
        """
        loss = self.trained.values()[0]
        if not math.isfinite(loss) or not all(p.isfinite().all() for p in self.net.parameters()):
            raise ValueError(
                f"training diverged: the loss of epoch {self.journal.epoch + 1} is {loss}, or weights are not finite; "
                f"lower optimizer.lr ({self.recipe.optimizer.lr:g}) or set trainer.clip_gradient"
            )

    def end_epoch(self, row: dict[str, float]) -> None:
        """Note the epoch's row, and the weights if they are the best so far."""
        self.trained = Meter()
        if self.journal.record(row):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.net.state_dict().items()}

    def total(self, *values: Tensor | float) -> list[float]:
        """Each value's sum over all processes, in float64."""
        numbers = [torch.as_tensor(value, dtype=torch.float64, device=self.fabric.device) for value in values]
        sums: list[float] = self.fabric.all_reduce(torch.stack(numbers), reduce_op="sum").tolist()  # type: ignore[union-attr]
        return sums

    def agreed(self, wish: bool) -> bool:
        """Whether any process wishes it, so that all do the same."""
        return wish if self.fabric.world_size == 1 else self.total(float(wish))[0] > 0

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain dicts, numbers and tensors."""
        return {
            "net": dict(self.net.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "journal": self.journal.to_dict(),
            "trained": self.trained.sums,
            "best": self.best,
            "recipe_sha256": self.recipe.sha256,
            "threads": self.threads,
            "processes": self.processes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: it is of another recipe.
        """
        if state["recipe_sha256"] != self.recipe.sha256:
            raise ValueError("recipe.json is not the recipe that this run began with: it was changed since")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.journal = Journal(**state["journal"])
        self.trained = Meter(state["trained"])
        self.best = state["best"]
        self.threads = state["threads"]
        self.processes = state["processes"]
