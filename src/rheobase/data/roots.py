"""Finding a data set's files below the data root: the option `data.root`, else the variable RHEOBASE_DATA."""

from __future__ import annotations

import os
from pathlib import Path


def find(name: str, folders: tuple[str, ...], files: tuple[str, ...], advice: str, root: str | None = None) -> Path:
    """The first of `folders` below the root that has all `files`.

    Args:
        name: of the data set.
        folders: layouts that are understood, the preferred one first.
        files: what must be there.
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
    for folder in folders:
        if all((base / folder / file).is_file() for file in files):
            return base / folder
    held = {folder: sum((base / folder / file).is_file() for file in files) for folder in folders}
    best = max(folders, key=lambda folder: held[folder])
    missing = [file for file in files if not (base / best / file).is_file()]
    if not base.is_dir():
        found = f"there is no folder {base}"
    elif not (base / best).is_dir():
        found = f"{base} holds {_listing(base)}"
    else:
        found = f"{base / best} holds {_listing(base / best)}"
    raise FileNotFoundError(
        f"data set {name!r}: wanted {base / best / missing[0]}"
        f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; {found}; {advice}"
        f" and put them in {base / folders[0]}"
    )


def _listing(folder: Path, most: int = 8) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:most]) + (" ..." if len(names) > most else "")) if names else "nothing"
