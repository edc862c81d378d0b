"""What a network consists of, once it is read: layers in the order in which they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rheobase.graph.shapes import without_batch

Kind = Literal["weights", "norm", "activation", "pool", "max", "shape", "dropout", "add", "cat"]
"""weights: convolution or linear; pool: another linear map; max: the maximum of places; shape: the same numbers, or
some of them."""

INPUT = ""
"""The name of what goes into the network."""


@dataclass(frozen=True)
class Layer:
    """One place of a network.

    Attributes:
        name: the module's path; of a function, the path of the module that calls it, and the function's name.
        kind: what it does.
        module: what computes it from its inputs, `[B, ...]`.
        inputs: names of the layers whose outputs go in.
        where: file and line, for errors.
    """

    name: str
    kind: Kind
    module: nn.Module
    inputs: tuple[str, ...]
    where: str

    def __str__(self) -> str:
        return f"{self.name} ({type(self.module).__name__}, {self.where})"


@dataclass(frozen=True)
class Graph:
    """A network as its layers.

    Attributes:
        owner: name of the network's class.
        layers: in the order in which they run, those alone that the output depends on.
        output: name of the layer whose output is the network's.
        unused: those that the output does not depend on.
    """

    owner: str
    layers: tuple[Layer, ...]
    output: str
    unused: tuple[Layer, ...] = ()

    def __getitem__(self, name: str) -> Layer:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)

    @property
    def uses(self) -> Counter[str]:
        """How often the output of each layer is used, by other layers or as the network's."""
        return Counter([name for layer in self.layers for name in layer.inputs] + [self.output])

    def of(self, kind: Kind) -> list[Layer]:
        """The layers of that kind."""
        return [layer for layer in self.layers if layer.kind == kind]

    def __str__(self) -> str:
        rows = []
        for one in self.layers:
            rows.append((one.name, one.kind, str(one.module), ", ".join(name or "input" for name in one.inputs)))
        return table(("layer", "kind", "module", "inputs"), rows)


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]
    return "\n".join(line.rstrip() for line in lines)


class Add(nn.Module):
    """The sum of two, a residual junction."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Their sum."""
        return a + b


class Cat(nn.Module):
    """Several, one behind the other along an axis (batch first; time in front of it changes nothing: see `lead`).

    Args:
        dim: the axis.
        lead: axes in front of those of a sample.

    Raises:
        ValueError: the axis is that of the batch.
    """

    def __init__(self, dim: int, lead: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.lead = lead

    def forward(self, *parts: Tensor) -> Tensor:
        """All of them."""
        without_batch(f"cat along {self.dim}", parts[0][(0,) * (self.lead - 1)], (self.dim,))
        return torch.cat(parts, self.dim + self.lead - 1 if self.dim > 0 else self.dim)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.dim}"


class Mean(nn.Module):
    """The mean over some axes.

    Raises:
        ValueError: one is that of the batch.
    """

    def __init__(self, dims: tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.dims = dims
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        without_batch(f"mean over {self.dims}", x, self.dims)
        return x.mean(self.dims, self.keepdim)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.dims}, keepdim={self.keepdim}"


class Step:
    """A layer of a `Flow`: a module, which of the values before it takes (None: nothing), and what it gives."""

    def __init__(
        self, name: str, module: nn.Module, inputs: tuple[str | None, ...], outputs: tuple[str, ...] | None = None
    ) -> None:
        self.name = name
        self.module = module
        self.inputs = inputs
        self.outputs = (name,) if outputs is None else outputs


class Flow(nn.Module):
    """Modules that run one after the other, each on what some before it gave.

    A module lies at the path that its name tells: `flow.layer1[0].conv` that of "layer1.0.conv".
    """

    def __init__(self, steps: list[Step], output: str) -> None:
        super().__init__()
        for step in steps:
            *path, last = step.name.split(".")
            place: nn.Module = self
            for name in path:
                if name not in place._modules:
                    place.add_module(name, nn.Module())
                place = getattr(place, name)
            if last in place._modules:
                raise ValueError(f"two layers are called {step.name!r}")
            place.add_module(last, step.module)
        self._plan = [(step.name.split("."), step.inputs, step.outputs) for step in steps]
        self._output = output
        last_use = {name: i for i, step in enumerate(steps) for name in (*step.outputs, *step.inputs)}
        self._done: list[list[str]] = [[] for _ in steps]  # what no step after that one needs
        for value, i in last_use.items():
            if value is not None and value != output:
                self._done[i].append(value)

    def forward(self, x: Tensor, watch: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """The output; `watch` is told the name and the value of everything on the way."""
        values: dict[str | None, Any] = {None: None, INPUT: x}
        del x
        for (path, inputs, outputs), done in zip(self._plan, self._done, strict=True):
            module: Any = self
            for name in path:
                module = getattr(module, name)
            found = module(*[values[name] for name in inputs])
            values.update(zip(outputs, found if len(outputs) > 1 else (found,), strict=True))
            if watch is not None:
                for value in outputs:
                    watch(value, values[value])
            for name in done:
                del values[name]
        return values[self._output]
