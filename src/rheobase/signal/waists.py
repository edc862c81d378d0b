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
        down[node] = 1 if node is bottom else sum(down[each] for each in below(node))
    up = dict.fromkeys(order, 0)
    up[top] = 1
    for node in order:
        for each in below(node):
            up[each] += up[node]
    return [node for node in reversed(order) if down[top] and up[node] * down[node] == down[top]]


def below(node: Node) -> list[Node]:
    """What it hears of."""
    return [each for each, _ in node.next_functions if each is not None]


def ordered(top: Node) -> list[Node]:
    """The node and all below it, each before those below itself."""
    found: list[Node] = []
    seen, stack = {top}, [(top, iter(below(top)))]
    while stack:
        node, rest = stack[-1]
        lower = next(rest, None)
        if lower is None:
            found.append(node)
            stack.pop()
        elif lower not in seen:
            seen.add(lower)
            stack.append((lower, iter(below(lower))))
    return found[::-1]
