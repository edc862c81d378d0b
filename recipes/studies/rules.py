"""Study: gradient rules side by side, on one network, one data set and one budget.

    python -m recipes.studies.rules run [--arm NAME ...] [--limit N] [--epochs N] [--out FILE]   trains what is not yet
    python -m recipes.studies.rules report [--out FILE] [--figure FILE]                          table and figure

784-200-200-10 with CurrentNorm, T = 8, and the first of NEURONS that the rule takes; images of Fashion-MNIST from
$RHEOBASE_DATA at each step, batch 128, AdamW, one cycle. Each rule is trained at each learning rate with seed 0; the
rate that validates best is kept, and trained with the other seeds. The test split of a run is looked at after its last
epoch, and decides nothing. Beside them the same layers of rate neurons (soft LIF), trained as an ANN and converted:
they are measured as spiking LIF in SPIKING steps, of which the first SKIPPED are not read; 1000 images choose the rate.

A line of the file also has seconds of an epoch and firing rates; with seed 0 what the forward pass of 1024 images keeps
for the backward pass (MB), and the cosine of the gradient to finite differences of the loss under input noise, of all
weights and of each layer's, at the beginning (the same weights for all) and after training (not of the ANN, whose loss
is another).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from recipes.studies.lines import add, read
from rheobase import figures
from rheobase.data.dataset import Samples
from rheobase.graph import accuracies
from rheobase.kernels.rules import named
from rheobase.rule_names import RuleName
from rheobase.rules.direction import directions
from rheobase.training import Recipe, evaluation

OUT = Path(__file__).parents[2] / "results" / "studies" / "rules.jsonl"
RATES = (0.0005, 0.002, 0.008, 0.032)
NEURONS = (rb.LIF(0.8), rb.LIF(0.8, reset="hard"), rb.CubaLIF(0.5, 0.8, reset="hard", input_scale=0.5))
SPIKING, SKIPPED = 80, 20
NOISE, DRAWS, ELEMENTS = 0.3, 200, 40  # of finite differences


@dataclass(frozen=True)
class Arm:
    """A rule by its name, whether the surrogate is tuned, or an ANN to convert; and a neuron other than the first."""

    rule: str = "surrogate"
    tuned: bool = False
    ann: bool = False
    given: rb.Neuron | None = None

    @property
    def neuron(self) -> rb.Neuron | rb.SoftLIF:
        """The one given, the first that the rule takes, or the ANN's."""
        if self.ann:
            return rb.SoftLIF()
        if self.given is not None:
            return self.given
        rule, x = named(self.rule), torch.zeros(1, 1, 1)
        return next(one for one in NEURONS if rule is None or rule.why_not(one.spec(), x) is None)

    def model(self, seed: int, x: Tensor, y: Tensor) -> nn.Module:
        """The network, freshly initialised."""
        torch.manual_seed(seed)
        options = {"layers": "200-200", "image_size": 28, "neuron": self.neuron, "spiking": not self.ann}
        net = rb.models.create("mlp", classes=10, in_channels=1, steps=8, rule=self.rule, **options)
        if self.tuned:
            rb.tune(net, x, y)
        return net


ARMS = {
    "surrogate ATan(2)": Arm(),
    "surrogate tuned": Arm(tuned=True),
    "surrogate ATan(2), hard reset": Arm(given=NEURONS[1]),
    **{name: Arm(name) for name in get_args(RuleName)[1:]},
    "surrogate ATan(2), CubaLIF": Arm(given=NEURONS[2]),
    "neighborhood, CubaLIF": Arm("neighborhood", given=NEURONS[2]),
    "soft LIF, converted": Arm(ann=True),
}
"""Rules with a name come by themselves."""


def few(count: int = 256) -> tuple[Tensor, Tensor]:
    """Training images as the network gets them, and their labels."""
    data = rb.data.load("fashion-mnist")
    batches = rb.data.Batches(data.train, batch_size=count, mean=data.mean, std=data.std, seed=0)
    images, labels, _ = next(iter(batches))
    return images, labels


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Of the mean over time."""
    return F.cross_entropy(rb.readout(logits), labels)


def cosines(net: nn.Module, rule: str, settle: bool = False) -> dict[str, tuple[float, float]]:
    """Of the gradient to finite differences, and what the true one would have: of all weights, and of each layer's."""
    net, (x, y) = copy.deepcopy(net), few()
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.dim() > 1)
    if settle:  # running statistics of norms, which directions sees
        with torch.no_grad():
            for _ in range(40):
                net(x)
    found = directions(
        net, x[:8], y[:8], {"": named(rule)}, loss=loss, noise=NOISE, draws=DRAWS, step=0.3, elements=ELEMENTS, seed=0
    )[""]
    pairs = {"all": (found.cosine, found.ceiling)}
    pairs |= {path: (each, found.ceilings[path]) for path, each in found.parameters.items()}
    return {path: (round(each, 3), round(ceiling, 3)) for path, (each, ceiling) in pairs.items()}


def kept(net: nn.Module) -> float:
    """MB that are there after a forward pass and were not before."""
    x, y = few(1024)
    loss(net(x), y).backward()  # (what is compiled or made once is there now)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        alive = loss(net(x), y)
    assert alive.requires_grad
    return round(sum(each.self_cpu_memory_usage for each in profile.key_averages()) / 1e6, 1)  # type: ignore[attr-defined]


def run(name: str, rate: float, seed: int, limit: int | None, epochs: int) -> dict[str, Any]:
    """Train an arm once."""
    arm, begin = ARMS[name], time.time()
    net = arm.model(seed, *few())
    found: dict[str, Any] = {
        "arm": name,
        "neuron": repr(net.features[2].neuron),
        "lr": rate,
        "seed": seed,
        "limit": limit,
        "epochs": epochs,
    }
    if seed == 0 and rate == RATES[0] and not arm.ann:
        found["cosine at the beginning"] = cosines(net, arm.rule, settle=True)
    keys = {
        **{"data.name": "fashion-mnist", "data.batch_size": 128, "data.train_limit": limit},
        **{"optimizer.lr": rate, "schedule.name": "one_cycle", "trainer.epochs": epochs},
        **{"trainer.threads": 1, "trainer.accelerator": "cpu", "seed": seed},
    }
    with tempfile.TemporaryDirectory() as folder:
        done = rb.train(Recipe().replace({**keys, "run": f"{folder}/run"}), model=net)
    summary = done.summary
    found |= {
        "validation": summary["validation_accuracy"],
        "test": summary["test_accuracy"],
        "epoch_seconds": round(summary["train_seconds"] / epochs, 2),
        "rates": [round(layer["rate"], 4) for layer in summary["layers"]],
    }
    if arm.ann:
        found |= as_spikes(done.model)
    elif seed == 0:
        found["cosine at the end"] = cosines(done.model, arm.rule)
    if seed == 0:
        found["kept_megabytes"] = kept(done.model)
    found["seconds"] = round(time.time() - begin)
    return found | {key: summary[key] for key in ("commit", "uncommitted_changes", "date", "machine", "versions")}


def as_spikes(ann: nn.Module) -> dict[str, Any]:
    """Accuracies of the ANN's spiking twin in place of its own, which stay as `as_rates`; and spikes a step."""
    data = rb.data.load("fashion-mnist")

    def batches(split: Samples) -> rb.data.Batches:
        return rb.data.Batches(split, batch_size=500, mean=data.mean, std=data.std)

    net = rb.convert(ann, batches(data.train.some(min(512, len(data.train)))), "soft_lif")
    found, own = {}, {}
    for name, split in (("validation", data.validation.some(min(1000, len(data.validation)))), ("test", data.test)):
        found[name] = accuracies(net, batches(split), [SPIKING], skip=SKIPPED).accuracy[SPIKING]
        [own[name]] = evaluation.accuracies(ann, batches(split), [None])
    images, _, _ = next(iter(batches(data.validation)))
    with torch.no_grad(), rb.record(net) as tape:
        net(images, SPIKING)
    rates = [round(float(trace.spikes.float().mean()), 4) for trace in tape.values()]
    return {**found, "as_rates": own, "rates": rates}


def best(found: Sequence[dict[str, Any]], name: str) -> float:
    """The learning rate that validates best with seed 0."""
    swept = {done["lr"]: done["validation"] for done in found if done["arm"] == name and done["seed"] == 0}
    return max(swept, key=swept.__getitem__)


def planned(name: str, seeds: int, out: Path, rates: Sequence[float] = RATES) -> Iterator[tuple[float, int]]:
    """Learning rates and seeds of an arm; the best rate is known when the first seed's runs are in the file."""
    for rate in rates:
        yield rate, 0
    for seed in range(1, seeds):
        yield best(read(out), name), seed


def missing(name: str, seeds: int, out: Path, rates: Sequence[float] = RATES) -> Iterator[tuple[float, int]]:
    """What is planned and not in the file yet."""
    for rate, seed in planned(name, seeds, out, rates):
        if not any((done["arm"], done["lr"], done["seed"]) == (name, rate, seed) for done in read(out)):
            yield rate, seed


def train(out: Path, names: Sequence[str], seeds: int, limit: int | None, epochs: int) -> None:
    """Run what is not there yet.

    Raises:
        ValueError: the file has runs of another budget.
    """
    if any((done["limit"], done["epochs"]) != (limit, epochs) for done in read(out)):
        raise ValueError(f"{out} has runs of another budget than --limit {limit} --epochs {epochs}")
    for name in names:
        for rate, seed in missing(name, seeds, out):
            found = run(name, rate, seed, limit, epochs)
            add(out, found)
            print(f"{found['validation']:.4f} {found['seconds']:4d} s  {name}, lr {rate}, seed {seed}", flush=True)


def report(out: Path, figure: Path) -> None:
    """What came of it."""
    found = read(out)
    names = list(dict.fromkeys(done["arm"] for done in found))
    budget = found[0]
    print(f"{budget['limit'] or 'all'} training images, {budget['epochs']} epochs\n")
    head = (
        "rule",
        "lr",
        "seeds",
        "validation",
        "test",
        "s an epoch",
        "MB kept",
        "firing rates",
        "cosine before",
        "after",
    )
    print(f"| {' | '.join(head)} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        rate = best(found, name)
        runs = [done for done in found if (done["arm"], done["lr"]) == (name, rate)]
        first = next(done for done in runs if done["seed"] == 0)
        begin = next((done for done in found if done["arm"] == name and "cosine at the beginning" in done), {})
        accuracy = [_spread([done[key] for done in runs]) for key in ("validation", "test")]
        angles = [" ".join(f"{c:.2f} ({most:.2f})" for c, most in each.values()) for each in _angles(begin, first)]
        rates = " ".join(f"{r:.3f}" for r in first["rates"])
        seconds = statistics.median(done["epoch_seconds"] for done in found if done["arm"] == name)
        cells = (name, rate, len(runs), *accuracy, f"{seconds:.1f}", first["kept_megabytes"], rates, *angles)
        print(f"| {' | '.join(map(str, cells))} |")
    print("\ncosines: of all weights, then of each layer's, from the input on; (what the true gradient would have)")
    _draw(found, names, figure)


def _spread(shares: Sequence[float]) -> str:
    lowest, highest = (f"{100 * end(shares):.2f}" for end in (min, max))
    return f"{100 * statistics.mean(shares):.2f}" + (f" ({lowest} to {highest})" if len(shares) > 1 else "")


def _angles(begin: dict[str, Any], end: dict[str, Any]) -> list[dict[str, tuple[float, float]]]:
    return [begin.get("cosine at the beginning", {}), end.get("cosine at the end", {})]


def _draw(found: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    drawn = figures.figure(10, 4.5)
    swept, angles = drawn.subplots(1, 2)
    ticks: list[str] = []
    for i, name in enumerate(names):
        first = sorted((d["lr"], d["validation"]) for d in found if d["arm"] == name and d["seed"] == 0)
        swept.plot(*zip(*first, strict=True), marker="o", label=name, color=f"C{i}")
        end = next(d for d in found if (d["arm"], d["lr"], d["seed"]) == (name, best(found, name), 0))
        if "cosine at the end" in end:
            ticks = ["all", *(f"layer {k}" for k in range(1, len(end["cosine at the end"])))]
            reached, most = zip(*end["cosine at the end"].values(), strict=True)
            places = [tick + (i - len(names) / 2) / 20 for tick in range(len(ticks))]
            angles.plot(places, most, "_", color=f"C{i}")
            angles.plot(places, reached, "o", color=f"C{i}")
    swept.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy, seed 0")
    swept.set_xticks(RATES, map(str, RATES))
    swept.minorticks_off()
    angles.set_xticks(range(len(ticks)), ticks)
    angles.set_ylabel("cosine to finite differences, after training\n(-: what the true gradient would have)")
    drawn.legend(*swept.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    drawn.savefig(path, dpi=120)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--arm", nargs="*", default=tuple(ARMS), choices=tuple(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="training images (default: all)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "run":
        train(given.out, given.arm, given.seeds, given.limit, given.epochs)
    else:
        report(given.out, given.figure or given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
