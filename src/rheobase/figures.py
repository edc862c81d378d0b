"""Figures of matplotlib, which is loaded only for them, and draws into files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def figure(width: float, height: float) -> Any:
    """An empty one, of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(found)
    return found


def check(path: str | Path) -> None:
    """Refuse a file whose ending tells no format that there is, or whose folder is missing.

    Raises:
        ValueError: another ending; it names those that there are.
        FileNotFoundError: no such folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if Path(path).suffix[1:].lower() not in known:
        raise ValueError(f"a figure must end in one of {', '.join(f'.{name}' for name in known)}, got {str(path)!r}")
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {Path(path).parent} for the figure {Path(path).name}")
