"""Study: from rates to spikes, what noise and sharpness-aware training change.

    python -m recipes.studies.swap run [--seeds N] [--out FILE]     trains what the file has not yet
    python -m recipes.studies.swap report [--out FILE]

A convolutional network of rate neurons (soft LIF), 12C5-P2-40C5-P2-200, on 6,000 images of MNIST from $RHEOBASE_DATA,
five epochs of AdamW at .003 and one cycle; then LIF neurons in their place, 1,000 images of validation, a filter of
2 ms, and the first image's millisecond counted as step 1. Arms:

    plain           no noise on the rates
    noise N         normal noise of N spikes a second in training (10: what `SoftLIF` has)
    sharpness R     no noise; each step takes its gradient where the loss is worst within R of the weights (SAM, Foret
                    et al. 2021: at w + R g / |g|), so that it costs two
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import add, command, read
from recipes.studies.steps import batches, calibration, where
from rheobase.training.evaluation import accuracies

OUT = Path(__file__).parents[2] / "results" / "studies" / "swap.jsonl"
ARMS: dict[str, tuple[float, float]] = {
    "plain": (0.0, 0.0),
    "noise 10": (10.0, 0.0),
    "noise 20": (20.0, 0.0),
    "sharpness .05": (0.0, 0.05),
    "sharpness .2": (0.0, 0.2),
}
"""Noise and radius."""
WINDOWS = {0: (25, 30, 40, 60, 80), 20: (25, 30, 40, 60, 80)}
"""First step of the readout, and its ends."""
IMAGES, EPOCHS, BATCH, LOOKED_AT = 6000, 5, 64, 1000


def sharpest(model: nn.Module, radius: float, inputs: Tensor, labels: Tensor) -> Tensor:
    """The loss, with the gradient of where it is worst within a radius of the weights."""
    loss = F.cross_entropy(model(inputs).mean(0), labels)
    loss.backward()
    if not radius:
        return loss
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    norm = torch.stack([weight.grad.norm() for weight in weights]).norm()  # type: ignore[union-attr]
    moves = [weight.grad * (radius / norm) for weight in weights]  # type: ignore[operator]
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight.add_(move)
            weight.grad = None
    worst = F.cross_entropy(model(inputs).mean(0), labels)
    worst.backward()
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight.sub_(move)
    return loss


def run(arm: str, seed: int) -> dict[str, Any]:
    """Train it, and swap."""
    noise, radius = ARMS[arm]
    data, begin = rb.data.load("mnist"), time.time()
    torch.manual_seed(seed)
    model = rb.models.create(
        "convnet",
        **{"classes": 10, "in_channels": 1, "image_size": 28, "layers": "12C5-P2-40C5-P2-200", "padding": "valid"},
        **{"spiking": False, "neuron": rb.SoftLIF(noise=noise)},
    )
    few = data.train.at(torch.arange(len(data.train))[:: len(data.train) // IMAGES][:IMAGES])
    stream = rb.data.Batches(few, batch_size=BATCH, mean=data.mean, std=data.std, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
    steps = EPOCHS * (IMAGES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps)
    losses: list[float] = []
    for step in range(steps):
        inputs, labels, _ = stream.batch(*divmod(step, IMAGES // BATCH))
        optimizer.zero_grad()
        losses.append(float(sharpest(model, radius, inputs, labels).detach()))
        optimizer.step()
        schedule.step()
    model.eval()
    looked_at = batches(data, data.validation.at(torch.arange(LOOKED_AT)), 250)
    spiking = rb.convert(model, calibration(data), rb.graph.SpikingTwin(), steps=80).eval()
    swapped = {
        str(skip): rb.graph.accuracies(spiking, looked_at, ends, skip=skip).accuracy for skip, ends in WINDOWS.items()
    }
    [rates] = accuracies(model, looked_at, [None], torch.device("cpu"))
    return {
        **{"arm": arm, "seed": seed, "rates": rates, "spikes": swapped},
        **{"train_loss": round(statistics.mean(losses[-50:]), 4), "seconds": round(time.time() - begin)},
        **where(torch.device("cpu")),
    }


def report(found: list[dict[str, Any]]) -> None:
    """A table: means over seeds."""
    head = " | ".join(f"{skip} to {end}" for skip, ends in WINDOWS.items() for end in ends)
    print(f"| accuracy, % | seeds | rates | {head} |\n|{'---|' * (3 + sum(map(len, WINDOWS.values())))}")
    for arm in ARMS:
        done = [each for each in found if each["arm"] == arm]
        if done:
            cells = [statistics.mean(each["rates"] for each in done)]
            for skip, ends in WINDOWS.items():
                cells += [statistics.mean(each["spikes"][str(skip)][str(end)] for each in done) for end in ends]
            print(f"| {arm} | {len(done)} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |")


def train(out: Path, seeds: int) -> None:
    """Run what is not there yet."""
    for seed in range(seeds):
        for arm in ARMS:
            if not any((done["arm"], done["seed"]) == (arm, seed) for done in read(out)):
                line = run(arm, seed)
                add(out, line)
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    command(__doc__, OUT, train, report)
