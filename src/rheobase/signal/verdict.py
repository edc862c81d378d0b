"""From readings to a verdict: what is wrong with a net, where, and what mends it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rheobase.signal.readings import Information, LayerHealth, WaistHealth


@dataclass(frozen=True)
class Fault:
    """Something that is wrong.

    Attributes:
        kind: "not finite", "silent", "saturated", "information lost", "underflow", "no gradient", "exploding" or
            "vanishing"; of `alarms` also "gain".
        where: path of the layer or module where it begins.
        what: what was seen.
        mend: what to do about it.
    """

    kind: str
    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where} {self.what}. {self.mend}."


MOST_IDLE = 0.9
"""Share of a layer's neurons that never fire, or at every step, from which on it is a fault."""
LEAST_LIKENESS = 0.1
"""Similarity, and likeness of two views, below which a place tells too little of the input."""
NOTHING = 0.03
"""The same, below which it tells nothing that could be told from chance."""
LEAST_TOLD = 0.3
"""Share of what guessing leaves wrong that a linear reader must get right: then classes are told apart all the same."""
MOST_LOST, MOST_PLACES, MOST_OF_FEW = 1 / 3, 7, 2 / 3
"""Share of the depth, and number of places, that may tell little: so much soon learns what it is to hand on. Of a net
of few places a larger share. No more than the first share may tell `NOTHING`."""
MOST_UNREAD = 1 / 4
"""The share without labels: with no linear reader only places count that tell `NOTHING`, and noise hides some."""
MOST_EXPLODED, MOST_VANISHED = 50.0, 1e-4
"""Ratios of the first gradient to the last. (Optimizers that scale the gradient bear one that vanishes for long.)"""

LEAST_SAMPLES = 8
"""Fewer of a batch have too few pairs for a similarity, and too little of a norm's statistics, to go by."""
LEVEL = (0.5, 2.0)
"""Gains of one layer that leave a deep net's gradient level."""

Place = TypeVar("Place", LayerHealth, WaistHealth, LayerHealth | WaistHealth)
Places = Sequence[LayerHealth | WaistHealth]


def faults(
    layers: Sequence[LayerHealth], places: Places, classes: int | None, batch: int, loss: float
) -> tuple[Fault, ...]:
    """What is wrong, worst first: what stands behind may follow from what stands before."""
    found = list(_not_finite(layers, loss))
    if not found:
        found = [*_idle(layers), *_lost(places, classes, batch), *_gradient(layers, places)]
    return tuple(found)


def _not_finite(layers: Sequence[LayerHealth], loss: float) -> Iterator[Fault]:
    """Where it begins: on the way up the lowest, on the way down the highest."""
    for layer in layers:
        if not layer.finite:
            mend = "Look for inputs or weights that are not finite, a division by zero, a too large learning rate"
            yield Fault("not finite", layer.path, "hears currents that are not finite, or has such potentials", mend)
            return
    if not math.isfinite(loss):
        yield Fault("not finite", "the loss", f"is {loss}", "Look at what comes after the last neuron")
        return
    for layer in reversed(layers):
        if not math.isfinite(layer.gradient_norm):
            mend = "Look at what is between it and the loss: the root of nothing, a surrogate that is too high"
            yield Fault("not finite", layer.path, "gets a gradient that is not finite", mend)
            return


def _idle(layers: Sequence[LayerHealth]) -> Iterator[Fault]:
    """The first layer that is silent, and the first that is saturated; what comes first may be the other's cause."""
    found = [fault for layer in layers for fault in _idle_at(layer)]
    for kind in dict.fromkeys(fault.kind for fault in found):
        first, *more = (fault for fault in found if fault.kind == kind)
        yield replace(first, what=f"{first.what} (and so in {len(more)} more layers)") if more else first


def _idle_at(layer: LayerHealth) -> Iterator[Fault]:
    """Not a branch that nothing comes out of yet, beside an identity path: so blocks begin."""
    if layer.beside and layer.deviation == 0:
        return
    for kind, share, what, threshold, weights in (
        ("silent", layer.dead, "never fire", "lower", "raise"),
        ("saturated", layer.saturated, "fire at every step", "raise", "lower"),
    ):
        if share is not None and share >= MOST_IDLE:
            mend = (
                f"Put a CurrentNorm before it, {threshold} its threshold, "
                f"or {weights} its input_scale or the weights before it"
            )
            yield Fault(kind, layer.path, f"has {share:.0%} of neurons that {what}", mend)


def lost(place: Information, classes: int | None, batch: int, least: float = LEAST_LIKENESS) -> bool:
    """Whether less than that is left of the input by any reading there is."""
    if place.accuracy is not None and classes is not None:
        chance = 1 / classes
        if place.accuracy >= chance + LEAST_TOLD * (1 - chance) + math.sqrt(chance * (1 - chance) / batch):
            return False
    return place.similarity < least and (place.noisy is None or place.noisy < least)


def bearable(faint: int, gone: int, places: int, read: bool = True) -> bool:
    """Whether a net learns though so many of its places tell little, or nothing, by a linear reader too or not."""
    if not read:
        return gone <= MOST_UNREAD * places
    return faint <= max(MOST_LOST * places, min(MOST_PLACES, MOST_OF_FEW * places)) and gone <= MOST_LOST * places


def _lost(places: Places, classes: int | None, batch: int) -> Iterator[Fault]:
    read = classes is not None
    faint, gone = ([p for p in places if lost(p, classes, batch, least)] for least in (LEAST_LIKENESS, NOTHING))
    if not bearable(len(faint), len(gone), len(places), read):
        named = faint if read else gone
        similarity = f"similarity {named[0].similarity:.2f}"
        more = f"and {len(named) - 1} more of {len(places)} hardly tell" if len(named) > 1 else "hardly tells"
        what = f"{more} inputs apart any more ({similarity})"
        yield Fault("information lost", named[0].path, what, _KEEP)


def bound(places: Sequence[Place]) -> list[Place]:
    """Those that a gradient can come to."""
    return [each for each in places if not isinstance(each, LayerHealth) or not (each.apart or each.bottom)]


def _gradient(layers: Sequence[LayerHealth], places: Places) -> Iterator[Fault]:
    apart = [layer for layer in layers if layer.apart]
    if apart:
        worst = next((layer for layer in reversed(apart) if layer.stopped), apart[-1])
        yield _stopped(worst) if worst.stopped else _apart(worst, len(apart) - 1)
    layers, places = bound(layers), bound(places)
    if not layers or not places:
        return
    first, last = places[0], places[-1]
    under = [layer for layer in layers if layer.underflow]
    if under:
        what = f"is the highest of {len(under)} layers whose gradient is below what its dtype can hold"
        mend = _SCALE if under[-1].dtype == "float16" else _mend(layers, _WIDEN)
        yield Fault("underflow", under[-1].path, what, mend)
        return
    cut = [layer.gradient_norm == 0 for layer in layers]
    if last.gradient_norm > 0 and (cut[0] or first.gradient_norm == 0):
        highest = cut.index(False) - 1 if cut[0] and False in cut else 0
        if layers[highest].stopped:
            yield _stopped(layers[highest])
            return
        what = "gets no gradient, nor does what is below it, and what is above it does"
        mend = "Look at what is between them: a comparison instead of rb.spike, a detach, weights that are all zero"
        yield Fault("no gradient", layers[highest].path, what, mend)
        return
    if last.gradient_norm == 0 and layers[-1].stopped:
        yield _stopped(layers[-1])
        return
    if last.gradient_norm == 0:
        yield Fault("no gradient", last.path, "gets no gradient", "Look at what is between it and the loss")
        return
    ratio = first.gradient_norm / last.gradient_norm
    gain = ratio ** (1 / max(1, len(places) - 1))
    seen = f"to {first.path} the gradient goes by a factor of {ratio:.0e}, {gain:.2f} a layer"
    if ratio > MOST_EXPLODED:
        yield Fault("exploding", f"from {last.path}", seen, _mend(layers, _NARROW))
    elif ratio < MOST_VANISHED:
        yield Fault("vanishing", f"from {last.path}", seen, _mend(layers, _WIDEN))


def _mend(layers: Sequence[LayerHealth], surrogates: str) -> str:
    """What to do about surrogates, where there are any: a rule has none."""
    rule = next((layer.rule for layer in layers if layer.rule is not None), None)
    return surrogates if rule is None else _RULE.format(rule)


def _apart(layer: LayerHealth, more: int) -> Fault:
    """What the loss does not depend on."""
    others = f", nor do {more} more" if more else ""
    what = f"gets no gradient{others}: the loss does not depend on it, as autograd sees it"
    mend = (
        "Look above it for a comparison instead of rb.spike, a detach, torch.no_grad; of a head that this loss is not "
        "of, probe with a loss of all heads"
    )
    return Fault("no gradient", layer.path, what, mend)


def _stopped(layer: LayerHealth) -> Fault:
    """A neuron that is the cause by itself."""
    mend = "Write its spikes as rb.spike: a comparison has no gradient, nor has what runs under torch.no_grad"
    if layer.rule is not None:
        mend = _RULE.format(layer.rule)
    elif layer.in_window is not None:
        mend = "Widen its surrogate, which is nothing at all of its potentials"
    return Fault("no gradient", layer.path, "hands nothing of what its spikes get down to its currents", mend)


def alarms(layers: Sequence[LayerHealth], places: Places, classes: int | None, batch: int) -> Iterator[Fault]:
    """What has come to each layer by itself, for who watches a net that trains."""
    for layer in layers:
        yield from _idle_at(layer)
    for place in places:
        if lost(place, classes, batch, NOTHING):
            yield Fault("information lost", place.path, "no longer tells inputs apart", _KEEP)
        if place.gain is not None and not LEVEL[0] <= place.gain <= LEVEL[1]:
            what = f"has a gradient {place.gain:.2g} times as large as that of what follows"
            yield Fault("gain", place.path, what, _mend(layers, _NARROW if place.gain > 1 else _WIDEN))


_RULE = "The gradient is of the rule {!r}, which knows no surrogate: look at thresholds, and at the weights before them"
_KEEP = (
    "Begin residual blocks as the identity (start='identity', or rb.tune), or take fewer layers, more steps, "
    "or weights that keep the signal"
)
_WIDEN = "Widen the surrogates (rb.tune does it layer by layer), or take a residual net that begins as the identity"
_SCALE = "Scale the loss, as float16 wants (torch.amp.GradScaler), or take bfloat16, which reaches as low as float32"
_NARROW = (
    "Narrow the surrogates (rb.tune does it layer by layer), or let the gradient through the reset "
    "(detach_reset=False), which keeps that of an identity path as it is"
)
