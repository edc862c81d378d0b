"""Figures of a run: loss and accuracy over epochs; accuracy against time steps, and of early exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rheobase import figures
from rheobase.training.evaluation import Exit


def training(path: str | Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Loss and accuracy over epochs, of the rows of metrics.csv."""
    figure = figures.figure(9, 3.5)
    epochs = [row["epoch"] for row in rows]
    for axis, what, scale in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for split in ("train", "validation"):
            axis.plot(epochs, [scale * row[f"{split}_{what}"] for row in rows], ".-", label=split)
        axis.set_xlabel("epoch")
        axis.set_ylabel(what if scale == 1 else f"{what}, %")
        axis.grid(alpha=0.2)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def draw(path: str | Path, accuracy: Mapping[int, float], exits: Sequence[Exit], split: str) -> None:
    """Accuracy at each number of time steps, and of early exits at the mean step that they take."""
    figure = figures.figure(7, 4.5)
    axis = figure.subplots()
    steps = sorted(accuracy)
    axis.plot(steps, [100 * accuracy[count] for count in steps], "o-", label="all samples take as many steps")
    label = "each leaves when its softmax reaches a confidence"
    axis.plot([one.steps for one in exits], [100 * one.accuracy for one in exits], ".--", label=label)
    for one in exits:
        if one.confidence in (0.5, 0.9, 0.99):
            axis.annotate(f"{one.confidence:g}", (one.steps, 100 * one.accuracy), (4, -10), textcoords="offset points")
    axis.set_xlabel("time steps (of early exits: the mean)")
    axis.set_ylabel(f"{split} accuracy, %")
    axis.grid(alpha=0.2)
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)
