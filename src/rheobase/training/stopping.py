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

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal ends the run; `number` is that of the signal."""

    def __init__(self, number: int) -> None:
        self.number = number


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
        """End the run by the signal that came, here or to another process of the run."""
        raise Stopped(signal.SIGTERM if self._number is None else self._number)

    def trained(self) -> None:
        """All is saved: from here on a signal ends the run at once."""
        self._trained = True
        if self.wanted:
            self.stop()

    @contextmanager
    def listening(self, where: Callable[[], str]) -> Iterator[None]:
        """Mind the signals within; `where` tells how to go on.

        Raises:
            KeyboardInterrupt: stopped by Ctrl-C.
            SystemExit: stopped by SIGTERM, with the status that a shell gives it.
        """
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # a script's background job does not get its Ctrl-C
                _handle(number, self._note)
        try:
            yield
        except Stopped as stopped:
            say(f"stopped; {where()}")
            if stopped.number == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.number) from None
        finally:
            for number, handler in before.items():
                _handle(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # a second Ctrl-C is meant; a second SIGTERM is not, as `timeout` sends two
        if self._trained or (self.wanted and number == signal.SIGINT):
            raise Stopped(number)
        self._number = number
        os.write(2, b"\nstopping as soon as the run is saved; Ctrl-C stops at once\n")  # print is not for handlers


def _handle(number: int, handler: Any) -> None:
    """Python lets only the main thread handle signals; None is a handler that is not Python's."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
