"""The run folder: what lies where, and files that are whole at any moment."""

from __future__ import annotations

import datetime
import io
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypeVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict  # (pydantic wants that one below Python 3.12)

from rheobase.files import write_atomic
from rheobase.training.activity import Layer
from rheobase.training.journal import Journal
from rheobase.training.recipe import Recipe

T = TypeVar("T")


class Checkpoint(TypedDict):
    """What last.ckpt holds, in plain dicts, numbers and tensors (the journal as a dict)."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[misc]
    net: dict[str, Tensor]
    optimizer: dict[str, Any]
    ema: dict[str, Any] | None
    journal: Journal
    best: dict[str, Tensor]
    data: dict[str, Any]
    recipe_sha256: str
    threads: int
    processes: int
    boosting: NotRequired[dict[str, Tensor]]


class Summary(TypedDict):
    """What the command tells of summary.json."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    test_accuracy: float
    validation_accuracy: float
    best_epoch: int
    train_seconds: float
    seed: int
    layers: list[Layer]


class RunFolder:
    """Paths in a run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.json"
        self.metrics = path / "metrics.csv"
        self.probe = path / "probe.csv"
        self.last = path / "checkpoints" / "last.ckpt"
        self.best = path / "checkpoints" / "best.safetensors"
        self.summary = path / "summary.json"
        self.evaluations = path / "evaluations.json"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def create(cls, recipe: Recipe, name: str) -> RunFolder:
        """A new folder with the recipe in it: `recipe.run`, which must be empty, or runs/<name>-<date>-<seed>."""
        if recipe.run is not None:
            path = Path(recipe.run).expanduser()
            if not _claim(path):
                raise FileExistsError(
                    f"run folder {path} must be empty or absent; continue a run with `rheobase resume {path}`"
                )
        else:
            name = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{recipe.seed}"
            paths = (Path("runs") / (name + (f"-{number}" if number else "")) for number in itertools.count())
            path = next(filter(_claim, paths))
        folder = cls(path)
        # the recipe does not say where it ran, so that it can be trained again as it is, and from any place
        places = {"data.root": recipe.data.root, "data.cache": recipe.data.cache, "model.weights": recipe.model.weights}
        found = {key: str(Path(place).expanduser().absolute()) for key, place in places.items() if place is not None}
        recipe = recipe.replace({"run": None, **found})
        try:
            write_atomic(folder.recipe, recipe.to_json().encode())
        except BaseException:  # no run began: the folder is as empty as it was
            folder.last.parent.rmdir()
            raise
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing folder; a FileNotFoundError if it is no run's."""
        folder = cls(Path(path))
        if not folder.recipe.is_file():
            raise FileNotFoundError(f"no run in {path}: there is no {folder.recipe}")
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from training here within; a BlockingIOError if one does.

        The lock is the system's: it ends with the process, however that ends.
        """
        with self.recipe.open("r+b") as file:  # it is there all the time, and NFS locks only what can be written
            if sys.platform != "win32":  # whose locks would keep others from reading it
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = f"{self.path} is in use: another process trains there; wait until it has ended"
                    raise BlockingIOError(text) from None
                except OSError:  # a file system without locks
                    pass
            yield

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write last.ckpt: plain dicts, numbers and tensors, which run no code when read."""
        content = io.BytesIO()
        torch.save(state, content)
        write_atomic(self.last, content.getvalue())

    def read_checkpoint(self) -> Checkpoint | None:
        """What `write_checkpoint` wrote, on the CPU; None if there is none, a ValueError if it is damaged."""
        if not self.last.is_file():
            return None
        content = self.last.read_bytes()
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return TypeAdapter(Checkpoint).validate_python(state)
        except MemoryError:
            raise
        except Exception as error:  # bytes that are no checkpoint raise whatever they happen to
            raise ValueError(
                f"{self.last} is damaged ({len(content)} bytes, which are no checkpoint of a run: "
                f"{type(error).__name__}): put back a copy, or remove it, and `rheobase resume` begins anew"
            ) from error

    def clean(self) -> None:
        """Remove what a killed process left half written; not while another one trains here."""
        for file in (self.recipe, self.metrics, self.probe, self.last, self.best, self.summary, self.evaluations):
            for half in file.parent.glob(f".{file.name}.*"):
                half.unlink(missing_ok=True)

    def read_recipe(self) -> Recipe:
        """The recipe of the run; a ValueError if it is damaged, or has keys that this version does not know."""
        try:
            return Recipe.from_json(self.recipe.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.recipe}: {error}; put back the recipe that the run began with") from error

    def check(self, recipe: Recipe, data: Mapping[str, Any] | None = None) -> None:
        """Refuse a recipe, or data (`build.fingerprint`), that are not those of the run's model.

        A run that is not finished has that in its checkpoint, a finished one in its summary.

        Raises:
            ValueError: they are not, or the file is damaged.
        """
        begun: Any = self.read_summary() or self.read_checkpoint() or {}
        try:
            check_same(begun.get("recipe_sha256"), recipe, begun.get("data"), data)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def read_summary(self) -> Summary | None:
        """The summary, or None in an unfinished run."""
        advice = "remove it, and `rheobase resume` writes it again"
        return read_json(self.summary, Summary, advice) if self.summary.is_file() else None


def check_same(sha256: str | None, recipe: Recipe, before: Mapping[str, Any] | None, now: Any) -> None:
    """Refuse a recipe, or data, that a run did not begin with; None is not known, or not asked.

    Raises:
        ValueError: they are others.
    """
    if sha256 not in (None, recipe.sha256):
        raise ValueError("recipe.json is not the recipe that this run began with: it was changed since")
    if before is None or now is None:
        return
    for what, value in now.items():
        if before.get(what) != value:
            raise ValueError(f"this run began with other data: {what} was {before.get(what)}, and is {value}")


def read_json(path: Path, kind: type[T], advice: str) -> T:
    """Read JSON; a ValueError that ends with the advice if it is damaged, or of another kind."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        what = f"there is no {first['loc'][-1]!r} in it" if first["type"] == "missing" else first["msg"]
        raise ValueError(f"{path} is damaged ({what}): {advice}") from error


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON, atomically."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def _claim(path: Path) -> bool:
    """Make a run folder, if it is empty or absent; of several processes that want it, one alone can."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        return False
    try:
        (path / "checkpoints").mkdir(parents=True)
    except FileExistsError:
        return False
    return True
