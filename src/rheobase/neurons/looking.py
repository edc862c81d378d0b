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

    def __contains__(self, neuron: object) -> bool:
        """Whether a neuron is to be taken down."""

    def note(self, neuron: Neuron, ran: Ran) -> None:
        """What a neuron has done."""


@dataclass(frozen=True)
class Look:
    """The states that neurons begin with and those that they left; the tape."""

    given: dict[Neuron, Any] = field(default_factory=dict)
    left: dict[Neuron, Any] = field(default_factory=dict)
    tape: Tape | None = None

    def call(self, neuron: Neuron, currents: Tensor, skip: Tensor | None = None, **fused: Any) -> Ran:
        """Run a neuron from and to the stream's state, and take it down."""
        streamed = neuron in self.given
        if neuron in self.left:
            raise RuntimeError(
                f"{type(neuron).__name__} is called twice in one pass: to stream, give each place its own neuron"
            )
        taped = self.tape is not None and neuron in self.tape
        options = {"keep_state": streamed, **fused}
        if taped:
            assert self.tape is not None
            options |= {"watch": self.tape.potentials, "keep_drive": True}
        elif skip is not None:
            options["skip"] = skip
        ran = neuron._call(currents, self.given.get(neuron), **options)
        if streamed:
            self.left[neuron] = ran.state
        if taped:
            assert self.tape is not None
            self.tape.note(neuron, ran)
            if skip is not None:
                ran = ran._replace(outputs=ran.outputs + skip)
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
    look = Look(
        before.given if given is None else given,
        before.left if given is None else {},
        before.tape if tape is None else tape,
    )
    with eagerly():
        local.look, outer = look, local.look
        try:
            yield look
        finally:
            local.look = outer
