"""Functions of torch by what they cost, what a value is made of, and how many synapses it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST = 64
"""Whole numbers up to this are sums of spikes; beyond, an image of bytes, or another number."""

_DIMS = ("1d", "2d", "3d")
WEIGHTED = {"linear", *(f"conv{d}" for d in _DIMS), *(f"conv_transpose{d}" for d in _DIMS)}
"""Sums over inputs, each times a weight."""
MEANS = {"mean", "sum", *(f"avg_pool{d}" for d in _DIMS), *(f"adaptive_avg_pool{d}" for d in _DIMS)}
"""Sums over inputs that all weigh the same."""
COMPARISONS = {
    "relu",
    "amax",
    *(f"{a}max_pool{d}{i}" for a in ("", "adaptive_") for d in _DIMS for i in ("", "_with_indices")),
}
"""A comparison for each value, which costs what an addition does."""
SUMS = {"add", "iadd", "radd", "sub", "isub", "rsub"}
"""Of two."""
PRODUCTS = {"mul", "imul", "rmul", "div", "truediv", "itruediv", "rtruediv"}
"""Of two."""
_FREE = """
get set dim ndimension size stride numel nelement len data_ptr element_size storage untyped_storage is_floating_point
is_complex is_contiguous is_tensor contiguous detach clone requires_grad to float double half bfloat16 cpu cuda type
type_as hash repr format bool any all item tolist equal iter contains
expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile flatten unflatten reshape reshape_as ravel
view view_as permute transpose t movedim moveaxis swapaxes swapdims squeeze unsqueeze getitem setitem unbind split chunk
tensor_split narrow select index_select gather take cat concat concatenate stack flip roll pad unfold pixel_shuffle
pixel_unshuffle channel_shuffle copy zero fill zeros_like ones_like full_like empty_like new_zeros new_ones new_empty
new_full new_tensor new_empty_strided zeros ones full empty as_tensor tensor arange
dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
"""
FREE = frozenset(_FREE.split())
"""What moves or asks, and does no arithmetic on values. (Dropout: evaluation has none.)"""


def operands(args: Sequence[Any], kwargs: Mapping[str, Any], *names: str) -> list[Any]:
    """Arguments by position, then those by these names."""
    return [*args, *(kwargs[name] for name in names if name in kwargs)]


def kept(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as they are before the function of this full name runs: of what it writes over, copies."""
    inplace = kwargs.get("inplace") or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
    out = kwargs.get("out")
    written = [*operands(args, kwargs, "input")[: bool(inplace)], *(out if isinstance(out, tuple | list) else [out])]
    storages = {tensor.untyped_storage().data_ptr() for tensor in written if isinstance(tensor, Tensor)}

    def copy(value: Any) -> Any:
        shared = storages and isinstance(value, Tensor) and value.untyped_storage().data_ptr() in storages
        return value.clone() if shared else value

    return tuple(map(copy, args)), {key: copy(value) for key, value in kwargs.items()}


class Events(NamedTuple):
    """Of how many spikes each value is the sum, and what such a spike is: one unit of all, or each channel its own."""

    counts: Tensor
    units: set[float]


class Units:
    """What a spike may have become so far: 1; over k, where a mean over k was taken; times a constant."""

    def __init__(self) -> None:
        self._most = {1.0: float(MOST)}  # of each, the largest value that is a sum of spikes

    def times(self, units: Iterable[float], constant: float) -> None:
        """Spikes of these units were multiplied by a constant."""
        if math.isfinite(constant):
            self._most |= {unit * abs(constant): self._most[unit] * abs(constant) for unit in units}

    def averaged(self, units: Iterable[float], places: int) -> None:
        """Means of spikes of these units were taken, over so many places."""
        self._most |= {unit / places: self._most[unit] for unit in units}

    def events(self, x: Tensor, axis: int = 1) -> Events | None:
        """What values are made of: whole multiples of one unit, the largest that fits; else of one a channel.

        Spikes are 0 and 1 (or -1), sums of them small whole numbers. None: they are something else.
        """
        x = x.detach()
        if x.dtype == torch.bool:
            return Events(x.float(), {1.0})
        if not x.numel() or not bool(x.isfinite().all()):
            return None
        whole = x.round() if x.is_floating_point() else x
        if torch.equal(whole, x) and whole.abs().max() <= MOST:
            return Events(whole.abs(), {1.0})
        if not x.is_floating_point():
            return None
        size, slack = x.double().abs(), 4 * torch.finfo(x.dtype).eps
        size = size.movedim(axis, 0) if x.dim() > 1 else size.reshape(1, -1)
        counts, done, units = torch.zeros_like(size), torch.zeros(len(size), dtype=torch.bool, device=x.device), set()
        for unit, most in sorted(self._most.items(), reverse=True):
            scaled = size / unit
            whole = scaled.round()
            fits = (((scaled - whole).abs() <= slack * whole) & (size <= most)).flatten(1).all(1)
            if fits.all():
                counts, done, units = whole, fits, {unit}
                break
            new = fits & ~done
            if new.any():
                counts[new], done = whole[new], done | new
                units.add(unit)
        if not done.all():
            return None
        return Events(counts.movedim(0, axis) if x.dim() > 1 else counts.reshape(x.shape), units)


def window(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], y: Tensor) -> int:
    """Over how many values this call of one of `MEANS`, that gave y, took a mean; 1 for a sum."""
    if name == "sum":
        return 1
    divisor = kwargs.get("divisor_override", args[6] if name.startswith("avg_pool") and len(args) > 6 else None)
    if divisor:
        return abs(int(divisor))
    if name.startswith("avg_pool"):
        sides, dims = kwargs.get("kernel_size", args[1] if len(args) > 1 else 1), int(name[-2])
        return math.prod(sides if isinstance(sides, Sequence) and len(sides) == dims else [sides] * dims)
    x = args[0] if args else kwargs["input"]
    return max(1, round(x.numel() / max(1, y.numel())))


class Fan(NamedTuple):
    """Synapses of each input value of a sample, without weights of zero, and with them."""

    synapses: Tensor
    dense: Tensor


class Fans:
    """How many outputs each input value reaches: the gradient of the outputs' sum, all weights taken for 1.

    Exact at borders, for any stride, padding, dilation, groups. Of one weight, shape and stride it is computed once.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Tensor, Fan]] = {}  # (with the weight, whose id would else be another's)

    @torch.inference_mode(False)
    def of(self, run: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, how: str) -> Fan:
        """Those of a layer whose outputs are run(x, weight); `how` tells its stride and the like apart."""
        batched = weight.dim() > 2 and x.dim() == weight.dim()
        shape = (1, *x.shape[1:]) if batched else x.shape[-1:] if weight.dim() == 2 else x.shape
        key = id(weight), shape, how
        if key not in self._known:
            there, every = weight != 0, torch.ones_like(weight)
            dense = self._reached(run, shape, every)
            fan = Fan(dense if there.all() else self._reached(run, shape, there), dense)
            self._known[key] = weight, Fan(*(each[0] if batched else each for each in fan))
        return self._known[key][1]

    @staticmethod
    def _reached(run: Callable[[Tensor, Tensor], Tensor], shape: Sequence[int], there: Tensor) -> Tensor:
        exact = torch.float32 if there.numel() < 2**24 else torch.float64  # (whole numbers of no more than that)
        probe = torch.zeros(*shape, dtype=exact, device=there.device, requires_grad=True)
        with torch.enable_grad(), torch.autocast(there.device.type, enabled=False):
            total = run(probe, there.to(exact)).sum()
        return torch.autograd.grad(total, probe)[0].double()
