"""Sequences of different lengths in one batch: what lies past a sample's length counts nowhere."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rheobase as rb

LENGTHS = torch.tensor([4, 9, 1, 6])
T, B, C = 9, 4, 5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def padded(*space: int, seed: int = 0) -> Tensor:
    """A batch with something else than zeros for padding, which would be seen."""
    x = 2 * torch.randn(T, B, C, *space, generator=torch.Generator().manual_seed(seed)) + 0.7
    for b, length in enumerate(LENGTHS):
        x[length:, b] = 100
    return x


def real(x: Tensor) -> Tensor:
    """The real steps alone, `[N, C, ...]`."""
    return torch.cat([x[:length, b] for b, length in enumerate(LENGTHS)])


# readout


def test_readout_is_the_mean_over_each_samples_steps() -> None:
    logits = torch.tensor([[[1.0, 2.0], [1, 1]], [[3, 6], [5, 5]], [[100, 100], [6, 0]]])
    assert rb.readout(logits, torch.tensor([2, 3])).tolist() == [[2, 4], [4, 2]]
    assert torch.equal(rb.readout(logits, torch.tensor([3, 3])), rb.readout(logits))


def test_readout_takes_padding_for_nothing() -> None:
    logits = torch.rand(T, B, 3).requires_grad_()
    filled = logits.clone()
    for b, length in enumerate(LENGTHS):
        filled[length:, b] = 100
    got = rb.readout(filled, LENGTHS)
    torch.testing.assert_close(got, torch.stack([logits[:n, b].mean(0) for b, n in enumerate(LENGTHS)]))
    got.sum().backward()
    for b, length in enumerate(LENGTHS):
        torch.testing.assert_close(logits.grad[:length, b], torch.full((length, 3), 1 / length.item()))
        assert not logits.grad[length:, b].any()
    filled.detach()[8, 0] = torch.nan
    assert rb.readout(filled, LENGTHS)[0].isnan().all(), "what is not a number shows, wherever it is"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_readout_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert rb.readout(torch.rand(T, B, 3).to(dtype), LENGTHS).dtype is dtype


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8], ids=str)
def test_lengths_of_any_whole_dtype(dtype: torch.dtype) -> None:
    logits = torch.rand(300, 3, 2)
    got = rb.readout(logits, torch.tensor([1, 2, 255]).to(dtype))
    torch.testing.assert_close(got, torch.stack([logits[:n, b].mean(0) for b, n in enumerate((1, 2, 255))]))


WRONG = [
    torch.tensor([4, 9, 1]),
    torch.tensor([4, 9, 0, 6]),
    torch.tensor([4, 10, 1, 6]),
    torch.tensor([4.0, 9, 1, 6]),
    torch.tensor([[4, 9, 1, 6]]),
    torch.tensor([True, True, True, True]),
    [4, 9, 1, 6],
]


def test_a_single_step_is_real_for_all() -> None:
    """It is a mean over time, as in an ANN twin: of readout, and of norms."""
    logits = torch.rand(1, B, 3)
    assert torch.equal(rb.readout(logits, LENGTHS), logits[0])
    ours, plain = rb.CurrentNorm(C), rb.CurrentNorm(C)
    with rb.padding(LENGTHS):
        torch.testing.assert_close(ours(padded()[:1]), plain(padded()[:1]))
    torch.testing.assert_close(ours.running_var, plain.running_var)
    for wrong in (LENGTHS[:2], LENGTHS - 1, LENGTHS.float()):
        with pytest.raises(ValueError, match=r"readout: lengths must be \[4\] whole numbers from 1 on, got"):
            rb.readout(logits, wrong)


@pytest.mark.parametrize("lengths", WRONG, ids=str)
def test_wrong_lengths_are_named(lengths: Any) -> None:
    said = r"lengths must be \[4\] whole numbers from 1 to 9, got"
    with pytest.raises(ValueError, match=f"readout: {said}"):
        rb.readout(torch.rand(T, B, 3), lengths)
    with pytest.raises(ValueError, match=said), rb.padding(lengths):
        rb.CurrentNorm(C)(padded())


# norms


@pytest.mark.parametrize("space", [(), (3,), (3, 2)], ids=str)
def test_statistics_are_those_of_the_real_steps(space: tuple[int, ...]) -> None:
    x = padded(*space)
    ours, theirs = rb.CurrentNorm(C), [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d][len(space)](C)
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.3)
        nn.init.constant_(norm.bias, 0.2)
    for _ in range(3):
        with rb.padding(LENGTHS):
            y = ours(x)
        torch.testing.assert_close(real(y), theirs(real(x)))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.running_mean.max() < 2


def test_without_padding_it_is_the_norm() -> None:
    x, full = torch.randn(T, B, C, 3), torch.full((B,), T)
    ours, plain = rb.CurrentNorm(C), rb.CurrentNorm(C)
    with rb.padding(full):
        y = ours(x)
    torch.testing.assert_close(y, plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_gradients_are_those_of_the_real_steps() -> None:
    x = padded(3)
    ours, theirs = rb.CurrentNorm(C), nn.BatchNorm1d(C)
    given, alone = x.clone().requires_grad_(), real(x).requires_grad_()
    with rb.padding(LENGTHS):
        y = real(ours(given))
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (theirs(alone) * weights).sum().backward()
    torch.testing.assert_close(real(given.grad), alone.grad, rtol=1e-4, atol=1e-5)
    assert given.grad.count_nonzero() == alone.grad.count_nonzero(), "none for the padding"
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    norm, x = rb.CurrentNorm(C), padded().to(dtype)
    with rb.padding(LENGTHS):
        assert norm(x).dtype is dtype
    assert norm.running_mean.dtype is torch.float32
    torch.testing.assert_close(norm.running_mean, 0.1 * real(x).float().mean(0), rtol=1e-4, atol=1e-4)


def test_one_real_value_a_channel_is_too_few() -> None:
    x, norm = torch.rand(3, 1, C), rb.CurrentNorm(C)
    with pytest.raises(ValueError, match="more than one value a channel"), rb.padding(torch.tensor([1])):
        norm(x)


# networks


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        rb.PerStep(nn.Linear(C, 16)),
        rb.Fire(rb.CurrentNorm(16), rb.LIF(0.9)),
        rb.PerStep(nn.Linear(16, 16)),
        rb.Fire(rb.CurrentNorm(16), rb.Recurrent(rb.LIF(), nn.Linear(16, 16))),
        rb.PerStep(nn.Linear(16, 3)),
    )


def trained(x: Tensor, fill: float) -> tuple[Tensor, list[Tensor]]:
    """The readout; gradients and running statistics of a training step."""
    x = x.clone()
    for b, length in enumerate(LENGTHS):
        x[length:, b] = fill
    model = net().train()
    with rb.padding(LENGTHS), rb.record(model) as tape:
        logits = rb.readout(model(x), LENGTHS)
    assert all(real(trace.spikes).mean() > 0.1 for trace in tape.values())
    logits.square().sum().backward()
    return logits, [*(p.grad for p in model.parameters()), *model.buffers()]


def test_what_the_padding_is_makes_no_difference() -> None:
    one, other = (trained(padded(), fill) for fill in (0.0, 50.0))
    torch.testing.assert_close(one[0], other[0])
    torch.testing.assert_close(one[1], other[1])
    model = net().train()
    assert not torch.allclose(rb.readout(model(padded()), LENGTHS), one[0], atol=1e-3), "without it, it does"


def test_activation_checkpointing_within_it_is_right() -> None:
    found = []
    for checkpointed in (False, True):
        model = net().train()
        with rb.padding(LENGTHS):
            logits = checkpoint(model, padded(), use_reentrant=False) if checkpointed else model(padded())
            rb.readout(logits, LENGTHS).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found)


@torch.no_grad()
def test_evaluation_is_unaffected() -> None:
    model, x = net(), padded()
    model(x)
    model.eval()
    want, before = model(x), [b.clone() for b in model.buffers()]
    with rb.padding(LENGTHS):
        assert torch.equal(model(x), want)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert torch.equal(model(x[:4, :1])[:, 0], want[:4, 0]), "a sample alone is the same as with padding after it"


def test_contexts_nest_and_end() -> None:
    x = padded()
    means = []

    def mean() -> Tensor:
        norm = rb.CurrentNorm(C)
        norm(x)
        return norm.running_mean

    plain = mean()
    with rb.padding(LENGTHS):
        means.append(mean())
        with rb.padding(torch.full((B,), T)):
            torch.testing.assert_close(mean(), plain)
        means.append(mean())
        thread = threading.Thread(target=lambda: means.append(mean()))
        thread.start()
        thread.join()
    torch.testing.assert_close(means[0], 0.1 * real(x).mean(0))
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[2], plain), "it is of the thread that entered it"
    with pytest.raises(RuntimeError, match="boom"), rb.padding(LENGTHS):
        raise RuntimeError("boom")
    assert torch.equal(mean(), plain)


def test_compiled_models_are_told_too() -> None:
    torch._dynamo.reset()
    x, found = padded(), []
    for compiled in (False, True):
        model = net()[:2].train()
        run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        run(x)
        with rb.padding(LENGTHS):
            run(x)
        found.append(list(model.buffers()))
    torch.testing.assert_close(*found)
