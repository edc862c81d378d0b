"""The arms of the founding study, and their recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rheobase.graph import Calibrated, ClipFloorShift, Percentile
from rheobase.graph.methods import Method
from rheobase.training import Recipe

ROOT = Path(__file__).parents[2]
STEPS = 10
CURVE = (1, 2, 3, 4, 6, 8, 10, 16, 32, 64, 100)
"""T at which trained nets are looked at."""

LONGER = 6
"""Epochs of the long twin over the others': about what a step of a spiking net takes of the twin's."""

IDENTITY = {"model.start": "identity", "model.neuron.surrogate": "atan", "model.neuron.surrogate_parameter": 2.0}
TUNED = {**IDENTITY, "tune.samples": 128}
NETS: dict[str, dict[str, Any]] = {
    "ann": {"model.spiking": False},
    "long": {"model.spiking": False},
    "tuned": TUNED,
    "atan": IDENTITY,
    "plain": {**TUNED, "model.start": "plain", "model.shortcut": "pool"},
    "unnormed": {**TUNED, "model.norm": "none"},
    "superspike": {**IDENTITY, "model.neuron.surrogate": "superspike", "model.neuron.surrogate_parameter": 100.0},
    "quantised": {"model.spiking": False, "model.qcfs_levels": 8, "model.qcfs_threshold": 4.0},
    "sew": {**TUNED, "model.name": "sew_resnet50", "model.start": "plain"},
    "ms": {**TUNED, "model.name": "ms_resnet50"},
}
"""Nets that are trained, and their recipes' own keys."""


@dataclass(frozen=True)
class Conversion:
    """An arm that is made of a trained net.

    Attributes:
        of: which.
        method: how.
        at: the T that it is made for.
        steps: the T that it is looked at.
        costed: the T at which its energy is counted.
    """

    of: str
    method: Method
    at: int = STEPS
    steps: tuple[int, ...] = CURVE
    costed: tuple[int, ...] = (STEPS, 100)


CONVERTED = {
    "percentile": Conversion("ann", Percentile(), steps=(*CURVE, 1000), costed=(STEPS, 100, 1000)),
    "half": Conversion("ann", Percentile(initial=0.5)),
    "half99": Conversion("ann", Percentile(percentile=99.0, initial=0.5)),
    "calibrated": Conversion("ann", Calibrated()),
    "calibrated32": Conversion("ann", Calibrated(), at=32, costed=(32,)),
    "longhalf": Conversion("long", Percentile(initial=0.5)),
    "qcfs": Conversion("quantised", ClipFloorShift()),
}
ARMS = (
    *("ann", "percentile", "half", "half99", "calibrated", "calibrated32"),
    *("tuned", "atan", "plain", "unnormed", "superspike"),
    *("quantised", "qcfs", "long", "longhalf", "sew", "ms"),
)


@dataclass(frozen=True)
class Form:
    """The study on a data set, in a size.

    Attributes:
        recipe: of all nets, the name of a file in recipes/.
        changes: to it.
        rates: learning rates of ANNs, and of spiking nets; None: the recipe's.
        arms: which there are.
        long: images at more than 100 steps, of all classes; None: all.
    """

    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, float] | None = None
    arms: tuple[str, ...] = ARMS
    long: int | None = None

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The recipe."""
        text = (ROOT / "recipes" / f"{self.recipe}.yaml").read_text(encoding="utf-8")
        return Recipe().replace(yaml.safe_load(text)).replace(self.changes).flat()

    def net(self, name: str) -> dict[str, Any]:
        """Its keys of a net."""
        keys = {**self.keys, **NETS[name]}
        if self.rates:
            keys["optimizer.lr"] = self.rates[keys["model.spiking"]]
        if name == "long":
            keys["trainer.epochs"] *= LONGER
        return keys


_SMALL = {
    **{"data.batch_size": 32, "model.width": 16, "model.stem": "imagenet"},
    **{"trainer.threads": 1, "trainer.precision": "32"},  # (bfloat16 is slow on many CPUs: the table is of one number)
}
_RATES = (0.002, 0.004)  # by founding_rates, on Imagenette
FORMS = {
    ("reduced", "imagenette"): Form(
        "imagenette-resnet50", {**_SMALL, "data.size": 48, "trainer.epochs": 24}, _RATES, long=1000
    ),
    ("reduced", "cifar100"): Form(
        "cifar100-resnet50", {**_SMALL, "trainer.epochs": 12}, _RATES, arms=("ann", "tuned", "atan", "plain")
    ),
    ("full", "cifar100"): Form("cifar100-resnet50"),
    ("full", "imagenette"): Form("imagenette-resnet50"),
}
