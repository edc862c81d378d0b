"""Learning rates for the founding study: its twin and its tuned net, a quarter of the epochs at each.

    python -m recipes.studies.founding_rates run [--arm ann tuned] [--rate 0.001 0.002 0.004]
    python -m recipes.studies.founding_rates report

Data are in $RHEOBASE_DATA: Imagenette, the reduced size. Lines have accuracies on the validation split; the test set is
not looked at. The rule, written before there was a line: of the two nets the study takes the rate whose last epoch is
best; other ANNs take the twin's, other spiking nets the tuned one's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import rheobase as rb
from recipes.studies.founding import Study, table
from recipes.studies.founding_arms import NETS, ROOT
from recipes.studies.lines import add, read
from recipes.studies.steps import where
from rheobase.training import Recipe

OUT = ROOT / "results" / "studies" / "founding_rates.jsonl"
RATES = (0.001, 0.002, 0.004)


def run(study: Study, arms: Sequence[str], rates: Sequence[float]) -> None:
    """Train what the file has not yet."""
    data = replace(study.dataset, test=study.dataset.validation)
    epochs = study.keys["trainer.epochs"] // 4
    for name in arms:
        for rate in rates:
            about = {"arm": name, **study.about, "rate": rate}
            if any(about.items() <= done.items() for done in read(study.out)):
                continue
            keys = {**study.recipe(name).flat(), "optimizer.lr": rate, "trainer.epochs": epochs}
            keys |= {"data.name": Recipe().data.name, "data.root": None, "data.size": None}  # (the data are given)
            with tempfile.TemporaryDirectory() as folder:
                rb.train(Recipe().replace({**keys, "run": f"{folder}/run"}), data=data)
                rows = table(Path(folder) / "run" / "metrics.csv")
            found = {key: [float(row[key]) for row in rows] for key in ("train_loss", "validation_accuracy", "seconds")}
            add(study.out, {**about, **found, **where(study.device)})


def report(study: Study) -> None:
    """A table of the lines."""
    print("| net | learning rate | validation, %, an epoch each |\n|---|---|---|")
    for done in study.lines():
        shares = " ".join(f"{100 * share:.1f}" for share in done["validation_accuracy"])
        print(f"| {done['arm']} | {done['rate']:g} | {shares} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--arm", nargs="*", choices=NETS, default=("ann", "tuned"))
    parser.add_argument("--rate", nargs="*", type=float, default=RATES)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = Study("reduced", "imagenette", out=given.out)
    if given.what == "run":
        run(study, given.arm, given.rate)
    else:
        report(study)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as in the study
    main()
