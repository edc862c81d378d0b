"""Study: residual spiking nets of a thousand layers, 80 iterations each.

    python -m recipes.studies.thousand run [--arm NAME ...] [--out FILE]     trains what the file has not yet
    python -m recipes.studies.thousand report [--out FILE] [--figure FILE]

A 3x3 convolution with stride 2, 500 blocks of two 3x3 convolutions of 16 channels on 14x14 places, T = 4; Fashion-MNIST
from $RHEOBASE_DATA, batch 32, no augmentation, SGD at .05 with momentum .9 and the gradient clipped at a norm of 5. (A
published run without norms, SpikeInit's on other images, went from 2.30 to 2.08 in as many iterations.)
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import rheobase as rb
from recipes.studies.lines import add, read
from rheobase import figures
from rheobase.models.net import Net, Parts, Pool, linear
from rheobase.models.resnet import MS, SEW, Begin, Classic, Conv
from rheobase.models.segments import Segmented

ROOT = Path(__file__).parents[2]
OUT, FIGURE = ROOT / "results" / "studies" / "thousand.jsonl", ROOT / "docs" / "figures" / "study-thousand.png"
ARMS = ("classic identity", "classic plain", "sew identity", "sew plain", "ms identity", "ms plain")
BLOCKS, WIDTH, STEPS, BATCH, ITERATIONS = 500, 16, 4, 32, 80


def net(arm: str, blocks: int = BLOCKS, width: int = WIDTH) -> Net:
    """A stem, the blocks, the mean over places, a linear head."""
    junction, start = arm.split()
    parts, begin, convs = Parts(True, steps=STEPS), Begin(start == "identity"), [Conv(width, width, 3)] * 2
    layers: list[nn.Module] = [parts.conv(1, width, 3, 2), parts.fire(width, drive=junction == "ms")]
    block: Any = {"classic": Classic, "sew": partial(SEW, connect="add"), "ms": MS}[junction]
    layers += [block(parts, convs, begin=begin) for _ in range(blocks - 1)]
    layers += [block(parts, convs, begin=begin, **({"last": True} if junction == "ms" else {})), Pool()]
    found = Net(Segmented(*layers), linear(width, 10), 1, STEPS, True)
    return found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def run(arm: str) -> dict[str, Any]:
    """Probe it, and train it."""
    torch.manual_seed(0)
    model, data = net(arm), rb.data.load("fashion-mnist")
    batches = iter(rb.data.Batches(data.train, batch_size=BATCH, mean=data.mean, std=data.std, seed=0))
    images, labels, _ = next(batches)
    report = rb.probe(model, images, labels, preset="quick")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses, begin = [], time.time()
    for _ in range(ITERATIONS):
        optimizer.zero_grad()
        loss = F.cross_entropy(rb.readout(model(images)), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(round(loss.item(), 4))
        images, labels, _ = next(batches)
    return {
        "arm": arm,
        "layers": 2 * BLOCKS + 2,
        "losses": losses,
        "seconds_a_step": round((time.time() - begin) / ITERATIONS, 2),
        "verdict": report.verdict,
        "level": float(f"{report.level:.3g}"),
        "similarity_at_the_end": round(report.waists[-1].similarity, 3),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--arm", nargs="*", default=ARMS, choices=ARMS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args()
    found = read(given.out)
    if given.what == "run":
        for arm in given.arm:
            if all(done["arm"] != arm for done in found):
                add(given.out, run(arm))
    else:
        report(found, given.figure)


def report(found: list[dict[str, Any]], figure: Path) -> None:
    """A table, and the curves."""
    drawn = figures.figure(7, 4)
    axis = drawn.subplots()
    print(
        "| net | first 5 | last 5 | gradient first/last | similarity at the end | s a step |\n|---|---|---|---|---|---|"
    )
    for done in found:
        first, last = (sum(part) / 5 for part in (done["losses"][:5], done["losses"][-5:]))
        cells = (done["arm"], f"{first:.2f}", f"{last:.2f}", done["level"], done["similarity_at_the_end"])
        print(f"| {' | '.join(map(str, cells))} | {done['seconds_a_step']} |")
        axis.plot(done["losses"], label=done["arm"], linestyle="-" if "identity" in done["arm"] else ":")
    axis.set_xlabel("iteration")
    axis.set_ylabel("loss")
    axis.set_ylim(0, 4)
    axis.legend(frameon=False)
    drawn.savefig(figure, dpi=120)


if __name__ == "__main__":
    main()
