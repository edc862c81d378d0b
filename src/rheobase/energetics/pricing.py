"""What was counted, in bits moved and pJ: of the spiking net and of its ANN twins."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rheobase.energetics.constants import FORMATS, Chip, Process, address
from rheobase.energetics.ledger import Layer
from rheobase.energetics.operations import PRODUCTS
from rheobase.norm import TEBN, CurrentNorm

NORMS = {"batch_norm", CurrentNorm.__name__, TEBN.__name__}


@dataclass(frozen=True)
class Cost:
    """A sample's.

    Attributes:
        ac, mac: synaptic operations.
        updates: of neurons; in an ANN, activations.
        other: additions and multiplications in pools, junctions, norms that are not folded.
        bits: read from or written to memory.
        synapses, neurons, others, memory: pJ of all that.
    """

    ac: float = 0.0
    mac: float = 0.0
    updates: float = 0.0
    other: float = 0.0
    bits: float = 0.0
    synapses: float = 0.0
    neurons: float = 0.0
    others: float = 0.0
    memory: float = 0.0

    @property
    def total(self) -> float:
        """pJ of all of it."""
        return self.synapses + self.neurons + self.others + self.memory

    def __add__(self, more: Cost) -> Cost:
        return Cost(*(getattr(self, one.name) + getattr(more, one.name) for one in fields(Cost)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(factor * getattr(self, one.name) for one in fields(Cost)))


@dataclass(frozen=True)
class Prices:
    """What it costs by which constants.

    Attributes:
        constants: the set.
        weights: format of the weights, in the spiking net and in the quantised twin.
        own: format of the twin at its own precision.
        bits: of the quantised twin's activations.
    """

    constants: Process | Chip
    weights: str
    own: str
    bits: int

    @property
    def process(self) -> Process:
        """Where operations on numbers are done."""
        return self.constants.beside if isinstance(self.constants, Chip) else self.constants

    # ---- the spiking net --------------------------------------------------------------------------------------------

    def spiking(self, layer: Layer) -> tuple[Cost, Cost]:
        """A layer's, the part that is fixed, and the part that grows with the net's firing rate."""
        if layer.updates:
            return self._neurons(layer)
        numbers = self._other(layer.additions, layer.multiplications, self.weights)
        if layer.mac:
            numbers += self._mac(layer, layer.mac, layer.outputs, self.weights)
        spikes = self._ac(layer) if layer.events else Cost()  # (one may reach no synapse, but it comes)
        return (numbers, spikes) if layer.driven else (numbers + spikes, Cost())

    def _neurons(self, layer: Layer) -> tuple[Cost, Cost]:
        """Updates read and write every state; a spike is an address that is written once."""
        places = layer.updates / layer.steps
        sent = layer.events * address(places)
        if isinstance(self.constants, Chip):
            return Cost(updates=layer.updates, neurons=layer.updates * (self.constants.update or 0.0)), Cost()
        width = FORMATS[self.weights].state
        moved = 2 * layer.states * layer.updates * width
        pj = self._pj(layer.additions, layer.multiplications, self.weights)
        fixed = Cost(
            updates=layer.updates, bits=moved, neurons=pj, memory=moved * self._access(places * layer.states, width)
        )
        return fixed, Cost(bits=sent, memory=sent * self._access(0, 1))

    def _ac(self, layer: Layer) -> Cost:
        """A spike is read once; at each synapse a weight is read, and what adds up is read and written."""
        if isinstance(self.constants, Chip):
            return Cost(ac=layer.ac, synapses=layer.ac * self.constants.synop)
        form = FORMATS[self.weights]
        sent = layer.events * address(layer.inputs / layer.steps)
        read, summed = layer.ac * form.bits, 2 * layer.ac * form.state
        return Cost(
            ac=layer.ac,
            bits=sent + read + summed,
            synapses=layer.ac * self.process.add[self.weights],
            memory=sent * self._access(0, 1)
            + read * self._access(layer.weights, form.bits)
            + summed * self._access(layer.outputs / layer.steps, form.state),
        )

    # ---- the twins --------------------------------------------------------------------------------------------------

    def twin(self, layer: Layer, quantised: bool) -> Cost:
        """A layer's in the one pass of the ANN twin: its activations are no spikes, and none is known to be zero."""
        form = self.weights if quantised else self.own
        if layer.updates:
            count = layer.updates * layer.share
            return Cost(updates=count, neurons=count * self.process.add[form])
        values = layer.values * layer.share
        if layer.kind in NORMS:
            found = self._other(values, values, form) if layer.multiplications else Cost()
        else:
            found = self._other(*((0.0, values) if layer.kind in PRODUCTS else (values, 0.0)), form)
        numbers = layer.mac and not layer.driven  # what the spiking net gets too: its zeros are known
        count = (layer.effective if numbers else layer.synapses) * layer.share
        if count:
            found += self._mac(
                layer, count, layer.outputs * layer.share, form, None if numbers or not quantised else self.bits
            )
        return found

    def measured(self, layer: Layer, quantised: bool) -> Cost:
        """A layer's of a twin that ran: its zeros are known."""
        form = self.weights if quantised else self.own
        found = self._other(layer.additions, layer.multiplications, form)
        if layer.effective:
            digits = self.bits if quantised and layer.driven else None
            found += self._mac(layer, layer.effective, layer.outputs, form, digits)
        return found

    # ---- operations on numbers --------------------------------------------------------------------------------------

    def _mac(self, layer: Layer, count: float, outputs: float, form: str, digits: int | None = None) -> Cost:
        """A weight and a number are read for each, sums stay in a register, and what comes out is written once."""
        bits = FORMATS[form].bits
        wide = bits if digits is None else min(digits, bits)
        read, got, out = count * bits, count * wide, outputs * wide
        return Cost(
            mac=count,
            bits=read + got + out,
            synapses=count * (self.process.add[form] + self.process.product(form, digits)),
            memory=read * self._access(layer.weights, bits)
            + got * self._access(layer.inputs / layer.steps, wide)
            + out * self._access(layer.outputs / layer.steps, wide),
        )

    def _other(self, additions: float, multiplications: float, form: str) -> Cost:
        return Cost(other=additions + multiplications, others=self._pj(additions, multiplications, form))

    def _pj(self, additions: float, multiplications: float, form: str) -> float:
        return additions * self.process.add[form] + multiplications * self.process.product(form)

    def _access(self, count: float, bits: int) -> float:
        return self.process.access(count * bits / 8)
