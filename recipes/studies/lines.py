"""The file of a study, a line of JSON for each of its runs; and the command of one whose runs are an arm and a seed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def read(out: Path) -> list[dict[str, Any]]:
    """The lines of a file; none where there is no file yet."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def add(out: Path, line: dict[str, Any]) -> None:
    """One line more, in a file and a folder that need not be there yet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")


def command(
    about: str | None, out: Path, train: Callable[[Path, int], None], report: Callable[[list[dict[str, Any]]], None]
) -> None:
    """`run [--seeds N] [--out FILE]`, which trains what the file has not yet, and `report [--out FILE]`; one thread."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "run":
        train(given.out, given.seeds)
    else:
        report(read(given.out))
