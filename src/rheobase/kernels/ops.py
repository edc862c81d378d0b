"""The Numba kernels as PyTorch operators: autograd, `torch.compile` and `torch.export` see through them.

`rheobase::fire` is a neuron over a sequence, with or without a norm of known statistics before it; `norm_fire` has a
batch norm before it, whose statistics it takes from the currents and returns; `fire_backward` serves both.

They are defined with `torch.library.Library`, as a call of a `torch.library.custom_op` takes several times as long.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rheobase.kernels import cpu
from rheobase.kernels.jit import Job, f32, i16
from rheobase.kernels.layout import aligned, dense, empty_like, walk
from rheobase.kernels.threads import run
from rheobase.kernels.time import spread, static

_INPUTS = "Tensor currents, Tensor? residual, Tensor? state, Tensor constants"
_NORM = "Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, float eps"
_NEURON = "int kind, bool soft, bool detach"
_WANTED = "bool keep_state, bool keep_drive, Tensor? skip"
_SCHEMAS = (
    f"fire({_INPUTS}, {_NORM}, {_NEURON}, {_WANTED}) -> (Tensor, Tensor, Tensor)",
    f"norm_fire({_INPUTS}, Tensor weight, Tensor bias, Tensor(a!) running_mean, Tensor(b!) running_var, float eps, "
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


_SKIP = 14  # where the skip is among a forward operator's inputs


class _Inputs(NamedTuple):
    """What operators begin with; with batch statistics, mean and var are the running ones, or those of the currents."""

    currents: Tensor
    residual: Tensor | None
    state: Tensor | None
    constants: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None

    def tensors(self, x: Tensor) -> dict[str, Tensor | None]:
        """As kernels want them, with x the dense currents."""
        found: dict[str, Tensor | None] = {"state": _flat(self.state, x), "constants": self.constants}
        found |= {"residual": None, "weight": None}
        if self.residual is not None:
            found["residual"] = aligned(self.residual[:1], x) if static(self.residual) else aligned(self.residual, x)
        if self.weight is not None and self.bias is not None and self.mean is not None and self.var is not None:
            found |= {"weight": _row(self.weight, torch.float32), "bias": _row(self.bias, torch.float32)}
            found |= {"mean": _row(self.mean, torch.float64), "var": _row(self.var, torch.float64)}
        return found


def _split(inputs: tuple[Any, ...]) -> tuple[_Inputs, tuple[Any, ...]]:
    """The tensors, and the options after them."""
    count = len(_Inputs._fields)
    return _Inputs(*inputs[:count]), inputs[count:]


class _Outputs(NamedTuple):
    """What operators begin their results with: an empty tensor for what is not wanted."""

    spikes: Tensor
    final: Tensor
    drive: Tensor


def _outputs(x: Tensor, keep_state: bool, keep_drive: bool) -> _Outputs:
    final = empty_like(x, 1, torch.float32)[0] if keep_state else x.new_empty(0, dtype=torch.float32)
    drive = empty_like(x, 1 if static(x) else None) if keep_drive else x.new_empty(0)
    return _Outputs(empty_like(x), final, drive)


def _forward(x: Tensor, given: _Inputs, outputs: _Outputs, skip: Tensor | None) -> dict[str, Tensor | None]:
    """The tensors of a forward pass, as kernels want them."""
    found = given.tensors(x) | {"skip": None if skip is None else aligned(skip, x)}
    return found | {name: tensor if tensor.numel() else None for name, tensor in outputs._asdict().items()}


def _fire(*inputs: Any) -> _Outputs:
    """Spikes `[T, B, ...]`; if wanted, the final state `[B, ...]` and the drive `[T, B, ...]` (one step, if static).

    The drive is what goes into the neuron: the currents, after the norm and with the residual.
    """
    given, (eps, _, soft, _, keep_state, keep_drive, skip) = _split(inputs)
    x = dense(given.currents)
    outputs = _outputs(x, keep_state, keep_drive)
    if x.numel():
        tensors = _forward(x, given, outputs, skip)
        run(cpu.forward(ELEMENTS[x.dtype]), _job(x, tensors, soft=soft, eps=eps))
    return outputs


def _fire_fake(currents: Tensor, *others: Any) -> _Outputs:
    return _outputs(dense(currents), *others[-3:-1])


def _norm_fire(*inputs: Any) -> tuple[Tensor, ...]:
    """As `fire`, and the mean and (biased) variance of each channel, float64; the running ones move towards them."""
    given, (eps, _, soft, _, keep_state, keep_drive, skip, momentum) = _split(inputs)
    x = dense(given.currents)
    outputs = _outputs(x, keep_state, keep_drive)
    mean, var = (x.new_empty(x.shape[2], dtype=torch.float64) for _ in range(2))
    moved = (inputs[6], inputs[7])  # the running mean and variance
    running = [_row(values, torch.float32) for values in moved]
    tensors = _forward(x, given._replace(mean=mean, var=var), outputs, skip) | {"sums": _sums(x)}
    tensors |= {"running_mean": running[0], "running_var": running[1]}
    job = _job(x, tensors, soft=soft, eps=eps, momentum=momentum)
    run(cpu.moments(ELEMENTS[x.dtype]), job)
    run(cpu.forward(ELEMENTS[x.dtype]), job)
    for values, row in zip(moved, running, strict=True):
        if row is values:
            torch.autograd.graph.increment_version(values)
        else:
            values.copy_(row)
    return *outputs, mean, var


def _norm_fire_fake(currents: Tensor, *others: Any) -> tuple[Tensor, ...]:
    row = currents.new_empty(currents.shape[2], dtype=torch.float64)
    return *_outputs(dense(currents), *others[-4:-2]), row, torch.empty_like(row)


def _gradients(x: Tensor, given: _Inputs, joined: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g_residual = empty_like(x) if joined else x.new_empty(0)
    g_state = x.new_empty(0, dtype=torch.float32) if given.state is None else empty_like(x, 1, torch.float32)[0]
    g_weight = x.new_empty(0 if given.weight is None else x.shape[2], dtype=torch.float32)
    return empty_like(x, 1 if static(x) else None), g_residual, g_state, g_weight, torch.empty_like(g_weight)


def _fire_backward(
    grad: Tensor, grad_final: Tensor | None, grad_drive: Tensor | None, *inputs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the currents (one step, the sum over time, if they are static), residual, state, weight and bias.

    With batch statistics, mean and variance are those of the currents, and the gradient goes through them. Where the
    drive was kept no residual is needed, and `joined` tells whether there was one.
    """
    given, (eps, kind, soft, detach, drive, joined, batch_statistics) = _split(inputs)
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
    run(cpu.backward(element, kind, soft, detach, normed), job)
    if normed:
        run(cpu.norm_backward(element), job)
    return gradients


def _fire_backward_fake(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given, (*_, joined, _) = _split(inputs[3:])
    return _gradients(dense(given.currents), given, joined)


def _save(ctx: Any, given: _Inputs, options: tuple[Any, ...], outputs: Any, batch_statistics: bool) -> None:
    """For `Fire.backward`."""
    keep_drive, joined = options[5], given.residual is not None
    if keep_drive:
        given = given._replace(residual=None)
    ctx.save_for_backward(*given, outputs[2] if keep_drive else None)
    ctx.options, ctx.last = options[:4], (joined, batch_statistics)
    ctx.set_materialize_grads(False)


class Fire(torch.autograd.Function):
    """`fire`, differentiable."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """See `_fire`."""
        with torch._C._AutoDispatchBelowAutograd():
            outputs = fire(*inputs)
        _save(ctx, *_split(inputs), outputs, False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """See `_fire_backward`."""
        *saved, drive = ctx.saved_tensors
        given = _Inputs(*saved)
        grad, final, moved = (None if g is None or not g.numel() else g for g in grads[:3])
        if grad is None:
            grad = torch.zeros_like(given.currents)
        gx, g_residual, g_state, g_weight, g_bias = fire_backward(
            grad, final, moved, *given, *ctx.options, drive, *ctx.last
        )
        return (
            spread(gx[0], given.currents.shape[0]) if static(given.currents) else gx,
            g_residual if ctx.last[0] else None,
            None if given.state is None else g_state.to(given.state.dtype),
            None,
            None if given.weight is None else g_weight.to(given.weight.dtype),
            None if given.bias is None else g_bias.to(given.bias.dtype),
            *[None] * (_SKIP - 6),
            grad if ctx.needs_input_grad[_SKIP] else None,
            *[None] * (len(ctx.needs_input_grad) - _SKIP - 1),
        )


class NormFire(torch.autograd.Function):
    """`norm_fire`, differentiable."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """See `_norm_fire`."""
        with torch._C._AutoDispatchBelowAutograd():
            outputs = norm_fire(*inputs)
        given, options = _split(inputs)
        *_, mean, var = outputs
        ctx.mark_non_differentiable(mean, var)
        _save(ctx, given._replace(mean=mean, var=var), options, outputs, True)
        return outputs

    backward = Fire.backward  # type: ignore[assignment]


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
