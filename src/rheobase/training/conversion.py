"""Conversion of a run's ANN: accuracy against time steps, without training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rheobase.data import Batches, Dataset
from rheobase.graph import ConvertedNet, Curve, Method, accuracies
from rheobase.graph import convert as convert_net
from rheobase.graph.accuracy import STEPS
from rheobase.neurons.base import outermost
from rheobase.training import build, evaluation, processes
from rheobase.training.folder import RunFolder, write_json
from rheobase.training.keeper import reopened
from rheobase.training.passes import hosted, seeded
from rheobase.training.runs import SplitName, check_split, note_look


@dataclass(frozen=True)
class Conversion:
    """What `convert` found.

    Attributes:
        net: the spiking net.
        ann_accuracy: the ANN's own, on the same samples.
        curve: the spiking net's, against time steps.
        file: where the JSON lies.
    """

    net: ConvertedNet
    ann_accuracy: float
    curve: Curve
    file: Path


@hosted()
def convert(
    folder: str | Path,
    method: str | Method = "percentile",
    steps: Sequence[int] | None = None,
    split: SplitName = "validation",
    *,
    at: int = 32,
    samples: int = 512,
    confidence: float | None = None,
    skip: int = 0,
    limit: int | None = None,
    data: Dataset | None = None,
    model: nn.Module | None = None,
) -> Conversion:
    """Convert the best model of a run of an ANN (`model.spiking: false`), and write RUN/conversion-METHOD.json.

    A second one by that method is written beside it, as conversion-METHOD-2.json. The split is validation unless asked
    otherwise; a look at the test set is noted, as by `evaluate`.

    Args:
        folder: of the run.
        method: see `rheobase.convert`.
        steps: at which numbers of time steps to tell the accuracy (default: 1, 2, 4 ... 1024).
        split: validation, test or train.
        at: the number of steps that "calibrated" is for, and that the layers' errors are told at.
        samples: of the training split, of all classes, to calibrate with.
        confidence, skip: of an early exit, and of the readout: see `rheobase.graph.accuracies`.
        limit: decide only so many samples of the split, of all classes in their shares; None: all.
        data, model: those that the run was begun with, if it was given them.

    Raises:
        FileNotFoundError: no run there, or no model yet.
        ValueError: bad arguments, damaged files, a run of a spiking net, or a network that is not understood.
    """
    place = RunFolder.open(folder)
    recipe = place.read_recipe()
    check_split(place, split)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    found, best = reopened(place, recipe, data, model)
    if outermost(best):
        raise ValueError(f"{place.path} is a run of a spiking net; convert takes one of an ANN: --model.spiking false")
    device = processes.alone_on(recipe.trainer)
    best.to(device)
    few = found.train.some(min(samples, len(found.train)))
    calibration = Batches(few, batch_size=min(128, len(few)), mean=found.mean, std=found.std)
    decided = getattr(found, split)
    if limit is not None:
        if not 1 <= limit <= len(decided):
            raise ValueError(f"limit must be from 1 to the {len(decided)} {split} samples, got {limit}")
        decided = decided.some(limit)
    batches = build.evaluation_batches(recipe, found, decided)
    with processes.threads(recipe.trainer.threads), seeded("evaluation", recipe.seed, 0):
        spiking = convert_net(best, calibration, method, at)
        [own] = evaluation.accuracies(best, batches, [None], device, loss=recipe.loss)
        batches.seek(0)
        wanted = [count for count in STEPS if count > skip] if steps is None else steps
        curve = accuracies(spiking, batches, wanted, confidence, skip)
    file = _free(place.path, f"conversion-{spiking.method.name}")
    write_json(file, _written(spiking, own, curve, split, at, len(few)))
    about = {"skip": str(skip)} if skip else {}
    if limit is not None:
        about["samples"] = str(limit)
    note_look(place, split, curve.accuracy, method=spiking.method.name, **about)
    return Conversion(spiking, own, curve, file)


def _free(folder: Path, stem: str) -> Path:
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(file for file in (folder / f"{name}.json" for name in names) if not file.exists())


def _written(net: ConvertedNet, own: float, curve: Curve, split: str, at: int, samples: int) -> dict[str, Any]:
    return {
        "method": {"name": net.method.name, **asdict(net.method)},
        "split": split,
        "samples": curve.samples,
        "ann_accuracy": own,
        "accuracy": {str(steps): share for steps, share in curve.accuracy.items()},
        "skip": curve.skip,
        "exit": None
        if curve.confidence is None
        else {"confidence": curve.confidence, "accuracy": curve.exit_accuracy, "steps": curve.exit_steps},
        "calibration_samples": samples,
        "at": at,
        "layers": [{**one._asdict(), "error": one.error if one.error == one.error else None} for one in net.layers],
    }
