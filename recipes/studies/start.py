"""Study: how a residual spiking net begins, and whether a probe before training tells how well it will learn.

    python -m recipes.studies.start run [--part NAME ...] [--out FILE]     trains what the file has not yet
    python -m recipes.studies.start probe [--out FILE]                     probes all nets of the file anew, untrained
    python -m recipes.studies.start report [--out FILE] [--figure FILE]    table, rank correlations, figure

Every net has width 8 and sees the embedded digits for 20 epochs: batch 32, AdamW at .004 with weight decay .01, one
epoch of rise and a cosine, the gradient clipped at a norm of 5. Before that it is probed, on the first 64 training
samples. Accuracies are of the validation split unless they say test.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import rheobase as rb
from recipes.studies.lines import add, read
from rheobase import figures
from rheobase.files import write_atomic
from rheobase.machine import commit
from rheobase.models.resnet import Classic
from rheobase.signal.readings import Information
from rheobase.signal.verdict import MOST_EXPLODED, MOST_VANISHED, NOTHING, bearable, lost
from rheobase.training import Recipe

ROOT = Path(__file__).parents[2]
OUT, FIGURE = ROOT / "results" / "studies" / "start.jsonl", ROOT / "docs" / "figures" / "study-start.png"
RECIPE = {
    "data.name": "digits",
    "data.batch_size": 32,
    "optimizer.lr": 0.004,
    "schedule.warmup_epochs": 1,
    "trainer.clip_gradient": 5.0,
    "trainer.epochs": 20,
    "trainer.accelerator": "cpu",
}


@dataclass(frozen=True)
class Arm:
    """A net. `start` and `shortcut` at None are what the registry chooses; `without` names a part of the start.

    A classic net from a plain start has the published shortcut, "conv", where none is named.
    """

    part: str
    name: str
    steps: int = 10
    neuron: str = "LIF"
    surrogate: str = "ATan(2.0)"
    start: str | None = None
    shortcut: str | None = None
    without: str = ""
    seed: int = 0

    def model(self) -> nn.Module:
        """The net, freshly initialised."""
        kind, _, width = self.surrogate.rstrip(")").partition("(")
        surrogate = getattr(rb.surrogate, kind)(float(width))
        options: dict[str, Any] = {"start": self.start}
        plain = self.start == "plain" and self.name.startswith("spiking")
        if self.shortcut is not None or plain:
            options["shortcut"] = self.shortcut or "conv"
        neuron = getattr(rb, self.neuron)(surrogate=surrogate)
        torch.manual_seed(self.seed)
        net = rb.models.create(
            self.name, classes=10, in_channels=1, steps=self.steps, width=8, neuron=neuron, **options
        )
        for block in net.modules():
            if isinstance(block, Classic) and block.begun:
                WITHOUT[self.without](block, surrogate)
        return net


def _no_margin(block: Classic, _: rb.surrogate.Surrogate) -> None:
    nn.init.zeros_(block.fire.norm.bias)  # type: ignore[arg-type]


def _detached(block: Classic, _: rb.surrogate.Surrogate) -> None:
    block.fire.neuron.detach_reset = True


def _narrow(block: Classic, surrogate: rb.surrogate.Surrogate) -> None:
    block.fire.neuron.surrogate = surrogate


WITHOUT: dict[str, Callable[[Classic, rb.surrogate.Surrogate], None]] = {
    "": lambda *_: None,
    "margin": _no_margin,
    "reset's gradient": _detached,
    "wide surrogate": _narrow,
}


def arms() -> Iterator[Arm]:
    """All of them; what could refute most comes first."""
    for seed in range(3):  # the registry's nets with nothing else set
        for depth in (50, 34, 18, 101):
            yield Arm("default", f"spiking_resnet{depth}", seed=seed)
        yield Arm("default", "spiking_resnet50", steps=4, seed=seed)
        yield Arm("default", "spiking_resnet50", neuron="IF", seed=seed)
    for name, steps in (("spiking_resnet50", 4), ("spiking_resnet101", 10)):  # what of the start does it?
        arm = Arm("parts", name, steps)
        yield replace(arm, start="plain")
        yield replace(arm, start="plain", shortcut="pool")
        yield replace(arm, shortcut="conv")
        for without in ("margin", "reset's gradient", "wide surrogate"):
            yield replace(arm, without=without)
    for steps in (10, 4):
        for depth in (34, 18, 50, 101):
            for junction in ("spiking", "sew", "ms"):
                for start in ("plain", "identity"):
                    yield Arm("start", f"{junction}_resnet{depth}", steps, start=start)
    for start in ("plain", "identity"):  # as deep as the registry has them
        yield Arm("deep", "sew_resnet152", 4, start=start)
    for surrogate in ("SuperSpike(1.6)", "SuperSpike(10)", "SuperSpike(100)", "Rectangle(1)", "Sigmoid(4)"):
        for start in ("identity", "plain"):
            yield Arm("surrogate", "spiking_resnet50", surrogate=surrogate, start=start)
        yield Arm("surrogate", "sew_resnet50", surrogate=surrogate, start="plain")


def probed(net: nn.Module) -> dict[str, Any]:
    """What a probe says of a net, and by which version."""
    data = rb.data.load("digits")
    mean, std = (value.view(-1, 1, 1) for value in (data.mean, data.std))
    x, y = (data.train.inputs[:64] - mean) / std, data.train.labels[:64]
    report = json.loads(rb.probe(net, x, y, preset="full").to_json())
    return {
        **{key: report[key] for key in ("verdict", "healthy")},
        "layers": _columns(report["layers"], ("rate", "dead", "gradient_norm", "agreement", "weight_ratio")),
        "waists": _columns(report["waists"], ("similarity", "noisy", "accuracy", "gradient_norm")),
        "probed_by": commit()[0],
    }


def run(arm: Arm) -> dict[str, Any]:
    """Probe a net, and train it."""
    net = arm.model()
    readings = probed(net)
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe().replace({**RECIPE, "seed": arm.seed, "run": f"{folder}/run"})
        done = rb.train(recipe, model=net)
        lines = (done.folder / "metrics.csv").read_text().splitlines()
        last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    summary = done.summary
    return {
        **asdict(arm),
        "validation": summary["validation_accuracy"],
        "last_epoch": float(last["validation_accuracy"]),
        "train_loss": float(last["train_loss"]),
        "test": summary["test_accuracy"],
        "seconds": round(time.time() - begin),
        **{key: summary[key] for key in ("commit", "uncommitted_changes", "date", "machine", "versions")},
        **readings,
    }


def _columns(readings: list[dict[str, Any]], names: Sequence[str]) -> dict[str, list[float | None]]:
    return {name: [None if r[name] is None else float(f"{r[name]:.3g}") for r in readings] for name in names}


def _same(arm: Arm, done: dict[str, Any]) -> bool:
    return all(done[key] == value for key, value in asdict(arm).items())


def train(out: Path, parts: Sequence[str]) -> None:
    """Run what is not there yet."""
    for arm in arms():
        if (parts and arm.part not in parts) or any(_same(arm, done) for done in read(out)):
            continue
        found = run(arm)
        add(out, found)
        print(f"{found['validation']:.3f} {found['test']:.3f} {found['seconds']:4d} s  {arm}", flush=True)


def probe(out: Path) -> None:
    """Read all nets anew, as they are before training."""
    found = read(out)
    for done in found:
        arm = Arm(**{key: done[key] for key in asdict(Arm("", ""))})
        done.update(probed(arm.model()))
        print(done["name"], done["steps"], done["start"], done["verdict"], flush=True)
    write_atomic(out, "".join(json.dumps(done) + "\n" for done in found).encode())


def readings(done: dict[str, Any]) -> dict[str, float]:
    """Of a net before training, what may tell how well it will learn; higher is better by guess."""
    waists, layers = done["waists"], done["layers"]
    first, last = waists["gradient_norm"][0], waists["gradient_norm"][-1]
    agreement = [each for each in layers["agreement"] if each is not None]
    gone = [lost(Information(*each), 10, 64) for each in _places(waists)]
    level = math.log10(first / last) if first > 0 and last > 0 else -50.0
    nothing = [lost(Information(*each), 10, 64, NOTHING) for each in _places(waists)]
    bears = bearable(sum(gone), sum(nothing), len(gone))
    good = bears and math.log10(MOST_VANISHED) <= level <= math.log10(MOST_EXPLODED)
    return {
        "share of depth that tells inputs apart": 1 - statistics.mean(gone),
        "similarity, mean over depth": statistics.mean(waists["similarity"]),
        "similarity at the end": waists["similarity"][-1],
        "two views alike, mean over depth": statistics.mean(waists["noisy"]),
        "linear reader, mean over depth": statistics.mean(waists["accuracy"]),
        "gradient level": -abs(level),
        "gradient's agreement": statistics.mean(agreement) if agreement else 0.0,
        "firing rate": statistics.mean(layers["rate"]),
        "healthy by the verdict": float(good),
    }


def _places(waists: dict[str, list[float]]) -> Iterator[tuple[float, ...]]:
    return zip(waists["similarity"], waists["noisy"], waists["accuracy"], strict=True)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: the correlation of ranks, equal values sharing theirs."""
    ranks = []
    for values in (a, b):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(each) > 0 for each in ranks) else 0.0


def report(out: Path, figure: Path) -> None:
    """What came of it."""
    found = read(out)
    print("| net | T | neuron | surrogate | start | without | seeds | validation | test | healthy |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for done in found:
        key = ("part", "name", "steps", "neuron", "surrogate", "start", "shortcut", "without")
        groups.setdefault(tuple(done[name] for name in key), []).append(done)
    for (_, name, steps, neuron, surrogate, start, shortcut, without), group in groups.items():
        accuracy, test = ([f"{100 * done[key]:.1f}" for done in group] for key in ("validation", "test"))
        begin = " ".join(word for word in (start, shortcut and f"shortcut {shortcut}") if word) or "registry's"
        cells = (name, steps, neuron, surrogate, begin, without, len(group), " ".join(accuracy), " ".join(test))
        good = readings(group[0])["healthy by the verdict"]
        print(f"| {' | '.join(map(str, cells))} | {'yes' if good else 'no'} |")
    single = [group[0] for group in groups.values()]
    accuracy = [done["validation"] for done in single]
    told = [readings(done) for done in single]
    print(f"\nrank correlation with validation accuracy over {len(single)} nets:")
    for name in told[0]:
        print(f"  {rank_correlation([each[name] for each in told], accuracy):5.2f}  {name}")
    _draw(single, told, figure)


def _draw(single: list[dict[str, Any]], told: list[dict[str, float]], path: Path) -> None:
    drawn = figures.figure(11, 4)
    names = ("share of depth that tells inputs apart", "gradient level", "firing rate")
    for axis, name in zip(drawn.subplots(1, 3, sharey=True), names, strict=True):
        for junction, color in (("spiking", "C0"), ("sew", "C1"), ("ms", "C2")):
            at = [i for i, done in enumerate(single) if done["name"].startswith(junction)]
            axis.scatter([told[i][name] for i in at], [single[i]["validation"] for i in at], s=14, c=color)
            axis.scatter([], [], c=color, label="classic" if junction == "spiking" else junction)
        axis.set_xlabel(name + (", log10 of its ratio over depth" if name == "gradient level" else ""))
        axis.grid(alpha=0.2)
    drawn.axes[0].set_ylabel("validation accuracy after training")
    drawn.axes[0].legend(frameon=False)
    drawn.savefig(path, dpi=120)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "probe", "report"))
    parser.add_argument("--part", nargs="*", default=(), help="default, parts, start, deep, surrogate")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args()
    torch.set_num_threads(1)  # runs of a study go side by side
    if given.what == "run":
        train(given.out, given.part)
    elif given.what == "probe":
        probe(given.out)
    else:
        report(given.out, given.figure)


if __name__ == "__main__":
    main()
