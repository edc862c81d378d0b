"""What is read from a layer, on made signals whose answer is known."""

import math

import pytest
import torch
from torch import Tensor

import rheobase as rb
from rheobase.signal import measures as m


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def g(features: Tensor) -> Tensor:
    return m.gram(m.centred(features))


def pairs(features: Tensor) -> Tensor:
    return m.pairs(g(features))


def alike(features: Tensor, others: Tensor) -> float:
    return m.alike(m.centred(features), m.centred(others))


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("count", [1, 5, 4096, 100_001])
def test_norms_neither_underflow_nor_overflow(size: float, count: int) -> None:
    x = size * torch.randn(count)
    assert m.norm(x) == pytest.approx(float(x.double().norm()), rel=1e-6)
    assert m.size(x).most == float(x.abs().max())
    assert m.norm(x.double()) == pytest.approx(m.norm(x), rel=1e-6)


def test_norms_that_are_not_finite_show() -> None:
    for bad in (float("inf"), float("nan")):
        assert not math.isfinite(m.norm(torch.tensor([1.0, bad, 2.0])))
    assert m.norm(torch.zeros(3)) == m.norm(torch.zeros(0)) == 0


def image(steps: int, batch: int, channels: int, size: int) -> Tensor:
    """A sequence as nets hold it: channels lie next to each other."""
    return torch.randn(steps, batch, size, size, channels).permute(0, 1, 4, 2, 3)


def test_what_lies_together_is_seen_as_one_without_a_copy() -> None:
    x = image(3, 4, 5, 6)
    for axis in (0, 1, 2):
        packed = m.packed(x, axis)
        assert packed.shape == (*x.shape[:axis], x[(0,) * axis].numel())
        assert packed.data_ptr() == x.data_ptr()
        assert torch.equal(packed.flatten(), x.permute(0, 1, 3, 4, 2).flatten())
    other = x.contiguous()
    assert torch.equal(m.packed(other, 1, x), m.packed(x))
    assert not torch.equal(m.packed(other), m.packed(x))
    torch.testing.assert_close(m.rates(other, x), x.mean(0).permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize("channels", [8, 12])
def test_some_places_leave_no_channel_row_or_sample_out(channels: int) -> None:
    x = image(2, 8, channels, 16)
    where = torch.stack(torch.meshgrid(*map(torch.arange, x.shape[1:]), indexing="ij")).float()
    for axis, size in enumerate(x.shape[1:]):
        found = m.some(where[axis].expand(2, -1, -1, -1, -1).permute(0, 1, 3, 4, 2).contiguous(), 1500)
        assert found.shape[0] == 2
        assert 1000 <= found.shape[1] <= 1500
        counts = found[0].long().bincount(minlength=size)
        assert counts.min() > 0.8 * counts.max()
    assert m.some(x, 10**9).shape == (2, x[0].numel())


def test_agreement() -> None:
    a = torch.randn(20_000)
    assert m.agreement(a, 3 * a) == pytest.approx(1)
    assert m.agreement(a, -a) == pytest.approx(-1)
    assert m.agreement(a, torch.randn(20_000)) == pytest.approx(0, abs=0.03)
    assert m.agreement(a, torch.zeros(20_000)) is None


def test_likeness_that_is_kept() -> None:
    x = torch.randn(32, 40).double()
    rotated = x @ torch.linalg.qr(torch.randn(40, 40).double())[0]
    other = torch.randn(32, 40).double()
    below = pairs(x)
    assert m.kept(pairs(5 * rotated + 3), below) == pytest.approx(1)
    assert abs(m.kept(pairs(other), below)) < 0.2
    assert m.kept(pairs(torch.ones(32, 40).double()), below) == 0
    half = [m.kept(pairs(x + noise * other), below) for noise in (0.5, 1.0, 2.0)]
    assert 1 > half[0] > half[1] > half[2] > 0.05


def test_views_that_are_alike() -> None:
    x, noise = torch.randn(32, 4000).double(), torch.randn(32, 4000).double()
    assert alike(x, x) == pytest.approx(1)
    assert alike(x, 0.8 * x + 0.6 * noise) == pytest.approx(0.8, abs=0.03)
    assert alike(x, noise) == pytest.approx(0, abs=0.05)


def test_what_a_linear_reader_tells_apart() -> None:
    labels = torch.arange(60) % 3
    means = 3 * torch.randn(3, 20)
    x = (means[labels] + torch.randn(60, 20)).double()
    assert m.told_apart(g(x), labels) > 0.95
    assert m.told_apart(g(torch.randn(60, 20).double()), labels) < 0.6
    assert m.told_apart(g(torch.ones(60, 20).double()), labels) == pytest.approx(1 / 3)
    x = means[labels].double() / 10 + torch.randn(60, 20).double()  # leaving one out by the formula is leaving it out
    wanted = torch.nn.functional.one_hot(labels).double()
    ridge = 0.1 * g(x).diagonal().mean()
    right = 0
    for i in range(60):
        rest = torch.arange(60) != i
        mean, label = x[rest].mean(0), wanted[rest].mean(0)
        about = x[rest] - mean
        weights = torch.linalg.solve(about @ about.T + ridge * torch.eye(59), wanted[rest] - label)
        right += int((about @ (x[i] - mean) @ weights).argmax() == labels[i])
    assert 0.4 < right / 60 < 0.95
    assert m.told_apart(g(x), labels) == pytest.approx(right / 60)


@pytest.mark.parametrize("features", [10, 500, 20_000])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.7, 0.1, 0.1, 0.1), 10 * (0.1,)])
def test_of_noise_a_linear_reader_tells_no_more_than_chance(features: int, shares: tuple[float, ...]) -> None:
    """Were the mean taken with the sample that is left out, it would give away its label to many features."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(4):
        labels = torch.multinomial(torch.tensor(shares), 64, replacement=True, generator=generator)
        labels[: len(shares)] = torch.arange(len(shares))
        found.append(m.told_apart(g(torch.randn(64, features, generator=generator)), labels))
    assert sum(found) / 4 == pytest.approx(1 / len(shares), abs=0.14)
    assert m.told_apart(g(torch.ones(64, features)), labels) == pytest.approx(1 / len(shares))


def test_the_window_of_a_surrogate() -> None:
    distance = torch.linspace(-2, 2, 4001)
    assert m.in_window(distance, rb.surrogate.Triangle(1.0).derivative) == pytest.approx(0.25, abs=0.001)
    assert m.in_window(distance, rb.surrogate.Rectangle(0.5).derivative) == pytest.approx(0.125, abs=0.001)


def test_what_rounding_leaves_is_nothing() -> None:
    """Features that are the same for all samples tell nothing, though their mean is a rounded number."""
    same = torch.rand(1, 500).expand(30, -1)
    assert not g(same).any()
    assert m.kept(pairs(same), pairs(torch.randn(30, 40))) == 0
    assert alike(same, same + 0.1) == 0
    assert g(same + 1e-3 * torch.randn(30, 500)).any()
