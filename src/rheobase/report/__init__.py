"""The page of a run: one HTML file that needs no other."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rheobase.data import Batch, Dataset
from rheobase.energetics import energy
from rheobase.files import write_atomic
from rheobase.neurons.base import outermost
from rheobase.recording import record
from rheobase.report.html import document, folded, image, paragraph, preformatted, section, table
from rheobase.training import build, curve, processes, watch
from rheobase.training.activity import activity
from rheobase.training.evaluation import Exit
from rheobase.training.folder import RunFolder, Summary
from rheobase.training.journal import best_of
from rheobase.training.keeper import reopened
from rheobase.training.passes import hosted, padded, seeded
from rheobase.training.recipe import Recipe
from rheobase.training.runs import against_steps, check_split

__all__ = ["write"]


@hosted()
def write(
    folder: str | Path,
    out: str | Path | None = None,
    samples: int = 64,
    *,
    data: Dataset | None = None,
    model: nn.Module | None = None,
) -> Path:
    """Write the page of a run: training, accuracy against time steps, signal health, spikes, energy, what it ran as.

    What training left is told as it is there; the rest is measured anew, of the best model, on the validation split
    (its accuracy, with early exits) or on some samples of it. The test set is not looked at.

    Args:
        folder: of the run; it need not be finished, but an epoch must have ended.
        out: the file (default: report.html in the run folder).
        samples: how many, for signal health, spikes and energy.
        data, model: those that it was begun with, if it was given them.

    Returns:
        The file.

    Raises:
        FileNotFoundError: no run there, no model yet, or no folder for the file.
        ValueError: fewer than two samples, or damaged files.
    """
    place = RunFolder.open(folder)
    recipe, summary = place.read_recipe(), place.read_summary()
    check_split(place, "validation")
    to = place.path / "report.html" if out is None else Path(out)
    if not to.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {to.parent} for {to.name}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    dataset, best = reopened(place, recipe, data, model)
    few = build.sample(dataset, dataset.validation, min(samples, len(dataset.validation)))
    rows = [
        {name: float(value) for name, value in row.items()}
        for row in csv.DictReader(place.metrics.read_text(encoding="utf-8").splitlines())
    ]
    parts = [_head(recipe, summary, rows), _training(rows)]
    with processes.threads(recipe.trainer.threads), seeded("evaluation", recipe.seed, 0):
        if outermost(best):
            parts += [_steps(recipe, dataset, best), _health(recipe, best, few), _spikes(best, few), _energy(best, few)]
        else:
            parts.append(paragraph("It has no neurons: no time steps, no spikes."))
    parts.append(_ran(recipe, summary))
    write_atomic(to, document(f"{recipe.model.name} on {dataset.name}", parts).encode())
    return to


def _head(recipe: Recipe, summary: Summary | None, rows: Sequence[Mapping[str, float]]) -> str:
    best = best_of(rows)
    found = f"validation accuracy {best['validation_accuracy']:.2%} (epoch {best['epoch']:.0f})"
    if summary is not None:
        found = f"test accuracy {summary['test_accuracy']:.2%}, {found}"
    else:
        found += f"; not finished: {len(rows)} of {recipe.trainer.epochs} epochs"
    return paragraph(f"{found}; seed {recipe.seed}, {rows[-1]['seconds']:.0f} s of training")


def _training(rows: Sequence[Mapping[str, float]]) -> str:
    drawn = image(lambda path: curve.training(path, rows), said="loss and accuracy over epochs")
    heads = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr")
    values = [[f"{row[head]:.4g}" for head in heads] for row in rows]
    return section("Training", drawn, folded("as a table", table([head.replace("_", " ") for head in heads], values)))


def _steps(recipe: Recipe, dataset: Dataset, best: nn.Module) -> str:
    exits: list[Exit] = []
    accuracy = against_steps(recipe, dataset, best, "validation", exits=exits)
    best.cpu()
    rows = [[str(count), f"{share:.2%}"] for count, share in accuracy.items()]
    return section(
        "Accuracy against time steps",
        paragraph("Without retraining: a run of fewer steps gives what this one has given until then."),
        image(lambda path: curve.draw(path, accuracy, exits, "validation"), said="accuracy against time steps"),
        folded("as a table", table(["time steps", "validation accuracy"], rows)),
    )


def _health(recipe: Recipe, best: nn.Module, few: Batch) -> str:
    found = watch.probed(best, few, recipe.loss)
    told = (
        f"After training, of {found.batch} validation samples, layer by layer: what is left of the input on the way "
        "up, the gradient on the way down, and how the neurons fire."
    )
    drawn = image(found.plot, said="signal health over depth")
    parts = paragraph(told), paragraph(found.verdict), drawn, folded("as a table", preformatted(found.table()))
    return section("Signal health", *parts)


def _spikes(best: nn.Module, few: Batch) -> str:
    with torch.no_grad(), padded(few.lengths), record(best) as tape:
        best(few.inputs)
    rows = [
        [each["layer"], " x ".join(map(str, each["shape"])), f"{each['rate']:.2%}", f"{each['dead']:.2%}"]
        for each in activity(best, few)
    ]
    return section(
        "Spikes",
        paragraph("Of the first validation sample, at most 200 neurons a layer. Dead: no sample made it fire."),
        image(tape.plot, "png", said="raster of spikes"),  # (an SVG of so many marks would be large)
        table(["layer", "shape", "firing rate", "dead"], rows),
    )


def _energy(best: nn.Module, few: Batch) -> str:
    with padded(few.lengths):
        found = energy(best, few.inputs)
    return section("Energy, estimated", paragraph(found.verdict), folded("as a table", preformatted(found.table())))


def _ran(recipe: Recipe, summary: Summary | None) -> str:
    about: dict[str, Any] = dict(summary or {})
    names = [name for name in ("date", "commit", "uncommitted_changes") if name in about]
    rows = [[name.replace("_", " "), str(about[name])] for name in names]
    for group in ("versions", "machine"):
        rows += [[name, str(value)] for name, value in about.get(group, {}).items()]
    keys = [[key, "null" if value is None else str(value)] for key, value in recipe.flat().items()]
    return section("What it ran as", table([], rows), folded("the recipe", table(["key", "value"], keys)))
