"""What looks into neurons while a model runs: a stream of states, or a tape.

It is set for the thread that runs, within a `with` block, and gone after it: no module keeps a state between calls.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from rheobase.eager import eagerly

if TYPE_CHECKING:
    from rheobase.kernels.spec import Ran
    from rheobase.neurons.base import Neuron


class Tape(Protocol):
    """Takes down what neurons do."""

    potentials: bool
    copies: bool  # whether the net gets copies of outputs, so that what it does to them in place leaves them

    def __contains__(self, neuron: object) -> bool:
        """Whether a neuron is to be taken down."""

    def note(self, neuron: Neuron, ran: Ran, more: bool) -> None:
        """What a neuron has done; with `more`, in steps that follow those before."""


@dataclass(frozen=True)
class Look:
    """The states that neurons begin with and those that they left; the tapes."""

    given: dict[Neuron, Any] = field(default_factory=dict)
    left: dict[Neuron, Any] = field(default_factory=dict)
    tapes: tuple[Tape, ...] = ()

    def call(self, neuron: Neuron, currents: Tensor, skip: Tensor | None = None, **fused: Any) -> Ran:
        """Run a neuron from and to the stream's state, and take it down."""
        streamed = neuron in self.given
        if self.given and not streamed:
            raise RuntimeError(
                f"{type(neuron).__name__} is a part of another neuron, so its state would be lost: see run"
            )
        if neuron in self.left:
            raise RuntimeError(
                f"{type(neuron).__name__} is called twice in one pass: to stream, give each place its own neuron"
            )
        tapes = [tape for tape in self.tapes if neuron in tape]
        options = {"keep_state": streamed, **fused}
        if tapes:
            options |= {"watch": any(tape.potentials for tape in tapes), "keep_drive": True}
        elif skip is not None:
            options["skip"] = skip
        ran = neuron._call(currents, self.given.get(neuron), **options)
        if streamed:
            self.left[neuron] = ran.state
        for tape in tapes:
            tape.note(neuron, ran, self.given.get(neuron) is not None)
        if tapes and skip is not None:
            ran = ran._replace(outputs=ran.outputs + skip)
        elif any(tape.copies for tape in tapes):
            ran = ran._replace(outputs=ran.outputs.clone())
        return ran


class _Local(threading.local):
    look: Look | None = None  # in ordinary calls nothing looks on


local = _Local()


@contextmanager
def looking(given: dict[Neuron, Any] | None = None, tape: Tape | None = None) -> Iterator[Look]:
    """Within it, neurons in `given` start from there (None: rest), and a tape takes neurons down.

    Compiled models run as if they were not: what was compiled does not look.
    """
    before = local.look or Look()
    tapes = before.tapes if tape is None else (*before.tapes, tape)
    look = Look(before.given, before.left, tapes) if given is None else Look(given, {}, tapes)
    with eagerly():
        local.look, outer = look, local.look
        try:
            yield look
        finally:
            local.look = outer
