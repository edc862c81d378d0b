"""Study: what the coupling of a recurrent layer does to the gradient below it (Zhang and Li 2019).

    python -m recipes.studies.coupling [--model FILE] [--about WORDS] [--images N] [--out FILE]

Of 784-400-R400-10 on a grid (recipes/fashion-mnist-spike-train.yaml), as it begins or from a file of `rheobase.save`,
on validation images of Fashion-MNIST in $RHEOBASE_DATA: delta of the layer below the recurrent one, sample by sample,
by the equations with the inverse, (Omega - Theta)^-1 Phi, and instead of it

    first_order   to first order in Theta, as `SpikeTrain` has it by default
    none          without Theta
    as_coded      Phi (Omega - Theta)^-1: what a library that reads matrices by columns makes of theirs, which are
                  written by rows

as the cosine to the first: mean over samples with a gradient, and the least. Beside them how strongly the neurons
excite each other, mean over samples, and the largest: the largest absolute eigenvalue of Omega^-1 Theta, and what the
first order adds to delta / s, as a share of it ("others").
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import add
from recipes.studies.steps import where
from rheobase.rules.spike_train import RULE, first_order, psp_ratios, theta_of, together
from rheobase.training import build, losses, sources

OUT = Path(__file__).parents[2] / "results" / "studies" / "coupling.jsonl"
RECIPE = "fashion-mnist-spike-train"
WAYS = ("first_order", "none", "as_coded")


@torch.enable_grad()
def watched(net: nn.Module, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Spikes of the two hidden layers, and the gradient of the loss by each spike of the second; `[T, B, N]`."""
    with rb.record(net) as tape:
        loss = losses.loss(net(x), y, sources.load(RECIPE).loss) * len(x)
    spikes = {name: trace.spikes for name, trace in list(tape.items())[:2]}
    grads = torch.autograd.grad(loss, list(spikes.values()))
    return {name: each.detach() for name, each in spikes.items()}, dict(zip(spikes, grads, strict=True))


@torch.no_grad()
def deltas(net: Any, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """delta of the layer below, `[B, N]`, by each way and "inverse"; and how strong the coupling is, `[B]`."""
    spikes, grads = watched(net, x, y)
    (_, below), (above_path, above) = spikes.items()
    layer, recurrent = net.features[4].module, net.features[5].neuron
    neuron, threshold = recurrent.neuron, net.features[3].neuron.threshold.double()
    currents = F.linear(below, layer.weight)
    heard = torch.cat([torch.zeros_like(above[:1]), above[:-1]])
    saved = RULE.saved(above.double(), (currents + recurrent.module(heard)).double())
    parts = RULE.parts(neuron.spec(), grads[above_path].double(), saved)
    theta = theta_of(neuron.spec(), recurrent.module.weight, parts, saved)
    phi = layer.weight.double() * psp_ratios(parts.responses, below.double(), delay=0) / threshold

    def down(z: Tensor) -> Tensor:
        return (phi.mT @ z.unsqueeze(-1)).squeeze(-1)

    alone, first = parts.errors / parts.own, first_order(parts, theta)
    found = {
        "inverse": down(together(parts, theta)),
        "first_order": down(first),
        "none": down(alone),
        "as_coded": together(parts._replace(errors=down(parts.errors)), theta),
    }
    strength = {
        "eigenvalue": torch.linalg.eigvals(theta / parts.own.unsqueeze(-1)).abs().amax(-1),
        "others": (first - alone).norm(dim=-1) / alone.norm(dim=-1).clamp(min=1e-30),
    }
    return found, strength


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="of a run of the recipe: RUN/checkpoints/best.safetensors")
    parser.add_argument("--about", default="as it begins", help="what the line of the file says of the model")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = sources.load(RECIPE)
    data = build.dataset(recipe)
    net = build.model(recipe, data) if given.model is None else rb.load(given.model)
    x, y, _ = build.sample(data, data.validation, given.images)
    found, strength = deltas(net, x, y)
    there = found["inverse"].norm(dim=-1) > 0  # (others are within the margin of the loss)
    line: dict[str, Any] = {"about": given.about, "images": int(there.sum())}
    for what, each in strength.items():
        line[what] = [round(each[there].mean().item(), 3), round(each[there].max().item(), 3)]
    for way in WAYS:
        cosine = F.cosine_similarity(found[way], found["inverse"])[there]
        line[way] = [round(cosine.mean().item(), 4), round(cosine.min().item(), 4)]
    print(json.dumps(line))
    add(given.out, {**line, **where(torch.device("cpu"))})


if __name__ == "__main__":
    main()
