"""Study: spoken digits as spikes of a cochlea; spike-train-level backpropagation beside surrogate BPTT and a GRU.

    python -m recipes.studies.speech run [--part NAME ...] [--arm NAME ...] [--out FILE]    trains what is not there yet
    python -m recipes.studies.speech report [--out FILE]

Data are the Free Spoken Digit Dataset in $RHEOBASE_DATA, 64 channels, 625 steps a second (`spoken-digits-spikes`).
All nets see them as often, by recipes/spoken-digits-spike-train.yaml, each with the learning rate that did best on
validation after three epochs of 600 samples:

    spike_train    200-R200-10, as in the recipe
    surrogate      the same net and loss by surrogate gradients through time
    normed         the same layers as one would train them so: normed currents, LIF of decay .7, cross entropy, the
                   gradient clipped (without that it was lost in epoch 21 of 30)
    gru            200 rectified units, a GRU of 200, cross entropy, on means of ten steps

Parts: "rates", that choice; "official", the official test split; "unheard", each of the six speakers left out, with
half of the epochs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import add, read
from recipes.studies.steps import where
from rheobase.training import resume, sources
from rheobase.training.guard import NotFiniteError

ROOT = Path(__file__).parents[2]
OUT = ROOT / "results" / "studies" / "speech.jsonl"
RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
SAMPLES = 600
"""Of training, for the choice of a rate."""
EPOCHS = {"rates": 3, "official": 30, "unheard": 15}
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_NORMED = {
    **{"model.rule": "surrogate", "model.output": "currents", "model.norm": "current", "model.alpha": None},
    **{"model.alpha_out": None, "model.neuron.kind": "lif", "model.neuron.decay": 0.7, "model.neuron.reset": "soft"},
    **{"model.neuron.current_decay": None, "model.neuron.input_scale": None, "trainer.clip_gradient": 1.0},
    **{"loss.name": "cross_entropy", "loss.label_smoothing": 0.1},
    **{f"loss.count_{name}": value for name, value in (("high", 1.0), ("low", 0.0), ("margin", 0.0))},
}
ARMS: dict[str, dict[str, Any]] = {
    "spike_train": {},
    "surrogate": {"model.rule": "surrogate"},
    "normed": _NORMED,
    "gru": {"model.name": "recipes.studies.speech:gru"},
}
"""Changes to the recipe."""


class Gru(nn.Module):
    """Frames `[T, B, C, 1, 1]` to logits `[T, B, classes]`, through means of `frame` steps."""

    def __init__(self, classes: int, in_channels: int, frame: int) -> None:
        super().__init__()
        self.frame = frame
        self.below, self.gru, self.head = nn.Linear(in_channels, 200), nn.GRU(200, 200), nn.Linear(200, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits; those of a frame at each of its steps."""
        steps = len(frames)
        x = F.pad(frames.flatten(2), (0, 0, 0, 0, 0, -steps % self.frame))
        x = x.unflatten(0, (-1, self.frame)).mean(1)
        logits: Tensor = self.head(self.gru(F.relu(self.below(x)))[0])
        return logits.repeat_interleave(self.frame, 0)[:steps]


def gru(classes: int, in_channels: int, frame: int = 10) -> Gru:
    """What `model.name` calls."""
    return Gru(classes, in_channels, frame)


@dataclass(frozen=True)
class Arm:
    """A run."""

    part: str
    arm: str
    lr: float
    split: str = "official"
    seed: int = 0

    def recipe(self) -> Any:
        """Its recipe."""
        recipe = sources.load("spoken-digits-spike-train").flat()
        if self.arm == "gru":
            given = ("data.", "optimizer.", "schedule.", "trainer.")
            recipe = {key: value for key, value in recipe.items() if key.startswith(given)}
        changes = {"optimizer.lr": self.lr, "data.split": self.split, "trainer.threads": 1, "seed": self.seed}
        if self.part == "rates":
            changes["data.train_limit"] = SAMPLES
        return rb.training.Recipe().replace(
            {**recipe, **ARMS[self.arm], **changes, "trainer.epochs": EPOCHS[self.part], "trainer.accelerator": "cpu"}
        )


def arms(found: Sequence[dict[str, Any]], names: Sequence[str]) -> Iterator[Arm]:
    """All of them; what comes after the rates depends on what has been found."""
    for name in names:
        for lr in RATES:
            yield Arm("rates", name, lr)
    for name in names:
        for lr in ranked(found, name):  # the best that comes to its end
            yield Arm("official", name, lr)
            if chosen(found, name) == lr:
                break
    for speaker in SPEAKERS:
        for name in names:
            lr = chosen(found, name)
            if lr is not None:
                yield Arm("unheard", name, lr, f"speaker:{speaker}")


def chosen(found: Sequence[dict[str, Any]], name: str) -> float | None:
    """The best learning rate with which the official part came to its end."""
    ended = {done["lr"] for done in found if (done["part"], done["arm"], done["diverged"]) == ("official", name, "")}
    return next((lr for lr in ranked(found, name) if lr in ended), None)


def ranked(found: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The learning rates that came to their end, by how they did on validation, the best first.

    Raises:
        ValueError: not all were tried.
    """
    tried = {done["lr"]: done for done in found if (done["part"], done["arm"]) == ("rates", name)}
    missing = [lr for lr in RATES if lr not in tried]
    if missing:
        raise ValueError(f"{name}: no learning rate can be chosen before {missing} were tried: run --part rates")
    return sorted((lr for lr in tried if not tried[lr]["diverged"]), key=lambda lr: -tried[lr]["validation"])


def run(arm: Arm, runs: Path) -> dict[str, Any]:
    """Train it; a run that was stopped goes on. One that meets numbers that are not finite is told as such."""
    words = (arm.part, arm.arm, f"{arm.lr:g}", arm.split.rpartition(":")[2], str(arm.seed))
    place = runs / "-".join(words)
    there = (place / "recipe.json").exists()
    try:
        done = resume(place) if there else rb.train(arm.recipe().replace({"run": str(place)}))
    except NotFiniteError as error:
        nothing = {"validation": 0.0, "test": None, "layers": {}, "parameters": 0, "train_seconds": 0.0}
        return {**asdict(arm), "diverged": str(error), **nothing, **where(torch.device("cpu"))}
    summary = done.summary
    return {
        **asdict(arm),
        "diverged": "",
        "validation": summary["validation_accuracy"],
        "test": summary["test_accuracy"] if arm.part != "rates" else None,
        "layers": {layer["layer"]: layer["rate"] for layer in summary["layers"]},
        "parameters": sum(p.numel() for p in done.model.parameters()),
        **{key: summary[key] for key in ("train_seconds", "commit", "uncommitted_changes", "date", "machine")},
    }


def report(found: Sequence[dict[str, Any]]) -> None:
    """A table."""
    print("| | parameters | learning rate | official, test | speakers never heard: mean | each | s an epoch |")
    print("|---|---|---|---|---|---|---|")
    for name in ARMS:
        mine = [done for done in found if done["arm"] == name and done["part"] != "rates" and not done["diverged"]]
        mine = [done for done in mine if done["lr"] == mine[-1]["lr"]]  # (others are from before more were tried)
        official, unheard = ([done for done in mine if done["part"] == part] for part in ("official", "unheard"))
        if not official:
            continue
        shares = [done["test"] for done in unheard]
        mean = f"{100 * statistics.mean(shares):.1f}" if len(shares) == len(SPEAKERS) else ""
        cells = (
            *(name, official[0]["parameters"], official[0]["lr"]),
            " ".join(f"{100 * done['test']:.2f}" for done in official),
            *(mean, " ".join(f"{100 * share:.1f}" for share in shares)),
            f"{official[0]['train_seconds'] / EPOCHS['official']:.0f}",
        )
        print(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--part", nargs="*", default=tuple(EPOCHS), choices=EPOCHS)
    parser.add_argument("--arm", nargs="*", default=tuple(ARMS), choices=ARMS)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "speech", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = read(given.out)
    if given.what == "report":
        report(found)
        return
    for arm in arms(found, given.arm):  # (which looks at `found` as it grows)
        if arm.part in given.part and not any(asdict(arm).items() <= done.items() for done in found):
            found.append(run(arm, given.runs))
            add(given.out, found[-1])
            print(f"{found[-1]['validation']:.4f} {found[-1]['test']} {arm}", flush=True)


if __name__ == "__main__":
    main()
