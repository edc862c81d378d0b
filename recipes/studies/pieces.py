"""Work of hours in pieces: what a call has done is kept, and the next one goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from rheobase.files import write_atomic
from rheobase.training.evaluation import weights_sha256

TICK = 1.0
"""Seconds from a look at the clock to the next."""


class TimeUpError(Exception):
    """All that is done is saved, and the call ends."""


class Kept:
    """Measurements in a JSON file that is whole at any moment, so that a call that was stopped makes none again."""

    def __init__(self, path: Path, late: Callable[[], bool] = lambda: False) -> None:
        self._path, self._late, self._idle = path, late, True
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, *nets: nn.Module) -> None:
        """Of which nets: what was kept of others is forgotten."""
        known = [weights_sha256(net.state_dict()) for net in nets]
        if self._found.get("of") != known:
            self._found = {"of": known}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept by that name, or is made now: one thing at least, so that calls get on, however short.

        Raises:
            TimeUpError: it is not there, and it is too late.
        """
        if key not in self._found:
            if self._late() and not self._idle:
                raise TimeUpError
            self._idle = False
            self._found[key] = json.loads(json.dumps(make()))
            write_atomic(self._path, json.dumps(self._found).encode())
        return self._found[key]


@contextmanager
def ended_by(wish: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Within, a run is ended as by SIGTERM, which saves it first, once there is a wish; gives whether it was.

    Not before the run listens to that signal. (Signals are the main thread's.)
    """
    before = signal.getsignal(signal.SIGTERM)
    sent = ended = False

    def tick(*_: object) -> None:
        nonlocal sent
        if not sent and signal.getsignal(signal.SIGTERM) is not before and wish():
            sent = True
            signal.raise_signal(signal.SIGTERM)

    other = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield lambda: ended
    except SystemExit:
        if not sent:
            raise
        ended = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, other)
