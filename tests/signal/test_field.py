"""A simulated net of endless width tells what a wide one does, up and down."""

import copy
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.field import VIEWS, Stack, critical, down, up
from rheobase.signal.gain import Profile

WIDTH, SAMPLES = 256, 64


class Net(nn.Module):
    """Blocks of random layers behind neurons that hear the input itself."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack, ms = stack, stack.junction == "ms"
        self.stem = self._fire(drive=ms)
        self.branches, self.fires = nn.ModuleList(), nn.ModuleList()
        for _ in range(stack.blocks):
            layers: list[nn.Module] = []
            for _ in range(stack.layers):
                layer = nn.Linear(WIDTH, WIDTH, bias=False)
                nn.init.normal_(layer.weight, std=WIDTH**-0.5)
                layers += [rb.PerStep(layer), self._fire()]
            self.branches.append(nn.Sequential(*layers[:-1]))
            self.fires.append(self._fire(stack.gain, drive=ms))

    def _fire(self, gain: float = 1.0, drive: bool = False) -> rb.Fire:
        return rb.Fire(rb.CurrentNorm(WIDTH, gain=gain), copy.deepcopy(self.stack.neuron), drive=drive)

    def forward(self, x: Tensor) -> list[Tensor]:
        """What the stem and each block give."""
        s, v = self.stem(x.expand(self.stack.steps, -1, -1)), None
        if self.stack.junction == "ms":
            s, v = s
        outputs = [s]
        for branch, fire in zip(self.branches, self.fires, strict=True):
            currents = branch(s)
            if v is not None:
                s, v = fire(currents, v)
            elif self.stack.junction == "classic":
                s = fire(currents, s)
            else:
                s = fire(currents, skip=s) if self.stack.junction == "sew" else fire(currents)
            outputs.append(s)
        return outputs


def measured(stack: Stack) -> tuple[list[float], list[float]]:
    """Of a real net: cosines between rates of two views, and the gradient's size, from the stem on."""
    torch.manual_seed(0)
    net, base = Net(stack), torch.randn(SAMPLES // 2, WIDTH)
    x = torch.cat([base, VIEWS * base + (1 - VIEWS**2) ** 0.5 * torch.randn_like(base)])
    with rb.engine(fused=False), rb.record(net) as tape:
        outputs = net(x)
    loss = (outputs[-1].mean(0) * torch.randn(SAMPLES, WIDTH)).sum()
    paths = ["stem.neuron", *(f"fires.{block}.neuron" for block in range(stack.blocks))]
    gradients = torch.autograd.grad(loss, [tape[path].currents for path in paths])
    alike = []
    for output in outputs:
        rates = output.detach().mean(0)
        rates = rates - rates.mean(0)
        a, b = (rates / rates.norm(dim=1, keepdim=True)).chunk(2)
        alike.append(float((a * b).sum(1).mean()))
    return alike, [Profile.of(g).size for g in gradients]


PLAIN = [
    Stack(neuron, steps, blocks=12)
    for steps, neuron in ((1, rb.LIF()), (4, rb.LIF(reset="hard")), (10, rb.LIF()), (4, rb.IF()))
]
RESIDUAL = [
    Stack(rb.LIF(), steps, blocks=12, layers=2, junction=junction, gain=gain)
    for junction, gain in (("classic", 0.0), ("classic", 1.0), ("sew", 1.0), ("ms", 1.0), ("ms", 0.2))
    for steps in (4, 10)
]


@pytest.mark.parametrize("stack", PLAIN + RESIDUAL, ids=lambda s: f"{s.neuron.reset}-{s.steps}-{s.junction}-{s.gain}")
def test_it_is_what_a_wide_net_does(stack: Stack) -> None:
    begin = time.perf_counter()
    climbed = up(stack)
    sizes = [each.size for each in down(stack, climbed)]
    assert time.perf_counter() - begin < 10, "it is to be quick (a second on an idle machine)"
    alike, gradients = measured(stack)
    assert alike[0] > 0.9
    torch.testing.assert_close(torch.tensor(climbed.views), torch.tensor(alike), rtol=0, atol=0.12)
    gains = [(a / b) / (c / d) for (a, b), (c, d) in zip(pairwise(sizes), pairwise(gradients), strict=True)]
    assert torch.tensor(gains).log().abs().max() < 0.2
    assert torch.tensor(gains).log().mean().abs() < 0.05


LEVELLED = [
    Stack(rb.LIF(surrogate=rb.surrogate.SuperSpike(10.0)), 1, blocks=12),
    Stack(rb.LIF(), 10, blocks=12),
    Stack(rb.IF(), 4, blocks=12),
    Stack(rb.LIF(surrogate=rb.surrogate.SuperSpike(4.0)), 4, blocks=12, layers=2, junction="classic"),
]


@pytest.mark.parametrize("stack", LEVELLED, ids=lambda s: f"{s.neuron.decay}-{s.steps}-{s.junction}")
def test_the_critical_width_levels_a_real_net(stack: Stack) -> None:
    before = measured(stack)[1]
    assert not 0.5 < before[0] / before[-1] < 2
    after = measured(replace(stack, neuron=critical(stack)))[1]
    assert 0.5 < after[0] / after[-1] < 2


def test_no_width_may_do_it() -> None:
    """Where classic blocks pass spikes on, potentials are at the threshold, where a surrogate's height alone counts."""
    with pytest.raises(ValueError, match=r"no surrogate like ATan.*levels the gradient"):
        critical(Stack(rb.LIF(), 10, blocks=12, layers=2, junction="classic", gain=0.0))


def test_identity_keeps_what_random_weights_lose() -> None:
    for junction, layers, gain, identity in (("none", 1, 1.0, 0.3), ("classic", 2, 0.0, None), ("ms", 2, 0.0, None)):
        kept = up(Stack(rb.LIF(), 4, blocks=20, layers=layers, junction=junction, gain=gain, identity=identity))
        assert kept.views[-1] > 0.85
    lost = up(Stack(rb.LIF(), 4, blocks=20, layers=2, junction="classic"))
    assert lost.views[-1] < 0.3
