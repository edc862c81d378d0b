"""The names of torch that it does not promise: here alone, each with what to do where it is missing."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def _private(path: str, otherwise: Any) -> Any:
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            return otherwise
    return found


dispatch_modes: Callable[[], int] = _private("_C._len_torch_dispatch_stack", lambda: 1)
"""How many modes look on by way of the dispatcher; where that is not known, some may."""

tracing: Callable[[], Any] = _private("_C._get_tracing_state", lambda: None)
"""What `torch.jit.trace` has taken down so far; None where it does not look on."""

batched: Callable[[Tensor], bool] = _private("_C._functorch.is_legacy_batchedtensor", lambda x: False)
"""Whether a gradient is one of `is_grads_batched`."""

transforms: Callable[[], Any] = _private("_C._functorch.peek_interpreter_stack", lambda: None)
"""What transform of `torch.func` is at work; None for none."""

wrapped: Callable[[Tensor], bool] = _private("_C._functorch.is_functorch_wrapped_tensor", lambda x: True)
"""Whether a tensor is, or was, one of `torch.func`; where that is not known, it may be."""

below_autograd: Callable[[], AbstractContextManager[Any]] = _private("_C._AutoDispatchBelowAutograd", nullcontext)
"""Within it operators are called past autograd, as within an autograd function."""

_fast_bfloat16: Callable[[], bool] = _private("ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
_avx512_bfloat16: Callable[[], bool] = _private("cpu._is_avx512_bf16_supported", lambda: True)
_amx: Callable[[], bool] = _private("cpu._is_amx_tile_supported", lambda: True)
_hooks: Callable[[bool], Any] = _private("_C._autograd._top_saved_tensors_default_hooks", lambda _: ())
_any_global_hook: Callable[[], bool] = _private("nn.modules.module._has_any_global_hook", lambda: True)
_world: Any = _private("distributed.distributed_c10d._world", None)


def within_autocast() -> bool:
    """Whether an autocast context is under way, of any kind: casts of weights are kept until the outermost one ends."""
    _private("autocast_increment_nesting", lambda: 1)()
    return bool(_private("autocast_decrement_nesting", lambda: 1)() > 0)


def grouped() -> bool:
    """Whether there is a process group. `torch.compile` notices where that changes, which `is_initialized` hides."""
    if hasattr(_world, "_default_pg"):
        return _world._default_pg is not None
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; where that is not known, it may.

    That torch calls them supported does not tell: it does on every AVX-512, of which many have none, and convolutions
    then take two to three times as long as in float32.
    """
    return _fast_bfloat16() and (platform.machine() not in {"x86_64", "AMD64"} or _avx512_bfloat16() or _amx())


def transformed() -> str | None:
    """What of torch looks at derivatives in its own way now, or None."""
    if torch.compiler.is_dynamo_compiling():  # (which knows no other)
        return None
    if transforms() is not None:
        return "torch.func"
    return "forward-mode differentiation" if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0 else None


def applied(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Its `apply` without the look at `torch.func`, which takes as long as a small kernel: for who has looked."""
    apply: Callable[..., Any] = getattr(super(torch.autograd.Function, function), "apply", function.apply)
    return apply


def saved_tensors_hooked() -> bool:
    """Whether somebody has hooks on what autograd saves."""
    return _hooks(False) is not None


def hooked(module: nn.Module) -> bool:
    """Whether hooks look at what goes in and out of a module."""
    own = module.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or _any_global_hook()
    )


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which `torch.compile` leaves as it is written."""
    disable = _private("_compile._disable_dynamo", None)
    if disable is None:  # (this one loads the compiler at once)
        disable = torch.compiler.disable
    found: Callable[..., Any] = disable(function)
    return found


def called(module: nn.Module, x: Tensor) -> Any:
    """module(x), past a fault of torch 2.13 (oneDNN 3.12) on CPUs without AVX-512.

    There the gradient of the weights of a 1x1 convolution with a stride, of fewer than 8 channels, channels-last,
    writes past its memory; of a convolution of just the places that the stride leaves it does not.
    """
    if (
        type(module) is nn.Conv2d
        and x.device.type == "cpu"
        and module.in_channels < 8
        and module.kernel_size == (1, 1) != module.stride
        and module.padding in ((0, 0), "valid")
        and module.groups == 1
        and "forward" not in module.__dict__
        and not hooked(module)
    ):
        high, wide = module.stride
        return nn.functional.conv2d(x[..., ::high, ::wide], module.weight, module.bias)
    return module(x)
