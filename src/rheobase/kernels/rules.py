"""The seam for gradient rules: the backward of a neuron, in place of the derivative of its definition.

A rule owns no layers and no weights. It takes the place of an engine in the autograd function of `ops.py`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, get_args

from torch import Tensor

from rheobase.kernels.ops import Gradients, Inputs, Outputs
from rheobase.kernels.registry import Engine
from rheobase.kernels.spec import How, Ran, Spec, joined, parted
from rheobase.rule_names import RuleName


class Rule(Protocol):
    """How gradients pass a neuron.

    Attributes:
        name: of the rule.
    """

    name: str

    def why_not(self, spec: Spec, currents: Tensor) -> str | None:
        """Why it does not go with such a neuron, or None."""

    def forward(self, spec: Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Any]:
        """Spikes `[T, B, ...]`, the state after the last step, and what `backward` needs.

        Tensors in it, also in tuples of tuples, live as long as autograd's own.
        """

    def backward(self, spec: Spec, grad_spikes: Tensor, saved: Any) -> Tensor:
        """The gradient of the currents."""


class Learning(Rule, Protocol):
    """A rule with a gradient of some of the neuron's numbers too.

    Attributes:
        learns: their names, as in `Spec.numbers`.
    """

    learns: tuple[str, ...]

    def numbers(self, spec: Spec, grad_spikes: Tensor, saved: Any) -> dict[str, Tensor]:
        """The gradient of each that is learned, in its shape."""


class Recurring(Rule, Protocol):
    """A rule that also knows neurons which hear each other's spikes of the step before (`rheobase.Recurrent`)."""

    def recurrent(self, weight: Tensor, ran: Ran) -> Rule:
        """The rule for one call: of neurons that have `ran`, with the weight `[N, N]` of the layer between them."""


def named(name: str) -> Rule | None:
    """The rule of that name; None for "surrogate", the neuron's own gradient.

    Raises:
        ValueError: an unknown name.
    """
    if name == "surrogate":
        return None
    names = get_args(RuleName)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"rule must be one of {', '.join(names)}, got {name!r}{hint}")
    rule: Rule = importlib.import_module(f"rheobase.rules.{name}").RULE
    return rule


def placed(rule: Any, path: str) -> Any:
    """The rule for the neuron at this path of a model; for those of its head, whose spikes answer, its `at_output`."""
    return getattr(rule, "at_output", rule) if path.startswith("head.") else rule


def check(rule: Rule, spec: Spec, currents: Tensor) -> None:
    """Refuse a rule for a neuron.

    Raises:
        ValueError: the rule does not go with such a neuron, or a number is to be learned that it has no gradient of.
    """
    reason = rule.why_not(spec, currents)
    if reason is not None:
        raise ValueError(f"the rule {rule.name!r} cannot be used here: {reason}")
    learns = getattr(rule, "learns", ())
    strange = [name for name, number in spec.numbers.items() if number.requires_grad and name not in learns]
    if strange:
        raise ValueError(
            f"the rule {rule.name!r} has no gradient of a neuron's numbers: learn={learns} for it, got {strange[0]!r}"
            if learns
            else f"the rule {rule.name!r} has no gradient of a neuron's numbers: learn=() for it"
        )


def by_rule(rule: Rule, spec: Spec, currents: Tensor) -> Engine:
    """A rule as the autograd function calls it, for one call. Errors as in `check`."""
    check(rule, spec, currents)
    kept: list[Tensor] = []
    frame: Any = None  # what the rule saved, but for its tensors: autograd frees them, counts versions, calls hooks

    def keep(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        kept.append(leaf)
        return _PLACE

    def forward(given: Inputs, how: How, keep_state: bool, keep_drive: bool) -> Outputs:
        nonlocal frame
        state = None if given.state is None else joined(how.kind, given.state, given.other)
        spikes, final, saved = rule.forward(spec, given.currents, state)
        frame = _mapped(saved, keep)
        return Outputs(spikes, None, *(parted(how.kind, final) if keep_state else (None, None)))

    def backward(given: Inputs, how: How, grads: Sequence[Tensor | None], *more: Any) -> Gradients:
        if grads[2] is not None or grads[3] is not None:
            raise RuntimeError(f"the rule {rule.name!r} has no gradient of a final state")
        if given.state is not None and given.state.requires_grad:
            raise RuntimeError(f"the rule {rule.name!r} has no gradient of an initial state")
        tensors = iter(more[2:])
        saved = _mapped(frame, lambda leaf: next(tensors) if leaf is _PLACE else leaf)
        others: dict[str, Any] = dict.fromkeys(Gradients._fields)
        others["drive"] = rule.backward(spec, grads[0], saved)  # type: ignore[arg-type]
        if any(number.requires_grad for number in spec.numbers.values()):
            learning: Any = rule
            others |= learning.numbers(spec, grads[0], saved)
        return Gradients(**others)

    def nothing(*_: Any) -> Any:
        raise RuntimeError(f"the rule {rule.name!r} has no norm of its own")

    known: Any = {"operators": False, "rule": True, "kept": kept}
    return Engine(rule.name, (), lambda how, x: None, nothing, forward, backward, nothing, **known)


_PLACE = object()
"""Stands for a tensor that autograd has."""


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A tuple, of tuples too, with each of its leaves changed."""
    if not isinstance(tree, tuple):
        return change(tree)
    parts = [_mapped(part, change) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
