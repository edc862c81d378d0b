"""Set a net's start and its surrogates so that the signal survives going up, and the gradient coming down."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from rheobase import kernels
from rheobase.kernels.ops import LEARNABLE
from rheobase.kernels.spec import Spec
from rheobase.neurons import LIF
from rheobase.neurons.base import outermost
from rheobase.signal import measures
from rheobase.signal.passing import Loss, Passed, loss_of, passing
from rheobase.signal.probe import probe, read
from rheobase.signal.report import Report
from rheobase.signal.search import stretched
from rheobase.signal.start import STARTS, Start, begin, why_not
from rheobase.surrogate import Surrogate

NEAR = 0.02
"""How near, as a logarithm, a gradient's size has to come to what is wanted."""
WIDEST = 100.0
"""So many times as wide, or as narrow, a surrogate may become."""


@dataclass(frozen=True)
class Tuned:
    """What `tune` did.

    Attributes:
        before, after: the health of the net before and after, on the batch that it was tuned on.
        held_out: after, on a batch that it was not tuned on.
        begun: paths of what was given another start.
        surrogates: of each neuron that was tuned, by path, the surrogate before and after.
        left: of each neuron that was not, why.
        unreached: paths of neurons at which no width within a hundredth and a hundred times the given one was enough.
    """

    before: Report
    after: Report
    held_out: Report
    begun: tuple[str, ...]
    surrogates: dict[str, tuple[Any, Any]]
    left: dict[str, str]
    unreached: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the gradient is as level on the held-out batch, within a factor 2, as on that it was tuned on."""
        return 0.5 <= self.held_out.level / self.after.level <= 2 if self.after.level > 0 else False

    @property
    def account(self) -> str:
        """What it did, and whether that holds, in words."""
        lines = [
            f"gradient, first over last: {self.before.level:.2g} before, {self.after.level:.2g} after, "
            f"{self.held_out.level:.2g} on a batch that it was not tuned on"
        ]
        if self.unreached:
            lines.append(f"no width was enough at {', '.join(self.unreached)}: height=True may be")
        if not 0 < self.after.level < math.inf:
            lines.append("there is no gradient at the first neurons, or at the last, or it is not finite: see below")
        elif not self.holds:
            lines.append("what levels one batch does not level another: leave the surrogates as they were")
        if self.left:
            lines.append("left as they were: " + ", ".join(f"{path} ({why})" for path, why in self.left.items()))
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """That, and the verdict on the batch that was held out."""
        return f"{self.account}\n{self.held_out.verdict}"


class _Leveller:
    """A gradient rule for one pass: on its way down, the gradient of each neuron's currents becomes equally large."""

    name = "level"
    learns = LEARNABLE  # numbers that are learned are left alone

    def __init__(self, neuron: LIF, shared: _Shared) -> None:
        self._neuron, self._shared = neuron, shared

    def why_not(self, spec: Spec, currents: Tensor) -> str | None:
        """It takes all that engines take."""
        return None

    def forward(self, spec: Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        """As without it."""
        with torch.no_grad():
            ran = kernels.fire(spec, currents, state)
        return ran.outputs, ran.state, currents.detach()

    def numbers(self, spec: Spec, grad_spikes: Tensor, saved: Tensor) -> dict[str, Tensor]:
        """None of them gets a gradient."""
        return {}

    def backward(self, spec: Spec, grad_spikes: Tensor, saved: Tensor) -> Tensor:
        """Find the surrogate."""
        given, shared = self._neuron.surrogate, self._shared

        @lru_cache(maxsize=1)  # the last that was tried is often what it will be
        def down(surrogate: Surrogate) -> tuple[Tensor, float]:
            numbers = {**spec.numbers, "surrogate_width": surrogate.parameter, "surrogate_height": surrogate.height}
            plain = spec._replace(numbers={name: torch.as_tensor(n).detach() for name, n in numbers.items()})
            gradient = kernels.back(plain, saved, grad_spikes)
            return gradient, measures.norm(gradient)

        if not grad_spikes.any():
            return torch.zeros_like(saved)
        if shared.wanted is None:
            gradient, size = down(given)
            if 0 < size < math.inf:  # the last neuron's
                shared.wanted = size
            return gradient
        target = shared.wanted
        if shared.widths:
            wanted, reached = stretched(given, lambda s: down(s)[1] / target, WIDEST, NEAR, shared.width or 0.0)
            shared.width = wanted if shared.width is None else (shared.width + wanted) / 2
            given = given.stretched(math.exp(shared.width))
        gradient, size = down(given)
        if shared.widths and not reached and not 0.5 < size / target < 2:
            shared.unreached.add(self._neuron)
        if shared.height and 0 < size < math.inf:
            given = given.scaled(target / size)
            gradient, size = down(given)
        shared.found[self._neuron] = given
        return gradient


@dataclass
class _Shared:
    """What neurons tell each other on the way down."""

    widths: bool
    height: bool
    wanted: float | None = None  # size of the gradient
    width: float | None = None  # of the neuron above, as the logarithm of what its surrogate is stretched by
    found: dict[LIF, Surrogate] = field(default_factory=dict)
    unreached: set[LIF] = field(default_factory=set)


@torch.inference_mode(False)
def tune(
    model: nn.Module,
    x: Tensor,
    y: Any = None,
    start: Start | None = None,
    widths: bool = True,
    height: bool = False,
    held_out: tuple[Any, Any] | None = None,
    loss: Loss | None = None,
    training: bool = True,
    seed: int = 0,
) -> Tuned:
    """Set the start and the surrogates of a net for health up and down, and check them on a batch they have not seen.

    Widths come from one pass up and one down. What goes up does not depend on them; on the way down each neuron's
    surrogate becomes so wide that the gradient of its currents is as large as that of the last neuron's, and that goes
    on further down. A width is the mean of what was found and that of the neuron above (geometric), so that over depth
    it is smooth; what that leaves undone the next neuron makes up for. Where potentials stand at the threshold, as on
    the identity path of classic residual blocks, no width changes the gradient, but a height does.

    They are a part of the model, and are saved with it. The same seed gives the same.

    Args:
        model: any torch module with neurons; its LIF and IF neurons are tuned.
        x: a batch of what it takes, along the axis of samples `[B, ...]`, or `[T, B, ...]` with held_out.
        y: as of `probe`.
        start: "identity", "orthogonal" or "fluctuation" (see `start.py`); None: weights stay as they are.
        widths: whether surrogates are stretched.
        height: whether they are also made higher or lower where that is not enough.
        held_out: another (x, y); None: the second half of the batch.
        loss, training, seed: as of `probe`.

    Raises:
        ValueError: a model without neurons, a start that does not go with it, a batch of fewer than four samples, or
            one that cannot be divided, or another kind of loss. The model is as before then.
    """
    if start is not None and start not in STARTS:
        raise ValueError(f"tune: start must be None or one of {', '.join(STARTS)}, got {start!r}")
    divided = None
    if held_out is None:
        x, y, held_out, divided = _halves(x, y)
    elif not isinstance(held_out, tuple | list) or len(held_out) != 2:
        raise ValueError(f"tune: held_out must be a pair (x, y), got {type(held_out).__name__}")
    look: dict[str, Any] = {"preset": "quick", "loss": loss, "training": training, "seed": seed}
    before = probe(model, x, y, **look)
    if divided not in (None, before.batch):
        raise ValueError(
            f"tune: half of the batch is x {list(x.shape)}, of which the model's neurons see {before.batch} samples: "
            "it was divided along another axis, so give held_out=(x, y)"
        )
    reason = start and why_not(model, start, any(layer.beside for layer in before.layers))
    if reason:
        raise ValueError(f"tune: start {start!r} does not go with this model: {reason}")
    old_state = copy.deepcopy(model.state_dict())
    try:
        begun = [] if start is None else begin(model, start, x, seed)
        able, left = _able(model)
        old = {path: neuron.surrogate for path, neuron in able.items()}
        shared = _Shared(widths, height)
        levelled = _levelled(model, x, y, able, shared, loss_of(loss, y, seed), training, seed)
        times = Counter(layer.neuron for layer in levelled.layers)
        several = [path for path, neuron in able.items() if times[neuron] > 1]
        for path in several:
            left[path] = "it runs at several places, and has one surrogate"
            del able[path]
        for neuron in able.values():
            neuron.surrogate = shared.found.get(neuron, neuron.surrogate)
        found = {path: (old[path], neuron.surrogate) for path, neuron in able.items()}
        unreached = tuple(path for path, neuron in able.items() if neuron in shared.unreached)
        # the gradient that came down through levellers is that of the surrogates found, where these can be set
        after = probe(model, x, y, **look) if several else read(model, x, levelled)
        other = probe(model, *held_out, **look)
    except BaseException:
        model.load_state_dict(old_state)
        raise
    return Tuned(before, after, other, tuple(begun), found, left, unreached)


def _halves(x: Any, y: Any) -> tuple[Any, Any, tuple[Any, Any], int]:
    """The batch in two, along the axis of samples, and how many the first has."""
    if not isinstance(x, Tensor) or not (y is None or isinstance(y, Tensor)):
        raise ValueError("tune: a batch that is no tensor cannot be divided: give held_out=(x, y)")
    axis = int(x.dim() == 5 if y is None else len(y) != len(x))  # images [B, C, H, W], or sequences [T, B, ...]
    samples = x.shape[axis]
    if y is not None and len(y) != samples:
        raise ValueError(f"tune: there are {len(y)} labels, and x {list(x.shape)}: give held_out=(x, y)")
    if samples < 4:
        raise ValueError(f"tune: the batch must have at least 4 samples, half of them held out, got {samples}")
    first, second = x.split([samples // 2, samples - samples // 2], axis)
    parts = (None, None) if y is None else (y[: samples // 2], y[samples // 2 :])
    return first, parts[0], (second, parts[1]), samples // 2


def _able(model: nn.Module) -> tuple[dict[str, LIF], dict[str, str]]:
    """Neurons that can be tuned, by path; and why others cannot."""
    able: dict[str, LIF] = {}
    left: dict[str, str] = {}
    for path, neuron in outermost(model).items():
        if not isinstance(neuron, LIF) or not neuron.native or type(neuron).surrogate is not LIF.surrogate:
            left[path] = f"a {type(neuron).__name__} has no surrogate to be set"
        elif not neuron.rests:
            left[path] = "it starts from a state of its own"
        elif neuron.rule is not None:
            left[path] = f"it has a gradient rule, {neuron.rule.name}"
        elif neuron.surrogate_width.dim():
            left[path] = "its surrogate is not one for all"
        else:
            able[path] = neuron
    return able, left


def _levelled(
    model: nn.Module, x: Any, y: Any, able: dict[str, LIF], shared: _Shared, loss: Loss, training: bool, seed: int
) -> Passed:
    """A pass up, and down through levellers in the neurons' places."""
    try:
        for neuron in able.values():
            neuron.rule = _Leveller(neuron, shared)
        return passing(model, x, y, loss, seed=seed, training=training)
    finally:
        for neuron in able.values():
            neuron.rule = None
