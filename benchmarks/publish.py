"""Keep the weights of committed runs, with a card each: `python -m benchmarks.publish RUN=NAME ...`.

RUN is the folder of a finished run, NAME that of its record in results/. The card tells the accuracy of what `rb.load`
gives on a fixed slice of validation, which the tests ask for again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

import rheobase as rb
from rheobase.data import Batches, Dataset
from rheobase.training import Recipe, build
from rheobase.training.evaluation import accuracies
from rheobase.training.passes import seeded

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "weights"
SLICE = 512


def card(name: str) -> dict[str, Any]:
    """What the head of a card says."""
    head: dict[str, Any] = yaml.safe_load((WEIGHTS / f"{name}.md").read_text().split("---\n")[1])
    return head


def right(model: torch.nn.Module, recipe: Recipe, data: Dataset) -> tuple[int, int]:
    """How many of the slice it decides rightly, and of how many."""
    few = data.validation.some(min(SLICE, len(data.validation)))
    batches = Batches(few, batch_size=64, mean=data.mean, std=data.std)
    with seeded("publish"):
        [share] = accuracies(model, batches, [None], loss=recipe.loss)
    return round(share * len(few)), len(few)


def _written(channels: torch.Tensor) -> str:
    values = [f"{value:.4f}".rstrip("0").rstrip(".") for value in channels.flatten().tolist()]
    return values[0] if len(values) == 1 else f"torch.tensor([{', '.join(values)}]).view(-1, 1, 1)"


def publish(run: Path, name: str) -> None:
    """Write weights/NAME.safetensors and weights/NAME.md."""
    record, here = (json.loads((folder / "summary.json").read_text()) for folder in (ROOT / "results" / name, run))
    if record["weights_sha256"] != here["weights_sha256"]:
        raise ValueError(f"results/{name} is another run than {run}: its last weights are not the same")
    recipe = Recipe.from_json((run / "recipe.json").read_text())
    file = WEIGHTS / f"{name}.safetensors"
    rb.save(rb.load(run / "checkpoints" / "best.safetensors"), file, half=True)
    data = build.dataset(recipe)
    found, of = right(rb.load(file), recipe, data)
    head = {"library_name": "rheobase", "license": "apache-2.0", "data": data.name, "right": found, "of": of}
    mean, std = (_written(each) for each in (data.mean, data.std))
    accuracy = {split: f"{100 * record[f'{split}_accuracy']:.2f} %" for split in ("validation", "test")}
    (WEIGHTS / f"{name}.md").write_text(f"""---
{yaml.safe_dump(head, sort_keys=False)}---
# {name}
{recipe.model.name} for {data.classes} classes, of the run `results/{name}`, where its recipe and curve lie: the
epoch that was best on validation, {accuracy["validation"]}; {accuracy["test"]} test. Weights of layers are rounded to
float16 in the file; the loaded net, in float32, decides {found} of the {of} samples of a slice of
validation rightly.

```
model = rb.load("weights/{name}.safetensors").eval()
logits = model((x - {mean}) / {std})   # x as in the data set, pixels [B, C, H, W] or frames [T, B, C, H, W]
```
Trained on `{data.name}` alone, to show that the recipe works: not for decisions about people or safety.
""")


if __name__ == "__main__":
    WEIGHTS.mkdir(exist_ok=True)
    for argument in sys.argv[1:]:
        publish(*(kind(word) for kind, word in zip((Path, str), argument.split("="), strict=True)))
