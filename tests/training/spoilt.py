"""Makers of bad input: each spoils something in the folder that it is called in, and gives the words of the command."""

import os
import shutil
import wave
from functools import partial, wraps
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

TINY = {
    "model.name": "plain_convnet", "model.depth": 2, "model.width": 4, "model.steps": 2, "data.train_limit": 64,
    "data.batch_size": 16, "trainer.epochs": 2, "trainer.threads": 1, "trainer.accelerator": "cpu",
    "trainer.checkpoint_every_steps": 2, "run": "run",
}  # fmt: skip
DOG = Path("set/train/dog/2.png")
LAST = Path("run/checkpoints/last.ckpt")


def later(make):
    """A maker of makers: its arguments now, its work when the test is there."""
    return wraps(make)(lambda *arguments, **options: partial(make, *arguments, **options))


def train(source="digits", **options):
    """The words of a command; `data__name` stands for data.name, and None leaves a key out."""
    given = {**TINY, **{key.replace("__", "."): value for key, value in options.items()}}
    return ["train", source, *(f"--{key}={value}" for key, value in given.items() if value is not None)]


@later
def given(*words, **options):
    return [*train(**options), *words]


@later
def recipe(text):
    Path("mine.yaml").write_text(text, encoding="latin-1")
    return train("mine.yaml")


@later
def images(damage):
    """An image folder, then damaged."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            Path("set", part, name).mkdir(parents=True)
            for index in range(4):
                Image.new("L", (8, 8), 20 * index).save(Path("set", part, name, f"{index}.png"))
    damage()
    return train(data__name="images", data__root="set", data__train_limit=None, data__batch_size=4)


@later
def cut(path, count):
    """A file without its last bytes."""
    os.truncate(path, Path(path).stat().st_size - count)


def table(path="set/train-0.parquet", **columns):
    Path("set").mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": [b"not an image"] * 8, "label": [0, 1] * 4, **columns}), path)


@later
def tables(damage, **options):
    """Parquet files, then damaged; their images are no images."""
    table()
    table("set/test-0.parquet")
    damage()
    return train(data__name="parquet", data__root="set", data__train_limit=None, **options)


@later
def sounds(name=None, rate=8000, content=None):
    """Two recordings and another one, which is damaged."""
    folder = Path("set/fsdd/recordings")
    folder.mkdir(parents=True)
    for file, hertz in (("0_ann_0.wav", 8000), ("0_ann_9.wav", 8000), (name, rate)):
        with wave.open(str(folder / file), "wb") as out:
            out.setparams((1, 2, hertz, 0, "NONE", ""))
            out.writeframes(bytes(2000))
    if content is not None:
        (folder / name).write_bytes(content((folder / name).read_bytes()))
    return train(data__name="spoken-digits", data__root="set")


@later
def events(content):
    """Recordings of an event camera, one of them damaged."""
    for part in ("Train", "Test"):
        for digit in range(10):
            Path("set", part, str(digit)).mkdir(parents=True)
            Path("set", part, str(digit), "1.bin").write_bytes(bytes(5))
    Path("set/Train/7/2.bin").write_bytes(content)
    return train(data__name="nmnist", data__root="set")


MINE = """
import torch
import rheobase as rb
from rheobase.data import Dataset, Split, load
from torch import nn

def split(count=32, classes=4, shape=(1, 8, 8), **given):
    inputs = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    return Split(**{"inputs": inputs, "labels": torch.arange(count) % classes, **given})

def dataset(**given):
    parts = {name: split() for name in ("train", "validation", "test")}
    return Dataset(**{"name": "mine", "classes": 4, "mean": torch.zeros(1), "std": torch.ones(1), **parts, **given})

def holed():
    parts = {name: split(inputs=torch.rand(32, 2, 1, 8, 8)) for name in ("train", "validation", "test")}
    parts["train"].inputs[3, 0, 0, 0, 0] = torch.nan
    return dataset(**parts)

class Odd(rb.data.dataset.Samples):
    shape = (1, 8, 8)

    def __init__(self, given, labels=torch.arange(32) % 4):
        self.given, self.labels = given, labels

    def at(self, indices):
        return Odd(self.given, self.labels[indices])

    def read(self, indices):
        return self.given(len(indices))

def net(forward=None, **layers):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 10)
        def forward(self, images):
            return forward(self.head(images.flatten(1)).expand(2, -1, -1))
    return Net
"""


@later
def own(text, function="mine:made", key="model", **options):
    """A module of one's own, and a function in it for data or a model."""
    Path("mine.py").write_text(MINE + text)
    keys = {"model__depth": "null", "model__width": "null", "model__steps": 4} if key == "model" else {}
    return train(**{**keys, f"{key}__name": function, **options})


def own_data(body):
    """A data set of one's own, by what its function returns."""
    return own(f"\ndef made(): return {body}\n", key="data", data__train_limit=None)


def own_model(forward):
    """A model of one's own, by what its forward makes of the right logits x."""
    return own(f"\nmade = net(lambda x: {forward})\n")


@later
def folder(command, damage=lambda: None, which="stopped", words=()):
    """A run that stopped in its second epoch, or is finished, then damaged."""
    shutil.copytree(f"../{which}", "run")
    damage()
    return [command, "run", *words]


@later
def busy(make, **options):
    """Something in the place of the run folder."""
    make()
    return train(**options)


class Poison:
    """Its pickle makes a folder when it is read."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@later
def checkpoint(part=None, **changes):
    """Another content of the checkpoint, or of a part of it."""
    state = torch.load(LAST, weights_only=True)
    (state if part is None else state[part]).update(changes)
    torch.save(state, LAST)


@later
def edited(name, before, after):
    path = Path("run", name)
    path.write_text(path.read_text().replace(before, after))
