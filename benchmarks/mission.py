"""Fill docs/results.md, all lines of work, from results/rows.yaml and the runs: `python -m benchmarks.mission`."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from benchmarks.tables import grid

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
HEAD = (
    "what",
    "paper, %",
    "test, %",
    "validation, %: best, last",
    "seeds",
    "training: minutes on threads",
    "run",
)


def runs(recipe: str) -> list[Path]:
    """The folders of a recipe's runs, by seed."""
    found = [path for path in (ROOT / "results").glob(f"{recipe}-*") if re.fullmatch(rf"{recipe}-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def percent(values: Sequence[float]) -> str:
    """Mean, and the range of several."""
    spread = f" ({100 * min(values):.2f} to {100 * max(values):.2f})" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}"


def cells(row: dict[str, str]) -> list[str]:
    """A row of the page: what its runs say, or `elsewhere`, or why there is none."""
    folders = runs(row["recipe"]) if "recipe" in row else []
    begin = [row["task"], row["paper"]]
    if not folders:
        return [*begin, "", "", "", "", row.get("elsewhere") or f"not run: {row['why']}"]
    summaries: list[dict[str, Any]] = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    last = [list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))[-1] for folder in folders]
    threads = sorted({summary["machine"]["threads"] for summary in summaries})
    cpus = sorted({summary["machine"]["gpu"] or summary["machine"]["cpu"] for summary in summaries})
    minutes = mean(summary["train_seconds"] for summary in summaries) / 60
    dates = sorted({summary["date"][:10] for summary in summaries})
    commits = sorted({summary["commit"][:7] + "*" * summary["uncommitted_changes"] for summary in summaries})
    named = [folder.name for folder in folders]
    return [
        *begin,
        percent([summary["test_accuracy"] for summary in summaries]),
        f"{100 * mean(summary['validation_accuracy'] for summary in summaries):.2f}, "
        f"{100 * mean(float(row['validation_accuracy']) for row in last):.2f}",
        ", ".join(str(summary["seed"]) for summary in summaries),
        f"{minutes:.1f} on {' or '.join(map(str, threads))} of {', '.join(cpus)}",
        f"`results/{named[0]}`{f' to `{named[-1]}`' if named[1:] else ''}, {', '.join(dates)}, {', '.join(commits)}",
    ]


def filled(page: str) -> str:
    """The page with its tables made anew, from the line `<!-- rows -->` to the end."""
    works = yaml.safe_load((ROOT / "results" / "rows.yaml").read_text())
    tables = [f"## {work['work']}\n{grid(HEAD, [cells(row) for row in work['rows']])}\n" for work in works]
    return page.partition("<!-- rows -->")[0] + "<!-- rows -->\n" + "\n".join(tables)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
