"""What a net will do before there is one: the gain of a layer, the width at which it is 1, how deep a signal gets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from rheobase.neurons import LIF
from rheobase.signal.field import Stack, so_wide, up
from rheobase.signal.gain import Profile, through_neuron
from rheobase.surrogate import Surrogate

SETTLED = 8
"""Layers after which currents are as correlated over time as they will be."""
FEWEST = 10
"""Blocks that tell a map."""
SAME, NEAR, LAST = 0.1, 0.4, 5
"""Likeness that may be the same but for the draw; how far off its fixed point a map is a line, about; and how many of
the last values tell that point."""


def gain(neuron: LIF, steps: int, r: float = 1.0, junction: str = "none", samples: int = 64) -> float:
    """Of a deep net's layer: the L2 norm of the gradient of its currents over that of the layer above.

    It is that of wide random weights, a norm and the neuron; with the junction "classic" the gradient also goes past
    the weights, from the currents of one block to those of the block below.

    Args:
        neuron: `LIF` or `IF`.
        steps: T.
        r: correlation of the gradient of the layer above from a step to the next, r^n over n steps: 1 beside a readout
            of the mean over time, less further down. (Of IF, whose gradient piles up at the first steps, it does not
            tell enough: there `field.down` takes a gradient with all of its correlations through a whole net.)
        junction: "none" or "classic".
        samples: that the norm sees of a channel: batch size times places.

    Raises:
        ValueError: another junction, or a neuron whose gain is not known (see `through_neuron`).
    """
    return _layer(neuron, steps, r, junction, samples)(neuron)


def _layer(neuron: LIF, steps: int, r: float, junction: str, samples: int) -> Callable[[LIF], float]:
    """The gain of a layer, as a function of the neuron's surrogate: what goes up does not depend on it."""
    if junction not in ("none", "classic"):
        raise ValueError(f"gain: junction must be 'none' or 'classic', got {junction!r}")
    if not -1 <= r <= 1:
        raise ValueError(f"gain: r must be in [-1, 1], got {r}")
    populations = up(Stack(neuron, steps, SETTLED, junction=junction, samples=samples)).blocks  # type: ignore[arg-type]
    above, below = populations[-1][0], populations[-2][0]
    apart = torch.arange(steps, dtype=torch.float64)
    currents = Profile(torch.as_tensor(r, dtype=torch.float64) ** (apart - apart.unsqueeze(1)).abs())
    spikes = currents.through_norm(above.normed, samples).scaled(above.weights)
    if junction == "classic":
        spikes = spikes.plus(currents)
    return lambda neuron: through_neuron(neuron, below.potentials, spikes).size / currents.size


def critical(
    surrogate: Surrogate,
    steps: int,
    decay: float = 0.5,
    threshold: float = 1.0,
    reset: str = "soft",
    r: float = 1.0,
    detach_reset: bool = True,
    junction: str = "none",
    samples: int = 64,
) -> Surrogate:
    """The surrogate of this shape whose width makes the `gain` of a layer 1.

    Args:
        surrogate: its shape; its height stays.
        steps, r, junction, samples: as of `gain`.
        decay, threshold, reset, detach_reset: of the neuron.

    Raises:
        ValueError: no width from a 20th to 20 times the given one does it; or as of `gain`.
    """
    neuron = LIF(decay, threshold, reset, detach_reset=detach_reset, surrogate=surrogate)
    layer = _layer(neuron, steps, r, junction, samples)

    def ratio(stretched: Surrogate) -> float:
        neuron.surrogate = stretched
        return layer(neuron)

    found = so_wide(surrogate, ratio)
    if found is None:
        raise ValueError(f"critical: no width of {surrogate} has a gain of 1 at {steps} steps")
    return found


def depth(stack: Stack, least: float = 0.05) -> float:
    """Blocks after which two views of an input are no more alike than `least`; infinite if not within the stack's.

    A view is the input and noise of a tenth of its size, as `probe` reads it.
    """
    return reached(up(stack).views, least)


def reached(views: Sequence[float], least: float) -> float:
    """Where readings over depth, the first of depth 0, have come down to the least, on a line between two of them."""
    for place, (above, below) in enumerate(zip(views[1:], views, strict=False), 1):
        if above < least:
            return float(place - (least - above) / max(below - above, 1e-12))
    return math.inf


class Likeness(NamedTuple):
    """How a block changes how alike two inputs are: their cosine about the mean, of rates.

    Attributes:
        below, above: the map, in points: likeness below a block, ascending, and above it.
        fixed: what it leads to from block to block; 1 where inputs stay as alike as they were, 0 where they become as
            unlike as any two.
        slope: of the line that the map is about there, up to .4 off it. A difference from `fixed` shrinks to so much
            in a block: what is left of an input falls by e in -1 / ln(slope) blocks (Schoenholz et al. 2017 call that
            the depth scale).
    """

    below: tuple[float, ...]
    above: tuple[float, ...]
    fixed: float
    slope: float


def likeness(stack: Stack) -> Likeness:
    """The map of a block, from two views of an input and from two inputs on their way through the stack.

    Raises:
        ValueError: fewer than ten blocks, or they do not come to one point within the stack's.
    """
    if stack.blocks < FEWEST:
        raise ValueError(f"likeness: the stack must have at least {FEWEST} blocks, got {stack.blocks}")
    found = up(stack)
    if abs(found.views[-1] - found.inputs[-1]) > SAME:
        raise ValueError(
            f"likeness: {stack.blocks} blocks are not enough: two views are alike by {found.views[-1]:.2f} behind "
            f"them, two inputs by {found.inputs[-1]:.2f}"
        )
    fixed = statistics.mean(found.views[-LAST:] + found.inputs[-LAST:])
    pairs = sorted(pair for way in (found.views, found.inputs) for pair in pairwise(way))
    below, above = zip(*pairs, strict=True)
    near = [(b - fixed, a - fixed) for b, a in pairs if abs(b - fixed) < NEAR]
    slope = sum(b * a for b, a in near) / sum(b * b for b, _ in near)
    return Likeness(below, above, fixed, slope)
