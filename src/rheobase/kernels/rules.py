"""The seam for gradient rules: the backward of a neuron, in place of the derivative of its definition.

A rule owns no layers and no weights. It takes the place of an engine in the autograd function of `ops.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from rheobase.kernels.ops import Gradients, Inputs, Outputs
from rheobase.kernels.registry import Engine
from rheobase.kernels.spec import How, Spec, joined, parted


class Rule(Protocol):
    """How gradients pass a neuron.

    Attributes:
        name: of the rule.
    """

    name: str

    def why_not(self, spec: Spec, currents: Tensor) -> str | None:
        """Why it does not go with such a neuron, or None."""

    def forward(self, spec: Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Any]:
        """Spikes `[T, B, ...]`, the state after the last step, and what `backward` needs."""

    def backward(self, spec: Spec, grad_spikes: Tensor, saved: Any) -> Tensor:
        """The gradient of the currents."""


def by_rule(rule: Rule, spec: Spec, currents: Tensor) -> Engine:
    """A rule as the autograd function calls it, for one call.

    Raises:
        ValueError: the rule does not go with such a neuron, or a number of it is to be learned.
    """
    reason = rule.why_not(spec, currents)
    if reason is not None:
        raise ValueError(f"the rule {rule.name!r} cannot be used here: {reason}")
    if any(n.requires_grad for n in spec.numbers.values()):
        raise ValueError(f"the rule {rule.name!r} has no gradient of a neuron's numbers: learn=() for it")
    kept: list[Any] = []

    def forward(given: Inputs, how: How, keep_state: bool, keep_drive: bool) -> Outputs:
        state = None if given.state is None else joined(how.kind, given.state, given.other)
        spikes, final, saved = rule.forward(spec, given.currents, state)
        kept.append(saved)
        return Outputs(spikes, None, *(parted(how.kind, final) if keep_state else (None, None)))

    def backward(given: Inputs, how: How, grads: Sequence[Tensor | None], *_: Any) -> Gradients:
        if grads[2] is not None or grads[3] is not None:
            raise RuntimeError(f"the rule {rule.name!r} has no gradient of a final state")
        if given.state is not None and given.state.requires_grad:
            raise RuntimeError(f"the rule {rule.name!r} has no gradient of an initial state")
        others = [None] * (len(Gradients._fields) - 1)
        return Gradients(rule.backward(spec, grads[0], kept[0]), *others)  # type: ignore[arg-type]

    def nothing(*_: Any) -> Any:
        raise RuntimeError(f"the rule {rule.name!r} has no norm of its own")

    return Engine(rule.name, (), lambda how, x: None, nothing, forward, backward, nothing, operators=False)
