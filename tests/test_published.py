"""The weights that the repository keeps: they load, and decide as their cards say."""

import json
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import rheobase as rb
from benchmarks import publish
from rheobase.data import Dataset
from rheobase.training import Recipe, build

DATA = Path(os.environ.get("RHEOBASE_DATA") or publish.ROOT.parent / "shared" / "data")
NAMES = sorted(file.stem for file in publish.WEIGHTS.glob("*.safetensors"))


def test_each_has_a_card_and_a_run_and_they_are_small() -> None:
    assert sorted(file.stem for file in publish.WEIGHTS.glob("*.md")) == NAMES
    assert sum(file.stat().st_size for file in publish.WEIGHTS.iterdir()) <= 12 << 20
    for name in NAMES:
        summary = json.loads((publish.ROOT / "results" / name / "summary.json").read_text())
        assert f"{100 * summary['test_accuracy']:.2f} % test" in (publish.WEIGHTS / f"{name}.md").read_text()


@lru_cache(maxsize=1)  # several nets are of the same data, which take long to read
def dataset(options: str) -> Dataset:
    return build.dataset(Recipe.from_json(options))


def opened(name: str) -> tuple[Recipe, Dataset]:
    """The recipe of a run, and its data, if they are there."""
    recipe = Recipe.from_json((publish.ROOT / "results" / name / "recipe.json").read_text())
    recipe = recipe.replace({"data.root": str(DATA)})
    about = {key: value for key, value in recipe.flat().items() if key.startswith("data.") and key != "data.batch_size"}
    try:
        return recipe, dataset(Recipe().replace(about).to_json())
    except FileNotFoundError as error:
        pytest.skip(f"RHEOBASE_DATA names no folder with its data: {error}")


@pytest.mark.parametrize("name", NAMES)
def test_they_decide_as_they_did(name: str) -> None:
    """To within two samples, since a spike at its threshold is decided by rounding."""
    recipe, data = opened(name)
    head = publish.card(name)
    found, of = publish.right(rb.load(publish.WEIGHTS / f"{name}.safetensors"), recipe, data)
    assert of == head["of"]
    assert abs(found - head["right"]) <= 2


def test_other_weights_decide_otherwise() -> None:
    name = "mnist-membrane-300-300-2"
    recipe, data = opened(name)
    model = rb.load(publish.WEIGHTS / f"{name}.safetensors")
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(-1)
    found, of = publish.right(model, recipe, data)
    assert found < 0.5 * of
