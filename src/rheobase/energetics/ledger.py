"""What was counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

SUMS = (
    *("inputs", "nonzero", "events", "ac", "mac", "effective", "synapses", "dense", "outputs"),
    *("additions", "multiplications", "values", "updates"),
)
"""The counts that grow with the batch."""


@dataclass
class Layer:
    """What a module does, or the functions that it calls: a sample's, over all time steps.

    Attributes:
        path, kind: the module, and what is done in it.
        inputs: values that go in; of neurons, neurons times steps.
        nonzero: those that are not zero.
        events: spikes that go in (a value n of summed spikes is n of them); of neurons, those that they give.
        ac: accumulations: events times their synapses.
        mac: multiply-accumulates: where values that go in are no spikes, those that are not zero times their synapses.
        effective: values that are not zero, whatever they are, times their synapses.
        synapses: all values times their synapses. Weights of zero are none.
        dense: the same, with weights of zero.
        binary: whether all values that go in are 0, 1 or -1.
        driven: whether the net's own spikes go in, or what was made of them.
        weights, outputs: how many; outputs as inputs.
        additions, multiplications: other operations; of neurons, of all their updates.
        values: how often one of them is done where nothing is skipped.
        updates: of neurons, one a step.
        states: numbers that a neuron keeps.
        fires: whether these are neurons that give spikes.
        steps: so many time steps are in these counts.
        back: whether it is within a recurrent neuron: the ANN twin, which has one step, has nothing of it.
        repeats: as often as this is done where every step counts.
    """

    path: str
    kind: str
    inputs: float = 0.0
    nonzero: float = 0.0
    events: float = 0.0
    ac: float = 0.0
    mac: float = 0.0
    effective: float = 0.0
    synapses: float = 0.0
    dense: float = 0.0
    binary: bool = True
    driven: bool = False
    weights: int = 0
    outputs: float = 0.0
    additions: float = 0.0
    multiplications: float = 0.0
    values: float = 0.0
    updates: float = 0.0
    states: int = 0
    fires: bool = False
    steps: float = 1.0
    back: bool = False
    repeats: float = 1.0

    def add(self, by: float = 1.0, **counts: float) -> None:
        """Count so much more, times `by`."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + by * count)

    def join(self, other: Layer) -> None:
        """Count what another did, too."""
        self.add(**{name: getattr(other, name) for name in SUMS})
        self.binary &= other.binary
        self.driven |= other.driven

    @property
    def share(self) -> float:
        """What the ANN twin does of all this in its one pass."""
        return 0.0 if self.back else 1 / self.steps

    @property
    def rate(self) -> float:
        """Spikes an input (of neurons: a neuron) and step."""
        return self.events / self.inputs if self.inputs else 0.0


class Counted(NamedTuple):
    """A pass: layers in the order in which they ran, T, batch size, by path what was not counted, and remarks."""

    layers: list[Layer]
    steps: int
    batch: int
    uncounted: dict[str, str]
    notes: list[str]


class Ledger:
    """Keeps what is counted in a model's pass: layers, and what is not counted, weights that nobody saw among it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: dict[tuple[str, str, tuple[int, ...]], Layer] = {}
        self._calls: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
        self._skipped: dict[str, list[str]] = {}
        self._notes: dict[str, None] = {}
        self._owners = {p.untyped_storage().data_ptr(): name for name, p in model.named_parameters()}
        self._unseen = set(self._owners.values())

    def layer(
        self,
        path: str,
        kind: str,
        steps: float,
        lead: tuple[int, ...] = (),
        back: bool = False,
        repeats: float = 1.0,
    ) -> Layer:
        """The entry of that name; a new one for so many steps (0: as the axes in the lead of its calls will tell)."""
        key = path, kind, lead
        self._calls[key] += 1
        return self._layers.setdefault(key, Layer(path, kind, steps=steps, back=back, repeats=repeats))

    def skip(self, path: str, what: str) -> None:
        """Not counted."""
        self._skipped.setdefault(path, []).append(what)

    def note(self, text: str) -> None:
        """A remark, once."""
        self._notes[text] = None

    def owner(self, tensor: Tensor) -> str | None:
        """The parameter that it is, or is a view of."""
        return self._owners.get(tensor.untyped_storage().data_ptr()) if type(tensor) in (Tensor, nn.Parameter) else None

    def see(self, *tensors: Tensor) -> None:
        """These are accounted for."""
        self._unseen -= {self.owner(tensor) for tensor in tensors}

    def closed(self, steps: int, batch: int) -> Counted:
        """All of it, a sample's, of a pass over so many steps and samples."""
        for name in sorted(self._unseen):
            path, _, parameter = name.rpartition(".")
            if path not in self._skipped:
                self.skip(path, f"{type(self._model.get_submodule(path)).__name__}: {parameter} was not seen in use")
        found: dict[tuple[str, str, float], Layer] = {}
        for (path, kind, lead), layer in self._layers.items():
            layer.steps = layer.steps or self._steps(path, kind, lead, steps, batch)
            for name in SUMS:
                setattr(layer, name, getattr(layer, name) / batch)
            if (same := found.setdefault((path, kind, layer.steps), layer)) is not layer:
                same.join(layer)
        skipped = {path or "(the model)": ", ".join(dict.fromkeys(what)) for path, what in self._skipped.items()}
        return Counted(list(found.values()), steps, batch, skipped, list(self._notes))

    def _steps(self, path: str, kind: str, lead: tuple[int, ...], steps: int, batch: int) -> int:
        """Of calls outside of `PerStep` and `Fire`: the pass's, where they had all of them, at once or in a loop."""
        calls = self._calls[path, kind, lead]
        rows = steps * batch if lead in ((steps, batch), (batch, steps)) else (*lead, 1)[0]
        if rows * calls % (steps * batch) == 0:
            return steps
        if rows % batch:
            taken = steps
            what = f"{rows} rows, which are no multiple of the batch of {batch}: taken to be done at every step"
        else:
            taken = calls
            what = f"{rows} rows, {calls} times, at a batch of {batch} and T = {steps}: a twin is taken to do it once"
        if (rows, calls) != (batch, 1):
            self.note(f"{path or '(the model)'}: {kind} got {what}.")
        return taken
