"""Image classification sets in the Hub's Parquet layout: shards of rows with an encoded image and a label."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheobase.data.extra import need

PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
"""Split by the name that its files or folder begin with."""


def shards(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files below a folder by split: `train-00000-of-00002.parquet` or `train/0000.parquet`, at any depth.

    Raises:
        ValueError: a shard is missing, or the files of one split lie in several folders.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    called: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("*.parquet")):
        name = next((word for word in (re.split(r"[-_.]", path.stem)[0], path.parent.name) if word in PARTS), None)
        if name:
            found[PARTS[name]].append(path)
            called[PARTS[name]].add(name)
    for part, files in found.items():
        folders = sorted({str(path.parent.relative_to(folder)) for path in files})
        if len(folders) > 1:
            raise ValueError(
                f"{folder}: the files of {part!r} lie in {len(folders)} folders ({', '.join(folders)}), "
                "wanted one: a Hub set can have several configurations; give the folder of one"
            )
        if len(called[part]) > 1:
            raise ValueError(f"{folder}: wanted files of {part!r} of one name, got {', '.join(sorted(called[part]))}")
        told = re.search(r"-of-(\d+)", files[0].stem)
        if told and len(files) != int(told[1]):
            raise ValueError(f"{files[0].parent}: wanted {int(told[1])} files of {part!r}, got {len(files)}")
    return dict(found)


def columns(files: list[Path], image: str | None, label: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Image column, label column and class names (as far as the files tell them) of a set.

    Raises:
        ValueError: no such column, or several and none is chosen; or classes that differ from file to file.
    """
    source = files[0]
    image, label, names = _columns(source, image, label)
    for path in files[1:]:
        _, _, told = _columns(path, image, label)
        if not names:
            source, names = path, told
        for index, (wanted, got) in enumerate(itertools.zip_longest(names, told)):
            if told and wanted != got:
                raise ValueError(f"{path}: wanted class {index} to be {wanted!r} as in {source}, got {got!r}")
    return image, label, names


def _columns(path: Path, image: str | None, label: str | None) -> tuple[str, str, tuple[str, ...]]:
    arrow = need("pyarrow", "reading Parquet")
    try:
        schema = need("pyarrow.parquet", "reading Parquet").read_schema(path)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or not the whole of one ({error})") from error
    binary = [field.name for field in schema if _encoded(field.type, arrow)]
    whole = [field.name for field in schema if arrow.types.is_integer(field.type)]
    kinds = {field.name: str(field.type) for field in schema}
    image = _column(path, "image", "encoded images", binary, image, kinds)
    label = _column(path, "label", "integers", whole, label, kinds)
    metadata = schema.metadata or {}
    try:
        hub = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {}).get(label, {})
        names = hub.get("names") or metadata.get(b"class_names", b"").decode()
        if isinstance(names, str):
            names = json.loads(names) if names.startswith("[") else [name for name in names.split(",") if name]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: its metadata of the class names are damaged ({error})") from error
    return image, label, tuple(names)


def _encoded(kind: Any, arrow: Any) -> bool:
    if arrow.types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _column(path: Path, option: str, what: str, found: list[str], given: str | None, kinds: Mapping[str, str]) -> str:
    """The column that was given, else the one that is called so, else the only one of its type."""
    if given is None and option in kinds:
        given = option
    if given is None and len(found) == 1:
        return found[0]
    if given is None or given not in found:
        got = "several" if found else "none"
        if given is not None:
            got = f"{given}, which is {kinds[given]}" if given in kinds else given
        there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(f"{path}: wanted one column of {what} ({option}=), got {got}; there are {there}")
    return given


def _batches(path: Path, column: str) -> Iterator[Any]:
    """The record batches of one column.

    Raises:
        ValueError: a damaged file, or one without rows.
    """
    arrow, parquet = need("pyarrow", "reading Parquet"), need("pyarrow.parquet", "reading Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                raise ValueError(f"{path}: wanted rows, got none")
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                yield batch.replace_schema_metadata(None)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or not the whole of one ({error})") from error


def labels(files: list[Path], column: str) -> Tensor:
    """Labels int64 `[N]` of all rows.

    Raises:
        ValueError: a damaged file, or a row without a label.
    """
    parts = []
    for path in files:
        values = _table(path, column)[column]
        if values.null_count:
            raise ValueError(f"{path}: wanted a label in every row, got {values.null_count} rows without")
        parts.append(torch.from_numpy(values.to_numpy().astype("int64")))
    return torch.cat(parts)


class Rows:
    """The encoded images in a column: of Parquet files in memory, of Arrow files mapped into it."""

    def __init__(self, files: list[Path], column: str) -> None:
        self.files, self.column = files, column
        self._columns = [(_mapped(path) if path.suffix == ".arrow" else _table(path, column))[column] for path in files]
        self._starts = [0, *itertools.accumulate(map(len, self._columns))]

    def __reduce__(self) -> Any:
        return Rows, (self.files, self.column)  # a worker opens the files itself

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        shard = bisect.bisect_right(self._starts, index) - 1
        row = index - self._starts[shard]
        name = f"{self.files[shard]}, row {row}"
        value = self._columns[shard][row].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise ValueError(f"{name}: wanted an image, got none")
        return content, name


def _table(path: Path, column: str) -> Any:
    return need("pyarrow", "reading Parquet").Table.from_batches(list(_batches(path, column)))


def _mapped(path: Path) -> Any:
    arrow = need("pyarrow", "reading Arrow")
    return need("pyarrow.ipc", "reading Arrow").open_file(arrow.memory_map(str(path))).read_all()


def mapped(files: list[Path], column: str, cache: Path) -> list[Path]:
    """The column of each file, written once as an Arrow file, from which any row can be had without the others.

    Raises:
        OSError: the cache cannot be written.
    """
    out = []
    for path in files:
        stat = path.stat()
        key = hashlib.blake2b(repr((path.name, stat.st_size, stat.st_mtime_ns, column)).encode(), digest_size=8)
        target = cache / f"{path.stem}-{key.hexdigest()}.arrow"
        if not target.exists():
            _write(target, _batches(path, column))
        out.append(target)
    return out


def _write(target: Path, batches: Iterator[Any]) -> None:
    ipc = need("pyarrow.ipc", "writing Arrow")
    first = next(batches)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise OSError(
            f"a set that streams is rewritten once, but {target.parent} cannot be written: set cache="
        ) from error
    try:
        with os.fdopen(handle, "wb") as file, ipc.new_file(file, first.schema) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
