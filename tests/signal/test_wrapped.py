"""Nets that are compiled, wrapped, hooked, checkpointed: a probe sees them as they are, and leaves them so."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rheobase as rb


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        rb.PerStep(nn.Linear(4, 16)), rb.CurrentNorm(16), rb.LIF(), rb.PerStep(nn.Linear(16, 16)), rb.CurrentNorm(16),
        rb.LIF(), rb.PerStep(nn.Linear(16, 3)),
    )  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(7, 16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


def told(report: Any) -> Any:
    return [(layer.rate, layer.gradient_norm, layer.similarity, layer.noisy, layer.gain) for layer in report.layers]


class Within(nn.Module):
    """Runs another, whole or in parts."""

    def __init__(self, module: nn.Sequential, how: str) -> None:
        super().__init__()
        self.module, self.how = module, how

    def forward(self, x: Tensor) -> Any:
        if self.how == "checkpoint":
            x = checkpoint(self.module[:3], x, use_reentrant=False)
            return self.module[6](checkpoint(self.module[3:6], x, use_reentrant=False))
        if self.how == "reentrant":
            return checkpoint(self.module, x.requires_grad_(), use_reentrant=True)
        return self.module(x)


@pytest.mark.parametrize("how", ["plain", "checkpoint", "data parallel", "hooks", "hook that counts"])
def test_it_reads_the_same(how: str) -> None:
    x, y = batch()
    model, seen = net(), []
    wrapped: nn.Module = Within(model, how)
    if how == "data parallel":
        wrapped = nn.DataParallel(model)
    if how.startswith("hook"):
        for module in model.modules():
            module.register_forward_hook(lambda *_: seen.append(1))
            if how == "hooks" and module is model[3]:
                module.register_full_backward_hook(lambda *_: None)
    hooks = [len(m._forward_hooks) for m in model.modules()]
    assert told(rb.probe(wrapped, x, y)) == told(rb.probe(net(), x, y))
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    rb.tune(wrapped, x, y)
    other = net()
    rb.tune(other, x, y)
    assert [m.surrogate for m in model.modules() if isinstance(m, rb.LIF)] == [
        m.surrogate for m in other.modules() if isinstance(m, rb.LIF)
    ]


def test_a_checkpoint_that_hides_its_neurons_is_refused() -> None:
    x, y = batch()
    for call in (rb.probe, rb.tune):
        with pytest.raises(ValueError, match=r"cannot see into checkpoint\(..., use_reentrant=True\)"):
            call(Within(net(), "reentrant"), x, y)
    assert not x.requires_grad or x.grad is None


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize("start", [None, "orthogonal", "identity"])
def test_an_error_within_leaves_the_net_as_it_was(start: Any) -> None:
    x, y = batch()
    model = nn.Sequential(*net(), rb.PerStep(nn.BatchNorm1d(3)), nn.Dropout(0.5)).eval()
    model[2].requires_grad_(False)
    model[0].requires_grad_(False)
    before, random, modes = (
        copy.deepcopy(model.state_dict()),
        torch.get_rng_state(),
        [m.training for m in model.modules()],
    )
    wanted = [p.requires_grad for p in model.parameters()]
    bad: Any = nn.Sequential(model, Breaks())
    for call in (lambda: rb.probe(bad, x, y), lambda: rb.tune(bad, x, y, start=start)):
        with pytest.raises(RuntimeError, match="broken"):
            call()
    with pytest.raises(ValueError, match="labels must be a tensor of one a sample"):
        rb.tune(model, x, y, start=start, held_out=(x, y[:3]))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_tuned_saved_and_loaded_gives_the_same_logits_and_gradients() -> None:
    x, y = batch()
    model = net()
    rb.tune(model, x, y, start="orthogonal", height=True)
    again = net()
    again.load_state_dict(model.state_dict())
    grads = []
    for each in (model, again):
        each.eval()
        logits = rb.readout(each(x))
        nn.functional.cross_entropy(logits, y).backward()
        grads.append([logits, *(p.grad for p in each.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert grads[0][1].abs().sum() > 0
