"""The operations that a network may consist of, and the module of torch that each is."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from rheobase.graph.layers import Kind
from rheobase.graph.qcfs import QCFS
from rheobase.neurons import SoftLIF
from rheobase.norm import TEBN, CurrentNorm

PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
MODULES: dict[type[nn.Module], Kind] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), "weights"),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "weights"),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, CurrentNorm, TEBN), "norm"),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, QCFS, SoftLIF, nn.LeakyReLU, nn.ELU, nn.CELU), "activation"),
    **dict.fromkeys((nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus), "activation"),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), "pool"),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), "pool"),
    **dict.fromkeys(PADS, "pool"),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), "max"),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), "max"),
    **dict.fromkeys((nn.Identity, nn.Flatten), "shape"),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), "dropout"),
}
"""Modules by what they do; a subclass counts where its forward is theirs."""


def kind_of(module: nn.Module) -> tuple[type[nn.Module], Kind] | None:
    """Which of these modules one is, and its kind; None where it is none, or has a forward of its own."""
    for cls in type(module).__mro__:
        if cls in MODULES:
            return (
                None if any(_own(module, cls, name) for name in ("forward", "_conv_forward")) else (cls, MODULES[cls])
            )
    return None


def _own(module: nn.Module, cls: type[nn.Module], name: str) -> bool:
    """Whether a method is not that of its class."""
    return name in module.__dict__ or getattr(type(module), name, None) is not getattr(cls, name, None)


class Function(NamedTuple):
    """A function's module and kind, and the names of its arguments after the input, in order."""

    module: type[nn.Module]
    kind: Kind
    arguments: tuple[str, ...] = ()


def _function(module: type[nn.Module], arguments: str = "") -> Function:
    return Function(module, MODULES[module], tuple(arguments.split()))


_RELU = _function(nn.ReLU, "inplace")
_AVG = "kernel_size stride padding ceil_mode count_include_pad"
_MAX = "kernel_size stride padding dilation ceil_mode return_indices"
_FLATTEN = _function(nn.Flatten, "start_dim end_dim")
FUNCTIONS: dict[Any, Function] = {
    **dict.fromkeys((F.relu, torch.relu, "relu", F.relu_, torch.relu_, "relu_"), _RELU),
    **{F.relu6: _function(nn.ReLU6, "inplace"), F.leaky_relu: _function(nn.LeakyReLU, "negative_slope inplace")},
    **{F.elu: _function(nn.ELU, "alpha inplace"), F.celu: _function(nn.CELU, "alpha inplace")},
    **{F.selu: _function(nn.SELU, "inplace"), F.gelu: _function(nn.GELU, "approximate")},
    **{F.silu: _function(nn.SiLU, "inplace"), F.mish: _function(nn.Mish, "inplace")},
    **{F.hardswish: _function(nn.Hardswish, "inplace"), F.softplus: _function(nn.Softplus, "beta threshold")},
    **{F.avg_pool1d: _function(nn.AvgPool1d, _AVG)},
    **{F.avg_pool2d: _function(nn.AvgPool2d, f"{_AVG} divisor_override")},
    **{F.avg_pool3d: _function(nn.AvgPool3d, f"{_AVG} divisor_override")},
    F.adaptive_avg_pool1d: _function(nn.AdaptiveAvgPool1d, "output_size"),
    F.adaptive_avg_pool2d: _function(nn.AdaptiveAvgPool2d, "output_size"),
    F.adaptive_avg_pool3d: _function(nn.AdaptiveAvgPool3d, "output_size"),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _function(nn.MaxPool1d, _MAX)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _function(nn.MaxPool2d, _MAX)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), _function(nn.MaxPool3d, _MAX)),
    F.adaptive_max_pool1d: _function(nn.AdaptiveMaxPool1d, "output_size return_indices"),
    F.adaptive_max_pool2d: _function(nn.AdaptiveMaxPool2d, "output_size return_indices"),
    F.adaptive_max_pool3d: _function(nn.AdaptiveMaxPool3d, "output_size return_indices"),
    **dict.fromkeys((torch.flatten, "flatten"), _FLATTEN),
    F.dropout: _function(nn.Dropout, "p training inplace"),
    F.dropout1d: _function(nn.Dropout1d, "p training inplace"),
    F.dropout2d: _function(nn.Dropout2d, "p training inplace"),
    F.dropout3d: _function(nn.Dropout3d, "p training inplace"),
    "clone": _function(nn.Identity),
}
"""Functions, and methods of tensors by name."""
ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
CAT = {torch.cat, torch.concat, torch.concatenate}
MEAN = {torch.mean, "mean"}
RESHAPE = {torch.reshape, "view", "reshape"}
SQUEEZE = {torch.squeeze, "squeeze"}
PAD = {F.pad}
POOLS_OF_SIZE = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
"""Their dimensions."""
SHAPE = {"size", "dim", getattr, len, operator.getitem}
IN_PLACE = {operator.iadd, F.relu_, torch.relu_}
_NAMES: dict[Any, str] = {  # functions that torch makes, and gives no name of their own
    getattr(F, name): name for d in (1, 2, 3) for name in (f"max_pool{d}d", f"adaptive_max_pool{d}d")
}


def name_of(target: Any) -> str:
    """A function's, or a method's, name."""
    found = str(target if isinstance(target, str) else _NAMES.get(target) or getattr(target, "__name__", target))
    return "add" if found in ("iadd", "add_") else found.rstrip("_")


def bound(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name.

    Raises:
        ValueError: more than there are names, or others.
    """
    found = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(args) > len(names) or not found.keys() <= set(names):
        raise ValueError(f"with arguments {', '.join(map(repr, [*args, *kwargs.items()]))}")
    return found
