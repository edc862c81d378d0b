"""Norms that scale by the threshold, and norms with a factor a time step."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.norm import TEBN

T, B, C = 4, 3, 5
WAYS = ("alone", "fused", "unfused", "padded")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def currents() -> Tensor:
    return 3 * torch.randn(T, B, C, 6, 6) + torch.linspace(-1, 1, C).reshape(C, 1, 1)


def net(norm: str, **options: Any) -> rb.models.Net:
    return rb.models.create(
        "plain_convnet",
        classes=3,
        in_channels=2,
        depth=3,
        width=4,
        steps=T,
        norm=norm,
        neuron=rb.LIF(0.5, 0.8),
        **options,
    )


def images() -> Tensor:
    return torch.randn(B, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def test_a_scaled_norm_is_the_norm_times_its_scale() -> None:
    x = currents()
    plain, scaled = rb.CurrentNorm(C), rb.CurrentNorm(C, scale=0.3)
    y = scaled(x)
    torch.testing.assert_close(y, 0.3 * plain(x))
    torch.testing.assert_close(y.std((0, 1, 3, 4)), torch.full((C,), 0.3), rtol=0.01, atol=0)
    scaled.bias.data.fill_(2)
    torch.testing.assert_close(scaled.eval()(x), 0.3 * plain.eval()(x) + 2)


@pytest.mark.parametrize("training", [True, False])
def test_fused_it_is_the_same(training: bool) -> None:
    x, results = currents().requires_grad_(), []
    fire = rb.Fire(rb.CurrentNorm(C, scale=0.7, momentum=1.0), rb.LIF())
    fire(x)
    fire.train(training)
    for fused in (True, False):
        one = copy.deepcopy(fire)
        with rb.engine("numba", fused=fused):
            spikes = one(x)
        assert spikes.mean() > 0.02
        found = torch.autograd.grad(
            (spikes * torch.arange(spikes.numel()).reshape(x.shape)).sum(), [x, *one.parameters()]
        )
        results.append((spikes, *found, *one.norm.buffers()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_tdbn_of_a_model_has_its_neurons_threshold() -> None:
    scales = {m.scale for m in net("tdbn").modules() if isinstance(m, rb.CurrentNorm)}
    assert [round(scale, 6) for scale in scales] == [0.8]
    classic = rb.models.create("spiking_resnet18", classes=2, width=2, norm="tdbn", neuron=rb.IF(2.0, input_scale=4.0))
    for path, module in classic.named_modules():
        if isinstance(module, rb.CurrentNorm):
            summed = "shortcut" in path or path.count(".") == 3  # a block's own
            assert module.scale == pytest.approx(0.5 * (0.5**0.5 if summed else 1)), path


def test_tebn_has_a_factor_for_each_step() -> None:
    x = currents()
    norm, plain = TEBN(C, T), rb.CurrentNorm(C)
    torch.testing.assert_close(norm(x), plain(x), rtol=0, atol=0)
    with torch.no_grad():
        norm.factor.copy_(torch.arange(1.0, T + 1))
    want = plain(x) * norm.factor.reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(norm(x), want)
    norm(x).square().sum().backward()
    assert norm.factor.grad.all()
    twin = TEBN(C, T, average=True)
    twin.load_state_dict(norm.state_dict())
    plain.load_state_dict(norm.state_dict(), strict=False)
    torch.testing.assert_close(twin.eval()(x[:1]), 2.5 * plain.eval()(x[:1]))


def test_tebn_runs_at_its_own_steps_alone() -> None:
    model = net("tebn")
    assert model(images()).shape == (T, B, 3)
    before = copy.deepcopy(model.state_dict())
    for steps in (1, T + 1):
        with pytest.raises(ValueError, match=rf"a factor for each of {T} steps.*got \[{steps}, "):
            model(images(), steps=steps)
    with pytest.raises(ValueError, match="cannot be streamed"):
        rb.run(model.eval(), images())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert net("tebn", spiking=False)(images()).shape == (1, B, 3)


@pytest.mark.parametrize("norm", ["tdbn", "tebn"])
def test_models_with_it_fire_and_learn(norm: str) -> None:
    model, twin = net(norm), net(norm, spiking=False)
    twin.load_state_dict(model.state_dict())
    model.load_state_dict(twin.state_dict())
    with rb.record(model) as tape:
        rb.readout(model(images())).square().sum().backward()
    assert min(trace.spikes.mean() for trace in tape.values()) > 0.02
    assert all(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "CurrentNorm: scale must be a number > 0, got 0"),
        ({"scale": float("inf")}, "scale must be a number > 0, got inf"),
        ({"scale": torch.ones(3)}, "scale must be a number > 0, got tensor"),
        ({"sync": 1}, "sync must be true or false, got 1"),
    ],
)
def test_what_a_norm_does_not_take(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rb.CurrentNorm(3, **options)


def test_steps_of_tebn_are_checked() -> None:
    with pytest.raises(ValueError, match="TEBN: steps must be a positive integer, got 0"):
        TEBN(3, 0)


def test_it_tells_what_it_is() -> None:
    assert repr(rb.CurrentNorm(3)) == "CurrentNorm(3, eps=1e-05, momentum=0.1)"
    assert (
        repr(rb.CurrentNorm(3, scale=0.5, sync=False))
        == "CurrentNorm(3, eps=1e-05, momentum=0.1, scale=0.5, sync=False)"
    )
    assert repr(TEBN(3, 4)) == "TEBN(3, eps=1e-05, momentum=0.1, steps=4)"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, B])
def test_steps_that_are_the_same_memory_are_normed_as_copies_of_them_bit_for_bit(training: bool, batch: int) -> None:
    step = currents()[0, :batch].contiguous(memory_format=torch.channels_last)
    copies = torch.stack([step] * T).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    leaves = step.expand(T, -1, -1, -1, -1).requires_grad_(), copies.unflatten(0, (T, batch)).requires_grad_()
    norms = [rb.CurrentNorm(C).train(training) for _ in leaves]
    weights, found = torch.randn(T, batch, C, 6, 6), []
    for norm, x in zip(norms, leaves, strict=True):
        y = norm(x)
        (gradient,) = torch.autograd.grad((y * weights).sum(), x)
        found.append((y, gradient, norm.running_mean, norm.running_var))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert not torch.equal(found[0][1][0], found[0][1][1]), "each step has its own gradient"
    assert found[0][0].flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert found[0][0].stride() == found[1][0].stride()


def test_who_kept_running_statistics_is_told_that_a_training_pass_moved_them() -> None:
    fire, weight = rb.Fire(rb.CurrentNorm(C), rb.LIF()), torch.ones(C, requires_grad=True)
    kept = (weight * fire.norm.running_mean).sum()
    assert 0.05 < fire(currents()).mean() < 0.95
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


@pytest.mark.parametrize(("first", "second"), list(itertools.product(WAYS, repeat=2)))
def test_passes_of_a_norm_that_run_in_different_ways_have_one_backward_pass(first: str, second: str) -> None:
    fire, x = rb.Fire(rb.CurrentNorm(C), rb.LIF()), currents().requires_grad_()
    weights = [torch.randn(x.shape) for _ in range(2)]

    def ran(way: str, norm: rb.CurrentNorm, whole: rb.Fire) -> Tensor:
        if way == "alone":
            return norm(x)
        if way == "padded":
            with rb.padding(torch.tensor([4, 2, 3])):
                return norm(x)
        with rb.engine(fused=way == "fused"):
            return whole(x)

    def gradients(*ways: str) -> list[Tensor]:
        one = copy.deepcopy(fire)
        losses = [(ran(way, one.norm, one) * weights[(first, second).index(way)]).sum() for way in ways]
        return list(torch.autograd.grad(sum(losses), [x, *one.norm.parameters()]))  # type: ignore[arg-type]

    found, apart = gradients(first, second), [gradients(way) for way in (first, second)]
    for whole, *parts in zip(found, *apart, strict=True):
        torch.testing.assert_close(whole, parts[0] + parts[1], rtol=1e-4, atol=1e-4)


def test_a_call_that_is_refused_moves_no_running_statistics() -> None:
    fire = rb.Fire(rb.CurrentNorm(C), rb.LIF().to("meta"))
    with pytest.raises(ValueError, match="decay must be on cpu"):
        fire(currents())
    assert not fire.norm.running_mean.any()
    fire.neuron = rb.LIF()
    fire(currents())
    assert fire.norm.running_mean.all()


def test_update_norms_does_what_torchs_update_bn_does_for_its_own() -> None:
    torch.manual_seed(3)
    ours = nn.Sequential(rb.CurrentNorm(C), rb.PerStep(nn.BatchNorm2d(C)), nn.Dropout(0.0))
    theirs = nn.Sequential(nn.BatchNorm2d(C), nn.BatchNorm2d(C))
    batches = [1 + count * torch.randn(T, B, C, 3, 3) for count in (1, 2, 3)]
    ours(batches[0]).sum().backward()
    ours[1].eval()
    ours[0].running_var.fill_(torch.nan)
    rb.norm.update_norms(ours, [(batch, None) for batch in batches])
    torch.optim.swa_utils.update_bn([batch.flatten(0, 1) for batch in batches], theirs)
    for mine, wanted in zip((ours[0], ours[1].module), theirs, strict=True):
        torch.testing.assert_close(mine.running_mean, wanted.running_mean)
        torch.testing.assert_close(mine.running_var, wanted.running_var)
        assert mine.momentum == 0.1
    assert ours[1].module.num_batches_tracked == theirs[1].num_batches_tracked == 3
    assert [each.training for each in ours] == [True, False, True]
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match="update_norms: there is no batch"):
        rb.norm.update_norms(ours, [])
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_update_norms_goes_through_fused_layers() -> None:
    model = net("tdbn")
    batches = [images(), 3 * images()]
    seen = []
    for batch in batches:
        one = copy.deepcopy(model)
        rb.norm.update_norms(one, [batch])
        seen.append([m.running_mean for m in one.modules() if isinstance(m, rb.CurrentNorm)])
    rb.norm.update_norms(model, batches)
    found = [m.running_mean for m in model.modules() if isinstance(m, rb.CurrentNorm)]
    assert found
    for mean, *parts in zip(found, *seen, strict=True):
        torch.testing.assert_close(mean, sum(parts) / 2)


def test_update_norms_leaves_out_padding() -> None:
    norm, x, known = rb.CurrentNorm(C), currents(), torch.tensor([T, 1, 2])
    batches = [rb.data.Batch(x, torch.zeros(B), known), rb.data.Batch(-x, torch.zeros(B), known)]
    rb.norm.update_norms(norm, batches)
    real = torch.cat([x[:steps, i] for i, steps in enumerate(known.tolist())]).movedim(1, 0).flatten(1)
    torch.testing.assert_close(norm.running_mean, torch.zeros(C), rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_var, real.var(1))
    with rb.padding(known):
        rb.norm.update_norms(norm, [x])
    torch.testing.assert_close(norm.running_mean, real.mean(1))
