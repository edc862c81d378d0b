"""Study: residual nets of 50 to several hundred layers take their first steps, and what each layer keeps in memory.

    python -m recipes.studies.depth [--net NAME ...] [--out FILE]     measures what the file has not yet
    python -m recipes.studies.depth --show [--out FILE]               a table

Width 8, T = 4, the embedded digits at 32x32 (each pixel sixteen times), batch 2: 20 steps of AdamW at .001, the
gradient clipped at a norm of 5. Nets begin as the registry's do with nothing else set (classic and MS blocks as the
identity), "tuned" ones with surrogates levelled by `rb.tune` on 32 other images. A probe before and after sees 32
training images, since two tell nothing of likeness. The net of several hundred layers has blocks of two 3x3
convolutions of 8 channels on 16x16 places (recipes/studies/thousand.py).

Memory is the largest sum of tensors that a training step has at once, besides weights, by the profiler's account of the
allocator; also with activation checkpointing, in as many parts as the square root of the layers of `net.features`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from recipes.studies import thousand
from recipes.studies.lines import add, read
from recipes.studies.steps import batches, where
from rheobase.models import Net

OUT = Path(__file__).parents[2] / "results" / "studies" / "depth.jsonl"
STEPS, BATCH, SEEN, ITERATIONS, WIDTH = 4, 2, 32, 20, 8
BLOCKS = 240
"""Of the deepest net, which has two layers each, and two more."""
JUNCTIONS = {"classic": "spiking", "sew": "sew", "ms": "ms"}
NETS = (
    *(f"{junction} {depth}" for depth in (50, 101, 152) for junction in JUNCTIONS),
    f"ms {2 * BLOCKS + 2}",
    *("sew 50 identity", "classic 101 tuned"),
)


def made(name: str) -> Net:
    """A net, freshly initialised."""
    junction, depth, *_ = name.split()
    torch.manual_seed(0)
    if int(depth) == 2 * BLOCKS + 2:
        return thousand.net(f"{junction} identity", BLOCKS, WIDTH)
    start: dict[str, Any] = {"start": "identity"} if "identity" in name else {}
    kind = f"{JUNCTIONS[junction]}_resnet{depth}"
    return rb.models.create(kind, classes=10, in_channels=1, steps=STEPS, width=WIDTH, **start)


def images(count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Training images, and their labels."""
    data = rb.data.load("digits")
    x, y, _ = batches(data, data.train.at(torch.arange(first, first + count)), count).batch(0, 0)
    return F.interpolate(x, scale_factor=4.0), y


def measured(name: str) -> dict[str, Any]:
    """The line of a net."""
    net = made(name)
    x, y = images(SEEN)
    if name.endswith("tuned"):
        rb.tune(net, *images(SEEN, SEEN), held_out=(x, y))
    before = health(net, x, y)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.001)
    losses, seconds = [], []
    for step in range(ITERATIONS):
        begin = time.process_time()
        losses.append(round(_step(net, *images(BATCH, BATCH * step)), 4))
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        seconds.append(time.process_time() - begin)
    after = health(net, x, y)
    parts: Any = net.features
    memory = {}
    for count in (1, round(math.sqrt(len(parts)))):
        parts.segments = count
        memory[str(count)] = peak(lambda: _step(net, *images(BATCH)))
    return {
        **{"net": name, "layers": int(name.split()[1]), "parameters": sum(p.numel() for p in net.parameters())},
        **{"before": before, "after": after, "losses": losses, "megabytes": memory},
        **{"seconds_a_step": round(statistics.median(seconds), 3), **where(torch.device("cpu"))},
    }


def health(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """A probe, in short."""
    report = rb.probe(net, x, y)
    similarity = report.places[-1].similarity
    return {
        "gradient": float(f"{report.level:.3g}"),
        "similarity": None if similarity is None else round(similarity, 3),
        "healthy": report.healthy,
        "verdict": report.verdict,
    }


def _step(net: nn.Module, x: Tensor, y: Tensor) -> float:
    net.zero_grad()
    loss = F.cross_entropy(rb.readout(net(x)), y)
    loss.backward()
    return loss.item()


def peak(call: Callable[[], Any]) -> float:
    """The most that a call has allocated at once, in MB; after one that does not count."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    now = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return round(most / 1e6, 2)


def run(names: Sequence[str], out: Path) -> None:
    """Measure what the file has not yet."""
    for name in names:
        if all(done["net"] != name for done in read(out)):
            found = measured(name)
            add(out, found)
            print(f"{name}: {found['losses'][0]} to {found['losses'][-1]}, {found['after']['verdict']}", flush=True)


def show(found: list[dict[str, Any]]) -> None:
    """A table."""
    print(
        "| net | loss, mean of the first and last five | gradient, first over last: before, after "
        "| similarity at the end | healthy | MB | kB a layer | MB in so many parts | kB a layer | s a step |"
    )
    print(f"|{'---|' * 10}")
    for done in found:
        first, last = (statistics.mean(part) for part in (done["losses"][:5], done["losses"][-5:]))
        probes = done["before"], done["after"]
        (_, whole), (parts, divided) = done["megabytes"].items()
        cells = (
            *(done["net"], f"{first:.2f} to {last:.2f}"),
            *(", ".join(str(probe[key]) for probe in probes) for key in ("gradient", "similarity")),
            ", ".join("yes" if probe["healthy"] else "no" for probe in probes),
            *(f"{whole:.1f}", f"{1000 * whole / done['layers']:.0f}"),
            *(f"{divided:.1f} in {parts}", f"{1000 * divided / done['layers']:.0f}", done["seconds_a_step"]),
        )
        print(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="*", choices=NETS, default=NETS)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.show:
        show(read(given.out))
    else:
        run(given.net, given.out)


if __name__ == "__main__":
    main()
