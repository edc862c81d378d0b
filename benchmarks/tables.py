"""Fill the tables of docs/speed.md from the JSON in benchmarks/results: `python benchmarks/tables.py`.

A line `<!-- NAME -->` there stands above the table that the function NAME makes here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "speed.md"

Measured = dict[str, Any]  # a table of a record, its rows by name


def tables(record: str, workload: str) -> Iterator[tuple[str, Measured]]:
    """Title and rows of what was measured; the newest file of this record counts."""
    path = max((ROOT / "benchmarks" / "results").glob(f"{record}-*.json"))
    for table in json.loads(path.read_text())["tables"]:
        if table["workload"] == workload:
            yield table["title"], {row["name"]: row for row in table["rows"]}


def find(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of a pattern that must be there."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern!r} in {text!r}")
    return found.groups()


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def named(rows: Measured, start: str) -> Any:
    """The row whose name begins so."""
    return next((row for name, row in rows.items() if name.startswith(start)), None)


def of(rows: Measured, start: str) -> str:
    """Our time over that of the row whose name begins so."""
    row = named(rows, start)
    return f"{row['reference_over_this']:.2f}" if row and row["samples"] else "-"


def ms(row: Any, digits: int = 0) -> str:
    """Median."""
    return f"{1e3 * row['median']:.{digits}f} ms"


def mib(row: Any) -> str:
    """Peak."""
    return f"{row['peak_mib']:.0f} MiB"


def share(ours: Any, other: Any) -> str:
    """Our peak over another's."""
    return f"{ours['peak_mib'] / other['peak_mib']:.2f}"


RIVALS = ("SpikingJelly", "snnTorch", "Norse")


def lif() -> str:
    """One layer."""
    rows = []
    for title, row in tables("layers", "lif"):
        neuron, size, rate = find(r"LIF, (.*), forward and backward, T x B x N = ([\d x]+), firing rate (.*)", title)
        cells = [f"{size}, {neuron}", rate, ms(row["rheobase"], 2), *(of(row, name) for name in RIVALS)]
        peaks = [share(row["rheobase"], other) for name in RIVALS if (other := named(row, name)) and other["samples"]]
        rows.append(
            [*cells, of(row, "torch loop"), of(row, "torch.compile"), of(row, "copy"), mib(row["rheobase"]), max(peaks)]
        )
    head = ["T x B x N, neuron", "firing rate", "rheobase", *(f"of {name}" for name in RIVALS)]
    return grid(
        [*head, "of the torch loop", "of it compiled", "of the least bytes", "peak", "of the smallest other library's"],
        rows,
    )


def norm() -> str:
    """Norm and neuron."""
    found: dict[str, dict[str, str]] = {}
    for title, row in tables("layers", "norm"):
        precision, size = find(r"backward, (\w+), T=4, B=16, (.*)", title)
        ours, twin = row["rheobase"], row["BatchNorm2d and ReLU"]
        outside = ms(named(row, "rheobase without"), 2)
        cell = f"{of(row, 'BatchNorm2d')} ({ms(ours, 2)}, {outside} outside kernels), memory {share(ours, twin)}"
        found.setdefault(precision, {})[size] = cell
    sizes = list(next(iter(found.values())))
    return grid(["", *sizes], [[name, *(cells[size] for size in sizes)] for name, cells in found.items()])


def step() -> str:
    """A training step."""
    rows = []
    for title, row in tables("step", "step"):
        name, steps, precision, rate = find(r"(\w+), .*T=(\d+), B=16, (\w+), firing rate (.*)", title)
        ours, packed, twin, best = (named(row, start) for start in ("rheobase", "rheobase,", "ANN", "SpikingJelly,"))
        cells = [f"`{name}`", steps, precision, rate, ms(ours)]
        cells += [of(row, start) for start in ("ANN", "SpikingJelly,", "SpikingJelly as")]
        rows.append([*cells, mib(ours), share(ours, twin), share(ours, best), mib(packed), share(packed, best)])
    head = ["", "T", "precision", "firing rate", "step", "of the twin", "of SpikingJelly", "as documented"]
    return grid([*head, "peak", "of the twin's", "of SpikingJelly's", "spikes as bytes", "of SpikingJelly's"], rows)


def shares() -> str:
    """The parts of a step."""
    rows = []
    for title, row in tables("shares", "shares"):
        name, precision = find(r"(\w+), .*, (\w+)$", title)
        rows.append([f"`{name}`", precision, *(f"{1e3 * part['median']:.0f}" for part in row.values())])
    parts = ("convolutions", "norms and neurons", "all else")
    return grid(
        ["", "precision", *parts, *(f"twin: {part}" for part in ("convolutions", "norms and ReLUs", parts[2]))], rows
    )


def scaling() -> str:
    """Cost as work grows."""
    found = [(find(r"(T=.*)$", title)[0], of(row, "ANN")) for title, row in tables("scaling", "scaling")]
    return grid([size for size, _ in found], [[ratio for _, ratio in found]])


def inference() -> str:
    """Evaluation."""
    rows = []
    for title, row in tables("scaling", "inference"):
        ours, twin = row["rheobase"], row["ANN twin on T x B images"]
        cells = [find(r"(B=\d+)$", title)[0], ms(ours), of(row, "ANN twin on B"), of(row, "ANN twin on T")]
        rows.append([*cells, mib(ours), share(ours, twin)])
    return grid(["", "rheobase", "of the twin on B images", "on T x B", "peak", "of the latter's"], rows)


def memory() -> str:
    """Peaks as T grows."""
    starts = ("rheobase", "rheobase,", "ANN", "SpikingJelly,", "SpikingJelly as")
    rows = []
    for title, row in tables("memory", "memory"):
        rows.append([find(r"T=(\d+)", title)[0], *(f"{named(row, start)['peak_mib']:.0f}" for start in starts)])
    return grid(["T", "rheobase", "spikes as bytes", "twin", "SpikingJelly, channels-last", "as documented"], rows)


def library() -> str:
    """A linear layer and a neuron."""
    rows = []
    for title, row in tables("library", "library"):
        if title.startswith("W1"):
            neuron, size, rate = find(r"linear and LIF, (.*), n=(\d+), .*firing rate (.*)", title)
            cells = [f"{size}, {neuron}", rate, ms(row["rheobase"]), of(row, "linear")]
            rows.append([*cells, *(of(row, name) for name in RIVALS)])
    return grid(
        ["n, neuron", "firing rate", "rheobase", "of the linear layer", *(f"of {name}" for name in RIVALS)], rows
    )


def first() -> str:
    """The first step of a process."""
    rows = []
    for title, row in tables("first", "first"):
        cells = [f"{part['median']:.1f} s" for part in row.values()]
        rows.append([f"`{find(r'^(.*), first', title)[0]}`", *cells])
    return grid(["", "kernels to compile", "kernels on disk"], rows)


def loader() -> str:
    """Images a second."""
    rows = []
    for title, row in tables("loader", "loader"):
        need, *others = row.values()
        wanted = int(find(r"takes (\d+) images/s", need["name"])[0])
        for place, other in enumerate(others):
            what = "" if place else find(r"(.*), batches of", title)[0]
            per_second = wanted * need["median"] / other["median"]
            times = f"{other['reference_over_this']:.1f}" if "JPEG" in title else "-"  # what such a step takes
            rows.append([what, other["name"], f"{per_second:,.0f}", times])
    return grid(["", "", "images/s", f"times {wanted} images/s"], rows)


def checkpoint() -> str:
    """Writing and reading."""
    rows = []
    for title, row in tables("checkpoint", "checkpoint"):
        size = float(find(r"([\d.]+) MB", title)[0])
        for name, part in row.items():
            peak = mib(part) if part["peak_mib"] is not None else "-"
            rows.append([name, f"{part['median']:.2f} s", f"{size / part['median']:.0f} MB/s", peak])
    return grid(["", "", "", "peak"], rows)


def growth() -> str:
    """Memory as steps go by."""
    path = max((ROOT / "benchmarks" / "results").glob("growth-*.json"))
    samples = {sample["step"]: sample for sample in json.loads(path.read_text())["samples"]}
    chosen = [samples[step] for step in (1000, 2000, 5000, 10_000, 15_000, 20_000)]
    rows = [
        ["resident", *(f"{sample['resident_mib']:.1f} MiB" for sample in chosen)],
        ["tensors", *(str(sample["tensors"]) for sample in chosen)],
        ["their storage", *(f"{sample['tensors_mib']:.2f} MiB" for sample in chosen)],
        ["all objects of Python", *(f"{sample['objects']:,}" for sample in chosen)],
    ]
    return grid(["before step", *(f"{sample['step']:,}" for sample in chosen)], rows)


MAKERS: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (lif, norm, step, shares, scaling, inference, memory, library, first, loader, checkpoint, growth)
}


def filled(page: str) -> str:
    """The page with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n{MAKERS[found[1]]()}\n"

    return re.sub(r"<!-- (\w+) -->\n(?:\|.*\n)*", table, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
