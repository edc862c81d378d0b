"""What operations, memory and events of chips cost: named sets of constants, each with its source."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch


class Format(NamedTuple):
    """A number format: its bits, those of its significand, and those of a potential that goes with such weights."""

    bits: int
    digits: int
    state: int


FORMATS = {
    "float32": Format(32, 24, 32),
    "float16": Format(16, 11, 16),
    "int32": Format(32, 32, 32),
    "int8": Format(8, 8, 16),
}
"""Those that the constants know. (What adds up 8-bit weights has to be wider than they are.)"""

OWN = {torch.float32: "float32", torch.float64: "float32", torch.float16: "float16", torch.bfloat16: "float16"}
"""The format of a model's own precision; there are no figures for float64 and bfloat16, so they take the nearest."""


@dataclass(frozen=True)
class Process:
    """A silicon process, on which one can build what one likes.

    Attributes:
        name, source: of the figures.
        add, multiply: pJ of an operation, by format.
        sram: (bytes, pJ of reading or writing 64 bits) of memories on the chip, the smallest first.
    """

    name: str
    source: str
    add: Mapping[str, float]
    multiply: Mapping[str, float]
    sram: tuple[tuple[int, float], ...]

    def product(self, form: str, digits: int | None = None) -> float:
        """pJ of a product of a weight and a number of the same format, or one of so many digits.

        The latter is `multiply` times digits / own digits, as an array multiplier has a row of adders a digit: our own
        interpolation. (From 8 to 32 bits the product of both widths grows by 16, and Horowitz' figure by 15.5.)
        """
        own = FORMATS[form].digits
        return self.multiply[form] * (1.0 if digits is None else min(1.0, digits / own))

    def access(self, size: float) -> float:
        """pJ a bit of a memory of so many bytes; between two sizes on a line, beyond the largest in banks of it."""
        if size <= self.sram[0][0]:
            return self.sram[0][1] / 64
        for (small, low), (large, high) in pairwise(self.sram):
            if size <= large:
                return (low + (high - low) * (size - small) / (large - small)) / 64
        return self.sram[-1][1] / 64


HOROWITZ = Process(
    "45nm",
    "Horowitz 2014 (ISSCC, Computing's energy problem), figure 1.1.9: 45 nm, 0.9 V",
    add={"float32": 0.9, "float16": 0.4, "int32": 0.1, "int8": 0.03},
    multiply={"float32": 3.7, "float16": 1.1, "int32": 3.1, "int8": 0.2},
    sram=((8 * 1024, 10.0), (32 * 1024, 20.0), (1024 * 1024, 100.0)),
)


@dataclass(frozen=True)
class Chip:
    """A chip for spikes, by its published figures, which include the memory that it takes.

    What it cannot do (products of numbers, the two ANNs) is taken to be done beside it, in `beside`.

    Attributes:
        name, source: of the figures.
        synop: pJ of a synaptic operation.
        update: pJ of an update of a neuron; None: not published, and not counted.
    """

    name: str
    source: str
    synop: float
    update: float | None = None
    beside: Process = HOROWITZ


_TABLE = "by Tang et al. 2023 (SENECA, Frontiers in Neuroscience 17:1187252), table 3, 'only for high-level comparison'"

SETS: dict[str, Process | Chip] = {
    one.name: one
    for one in (
        HOROWITZ,
        Chip("loihi", "Davies et al. 2018 (IEEE Micro 38:1), table 2: simulated before silicon, at least", 23.6, 81.0),
        Chip("truenorth", f"Akopyan et al. 2015, {_TABLE}", 2.5),
        Chip("spinnaker2", f"Höppner et al. 2021, {_TABLE}", 10.0),
        Chip("tianjic", f"Deng et al. 2020, {_TABLE}", 1.54),
        Chip("odin", f"Frenkel et al. 2018, {_TABLE}", 12.7),
        Chip("reckon", f"Frenkel and Indiveri 2022, {_TABLE}", 5.3),
        Chip("seneca", _TABLE.removeprefix("by "), 2.8),
    )
}
"""The named sets."""


def named(constants: str | Process | Chip) -> Process | Chip:
    """A set by name, or one's own.

    Raises:
        ValueError: there is none of that name.
        TypeError: something else.
    """
    if isinstance(constants, Process | Chip):
        return constants
    if not isinstance(constants, str):
        raise TypeError(f"energy: constants must be a name, a Process or a Chip, got {type(constants).__name__}")
    if constants not in SETS:
        near = difflib.get_close_matches(constants, SETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"energy: no constants {constants!r}; {hint}there are: {', '.join(SETS)}")
    return SETS[constants]


def address(places: float) -> int:
    """Bits of the address of one of so many places."""
    return max(1, math.ceil(math.log2(max(2.0, places))))
