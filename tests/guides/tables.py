"""What the tables of a guide claim: their neuron is ours. The page's cells are what is run, so they cannot diverge."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, table: str) -> list[tuple[str, str]]:
    """The code in the first two cells of each row of the table under `<!-- TABLE -->`."""
    text = re.search(rf"<!-- {table} -->\n((?:\|.*\n)+)", (DOCS / page).read_text())
    assert text, f"{page} has no table {table}"
    cells = [re.findall(r"(?:^| )\| `([^`]+)`", line) for line in text[1].splitlines()[2:]]
    assert cells
    assert all(len(pair) == 2 for pair in cells), "each row has code in its first two cells"
    return [(theirs, ours) for theirs, ours in cells]


def names(page: str) -> dict[str, Any]:
    """What our cells may name: those of a user's session, and what the page's snippets define."""
    found: dict[str, Any] = {"__name__": "__main__"}
    for code in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.S):
        exec(code, found)
    return found | {"rb": rb, "torch": torch, "nn": nn}


class Heaviside(torch.autograd.Function):
    """The step function (1 from 0 on, or above 0 only), with a surrogate derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Any, at_zero: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative = derivative
        return (x >= 0 if at_zero else x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.derivative(ctx.saved_tensors[0]), None, None


class Found(NamedTuple):
    """Outputs, and the gradients of the currents and of each learned number."""

    outputs: Tensor
    gradients: dict[str, Tensor]


def found(neuron: Any, currents: Tensor, learned: dict[str, tuple[Tensor, Tensor]]) -> Found:
    """What a neuron does. `learned` has for each number its parameter and its value, a function of that."""
    x = currents.clone().requires_grad_()
    outputs = neuron(x)
    loss = (outputs * torch.linspace(-1, 2, outputs.numel(), dtype=x.dtype).reshape(outputs.shape).sin()).sum()
    of_x, *of_parameters = torch.autograd.grad(loss, [x, *(parameter for parameter, _ in learned.values())])
    slopes = [torch.autograd.grad(value.sum(), parameter)[0] for parameter, value in learned.values()]
    gradients = [grad / slope for grad, slope in zip(of_parameters, slopes, strict=True)]
    return Found(outputs.detach(), {"currents": of_x, **dict(zip(learned, gradients, strict=True))})


def ours(neuron: rb.Neuron, currents: Tensor) -> Found:
    """What ours does, in float64, so by the definition."""
    raw = {name: parameter for name, parameter in neuron.named_parameters() if name.startswith("raw_")}
    learned = {name[4:]: (parameter, getattr(neuron, name[4:])) for name, parameter in raw.items()}
    return found(neuron, currents, learned)


def compare(theirs: Found, ours: Found) -> None:
    """Refuse outputs or gradients that differ."""
    torch.testing.assert_close(theirs.outputs, ours.outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs.gradients, ours.gradients, rtol=1e-9, atol=1e-12)


def without(cell: str) -> Iterator[str]:
    """The cell without one of its arguments by name, each in turn."""
    count = sum(len(call.keywords) for call in ast.walk(ast.parse(cell)) if isinstance(call, ast.Call))
    for left_out in range(count):
        tree = ast.parse(cell, mode="eval")
        places = [(call.keywords, i) for call in ast.walk(tree) if isinstance(call, ast.Call)
                  for i in range(len(call.keywords))]  # fmt: skip
        arguments, i = places[left_out]
        del arguments[i]
        yield ast.unparse(tree)


def made(cell: str, known: dict[str, Any]) -> Any:
    """The neuron of one of our cells, in float64 from its constructor on."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return eval(cell, dict(known))
    finally:
        torch.set_default_dtype(before)


def check(theirs: Any, cell: str, known: dict[str, Any], currents: Tensor) -> None:
    """Compare their neuron with that of our cell, and see that each of the cell's arguments matters."""
    neuron = made(cell, known)
    if hasattr(theirs, "recurrent"):
        theirs.recurrent.load_state_dict(neuron.module.state_dict())
    expected = found(theirs, currents, theirs.learned)
    if not isinstance(neuron, rb.Integrator):
        assert 0.05 < expected.outputs.mean() < 0.95, "silent neurons agree about everything"
    compare(expected, ours(neuron, currents))
    for other in without(cell):
        try:
            changed = made(other, known)
        except TypeError:  # it has no default
            continue
        if repr(changed) == repr(neuron):
            continue
        if hasattr(theirs, "recurrent"):
            changed.module.load_state_dict(neuron.module.state_dict())
        with pytest.raises(AssertionError):
            compare(expected, ours(changed, currents))
