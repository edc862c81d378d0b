"""The base of all neurons: sequence in, sequence out, from rest at each call."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from rheobase.compat import tracing
from rheobase.kernels import Rule, reference
from rheobase.kernels.spec import HALF, Ran
from rheobase.neurons import looking, numbers

State = Any  # a tensor, or a tuple of tensors


class StatelessError(ValueError):
    """A neuron has no potential that could be looked at."""


def check_untraced(name: str) -> None:
    """Refuse `torch.jit.trace`, which loses what it cannot name.

    Raises:
        NotImplementedError: under it.
    """
    if tracing() is not None:
        raise NotImplementedError(
            f"{name}: torch.jit.trace, and with it torch.onnx.export(dynamo=False) and TensorBoard's add_graph, cannot "
            "follow a neuron through time: use torch.export.export(model, (images,))"
        )


def scripted(module: nn.Module) -> NoReturn:
    """Refuse `torch.jit.script`, whose language knows too little."""
    raise NotImplementedError(
        f"{type(module).__name__}: torch.jit.script cannot compile it: use torch.export.export(model, (images,))"
    )


def strange(x: Any) -> str | None:
    """What x is, where it is no dense tensor of floating point; else None."""
    if not isinstance(x, Tensor):
        name = type(x).__name__
        hint = ": torch.fx cannot trace it, torch.export.export(model, (images,)) can"
        return name + (hint if name == "Proxy" else "")
    if x.is_nested or x.layout != torch.strided:
        return "a nested one" if x.is_nested else f"one of {x.layout}"
    return None if x.is_floating_point() else str(x.dtype)


def leaves(state: State) -> list[Any]:
    """The tensors of a state, which may be a tuple of states."""
    if isinstance(state, tuple | list):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]


def altered(module: nn.Module, of: type[nn.Module], *methods: str) -> bool:
    """Whether one of these methods is not that of class `of`, but a subclass's, or the very module's."""
    for name in methods:  # noqa: SIM110  (it runs in each call)
        if name in module.__dict__ or getattr(type(module), name) is not getattr(of, name):
            return True
    return False


class Neuron(nn.Module):
    """Base class. A neuron of your own defines `step`; it then works everywhere, by the definition.

    A step maps the current `[B, ...]` and a state (a tensor, or a tuple of them) to the output `[B, ...]` and the
    next state. Spikes come from `rheobase.spike`, which has a gradient; a comparison has none. `initial_state` gives
    the state at rest; by default zeros like the current. Currents of 16 bits reach `step` as float32.
    """

    dynamics: ClassVar[tuple[str, ...]] = ()
    """Names of its numbers: see `numbers.py`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("reset", "surrogate", *cls.dynamics):
            own = cls.__dict__.get(name)
            if name in cls.__dict__ and not hasattr(own, "__get__"):
                raise TypeError(
                    f"{cls.__name__}.{name} = {own!r} would hide what the neuron works with: give it to __init__, or "
                    "make it a property"
                )

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(getattr(type(self), name, None), "__set__"):  # nn.Module would look among its buffers first
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def rule(self) -> Rule | None:
        """The gradient rule, an object of `rheobase.rules`; None for the neuron's own gradient, through time.

        Raises:
            TypeError: (assigned) no such object.
            ValueError: (assigned) rules do not know this kind of neuron.
        """
        found: Rule | None = self.__dict__.get("rule")
        return found

    @rule.setter
    def rule(self, value: Rule | None) -> None:
        if value is not None:
            self._may_have(value)
        self.__dict__["rule"] = value

    def _may_have(self, rule: Rule) -> None:
        """Refuse a rule."""
        raise ValueError(f"{type(self).__name__} takes no gradient rule: rules know LIF and what is derived from it")

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step."""
        raise NotImplementedError(f"{type(self).__name__} defines no step(current, state)")

    def initial_state(self, current: Tensor) -> State:
        """State at rest for a current `[B, ...]`."""
        return torch.zeros_like(current)

    def run(self, currents: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Outputs `[T, B, ...]` and the state after the last step, from `state` (default: rest)."""
        ran = self._ran(currents, state)
        return ran.outputs, ran.state

    def forward(self, currents: Tensor) -> Tensor:
        """Outputs `[T, B, ...]`, from rest."""
        look = looking.local.look
        ran = self._call(currents, None, keep_state=False) if look is None else look.call(self, currents)
        return ran.outputs

    def _call(self, currents: Tensor, state: State, watch: bool = False, **options: Any) -> Ran:
        """One call, as `Look` wants it: with `watch` the potentials too, if they can be had."""
        if altered(self, Neuron, "run"):
            outputs, state = self.run(currents, state)
            return Ran(outputs, currents, state)
        return self._ran(currents, state, watch, **options)

    def _ran(self, currents: Tensor, state: State, watch: bool = False, **_: Any) -> Ran:
        """By the definition. What a neuron of one's own has for a potential is its (first) state after a step."""
        self.check(currents)
        x = currents.float() if currents.dtype in HALF else currents
        rest = self.initial_state(x[0])
        if state is None:
            state = rest
        else:
            self._check_state(state, rest)
            state = tree_map(Tensor.clone, state)  # which a step may change in place
        (outputs, *potentials), final = reference.unroll(self._watched if watch else self._stepped, x, state)
        self._check_gradient(x, outputs)
        return Ran(outputs.to(currents.dtype), currents, final, *potentials)

    def _stepped(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """A step, which gives what one has to give.

        Raises:
            TypeError: not an output `[B, ...]` and a state of tensors.
        """
        found = self.step(current, state)
        if isinstance(found, tuple) and len(found) == 2:
            output, state = found
            if isinstance(output, Tensor) and output.shape[:1] == current.shape[:1]:
                if all(isinstance(leaf, Tensor) for leaf in leaves(state)):
                    return output, state
                got = f"a state of {', '.join(type(leaf).__name__ for leaf in leaves(state))}"
            else:
                got = f"an output {list(output.shape) if isinstance(output, Tensor) else type(output).__name__}"
        else:
            got = f"{len(found)} things" if isinstance(found, tuple) else type(found).__name__
        raise TypeError(
            f"{type(self).__name__}.step must give an output [{len(current)}, ...] and the next state (a tensor, or a "
            f"tuple of them) for a current {list(current.shape)}, got {got}"
        )

    def _watched(self, current: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        """A step, and the potential."""
        output, state = self._stepped(current, state)
        first = next(iter(leaves(state)), None)
        if first is None:
            raise StatelessError(f"{type(self).__name__} has no state that could be its potential")
        return output, state, first.clone()  # which a later step may change in place

    def _check_gradient(self, currents: Tensor, outputs: Tensor) -> None:
        if currents.requires_grad and not outputs.requires_grad and torch.is_grad_enabled():
            warnings.warn(
                f"{type(self).__name__}: its outputs carry no gradient, so nothing below it learns; a comparison has "
                "none: write spikes as rheobase.spike(u - threshold)",
                RuntimeWarning,
                stacklevel=2,
            )

    def _check_state(self, state: State, rest: State) -> None:
        """Refuse a state that is not like the one at rest."""
        given, wanted = leaves(state), leaves(rest)
        if isinstance(rest, Tensor) and isinstance(state, tuple | list):
            raise TypeError(f"{type(self).__name__}: a state must be a tensor, got {type(state).__name__}")
        if len(given) != len(wanted):
            raise ValueError(f"{type(self).__name__}: state must be {len(wanted)} tensors, got {len(given)}")
        for got, want in zip(given, wanted, strict=True):
            if not isinstance(got, Tensor):
                raise TypeError(f"{type(self).__name__}: a state must be a tensor, got {type(got).__name__}")
            if got.shape != want.shape:
                raise ValueError(
                    f"{type(self).__name__}: state must be {list(want.shape)}, as the currents of one step want, "
                    f"got {list(got.shape)}"
                )

    def check(self, currents: Tensor) -> None:
        """Refuse what is not `[T, B, ...]` floating point with T >= 1.

        Raises:
            TypeError: not a dense tensor of floating point.
            ValueError: fewer than two axes, or no time step.
            NotImplementedError: under `torch.jit.trace`, or in `torch.nn.DataParallel`.
        """
        name = type(self).__name__
        if (got := strange(currents)) is not None:
            raise TypeError(f"{name}: currents must be a dense floating point tensor, got {got}")
        if currents.dim() < 2 or currents.shape[0] == 0:
            raise ValueError(f"{name}: currents must be [T, B, ...] with T >= 1, got shape {list(currents.shape)}")
        if tracing() is not None:
            check_untraced(name)
        if "_is_replica" in self.__dict__:
            raise NotImplementedError(
                f"{name}: torch.nn.DataParallel divides and joins an axis that may be time: use "
                "torch.nn.parallel.DistributedDataParallel"
            )

    def __prepare_scriptable__(self) -> Neuron:
        """What `torch.jit.script` calls."""
        scripted(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        raw = [f"raw_{name}" for name in self.dynamics]
        numbers.moved(
            self._buffers,
            self.dynamics,
            lambda: numbers.moved(self._parameters, raw, lambda: super(Neuron, self)._apply(fn, recurse), False),  # type: ignore[arg-type]
            True,
        )
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        for name in self.dynamics:
            if prefix + name in state_dict:
                numbers.checked(prefix + type(self).__name__, name, state_dict[prefix + name])
            raw = state_dict.get(f"{prefix}raw_{name}")
            if isinstance(raw, Tensor) and not raw.is_meta and not raw.isfinite().all():
                raise ValueError(f"{prefix}raw_{name} is not finite")
        try:
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        except ValueError as error:  # of the extra state, which does not know where it is
            raise ValueError(f"{prefix.rstrip('.') or type(self).__name__}: {error}") from error
        if local_metadata.get("assign_to_params_buffers"):  # those that came, where they came from
            for name in self.dynamics:
                given = state_dict.get(prefix + name)
                if name in self._buffers and given is not None:
                    self._buffers[name] = numbers.checked(type(self).__name__, name, given, like=given)


def outermost(model: nn.Module) -> dict[str, Neuron]:
    """The neurons of a model by module path, without those that are parts of another neuron."""
    found: dict[str, Neuron] = {}
    parts: set[nn.Module] = set()
    for path, module in model.named_modules():  # a module before what is within it
        if isinstance(module, Neuron) and module not in parts:
            found[path] = module
            parts.update(module.modules())
    return found
