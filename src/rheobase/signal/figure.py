"""The figure of a report."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheobase import figures

if TYPE_CHECKING:
    from rheobase.signal.report import Report


def draw(report: Report, path: str | Path) -> None:
    """Over depth: what is left of the input, the gradient's size, firing; and heat maps of each step where known."""
    figures.check(path)
    by_step = bool(report.layers[0].rates)
    figure = figures.figure(9, 11 if by_step else 7.5)
    axes = figure.subplots(5 if by_step else 3, sharex=True)
    depth = range(len(report.layers))
    at = [waist.after for waist in report.waists]
    for name, color in (("similarity", "C0"), ("noisy", "C1"), ("accuracy", "C2")):
        if getattr(report.layers[0], name) is not None:
            axes[0].plot(depth, [getattr(layer, name) for layer in report.layers], ".", color=color, alpha=0.4)
            axes[0].plot(at, [getattr(waist, name) for waist in report.waists], color=color, label=name)
    axes[0].set_ylim(-0.1, 1.05)
    axes[0].set_ylabel("left of the input")
    axes[1].plot(depth, [layer.gradient_norm or None for layer in report.layers], ".", color="C3", alpha=0.4)
    axes[1].plot(at, [waist.gradient_norm or None for waist in report.waists], color="C3", label="gradient norm")
    axes[1].set_yscale("log")
    axes[1].set_ylabel("gradient")
    for name in ("rate", "dead", "saturated", "in_window"):
        axes[2].plot(depth, [getattr(layer, name) for layer in report.layers], label=name.replace("_", " "))
    axes[2].set_ylim(-0.05, 1.05)
    axes[2].set_ylabel("firing")
    for axis in axes[:3]:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
        axis.grid(alpha=0.2)
    if by_step:
        _map(figure, axes[3], "rate", [layer.rates for layer in report.layers], None)
        _map(figure, axes[4], "gradient", [layer.gradient_norms for layer in report.layers], "log")
    axes[-1].set_xlabel("neuron, in the order in which they run; lines: what everything goes through")
    figure.suptitle(report.verdict.partition(". ")[0].partition("\n")[0], fontsize=9)
    figure.savefig(path, dpi=120)


def _map(figure: Any, axis: Any, name: str, values: list[tuple[float, ...]], scale: str | None) -> None:
    """Depth to the right, time upwards."""
    rows = [
        [value if math.isfinite(value) and (value > 0 or scale is None) else math.nan for value in step]
        for step in zip(*values, strict=True)
    ]
    empty = all(map(math.isnan, chain.from_iterable(rows)))  # of which no scale can be made
    norm = None if empty else scale
    drawn = axis.imshow(rows, aspect="auto", origin="lower", interpolation="none", norm=norm, cmap="viridis")
    figure.colorbar(drawn, ax=axis, label=name, fraction=0.03)
    axis.set_ylabel("time step")
