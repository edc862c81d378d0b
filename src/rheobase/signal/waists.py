"""The waists of a net: what everything goes through on its way from the first neurons to the loss.

Of a plain net that is every layer; of a residual net, what its blocks hand on: all that lies beside an identity path is
no waist, since the signal may go past it.
"""

from __future__ import annotations

from typing import Any

Node = Any  # of autograd's graph


def waists(top: Node, bottom: Node) -> list[Node]:
    """The nodes of autograd's graph that every way down from `top` to `bottom` goes through, both ends included.

    A node is one if the ways through it, those to it times those from it, are all that there are. The lowest comes
    first. None: there is no way.
    """
    order = ordered(top)
    down: dict[Node, int] = {}
    for node in reversed(order):  # the lowest first
        down[node] = 1 if node is bottom else sum(down[below] for below in _below(node))
    up = dict.fromkeys(order, 0)
    up[top] = 1
    for node in order:
        for below in _below(node):
            up[below] += up[node]
    return [node for node in reversed(order) if down[top] and up[node] * down[node] == down[top]]


def _below(node: Node) -> list[Node]:
    return [below for below, _ in node.next_functions if below is not None]


def ordered(top: Node) -> list[Node]:
    """The node and all below it, each before those below itself."""
    found: list[Node] = []
    seen, stack = {top}, [(top, iter(_below(top)))]
    while stack:
        node, rest = stack[-1]
        below = next(rest, None)
        if below is None:
            found.append(node)
            stack.pop()
        elif below not in seen:
            seen.add(below)
            stack.append((below, iter(_below(below))))
    return found[::-1]
