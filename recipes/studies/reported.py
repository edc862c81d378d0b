"""Study: a residual net that was reported not to learn, and what the probe says of it.

    python recipes/studies/reported.py [--out FILE]

After snnTorch issue 377, "Training loss does not reduce for a moderately sized network" (2025), in our words, as far as
it is told: five blocks of two convolutions, each with batch norm and a leaky neuron (decay .85, learned; threshold 1;
the reset a step later), T = 10, inputs coded as spikes by their rate, spikes for outputs. Here on the embedded digits,
150 iterations of Adam at .001 with batches of 32, with its default surrogate and with its fast sigmoid; the
latter also tuned.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb

OUT = Path(__file__).parents[2] / "results" / "studies" / "reported.jsonl"
STEPS, ITERATIONS, BATCH = 10, 150, 32
SURROGATES = {"arctangent": rb.surrogate.ATan(2.0), "fast sigmoid of slope 25": rb.surrogate.SuperSpike(25.0)}


class Block(nn.Module):
    """Two convolutions, each with a norm; a 1x1 convolution beside them."""

    def __init__(self, inputs: int, outputs: int, surrogate: rb.surrogate.Surrogate) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Sequential(
                rb.PerStep(nn.Conv2d(n, outputs, 3, padding=1, bias=False)), rb.PerStep(nn.BatchNorm2d(outputs))
            )
            for n in (inputs, outputs)
        )
        self.skip = rb.PerStep(nn.Conv2d(inputs, outputs, 1, bias=False))
        self.fire, self.out = (rb.LIF(0.85, reset="delayed", surrogate=surrogate, learn=("decay",)) for _ in range(2))

    def forward(self, s: Tensor) -> Tensor:
        """Spikes to spikes."""
        out: Tensor = self.out(self.second(self.fire(self.first(s))) + self.skip(s))
        return out


class Reported(nn.Module):
    """Images `[B, 1, 8, 8]` in [0, 1] to spikes `[T, B, 10]`."""

    def __init__(self, surrogate: rb.surrogate.Surrogate) -> None:
        super().__init__()
        widths = (1, 8, 16, 32, 32, 32)
        layers: list[nn.Module] = []
        for i in range(5):
            layers.append(Block(widths[i], widths[i + 1], surrogate))
            layers += [rb.PerStep(nn.MaxPool2d(2))] * (i < 3)
        self.blocks = nn.Sequential(*layers)
        self.head = rb.PerStep(nn.Linear(widths[-1], 10))
        self.out = rb.LIF(0.85, reset="delayed", surrogate=surrogate, learn=("decay",))

    def forward(self, images: Tensor) -> Tensor:
        """Spikes of each class."""
        spikes = (torch.rand(STEPS, *images.shape) < images).to(images.dtype)
        out: Tensor = self.out(self.head(self.blocks(spikes).flatten(2)))
        return out


def digits() -> tuple[Tensor, Tensor]:
    """The training images in [0, 1], and their labels."""
    train = rb.data.load("digits").train
    images = train.inputs.float()
    return images / images.max(), train.labels


def run(name: str, tuned: bool) -> dict[str, Any]:
    """Probe it, after tuning it where asked for, and train it."""
    torch.manual_seed(0)
    images, labels = digits()
    net = Reported(SURROGATES[name])
    if tuned:
        rb.tune(net, images[:128], labels[:128])
    report = rb.probe(net, images[:64], labels[:64])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses, right = [], []
    for _ in range(ITERATIONS):
        few = torch.randint(len(images), (BATCH,))
        counts = net(images[few]).sum(0)
        loss = F.cross_entropy(counts, labels[few])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        right.append(float((counts.argmax(1) == labels[few]).float().mean()))
    first, last = ((losses[part], right[part]) for part in (slice(10), slice(-10, None)))
    return {
        "surrogate": name,
        "tuned": tuned,
        "verdict": report.verdict,
        "gradient_first_over_last": float(f"{report.level:.3g}"),
        "loss_of_first_and_last_10": [round(statistics.mean(each[0]), 3) for each in (first, last)],
        "accuracy_of_first_and_last_10": [round(statistics.mean(each[1]), 3) for each in (first, last)],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    arms = [*((name, False) for name in SURROGATES), ("fast sigmoid of slope 25", True)]
    out.write_text("".join(json.dumps(run(*arm)) + "\n" for arm in arms))
    print(out.read_text())


if __name__ == "__main__":
    main()
