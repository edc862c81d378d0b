"""Keys of a recipe that are declared where they are taken: options of data sets, of families, numbers of neurons."""

import json
import subprocess
import sys

import pytest

from rheobase import data
from rheobase.data.options import told
from rheobase.training import Recipe
from rheobase.training.keys import leaves


def test_a_key_of_data_is_what_its_loader_says():
    keys = leaves(Recipe)
    for name in data.names():
        for option, what in data.options(name).items():
            leaf = keys[f"data.{option}"]
            assert (leaf.nullable, leaf.field.default) == (True, None), option
            assert leaf.kind in (what.type, *getattr(what.type, "__args__", ())), option
            assert name in leaf.field.description
            assert what.default is None or f"null: {what.default}" in leaf.field.description
    for option, what in told(data.Augmentation).items():
        assert keys[f"data.{option}"].field.default == what.default
    assert keys["data.mels"].wanted == "an integer >= 1 or null"
    assert keys["data.crop"].wanted == "a number > 0 and <= 1"
    assert keys["data.rand_augment"].wanted == "a number > 0 and < 30 or null"
    assert keys["data.by"].wanted == "one of time, count or null"


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("data.frames", 0, "data.frames must be an integer >= 1 or null, got 0"),
        ("data.hop", 0.0, "data.hop must be a number > 0 or null, got 0"),
        ("data.cutmix", -0.5, "data.cutmix must be a number >= 0, got -0.5"),
        ("data.by", "size", "data.by must be one of time, count or null, got 'size'"),
        ("data.mel", 40, "unknown key 'data.mel': did you mean 'data.mels'"),
    ],
)
def test_a_key_of_data_is_checked(key, value, match):
    with pytest.raises(ValueError, match=match):
        Recipe.from_json(json.dumps({key: value}))


def test_a_new_option_of_a_loader_is_a_key():
    """In a process of its own, as the schema is made once."""
    code = """
import rheobase.data
from typing import Annotated
from pydantic import Field
def load(root: str | None = None, *, wings: Annotated[int, Field(ge=2)] = 4) -> None:
    \"\"\"Birds.

    Args:
        root: folder.
        wings: how many.
    \"\"\"
rheobase.data._loaders["birds"] = load
from rheobase.training import Recipe
from rheobase.training.keys import leaves
leaf = leaves(Recipe)["data.wings"]
print(leaf.field.description, "|", leaf.wanted)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "birds: how many (null: 4) | an integer >= 2 or null\n"
