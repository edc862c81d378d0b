"""Study: nets without skips, of 10, 20, 50 and 100 layers: which start, and which surrogate, lets them learn?

    python -m recipes.studies.ladder run [--part NAME ...] [--out FILE]     trains what the file has not yet
    python -m recipes.studies.ladder report [--out FILE] [--figure FILE]    tables, figure

`plain_mlp` of 256 LIF units a layer, T = 4, on the embedded digits: 10 epochs, batch 32, a cosine, the gradient clipped
at a norm of 5. Accuracies are of the validation split, which has chosen the rate too. Each arm has the learning rate
that did best on it with seed 0, of three, and of a fourth beyond them where the largest or the smallest did; and then,
with 20 and 50 layers, seeds 1 and 2. An arm that has not come to 20 % with any is not tried with more layers.

    random        normed currents, PyTorch's weights (a norm takes away their size)
    identity      normed currents, each square layer the identity and .3 of random weights
    spikeinit     no norm, `spike_init.py`: weights and surrogate by the rule of SpikeInit's start, and not what it does
                  while it trains; the classifier begins at zero, so that before training no gradient comes down
    fluctuation   no norm, weights scaled on a batch until neurons fire

Surrogates: as named, or "tuned": `rb.tune` of ATan(2) on 128 training samples, half of them held out. Controls: no
clipping; the lower half of the layers frozen, so that what learns is above it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import add, read
from recipes.studies.spike_init import spike_init
from rheobase import figures
from rheobase.signal.start import begin
from rheobase.training import Recipe
from rheobase.training.guard import NotFiniteError

OUT = Path(__file__).parents[2] / "results" / "studies" / "ladder.jsonl"
WIDTH, STEPS, SAMPLES = 256, 4, 128
DEPTHS = (10, 20, 50, 100)
DECIDING = (20, 50)
HOPELESS = 0.2
PARTS = ("rates", "seeds", "controls")
RATES = {"adamw": (0.001, 0.004, 0.00025), "sgd": (0.05, 0.2, 0.0125)}
RECIPE = {
    "data.name": "digits",
    "data.batch_size": 32,
    "schedule.warmup_epochs": 1,
    "trainer.epochs": 10,
    "trainer.accelerator": "cpu",
    "trainer.threads": 1,
}
Begin = Literal["random", "identity", "spikeinit", "fluctuation"]
KINDS: tuple[tuple[Begin, str], ...] = (
    ("random", "ATan(2)"),
    ("random", "tuned"),
    ("random", "SuperSpike(10)"),
    ("identity", "ATan(2)"),
    ("identity", "tuned"),
    ("identity", "SuperSpike(10)"),
    ("spikeinit", "its rule's"),
    ("fluctuation", "tuned"),
)


@dataclass(frozen=True)
class Arm:
    """A net and how it is trained."""

    start: Begin
    surrogate: str
    optimizer: Literal["adamw", "sgd"]
    depth: int
    lr: float = 0.0
    seed: int = 0
    clip: float | None = 5.0
    frozen: bool = False

    def model(self, x: Tensor, y: Tensor) -> nn.Module:
        """The net as it begins, with a batch to tune it on."""
        kind, _, number = self.surrogate.rstrip(")").partition("(")
        shape = getattr(rb.surrogate, kind)(float(number)) if number else rb.surrogate.ATan(2.0)
        neuron = rb.LIF(surrogate=shape, reset="hard" if self.start == "spikeinit" else "soft")
        norm = {} if self.start in ("random", "identity") else {"norm": "none"}
        torch.manual_seed(self.seed)
        net = rb.models.create(
            "plain_mlp",
            **{"classes": 10, "in_channels": 1, "image_size": 8, "depth": self.depth, "width": WIDTH},
            **{"steps": STEPS, "neuron": neuron, **norm},
        )
        if self.start == "spikeinit":
            spike_init(net, x, STEPS)
        elif self.start != "random":
            begin(net, self.start, x, self.seed)
        if self.surrogate == "tuned":
            rb.tune(net, x, y, seed=self.seed)
        if self.frozen:
            for layer in list(net.features)[: 1 + self.depth]:  # after the first, two a layer
                layer.requires_grad_(False)
        return net


def run(arm: Arm) -> dict[str, Any]:
    """Probe a net, and train it."""
    data = rb.data.load("digits")
    mean, std = (value.view(-1, 1, 1) for value in (data.mean, data.std))
    x, y = (data.train.inputs[:SAMPLES] - mean) / std, data.train.labels[:SAMPLES]
    net, begun = arm.model(x, y), time.time()
    report = rb.probe(net, x, y)
    with tempfile.TemporaryDirectory() as folder:
        changes = {"optimizer.name": arm.optimizer, "optimizer.lr": arm.lr, "trainer.clip_gradient": arm.clip}
        if arm.optimizer == "sgd":
            changes["optimizer.weight_decay"] = 5e-4
        recipe = Recipe().replace({**RECIPE, **changes, "seed": arm.seed, "run": f"{folder}/run"})
        try:
            done = rb.train(recipe, model=net)
        except NotFiniteError as error:  # not finite: what there is to say of this arm
            return {**asdict(arm), "validation": 0.1, "stopped": str(error).splitlines()[0]}
        lines = (done.folder / "metrics.csv").read_text().splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    return {
        **asdict(arm),
        "validation": done.summary["validation_accuracy"],
        "last_epoch": float(last["validation_accuracy"]),
        "train_loss": float(last["train_loss"]),
        "level": float(f"{report.level:.3g}") if math.isfinite(report.level) else None,
        "similarity": [round(report.waists[i].similarity, 3) for i in (len(report.waists) // 2, -1)],
        "firing": round(statistics.mean(layer.rate for layer in report.layers), 3),
        "seconds": round(time.time() - begun),
        **{key: done.summary[key] for key in ("commit", "uncommitted_changes", "date", "machine", "versions")},
    }


def best(found: Sequence[dict[str, Any]], kind: Arm) -> Arm | None:
    """An arm with the rate that did best with seed 0, once three have been tried; None before."""
    about = {key: value for key, value in asdict(replace(kind, seed=0)).items() if key != "lr"}
    tried = {done["lr"]: done["validation"] for done in found if about.items() <= done.items()}
    if len(tried) < len(RATES[kind.optimizer]):
        return None
    return replace(kind, lr=max(tried, key=tried.__getitem__))


def accuracy(found: Sequence[dict[str, Any]], arm: Arm) -> list[float]:
    """Of all seeds."""
    about = {key: value for key, value in asdict(arm).items() if key != "seed"}
    return [done["validation"] for done in found if about.items() <= done.items()]


def arms(found: list[dict[str, Any]]) -> Iterator[tuple[str, Arm]]:
    """Parts and arms in their turn; which there are depends on what has been found."""
    for optimizer in ("adamw", "sgd"):
        for depth in DEPTHS:
            for start, surrogate in KINDS:
                kind = Arm(start, surrogate, optimizer, depth)  # type: ignore[arg-type]
                below = best(found, replace(kind, depth=DEPTHS[DEPTHS.index(depth) - 1])) if depth > DEPTHS[0] else None
                if depth > DEPTHS[0] and (below is None or max(accuracy(found, below)) < HOPELESS):
                    continue
                for rate in RATES[optimizer]:
                    yield "rates", replace(kind, lr=rate)
                first = best(found, kind)
                if first is not None and first.lr in (max(RATES[optimizer]), min(RATES[optimizer])):
                    factor = 4.0 if first.lr == max(RATES[optimizer]) else 0.25
                    yield "rates", replace(kind, lr=factor * first.lr)
    for optimizer in ("adamw", "sgd"):
        for depth in DECIDING:
            for start, surrogate in KINDS:
                chosen = best(found, Arm(start, surrogate, optimizer, depth))  # type: ignore[arg-type]
                if chosen is not None and max(accuracy(found, chosen)) >= HOPELESS:
                    yield from (("seeds", replace(chosen, seed=seed)) for seed in (1, 2))
                    if surrogate in ("ATan(2)", "tuned") and start in ("random", "identity"):
                        yield "controls", replace(chosen, clip=None)
                        yield "controls", replace(chosen, frozen=True)


def train(out: Path, parts: Sequence[str], optimizers: Sequence[str]) -> None:
    """Run what is not there yet."""
    found = read(out)
    for part, arm in arms(found):  # (which looks at `found` as it grows)
        if (
            part not in parts
            or arm.optimizer not in optimizers
            or any(asdict(arm).items() <= done.items() for done in found)
        ):
            continue
        found.append(run(arm))
        add(out, found[-1])
        print(f"{found[-1]['validation']:.3f} {found[-1].get('level')} {found[-1].get('seconds')} s  {arm}", flush=True)


def report(found: list[dict[str, Any]], figure: Path) -> None:
    """Accuracy by depth, level and similarity before training; controls."""
    curves: dict[str, dict[int, list[float]]] = {}
    print(
        "| optimizer | start | surrogate | layers | learning rate | validation, by seed | gradient, first over last |"
    )
    print("|---|---|---|---|---|---|---|")
    controls = []
    for optimizer in ("adamw", "sgd"):
        for start, surrogate in KINDS:
            for depth in DEPTHS:
                chosen = best(found, Arm(start, surrogate, optimizer, depth))  # type: ignore[arg-type]
                if chosen is None:
                    continue
                values = accuracy(found, chosen)
                curves.setdefault(f"{optimizer}, {start}, {surrogate}", {})[depth] = values
                [first] = [done for done in found if asdict(chosen).items() <= done.items()]
                told = " ".join(f"{100 * value:.1f}" for value in values)
                cells = (optimizer, start, surrogate, depth, chosen.lr, told, first.get("level"))
                print(f"| {' | '.join(map(str, cells))} |")
                for name, other in (
                    ("no clipping", replace(chosen, clip=None)),
                    ("lower half frozen", replace(chosen, frozen=True)),
                ):
                    if accuracy(found, other):
                        controls.append((optimizer, start, surrogate, depth, name, told, accuracy(found, other)))
    print(
        "\n| optimizer | start | surrogate | layers | control | without it | with it |\n|---|---|---|---|---|---|---|"
    )
    for *cells, shares in controls:
        print(f"| {' | '.join(map(str, cells))} | {' '.join(f'{100 * share:.1f}' for share in shares)} |")
    _draw(curves, figure)


def _draw(curves: dict[str, dict[int, list[float]]], path: Path) -> None:
    drawn = figures.figure(11, 4)
    for axis, optimizer in zip(drawn.subplots(1, 2, sharey=True), ("adamw", "sgd"), strict=True):
        for number, (start, surrogate) in enumerate(KINDS):
            by = curves.get(f"{optimizer}, {start}, {surrogate}", {})
            means = [100 * statistics.mean(values) for values in by.values()]
            axis.plot(list(by), means, ".-", color=f"C{number}", label=f"{start}, {surrogate}")
        axis.set(xscale="log", xlabel=f"layers ({optimizer})", xticks=DEPTHS, xticklabels=DEPTHS)
        axis.grid(alpha=0.2)
    drawn.axes[0].set_ylabel("validation accuracy, %")
    drawn.axes[0].legend(frameon=False, fontsize=8)
    drawn.savefig(path, dpi=120)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--part", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--optimizer", nargs="*", default=tuple(RATES), choices=RATES)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=OUT.with_suffix(".png"))
    given = parser.parse_args()
    torch.set_num_threads(1)  # runs of a study go side by side
    if given.what == "run":
        train(given.out, given.part, given.optimizer)
    else:
        report(read(given.out), given.figure)


if __name__ == "__main__":
    main()
