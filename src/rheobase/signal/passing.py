"""One pass up and down a model, seen from every neuron, that leaves nothing behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase import kernels
from rheobase.kernels.spec import Ran
from rheobase.layers import PerStep, readout
from rheobase.modes import untouched
from rheobase.neurons import LIF
from rheobase.neurons.base import Neuron, StatelessError, outermost
from rheobase.neurons.looking import looking
from rheobase.norm import lengths
from rheobase.signal.credit import heard
from rheobase.signal.measures import some
from rheobase.signal.waists import ordered, waists

Loss = Callable[[Any, Any], Tensor]
FIRST = 4
"""So many neurons may be where a net begins."""


class Place(NamedTuple):
    """Something that a module gave: after so many neurons, the path of the module, which of its outputs."""

    after: int
    path: str
    output: int


@dataclass(frozen=True)
class Layer:
    """What a neuron met on the way, all `[T, B, ...]`.

    Attributes:
        path: of the neuron in the model; with `#2` behind it at its second call in the pass.
        neuron: itself.
        currents, spikes: on the way up.
        potentials: likewise; of neurons that are all alike and hear nothing of each other those of `some`, `[T, N]`;
            None of a neuron with a run of its own, or without a state.
        currents_grad, spikes_grad: of the loss, on the way down; zeros where it does not depend on them.
        weights: names of the parameters of two axes and more that its currents are made of, and of its own.
        beside: whether the signal may go past it.
        cut: whether its spikes have no gradient though its currents want one.
        apart: whether the loss does not depend on its currents, or they on the layer before it, as autograd sees it.
        bottom: whether nothing that could be trained is below it.
    """

    path: str
    neuron: Neuron
    currents: Tensor
    potentials: Tensor | None
    spikes: Tensor
    currents_grad: Tensor
    spikes_grad: Tensor
    weights: tuple[str, ...]
    beside: bool
    cut: bool
    apart: bool
    bottom: bool


@dataclass(frozen=True)
class Waist:
    """What everything goes through after some neuron (see `waists.py`), `[T, B, ...]`.

    Attributes:
        place: where it was given.
        features: on the way up.
        gradient: of the loss.
    """

    place: Place
    features: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Passed:
    """A pass.

    Attributes:
        layers: the neurons, in the order in which they ran.
        waists: one after each neuron, where there is one.
        outputs: of the model.
        weights: of each parameter that has one, its gradient; and, with halves, that of the first half of the batch.
        loss: its mean.
    """

    layers: list[Layer]
    waists: list[Waist]
    outputs: Any
    weights: dict[str, list[Tensor]]
    loss: Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of the mean over (real) time of logits `[T, B, classes]`, one a sample.

    Raises:
        ValueError: something else.
    """
    _check_logits(logits)
    real = lengths()
    if not isinstance(labels, Tensor) or labels.shape[:1] != logits.shape[1:2]:
        got = f"{list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"probe: labels must be a tensor of one a sample, [{logits.shape[1]}] for logits {list(logits.shape)}, got "
            f"{got} (time comes first in inputs and logits)"
        )
    labels = labels if labels.is_floating_point() else labels.long()
    return F.cross_entropy(readout(logits.float(), real), labels, reduction="none")


def _check_logits(logits: Any) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"probe: by itself it takes a model that gives logits [T, B, classes], got {got}: "
            "give loss=..., which makes one number a sample of (outputs, y)"
        )


def loss_of(loss: Loss | None, y: Any, seed: int) -> Loss:
    """The loss, by default cross entropy; with labels drawn at random where there are none."""
    if loss is not None or y is not None:
        return loss or cross_entropy

    def drawn(logits: Tensor, _: Any) -> Tensor:
        _check_logits(logits)
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(logits.shape[-1], logits.shape[1:2], generator=generator)
        return cross_entropy(logits, labels.to(logits.device))

    return drawn


@dataclass
class Run:
    """What is taken down of a forward pass; a `Tape`."""

    neurons: dict[Neuron, str]
    parameters: dict[nn.Parameter, str]
    calls: list[tuple[Neuron, Ran]] = field(default_factory=list)
    called: list[list[nn.Parameter]] = field(default_factory=lambda: [[]])  # of modules, before each neuron
    given: list[tuple[Place, Tensor]] = field(default_factory=list)
    wanted: set[Place] | None = None  # of what is given; None: all that has a gradient
    potentials: bool = False  # they are computed afterwards, without autograd, and so are spikes that were changed
    copies: bool = False

    def __contains__(self, neuron: object) -> bool:
        """Whether it is the model's."""
        return neuron in self.neurons

    def note(self, neuron: Neuron, ran: Ran, more: bool) -> None:
        """A neuron has run."""
        self.calls.append((neuron, ran))
        self.called.append([])

    def left(self, path: str, module: nn.Module, outputs: Any) -> None:
        """A module has run."""
        own = module.parameters() if isinstance(module, PerStep) else module._parameters.values()
        self.called[-1] += [parameter for parameter in own if parameter is not None]
        for i, output in enumerate(outputs if isinstance(outputs, tuple | list) else (outputs,)):
            if isinstance(output, Tensor):
                place = Place(len(self.calls), path, i)
                if output.grad_fn is not None if self.wanted is None else place in self.wanted:
                    self.given.append((place, output))

    def paths(self) -> list[str]:
        """Of the neurons that ran."""
        times: Counter[Neuron] = Counter()
        found = []
        for neuron, _ in self.calls:
            times[neuron] += 1
            found.append(self.neurons[neuron] + (f"#{times[neuron]}" if times[neuron] > 1 else ""))
        return found


@contextmanager
def unfrozen(model: nn.Module) -> Iterator[None]:
    """Within it all parameters want a gradient, so that one comes down through frozen layers too."""
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def running(model: nn.Module, wanted: set[Place] | None = None) -> Iterator[Run]:
    """Take down what runs; of other modules than neurons only what is wanted, where that is known."""
    neurons = {neuron: path for path, neuron in outermost(model).items()}
    # what is within a neuron is its own, and within PerStep the steps lie one after the other
    closed = [*neurons, *(module for module in model.modules() if isinstance(module, PerStep))]
    inside = {child for module in closed for child in module.modules() if child is not module}
    run = Run(neurons, {p: name for name, p in model.named_parameters() if p.dim() > 1})
    run.wanted = wanted
    with ExitStack() as hooks, looking(tape=run):
        paths = None if wanted is None else {place.path for place in wanted}
        for path, module in model.named_modules():
            if module not in inside and (paths is None or path in paths):

                def left(module: nn.Module, _: Any, outputs: Any, path: str = path) -> None:
                    run.left(path, module, outputs)

                hooks.callback(module.register_forward_hook(left).remove)
        yield run


def passing(
    model: nn.Module,
    x: Any,
    y: Any,
    loss: Loss = cross_entropy,
    halves: bool = False,
    seed: int = 0,
    training: bool = True,
) -> Passed:
    """Run a model on a batch, and its gradient down again.

    Args:
        model: any module with neurons.
        x: what it takes.
        y: what the loss takes besides its outputs.
        loss: (outputs, y) -> one a sample, `[B]`.
        halves: whether the gradient of the first half of the batch comes down by itself too.
        seed: of what is random in it.
        training: the mode of its modules.

    Raises:
        ValueError: no neuron, no parameter, or another kind of loss.
    """
    if not outermost(model):
        raise ValueError("probe: the model has no neurons")
    x, y = (each.clone() if isinstance(each, Tensor) and each.is_inference() else each for each in (x, y))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with untouched(model, seed, training), unfrozen(model), kernels.engine(fused=False), torch.enable_grad():
        with running(model) as run:
            outputs = model(x)
        if not run.calls:
            raise ValueError("probe: no neuron ran; they are called on sequences [T, B, ...], as neuron(currents)")
        losses = loss(outputs, y)
        others = isinstance(x, Tensor) and losses.dim() == 1 and len(losses) not in _batches(x, run)
        if losses.dim() != 1 or others or len(losses) < 1 + halves or not losses.requires_grad:
            what = f"{list(losses.shape)}{'' if losses.requires_grad else ' without a gradient'}"
            what += f" for inputs {list(x.shape)}" if others else ""
            raise ValueError(f"probe: the loss must be one a sample, [B] with B >= {1 + halves}, got {what}")
        _check_checkpoints(run, losses)
        height = _height(run, losses)
        narrow = _waists(run, height)
        parameters, features = list(trained.values()), [each for _, each in narrow]
        currents, spikes = [ran.drive for _, ran in run.calls], [ran.outputs for _, ran in run.calls]
        half = losses[: len(losses) // 2].sum() / len(losses)
        parts = _gradients(half, parameters, keep=True) if halves else []
        of_currents, of_spikes, of_weights, of_waists = _gradients(
            losses.mean(), currents, spikes, parameters, features, keep=False
        )
        beside = [bool(height) and ran.outputs.grad_fn not in height for _, ran in run.calls]
        seen = [_seen(neuron, ran) for neuron, ran in run.calls]
        made = _weights(run)
        apart = _apart(run, losses)
    layers = [
        Layer(
            path,
            neuron,
            *seen[i],
            of_currents[i],
            of_spikes[i],
            tuple(name for name in dict.fromkeys(weights) if name in trained),
            beside[i],
            currents[i].requires_grad and not spikes[i].requires_grad,
            apart[i],
            not (currents[i].requires_grad or apart[i]),
        )
        for i, (path, (neuron, _), weights) in enumerate(zip(run.paths(), run.calls, made, strict=True))
    ]
    weights = {name: each for name, *each in zip(trained, of_weights, *parts, strict=True)}
    found = [Waist(place, each.detach(), of_waists[i]) for i, (place, each) in enumerate(narrow)]
    return Passed(layers, found, outputs, weights, losses.detach().mean())


@torch.no_grad()
def _seen(neuron: Neuron, ran: Ran) -> tuple[Tensor, Tensor | None, Tensor]:
    """Currents, potentials and spikes of a neuron that ran; spikes anew where somebody has added to them in place."""
    currents, changed = ran.drive.detach(), ran.outputs._version > 0
    alike = neuron if isinstance(neuron, LIF) and neuron.uniform else None
    again = ran
    if changed or alike is None:
        with suppress(StatelessError):
            again = neuron._call(currents, None, watch=alike is None)
    potentials = again.potentials if alike is None else alike.potentials(some(currents, 1 << 12))
    return currents, potentials, (again if changed else ran).outputs.detach()


def _weights(run: Run) -> list[list[str]]:
    """Of each neuron, the parameters that its currents are made of, and its own."""
    own = [[run.parameters[p] for p in neuron.parameters() if p in run.parameters] for neuron, _ in run.calls]
    currents, outputs = [ran.drive for _, ran in run.calls], [ran.outputs for _, ran in run.calls]
    return [before + within for before, within in zip(heard(currents, outputs, run.parameters), own, strict=True)]


def _apart(run: Run, losses: Tensor) -> list[bool]:
    """Whether the loss does not depend on each neuron's currents, or they not on what was called just before it."""
    heard = set(ordered(losses.grad_fn))
    tops = [top for _, ran in run.calls if (top := ran.drive.grad_fn) is not None and top not in heard]
    nodes = heard.union(*map(ordered, tops))
    reached = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    return [
        ran.drive.grad_fn not in heard
        if ran.drive.requires_grad
        else any(parameter.requires_grad and id(parameter) not in reached for parameter in called)
        for (_, ran), called in zip(run.calls, run.called, strict=False)
    ]


def _check_checkpoints(run: Run, losses: Tensor) -> None:
    """Refuse what hides neurons from autograd; it would look as if no gradient came to them."""
    if all(ran.drive.requires_grad for _, ran in run.calls):
        return
    if any(type(node).__name__ == "CheckpointFunctionBackward" for node in ordered(losses.grad_fn)):
        raise ValueError("probe: it cannot see into checkpoint(..., use_reentrant=True): give use_reentrant=False")


def _height(run: Run, losses: Tensor) -> dict[Any, int]:
    """The nodes that everything goes through from a first neuron's currents on, the lowest with 0.

    A net with side branches has several neurons with none below; that from which most neurons lie on the way is taken.
    """
    best: dict[Any, int] = {}
    most = -1
    for i, (_, first) in enumerate(run.calls[:FIRST]):
        if first.drive.grad_fn is None:
            continue
        below = set(ordered(first.drive.grad_fn)) if i else set()
        if any(ran.outputs.grad_fn in below for _, ran in run.calls[:i]):
            continue
        found = {node: height for height, node in enumerate(waists(losses.grad_fn, first.drive.grad_fn))}
        count = sum(ran.outputs.grad_fn in found for _, ran in run.calls)
        if count > most:
            best, most = found, count
    return best


def _waists(run: Run, height: Mapping[Any, int]) -> list[tuple[Place, Tensor]]:
    """Of what modules gave, the first after each neuron that everything goes through, by the outermost giver of it."""
    found: list[tuple[Place, Tensor]] = []
    top = -1
    for place, features in run.given:
        above = height.get(features.grad_fn, -1) if place.after else -1
        before = found[-1][0].after if found else 0
        if found and found[-1][1] is features:
            found[-1] = (place if place.after == before else found[-1][0], features)
        elif above > top and place.after > before and features.shape[:2] == _of(run, place).shape[:2]:
            found.append((place, features))
            top = above
    return found


def _of(run: Run, place: Place) -> Tensor:
    """What the last neuron before a place gave."""
    return run.calls[place.after - 1][1].outputs


def _batches(x: Tensor, run: Run) -> tuple[int, ...]:
    """How many samples inputs may have: where neurons have their second axis for the batch, the first is time."""
    return x.shape[1:2] if x.shape[1:2] == run.calls[0][1].drive.shape[1:2] else x.shape[:2]


def again(model: nn.Module, x: Any, passed: Passed, seed: int, training: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Spikes of the layers, and features of the waists, of a pass for another input that is like that before."""
    places = {waist.place for waist in passed.waists}
    graph = lengths() is not None  # without one, norms in training would refuse padding
    with untouched(model, seed, training), torch.set_grad_enabled(graph), running(model, places) as run:
        model(x)
    given = dict(run.given)
    spikes = [ran.outputs.detach() for _, ran in run.calls]
    features = [given[waist.place].detach() for waist in passed.waists if waist.place in given]
    before, now = (
        [*(each.spikes for each in passed.layers), *(each.features for each in passed.waists)],
        [*spikes, *features],
    )
    if [each.shape for each in before] != [each.shape for each in now]:
        raise ValueError(
            "probe: with a little noise on its inputs the model goes another way, or gives other shapes, so that the "
            'two views cannot be compared: preset="quick" takes one'
        )
    return spikes, features


def _gradients(loss: Tensor, *groups: Sequence[Tensor], keep: bool) -> list[list[Tensor]]:
    """Of a loss with respect to the tensors of each group; zeros where it does not depend on one."""
    wanted = [t for group in groups for t in group if t.requires_grad]
    found = iter(torch.autograd.grad(loss, wanted, retain_graph=keep, allow_unused=True))
    of = [[next(found) if t.requires_grad else None for t in group] for group in groups]
    return [
        [torch.zeros_like(t) if g is None else g for t, g in zip(*pair, strict=True)]
        for pair in zip(groups, of, strict=True)
    ]
