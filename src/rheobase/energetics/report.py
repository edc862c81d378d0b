"""What `rheobase.energy` found: three columns side by side, and the rate at which the spiking net breaks even."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rheobase.energetics.constants import Chip
from rheobase.energetics.ledger import Layer
from rheobase.energetics.pricing import Cost, Prices

Twin = Literal["ann", "quantised"]
_TWINS: dict[Twin, str] = {"ann": "the ANN twin", "quantised": "the quantised ANN twin"}


@dataclass(frozen=True)
class Report:
    """Operations and estimated energy of a sample.

    Attributes:
        steps: T.
        batch: how many samples it is the mean of.
        layers: what each did, in the order in which they ran.
        prices: the constants, formats and bits.
        ann: cost of the ANN twin at its own precision.
        quantised: that of the twin with activations of ceil(log2(T + 1)) bits: of 0 to T spikes.
        fixed, spikes: cost of the spiking net that does not depend on its firing rate, and that which is proportional.
        uncounted: by module path, what was not counted.
        notes: by which conventions it was counted.
    """

    steps: int
    batch: int
    layers: list[Layer]
    prices: Prices
    ann: Cost
    quantised: Cost
    fixed: Cost
    spikes: Cost
    uncounted: dict[str, str]
    notes: list[str]

    @property
    def spiking(self) -> Cost:
        """Cost of the spiking net."""
        return self.fixed + self.spikes

    @property
    def rates(self) -> dict[str, float]:
        """Spikes a neuron and step, by path of the neurons."""
        return {layer.path: layer.rate for layer in self.layers if layer.fires}

    @property
    def rate(self) -> float:
        """The same of all neurons."""
        fires = [layer for layer in self.layers if layer.fires]
        return sum(layer.events for layer in fires) / max(1.0, sum(layer.updates for layer in fires))

    def at(self, rate: float) -> Cost:
        """The spiking net's cost if all its firing were scaled to this mean rate.

        Raises:
            ValueError: it is silent, so that nothing can be scaled.
        """
        if not self.rate:
            raise ValueError("energy: the net is silent, so there is no telling what it would cost if it fired")
        return self.fixed + self.spikes * (rate / self.rate)

    def crossover(self, against: Twin = "quantised", operations: bool = False) -> float | None:
        """The mean firing rate below which the spiking net costs less than a twin; below 0: it costs more if silent.

        Args:
            against: which twin.
            operations: whether synaptic operations alone count, as in most papers.

        Returns:
            The rate, or None where the net is silent, or its spikes cost nothing.
        """
        twin, fixed, spikes = (
            cost.synapses if operations else cost.total for cost in (self._twin(against), self.fixed, self.spikes)
        )
        return self.rate * (twin - fixed) / spikes if spikes > 0 else None

    def _twin(self, name: Twin) -> Cost:
        if name not in _TWINS:
            raise ValueError(f"energy: against must be 'ann' or 'quantised', got {name!r}")
        return self.ann if name == "ann" else self.quantised

    @property
    def verdict(self) -> str:
        """What it comes to, in words."""
        ratio = self.spiking.total / self.quantised.total if self.quantised.total else float("inf")
        twin = f"its ANN twin with activations of {self.prices.bits} bit{'s' * (self.prices.bits > 1)}"
        if ratio > 1:
            text = f"The spiking net costs MORE: {ratio:.3g} times as much as {twin}."
        else:
            text = f"The spiking net costs less: {ratio:.3g} of what {twin} does."
        rate = self.crossover()
        if self.fixed.total >= self.quantised.total:
            return f"{text} It would even if it were silent: the part that does not depend on spikes is more than that."
        if not self.rate:
            return f"{text} But it is silent, which says nothing of a net that works."
        if rate is None:
            return f"{text} Its spikes cost nothing here."
        where = "at any rate" if rate > 1 else f"below a mean rate of {rate:.2%}"
        return f"{text} It costs less {where}; here it fires at {self.rate:.2%}."

    @property
    def neurobench(self) -> dict[str, float]:
        """Synaptic operations by NeuroBench's definition: a layer with inputs of -1, 0, 1 makes ACs, any other MACs."""
        found = {"Effective_MACs": 0.0, "Effective_ACs": 0.0, "Dense": 0.0}
        for layer in self.layers:
            found["Effective_ACs" if layer.binary else "Effective_MACs"] += layer.effective * layer.repeats
            found["Dense"] += layer.dense * layer.repeats
        return found

    def table(self) -> str:
        """All of it as text."""
        b, prices = self.prices.bits, self.prices
        columns = {f"ANN, {prices.own}": self.ann, f"ANN, {b} bit": self.quantised, "spiking": self.spiking}
        what = ("ac", "mac", "updates", "other", "bits", "synapses", "neurons", "others", "memory", "total")
        said = {
            "ac": "ACs",
            "mac": "MACs",
            "updates": "neuron updates",
            "other": "other operations",
            "bits": "bits moved",
            **{name: f"pJ, {name}" for name in what[5:]},
        }
        rows = [[said[name], *(_number(getattr(cost, name)) for cost in columns.values())] for name in what]
        layers = []
        for layer in self.layers:
            pj = sum(cost.total for cost in prices.spiking(layer))
            rate = f"{layer.rate:.2%}" if layer.fires or layer.ac else "-"
            if pj:
                layers.append([layer.path, layer.kind, rate, *map(_number, (layer.ac, layer.mac, layer.updates, pj))])
        crossings = (f"Crossover against {said}: {self._crossings(name)}" for name, said in _TWINS.items())
        parts = [
            f"A sample's, at T = {self.steps}; mean of {self.batch}",
            _aligned(["", *columns], rows),
            self.verdict,
            *crossings,
            _aligned(["layer that costs something", "", "rate", "ACs", "MACs", "updates", "pJ"], layers, left=2),
            f"Constants: {prices.constants.name}. {prices.constants.source}"
            + (f"; beside it {prices.process.name}. {prices.process.source}" * isinstance(prices.constants, Chip)),
            *self.notes,
            "Not counted: " + ("; ".join(f"{path}: {kind}" for path, kind in self.uncounted.items()) or "nothing seen"),
        ]
        return "\n".join(parts)

    def _crossings(self, against: Twin) -> str:
        def said(rate: float | None) -> str:
            return "-" if rate is None else "none" if rate <= 0 else "at any rate" if rate > 1 else f"{rate:.2%}"

        return f"{said(self.crossover(against))}; of synaptic operations alone {said(self.crossover(against, True))}"

    def to_json(self) -> str:
        """All of it as JSON."""
        prices = self.prices
        found: dict[str, Any] = {
            "steps": self.steps,
            "batch": self.batch,
            "rate": self.rate,
            "rates": self.rates,
            **{name: asdict(cost) | {"total": cost.total} for name, cost in self._columns()},
            "crossover": {
                name: {"all": self.crossover(name), "operations": self.crossover(name, True)} for name in _TWINS
            },
            "verdict": self.verdict,
            "neurobench": self.neurobench,
            "constants": asdict(prices),
            "layers": [asdict(layer) | {"rate": layer.rate} for layer in self.layers],
            "uncounted": self.uncounted,
            "notes": self.notes,
        }
        return json.dumps(found, indent=2)

    def _columns(self) -> Sequence[tuple[str, Cost]]:
        return (("ann", self.ann), ("quantised", self.quantised), ("spiking", self.spiking))

    def __str__(self) -> str:
        return self.table()


def _number(value: float) -> str:
    if not value:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 10 * size:
            return f"{value / size:,.4g} {unit}"
    return f"{value:,.4g}" if value < 100 else f"{value:,.0f}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lines of columns, the first `left` of them to the left."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    padded = (
        "  ".join(
            text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)
