"""The training loop. What happens in a batch is a function of the recipe, the step and the process alone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rheobase.data import Batch, Dataset
from rheobase.modes import in_mode
from rheobase.recording import record
from rheobase.training import board, build, guard, losses, watch
from rheobase.training.activity import firing
from rheobase.training.boosting import Boosting, weigh
from rheobase.training.console import Lines
from rheobase.training.folder import Checkpoint, check_same
from rheobase.training.guard import NotFiniteError
from rheobase.training.journal import COLUMNS, Journal, means
from rheobase.training.keeper import Keeper
from rheobase.training.optimization import average, learning_rate, optimizer
from rheobase.training.passes import padded, seed, seeded, tried
from rheobase.training.recipe import Recipe
from rheobase.training.stopping import Stopper

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from torch.utils.tensorboard import SummaryWriter


def fit(training: Training, keeper: Keeper, lines: Lines, events: SummaryWriter | None, stopper: Stopper) -> None:
    """Train from where the journal is to the end.

    The run is saved between two batches, or after an epoch with its validation; never between the last batch and its
    validation, so that validation is neither skipped nor run twice.

    Raises:
        NotFiniteError: something is not.
        KeyboardInterrupt, SystemExit: by a signal, when all is saved.
    """

    def stop_if_wanted() -> None:
        if training.agreed(stopper.wanted):
            keeper.save(training)
            training.fabric.barrier()
            stopper.stop()

    journal, batches = training.journal, training.batches
    stop_if_wanted()  # by a signal that came before there was anything to save
    mark = time.perf_counter()
    while journal.epoch < training.recipe.trainer.epochs:
        batches.seek(journal.epoch, journal.batch)
        for batch in batches:
            if watch.due(training):
                watch.look(training, events)
                keeper.write_files(training, best=False)
                mark = time.perf_counter()  # which is no training
            mark = journal.count(training.train_on(batch), mark)
            lines.batch(training)
            if journal.batch < batches.count:  # else its validation comes first
                keeper.save_if_due(training)
                stop_if_wanted()
        validation = training.validate()
        now = time.perf_counter()
        journal.seconds += now - mark
        mark = now
        training.end_epoch(validation)
        keeper.save(training)
        keeper.write_files(training, best=journal.best_is_new)
        lines.epoch(training)
        if events is not None:
            board.write(events, training)
        stop_if_wanted()


class Training:
    """A net in training: what a step does, and all that a checkpoint holds.

    Of several processes each has its part of every batch, and all have the same weights and journal.
    """

    def __init__(self, recipe: Recipe, fabric: Fabric, net: nn.Module, data: Dataset) -> None:
        rank, world = fabric.global_rank, fabric.world_size
        self.recipe = recipe
        self.fabric = fabric
        self.net = net.to(fabric.device)
        self.model, self.optimizer = fabric.setup(self.net, optimizer(self.net, recipe.optimizer))
        self.ema = average(self.net, recipe.trainer.ema) if recipe.trainer.ema else None
        self.batches = build.training_batches(recipe, data, rank, world)
        mine = data.validation.at(torch.arange(rank, len(data.validation), world))
        self.validation = build.evaluation_batches(recipe, data, mine)
        self.data = build.fingerprint(data)
        self.sample = build.sample(data, data.validation).to(fabric.device)
        every, few = recipe.probe.every_steps, recipe.probe.samples
        self.probed = build.sample(data, data.train, few).to(fabric.device) if every else None
        penalised = recipe.loss.weight_penalty > 0
        self.hidden = losses.hidden(self.net, lambda: tried(self.net, self.sample)) if penalised else []
        self.boosting = Boosting(recipe.loss.boosting, data.train.labels) if recipe.loss.boosting else None
        self.journal = Journal()
        self.best: dict[str, Tensor] = {}
        self.threads = torch.get_num_threads()  # those that the run began with
        self.processes = world

    @property
    def step(self) -> int:
        """The next step, counted from 0 over all epochs."""
        return self.journal.epoch * self.batches.count + self.journal.batch

    @property
    def kept(self) -> nn.Module:
        """The net that is validated and kept: the moving average, if there is one."""
        return self.net if self.ema is None else self.ema.module

    def train_on(self, batch: Batch) -> list[float]:
        """One step on this process's part of a batch; of the whole batch the sums that a journal counts.

        Where the loss or a gradient is not finite, the weights stay as they were (NotFiniteError).
        """
        recipe, world, boosting = self.recipe, self.fabric.world_size, self.boosting
        batch = batch.to(self.fabric.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step, self.batches.count)
        self.optimizer.zero_grad()
        whole = min(self.batches.batch_size, len(self.batches.split) - self.journal.batch * self.batches.batch_size)
        parts = max(1, min(recipe.trainer.accumulate, whole // world // 2))  # a norm wants two samples
        pieces = batch.divide(parts)
        weights: Sequence[Tensor | None] = [None] * parts
        if boosting is not None:
            samples = self.batches.samples(self.journal.epoch, self.journal.batch)
            mine = slice(self.fabric.global_rank, None, world)
            weights = boosting.weights[samples[mine]].tensor_split(parts)
        sums = torch.zeros(3, dtype=torch.float64, device=self.fabric.device)
        rights = []
        self._seed()
        for number, (piece, weight) in enumerate(zip(pieces, weights, strict=True), 1):
            count = len(piece.labels)
            with padded(piece.lengths), self.fabric.no_backward_sync(self.model, enabled=number < parts):
                loss, right = self.loss(self.model, piece, weight)
                self.fabric.backward(loss * (count * world / whole))  # DDP takes the mean over processes
            sums += torch.stack((loss.detach().double() * count, right.sum().double(), loss.new_tensor(count)))
            rights.append(right)
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        *totals, size = self.total(*sums, norm)
        if not math.isfinite(totals[0]) or not math.isfinite(size):
            self._seed()
            found = [self._first(piece) for piece in pieces]
            found = [what for rank in range(world) for what in self.fabric.broadcast(found, rank)]
            what = next(filter(None, found), "the loss or a gradient")
            raise NotFiniteError(self._diverged(self.step + 1, what))
        if recipe.trainer.clip_gradient is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, recipe.trainer.clip_gradient, norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        if boosting is not None:
            flags = torch.zeros(whole, dtype=torch.uint8, device=self.fabric.device)
            flags[mine] = (~torch.cat(rights)).byte()
            if world > 1:
                torch.distributed.all_reduce(flags)
            boosting.note(samples, flags > 0)
        return totals

    def loss(self, model: nn.Module, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and which it gets right, `[B]`; within `padded`, as its backward pass.

        `weights` `[B]` multiply the gradients of the samples' logits.
        """
        options, (inputs, labels, lengths) = self.recipe.loss, batch
        with self.fabric.autocast(), record(model) if options.rate_penalty else nullcontext() as tape:
            logits = model(inputs)
        if weights is not None:
            weigh(logits, weights)
        loss = losses.loss(logits, labels, options, lengths)
        if tape is not None:
            loss = loss + losses.rate_penalty(firing(model, tape, batch).values(), options)
        if options.weight_penalty:
            parameters = list(model.parameters())  # in whatever the net is wrapped, their order is its own
            loss = loss + losses.weight_penalty([parameters[place] for place in self.hidden], options)
        return loss, losses.correct(logits.detach(), labels, options, lengths)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean loss and accuracy over the validation split, from its first sample."""
        net = self.kept
        if self.fabric.world_size > 1:
            for buffer in net.buffers():  # running statistics that processes do not share are those of the first
                torch.distributed.broadcast(buffer, 0)
        self.validation.seek(0)
        sums = [0.0] * 3
        with in_mode(net, training=False), seeded("evaluation", self.recipe.seed, self.fabric.global_rank):
            for batch in (each.to(self.fabric.device) for each in self.validation):
                with padded(batch.lengths):
                    loss, right = self.loss(net, batch)
                count = len(batch.labels)
                sums = [a + b for a, b in zip(sums, (loss.item() * count, right.sum().item(), count), strict=True)]
        return means(self.total(*sums))

    def check(self) -> None:
        """Refuse to go on, or to save, if weights are not finite, or currents in evaluation (NotFiniteError)."""
        found = guard.weights(self.net) or guard.currents(self.kept, self.sample)
        if found:
            raise NotFiniteError(self._diverged(self.step, found))

    def _first(self, piece: Batch) -> str | None:
        with padded(piece.lengths):
            return guard.first(self.net, lambda: self.loss(self.net, piece)[0])

    def _diverged(self, step: int, what: str) -> str:
        return (
            f"training diverged in step {step}; the first that is not finite: {what}; "
            f"lower optimizer.lr ({self.recipe.optimizer.lr:g}) or set trainer.clip_gradient"
        )

    def _seed(self) -> None:
        seed("step", self.recipe.seed, self.step, self.fabric.global_rank)

    def end_epoch(self, validation: tuple[float, float]) -> None:
        """Note the epoch's row, and the weights if they are the best so far."""
        journal, step = self.journal, self.step
        measured = *means(journal.sums), *validation, learning_rate(self.recipe, step - 1, self.batches.count)
        row = (journal.epoch + 1, step, *measured, round(journal.speed, 1), round(journal.seconds, 3))
        journal.record(dict(zip(COLUMNS, row, strict=True)))
        if self.boosting is not None:
            self.boosting.end_epoch()
        if journal.best_is_new:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.kept.state_dict().items()}

    def total(self, *values: Tensor | float) -> list[float]:
        """Each value's sum over all processes, in float64."""
        numbers = [torch.as_tensor(value, dtype=torch.float64, device=self.fabric.device) for value in values]
        sums = torch.stack(numbers)
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(sums)  # (Fabric's has a barrier before it)
        found: list[float] = sums.tolist()
        return found

    def agreed(self, wish: bool) -> bool:
        """Whether any process wishes it, so that all do the same."""
        return wish if self.fabric.world_size == 1 else self.total(float(wish))[0] > 0

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain dicts, numbers and tensors."""
        return {
            "net": dict(self.net.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "ema": dict(self.ema.state_dict()) if self.ema is not None else None,
            "journal": asdict(self.journal),
            "best": self.best,
            "data": self.data,
            "recipe_sha256": self.recipe.sha256,
            "threads": self.threads,
            "processes": self.processes,
            **({"boosting": self.boosting.state_dict()} if self.boosting is not None else {}),
        }

    def load_state_dict(self, state: Checkpoint) -> None:
        """Go on from there; a ValueError if it is of another recipe, data or model, or damaged."""
        check_same(state["recipe_sha256"], self.recipe, state["data"], self.data)
        try:
            self.net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"] or {})
            if self.boosting is not None:
                self.boosting.load_state_dict(state["boosting"])
            if state["best"]:
                copy.deepcopy(self.kept).load_state_dict(state["best"])
        except Exception as error:  # what does not fit raises whatever it happens to
            reason = " ".join(str(error).split())
            raise ValueError(f"the checkpoint is of another model than this one: {reason}") from error
        self.journal = journal = state["journal"]
        self.best = state["best"]
        self.threads = state["threads"]
        self.processes = state["processes"]
        epochs, batches = self.recipe.trainer.epochs, self.batches.count
        if not (0 <= journal.epoch <= epochs and 0 <= journal.batch < batches):
            raise ValueError(
                f"epoch {journal.epoch}, batch {journal.batch} is no place in {epochs} epochs of {batches} batches"
            )
        if spoilt := guard.weights(self.net):
            raise ValueError(f"{spoilt} are not finite")
