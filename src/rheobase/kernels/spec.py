"""What a neuron is, in one description: for the engines, `repr`, state_dict, saved files and exchange formats."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


class How(NamedTuple):
    """How a neuron works, as operators and engines are told; the last two are of a norm before it.

    Attributes:
        kind: "LIF", "CubaLIF", "AdaptiveLIF" or "LateralLIF".
        reset: what a spike does: "soft", "hard", "none", or "delayed".
        detach_reset: whether the reset is a constant in the backward pass.
        surrogate: name of the surrogate's shape.
        eps: added to the variance.
        samples: over how many values a channel mean and variance are; 0 if they are constants.
    """

    kind: str
    reset: str
    detach_reset: bool
    surrogate: str
    eps: float = 0.0
    samples: int = 0


class Spec(NamedTuple):
    """A neuron of one of the kinds that `reference.py` defines.

    Attributes:
        how: how it works.
        numbers: its dynamics by name, live tensors: each one number, one a channel `[C]` (axis 2 of the currents), or
            one a neuron (the shape of the currents without time and batch); and the surrogate's width and height.
    """

    how: How
    numbers: dict[str, Tensor]

    def fitted(self, current: Tensor) -> Spec:
        """The same with numbers that can be multiplied with a current `[B, ...]`, in its dtype."""
        return self._replace(numbers={name: fitted(name, n, current) for name, n in self.numbers.items()})


class Ran(NamedTuple):
    """What neurons have done `[T, B, ...]`; what drove them, the state after the last step, potentials where kept."""

    outputs: Tensor
    drive: Tensor
    state: Any = None
    potentials: Tensor | None = None


def fitted(name: str, number: Any, current: Tensor) -> Tensor:
    """A number, or those of channels or neurons, so that they go with a current `[B, ...]`.

    Raises:
        ValueError: they are of another shape.
    """
    if not isinstance(number, Tensor):
        number = torch.as_tensor(number, dtype=current.dtype, device=current.device)
    if not number.dim():
        return number
    shape = current.shape[1:]
    check_shape(name, number, shape)
    if number.dim() < len(shape):
        number = number.reshape(-1, *[1] * (len(shape) - 1))
    return number if current.dtype in HALF else number.to(current.dtype)


def parted(kind: str, state: Any) -> tuple[Any, Any]:
    """Of a neuron's state (None: rest) the potential, and the other state of a neuron with two."""
    if kind == "LIF" or state is None:
        return state, None
    return (state[1], state[0]) if kind == "CubaLIF" else state


def joined(kind: str, v: Any, other: Any) -> Any:
    """The reverse."""
    return v if kind == "LIF" else (other, v) if kind == "CubaLIF" else (v, other)


def check_shape(name: str, number: Tensor, shape: torch.Size) -> None:
    """Refuse a number that is neither one for all, nor one a channel, nor one a neuron, of currents `[T, B, *shape]`.

    Raises:
        ValueError: the same.
    """
    if number.dim() and number.shape != shape and number.shape != shape[:1]:  # (`in` misleads torch.compile)
        raise ValueError(
            f"{name} must be a number, or one a channel {list(shape[:1])}, or one a neuron {list(shape)}, as currents "
            f"of [T, B, *{list(shape)}] want, got {list(number.shape)}"
        )
