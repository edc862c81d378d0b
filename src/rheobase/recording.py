"""Take down what neurons do while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rheobase import figures
from rheobase.kernels.spec import Ran
from rheobase.neurons.base import Neuron, outermost
from rheobase.neurons.looking import looking


class Trace(NamedTuple):
    """What a neuron did, `[T, B, ...]`, differentiable.

    Attributes:
        currents: what went in.
        spikes: what came out.
        potentials: before the reset, where asked for (under a gradient rule, which knows of spikes alone, without a
            gradient); of a neuron of one's own, its (first) state after each step.
    """

    currents: Tensor
    spikes: Tensor
    potentials: Tensor | None


class Tape(Mapping[str, Trace]):
    """Traces by module path; of a neuron that was called more than once, the last (streamed, all steps)."""

    copies = True

    def __init__(self, neurons: dict[str, Neuron], potentials: bool) -> None:
        self.potentials = potentials
        self._paths = {neuron: path for path, neuron in neurons.items()}
        self._traces: dict[str, list[Trace]] = {}  # the pieces of a stream are joined when they are read

    def __contains__(self, key: object) -> bool:
        """Whether there is a trace by that path, or a neuron is one of the model's."""
        return key in (self._paths if isinstance(key, Neuron) else self._traces)

    def __getitem__(self, path: str) -> Trace:
        """The trace of the neuron at that path."""
        if path not in self._traces:
            there = ", ".join(self._traces) or "nothing yet"
            raise KeyError(f"no trace of {path!r}; there is: {there}")
        pieces = self._traces[path]
        if len(pieces) > 1:
            currents, spikes = (torch.cat([piece[i] for piece in pieces]) for i in range(2))  # type: ignore[misc]
            potentials = [piece.potentials for piece in pieces if piece.potentials is not None]
            pieces[:] = [Trace(currents, spikes, torch.cat(potentials) if potentials else None)]
        return pieces[0]

    def __iter__(self) -> Iterator[str]:
        """Paths in the order in which neurons ran."""
        return iter(self._traces)

    def __len__(self) -> int:
        """How many neurons there are traces of."""
        return len(self._traces)

    def note(self, neuron: Neuron, ran: Ran, more: bool) -> None:
        """Take it down; with `more`, after the steps before."""
        path = self._paths[neuron]
        found = Trace(ran.drive, ran.outputs, ran.potentials if self.potentials else None)
        before = self._traces.pop(path, [])
        self._traces[path] = before if more else []
        self._traces[path].append(found)

    def plot(self, path: str | Path, sample: int = 0, neurons: int = 200) -> None:
        """A raster of one sample as an image file: time to the right, the first neurons of each layer upwards.

        Args:
            path: of the file; its ending tells the format.
            sample: which one of the batch.
            neurons: how many of each layer, at most.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self._traces:
            raise ValueError("plot: nothing was recorded")

        figure = figures.figure(8, 1 + 1.2 * len(self))
        axes = figure.subplots(len(self), sharex=True, squeeze=False)[:, 0]
        for axis, (name, trace) in zip(axes, self.items(), strict=True):
            spikes = trace.spikes.detach()[:, sample].float().flatten(1)
            times, places = spikes[:, :neurons].nonzero(as_tuple=True)
            axis.scatter(times.cpu(), places.cpu(), s=4, marker="|", color="black")
            axis.set_title(f"{name}  {spikes.mean().item():.1%}", loc="left", fontsize=8)
            axis.set_ylim(-1, min(neurons, spikes.shape[1]))
        axes[-1].set_xlim(-0.5, len(spikes) - 0.5)
        axes[-1].set_xlabel("time step")
        figure.savefig(path, dpi=120)


@contextmanager
def record(model: nn.Module, potentials: bool = False) -> Iterator[Tape]:
    """Take down spikes, currents and, where asked for, potentials of every neuron and step; results stay the same.

    The model gets copies of the spikes, so that what it adds to them in place is not taken for theirs.

        with rb.record(model, potentials=True) as tape:
            model(x)
        tape["features.3.neuron"].potentials

    All of it is differentiable, and lives as long as the tape. A compiled model runs as if it were not. Where norm and
    neuron are one operator, currents are a by-product of it: for the gradient *with respect to* them, record under
    `rheobase.engine(fused=False)`.

    Args:
        model: any module with neurons.
        potentials: whether to keep them too; they are computed once more for it.

    Raises:
        ValueError: the model has no neurons.
    """
    neurons = outermost(model)
    if not neurons:
        raise ValueError("record: the model has no neurons")
    tape = Tape(neurons, potentials)
    with looking(tape=tape):
        yield tape
