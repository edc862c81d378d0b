"""What a pass tells of each neuron and of each waist of a net."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rheobase.neurons import LIF, Neuron, Recurrent
from rheobase.signal import measures
from rheobase.signal.gain import Profile
from rheobase.signal.passing import Layer, Passed
from rheobase.surrogate import SHAPES

LEAST_PAIRS = 1e-4
"""Differences in likeness of inputs from pair to pair that are rounding."""


@dataclass(frozen=True)
class Information:
    """What is left of the input.

    Attributes:
        similarity: correlation, over pairs of samples, of their likeness here with that of the inputs; 1: all is kept.
            Not a number where that says nothing: inputs all the same, or all equally unlike, or fewer than three; or
            a place with another batch than the inputs.
        noisy: mean cosine, each about its mean, of two views of a sample, the input and input + noise a tenth of its
            size; 0: they are as different as two samples. None where it was not asked for; not a number where the
            inputs are all the same.
        accuracy: of a linear reader of the classes, each sample left out in turn; None without labels.
    """

    similarity: float
    noisy: float | None
    accuracy: float | None


@dataclass(frozen=True)
class LayerHealth(Information):
    """A neuron in a pass; `Information` is that of its rates.

    Attributes:
        path: in the model.
        shape: of its spikes without time and batch.
        beside: whether the signal may go past it, as in the branch of a residual block.
        deviation: standard deviation of its currents.
        rate: mean of its spikes, or of what else it gives out; within `rheobase.padding`, of real steps.
        dead, saturated: share of its neurons that fire at no step of any sample, and at every step of all; None of
            neurons that give no spikes.
        in_window: share of potentials at which the surrogate is at least half as high as its peak, of some thousand
            places where neurons are all alike; None where there is no such surrogate, in a neuron of one's own.
        gradient_norm: L2 norm of the loss's gradient with respect to its currents, float64.
        gradient_rms: the same over the root of their number.
        gain: its gradient_norm over that of the next layer; None for the last, at the bottom, or where that has none.
        r: correlation of the gradient of its spikes from a step to the next, of some ten thousand places; None at
            T = 1, or without a gradient.
        agreement: cosine between the gradients of its weights from two halves of the batch; None where there is none.
        weight_ratio: L2 norm of its weights' gradient over that of the weights; None where it has none.
        stopped: whether its currents get no gradient though its spikes do, or have none to begin with.
        finite: whether its currents and what it gives out are, and the potentials that were looked at.
        dtype: of its currents, and of their gradient.
        apart: whether the loss does not depend on its currents, or they on the layer before it, as autograd sees it.
        bottom: whether nothing that could be trained is below it, as below a neuron that encodes the inputs.
        rule: the name of its gradient rule; None: a surrogate's gradient.
        underflow: whether gradients of its currents have come down to numbers that their dtype rounds to nothing.
        rates, gradient_norms: of each step, where asked for.
    """

    path: str
    shape: tuple[int, ...]
    beside: bool
    deviation: float
    rate: float
    dead: float | None
    saturated: float | None
    in_window: float | None
    gradient_norm: float
    gradient_rms: float
    gain: float | None
    r: float | None
    agreement: float | None
    weight_ratio: float | None
    stopped: bool
    finite: bool
    dtype: str
    underflow: bool
    apart: bool
    bottom: bool
    rule: str | None
    rates: tuple[float, ...] = ()
    gradient_norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class WaistHealth(Information):
    """What everything goes through after some neuron: of a plain net each layer, of a residual net each block.

    Attributes:
        path: of the module that gives it; "(output)" of the model itself.
        after: index of the last neuron before it.
        gradient_norm, gain: as those of a layer, from waist to waist.
    """

    path: str
    after: int
    gradient_norm: float
    gain: float | None


class Reader:
    """Reads `Information` of features `[T, B, ...]` of a batch, once of each.

    Args:
        samples: of the batch, that are read.
        inputs: `[B, N]`, of the whole batch.
        labels: theirs, or None.
        real: `[B]`, the real steps of each, or None.
    """

    def __init__(self, samples: slice, inputs: Tensor, labels: Tensor | None, real: Tensor | None = None) -> None:
        self._samples, self._labels = samples, labels if labels is None else labels[samples]
        self._real = real
        products = measures.gram(measures.centred(inputs[samples]))
        self._count = len(products)
        self._inputs, self._alike = measures.pairs(products), not products.any()
        self._flat = bool((self._inputs.abs() <= LEAST_PAIRS).all())
        self._found: dict[tuple[int, torch.Size], tuple[Tensor, dict[str, Any]]] = {}

    def read(self, features: Tensor, others: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Rates `[B, N]` of features, and what is left in them; `others` are those of the other view."""
        key = features.data_ptr(), features.shape
        if key not in self._found:
            rates = measures.rates(features, real=self._real)
            about = measures.centred(rates[self._samples])
            products = measures.gram(about)
            real = None if self._real is None else self._real[self._samples]
            again = None if others is None else measures.rates(others[:, self._samples], features, real)
            self._found[key] = (
                rates,
                {
                    "similarity": self._kept(products),
                    "noisy": None if again is None else self._noisy(about, measures.centred(again)),
                    "accuracy": self._told(products),
                },
            )
        return self._found[key]

    def _kept(self, products: Tensor) -> float:
        if self._flat or len(products) != self._count:
            return math.nan
        return measures.kept(measures.pairs(products), self._inputs)

    def _told(self, products: Tensor) -> float | None:
        if self._labels is None or len(products) != self._count:
            return None
        return measures.told_apart(products, self._labels)

    def _noisy(self, about: Tensor, again: Tensor) -> float:
        return math.nan if self._alike else measures.alike(about, again)


def layers(
    passed: Passed, others: Sequence[Tensor] | None, reader: Reader, weights: Mapping[str, Tensor], by_step: bool
) -> list[LayerHealth]:
    """Every neuron's.

    Args:
        passed: the pass.
        others: spikes of each neuron for the other view.
        reader: of information.
        weights: the model's parameters by name.
        by_step: whether rates and gradients of each step are wanted.
    """
    sizes = [measures.size(layer.currents_grad) for layer in passed.layers]
    under = _underflow(sizes, passed.layers)
    found = []
    for i, layer in enumerate(passed.layers):
        gradients = [passed.weights[name] for name in layer.weights]
        rates, information = reader.read(layer.spikes, None if others is None else others[i])
        mean = rates.mean(0)  # of each neuron
        neuron = _inner(layer.neuron)
        rate, norm, dead, saturated = float(mean.mean()), sizes[i].norm, *_idle(layer, mean)
        deviation = float(layer.currents.float().std(correction=0))
        sums = (
            rate,
            0.0 if layer.potentials is None else float(layer.potentials.sum()),
            deviation if math.isfinite(deviation) else float(layer.currents.sum()),
        )
        found.append(
            LayerHealth(
                path=layer.path,
                shape=tuple(layer.spikes.shape[2:]),
                beside=layer.beside,
                deviation=deviation,
                rate=rate,
                dead=dead,
                saturated=saturated,
                in_window=_in_window(layer),
                gradient_norm=norm,
                gradient_rms=norm / max(1, layer.currents.numel()) ** 0.5,
                gain=None if layer.bottom else _ratio(norm, [size.norm for size in sizes[i + 1 :][:1]]),
                r=Profile.of(measures.some(layer.spikes_grad)).r,
                agreement=_agreement(gradients),
                weight_ratio=_weight_ratio([each[0] for each in gradients], [weights[name] for name in layer.weights]),
                stopped=norm == 0 and (layer.cut or bool(layer.spikes_grad.any())),
                finite=all(map(math.isfinite, sums)),
                dtype=str(layer.currents_grad.dtype).removeprefix("torch."),
                underflow=under[i],
                apart=layer.apart,
                bottom=layer.bottom,
                rule=None if neuron.rule is None else neuron.rule.name,
                rates=tuple(measures.packed(layer.spikes).float().mean(1).tolist()) if by_step else (),
                gradient_norms=tuple(map(measures.norm, layer.currents_grad)) if by_step else (),
                **information,
            )
        )
    return found


def waists(passed: Passed, others: Sequence[Tensor] | None, reader: Reader) -> list[WaistHealth]:
    """Every waist's, with its features for the other view."""
    norms = [measures.norm(waist.gradient) for waist in passed.waists]
    return [
        WaistHealth(
            path=waist.place.path or "(output)",
            after=waist.place.after - 1,
            gradient_norm=norms[i],
            gain=_ratio(norms[i], norms[i + 1 :][:1]),
            **reader.read(waist.features, None if others is None else others[i])[1],
        )
        for i, waist in enumerate(passed.waists)
    ]


def _idle(layer: Layer, rates: Tensor) -> tuple[float | None, float | None]:
    """Shares that never fire, and that always do, from the rate of each neuron."""
    spikes = layer.spikes
    if not isinstance(layer.neuron, LIF) and not bool(((spikes == 0) | (spikes == 1)).all()):
        return None, None
    return float((rates == 0).double().mean()), float((rates == 1).double().mean())


def _inner(neuron: Neuron) -> Neuron:
    """Of a recurrent neuron the one in it."""
    return neuron.neuron if isinstance(neuron, Recurrent) else neuron


def _in_window(layer: Layer) -> float | None:
    neuron = _inner(layer.neuron)
    if not isinstance(neuron, LIF) or not neuron.native or neuron.kind == "AdaptiveLIF" or neuron.rule is not None:
        return None
    if layer.potentials is None:
        return None
    spec = neuron.spec().fitted(layer.currents[0])
    threshold, width, height = (spec.numbers[n].detach() for n in ("threshold", "surrogate_width", "surrogate_height"))
    return measures.in_window(
        layer.potentials - threshold, lambda x: height * SHAPES[spec.how.surrogate].formula(x, width)
    )


def _ratio(norm: float, above: list[float]) -> float | None:
    return norm / above[0] if above and above[0] > 0 else None


def _agreement(gradients: list[list[Tensor]]) -> float | None:
    """Between the first half's and the rest."""
    if not gradients or len(gradients[0]) < 2:
        return None
    whole, half = (torch.cat([each[k].flatten() for each in gradients]) for k in range(2))
    return measures.agreement(half, whole - half)


def _weight_ratio(gradients: list[Tensor], weights: list[Tensor]) -> float | None:
    size = math.hypot(*map(measures.norm, weights))
    return math.hypot(*map(measures.norm, gradients)) / size if size > 0 else None


def _underflow(sizes: Sequence[measures.Size], layers: Sequence[Layer]) -> list[bool]:
    """Whether a layer's gradient is below what its dtype can tell from nothing, or comes from such a one.

    In float16 even that of the last layer's spikes may be so, if the loss is not scaled.
    """
    found: list[bool] = []
    above = math.inf  # the largest value one layer up
    for (_, most), layer in zip(reversed(sizes), reversed(layers), strict=True):
        half = layer.currents_grad.dtype is torch.float16
        tiny = torch.finfo(layer.currents_grad.dtype).tiny
        if half and most == 0 and above == math.inf:
            above = measures.size(layer.spikes_grad).most or tiny
        near = 0 < above < tiny * 2 ** (10 if half else 26)
        lost = 0 < most < tiny or (most == 0 and (near or found[-1:] == [True]))
        found.append(lost and not layer.apart)
        above = most
    return found[::-1]
