"""Study: the gain of a layer and the depth that information reaches, predicted before there is a net, and probed.

    python recipes/studies/gain.py run [--part gain depth] [--out FILE]     measures what the file has not yet
    python recipes/studies/gain.py report [--out FILE]

Nets without skips: 256 random units a layer, a norm, neurons; Gaussian inputs `[64, 256]`, labels of no meaning. The
gain is the median over layers. After `rb.tune` (widths alone) the gradient, first over last, on the batch that it
was tuned on and on another. A signal gets as deep as the last layer at which two views of an input are alike (.05).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.field import Stack, down, up
from rheobase.signal.predict import depth

OUT = Path(__file__).parents[2] / "results" / "studies" / "gain.jsonl"
WIDTH, BATCH, DEEP, LEAST = 256, 64, 40, 0.05
NEURONS = {
    "LIF": rb.LIF(),
    "LIF, decay .9": rb.LIF(0.9),
    "LIF, hard reset": rb.LIF(reset="hard"),
    "IF": rb.IF(),
}


@dataclass(frozen=True)
class Arm:
    """What is measured, of which neuron."""

    part: str
    neuron: str
    steps: int
    surrogate: str = "ATan(2.0)"
    layers: int = 12

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
    for steps in (4, 10):
        yield Arm("gain", "LIF", steps, layers=100)
    for neuron in NEURONS:
        for steps in (2, 4, 8, 16, 32):
            yield Arm("depth", neuron, steps, layers=DEEP)


class Ladder(nn.Module):
    """Layers one after the other, on an input that is the same at every step."""

    def __init__(self, neuron: rb.LIF, layers: int, steps: int) -> None:
        super().__init__()
        self.steps, self.layers, self.head = steps, nn.Sequential(), rb.PerStep(nn.Linear(WIDTH, 10))
        for _ in range(layers):
            linear = nn.Linear(WIDTH, WIDTH, bias=False)
            nn.init.normal_(linear.weight, std=WIDTH**-0.5)
            self.layers.append(nn.Sequential(rb.PerStep(linear), rb.Fire(rb.CurrentNorm(WIDTH), copy.deepcopy(neuron))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.layers(x.expand(self.steps, *x.shape)))
        return logits


def run(arm: Arm) -> dict[str, Any]:
    """Predict, and look."""
    torch.manual_seed(0)
    neuron, (x, other) = arm.made(), torch.randn(2, BATCH, WIDTH)
    labels = torch.arange(BATCH) % 10
    if arm.part == "depth":
        begin = time.perf_counter()
        predicted = depth(Stack(neuron, arm.steps, blocks=arm.layers), LEAST)
        seconds = time.perf_counter() - begin
        layers = rb.probe(Ladder(neuron, arm.layers, arm.steps), x, labels).layers
        probed = next((i for i, layer in enumerate(layers) if (layer.noisy or 0.0) < LEAST), arm.layers)
        return {"predicted": round(predicted, 2), "probed": probed, "seconds_to_predict": round(seconds, 2)}
    begin = time.perf_counter()
    stack = Stack(neuron, arm.steps, blocks=arm.layers - 1, samples=BATCH)
    sizes = [each.size for each in down(stack, up(stack))]
    seconds = time.perf_counter() - begin
    tuned = rb.tune(Ladder(neuron, arm.layers, arm.steps), x, labels, held_out=(other, labels))
    gains = [layer.gain for layer in tuned.before.layers if layer.gain is not None]
    return {
        "predicted": _short(statistics.median(below / above for below, above in pairwise(sizes))),
        "probed": _short(statistics.median(gains)),
        "level_before": _short(tuned.before.level),
        "level_tuned": _short(tuned.after.level),
        "level_held_out": _short(tuned.held_out.level),
        "seconds_to_predict": round(seconds, 2),
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def report(found: list[dict[str, Any]]) -> None:
    """Tables."""
    print(
        "| neuron | T | surrogate | layers | gain predicted | probed | first/last before | tuned | on another batch |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for done in found:
        if done["part"] == "gain":
            names = ("neuron", "steps", "surrogate", "layers", "predicted", "probed", "level_before", "level_tuned")
            print("| " + " | ".join(str(done[name]) for name in (*names, "level_held_out")) + " |")
    off = [abs(done["predicted"] / done["probed"] - 1) for done in found if done["part"] == "gain"]
    print(f"\nprediction off by {statistics.median(off):.1%} in the median, {max(off):.1%} at most\n")
    steps = sorted({done["steps"] for done in found if done["part"] == "depth"})
    print(f"| depth predicted / probed | {' | '.join(f'T={count}' for count in steps)} |\n|---|{'---|' * len(steps)}")
    for neuron in NEURONS:
        cells = {d["steps"]: d for d in found if d["part"] == "depth" and d["neuron"] == neuron}
        row = [f"{cells[count]['predicted']} / {cells[count]['probed']}" if count in cells else "" for count in steps]
        print(f"| {neuron} | {' | '.join(row)} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--part", nargs="*", default=("gain", "depth"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    found = [json.loads(line) for line in lines]
    if given.what == "report":
        report(found)
        return
    for arm in arms():
        about = asdict(arm)
        if arm.part in given.part and not any(about.items() <= done.items() for done in found):
            line = json.dumps(about | run(arm) | {"date": time.strftime("%Y-%m-%d")})
            with given.out.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
