"""Ctrl-C and SIGTERM while a run trains: it is saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from rheobase.training.console import say


class Stopper:
    """Takes note of signals, for the loop to stop at the next moment at which the run can be saved.

    A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._trained = False

    @property
    def wanted(self) -> bool:
        """Whether this process got a signal."""
        return self._number is not None

    def stop(self) -> NoReturn:
        """End the run as the signal that came, here or to another process of it, would have.

        With KeyboardInterrupt after Ctrl-C, else SystemExit with the status that a shell gives to SIGTERM.
        """
        raise KeyboardInterrupt if self._number == signal.SIGINT else SystemExit(128 + signal.SIGTERM)

    def trained(self) -> None:
        """All is saved: from here on a signal ends the run at once."""
        self._trained = True
        if self.wanted:
            self.stop()

    @contextmanager
    def listening(self, where: Callable[[], str]) -> Iterator[None]:
        """Mind the signals within; `where` tells how to go on from where they end it."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other handle signals
            for number in map(int, (signal.SIGINT, signal.SIGTERM)):
                # a script's background job does not get its Ctrl-C; None is a handler that is not Python's
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, self._note)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            say(f"stopped; {where()}")
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # a second Ctrl-C is meant; a second SIGTERM is not, as `timeout` sends two
        now = self._trained or (self.wanted and number == signal.SIGINT)
        self._number = number
        if now:
            self.stop()
        os.write(2, b"\nstopping as soon as the run is saved; Ctrl-C stops at once\n")  # print is not for handlers
