"""The arms of the founding study, and their recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rheobase.training import Recipe

ROOT = Path(__file__).parents[2]
STEPS = 10
CURVE = (1, 2, 3, 4, 6, 8, 10, 16, 32, 64, 100)
"""T at which trained nets are looked at."""

IDENTITY = {"model.start": "identity", "model.neuron.surrogate": "atan", "model.neuron.surrogate_parameter": 2.0}
TUNED = {**IDENTITY, "tune.samples": 128}
NETS: dict[str, dict[str, Any]] = {
    "ann": {"model.spiking": False},
    "tuned": TUNED,
    "atan": IDENTITY,
    "plain": {**TUNED, "model.start": "plain", "model.shortcut": "conv"},
    "unnormed": {**TUNED, "model.norm": "none"},
    "superspike": {**IDENTITY, "model.neuron.surrogate": "superspike", "model.neuron.surrogate_parameter": 100.0},
    "quantised": {"model.spiking": False, "model.qcfs_levels": 8, "model.qcfs_threshold": 4.0},
    "sew": {**TUNED, "model.name": "sew_resnet50", "model.start": "plain"},
    "ms": {**TUNED, "model.name": "ms_resnet50"},
}
"""Nets that are trained, and their recipes' own keys."""
CONVERTED: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "percentile": ("ann", "percentile", (10, 100, 1000)),
    "calibrated": ("ann", "calibrated", (10,)),
    "qcfs": ("quantised", "qcfs", (10,)),
}
"""Arms that are made of a trained net: of which, how, and at which T."""
ARMS = (
    *("ann", "percentile", "calibrated", "tuned", "atan", "plain", "unnormed", "superspike"),
    *("quantised", "qcfs", "sew", "ms"),
)


@dataclass(frozen=True)
class Form:
    """The study on a data set, in a size.

    Attributes:
        recipe: of all nets, the name of a file in recipes/.
        changes: to it.
        arms: which there are.
        long: images at more than 100 steps, of all classes; None: all.
    """

    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] = ARMS
    long: int | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """The recipe."""
        text = (ROOT / "recipes" / f"{self.recipe}.yaml").read_text(encoding="utf-8")
        return Recipe().replace(yaml.safe_load(text)).replace(self.changes).flat()


_SMALL = {
    **{"data.batch_size": 32, "model.width": 16, "model.stem": "imagenet", "optimizer.lr": 0.004},
    "trainer.threads": 1,
}
FORMS = {
    ("reduced", "imagenette"): Form(
        "imagenette-resnet50", {**_SMALL, "data.size": 48, "trainer.epochs": 24}, long=1000
    ),
    ("reduced", "cifar100"): Form(
        "cifar100-resnet50", {**_SMALL, "trainer.epochs": 12}, arms=("ann", "tuned", "atan", "plain")
    ),
    ("full", "cifar100"): Form("cifar100-resnet50"),
    ("full", "imagenette"): Form("imagenette-resnet50"),
}
