"""Ctrl-C and SIGTERM while a run trains: it is saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from rheobase.training.console import say
from rheobase.training.keeper import Keeper
from rheobase.training.module import Batch, Training

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal ends the run; `number` is that of the signal."""

    def __init__(self, number: int) -> None:
        self.number = number


class Stopper(Callback):
    """Ends a run that got a signal at the next moment at which it can be saved, or at once at a second Ctrl-C.

    It comes last among the callbacks: what the others do with a batch or an epoch is then done.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._number: int | None = None
        self._trained = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Mind the signals within.

        Raises:
            KeyboardInterrupt: stopped by Ctrl-C.
            SystemExit: stopped by SIGTERM, with the status that a shell gives it.
        """
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._listen()
        try:
            yield
        except Stopped as stopped:
            say(f"stopped; {self._keeper.where()}")
            if stopped.number == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.number) from None
        finally:
            for number, handler in before.items():
                _handle(number, handler)

    def trained(self) -> None:
        """All is saved: from here on a signal ends the run at once."""
        self._trained = True
        if self._number is not None:
            raise Stopped(self._number)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take SIGTERM back from Lightning, which would also stop in mid-validation, where nothing can be saved."""
        self._listen()
        if self._number is not None:  # it came before there was anything to save
            raise Stopped(self._number)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Stop, if it is to; after an epoch's last batch comes its validation first."""
        assert isinstance(module, Training)
        if module.journal.batch < module.batches.count:
            self._end(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop, if it is to."""
        assert isinstance(module, Training)
        self._end(trainer, module)

    def _end(self, trainer: Trainer, module: Training) -> None:
        if self._number is not None:
            self._keeper.save(trainer, module)
            raise Stopped(self._number)

    def _listen(self) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # a script's background job does not get its Ctrl-C
                _handle(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # a second Ctrl-C is meant; a second SIGTERM is not, as `timeout` sends two
        if self._trained or (self._number is not None and number == signal.SIGINT):
            raise Stopped(number)
        self._number = number
        os.write(2, b"\nstopping as soon as the run is saved; Ctrl-C stops at once\n")  # print is not for handlers


def _handle(number: int, handler: Any) -> None:
    """Python lets only the main thread handle signals; None is a handler that is not Python's."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
