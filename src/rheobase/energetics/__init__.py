"""Firing rates, synaptic operations and an estimate of energy, beside those of the ANN twin.

(Not `rheobase.energy`: importing a module of that name would hide the function.)
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

from rheobase.energetics.constants import FORMATS, HOROWITZ, OWN, SETS, Chip, Process, named
from rheobase.energetics.counting import Counter
from rheobase.energetics.ledger import Counted, Layer
from rheobase.energetics.pricing import Cost, Prices
from rheobase.energetics.report import Report
from rheobase.modes import untouched
from rheobase.neurons.base import outermost

__all__ = ["FORMATS", "HOROWITZ", "SETS", "Chip", "Cost", "Layer", "Prices", "Process", "Report", "energy"]


def energy(
    model: nn.Module,
    x: Any,
    *,
    twin: nn.Module | None = None,
    constants: str | Process | Chip = "45nm",
    weights: str | None = None,
    static: Literal["repeated", "once"] = "repeated",
    fold_norms: bool = True,
    seed: int = 0,
) -> Report:
    """Count what a spiking net does with a batch, in evaluation, and estimate its energy beside that of its ANN twin.

    The model is left as it was. Conventions: `docs/energy.md`.

    Args:
        model: any module with neurons; time comes first in what they get, `[T, B, ...]`.
        x: what the model takes; results are means over its samples.
        twin: a trained ANN twin that takes x too: it is run, and zeros among its activations cost nothing. Without it
            the twin's operations are those of the model's layers in one pass, its activations taken to be none of them
            zero.
        constants: a name in `rheobase.energetics.SETS`, or a `Process` or `Chip` of one's own.
        weights: format of the weights in the spiking net and in the quantised twin, one of `FORMATS`; default: the
            model's own precision, as in the unquantised twin.
        static: whether what is the same at all steps, such as the first layer on a static image, is done at every
            step, or "once".
        fold_norms: whether norms are folded into the weights before them, and cost nothing.
        seed: of what is random in the model.

    Raises:
        TypeError: the model, twin or constants are something else.
        ValueError: the model has no neurons, or none ran, or not finite outputs; the twin has some, or gives outputs of
            another batch; an unknown name.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"energy: model must be a torch.nn.Module, got {type(model).__name__}")
    if not outermost(model):
        raise ValueError(
            f"energy: the model ({type(model).__name__}) has no neurons: give the spiking net, and an ANN as its twin="
        )
    if static not in ("repeated", "once"):
        raise ValueError(f"energy: static must be 'repeated' or 'once', got {static!r}")
    if weights is not None and weights not in FORMATS:
        raise ValueError(f"energy: weights must be one of {', '.join(FORMATS)}, got {weights!r}")
    chosen = named(constants)
    own = OWN[next((p.dtype for p in model.parameters() if p.dtype in OWN), torch.float32)]
    found, _ = _pass(model, x, static == "once", fold_norms, seed)
    prices = Prices(chosen, weights or own, own, math.ceil(math.log2(found.steps + 1)))
    uncounted, notes = (
        dict(found.uncounted),
        [*_conventions(prices, static, fold_norms, twin is not None), *found.notes],
    )
    if twin is None:
        ann, quantised = (sum((prices.twin(layer, q) for layer in found.layers), Cost()) for q in (False, True))
    else:
        ran = _twin(twin, x, found.steps, found.batch, fold_norms, seed)
        ann, quantised = (sum((prices.measured(layer, q) for layer in ran.layers), Cost()) for q in (False, True))
        uncounted |= {f"twin: {path}": kind for path, kind in ran.uncounted.items()}
    priced = [prices.spiking(layer) for layer in found.layers]
    fixed, spikes = (sum(costs, Cost()) for costs in zip(*priced, strict=True))
    return Report(found.steps, found.batch, found.layers, prices, ann, quantised, fixed, spikes, uncounted, notes)


def _pass(model: nn.Module, x: Any, once: bool, fold: bool, seed: int, batch: int = 0) -> tuple[Counted, Any]:
    counter = Counter(model, once, fold)
    with untouched(model, seed, training=False), torch.no_grad(), counter.watching():
        output = model(x)
    return counter.counted(batch), output


def _twin(twin: nn.Module, x: Any, steps: int, batch: int, fold: bool, seed: int) -> Counted:
    if not isinstance(twin, nn.Module):
        raise TypeError(f"energy: twin must be a torch.nn.Module, got {type(twin).__name__}")
    if outermost(twin):
        raise ValueError(f"energy: the twin ({type(twin).__name__}) must be an ANN, and it has neurons")
    counted, output = _pass(twin, x, False, fold, seed, batch)
    while isinstance(output, tuple | list | dict) and output:
        output = next(iter(output.values() if isinstance(output, dict) else output))
    shape = list(output.shape) if isinstance(output, torch.Tensor) else []
    timed = len(shape) > 2 and shape[0] in (1, steps)  # (as nets of ours give it)
    if shape[:1] != [batch] and not (timed and shape[1] == batch):
        raise ValueError(
            f"energy: the twin ({type(twin).__name__}) must give [B, ...], [1, B, ...] or [T, B, ...] of the net's "
            f"{batch} samples at T = {steps}, got {shape or type(output).__name__}: it may take time for the batch"
        )
    return counted


def _conventions(prices: Prices, static: str, fold: bool, measured: bool) -> list[str]:
    """What a reader of the figures has to know."""
    found = [
        "Estimates: no leakage, no routing, no control; every operand comes from memory, nothing is reused.",
        f"Weights are {prices.weights} in the spiking net and the quantised twin, {prices.own} in the ANN.",
        "A layer whose inputs are no spikes makes MACs in all columns; what is the same at all steps is "
        + ("done at every step." if static == "repeated" else "done once."),
        "Norms are folded into weights." if fold else "A norm is a MAC a value.",
        "Biases of layers, and what folded norms add, cost nothing in all columns.",
        "The twin's zeros were measured, and cost nothing."
        if measured
        else "The twin's activations are taken to be none of them zero (twin=... measures its own).",
    ]
    if isinstance(prices.constants, Chip) and prices.constants.update is None:
        found.append(f"Updates of neurons are not published for {prices.constants.name}, and cost nothing here.")
    return found
