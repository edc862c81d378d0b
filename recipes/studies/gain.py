"""Study: the gain of a layer and the depth that information reaches, predicted before there is a net, and probed.

    python -m recipes.studies.gain run [--part gain fresh depth] [--out FILE]     measures what the file has not yet
    python -m recipes.studies.gain report [--out FILE]

Nets of 256 units a layer, a norm, neurons; Gaussian inputs `[64, 256]`, labels of no meaning; weights random if nothing
else is said. The gain is the median over the layers of a net without skips. After `rb.tune` (widths alone) the
gradient, first over last, on the batch that it was tuned on and on fresh ones. Information gets as deep as two views of
an input are more alike than .05: that many layers, or blocks of two layers in a residual net. (.3 in SEW and MS nets,
of which .05 is far up, where the curve is flat.)
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import add, read
from rheobase.signal.field import Junction, Stack, down, up
from rheobase.signal.predict import depth, reached
from rheobase.signal.report import Report

OUT = Path(__file__).parents[2] / "results" / "studies" / "gain.jsonl"
WIDTH, BATCH, FRESH = 256, 64, 4
NEURONS = {
    "LIF": rb.LIF(),
    "LIF, decay .9": rb.LIF(0.9),
    "LIF, hard reset": rb.LIF(reset="hard"),
    "IF": rb.IF(),
}


@dataclass(frozen=True)
class Arm:
    """What is measured, of which net. `layers` are blocks in a residual one."""

    part: str
    neuron: str
    steps: int
    surrogate: str = "ATan(2.0)"
    layers: int = 12
    weights: Literal["random", "orthogonal"] = "random"
    junction: Junction = "none"
    least: float = 0.05
    seed: int = 0

    def made(self) -> rb.LIF:
        """The neuron."""
        shape, _, width = self.surrogate.rstrip(")").partition("(")
        neuron = copy.deepcopy(NEURONS[self.neuron])
        neuron.surrogate = getattr(rb.surrogate, shape)(float(width))
        return neuron


def arms() -> Iterator[Arm]:
    """All of them."""
    for neuron in NEURONS:
        for steps in (1, 4, 10, 25):
            for surrogate in ("ATan(2.0)", "SuperSpike(10.0)"):
                yield Arm("gain", neuron, steps, surrogate)
    for neuron in NEURONS:
        for steps in (4, 10):
            yield Arm("fresh", neuron, steps, layers=100)
    for neuron in NEURONS:
        for steps in (1, 2, 4, 8, 10, 16, 32):
            yield Arm("depth", neuron, steps, layers=40)
    for neuron in ("LIF", "IF"):
        for steps in (1, 4, 10):
            for seed in range(3):
                yield Arm("depth", neuron, steps, layers=40, weights="orthogonal", seed=seed)
                if seed:
                    yield Arm("depth", neuron, steps, layers=40, seed=seed)
            yield Arm("depth", neuron, steps, layers=40, junction="classic")
        for steps in (1, 4):
            yield Arm("depth", neuron, steps, layers=60, junction="sew", least=0.3)
            yield Arm("depth", neuron, steps, layers=60, junction="ms", least=0.3)


class Block(nn.Module):
    """A layer; in a residual net two, joined with what goes past them."""

    def __init__(self, arm: Arm, neuron: rb.LIF) -> None:
        super().__init__()
        self.junction, self.branch = arm.junction, nn.Sequential()
        for inner in (True, False)[arm.junction == "none" :]:
            linear = nn.Linear(WIDTH, WIDTH, bias=False)
            if arm.weights == "orthogonal":
                nn.init.orthogonal_(linear.weight)
            else:
                nn.init.normal_(linear.weight, std=WIDTH**-0.5)
            self.branch.append(rb.PerStep(linear))
            if inner:
                self.branch.append(rb.Fire(rb.CurrentNorm(WIDTH), copy.deepcopy(neuron)))
        self.fire = rb.Fire(rb.CurrentNorm(WIDTH), copy.deepcopy(neuron), drive=arm.junction == "ms")

    def forward(self, given: Any) -> Any:
        """Spikes to spikes; with the potentials that go past an MS block."""
        spikes, past = given if self.junction == "ms" else (given, given)
        currents = self.branch(spikes)
        if self.junction == "sew":
            return self.fire(currents, skip=past)
        return self.fire(currents) if self.junction == "none" else self.fire(currents, past)


class Net(nn.Module):
    """Neurons that hear an input, the same at every step, and blocks one after the other."""

    def __init__(self, arm: Arm) -> None:
        super().__init__()
        neuron = arm.made()
        self.arm, self.stem = arm, rb.Fire(rb.CurrentNorm(WIDTH), copy.deepcopy(neuron), drive=arm.junction == "ms")
        self.blocks = nn.Sequential(*(Block(arm, neuron) for _ in range(arm.layers)))
        self.head = rb.PerStep(nn.Linear(WIDTH, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        spikes = self.blocks(self.stem(x.expand(self.arm.steps, *x.shape)))
        logits: Tensor = self.head(spikes[0] if self.arm.junction == "ms" else spikes)
        return logits


def alike(net: Net, report: Report) -> list[float]:
    """How alike two views are behind the stem and each block: of SEW blocks the sums of spikes, else the spikes."""
    last = [layer for layer in report.layers if layer.path == "stem.neuron" or layer.path.endswith(".fire.neuron")]
    found = [place.noisy for place in (report.waists if net.arm.junction == "sew" else last)]
    if len(found) != net.arm.layers + 1:
        raise RuntimeError(f"wanted a reading of the stem and of each of {net.arm.layers} blocks, got {len(found)}")
    return [0.0 if each is None else each for each in found]


def run(arm: Arm) -> dict[str, Any]:
    """Predict, and look."""
    torch.manual_seed(arm.seed)
    neuron, net = arm.made(), Net(arm)
    x, *others = torch.randn(1 + FRESH, BATCH, WIDTH)
    labels = torch.arange(BATCH) % 10
    two = 1 if arm.junction == "none" else 2
    begin = time.perf_counter()
    if arm.part == "depth":
        stack = Stack(neuron, arm.steps, arm.layers, two, arm.junction, samples=BATCH, seed=arm.seed)
        predicted = depth(stack, arm.least)
        seconds = time.perf_counter() - begin
        probed = reached(alike(net, rb.probe(net, x, labels)), arm.least)
        return {"predicted": _short(predicted), "probed": _short(probed), "seconds_to_predict": round(seconds, 2)}
    found = {}
    if arm.part == "gain":
        stack = Stack(neuron, arm.steps, blocks=arm.layers, samples=BATCH)
        sizes = [each.size for each in down(stack, up(stack))]
        found["predicted"] = _short(statistics.median(below / above for below, above in pairwise(sizes)))
        found["seconds_to_predict"] = round(time.perf_counter() - begin, 2)
    tuned = rb.tune(net, x, labels, held_out=(others[0], labels))
    fresh = [tuned.held_out, *(rb.probe(net, other, labels, "quick") for other in others[1:])]
    gains = [layer.gain for layer in tuned.before.layers if layer.gain is not None]
    return found | {
        "probed": _short(statistics.median(gains)),
        "level_before": _short(tuned.before.level),
        "level_tuned": _short(tuned.after.level),
        "level_fresh": [_short(report.level) for report in fresh],
    }


def _short(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def report(found: list[dict[str, Any]]) -> None:
    """Tables."""
    parts = {part: [done for done in found if done["part"] == part] for part in ("gain", "fresh", "depth")}
    print("| neuron | T | surrogate | layers | seed | gain predicted | probed | before | tuned | on fresh batches |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for done in (*parts["gain"], *parts["fresh"]):
        names = ("neuron", "steps", "surrogate", "layers", "seed", "predicted", "probed", "level_before", "level_tuned")
        fresh = " ".join(map(str, done["level_fresh"]))
        print("| " + " | ".join(str(done.get(name, "")) for name in names) + f" | {fresh} |")
    off = [abs(done["predicted"] / done["probed"] - 1) for done in parts["gain"]]
    if off:
        print(f"\nprediction off by {statistics.median(off):.1%} in the median, {max(off):.1%} at most")
    for part in ("gain", "fresh"):
        levels = [level for done in parts[part] for level in done["level_fresh"]]
        if levels:
            print(f"{part}: on fresh batches first over last from {min(levels)} to {max(levels)}")
    print("\n| depth predicted / probed | T | weights | junction | seed | | factor |\n|---|---|---|---|---|---|---|")
    factors = []
    for done in parts["depth"]:
        predicted, probed = done["predicted"], done["probed"]
        factor = 1.0 if predicted == probed else predicted / probed if predicted and probed else math.nan
        factors.append(factor)
        names = ("neuron", "steps", "weights", "junction", "seed")
        print("| " + " | ".join(str(done[name]) for name in names) + f" | {predicted} / {probed} | {factor:.2f} |")
    if factors:
        print(f"\ndepth: predicted over probed from {min(factors):.2f} to {max(factors):.2f}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--part", nargs="*", default=("gain", "fresh", "depth"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = read(given.out)
    if given.what == "report":
        report(found)
        return
    for arm in arms():
        about = asdict(arm)
        if arm.part in given.part and not any(about.items() <= done.items() for done in found):
            line = about | run(arm) | {"date": time.strftime("%Y-%m-%d")}
            add(given.out, line)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
