"""Study: accuracy against time steps and against energy, of a net trained with spikes and of its ANN twin, converted.

    python -m recipes.studies.steps run [--data NAME] [--seed N] [--split test] [--samples N] [--arm NAME ...]
    python -m recipes.studies.steps report [--data NAME] [--out FILE] [--figure FILE]

`run` trains the nets that runs/steps does not hold yet (a run that was stopped goes on), and measures the arms that the
file has not yet. Choices are made on the validation split; a table is of the test split, looked at once. Data are in
$RHEOBASE_DATA. All nets are of one architecture and see the data as often, by one recipe, but the last two:

    ann         ReLU: what percentile, threshold balancing and calibration convert
    quantised   QCFS activations: the quantised ANN, and what "QCFS" converts
    direct      the spiking net, trained through time with 4 steps
    tuned       the same with 8, its surrogates levelled by `rb.tune` before the first step, for as many epochs as
                "quantised" and "hybrid" have together
    hybrid      begun as "quantised" converted (QCFS) for 8 steps, then trained through time with them for some epochs

Energy is that of `rb.energy` at 45 nm (docs/energy.md), a mean over the first images of the split; both ANNs are
measured with their own zeros.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import add, read
from rheobase import figures
from rheobase.data import Batches, Dataset
from rheobase.data.dataset import Samples
from rheobase.graph import Percentile, accuracies
from rheobase.machine import commit, machine, versions
from rheobase.models import Net
from rheobase.training import Recipe, resume
from rheobase.training.evaluation import accuracies as of_a_pass

ROOT = Path(__file__).parents[2]
OUT = ROOT / "results" / "studies" / "steps.jsonl"
STEPS = (1, 2, 4, 8, 16, 32, 64, 100, 128, 256, 512, 1024)
CALIBRATION = 512
FRAMES = 2048
"""Images times steps of which energy is counted at once."""


@dataclass(frozen=True)
class Form:
    """The study on a data set.

    Attributes:
        recipe: of all nets.
        levels: of the quantised ANN.
        nets: what its nets have besides.
        batch: images that run together where nothing is trained.
        counted: images whose energy is counted.
        further: epochs of a converted net.
    """

    recipe: dict[str, Any]
    levels: int
    nets: dict[str, dict[str, Any]] = field(default_factory=dict)
    further: int = 1
    batch: int = 250
    counted: int = 32

    def options(self, net: str) -> dict[str, Any]:
        """The recipe of a net."""
        if net == "hybrid":  # (which is not made by a recipe)
            training = {key: value for key, value in self.recipe.items() if not key.startswith("model.")}
            return {**training, "trainer.epochs": self.further, **FURTHER}
        epochs: int = self.recipe["trainer.epochs"]
        kinds: dict[str, dict[str, Any]] = {
            "ann": {"model.spiking": False},
            "quantised": {"model.spiking": False, "model.qcfs_levels": self.levels},
            "direct": {"model.steps": 4},
            "tuned": {"model.steps": 8, "tune.samples": 128, "trainer.epochs": epochs + self.further},
        }
        return {**self.recipe, **kinds[net], **self.nets.get(net, {})}


FURTHER = {"optimizer.name": "adamw", "optimizer.lr": 0.001, "trainer.clip_gradient": 1.0}
_IMAGES = {
    **{"data.batch_size": 64, "model.stem": "imagenet", "model.width": 8, "optimizer.lr": 0.004},
    **{"schedule.name": "one_cycle", "trainer.accelerator": "cpu", "trainer.threads": 1},
}
_FROM = {"model.qcfs_threshold": 4.0}
_DEEP = "spiking_resnet34"
FORMS = {
    "mnist": Form(
        {**_IMAGES, "data.name": "mnist", "model.name": _DEEP, "data.shift": 1, "trainer.epochs": 3},
        levels=8,
        nets={"quantised": _FROM},
        further=3,
    ),
    "fashion-mnist": Form(
        {**_IMAGES, "data.name": "fashion-mnist", "model.name": _DEEP, "data.flip": True, "trainer.epochs": 10},
        levels=8,
        nets={"quantised": _FROM},
        further=10,
    ),
    "cifar100": Form(
        {
            **{"data.name": "cifar100", "data.batch_size": 128, "data.shift": 4, "data.flip": True, "data.cutout": 8},
            **{"model.name": "spiking_resnet18", "optimizer.name": "sgd", "optimizer.lr": 0.1},
            **{"optimizer.weight_decay": 5e-4, "trainer.epochs": 100, "trainer.precision": "bf16"},
        },
        levels=8,
        batch=1000,
    ),
    "digits": Form(  # a minute: to see that all of it runs
        {
            **{"data.name": "digits", "data.batch_size": 64, "model.name": "spiking_resnet18", "model.width": 8},
            **{"optimizer.lr": 0.01, "trainer.epochs": 3, "trainer.accelerator": "cpu", "trainer.threads": 1},
        },
        levels=8,
        nets={"quantised": _FROM},
        counted=8,
    ),
}


@dataclass(frozen=True)
class Arm:
    """A curve.

    Attributes:
        net: one of those that are trained.
        become: from it, images to calibrate with and T to the spiking net; None: it is measured as the ANN that it is.
        steps: at which T.
        anew: whether it is made for each T.
    """

    net: str
    become: Callable[[nn.Module, list[Tensor], int], Net] | None = None
    steps: tuple[int, ...] = STEPS
    anew: bool = False


def _by(method: Any) -> Callable[[nn.Module, list[Tensor], int], Net]:
    return lambda net, images, steps: rb.convert(net, images, method, steps)


def _itself(net: nn.Module, *_: Any) -> Net:
    assert isinstance(net, Net)
    return net


FEW = STEPS[:9]
ARMS = {
    "ANN": Arm("ann"),
    "quantised ANN": Arm("quantised"),
    "direct": Arm("direct", _itself, (1, 2, 4, 8)),
    "direct, tuned": Arm("tuned", _itself, (1, 2, 4, 8, 16)),
    "QCFS, trained on": Arm("hybrid", _itself, (1, 2, 4, 8, 16)),
    "percentile": Arm("ann", _by("percentile")),
    "QCFS": Arm("quantised", _by("qcfs"), FEW),
    "calibrated": Arm("ann", _by("calibrated"), FEW[2:7], anew=True),
    "percentile, from half": Arm("ann", _by(Percentile(initial=0.5)), FEW),
    "threshold balancing": Arm("ann", _by("threshold_balancing")),
}
"""What is compared. Nets of another kind (soft-LIF: a twin with its rate curve for ReLU, then its spiking form) are one
more entry in `Form.options`, which trains them, and one here, whose `become` gives the spiking net."""


@dataclass
class Study:
    """Where it runs, on what."""

    data: str
    seed: int
    split: str
    runs: Path
    root: str | None = None
    samples: int | None = None
    form: Form = field(init=False)
    dataset: Dataset = field(init=False)
    looked_at: Any = field(init=False)

    def __post_init__(self) -> None:
        self.form = FORMS[self.data]
        self.dataset = rb.data.load(self.data, self.root)
        split = getattr(self.dataset, self.split)
        if self.samples is not None:
            split = split.some(min(self.samples, len(split)))
        self.looked_at = split

    def trained(self, net: str) -> nn.Module:
        """A net, from its run folder; trained, where there is none."""
        place, begun = self.runs / f"{self.data}-{net}-{self.seed}", None
        if net == "hybrid":
            begun = rb.convert(self.trained("quantised"), calibration(self.dataset), "qcfs", self.form.levels)
            begun.requires_grad_()
        if (place / "recipe.json").exists():
            return resume(place, model=begun).model
        options = {**self.form.options(net), "seed": self.seed, "run": str(place), "data.root": self.root}
        return rb.train(Recipe().replace(options), model=begun).model

    @property
    def batches(self) -> Batches:
        """What accuracy is of."""
        return batches(self.dataset, self.looked_at, self.form.batch)

    def measured(self, name: str) -> dict[str, Any]:
        """An arm."""
        arm, begin = ARMS[name], time.time()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = self.trained(arm.net).eval().to(device)
        twin = self.trained("quantised" if arm.net == "quantised" else "ann").eval().to(device)
        trained, begin = time.time() - begin, time.time()
        images = [batch.to(device) for batch in calibration(self.dataset)]
        if arm.become is None:
            [own] = of_a_pass(net, self.batches, [None], device)
            points = [self._twin(name, net, images, own)]
        else:
            points = self._curve(arm, net, twin, images)
        return {
            **{"arm": name, "data": self.data, "seed": self.seed, "split": self.split, "points": points},
            **{"samples": len(self.looked_at), "energy_of": self.form.counted},
            **{"seconds": round(time.time() - begin), "training_seconds": round(trained)},
            **{"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024},
            **where(device),
        }

    def _curve(self, arm: Arm, net: nn.Module, twin: nn.Module, images: list[Tensor]) -> list[dict[str, Any]]:
        assert arm.become is not None
        spiking = arm.become(net, images, arm.steps[-1]).eval()
        if not arm.anew:
            shares = accuracies(spiking, self.batches, arm.steps).accuracy
        points = []
        for steps in arm.steps:
            if arm.anew:
                spiking = arm.become(net, images, steps).eval()
                shares = accuracies(spiking, self.batches, [steps]).accuracy
            points.append({"steps": steps, "accuracy": shares[steps], **self._energy(spiking, twin, steps)})
        return points

    def _energy(self, spiking: Net, twin: nn.Module, steps: int) -> dict[str, float]:
        few = self.looked_at.at(torch.arange(min(self.form.counted, len(self.looked_at))))
        return costs(spiking, twin, batches(self.dataset, few, max(1, FRAMES // steps)), steps)

    def _twin(self, name: str, net: nn.Module, images: list[Tensor], accuracy: float) -> dict[str, Any]:
        """An ANN itself: its cost is a column beside any spiking net of its."""
        levels = self.form.levels
        quantised = name == "quantised ANN"
        beside = rb.convert(net, images, "qcfs" if quantised else "percentile", levels)
        costs = self._energy(beside, net, levels)
        return {"steps": None, "accuracy": accuracy, "ann": costs["quantised" if quantised else "ann"]}


def batches(data: Dataset, split: Samples, size: int) -> Batches:
    """All of a split, in order and as it is."""
    return Batches(split, batch_size=min(size, len(split)), mean=data.mean, std=data.std)


def calibration(data: Dataset, count: int | None = None) -> list[Tensor]:
    """Images of the training split, of all classes."""
    count = min(count or CALIBRATION, len(data.train))
    return [batches(data, data.train.some(count), count).batch(0, 0).inputs]


def costs(spiking: Net, twin: nn.Module, few: Batches, steps: int) -> dict[str, float]:
    """Firing rate, and energy of the spiking net, its twin and the quantised twin: means a sample, in nJ."""
    device = next(twin.parameters()).device
    found: dict[str, float] = {"spiking": 0.0, "ann": 0.0, "quantised": 0.0, "rate": 0.0}
    before, seen = spiking.steps, 0
    spiking.steps = steps
    for inputs, *_ in few:
        report = rb.energy(spiking, inputs.to(device), twin=twin)
        for key in ("spiking", "ann", "quantised"):
            found[key] += len(inputs) * getattr(report, key).total / 1000
        found["rate"] += len(inputs) * report.rate
        seen += len(inputs)
    spiking.steps = before
    return {key: float(f"{value / seen:.4g}") for key, value in found.items()}


def where(device: torch.device) -> dict[str, Any]:
    """On what something was measured, and when."""
    return {
        **dict(zip(("commit", "uncommitted_changes"), commit(), strict=True)),
        **{"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")},
        **{"machine": machine(device), "versions": versions()},
    }


def run(study: Study, arms: Sequence[str], out: Path) -> None:
    """Measure what the file has not yet."""
    about = {"data": study.data, "seed": study.seed, "split": study.split}
    for name in arms:
        if any(done["arm"] == name and about.items() <= done.items() for done in read(out)):
            continue
        found = study.measured(name)
        add(out, found)
        told = ", ".join(f"{point['steps'] or ''} {point['accuracy']:.2%}" for point in found["points"])
        print(f"{name}: {told} ({found['seconds']} s)", flush=True)


def report(found: list[dict[str, Any]], figure: Path) -> None:
    """Two tables and a figure."""
    arms = {done["arm"]: done["points"] for done in found}
    head = ("T", *map(str, STEPS))
    for title, cell in (
        ("accuracy, %", lambda point: f"{100 * point['accuracy']:.2f}"),
        ("energy a sample, nJ", lambda point: f"{point.get('spiking', point['ann']):.3g}"),
    ):
        print(f"\n| {title}; {' | '.join(head)} |\n|{'---|' * len(head)}")
        for name, points in arms.items():
            by = {point["steps"]: cell(point) for point in points}
            cells = [f"{by[None]} (one pass)"] if None in by else [by.get(steps, "") for steps in STEPS]
            print(f"| {' | '.join([name, *cells, *[''] * (len(STEPS) - len(cells))])} |")
    _draw(arms, figure)


def _draw(arms: dict[str, list[dict[str, Any]]], path: Path) -> None:
    drawn = figures.figure(11, 4.5)
    left, right = drawn.subplots(1, 2, sharey=True)
    for number, (name, points) in enumerate(arms.items()):
        color, shares = f"C{number}", [100 * point["accuracy"] for point in points]
        if points[0]["steps"] is None:
            left.axhline(shares[0], color=color, linestyle=":", label=name)
            right.plot(points[0]["ann"], shares[0], "*", color=color, markersize=12)
            continue
        left.plot([point["steps"] for point in points], shares, ".-", color=color, label=name)
        right.plot([point["spiking"] for point in points], shares, ".-", color=color)
    left.set(xscale="log", xlabel="time steps T", ylabel="accuracy, %")
    right.set(xscale="log", xlabel="estimated energy a sample, nJ (stars: the ANNs)")
    for axis in (left, right):
        axis.grid(alpha=0.2)
    left.legend(frameon=False, fontsize=8)
    drawn.savefig(path, dpi=120)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--data", choices=FORMS, default="mnist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--samples", type=int, help="of the split, of all classes (default: all)")
    parser.add_argument("--arm", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "steps", help="folder of the trained nets")
    parser.add_argument("--root", help="folder of the data sets (default: $RHEOBASE_DATA)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=OUT.with_suffix(".png"))
    given = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    if given.what == "run":
        study = Study(given.data, given.seed, given.split, given.runs, given.root, given.samples)
        run(study, given.arm, given.out)
    else:
        about = {"data": given.data, "seed": given.seed, "split": given.split}
        found = [done for done in read(given.out) if about.items() <= done.items()]
        if not found:
            sys.exit(f"{given.out} has nothing of {about}")
        report(found, given.figure)


if __name__ == "__main__":
    main()
