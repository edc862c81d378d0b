"""Pieces of the page. What is text is escaped; pictures are inside the file."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

_TYPES = {"svg": "image/svg+xml", "png": "image/png"}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 1px solid #8886; }
p { white-space: pre-line; }
img { max-width: 100%; background: white; border-radius: 4px; }
table { border-collapse: collapse; } td, th { padding: .1rem 1rem .1rem 0; text-align: left; }
td { font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; font-size: 12px; } summary { cursor: pointer; margin: .5rem 0; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """The whole file."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    size = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}{size}</head><body>\n{body}\n</body></html>\n'


def section(title: str, *parts: str) -> str:
    """A heading and what is under it."""
    return "\n".join([f"<section><h2>{escape(title)}</h2>", *parts, "</section>"])


def paragraph(text: str) -> str:
    """Text; its lines stay lines."""
    return f"<p>{escape(text)}</p>"


def folded(title: str, part: str) -> str:
    """What a click shows."""
    return f"<details><summary>{escape(title)}</summary>{part}</details>"


def preformatted(text: str) -> str:
    """Text in columns."""
    return f"<pre>{escape(text)}</pre>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under their heads, if there are any."""
    first = "".join(f"<th>{escape(head)}</th>" for head in heads)
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{f'<tr>{first}</tr>' if heads else ''}{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def image(draw: Callable[[Path], None], kind: str = "svg", *, said: str) -> str:
    """A picture that `draw` saves to a file of that kind; `said` for who does not see it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture.{kind}"
        draw(path)
        content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(said)}" src="data:{_TYPES[kind]};base64,{content}">'
