"""Study: do membrane-potential backpropagation and the surrogate through time lead downhill in the spiking loss?

    python -m recipes.studies.direction [--state STATE ...] [--out FILE]      measures what the file has not yet

The embedded digits as Poisson spikes, 64-32-32-10, T = 25: cosine of each rule's gradient to finite differences of the
mean loss over the draws of those spikes (`rheobase.rules.direction`), before training, and after it, by either rule.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import read
from rheobase.data.dataset import Samples
from rheobase.files import write_atomic
from rheobase.kernels import Rule
from rheobase.rules.direction import directions
from rheobase.training import losses
from rheobase.training.recipe import LossOptions

OUT = Path(__file__).parents[2] / "results" / "studies" / "direction.jsonl"
RULES: dict[str, Rule | None] = {"membrane": rb.rules.Membrane(), "surrogate": None}
DECAY = 0.9512294
STATES = ("start", "membrane", "surrogate")  # at the beginning, or trained by that rule
EPOCHS, SAMPLES, DRAWS, ELEMENTS, STEP = 10, 20, 100, 24, 0.3
LOSS = partial(losses.loss, options=LossOptions(name="membrane", membrane_decay=DECAY))


def net(rule: str) -> nn.Module:
    """As `recipes/mnist-membrane-800.yaml`, smaller."""
    torch.manual_seed(0)
    return rb.models.create(
        "mlp", classes=10, in_channels=1, image_size=8, layers="32-32", norm="none", steps=25, rule=rule,
        coding="poisson", coding_rate=0.6, output="spikes", alpha=4.0, alpha_out=4.0,
        neuron=rb.LIF(DECAY, learn="threshold"),
    )  # fmt: skip


def batches(split: Samples, size: int, seed: int | None = None) -> rb.data.Batches:
    """Images with values in [0, 1]; shuffled with a seed."""
    return rb.data.Batches(split, batch_size=size, mean=torch.zeros(1), std=16 * torch.ones(1), seed=seed)


def trained(rule: str, data: rb.data.Dataset) -> nn.Module:
    """By that rule, and Adam."""
    model = net(rule)
    optimizer = torch.optim.Adam(model.parameters(), 0.002)
    shuffled = batches(data.train, 50, seed=0)
    for epoch in range(EPOCHS):
        shuffled.seek(epoch, 0)
        for images, labels, _ in shuffled:
            optimizer.zero_grad()
            LOSS(model(images), labels).backward()
            optimizer.step()
    return model


def seen(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Loss, accuracy and firing rates."""
    with torch.no_grad(), rb.record(model) as tape:
        logits = model(images)
    right = (rb.Integrator(DECAY)(logits)[-1].argmax(1) == labels).double().mean()
    rates = [float(trace.spikes.mean()) for trace in tape.values()]
    return {"loss": float(LOSS(logits, labels)), "accuracy": float(right), "rates": rates}


def measured(state: str, seed: int) -> dict[str, Any]:
    """One row: of a net in that state, and with noise of that seed."""
    data, began = rb.data.load("digits"), time.perf_counter()
    images, labels, _ = batches(data.validation, len(data.validation)).batch(0, 0)
    model = net("surrogate") if state == "start" else trained(state, data)
    found = directions(
        model, images[:SAMPLES], labels[:SAMPLES], RULES,
        loss=LOSS, noise=0, draws=DRAWS, step=STEP, elements=ELEMENTS, seed=seed,
    )  # fmt: skip
    sizes = {"epochs": EPOCHS, "samples": SAMPLES, "draws": DRAWS, "step": STEP, "elements": ELEMENTS}
    row = {"state": state, "seed": seed, **sizes, **seen(model, images, labels)}
    row |= {rule: direction._asdict() for rule, direction in found.items()}
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Measure what the file has not yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--state", nargs="+", choices=STATES, default=STATES)
    given = parser.parse_args()
    rows = read(given.out)
    there = {(row["state"], row["seed"]) for row in rows}
    for state in given.state:
        for seed in (0, 1):
            if (state, seed) not in there:
                rows.append(measured(state, seed))
                print(json.dumps(rows[-1]), flush=True)
                write_atomic(given.out, "".join(json.dumps(row) + "\n" for row in rows).encode())


if __name__ == "__main__":
    main()
