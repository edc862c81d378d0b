"""Which neuron hears which weights: told by autograd's graph, not by the order in which modules are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rheobase.signal.waists import Node, below

VIEWS = ("T", "Transpose", "Permute", "View", "Unsqueeze", "Squeeze", "Expand", "ToCopy")
"""Operations, by autograd's names, that may lie between a weight and its product."""


def heard(
    currents: Sequence[Tensor], outputs: Sequence[Tensor], names: Mapping[nn.Parameter, str], nearest: bool = False
) -> list[list[str]]:
    """Of each neuron, the parameters that its currents are made of, and those of no neuron before it.

    What comes through another neuron is that one's; of what goes past neurons, as on the stream of an MS-ResNet, each
    use of a parameter is the first's that hears it.

    Args:
        currents, outputs: of the neurons, in the order in which they ran, with a graph.
        names: of the parameters that are asked for.
        nearest: of layers one behind the other without a neuron between them, the last alone.
    """
    seen = {each.grad_fn for each in outputs}
    return [list(dict.fromkeys(_found(each.grad_fn, seen, names, nearest))) for each in currents]


def _found(top: Node | None, seen: set[Any], names: Mapping[nn.Parameter, str], nearest: bool) -> Iterator[str]:
    stack = [] if top is None or top in seen else [top]
    seen.update(stack)
    while stack:
        node = stack.pop()
        weights = [name for each in below(node) if (name := _weight(each, names)) is not None]
        yield from weights
        if not (nearest and weights):
            new = [each for each in below(node) if each not in seen and _weight(each, names) is None]
            seen.update(new)
            stack += new


def _weight(node: Node, names: Mapping[nn.Parameter, str]) -> str | None:
    """The parameter that an input of an operation is, but for views."""
    while type(node).__name__.partition("Backward")[0] in VIEWS and below(node):
        [node] = below(node)
    return names.get(node.variable) if hasattr(node, "variable") else None
