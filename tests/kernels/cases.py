"""What the tests of the kernels share: inputs, neurons of every kind, and the comparison of two runs."""

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.kernels.numba import walk
from rheobase.surrogate import ATan, Gaussian, Rectangle, Sigmoid, SuperSpike, Surrogate, Triangle

SURROGATES = (SuperSpike(2.0), ATan(2.0, height=1.5), Sigmoid(4.0), Triangle(0.8), Rectangle(1.2), Gaussian(0.5))
KINDS = {"LIF": rb.LIF, "CubaLIF": rb.CubaLIF, "AdaptiveLIF": rb.AdaptiveLIF}
VALUES = {
    "decay": 0.5,
    "threshold": 0.75,
    "input_scale": 1.0,
    "current_decay": 0.5,
    "adaptation_decay": 0.5,
    "adaptation": 0.25,
}
LEAK = {"LIF": (), "CubaLIF": ("current_decay",), "AdaptiveLIF": ("adaptation_decay", "adaptation")}


def names(kind: str) -> tuple[str, ...]:
    """The numbers of a kind of neuron that can be learned."""
    return ("decay", "threshold", "input_scale", *LEAK[kind])


class Case(NamedTuple):
    """A neuron: its kind, reset and surrogate; what each number is one of; which numbers are learned."""

    kind: str
    reset: str
    detach: bool
    each: str
    learn: str
    surrogate: Surrogate = SURROGATES[1]

    def __str__(self) -> str:
        how = "detached" if self.detach else "through"
        return f"{self.kind}-{self.reset}-{how}-{self.each}-{self.learn}-{self.surrogate.name}"

    def learned(self) -> tuple[str, ...]:
        every = names(self.kind)
        return {"fixed": (), "odd": every[::2], "even": every[1::2], "all": every}[self.learn]

    def fits(self, x: Tensor) -> Tensor:
        """The currents, with a last axis of one where neurons would else be channels: it would be another kernel."""
        return x.unsqueeze(-1) if x.dim() == 3 and self.each in ("neuron", "mixed") else x

    def neuron(self, shape: tuple[int, ...]) -> rb.LIF:
        """Such a neuron for currents of this shape; its numbers, where not learned, are dyadic."""
        generator = torch.Generator().manual_seed(len(shape))
        ways = {"mixed": ("channel", "neuron", "one")}.get(self.each, (self.each,))
        values = {}
        for name, way in zip(names(self.kind), itertools.cycle(ways), strict=False):
            sizes = {"one": (), "channel": shape[2:3], "neuron": shape[2:]}[way]
            values[name] = VALUES[name] * (0.5 + torch.randint(1, 5, sizes, generator=generator) / 8)
        reset = {"reset": self.reset, "detach_reset": self.detach}
        return KINDS[self.kind](surrogate=self.surrogate, learn=self.learned(), **reset, **values)


def _covering() -> list[Case]:
    """Few cases with every neuron, reset and way back through it, in which any two choices meet; surrogates take turns.

    (There is no delayed reset of an AdaptiveLIF, and no way back through a reset that is none.)
    """
    rng = random.Random(37)
    choices = (KINDS, ("soft", "hard", "none", "delayed"), (True, False))
    choices += (("one", "channel", "neuron", "mixed"), ("fixed", "odd", "even", "all"))
    impossible = {("AdaptiveLIF", "delayed", True), ("AdaptiveLIF", "delayed", False)}
    every = [
        case for case in itertools.product(*choices) if case[:3] not in impossible and case[1:3] != ("none", False)
    ]
    shown = {case: {case[:3], *itertools.combinations(enumerate(case), 2)} for case in every}
    missing, found = set().union(*shown.values()), []
    while missing:
        rng.shuffle(every)
        best = max(every, key=lambda case: len(shown[case] & missing))
        missing -= shown[best]
        found.append(Case(*best, SURROGATES[len(found) % len(SURROGATES)]))
    return found


DEFAULT = Case("LIF", "soft", True, "one", "fixed")
CASES = [DEFAULT, *_covering()]
SMOOTH = [case for case in CASES if case.surrogate.name not in ("Triangle", "Rectangle")]
CHANNELS = next(case for case in SMOOTH if case.kind == "CubaLIF" and case[3:5] == ("channel", "all"))
NEURONS = next(c for c in SMOOTH if c.kind == "AdaptiveLIF" and c.each in ("mixed", "neuron") and c.learn != "fixed")


def grid(*shape: int, seed: int = 0, low: int = -64) -> Tensor:
    """Multiples of 1/32 from low / 32 to 2: with numbers that are dyadic too, hardly anything rounds."""
    return torch.randint(low, 65, shape, generator=torch.Generator().manual_seed(seed)) / 32


def channels_last(x: Tensor) -> Tensor:
    flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, x.shape[:2])


def states(neuron: rb.LIF, shape: tuple[int, ...]) -> Tensor | tuple[Tensor, Tensor]:
    """A state to begin with."""
    first, second = grid(*shape[1:], seed=1), grid(*shape[1:], seed=2, low=0)
    return first if type(neuron) in (rb.LIF, rb.IF) else (first, second)


def weighted(x: Tensor) -> Tensor:
    """An arbitrary, fixed loss; its weights are not even about zero, where long sums of float32 would not be exact."""
    return (x.reshape(-1) * torch.linspace(-0.5, 1, x.numel()).sin().to(x)).sum()


def leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


Found = dict[str, Tensor]


def gradients(module: nn.Module) -> Found:
    return {f"{name}.grad": p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def ran(neuron: rb.Neuron, engine: str, currents: Tensor, state: Tensor | tuple[Tensor, ...] | None = None) -> Found:
    """Values and gradients of spikes and final states under an engine."""
    neuron.zero_grad()
    x = leaf(currents)
    given = [leaf(s) for s in (state if isinstance(state, tuple) else (state,)) if s is not None]
    with rb.engine(engine):
        spikes, final = neuron.run(x, None if state is None else (tuple(given) if len(given) > 1 else given[0]))
        final = final if isinstance(final, tuple) else (final,)
        sum(map(weighted, (spikes, *final))).backward()
    found = {"spikes": spikes.detach(), "currents.grad": x.grad}
    found |= {f"final.{i}": s.detach() for i, s in enumerate(final)}
    found |= {f"state.{i}.grad": s.grad for i, s in enumerate(given)}
    return found | gradients(neuron)


def from_fixed_statistics(norm: rb.CurrentNorm) -> None:
    norm.running_mean.copy_(torch.linspace(-0.2, 0.2, norm.channels))
    norm.running_var.fill_(1.5)


def fired(fire: rb.Fire, x: Tensor, engine: str = "numba", fused: bool = True, **others: Tensor) -> Found:
    """Values, gradients and buffers of a Fire, from fixed running statistics."""
    from_fixed_statistics(fire.norm)
    fire.zero_grad()
    given = {name: leaf(value) for name, value in {"currents": x, **others}.items()}
    with rb.engine(engine, fused=fused):
        outputs = fire(*[given.get(name) for name in ("currents", "residual", "skip")])
    found = dict(zip(("spikes", "drive"), outputs if fire.drive else (outputs,), strict=False))
    sum(map(weighted, found.values())).backward()
    found = {name: value.detach() for name, value in found.items()}
    found |= {f"{name}.grad": value.grad for name, value in given.items()}
    return found | gradients(fire) | {name: buffer.clone() for name, buffer in fire.norm.named_buffers()}


def assert_same(got: Found, want: Found, tolerance: float, exact: tuple[str, ...] = ("spikes",)) -> None:
    """The same tensors to a tolerance, relative to the largest value of each; those named in `exact` bit for bit."""
    assert got.keys() == want.keys()
    for name in want:
        scale = max(1.0, float(want[name].abs().max()))
        strict = 0.0 if name in exact else tolerance
        torch.testing.assert_close(
            got[name], want[name], rtol=0, atol=strict * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_identical(got: Found, want: Found) -> None:
    """The same tensors bit for bit."""
    assert_same(got, want, 0.0)


def assert_fires(spikes: Tensor, low: float = 0.02, high: float = 0.9) -> None:
    """A silent net, or one that never rests, would show nothing."""
    rate = float(spikes.detach().float().mean())
    assert low < rate < high, f"a firing rate of {rate:.3f}"


@contextmanager
def walked(**constants: int) -> Iterator[None]:
    """Kernels cut and write as constants of `walk.py` tell them."""
    before = {name: getattr(walk, name) for name in constants}
    for name, value in constants.items():
        setattr(walk, name, value)
    walk._walk.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(walk, name, value)
        walk._walk.cache_clear()


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
