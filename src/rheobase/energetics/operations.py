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


def events(x: Tensor, windows: Iterable[int]) -> Tensor | None:
    """Of how many spikes each value is the sum, or the mean over a window of so many places; None: of none.

    Spikes are 0 and 1 (or -1), sums of them small whole numbers. A mean over k values is such a number over k.
    """
    x = x.detach()
    if x.dtype == torch.bool:
        return x.float()
    low, high = x.aminmax() if x.numel() else (x.new_tensor(torch.nan),) * 2
    if not (low >= -MOST and high <= MOST):
        return None
    whole = x.round() if x.is_floating_point() else x
    if torch.equal(whole, x):
        return whole.abs()
    slack = 4 * torch.finfo(x.dtype).eps
    for window in sorted(windows):
        scaled = x.double().abs() * window
        whole = scaled.round()
        if bool(((scaled - whole).abs() <= slack * whole).all()):
            return whole
    return None


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
