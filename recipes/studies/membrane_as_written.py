"""Membrane-potential backpropagation as Lee et al. 2016 write it, on MNIST: fully connected, one sample at a time.

    python recipes/studies/membrane_as_written.py --root DIR --hidden 800 --epochs 20 --out FILE.json

Choices are made on the validation split; the test split is looked at once, after the last epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from rheobase.data import Dataset, load, seed_of
from rheobase.data.dataset import Samples
from rheobase.files import write_atomic
from rheobase.rules.online import Online, Settings, poisson


def main() -> None:
    """Train, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="data root (default: RHEOBASE_DATA)")
    parser.add_argument("--data", default="mnist", help="mnist, fashion-mnist or digits")
    parser.add_argument("--hidden", type=int, nargs="+", default=[800])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, help="train on so many samples an epoch")
    parser.add_argument("--event-rate", type=float, default=0.2, help="events a ms of a pixel that is 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    for field in fields(Settings):
        if isinstance(field.default, tuple):
            parser.add_argument(f"--{field.name}", type=float, nargs=2, default=field.default)
        else:
            parser.add_argument(f"--{field.name}", type=float, default=field.default)
    given = vars(parser.parse_args())
    chosen = {field.name: given[field.name] for field in fields(Settings)}
    settings = Settings(**{name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items()})
    data = load(given["data"], given["root"])
    found = train(data, settings, given)
    print(json.dumps(found))
    if given["out"]:
        write_atomic(given["out"], (json.dumps(found, indent=2) + "\n").encode())


def train(data: Dataset, settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of the last weights, and their course; the learning rates fall to zero in a straight line."""
    seed, rate, epochs = given["seed"], given["event_rate"], given["epochs"]
    images, labels = pixels(data.train)
    count = given["limit"] or len(images)
    net = Online([images.shape[1], *given["hidden"], data.classes], settings, seed)
    began, course = time.perf_counter(), []
    for epoch in range(epochs):
        order = np.random.default_rng(seed_of("order", seed, epoch)).permutation(len(images))[:count]
        right = 0
        for index, i in enumerate(order):
            step = epoch * count + index
            events = poisson(images[i], settings, rate, seed_of("events", seed, step))
            shown = net.present(*events, learning=True)
            right += net.answer(shown) == labels[i]
            net.learn(shown, int(labels[i]), share=1 - step / (epochs * count))
        course.append({"train": right / count, **evaluate(net, data.validation, rate, seed)})
        print(f"epoch {epoch + 1}/{epochs}", course[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    seconds = time.perf_counter() - began
    test = evaluate(net, data.test, rate, seed)
    asked = {
        name: value for name, value in given.items() if name not in ("root", "out") and not hasattr(settings, name)
    }
    return {"test": test, "course": course, "train_seconds": seconds, **asked, "settings": asdict(settings)}


def pixels(split: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Images with values in [0, 1], `[N, pixels]`, and labels."""
    inputs = split.read(split.labels.new_tensor(range(len(split)))).inputs.flatten(1).numpy()
    return inputs / (255 if inputs.max() > 16 else 16), split.labels.numpy()


def evaluate(net: Online, split: Samples, rate: float, seed: int) -> dict[str, float]:
    """Accuracy, share of samples without an output spike, and per sample spikes and additions (events x fan-out)."""
    images, labels = pixels(split)
    fan_out = [len(th) for th in net.thresholds]
    right = silent = spikes = additions = 0
    for i, image in enumerate(images):
        shown = net.present(*poisson(image, net.settings, rate, seed_of("evaluation", seed, i)))
        counts = [int(c.sum()) for c in shown.counts]
        right += net.answer(shown) == labels[i]
        silent += counts[-1] == 0
        spikes += sum(counts[1:])
        additions += sum(n * out for n, out in zip(counts, fan_out, strict=False))
    n = len(images)
    return {"accuracy": right / n, "silent": silent / n, "spikes": spikes / n, "additions": additions / n}


if __name__ == "__main__":
    main()
