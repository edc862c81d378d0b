"""What `probe` found: a table, a figure, JSON, and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rheobase.signal.readings import LayerHealth, WaistHealth
from rheobase.signal.verdict import LEAST_SAMPLES, Fault, alarms, bound, faults


@dataclass(frozen=True)
class Report:
    """The health of a net on one batch.

    Attributes:
        layers: every neuron in the order in which they ran.
        waists: what everything goes through: of a plain net each layer, of a residual net each block.
        steps: T.
        batch: B.
        classes: that the labels are of; None where there were none.
        loss: its mean.
    """

    layers: tuple[LayerHealth, ...]
    waists: tuple[WaistHealth, ...]
    steps: int
    batch: int
    classes: int | None
    loss: float

    @property
    def places(self) -> Sequence[LayerHealth | WaistHealth]:
        """What to read over depth: layers, or, where something goes past them, waists."""
        return self.waists if 1 < len(self.waists) < len(self.layers) else self.layers

    @property
    def level(self) -> float:
        """Gradient of the first place over that of the last; not a number where there is none at the last.

        It is 0 where none comes to the first neuron that could have one, though there may be one at the first place
        that has any.
        """
        places, layers = bound(self.places), [layer for layer in self.layers if not layer.bottom]
        if not places or not places[-1].gradient_norm > 0:
            return math.nan
        first = places[0].gradient_norm if layers and layers[0].gradient_norm != 0 else 0.0
        return first / places[-1].gradient_norm

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong, worst first."""
        return faults(self.layers, self.places, self.classes, self.batch, self.loss)

    @property
    def alarms(self) -> tuple[Fault, ...]:
        """What is wrong with each layer by itself; a net may bear it, as one whose gradient grows and falls again."""
        return tuple(alarms(self.layers, self.places, self.classes, self.batch))

    @property
    def healthy(self) -> bool:
        """Whether nothing is."""
        return not self.faults

    @property
    def verdict(self) -> str:
        """In words: "healthy", or a line for each fault, with what mends it; and where there are too few samples."""
        lines = [str(fault) for fault in self.faults] or ["healthy"]
        if all(math.isnan(layer.similarity) for layer in self.layers):
            lines.append(
                "no two pairs of inputs are more alike than others (all the same, or fewer than three): they cannot "
                "tell what is left of them, and a norm takes away what they have in common"
            )
        if self.batch < LEAST_SAMPLES:
            lines.append(f"of {self.batch} samples, where some 32 to 256 tell: another batch may say something else")
        return "\n".join(lines)

    def table(self) -> str:
        """A line a layer, and one a waist."""
        layers = [
            (
                layer.path,
                _number(layer.rate),
                *map(_share, (layer.dead, layer.saturated, layer.in_window)),
                *map(_number, (layer.gradient_norm, layer.gain, layer.r, layer.agreement, layer.weight_ratio)),
                *map(_number, (layer.similarity, layer.noisy, layer.accuracy)),
            )
            for layer in self.layers
        ]
        heads = ("layer", "rate", "dead", "saturated", "in window", "gradient", "gain", "r", "agreement", "weights")
        information = ("similarity", "noisy", "accuracy")
        waists = [
            (w.path, *map(_number, (w.gradient_norm, w.gain, w.similarity, w.noisy, w.accuracy))) for w in self.waists
        ]
        parts = [_columns((*heads, *information), layers)]
        if len(waists) < len(layers):  # else they say the same
            parts.append(_columns(("all goes through", "gradient", "gain", *information), waists))
        return "\n\n".join([*parts, self.verdict])

    def to_json(self) -> str:
        """All of it; what is not finite is null."""
        content = asdict(self) | {
            "healthy": self.healthy,
            "verdict": self.verdict,
            "faults": [asdict(fault) for fault in self.faults],
        }
        return json.dumps(_plain(content), indent=2) + "\n"

    def plot(self, path: str | Path) -> None:
        """A figure of both curves over depth, up and down, and, of the preset "full", of every step, as an image file.

        Args:
            path: of the file; its ending tells the format.

        Raises:
            ValueError: an ending that tells none.
        """
        from rheobase.signal.figure import draw

        draw(self, path)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value == 0 or 0.005 <= abs(value) < 100 else f"{value:.0e}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
