"""On a device, every engine is the definition on the CPU: outputs, states and every gradient.

Currents are such that moving all of them a little changes nothing: else a rounding, which devices may do differently,
could make a neuron fire in one case only, and nothing after that could be compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import rheobase as rb
from benchmarks.gpu.checks import Check, Found, farthest, in_words, plain
from rheobase.neurons.base import State, leaves
from rheobase.surrogate import ATan, Gaussian, Rectangle, Sigmoid, SuperSpike, Triangle

SHAPE = (5, 2, 6, 5, 7)  # T, B, C, H, W
BOUNDS = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2}
MOVE = 2e-5  # a float32 rounds potentials to much less

Layout = Callable[[Tensor], Tensor]


class Draw:
    """Leaves by name, the same values on every device; `move` is added to those that drive neurons."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int, move: float, layout: Layout) -> None:
        self.leaves: dict[str, Tensor] = {}
        self._to = {"device": device, "dtype": dtype}
        self._generator = torch.Generator().manual_seed(seed)
        self._move, self._layout = move, layout

    def __call__(self, name: str, shape: Sequence[int] = SHAPE, dtype: torch.dtype | None = None) -> Tensor:
        """A new leaf, normal numbers that bfloat16 holds."""
        values = 1.5 * torch.randn(*shape, generator=self._generator)
        values = values.bfloat16().double() + self._move * (name in ("currents", "residual"))
        values = values.to(self._to["device"], dtype or self._to["dtype"])  # type: ignore[call-overload]
        leaf = self._layout(values) if len(shape) == len(SHAPE) else values
        self.leaves[name] = leaf.detach().requires_grad_()
        return self.leaves[name]

    def weights(self, like: Tensor) -> Tensor:
        """Of a loss; all positive, as sums in which much cancels would tell of their order alone."""
        return torch.rand(like.shape, generator=self._generator).bfloat16().to(like)


Run = Callable[[Any, Draw], dict[str, Tensor]]


class Subject(NamedTuple):
    """A module, and how it is run on what is drawn: {name: output}; `otherwise` is how by the definition, if not so."""

    name: str
    make: Callable[[], nn.Module]
    run: Run
    otherwise: Run | None = None

    @property
    def defined(self) -> Subject:
        """By the definition."""
        return self._replace(run=self.otherwise or self.run)


class Leaky(rb.Neuron):
    """A neuron of one's own."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Soft reset, through which the gradient goes."""
        u = 0.75 * state + current
        s = rb.spike(u - 1.1, SuperSpike(2.0))
        return s, u - s


def _state(rest: State, draw: Draw) -> State:
    """Some state, like the one at rest."""
    if isinstance(rest, tuple):
        return tuple(_state(part, draw) for part in rest)
    return draw(f"state {len(draw.leaves)}", rest.shape, rest.dtype)


def _sequence(neuron: Any, draw: Draw, begun: bool = False) -> dict[str, Tensor]:
    """A neuron over the currents, from rest or from some state."""
    x = draw("currents", SHAPE[:2] + SHAPE[4:] if isinstance(neuron, rb.Recurrent) else SHAPE)
    rest = neuron.initial_state(x[0].detach().to(torch.promote_types(x.dtype, torch.float32)))
    outputs, final = neuron.run(x, _state(rest, draw) if begun else None)
    return {"outputs": outputs} | {f"final state {i}": part for i, part in enumerate(leaves(final))}


def _joined(fire: nn.Module, draw: Draw, fused: bool = True) -> dict[str, Tensor]:
    """Norm, residual, neuron and skip; what drives the neuron is returned too."""
    with rb.engine(fused=fused):
        outputs, drive = fire(draw("currents"), draw("residual"), draw("skip"))
    return {"outputs": outputs, "drive": drive}


def _in_one(fire: Any, draw: Draw) -> dict[str, Tensor]:
    """The same as an engine does it in one: in 16 bits, what drives the neuron is rounded once and not twice."""
    x, residual, skip = draw("currents"), draw("residual"), draw("skip")
    wide = torch.promote_types(x.dtype, torch.float32)
    drive = (fire.norm(x.to(wide)) + residual.to(wide)).to(x.dtype)
    return {"outputs": fire.neuron(drive) + skip, "drive": drive}


def _called(module: nn.Module, draw: Draw, backend: str = "") -> dict[str, Tensor]:
    """A module as a function of the currents alone, compiled where a backend is named."""
    return {"outputs": (torch.compile(module, backend=backend) if backend else module)(draw("currents"))}


def _network(net: nn.Module, draw: Draw) -> dict[str, Tensor]:
    """A network on images."""
    return {"outputs": net(draw("images", (3, 3, 16, 16)))}


def _neurons() -> Iterator[tuple[str, Callable[[], rb.Neuron]]]:
    """Every kind, reset and way back through it; surrogates, shapes of numbers and what is learned take turns."""
    surrogates = itertools.cycle(
        (ATan(2.0), SuperSpike(2.0), Sigmoid(4.0), Triangle(0.8), Rectangle(1.2), Gaussian(0.5, height=1.5))
    )
    numbers: dict[type[rb.LIF], dict[str, float]] = {
        rb.LIF: {"decay": 0.6, "threshold": 1.1, "input_scale": 0.9},
        rb.CubaLIF: {"current_decay": 0.45, "decay": 0.6, "threshold": 1.1},
        rb.AdaptiveLIF: {"adaptation_decay": 0.8, "adaptation": 0.3, "decay": 0.6, "threshold": 1.1},
    }
    turn = itertools.count()
    for kind, values in numbers.items():
        for reset, detach in itertools.product(("soft", "hard", "none", "delayed"), (True, False)):
            if reset not in kind.resets or (reset == "none" and not detach):
                continue
            each = ("one", "channel", "neuron")[next(turn) % 3]
            learn = (tuple(values), ())[(next(turn) // 2) % 2]
            name = f"{kind.__name__}, {reset}{'' if detach else ' with gradient'}, a number for {each}"
            options = {"reset": reset, "detach_reset": detach, "surrogate": next(surrogates), "learn": learn}
            yield name + (", learned" if learn else ""), partial(_made, kind, each, values, **options)


OTHERS: dict[str, Callable[[], rb.Neuron]] = {
    "IF": partial(rb.IF, 1.1),
    "Integrator, learned": partial(rb.Integrator, 0.7, learn=("decay", "input_scale")),
    "Recurrent(LIF, Linear)": lambda: rb.Recurrent(rb.LIF(0.6, learn="decay"), nn.Linear(SHAPE[4], SHAPE[4])),
    "one's own step": Leaky,
}


def _made(kind: type[rb.LIF], each: str, values: dict[str, float], **options: Any) -> rb.LIF:
    shape = {"one": (), "channel": SHAPE[2:3], "neuron": SHAPE[2:]}[each]
    spread = {name: value * (1 + 0.1 * torch.rand(shape)) for name, value in values.items()}
    return kind(**spread, **options)  # type: ignore[arg-type]


def _norm_and(neuron: Callable[[], nn.Module], drive: bool = True, training: bool = True) -> rb.Fire:
    norm = rb.CurrentNorm(SHAPE[2])
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    return rb.Fire(norm, neuron(), drive).train(training)


def subjects(quick: bool) -> Iterator[Subject]:
    """All that is compared."""
    neurons = list(_neurons())
    for name, make in [*(neurons[:1] if quick else neurons), *OTHERS.items()]:
        yield Subject(name, make, _sequence)
        yield Subject(f"{name}, from a state", make, partial(_sequence, begun=True))
    for name, make in neurons[:1] if quick else neurons[::4]:
        fire = partial(_norm_and, make)
        yield Subject(f"norm, residual and {name}", fire, _joined)
        if not quick:
            yield Subject(f"norm, residual and {name}, apart", fire, partial(_joined, fused=False))
            yield Subject(f"norm in evaluation, residual and {name}", partial(fire, training=False), _joined)


LAYOUTS: dict[str, Layout] = {
    "channels last": lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2),
    "batch and time transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second of more": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "the same at every step": lambda x: x[:1].expand(x.shape),
}


def found(
    subject: Subject,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    move: float = 0.0,
    layout: Layout = torch.Tensor.contiguous,
) -> Found:
    """Outputs and gradients of a subject, the same numbers on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = subject.make()
    if dtype is torch.float64:
        module.double()
    module.to(device)
    draw = Draw(device, dtype, seed, move, layout)
    outputs = subject.run(module, draw)
    torch.stack([(value * draw.weights(value)).sum().double() for value in outputs.values()]).sum().backward()
    gradients = {f"the gradient of {name}": leaf.grad for name, leaf in draw.leaves.items()}
    gradients |= {f"the gradient of {name}": p.grad for name, p in module.named_parameters()}
    running = {name: b for name, b in module.named_buffers() if "running" in name}
    return plain({**outputs, **gradients, **running})


def seed_for(subject: Subject, layout: Layout) -> int:
    """The first seed with which moving the currents up or down a little changes nothing much."""
    cpu, defined = torch.device("cpu"), subject.defined
    for seed in range(50):
        with rb.engine("reference"):
            up, middle, down = (found(defined, cpu, torch.float64, seed, m, layout) for m in (MOVE, 0.0, -MOVE))
        if max(farthest(up, middle)[0], farthest(down, middle)[0]) < 3e-3:
            return seed
    raise RuntimeError(f"{subject.name}: every seed has a potential that is too near its threshold")


def compare(
    subject: Subject, device: torch.device, dtype: torch.dtype, engine: str, layout: Layout = torch.Tensor.contiguous
) -> Check:
    """A subject by an engine there, and by the definition here."""
    kind = str(dtype).removeprefix("torch.")
    name = f"{subject.name}, {kind}, engine {engine}"
    seed = seed_for(subject, layout)
    with rb.engine("reference"):
        want = found(subject.defined, torch.device("cpu"), dtype, seed, layout=layout)
    if "Integrator" not in subject.name and not 0.02 < float(want["outputs"].mean()) < 2:
        return Check(name, False, f"a firing rate of {float(want['outputs'].mean()):.3f} shows nothing")
    try:
        with rb.engine(engine):
            got = found(subject, device, dtype, seed, layout=layout)
        far, what = farthest(got, want)
    except RuntimeError as error:
        if str(error).startswith(f"the {engine} engine was asked for, but"):
            return Check(name, None, str(error))
        return Check(name, False, in_words(error))
    except Exception as error:  # whatever a device raises is the finding
        return Check(name, False, in_words(error))
    return Check(name, far <= BOUNDS[dtype], f"{what} differs by {far:.1e} of its size", far, kind)


def parity(device: torch.device, engines: Sequence[str], quick: bool) -> Iterator[Check]:
    """Every subject in every dtype; some in every layout; some compiled; whole networks."""
    every = list(subjects(quick))
    joined = [subject for subject in every if subject.run is _joined]
    for engine in engines:
        for dtype, subject in itertools.product(BOUNDS, every):
            one = subject.run is _joined and engine != "reference"
            yield compare(subject._replace(otherwise=_in_one) if one else subject, device, dtype, engine)
        for subject, (name, layout) in itertools.product([every[0], joined[0]] if quick else joined, LAYOUTS.items()):
            check = compare(subject, device, torch.float32, engine, layout)
            yield check._replace(name=f"{check.name}, {name}")
    yield from _by_compiler(device, every, quick)
    for model in ("sew_resnet18",) if quick else ("sew_resnet18", "ms_resnet18", "spiking_resnet18"):
        make = partial(rb.models.create, model, classes=5, steps=4, width=4)
        yield compare(Subject(model, make, _network), device, torch.float64, "reference")


def why_not_compiled(device: torch.device, backend: str) -> str:
    """Why nothing can be compiled for a device here, or nothing."""
    try:
        torch.compile(lambda x: 2 * x + 1, backend=backend)(torch.ones(3, device=device))
    except Exception as error:  # no C++ compiler, no Triton, a Python that is too new
        return in_words(error)
    return ""


def _by_compiler(device: torch.device, every: Sequence[Subject], quick: bool) -> Iterator[Check]:
    """The definition under `torch.compile`, of the first neuron and of the first norm with one."""
    backend = "aot_eager" if quick else "inductor"
    why_not = why_not_compiled(device, backend)
    neuron = every[0].make
    for name, make in (every[0].name, neuron), (f"norm and {every[0].name}", partial(_norm_and, neuron, drive=False)):
        name = f"{name}, compiled by {backend}"
        subject = Subject(name, make, partial(_called, backend=backend), _called)
        yield compare(subject, device, torch.float32, "reference") if not why_not else Check(name, None, why_not)
