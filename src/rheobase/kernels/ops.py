"""The Numba kernels as PyTorch operators: autograd, `torch.compile` and `torch.export` see through them.

`rheobase::fire` is a neuron over a sequence, with or without a norm of known statistics before it; `norm_fire` has a
batch norm before it, whose statistics it takes from the currents and returns; `fire_backward` serves both.

They are defined with `torch.library.Library`, as a call of a `torch.library.custom_op` takes several times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rheobase.kernels import cpu, threads
from rheobase.kernels.jit import Job, f32, i16
from rheobase.kernels.layout import aligned, dense, empty_like, walk
from rheobase.kernels.time import distinct, spread, static

_INPUTS = "Tensor currents, Tensor? residual, Tensor? skip, Tensor? state, Tensor constants"
_NORM = "Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var"
_NEURON = "float eps, int kind, bool soft, bool detach"
_WANTED = "bool keep_state, bool keep_drive"
_SCHEMAS = (
    f"fire({_INPUTS}, {_NORM}, {_NEURON}, {_WANTED}) -> (Tensor, Tensor, Tensor)",
    f"norm_fire({_INPUTS}, Tensor weight, Tensor bias, Tensor(a!) running_mean, Tensor(b!) running_var, "
    f"{_NEURON}, {_WANTED}, float momentum) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"fire_backward(Tensor grad, Tensor? grad_final, Tensor? grad_drive, {_INPUTS}, {_NORM}, {_NEURON}, "
    "Tensor? drive, bool joined, bool batch_statistics) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_library = torch.library.Library("rheobase", "DEF")
for _schema in _SCHEMAS:
    _library.define(_schema)
fire = torch.ops.rheobase.fire.default
norm_fire = torch.ops.rheobase.norm_fire.default
fire_backward = torch.ops.rheobase.fire_backward.default

ELEMENTS = {torch.float32: f32, torch.bfloat16: i16}


def apply(operator: Any, function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """Call an operator: directly by its autograd function, unless the call is to be recorded."""
    return operator(*inputs) if torch.compiler.is_compiling() else function.apply(*inputs)


_PLAIN = frozenset({Tensor, torch.nn.Parameter, type(None), float, int, bool})
_batched = torch._C._functorch.is_legacy_batchedtensor


def _plain(values: Sequence[Any]) -> bool:
    """Whether nobody looks on by way of the dispatcher (a subclass, a mode, a tracer): it costs as much as a kernel."""
    quiet = torch._C._len_torch_dispatch_stack() == 0 and torch._C._get_tracing_state() is None
    return quiet and all(type(value) in _PLAIN for value in values)


def _row(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype is dtype and values.is_contiguous() else values.to(dtype).contiguous()


def _flat(state: Tensor | None, like: Tensor) -> Tensor | None:
    """A state `[B, ...]` in float32 and in the storage order of `like`."""
    return None if state is None else aligned(state.to(torch.float32).unsqueeze(0), like)


def _job(x: Tensor, tensors: dict[str, Tensor | None], **numbers: float) -> Job:
    """A job on currents x and these tensors, which the caller has to keep alive."""
    how = walk(x, tensors["weight"] is not None)
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
    count = how.N * (how.T if how.moving else 1) / how.C
    residual = tensors["residual"]
    residual_step = 0 if residual is None or residual.shape[0] == 1 else how.N
    return Job(0, 0, *how, residual_step, x=x.data_ptr(), count=count, **numbers, **addresses)


def _sums(x: Tensor) -> Tensor:
    """Room for two sums a channel from every piece of the work."""
    how = walk(x, True)
    return x.new_empty((how.pieces, 2, how.C), dtype=torch.float64)


def _fit(x: Tensor, name: str, tensor: Tensor | None, shape: Sequence[int], dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor that is not of this shape (and dtype), on the device of currents x."""
    if tensor is None:
        return
    if tensor.shape != shape or tensor.device != x.device or (dtype is not None and tensor.dtype is not dtype):
        got = f"{list(tensor.shape)}, {tensor.dtype}, on {tensor.device}"
        wanted = f"{list(shape)}, {dtype or 'of any dtype'}, on {x.device}"
        raise ValueError(f"{name} must be {wanted}, as currents of {list(x.shape)} want, got {got}")


class _Inputs(NamedTuple):
    """What operators begin with; with batch statistics, mean and var are the running ones, or those of the currents."""

    currents: Tensor
    residual: Tensor | None
    skip: Tensor | None
    state: Tensor | None
    constants: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None

    def check(self) -> None:
        """Refuse what a kernel would read past the end of, or elsewhere.

        Raises:
            ValueError: a tensor that does not go with the currents, or half a norm.
        """
        x = self.currents
        for name in ("residual", "skip"):
            _fit(x, name, getattr(self, name), x.shape, x.dtype)
        _fit(x, "state", self.state, x.shape[1:])
        _fit(x, "constants", self.constants, (6,))
        norm = self[self._fields.index("weight") :]
        for name, tensor in zip(("weight", "bias", "mean", "var"), norm, strict=True):
            _fit(x, name, tensor, x.shape[2:3])
        missing = sum(tensor is None for tensor in norm)  # (`count` would compare tensors)
        if missing and (missing < len(norm) or self.residual is not None or self.skip is not None):
            raise ValueError("a norm is weight, bias, mean and var; a residual or skip needs one before it")
        if self.residual is not None and static(x):
            raise ValueError("a residual needs currents that are not static")

    def tensors(self, x: Tensor) -> dict[str, Tensor | None]:
        """As kernels want them, with x the dense currents."""
        found: dict[str, Tensor | None] = {"residual": None, "skip": None, "weight": None}
        found |= {"state": _flat(self.state, x), "constants": _row(self.constants, torch.float32)}
        if self.residual is not None:
            found["residual"] = aligned(self.residual[:1], x) if static(self.residual) else aligned(self.residual, x)
        if self.skip is not None:
            found["skip"] = aligned(self.skip, x)
        if self.weight is not None and self.bias is not None and self.mean is not None and self.var is not None:
            found |= {"weight": _row(self.weight, torch.float32), "bias": _row(self.bias, torch.float32)}
            found |= {"mean": _row(self.mean, torch.float64), "var": _row(self.var, torch.float64)}
        return found


class _Neuron(NamedTuple):
    """What operators go on with."""

    eps: float
    kind: int
    soft: bool
    detach: bool


def _split(inputs: tuple[Any, ...]) -> tuple[_Inputs, _Neuron, tuple[Any, ...]]:
    """Both, and what comes after them."""
    count, end = len(_Inputs._fields), len(_Inputs._fields) + len(_Neuron._fields)
    return _Inputs(*inputs[:count]), _Neuron(*inputs[count:end]), inputs[end:]


class _Outputs(NamedTuple):
    """What operators begin their results with: an empty tensor for what is not wanted."""

    spikes: Tensor
    final: Tensor
    drive: Tensor


def _state_like(x: Tensor) -> Tensor:
    """A new state `[B, ...]`, each step of which lies in storage as those of x."""
    return x.new_empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32)


def _outputs(x: Tensor, keep_state: bool, keep_drive: bool) -> _Outputs:
    final = _state_like(x) if keep_state else x.new_empty(0, dtype=torch.float32)
    drive = empty_like(x, distinct(x)) if keep_drive else x.new_empty(0)
    return _Outputs(empty_like(x), final, drive)


def _wanted(outputs: _Outputs) -> dict[str, Tensor | None]:
    return {name: tensor if tensor.numel() else None for name, tensor in outputs._asdict().items()}


def _fire(*inputs: Any) -> _Outputs:
    """Spikes `[T, B, ...]`; if wanted, the final state `[B, ...]` and the drive `[T, B, ...]` (one step, if static).

    The drive is what goes into the neuron: the currents, after the norm and with the residual.
    """
    given, neuron, (keep_state, keep_drive) = _split(inputs)
    given.check()
    x = dense(given.currents)
    outputs = _outputs(x, keep_state, keep_drive)
    if x.numel():
        tensors = given.tensors(x) | _wanted(outputs)
        threads.run(cpu.forward(ELEMENTS[x.dtype]), _job(x, tensors, soft=neuron.soft, eps=neuron.eps))
    return outputs


def _fire_fake(*inputs: Any) -> _Outputs:
    given, _, (keep_state, keep_drive) = _split(inputs)
    given.check()
    return _outputs(dense(given.currents), keep_state, keep_drive)


def _norm_fire(*inputs: Any) -> tuple[Tensor, ...]:
    """As `fire`, and the mean and (biased) variance of each channel, float64; the running ones move towards them."""
    given, neuron, (keep_state, keep_drive, momentum) = _split(inputs)
    given.check()
    x = dense(given.currents)
    if distinct(x) * x[0].numel() <= x.shape[2]:
        raise ValueError(f"batch statistics need more than one value a channel, got shape {list(x.shape)}")
    outputs = _outputs(x, keep_state, keep_drive)
    mean, var = (x.new_empty(x.shape[2], dtype=torch.float64) for _ in range(2))
    moved: Any = (given.mean, given.var)
    running = [_row(values, torch.float32) for values in moved]
    tensors = given._replace(mean=mean, var=var).tensors(x) | _wanted(outputs)
    tensors |= {"running_mean": running[0], "running_var": running[1], "sums": _sums(x)}
    job = _job(x, tensors, soft=neuron.soft, eps=neuron.eps, momentum=momentum)
    threads.run(cpu.moments(ELEMENTS[x.dtype]), job)
    threads.run(cpu.forward(ELEMENTS[x.dtype]), job)
    for values, row in zip(moved, running, strict=True):
        if row is values:
            torch.autograd.graph.increment_version(values)
        else:
            values.copy_(row)
    return *outputs, mean, var


def _norm_fire_fake(*inputs: Any) -> tuple[Tensor, ...]:
    given, _, (keep_state, keep_drive, _) = _split(inputs)
    given.check()
    row = given.currents.new_empty(given.currents.shape[2], dtype=torch.float64)
    return *_outputs(dense(given.currents), keep_state, keep_drive), row, torch.empty_like(row)


def _gradients(x: Tensor, given: _Inputs, joined: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g_residual = empty_like(x) if joined else x.new_empty(0)
    g_state = x.new_empty(0, dtype=torch.float32) if given.state is None else _state_like(x)
    g_weight = x.new_empty(0 if given.weight is None else x.shape[2], dtype=torch.float32)
    return empty_like(x, distinct(x)), g_residual, g_state, g_weight, torch.empty_like(g_weight)


def _check_backward(
    given: _Inputs, grad: Tensor, grad_final: Tensor | None, grad_drive: Tensor | None, drive: Tensor | None
) -> None:
    """As `_Inputs.check`, with what a backward pass takes besides them."""
    given.check()
    x = given.currents
    _fit(x, "grad", grad, x.shape, x.dtype)
    _fit(x, "grad_final", grad_final, x.shape[1:])
    for name, tensor in (("grad_drive", grad_drive), ("drive", drive)):
        _fit(x, name, tensor, (distinct(x), *x.shape[1:]), x.dtype)


def _fire_backward(
    grad: Tensor, grad_final: Tensor | None, grad_drive: Tensor | None, *inputs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the currents (one step, the sum over time, if they are static), residual, state, weight and bias.

    With batch statistics, mean and variance are those of the currents, and the gradient goes through them. Where the
    drive was kept no residual is needed, and `joined` tells whether there was one.
    """
    given, (eps, kind, soft, detach), (drive, joined, batch_statistics) = _split(inputs)
    _check_backward(given, grad, grad_final, grad_drive, drive)
    x, normed = dense(given.currents), given.weight is not None
    gradients = _gradients(x, given, joined)
    gx, g_residual, g_state, g_weight, g_bias = gradients
    if not x.numel():
        for gradient in gradients:
            gradient.zero_()
        return gradients
    tensors = given.tensors(x) | {"g": aligned(grad, x), "g_final": _flat(grad_final, x), "gx": gx, "drive": drive}
    tensors["g_drive"] = None if grad_drive is None else aligned(grad_drive, gx)
    tensors |= {"gy": g_residual if joined else gx, "g_state": None if given.state is None else g_state}
    tensors |= {"g_weight": g_weight, "g_bias": g_bias, "sums": _sums(x) if normed else None}
    job = _job(x, tensors, soft=soft, eps=eps, batch_statistics=batch_statistics)
    element = ELEMENTS[x.dtype]
    threads.run(cpu.backward(element, kind, soft, detach, normed), job)
    if normed:
        threads.run(cpu.norm_backward(element), job)
    return gradients


def _fire_backward_fake(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given, _, (drive, joined, _) = _split(inputs[3:])
    _check_backward(given, inputs[0], inputs[1], inputs[2], drive)
    return _gradients(dense(given.currents), given, joined)


def _save(ctx: Any, given: _Inputs, neuron: _Neuron, drive: Tensor | None, batch_statistics: bool) -> None:
    """For `Fire.backward`."""
    joined = given.residual is not None
    if drive is not None:
        given = given._replace(residual=None)
    ctx.save_for_backward(*given._replace(skip=None), drive)
    ctx.neuron, ctx.rest = neuron, (joined, batch_statistics)
    ctx.set_materialize_grads(False)


class Fire(torch.autograd.Function):
    """`fire`, differentiable once."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """See `_fire`."""
        with torch._C._AutoDispatchBelowAutograd():
            spikes, final, drive = (_fire if _plain(inputs) else fire)(*inputs)
        given, neuron, (_, keep_drive) = _split(inputs)
        _save(ctx, given, neuron, drive if keep_drive else None, False)
        return spikes, final, drive

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """See `_fire_backward`."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the numba engine has no second derivatives (create_graph=True): use rheobase.engine('reference')"
            )
        *saved, drive = ctx.saved_tensors
        given, (joined, batch_statistics) = _Inputs(*saved), ctx.rest
        grad, final, moved = (None if g is None or not g.numel() else g for g in grads[:3])
        if grad is None:
            grad = torch.zeros_like(given.currents)
        inputs = (grad, final, moved, *given, *ctx.neuron, drive, joined, batch_statistics)
        direct = _plain(inputs) and not any(g is not None and _batched(g) for g in (grad, final, moved))
        gx, g_residual, g_state, g_weight, g_bias = (_fire_backward if direct else fire_backward)(*inputs)
        gradients = {
            "currents": spread(gx[0], given.currents.shape[0]) if static(given.currents) else gx,
            "residual": g_residual if joined else None,
            "skip": grad if ctx.needs_input_grad[_Inputs._fields.index("skip")] else None,
            "state": None if given.state is None else g_state.to(given.state.dtype),
            "weight": None if given.weight is None else g_weight.to(given.weight.dtype),
            "bias": None if given.bias is None else g_bias.to(given.bias.dtype),
        }
        others = len(ctx.needs_input_grad) - len(_Inputs._fields)
        return *(gradients.get(name) for name in _Inputs._fields), *[None] * others


class NormFire(torch.autograd.Function):
    """`norm_fire`, differentiable once."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """See `_norm_fire`."""
        with torch._C._AutoDispatchBelowAutograd():
            spikes, final, drive, mean, var = (_norm_fire if _plain(inputs) else norm_fire)(*inputs)
        given, neuron, (_, keep_drive, _) = _split(inputs)
        ctx.mark_non_differentiable(mean, var)
        _save(ctx, given._replace(mean=mean, var=var), neuron, drive if keep_drive else None, True)
        return spikes, final, drive, mean, var

    backward = Fire.backward


for _name, _function, _fake in (
    ("fire", _fire, _fire_fake),
    ("norm_fire", _norm_fire, _norm_fire_fake),
    ("fire_backward", _fire_backward, _fire_backward_fake),
):
    _library.impl(_name, _function, "CPU")
    torch.library.register_fake(f"rheobase::{_name}", _fake, lib=_library)
_library.impl("fire", Fire.apply, "Autograd")
_library.impl("norm_fire", NormFire.apply, "Autograd")
_library.impl("fire_backward", torch.library.fallthrough_kernel, "Autograd")  # it has no derivative
