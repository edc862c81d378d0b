"""Neurons as PyTorch operators: autograd, `torch.compile` and `torch.export` see through them. They import no engine.

`rheobase::moments` takes the statistics of a batch norm, `fire` is a norm's affine map and a neuron over a sequence,
`fire_backward` the way back to the norm's output, `norm_backward` that through the norm. Between two of them is where
processes exchange sums. Each call names the engine that does it.

They are defined with `torch.library.Library`, as a call of a `torch.library.custom_op` takes several times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rheobase.compat import applied, batched, below_autograd, dispatch_modes, tracing, transforms, wrapped
from rheobase.kernels.layout import dense, empty_like
from rheobase.kernels.registry import by_name
from rheobase.kernels.spec import How, check_shape

LEARNABLE = ("decay", "threshold", "input_scale", "leak", "adaptation")


class Inputs(NamedTuple):
    """What the operators take: what goes in `[T, B, ...]`, states `[B, ...]`, a neuron's numbers, and a norm's.

    `other`, `leak` and `adaptation` are those of a neuron with two states. A number is one for all, or one a channel
    `[C]`, or one a neuron (the shape of currents without time and batch). Mean and m2 of a norm's channels are float64:
    with `samples`, the mean of so many values and the sum of their squared deviations, as `moments` gives them, and
    gradients go through both; with samples = 0, a mean and a variance that are constants.
    """

    currents: Tensor
    residual: Tensor | None
    skip: Tensor | None
    state: Tensor | None
    other: Tensor | None
    decay: Tensor
    threshold: Tensor
    input_scale: Tensor
    leak: Tensor | None
    adaptation: Tensor | None
    width: Tensor
    height: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    m2: Tensor | None


class Outputs(NamedTuple):
    """Spikes `[T, B, ...]` plus skip; where wanted, what drives the neuron (after norm and residual), and states."""

    spikes: Tensor
    drive: Tensor | None
    final: Tensor | None
    final_other: Tensor | None


class Gradients(NamedTuple):
    """Of the drive `[T, B, ...]`, the states, and the numbers that are learned.

    With a norm also `sums [2, C]`, float64, of the drive's gradient and of that times (currents - mean), and the
    gradients of weight and bias.
    """

    drive: Tensor
    state: Tensor | None
    other: Tensor | None
    sums: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    decay: Tensor | None
    threshold: Tensor | None
    input_scale: Tensor | None
    leak: Tensor | None
    adaptation: Tensor | None


def _arguments(optional: Iterable[str], every: Sequence[str]) -> str:
    return ", ".join(f"Tensor{'?' if name in optional else ''} {name}" for name in every)


_OPTIONAL = {"residual", "skip", "state", "other", "leak", "adaptation", "weight", "bias", "mean", "m2"}
_HOW = "str kind, str reset, bool detach_reset, str surrogate, float eps, SymInt samples"
_GIVEN = f"{_arguments(_OPTIONAL, Inputs._fields)}, {_HOW}"
_library = torch.library.Library("rheobase", "DEF")
for _schema in (
    "moments(Tensor currents, str engine) -> (Tensor, Tensor)",
    f"fire({_GIVEN}, bool keep_state, bool keep_drive, str engine) -> (Tensor, Tensor, Tensor, Tensor)",
    f"fire_backward({_GIVEN}, Tensor grad, Tensor? grad_drive, Tensor? grad_final, Tensor? grad_final_other, "
    "Tensor? drive, bool[] learned, str engine) -> "
    f"({', '.join(['Tensor'] * len(Gradients._fields))})",
    "norm_backward(Tensor grad, Tensor currents, Tensor weight, Tensor mean, Tensor m2, Tensor sums, float eps, "
    "SymInt samples, str engine) -> Tensor",
):
    _library.define(_schema)
moments = torch.ops.rheobase.moments.default
fire = torch.ops.rheobase.fire.default
fire_backward = torch.ops.rheobase.fire_backward.default
norm_backward = torch.ops.rheobase.norm_backward.default


def _fit(x: Tensor, name: str, tensor: Tensor | None, shape: Sequence[int], dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor that is not of this shape (and dtype), on the device of currents x."""
    if tensor is None:
        return
    if tensor.shape != shape or tensor.device != x.device or (dtype is not None and tensor.dtype is not dtype):
        got = f"{list(tensor.shape)}, {tensor.dtype}, on {tensor.device}"
        wanted = f"{list(shape)}, {dtype or 'of any dtype'}, on {x.device}"
        raise ValueError(f"{name} must be {wanted}, as currents of {list(x.shape)} want, got {got}")


FIRST_NUMBER, FIRST_NORM = Inputs._fields.index("decay"), Inputs._fields.index("weight")


def check(given: Inputs) -> None:
    """Refuse what an engine would read past the end of, or elsewhere.

    Raises:
        ValueError: a tensor that does not go with the currents, or half a norm.
    """
    x, device = given.currents, given.currents.device
    for i in (1, 2):  # residual, skip
        if given[i] is not None:
            _fit(x, Inputs._fields[i], given[i], x.shape, x.dtype)
    for i in (3, 4):  # states
        if given[i] is not None:
            _fit(x, Inputs._fields[i], given[i], x.shape[1:])
    for i in range(FIRST_NUMBER, FIRST_NORM):
        number = given[i]
        if number is not None and number.device != device:
            raise ValueError(f"{Inputs._fields[i]} must be on {device}, as the currents are, got it on {number.device}")
        if number is not None and number.dim():
            check_shape(Inputs._fields[i], number, x.shape[2:])
    norm = given[FIRST_NORM:]
    if norm[0] is None:
        if not (norm[1] is norm[2] is norm[3] is None):
            raise ValueError("a norm is weight, bias, mean and m2")
        if given.residual is not None or given.skip is not None:
            raise ValueError("a residual or skip needs a norm before it")
        return
    row = x.shape[2:3]
    for i, part in enumerate(norm):
        if part is None:
            raise ValueError("a norm is weight, bias, mean and m2")
        if part.shape != row or part.device != device or (i > 1 and part.dtype is not torch.float64):
            _fit(x, Inputs._fields[FIRST_NORM + i], part, row, torch.float64 if i > 1 else None)


def _state_like(x: Tensor) -> Tensor:
    return x.new_empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32)


def outputs(x: Tensor, two: bool, keep_state: bool, keep_drive: bool) -> Outputs:
    """Room for what `fire` gives, for dense currents x and a neuron of one state, or two."""
    return Outputs(
        empty_like(x),
        empty_like(x) if keep_drive else None,
        _state_like(x) if keep_state else None,
        _state_like(x) if keep_state and two else None,
    )


def _like(number: Tensor | None) -> Tensor | None:
    return None if number is None else torch.empty_like(number)


def gradients(x: Tensor, given: Inputs, learned: Sequence[bool]) -> Gradients:
    """Room for what `fire_backward` gives, but for the sums."""
    weight = None if given.weight is None else x.new_empty(x.shape[2], dtype=torch.float32)
    return Gradients(
        empty_like(x),
        None if given.state is None else _state_like(x),
        None if given.other is None else _state_like(x),
        None,
        weight,
        None if weight is None else torch.empty_like(weight),
        *[_like(n) if want else None for n, want in zip(given[FIRST_NUMBER:], learned, strict=False)],
    )


def _whole(found: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Operators give tensors only: an empty one for what there is not."""
    like = found[0]
    assert like is not None
    return tuple(like.new_empty(0, dtype=torch.float32) if tensor is None else tensor for tensor in found)


def _some(found: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The reverse, but for the first, which there always is."""
    return found[0], *(None if tensor is None or not tensor.numel() else tensor for tensor in found[1:])


_END, _HOW_END = len(Inputs._fields), len(Inputs._fields) + len(How._fields)


def _split(inputs: tuple[Any, ...]) -> tuple[Inputs, How, tuple[Any, ...]]:
    return Inputs(*inputs[:_END]), How(*inputs[_END:_HOW_END]), inputs[_HOW_END:]


def laid(given: Inputs) -> Inputs:
    """The inputs with dense currents, in which each sample lies together where neurons have numbers of their own."""
    x = dense(given.currents)
    for number in given[FIRST_NUMBER:FIRST_NORM]:
        if number is not None and number.dim() > 1 and x.shape[1] > 1 and x.stride(1) != x[0, 0].numel():
            x = x.contiguous()
    return given if x is given.currents else given._replace(currents=x)


def _moments(currents: Tensor, engine: str) -> tuple[Tensor, Tensor]:
    mean, m2 = by_name(engine).moments(dense(currents))
    return mean, m2


def _moments_fake(currents: Tensor, engine: str) -> tuple[Tensor, Tensor]:
    row = currents.new_empty(currents.shape[2], dtype=torch.float64)
    return row, torch.empty_like(row)


def _fire(*inputs: Any) -> tuple[Tensor, ...]:
    given, how, (keep_state, keep_drive, engine) = _split(inputs)
    check(given)
    return _whole(by_name(engine).forward(laid(given), how, keep_state, keep_drive))


def _fire_fake(*inputs: Any) -> tuple[Tensor, ...]:
    given, how, (keep_state, keep_drive, _) = _split(inputs)
    check(given)
    return _whole(outputs(laid(given).currents, how.kind != "LIF", keep_state, keep_drive))


def _check_backward(given: Inputs, grads: Sequence[Tensor | None], drive: Tensor | None) -> None:
    """As `check`, with what a backward pass takes besides them."""
    check(given)
    x = given.currents
    for name, tensor in (("grad", grads[0]), ("grad_drive", grads[1]), ("drive", drive)):
        _fit(x, name, tensor, x.shape, x.dtype)
    for name, tensor in (("grad_final", grads[2]), ("grad_final_other", grads[3])):
        _fit(x, name, tensor, x.shape[1:])


def _fire_backward(*inputs: Any) -> tuple[Tensor, ...]:
    given, how, (*grads, drive, learned, engine) = _split(inputs)
    _check_backward(given, grads, drive)
    return _whole(by_name(engine).backward(laid(given), how, grads, drive, tuple(learned)))


def _fire_backward_fake(*inputs: Any) -> tuple[Tensor, ...]:
    given, _, (*grads, drive, learned, _) = _split(inputs)
    _check_backward(given, grads, drive)
    x = laid(given).currents
    sums = None if given.weight is None else x.new_empty((2, x.shape[2]), dtype=torch.float64)
    return _whole(gradients(x, given, learned)._replace(sums=sums))


def _norm_backward(grad: Tensor, currents: Tensor, *rest: Any) -> Tensor:
    *others, engine = rest
    found: Tensor = by_name(engine).norm_backward(grad, dense(currents), *others, torch.empty_like(grad))
    return found


def _norm_backward_fake(grad: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(grad)


_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def plain(values: Sequence[Any]) -> bool:
    """Whether nobody looks on (a subclass, a mode, a tracer, a transform): the dispatcher costs as much as a kernel."""
    if dispatch_modes() or tracing() is not None or transforms() is not None:
        return False
    for value in values:  # noqa: SIM110  (it runs in each call)
        if value is not None and (type(value) not in _PLAIN or wrapped(value)):
            return False
    return True


def refuse_second(engine: Any) -> None:
    """Refuse a backward pass that is to be differentiated itself.

    Raises:
        RuntimeError: it is.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"the backward of the rule {engine.name!r} is not differentiable (create_graph=True), whatever the engine: "
            "only that of the neuron's own gradient, rule='surrogate', is, in rheobase.engine('reference')"
            if engine.rule
            else f"the {engine.name} engine has no second derivatives (create_graph=True): "
            "use rheobase.engine('reference')"
        )


class Fire(torch.autograd.Function):
    """A neuron over a sequence, by an engine or by a gradient rule; with an engine, a norm may go before it.

    `forward((engine, how, keep_state, keep_drive, direct, running), *inputs)`; differentiable once. `direct`: past the
    dispatcher, as what is `plain` may go. With `running` statistics a norm has no mean and m2 yet: they are taken here,
    so that the engine does it all at once.
    """

    @staticmethod
    def forward(ctx: Any, call: tuple[Any, ...], *tensors: Any) -> Any:
        """Outputs."""
        engine, how, keep_state, keep_drive, direct, running = call
        with below_autograd(), engine.queue() if direct else nullcontext():
            if running is not None:
                tensors = (*tensors[:-2], *engine.moments(dense(tensors[0]), running))
            given = Inputs(*tensors)
            if direct:
                check(given)
                found = engine.forward(laid(given), how, keep_state, keep_drive)
            else:
                found = Outputs(*_some(fire(*given, *how, keep_state, keep_drive, engine.name)))
        # all is done by now, as autograd hands what is saved to hooks, which may look at it
        ctx.engine, ctx.how = engine, how
        if given.residual is not None and keep_drive:
            given = given._replace(residual=None)
        if given.skip is not None:
            given = given._replace(skip=None)
        ctx.save_for_backward(*given, found.drive, *engine.kept)
        engine.kept.clear()
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Gradients of the inputs."""
        refuse_second(ctx.engine)
        engine, how, needs = ctx.engine, ctx.how, ctx.needs_input_grad[1:]
        joined, skipped = needs[1:3]
        everything, count = ctx.saved_tensors, len(Inputs._fields)
        saved, drive, kept = everything[:count], everything[count], everything[count + 1 :]
        given = Inputs(*saved)
        if grads[0] is None:
            grads = (torch.zeros_like(given.currents), *grads[1:])
        learned = needs[FIRST_NUMBER : FIRST_NUMBER + len(LEARNABLE)]
        direct = not engine.operators or (
            plain((*saved, *grads)) and not any(batched(g) for g in grads if g is not None)
        )
        with engine.queue() if direct else nullcontext():
            if direct:
                given = laid(given)
                found = engine.backward(given, how, grads, drive, learned, *kept)
            else:
                found = Gradients(*_some(fire_backward(*given, *how, *grads, drive, learned, engine.name)))
            gx = gy = found.drive
            if given.weight is not None and needs[0]:
                arguments = (gy, given.currents, given.weight, given.mean, given.m2, found.sums, how.eps, how.samples)
                if direct:
                    gx = engine.norm_backward(*arguments, torch.empty_like(gy) if joined else gy)
                else:
                    gx = norm_backward(*arguments, engine.name)
        return (
            None, gx, gy if joined else None, grads[0] if skipped else None,
            _as(found.state, given.state), _as(found.other, given.other),
            found.decay, found.threshold, found.input_scale, found.leak, found.adaptation, None, None,
            _as(found.weight, given.weight), _as(found.bias, given.bias), None, None,
        )  # fmt: skip


fire_plain = applied(Fire)
"""`Fire.apply` on what is `plain`."""


def _as(gradient: Tensor | None, of: Tensor | None) -> Tensor | None:
    """A gradient in the dtype of what it is of."""
    return gradient if gradient is None or of is None or gradient.dtype is of.dtype else gradient.to(of.dtype)


def _recorded(*inputs: Any) -> tuple[Tensor, ...]:
    """`fire` under autograd."""
    given, how, (keep_state, keep_drive, engine) = _split(inputs)
    return _whole(Fire.apply((by_name(engine), how, keep_state, keep_drive, plain(given), None), *given))


for _name, _function, _fake in (
    ("moments", _moments, _moments_fake),
    ("fire", _fire, _fire_fake),
    ("fire_backward", _fire_backward, _fire_backward_fake),
    ("norm_backward", _norm_backward, _norm_backward_fake),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rheobase::{_name}", _fake, lib=_library)
    if _name != "fire":
        _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")  # they have no derivative
_library.impl("fire", _recorded, "Autograd")
