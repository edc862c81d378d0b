"""Study: the founding claim on our own measurements: a spiking ResNet-50 that is trained directly, and its rivals.

    python -m recipes.studies.founding [--size reduced] [--data imagenette] [--arm NAME ...] [--minutes N]
    python -m recipes.studies.founding ... --plan                   the arms in order, with minutes measured here
    python -m recipes.studies.founding ... --show [--figure FILE]   tables and a figure of the lines in the file
    python -m recipes.studies.founding ... --steps 20               a trial

A call trains and measures what the file has not yet, an arm after the other, the cheapest that could refute first. It
ends when all is there, or after `--minutes`; the same call goes on where it stopped, also within an arm: training
from its run folder in runs/founding, measurements piece by piece. So jobs of ten minutes do. Where that folder is lost,
an arm that has its line stays as it is, and a twin that others are compared with is trained again. Data are in
$RHEOBASE_DATA. Two calls may run side by side, with other arms each.

Arms. All nets but SEW and MS are classic (currents are added, then the neuron); T = 10; one recipe, that of
recipes/NAME-resnet50.yaml, which `FORMS` makes smaller for the reduced size:

    ann         the ANN twin
    percentile  it, converted as published (percentile 99.9, potentials begin at zero)
    half        the same, potentials begin at half of the threshold
    half99      so, with percentile 99
    calibrated  it, converted for 10 steps; calibrated32: for 32
    tuned       blocks begin as the identity; surrogates, ATan(2), levelled by `rb.tune` before the first step
    atan        the same, not levelled
    plain       levelled, blocks begin as usual, the gradient not through the reset
    unnormed    levelled, without norms of the currents (weights that make up for it are for nets without skips)
    superspike  SuperSpike(100), not levelled, blocks begin as the identity
    quantised   the twin with QCFS activations
    qcfs        it, converted
    long        the twin, trained for six times the epochs, about the time of a spiking net
    longhalf    it, converted as "half"
    sew, ms     levelled, the other junctions, each from its usual start: SEW blocks plain, MS blocks as the identity

To begin as the identity is more than one thing (`rheobase.models.resnet`): branches that give nothing, a current that
lets spikes pass, and, where the shortcut is the identity, a gradient through the reset and a surrogate three times as
wide. Learning rates are of `founding_rates`: one of ANNs, one of spiking nets.

The rule for hopeless arms, written before there was a result: a spiking net other than "tuned" whose validation
accuracy after a third of its epochs is below half of that of "tuned" after as many is not trained further (where that
is known while it is in the epoch that follows). Its line has what was measured without the test set, and says after
which epoch it was cut. (One that diverges says so.)

The test set is looked at when an arm has been trained to its end: accuracy at the T that it was trained with, and at
others without training; nothing is chosen by it. A line says of how many images. Energy is that of `rb.energy` at 45 nm
(docs/energy.md), a mean over images of the validation split, beside the trained classic twin, as it is and with the
bits that T spikes tell. The gradient (first block over last), similarity and the verdict on them are a probe's, of
training images.

A trial makes the same arms of two images a step, and has a few images of the validation split in place of the test
set. Its lines go to runs/founding/trial.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch

import rheobase as rb
from recipes.studies.founding_arms import ARMS, CONVERTED, CURVE, FORMS, NETS, ROOT, STEPS
from recipes.studies.founding_plan import plan
from recipes.studies.founding_report import show, title
from recipes.studies.lines import add, read
from recipes.studies.pieces import Kept, TimeUpError, ended_by
from recipes.studies.steps import CALIBRATION, batches, calibration, costs, where
from rheobase.data import Batches, Dataset
from rheobase.data.dataset import Samples
from rheobase.graph import accuracies
from rheobase.models import Net
from rheobase.training import Recipe, resume
from rheobase.training.evaluation import weights_sha256
from rheobase.training.watch import probed

OUT = ROOT / "results" / "studies" / "founding.jsonl"
RUNS = ROOT / "runs" / "founding"
FRAMES = 250_000
"""Images times steps of a piece of a measurement."""
PROBED, COUNTED = 64, 32
"""Images of a probe, and of a count of energy."""
NEVER = 10**9


@dataclass
class Study:
    """Where it runs, on what.

    Attributes:
        size, data: of `FORMS`.
        pixels: of the images; None: the form's.
        steps: of a trial; None: it is none.
        end: at which `time.monotonic` a call ends.
        out: the file of the lines.
    """

    size: str
    data: str
    seed: int = 0
    runs: Path = RUNS
    root: str | None = None
    pixels: int | None = None
    steps: int | None = None
    end: float = math.inf
    out: Path = OUT

    def __post_init__(self) -> None:
        self.form = FORMS[self.size, self.data]
        self.keys = self.form.keys
        self.pixels = self.pixels or self.keys["data.size"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def about(self) -> dict[str, Any]:
        """What lines have in common."""
        return {"size": self.size, "data": self.data, "pixels": self.pixels, "seed": self.seed, "trial": self.steps}

    def late(self) -> bool:
        """Whether the call is to end."""
        return time.monotonic() >= self.end

    @cached_property
    def dataset(self) -> Dataset:
        """The data; of a trial, few of them, and none of the test set."""
        data = loaded(self.data, self.root, self.pixels)
        if self.steps is None:
            return data
        train, few = (some(*each) for each in ((data.train, 2 * self.steps), (data.validation, 4)))
        return replace(data, train=train, validation=few, test=few)

    @property
    def _given(self) -> Dataset | None:
        """What runs get in place of the data that their recipe names."""
        return None if self.steps is None else self.dataset

    def place(self, name: str) -> Path:
        """Where what an arm leaves behind begins."""
        about = [str(value) for key, value in self.about.items() if value is not None and key != "trial"]
        trial = "" if self.steps is None else f"-trial{self.steps}"
        return self.runs / f"{'-'.join(about)}{trial}-{name}"

    def recipe(self, name: str) -> Recipe:
        """Of a net that is trained. Before its first step it is probed."""
        keys = {**self.form.net(name), "seed": self.seed, "run": str(self.place(name))}
        if keys["model.spiking"]:
            keys |= {"probe.every_steps": NEVER, "probe.samples": PROBED}
        if self.steps is None:
            return Recipe().replace({**keys, "data.root": self.root, "data.size": self.pixels})
        keys |= {"trainer.epochs": 1, "data.batch_size": 2, "schedule.warmup_epochs": None}
        keys |= {key: 8 for key in ("tune.samples", "probe.samples") if keys[key] is not None}
        keys |= {"data.name": Recipe().data.name, "data.size": None, "data.train_limit": None}  # (the data are given)
        return Recipe().replace(keys)

    def of(self, name: str) -> str:
        """Of which recipe an arm is, and which conversion."""
        if name not in CONVERTED:
            return self.recipe(name).sha256
        made = CONVERTED[name]
        return f"{self.recipe(made.of).sha256}, {made.method}, for T = {made.at}"

    def rows(self, name: str) -> list[dict[str, float]]:
        """An epoch each, of a net in training."""
        found = table(self.place(name) / "metrics.csv")
        return [{key: float(value) for key, value in row.items()} for row in found]

    def epochs(self, name: str) -> list[float]:
        """Validation accuracies: by the run folder, or the line of an arm whose folder is gone."""
        rows = self.rows(name)
        if not rows:
            return next((done["epochs"] for done in self.lines() if done["arm"] == name), [])
        return [row["validation_accuracy"] for row in rows]

    def lines(self) -> list[dict[str, Any]]:
        """Those of the file that are of this study."""
        return [done for done in read(self.out) if self.about.items() <= done.items()]

    def cut(self, name: str) -> int | None:
        """The epoch after which the rule ends an arm."""
        third = max(1, self.keys["trainer.epochs"] // 3)
        if name == "tuned" or not NETS[name].get("model.spiking", True) or self.steps is not None:
            return None
        mine, best = self.epochs(name), self.epochs("tuned")
        hopeless = len(mine) == third <= len(best) and mine[-1] < best[third - 1] / 2
        return third if hopeless else None

    def trained(self, name: str) -> tuple[Net, dict[str, Any]]:
        """A net, from its run folder, trained as far as it is not yet; and its run's summary, empty if it was cut.

        Raises:
            TimeUpError: it is saved, and goes on next time.
            ValueError: training diverges; or the run folder is of another recipe.
        """
        place = self.place(name)
        begun = place / "recipe.json"
        if self.steps is None and begun.exists() and Recipe.from_json(begun.read_text()).sha256 != self.of(name):
            raise ValueError(f"{place} was begun with another recipe than {name!r} has now: move it away")
        finished = (place / "summary.json").exists()
        if not finished and self.cut(name) is None:
            finished = self._train(name)
        if not finished:
            return rb.load(place / "checkpoints" / "best.safetensors").eval(), {}
        run = resume(place, data=self._given)
        assert isinstance(run.model, Net)
        return run.model, run.summary

    def _train(self, name: str) -> bool:
        """Train until it is finished (True), hopeless (False), or too late (TimeUpError)."""
        if self.late():
            raise TimeUpError
        place = self.place(name)
        with ended_by(lambda: self.late() or self.cut(name) is not None) as ended:
            if (place / "recipe.json").exists():
                resume(place, data=self._given)
            else:
                rb.train(self.recipe(name), data=self._given)
        if not ended():
            return True
        if self.cut(name) is None:
            raise TimeUpError
        return False

    def measured(self, name: str) -> dict[str, Any]:
        """The line of an arm.

        Raises:
            TimeUpError: what was done is saved.
        """
        kept = Kept(Path(f"{self.place(name)}.json"), self.late)
        of = self._converted if name in CONVERTED else self._trained
        return {"arm": name, **self.about, "recipe": self.of(name), **of(name, kept), **where(self.device)}

    def _trained(self, name: str, kept: Kept) -> dict[str, Any]:
        try:
            net, summary = self.trained(name)
        except ValueError as error:
            if "training diverged" not in str(error):
                raise
            return {"diverged": str(error), "epochs": self.epochs(name)}
        kept.of(net, *([self.trained("ann")[0]] if net.spiking else []))
        net.to(self.device)
        rows, epochs = self.rows(name), self.epochs(name)
        found: dict[str, Any] = {
            "cut": None if summary else len(epochs),
            "weights": weights_sha256(net.state_dict()),
            "validation": max(epochs),
            "epochs": epochs,
            "test": summary.get("test_accuracy"),
            "train_seconds": round(rows[-1]["seconds"]),
        }
        if not net.spiking:
            return found
        found["before"] = self._before(name)
        found["after"] = kept.get("after", lambda: self._health(net))
        found["energy"] = {str(STEPS): kept.get("energy", lambda: self._costs(net, "ann", STEPS))}
        if summary:
            steps = CURVE if self.steps is None else (1, STEPS)
            found |= self._curve(net, steps, kept)
        return found

    def _converted(self, name: str, kept: Kept) -> dict[str, Any]:
        made = CONVERTED[name]
        ann, _ = self.trained(made.of)
        kept.of(ann)
        images = calibration(self.dataset, CALIBRATION if self.steps is None else 4)
        begin = time.time()
        net = rb.convert(ann.to(self.device), [each.to(self.device) for each in images], made.method, made.at).eval()
        found: dict[str, Any] = {"of": made.of, "weights": weights_sha256(ann.state_dict())}
        found["seconds"] = kept.get("seconds", lambda: round(time.time() - begin, 1))
        steps, costed = (made.steps, made.costed) if self.steps is None else ((made.at,), (made.at,))
        found["energy"] = {
            str(count): kept.get(f"energy at {count}", partial(self._costs, net, made.of, count)) for count in costed
        }
        return found | self._curve(net, steps, kept)

    def _curve(self, net: Net, steps: Sequence[int], kept: Kept) -> dict[str, Any]:
        """Accuracy on the test set at each T, and of how many images."""
        accuracy: dict[str, float] = {}
        samples: dict[str, int] = {}
        for part, split in (
            ([count for count in steps if count <= 100], self.dataset.test),
            ([count for count in steps if count > 100], some(self.dataset.test, self.form.long or NEVER)),
        ):
            right = dict.fromkeys(map(str, part), 0)
            for places in torch.arange(len(split)).split(max(1, FRAMES // max(part, default=FRAMES))) if part else ():
                key = f"at {part}, images {int(places[0])} to {int(places[-1])} of {len(split)}"
                piece = self._batches(split.at(places))
                shares = kept.get(key, partial(_shares, net, piece, part))
                for count in right:
                    right[count] += round(shares[count] * len(places))
            accuracy |= {count: number / len(split) for count, number in right.items()}
            samples |= dict.fromkeys(right, len(split))
        return {"accuracy": accuracy, "samples": samples}

    def _batches(self, split: Samples) -> Batches:
        return batches(self.dataset, split, 100)

    def _costs(self, net: Net, twin: str, steps: int) -> dict[str, float]:
        few = some(self.dataset.validation, COUNTED)
        ann, _ = self.trained(twin)
        return costs(net, ann.to(self.device), batches(self.dataset, few, max(1, 2000 // steps)), steps)

    def _health(self, net: Net) -> dict[str, Any]:
        batch = batches(self.dataset, some(self.dataset.train, PROBED), PROBED).batch(0, 0).to(self.device)
        report = probed(net, batch, self.recipe("tuned").loss)
        return health([asdict(place) for place in report.places]) | {"verdict": report.verdict}

    def _before(self, name: str) -> dict[str, Any]:
        """What the run's probe read before its first step."""
        rows = table(self.place(name) / "probe.csv")
        waists = [row for row in rows if row["of"] == "waist"]
        return health([{key: _number(row[key]) for key in row} for row in waists or rows])


def _shares(net: Net, piece: Batches, steps: Sequence[int]) -> dict[int, float]:
    return accuracies(net, piece, steps).accuracy


@cache
def loaded(name: str, root: str | None, pixels: int | None) -> Dataset:
    """A data set."""
    return rb.data.load(name, root, **({} if pixels is None else {"size": pixels}))


def some(split: Samples, count: int) -> Samples:
    """So many samples, of all classes."""
    return split.some(min(count, len(split)))


def health(places: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The gradient, first place over last, and similarity to the inputs at the last."""
    first, last, similarity = places[0]["gradient_norm"], places[-1]["gradient_norm"], places[-1]["similarity"]
    return {
        "gradient": float(f"{first / last:.3g}") if last else None,
        "similarity": None if similarity is None else round(similarity, 3),
    }


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text or None


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(study: Study, arms: Sequence[str]) -> None:
    """Train and measure what the file has not yet."""
    for name in arms:
        known = [done for done in study.lines() if done["arm"] == name]
        if any(done["recipe"] != study.of(name) for done in known):
            raise ValueError(f"{study.out} has {name!r} by another recipe than there is now: move that line away")
        if known:
            continue
        try:
            found = study.measured(name)
        except BlockingIOError as error:
            print(f"{name!r} is left for another call: {error}", flush=True)
            continue
        except TimeUpError:
            print(f"time is up within {name!r}: the same call goes on", flush=True)
            return
        add(study.out, found)
        print(_told(found), flush=True)


def _told(done: dict[str, Any]) -> str:
    shares = {"validation": done.get("validation"), **done.get("accuracy", {"test": done.get("test")})}
    told = ", ".join(f"{name} {share:.2%}" for name, share in shares.items() if share is not None)
    return f"{title(done)}: {told}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("reduced", "full"), default="reduced")
    parser.add_argument("--data", choices=sorted({data for _, data in FORMS}), default="imagenette")
    parser.add_argument("--arm", nargs="*", choices=ARMS, help="default: those of the size and data, in order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", type=int, help="of Imagenette's images (default: reduced 48, full 128)")
    parser.add_argument("--minutes", type=float, help="end after so many, saved (default: when all is done)")
    parser.add_argument("--steps", type=int, help="a trial of so many training steps, at least 4")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the trained nets")
    parser.add_argument("--root", help="folder of the data sets (default: $RHEOBASE_DATA)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    end = math.inf if given.minutes is None else time.monotonic() + 60 * given.minutes
    out = given.out or (OUT if given.steps is None else given.runs / "trial.jsonl")
    study = Study(given.size, given.data, given.seed, given.runs, given.root, given.pixels, given.steps, end, out)
    arms: Sequence[str] = given.arm or study.form.arms
    if given.plan:
        plan(study, arms)
    elif given.show:
        show(study.lines(), given.figure or out.with_suffix(".png"))
    else:
        run(study, arms)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # (the gradient of an untuned net ends below 1e-38: four times as long a step)
    main()
