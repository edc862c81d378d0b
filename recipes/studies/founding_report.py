"""Tables and a figure of the founding study's lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.studies.founding_arms import ARMS, STEPS
from rheobase import figures


def show(found: list[dict[str, Any]], figure: Path) -> None:
    """Two tables and a figure."""
    print(
        f"| arm | validation, %: best, last | test, % at T = {STEPS} | gradient, first over last: before, after "
        "| similarity at the end | rate | nJ a sample: spiking | ANN | ANN, its bits | training, min by the clock |"
    )
    print(f"|{'---|' * 10}")
    for done in found:
        energy = done.get("energy", {}).get(str(STEPS), {})
        test = done.get("test") if done.get("accuracy") is None else done["accuracy"].get(str(STEPS))
        probes = [done.get(key, {}) for key in ("before", "after")]
        cells = (
            title(done),
            _joined([done.get("validation"), *done.get("epochs", [])[-1:]], _percent),
            _joined([test], _percent),
            *(_joined([probe.get(key) for probe in probes], str) for key in ("gradient", "similarity")),
            _joined([energy.get("rate")], lambda share: f"{share:.3f}"),
            *(_joined([energy.get(key)], lambda cost: f"{cost:.4g}") for key in ("spiking", "ann", "quantised")),
            _joined([done.get("train_seconds")], lambda seconds: f"{seconds / 60:.0f}"),
        )
        print(f"| {' | '.join(cells)} |")
    every = sorted({int(steps) for done in found for steps in done.get("accuracy", {})})
    print(f"\n| test accuracy, %; T = {' | '.join(map(str, every))} |\n|{'---|' * (len(every) + 1)}")
    for done in found:
        if "accuracy" in done:
            shares = [_joined([done["accuracy"].get(str(steps))], _percent) for steps in every]
            print(f"| {' | '.join([done['arm'], *shares])} |")
    for done in found:
        told = [f"at T = {steps} of {count}" for steps, count in done.get("samples", {}).items() if int(steps) > 100]
        if told:
            print(f"\n{done['arm']}: of {max(done['samples'].values())} images, {', '.join(told)}")
    _draw(found, figure)


def title(done: dict[str, Any]) -> str:
    """The arm, and whether it was trained to its end."""
    if done.get("cut"):
        return f"{done['arm']} (cut after epoch {done['cut']})"
    return f"{done['arm']} (diverged)" if "diverged" in done else str(done["arm"])


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _joined(values: Sequence[Any], form: Callable[[Any], str]) -> str:
    return ", ".join(form(value) for value in values if value is not None)


def _draw(found: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import colormaps

    drawn = figures.figure(11, 4.5)
    left, right = drawn.subplots(1, 2, sharey=True)
    colors = colormaps["turbo"]  # a colour an arm, the same in every figure
    for done in found:
        color = colors((7 * ARMS.index(done["arm"]) % len(ARMS) + 0.5) / len(ARMS))
        if "epochs" in done:
            shares = [100 * share for share in done["epochs"]]
            left.plot(range(1, len(shares) + 1), shares, ".-", color=color, label=done["arm"])
        if "accuracy" in done:
            shares = [100 * share for share in done["accuracy"].values()]
            line = ".:" if "of" in done else ".-"
            right.plot([int(steps) for steps in done["accuracy"]], shares, line, color=color, label=done["arm"])
        elif done.get("test") is not None:
            right.axhline(100 * done["test"], color=color, linestyle="--", label=done["arm"])
    left.set(xlabel="epoch", ylabel="accuracy, % (validation)")
    right.set(xscale="log", xlabel="time steps T (test)")
    for axis in (left, right):
        axis.grid(alpha=0.2)
        axis.legend(frameon=False, fontsize=8)
    drawn.savefig(path, dpi=120)
