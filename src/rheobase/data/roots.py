"""Finding a data set's files below the data root: the option `data.root`, else the variable RHEOBASE_DATA."""

from __future__ import annotations

import os
from pathlib import Path


def find(name: str, folders: tuple[str, ...], files: tuple[str, ...], advice: str, root: str | None = None) -> Path:
    """The first of `folders` below the root that has all `files`.

    Args:
        name: of the data set.
        folders: layouts that are understood, the preferred one first.
        files: what must be there: names, or patterns with `*`.
        advice: how to get them.
        root: the data root.

    Raises:
        ValueError: no root is given.
        FileNotFoundError: a file is missing; the error says which, what was found, and how to get it.
    """
    root = root or os.environ.get("RHEOBASE_DATA")
    if not root:
        raise ValueError(
            f"data set {name!r} needs a folder: set data.root (--data.root DIR) or RHEOBASE_DATA so that DIR/"
            f"{folders[0]}/ holds {', '.join(files)}; {advice}"
        )
    base = Path(root).expanduser()
    missing = {folder: [file for file in files if not any((base / folder).glob(file))] for folder in folders}
    best = min(folders, key=lambda folder: len(missing[folder]))
    if not missing[best]:
        return base / best
    if not base.is_dir():
        found = f"there is no folder {base}"
    elif not (base / best).is_dir():
        found = f"{base} holds {listing(base)}"
    else:
        found = f"{base / best} holds {listing(base / best)}"
    raise FileNotFoundError(
        f"data set {name!r}: wanted {base / best / missing[best][0]}"
        f"{f' and {len(missing[best]) - 1} more' if len(missing[best]) > 1 else ''}; {found}; {advice}"
        f" and put them in {base / folders[0]}"
    )


def listing(folder: Path, most: int = 8) -> str:
    """The first names in a folder, in words."""
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:most]) + (" ..." if len(names) > most else "")) if names else "nothing"
