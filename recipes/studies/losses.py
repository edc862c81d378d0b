"""Study: the loss of the mean over time, or of each step (TET), on one net, by one recipe.

    python -m recipes.studies.losses run [--seeds N] [--out FILE]     trains what is not there yet
    python -m recipes.studies.losses report [--out FILE]

recipes/fashion-mnist-sew.yaml with a width of 8 (T = 4), 6,000 training images, twelve epochs in float32. Arms: the
cross entropy of the mean of logits; TET (Deng et al. 2022), the mean of the cross entropies, without and with its
second term. Each at each learning rate with seed 0; the rate that validates best, with the other seeds. What is told
is validation, at T = 1 to 8 without more training: no choice is made by the test set.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rheobase as rb
from recipes.studies.lines import add, command
from recipes.studies.rules import best, missing
from rheobase.training import evaluate, sources

OUT = Path(__file__).parents[2] / "results" / "studies" / "losses.jsonl"
RATES = (0.001, 0.004, 0.016)
STEPS = (1, 2, 3, 4, 6, 8)
ARMS: dict[str, dict[str, Any]] = {
    "mean": {},
    "TET, lambda 0": {"loss.name": "tet", "loss.tet_lambda": 0.0},
    "TET, lambda .05": {"loss.name": "tet", "loss.tet_lambda": 0.05},
}
SMALL = {
    **{"model.width": 8, "data.train_limit": 6000, "data.batch_size": 64, "trainer.epochs": 12},
    **{"trainer.precision": "32", "trainer.threads": 1, "trainer.accelerator": "cpu"},
}


def run(name: str, rate: float, seed: int) -> dict[str, Any]:
    """Train an arm once."""
    recipe = sources.load("fashion-mnist-sew", {**SMALL, **ARMS[name], "optimizer.lr": rate, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        summary = rb.train(recipe.replace({"run": f"{folder}/run"})).summary
        found = evaluate(f"{folder}/run", STEPS)
    return {
        **{"arm": name, "lr": rate, "seed": seed, "validation": summary["validation_accuracy"]},
        **{"at": {str(steps): share for steps, share in found.items()}},
        **{"rate": round(statistics.mean(layer["rate"] for layer in summary["layers"]), 4)},
        **{
            key: summary[key]
            for key in ("recipe_sha256", "train_seconds", "commit", "uncommitted_changes", "date", "machine")
        },
    }


def train(out: Path, seeds: int) -> None:
    """Run what is not there yet."""
    for name in ARMS:
        for rate, seed in missing(name, seeds, out, RATES):
            found = run(name, rate, seed)
            add(out, found)
            print(f"{found['validation']:.4f} {name}, lr {rate}, seed {seed}", flush=True)


def report(found: Sequence[dict[str, Any]]) -> None:
    """A table: means over seeds, with the lowest and the highest."""
    print(f"| validation, % | learning rate | seeds | {' | '.join(f'T = {steps}' for steps in STEPS)} | firing rate |")
    print(f"|{'---|' * (4 + len(STEPS))}")
    for name in ARMS:
        mine = [done for done in found if done["arm"] == name]
        if not mine:
            continue
        rate = best(found, name)
        mine = [done for done in mine if done["lr"] == rate]
        cells = []
        for steps in STEPS:
            shares = [100 * done["at"][str(steps)] for done in mine]
            cells.append(f"{statistics.mean(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})")
        spikes = statistics.mean(done["rate"] for done in mine)
        print(f"| {name} | {rate} | {len(mine)} | {' | '.join(cells)} | {spikes:.3f} |")


if __name__ == "__main__":
    command(__doc__, OUT, train, report)
