"""Study: one neuron learns a spike train by heart, by neighborhood aggregation in its forms and by a surrogate.

    python recipes/studies/spike_trains.py [--out FILE.json]        about a minute of one core

40 tasks at once, each with a neuron of its own: 200 inputs that spike at random, T = 30, tau_m = 5, tau_s = 2 (but for
a LIF, which has no synapse), a random spike train that is wanted; the loss is half the squared distance of the two
trains after the synaptic filter, summed over time. 200 steps of length 0.1 against the gradient, of which only the
direction counts. Told are the mean loss after the last step, and the share of tasks whose spikes are the wanted ones
then.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import rheobase as rb
from rheobase.rules import Neighborhood

OUT = Path(__file__).parents[2] / "results" / "studies" / "spike_trains.json"
RULES = {
    "1 / distance": Neighborhood(),
    "1 / distance, filter twice": Neighborhood(twice=True),
    "1 / distance^3": Neighborhood(3.0, 5.0),
    "published: 1 / distance^3, filter twice": Neighborhood.published(),
    "surrogate Sigmoid(5)": None,
}
SURROGATE = rb.surrogate.Sigmoid(5.0)
PLAIN = rb.LIF(0.8, 1.0, "hard", False, SURROGATE)
CUBA = rb.CubaLIF(0.5, 0.8, 1.0, "hard", False, SURROGATE, 0.5)
TASKS = {  # spikes a step of inputs and of the wanted train; mean and deviation of the initial weights
    "LIF, without a synapse": (PLAIN, 0.1, 0.2, 0.0, 200**-0.5),
    "few spikes at first": (CUBA, 0.1, 0.2, 0.0, 200**-0.5),
    "many spikes at first": (CUBA, 0.05, 0.2, 0.1, 0.1),
    "fewer wanted": (CUBA, 0.2, 0.1, 0.0, 200**-0.5),
}
STEPS, COUNT, ITERATIONS = 30, 40, 200


def learned(rule: Any, task: str, seed: int) -> dict[str, float] | None:
    """What 40 neurons have learned; None where the rule does not take them."""
    torch.manual_seed(seed)
    neuron, inputs, wanted, mean, deviation = TASKS[task]
    lag = (torch.arange(STEPS)[:, None] - torch.arange(STEPS)).float()
    kernel = torch.where(lag < 0, 0, 0.5 * 0.5 ** lag.clamp(min=0))
    x, target = (torch.rand(STEPS, COUNT, 200) < inputs).float(), (torch.rand(STEPS, COUNT) < wanted).float()
    weights = (mean + deviation * torch.randn(COUNT, 200)).requires_grad_()
    if rule is not None and rule.why_not(neuron.spec(), x):
        return None
    neuron.rule = rule
    for k in range(ITERATIONS + 1):
        spikes = neuron(torch.einsum("tbn,bn->tb", x, weights))
        loss = 0.5 * (kernel @ (spikes - target)).square().sum(0)
        if k < ITERATIONS:
            (gradient,) = torch.autograd.grad(loss.sum(), weights)
            with torch.no_grad():
                weights -= 0.1 * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
    solved = (spikes == target).all(0).float().mean()
    return {"loss": round(loss.detach().mean().item(), 4), "solved": round(solved.item(), 4)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = {rule: {task: learned(RULES[rule], task, given.seed) for task in TASKS} for rule in RULES}
    about = {"seed": given.seed, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    given.out.write_text(json.dumps({"table": table, **about, "system": platform.platform()}, indent=1) + "\n")
    print(f"| rule | {' | '.join(TASKS)} |\n|{'---|' * (len(TASKS) + 1)}")
    for rule, row in table.items():
        cells = [f"{each['loss']:.3f}, {100 * each['solved']:.0f} %" if each else "" for each in row.values()]
        print(f"| {rule} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
