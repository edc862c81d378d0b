"""What a model does in one pass, counted from the functions of torch that it calls, its neurons and its norms.

Functions rather than modules, so that `F.conv2d(x, self.weight)` in a forward of one's own counts as `nn.Conv2d` does.
Hooks tell where a function is called; what is called within a neuron, a norm or a `Fire` is theirs, and counted there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rheobase.energetics.ledger import Counted, Layer, Ledger
from rheobase.energetics.modules import innermost, parts, update
from rheobase.energetics.operations import (
    COMPARISONS,
    FREE,
    MEANS,
    PRODUCTS,
    SUMS,
    WEIGHTED,
    Fans,
    Units,
    kept,
    operands,
    window,
)
from rheobase.kernels.spec import Ran
from rheobase.kernels.time import static
from rheobase.layers import Fire, PerStep
from rheobase.neurons import Neuron
from rheobase.neurons.base import outermost
from rheobase.neurons.looking import looking
from rheobase.norm import TEBN, CurrentNorm


class _Frame(NamedTuple):
    """A module that is running."""

    path: str
    open: bool  # whether the functions that it calls are counted
    steps: int = 0  # T, where a `PerStep` or `Fire` tells
    computed: float = 1.0  # so many of the steps that there are, for each one that is computed
    counted: float = 1.0  # so many of the steps that count, for each one that is computed
    back: bool = False  # within a recurrent neuron


class Counter(TorchFunctionMode):
    """Counts what is done within `watching`. To neurons it is a tape.

    Args:
        model: what is to run.
        once: whether what is the same at all steps is done once.
        fold: whether norms are folded into the weights before them.
    """

    potentials = copies = False

    def __init__(self, model: nn.Module, once: bool, fold: bool) -> None:
        super().__init__()
        self._model, self._once, self._fold = model, once, fold
        self._ledger, self._fans = Ledger(model), Fans()
        self._neurons = {neuron: path for path, neuron in outermost(model).items()}
        self._silent = set(self._neurons)  # those that did not run
        self._paths = {module: path for path, module in model.named_modules()}
        self._stack = [_Frame("", True)]
        self._units = Units()
        self._shape: tuple[int, int] | None = None  # T and batch size of the first neuron
        self._active = False  # whether an activation has run: a neuron, or what an ANN has

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, the model's pass is counted."""
        with ExitStack() as stack:
            for module, back in parts(self._model):
                enter, leave = self._enter(module, back), self._leave(module)
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
            stack.enter_context(looking(tape=self))
            stack.enter_context(self)
            yield

    def counted(self, batch: int = 0) -> Counted:
        """The pass; of an ANN, over a batch of that size.

        Raises:
            ValueError: no neuron was called, or on no sample.
        """
        steps, samples = self._shape or (1, batch)
        if not samples:
            raise ValueError("energy: no neuron was called, or on no sample, so there is nothing to count")
        for neuron in self._silent:
            self._ledger.skip(
                self._neurons[neuron], f"{type(neuron).__name__} was not called (of run(...) nothing is seen)"
            )
        return self._ledger.closed(steps, samples)

    def _layer(self, path: str, kind: str, frame: _Frame, leading: Sequence[int]) -> Layer:
        repeats = frame.computed / frame.counted
        lead = () if frame.steps else tuple(leading[:2])
        return self._ledger.layer(path, kind, frame.steps / repeats, lead, frame.back, repeats)

    # ---- modules -----------------------------------------------------------------------------------------------------

    def _enter(self, module: Any, back: bool) -> Callable[..., None]:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            opened = not isinstance(module, Neuron | CurrentNorm | Fire)
            frame = self._stack[-1]._replace(path=self._paths[module], open=opened)
            x = next(iter(operands(args, kwargs, "x", "currents")), None)
            if isinstance(module, PerStep | Fire) and isinstance(x, Tensor) and x.dim() > 1 and len(x):
                steps, same = len(x), static(x)
                computed = float(steps) if same and isinstance(module, PerStep) and module._pure() else 1.0
                counted = computed / steps if same and self._once else computed
                frame = frame._replace(steps=steps, computed=computed, counted=counted)
            self._stack.append(frame._replace(back=frame.back or back))

        return enter

    def _leave(self, module: Any) -> Callable[..., None]:
        def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if isinstance(module, CurrentNorm):
                self._normed(module, *operands(args, kwargs, "currents"))
            elif isinstance(module, Fire):
                self._fired(module, *operands(args, kwargs, "currents"))
                for name, place in (("residual", 1), ("skip", 2)):
                    joined = kwargs.get(name, args[place] if len(args) > place else None)
                    if joined is not None:
                        self._added(joined, spikes=name == "skip")
            self._stack.pop()  # (at the end: what counting itself calls is called in a closed frame)

        return leave

    def _normed(self, norm: nn.Module, currents: Tensor) -> None:
        count = 0 if self._fold and not isinstance(norm, TEBN) else currents.numel()  # (that one's are a step's own)
        layer = self._layer(self._paths[norm], type(norm).__name__, self._stack[-1], currents.shape)
        layer.add(self._stack[-1].counted, values=currents.numel(), additions=count, multiplications=count)
        self._ledger.see(*norm.parameters(recurse=False))

    def _fired(self, fire: Fire, currents: Tensor, *_: Any) -> None:
        """The parts of it that are not told of."""
        if isinstance(fire.norm, CurrentNorm):
            self._normed(fire.norm, currents)
        elif type(fire.norm) is not nn.Identity:
            self._ledger.skip(self._paths[fire.norm], type(fire.norm).__name__)
        if not isinstance(fire.neuron, Neuron):
            self._active = True
            if isinstance(fire.neuron, nn.ReLU):
                self._elementwise(self._stack[-1].path, "relu", currents, additions=currents.numel())
            else:
                self._ledger.skip(self._paths[fire.neuron], type(fire.neuron).__name__)

    def _added(self, joined: Tensor, spikes: bool) -> None:
        """A residual is added to currents, a skip to spikes: which, if they are added up, still travel one by one."""
        free = spikes and bool(self._neurons) and self._units.events(joined) is not None
        count = 0 if free else int(joined.count_nonzero())
        self._elementwise(self._stack[-1].path, "add", joined, additions=count)

    # ---- neurons -----------------------------------------------------------------------------------------------------

    def __contains__(self, neuron: object) -> bool:
        """Whether it is the model's."""
        return neuron in self._neurons

    def note(self, neuron: Neuron, ran: Ran, more: bool) -> None:
        """Count the updates of a neuron, and its spikes."""
        path, name, inner = self._paths[neuron], type(neuron).__name__, innermost(neuron)
        steps, batch = ran.outputs.shape[:2]
        if not bool(ran.outputs.isfinite().all()):
            raise ValueError(f"energy: {path or name} gives outputs that are not finite")
        takes, count = update(inner), ran.drive.numel()
        if not takes.known:
            self._ledger.note(f"{path}: what {type(inner).__name__} computes is not known, and counted as a LIF's.")
        self._shape = self._shape or (steps, batch)
        self._active |= takes.spikes
        self._silent.discard(neuron)
        self._ledger.see(*inner.parameters(recurse=False))
        layer = self._ledger.layer(path, name, steps)
        layer.states, layer.fires = takes.states, takes.spikes
        operations = {"multiplications": takes.multiplications * count, "additions": takes.additions * count}
        layer.add(updates=count, inputs=count, outputs=count, values=count, **operations)
        if takes.spikes:
            spikes = float(ran.outputs.abs().sum(dtype=torch.float64))
            layer.add(events=spikes, nonzero=int(ran.outputs.count_nonzero()))

    # ---- functions of torch ------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run a function, and count it."""
        kwargs = kwargs or {}
        full = getattr(func, "__name__", str(func))
        name = full.strip("_")
        if not self._stack[-1].open or name in FREE:
            return func(*args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        args_before, kwargs_before = kept(full, args, kwargs)
        output = func(*args, **kwargs)
        self._called(name, func, given, args_before, kwargs_before, output)
        return output

    def _called(
        self, name: str, func: Any, given: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Count it by its arguments as they were; those given are, or are views of, the parameters."""
        owned = [self._ledger.owner(tensor) for tensor in given]
        path = next((one.rpartition(".")[0] for one in owned if one), self._stack[-1].path)
        self._ledger.see(*given)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        two = operands(args, kwargs, "input", "other")
        if name in WEIGHTED:
            x, weight, *_ = operands(args, kwargs, "input", "weight")
            options = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
            how = repr((args[3:], sorted(options.items())))
            self._weighted(path, name, lambda v, w: func(v, w, None, *args[3:], **options), x, weight, output, how)
        elif name == "matmul" and two[1].dim() == 2 and owned[1]:
            self._weighted(path, name, torch.matmul, two[0], two[1], output)
        elif name in MEANS:
            self._averaged(path, name, args, kwargs, tensors[0], output)
        elif name in COMPARISONS:
            self._active |= name == "relu" and not self._neurons
            self._elementwise(path, name, tensors[0], additions=int(tensors[0].count_nonzero()))
        elif name in SUMS | PRODUCTS and len(two) > 1:
            exact, device = {float: torch.float64}, tensors[0].device
            a, b = (torch.as_tensor(each, dtype=exact.get(type(each)), device=device) for each in two[:2])
            self._joined(path, name, a, b, output)
        elif name == "batch_norm":
            count = 0 if self._fold else tensors[0].numel()
            self._elementwise(path, name, tensors[0], additions=count, multiplications=count)
        else:
            self._active |= not self._neurons  # (it may be an ANN's activation)
            self._ledger.skip(path, name)

    def _elementwise(self, path: str, name: str, x: Tensor, **counts: int) -> None:
        frame = self._stack[-1]
        self._layer(path, name, frame, x.shape).add(frame.counted, values=x.numel(), **counts)

    def _averaged(self, path: str, name: str, args: Any, kwargs: Any, x: Tensor, output: Tensor) -> None:
        """A mean or sum: spikes pass it one by one, on their way to the weights behind it."""
        spikes = self._units.events(x)
        self._elementwise(path, name, x, additions=0 if spikes else int(x.count_nonzero()))
        if spikes:
            self._units.averaged(spikes.units, window(name, args, kwargs, output))

    def _joined(self, path: str, name: str, a: Tensor, b: Tensor, y: Tensor) -> None:
        """A sum or product of two: nothing where one is zero, where spikes are added, or where they let pass.

        The net's spikes times a constant remain spikes: it is a factor of the weights behind it.
        """
        both = torch.broadcast_tensors(a, b)
        product = name in PRODUCTS
        if product:
            free = any(bool(((t == 0) | (t == 1)).all()) for t in (a, b))
            for number, spikes in ((b, a), (a, b)):
                scaled = self._neurons and self._active and number.numel() == 1 < spikes.numel() and bool(number != 0)
                found = self._units.events(spikes) if scaled else None
                if found is not None:
                    constant = float(1 / number if "div" in name else number)
                    self._units.times(found.units, constant)
                    for made in (unit * abs(constant) for unit in sorted(found.units)):
                        if made > 1 and made.is_integer():  # (such values are those of sums)
                            where = path or "(the model)"
                            self._ledger.note(f"{where}: spikes times {constant:g} are counted as {made:g} each.")
        else:
            free = all(self._units.events(t) is not None for t in (a, b, y))
        count = 0 if free else int(((both[0] != 0) & (both[1] != 0)).sum())
        self._elementwise(path, name, both[0], **{"multiplications" if product else "additions": count})

    def _weighted(
        self,
        path: str,
        name: str,
        run: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        weight: Tensor,
        y: Tensor,
        how: str = "",
    ) -> None:
        frame, fan = self._stack[-1], self._fans.of(run, x, weight, f"{name} {how}")
        rows = x.numel() // fan.synapses.numel()
        nonzero = x != 0
        spikes = self._units.events(x, -fan.synapses.dim() if weight.dim() > 2 else -1)

        def reached(values: Tensor) -> float:
            """Values times their synapses."""
            summed = values.reshape(rows, *fan.synapses.shape).sum(0, dtype=torch.float64)
            return float((summed * fan.synapses).sum())

        effective = reached(nonzero)
        batched = x.dim() == weight.dim()  # (of a convolution; in a linear layer all but the last axis are)
        layer = self._layer(path, name, frame, x.shape[:-1] if weight.dim() == 2 else x.shape[: int(batched)])
        binary = spikes is not None and spikes.units == {1.0} and bool((spikes.counts <= 1).all())
        layer.binary &= binary
        layer.driven |= self._active or frame.back
        layer.weights = int(weight.count_nonzero())
        layer.add(
            frame.counted,
            inputs=x.numel(),
            nonzero=int(nonzero.sum()),
            effective=effective,
            synapses=rows * float(fan.synapses.sum()),
            dense=rows * float(fan.dense.sum()),
            outputs=y.numel(),
        )
        if spikes is None:
            layer.add(frame.counted, mac=effective)
        else:
            arrived = float(spikes.counts.sum(dtype=torch.float64))
            layer.add(frame.counted, ac=effective if binary else reached(spikes.counts), events=arrived)
