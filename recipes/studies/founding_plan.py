"""What the founding study will take: minutes by a few steps of each arm, on the machine that it runs on."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.founding_arms import CONVERTED, CURVE, STEPS, Conversion
from recipes.studies.steps import CALIBRATION, batches
from rheobase.graph import Calibrated
from rheobase.models import Net

if TYPE_CHECKING:
    from recipes.studies.founding import Study


def plan(study: Study, arms: Sequence[str]) -> None:
    """The arms in order, with minutes by a few steps of each: process time on a CPU, on one thread."""
    data, total = study.dataset, 0.0
    batch = study.keys["data.batch_size"]
    labels = data.train.labels[:batch]
    images = batches(data, data.train.at(torch.arange(batch)), batch).batch(0, 0).inputs.to(study.device)
    print("| arm | ms an image, training | evaluation | minutes | if cut |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        tried = replace(study, runs=Path(folder), steps=4)
        for name in arms:
            made = CONVERTED.get(name)
            net, _ = tried.trained(made.of if made else name)
            net.to(study.device)
            if made:
                minutes, cells = _minutes_to_convert(study, net, images, made)
                cut = ""
            else:
                passed = _seconds(partial(_look, net.eval(), images), study.device) / batch
                epochs = study.form.net(name)["trainer.epochs"]
                step = _seconds(partial(_step, net.train(), images, labels), study.device) / batch
                epoch = len(data.train) * step + len(data.validation) * passed
                looks = max(CURVE) / STEPS if net.spiking else 1
                minutes = (epochs * epoch + looks * len(data.test) * passed) / 60
                cells = f"{1000 * step:.2f} | {1000 * passed:.2f}"
                rule = net.spiking and name != "tuned"
                cut = f"{max(1, epochs // 3) * epoch / 60:.0f}" if rule else ""
            total += minutes
            print(f"| {name} | {cells} | {minutes:.0f} | {cut} |", flush=True)
    print(f"\n{total / 60:.1f} hours in all, if none is cut ({'GPU' if study.device.type == 'cuda' else 'one thread'})")


def _minutes_to_convert(study: Study, ann: Net, images: Tensor, made: Conversion) -> tuple[float, str]:
    """A calibration passes the net twice a layer, half of it on average; the test set is seen at each T."""
    net = rb.convert(ann, [images[:4]], made.method, STEPS).eval()
    frame = _seconds(partial(_look, net, images, STEPS), study.device) / (STEPS * len(images))
    few = min(study.form.long or len(study.dataset.test), len(study.dataset.test))
    looked = [len(study.dataset.test) * max(count for count in made.steps if count <= 100)]
    looked += [few * count for count in made.steps if count > 100]
    if isinstance(made.method, Calibrated):
        looked.append(CALIBRATION * made.at * len(net.layers))
    return sum(looked) * frame / 60, f" | {1000 * STEPS * frame:.2f}"


@torch.no_grad()
def _look(net: nn.Module, images: Tensor, *steps: int) -> None:
    net(images, *steps)


def _step(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.AdamW(net.parameters())
    F.cross_entropy(rb.readout(net(images)), labels.to(images.device)).backward()
    optimizer.step()


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    """The median of three, after one that does not count."""
    gpu = device.type == "cuda"

    def now() -> float:
        if gpu:
            torch.cuda.synchronize(device)
        return time.perf_counter() if gpu else time.process_time()

    call()
    found = []
    for _ in range(3):
        begin = now()
        call()
        found.append(now() - begin)
    return statistics.median(found)
