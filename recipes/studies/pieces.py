"""Work of hours in pieces: what a call has done is kept, and the next one goes on."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rheobase.files import write_atomic

TICK = 1.0
"""Seconds from a look at the clock to the next."""


class TimeUpError(Exception):
    """All that is done is saved, and the call ends."""


class Kept:
    """Measurements in a JSON file that is whole at any moment, so that a call that was stopped makes none again."""

    def __init__(self, path: Path, end: float = math.inf) -> None:
        self._path, self._end = path, end
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept by that name, or is made now.

        Raises:
            TimeUpError: it is not there, and it is too late.
        """
        if key not in self._found:
            if time.monotonic() >= self._end:
                raise TimeUpError
            self._found[key] = json.loads(json.dumps(make()))
            write_atomic(self._path, json.dumps(self._found).encode())
        return self._found[key]


@contextmanager
def ended_by(wish: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Within, a training run is ended as by SIGTERM, which saves it first, once there is a wish; gives whether it was.

    (Of the main thread alone, as signals are.)
    """
    sent = False

    def tick(*_: object) -> None:
        nonlocal sent
        if not sent and wish():
            sent = True
            signal.raise_signal(signal.SIGTERM)

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave), signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    ended = False
    try:
        yield lambda: ended
    except SystemExit:
        if not sent:
            raise
        ended = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGTERM, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)
