"""What a state_dict holds is all that a neuron is, or the load is refused; an ANN twin's weights go both ways."""

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rheobase as rb
from rheobase.surrogate import SHAPES, ATan, Gaussian, SuperSpike, Surrogate

C = 6


def currents(*shape: int) -> Tensor:
    return torch.randn(shape or (12, 5, C), generator=torch.Generator().manual_seed(0)) + 0.4


def several(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, C)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


CHOICES: dict[str, tuple[Callable[..., rb.Neuron], dict[str, Any], dict[str, Any]]] = {
    "numbers": (rb.LIF, {}, {"decay": 0.9, "threshold": 0.7, "input_scale": 1.3}),
    "reset": (rb.LIF, {}, {"reset": "hard"}),
    "detach_reset": (rb.LIF, {}, {"detach_reset": False}),
    "surrogate": (rb.LIF, {}, {"surrogate": Gaussian(0.3).scaled(2)}),
    "surrogates": (rb.LIF, {"surrogate": ATan(several(3, 4))}, {"surrogate": SuperSpike(several(1, 2))}),
    "per channel": (rb.LIF, {"decay": several(0.4, 0.5)}, {"decay": several(0.1, 0.9)}),
    "learned": (rb.LIF, {"learn": ("decay", "threshold")}, {"decay": 0.9, "learn": ("decay", "threshold")}),
    "IF": (rb.IF, {}, {"threshold": 0.8, "reset": "none"}),
    "CubaLIF": (rb.CubaLIF, {}, {"current_decay": 0.9, "reset": "delayed"}),
    "AdaptiveLIF": (rb.AdaptiveLIF, {}, {"adaptation": 0.5, "adaptation_decay": 0.3}),
    "LateralLIF": (rb.LateralLIF, {}, {"inhibition": -0.5, "refractory": 3.0}),
    "Integrator": (rb.Integrator, {}, {"decay": 0.8, "input_scale": 2.0}),
    "Integrator learned": (rb.Integrator, {"decay": 0.5, "learn": "decay"}, {"decay": 0.8, "learn": "decay"}),
}


def outcome(neuron: nn.Module) -> list[Tensor]:
    """Its outputs, and the gradient of an arbitrary, fixed loss; by the definition, which has nothing to compile."""
    x = currents().requires_grad_()
    with rb.engine("reference"):
        y = neuron(x)
        (y * torch.linspace(-1, 1, y.numel()).sin().view_as(y)).sum().backward()
    return [y.detach(), x.grad]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("recurrent", [False, True], ids=["alone", "within Recurrent"])
@pytest.mark.parametrize("name", CHOICES)
def test_all_choices_travel(name: str, recurrent: bool) -> None:
    make, plain, options = CHOICES[name]
    fresh, chosen = make(**plain), make(**options)
    if recurrent:
        linear = nn.Linear(C, C)
        fresh, chosen = rb.Recurrent(fresh, copy.deepcopy(linear)), rb.Recurrent(chosen, linear)
    assert not same(outcome(fresh), outcome(chosen)), "the choice is one that can be seen"
    file = io.BytesIO()
    torch.save(chosen.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert same(outcome(fresh), outcome(chosen))
    assert repr(fresh) == repr(chosen)


def test_what_a_state_dict_holds_are_tensors_of_their_own() -> None:
    lif = rb.LIF(0.9)
    state = copy.deepcopy(lif.state_dict())
    assert all(isinstance(value, Tensor) for value in state.values())
    lif.decay, lif.reset = 0.1, "hard"
    lif.load_state_dict(state)
    assert (lif.decay.item(), lif.reset) == (pytest.approx(0.9), "soft")


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_assigned_to_a_net_without_memory_is_there(name: str) -> None:
    make, given, other = CHOICES[name]
    source, neuron = make(**{**given, **other}), make(**given).to("meta")
    assert "meta" in repr(neuron)
    neuron.load_state_dict(source.state_dict(), assign=True)
    assert same(outcome(neuron), outcome(source))
    neuron.to("meta").to_empty(device="cpu")  # (whatever is in memory)
    repr(neuron)
    neuron.load_state_dict(source.state_dict())
    assert same(outcome(neuron), outcome(source))


def test_a_net_in_float64_is_assigned_as_it_is() -> None:
    source = rb.LIF(0.9).double()
    lif = rb.LIF()
    lif.load_state_dict(source.state_dict(), assign=True)
    assert (lif.decay.dtype, lif.decay.item()) == (torch.float64, 0.9)


@pytest.mark.parametrize("clients", [2, 3, 40])
def test_the_mean_of_states_can_be_loaded(clients: int) -> None:
    """As federated averaging takes it, of whatever is in a state_dict."""
    neurons = [rb.LIF(decay, reset="hard") for decay in torch.linspace(0.2, 0.8, clients)]
    states = [neuron.state_dict() for neuron in neurons]
    mean = {key: sum(state[key] for state in states) / clients for key in states[0]}
    lif = rb.LIF()
    lif.load_state_dict(mean)
    assert (lif.decay.item(), lif.reset) == (pytest.approx(0.5), "hard")
    lif = rb.LIF()
    lif.load_state_dict({key: value.half() for key, value in states[0].items()})
    assert (lif.decay.item(), lif.reset) == (pytest.approx(0.2, abs=1e-3), "hard")
    lif.load_state_dict({**states[0], "_extra_state": states[0]["_extra_state"].to(torch.uint8)})  # as it once was


@pytest.mark.parametrize(
    "change", [lambda text: text / 3, lambda text: -text, lambda text: text[:5], lambda text: None]
)
def test_a_state_that_was_changed_is_refused_by_its_place(change: Callable[[Tensor], Any]) -> None:
    net = nn.ModuleDict({"first": rb.LIF()})
    state = net.state_dict()
    state["first._extra_state"] = change(state["first._extra_state"])
    with pytest.raises(
        ValueError, match=r"^first: _extra_state is not what a LIF keeps .* it was changed, or is a mean"
    ):
        net.load_state_dict(state)


@pytest.mark.parametrize("assign", [False, True])
def test_loading_makes_them_used(assign: bool) -> None:
    x = currents()
    lif, other = rb.LIF(several(0.4, 0.5), learn="threshold"), rb.LIF(several(0.1, 0.9), 0.5, learn="threshold")
    before = lif(x)
    lif.load_state_dict(other.state_dict(), assign=assign)
    assert not torch.equal(lif(x), before)
    assert torch.equal(lif(x), other(x))
    assert isinstance(lif.raw_threshold, nn.Parameter)
    lif.decay = 0.3
    assert other.decay.shape == (C,)


# networks


class Own(rb.Neuron):
    """Nothing of it is in a state_dict."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        s = rb.spike(state + current - 1)
        return s, state + current - s.detach()


def tiny(name: str, spiking: bool = True, **options: Any) -> rb.models.Net:
    sizes = {"width": 4} | ({"image_size": 8} if name == "plain_mlp" else {})
    return rb.models.create(name, classes=3, in_channels=1, steps=4, spiking=spiking, **sizes, **options)


def images(batch: int = 8) -> Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def awake(model: rb.models.Net) -> rb.models.Net:
    """In evaluation mode, the norms with the statistics of the images, so that every layer fires."""
    norms = [m for m in model.modules() if isinstance(m, rb.CurrentNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.8, 1.2)
        model.train()(images())
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


FAMILIES = ["plain_mlp", "plain_convnet", "spiking_resnet18", "sew_resnet18", "ms_resnet18"]
families = pytest.mark.parametrize("name", FAMILIES)
NEURONS = {
    "LIF": rb.LIF,
    "learned": lambda: rb.LIF(learn=("decay", "threshold")),
    "CubaLIF": rb.CubaLIF,
    "Integrator": lambda: rb.Integrator(0.9),
    "Recurrent": lambda: rb.Recurrent(rb.LIF(), nn.Identity()),
    "own": Own,
}


@families
@pytest.mark.parametrize("neuron", NEURONS)
@torch.no_grad()
def test_twin_and_spiking_net_exchange_weights(name: str, neuron: str) -> None:
    first, last = awake(tiny(name, spiking=False)), tiny(name, spiking=False).eval()
    net = tiny(name, neuron=NEURONS[neuron]())
    numbers = {key: value for key, value in copy.deepcopy(net.state_dict()).items() if key not in first.state_dict()}
    assert numbers or neuron == "own"
    assert net.load_state_dict(first.state_dict()) == ([], [])
    found = net.state_dict()
    assert all(torch.equal(found[key], value) for key, value in (first.state_dict() | numbers).items())
    assert not torch.equal(last(images()), first(images()))
    assert last.load_state_dict(found) == ([], [])
    assert torch.equal(last(images()), first(images()))


@families
@torch.no_grad()
def test_a_trained_net_is_the_same_once_loaded(name: str) -> None:
    trained, again = awake(tiny(name, neuron=rb.LIF(0.9, 0.7, "hard"))), tiny(name)
    with rb.record(trained) as tape:
        want = trained(images())
    assert all(0.01 < trace.spikes.count_nonzero() / trace.spikes.numel() < 0.99 for trace in tape.values())
    assert not torch.equal(again.eval()(images()), want)
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again(images()), want)


def test_a_net_of_other_neurons_is_refused() -> None:
    net = tiny("plain_convnet", neuron=rb.CubaLIF())
    with pytest.raises((ValueError, RuntimeError), match=r"features\.1\.neuron.* LIF\b.* CubaLIF"):
        net.load_state_dict(tiny("plain_convnet").state_dict())
    with pytest.raises(RuntimeError, match="raw_decay"):
        tiny("plain_convnet").load_state_dict(tiny("plain_convnet", neuron=rb.LIF(learn="decay")).state_dict())
    with pytest.raises(RuntimeError, match=r"features\.2\.module\.weight"):
        state = net.state_dict()
        del state["features.2.module.weight"]
        net.load_state_dict(state)


# refusals


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (rb.LIF, rb.IF),
        (rb.IF, rb.LIF),
        (rb.LIF, rb.CubaLIF),
        (rb.CubaLIF, rb.LIF),
        (rb.CubaLIF, rb.AdaptiveLIF),
        (rb.AdaptiveLIF, rb.LIF),
    ],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize("strict", [True, False])
def test_another_kind_of_neuron_is_refused_by_name(make: Any, other: Any, strict: bool) -> None:
    with pytest.raises((ValueError, RuntimeError), match=rf"(state|is) .*\b{other.__name__}\b.*\b{make.__name__}\b"):
        make().load_state_dict(other().state_dict(), strict=strict)


def test_an_integrator_is_no_lif() -> None:
    for make, other in ((rb.LIF, rb.Integrator), (rb.Integrator, rb.LIF)):
        with pytest.raises(RuntimeError, match=rf"{make.__name__}.*\n.*threshold"):
            make().load_state_dict(other().state_dict())


def test_a_subclass_takes_the_state_of_its_base() -> None:
    class Mine(rb.LIF):
        pass

    mine = Mine()
    mine.load_state_dict(rb.LIF(0.9, reset="hard").state_dict())
    assert mine.reset == "hard"
    rb.LIF().load_state_dict(mine.state_dict())


def test_an_unknown_surrogate_is_refused() -> None:
    @dataclass(frozen=True)
    class Passing(Surrogate):
        width: float = 1.0
        height: float = 1.0
        grows = 1
        unit_area = False

        @staticmethod
        def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
            return (1 - x.abs() / parameter).clamp(min=0)

    state = rb.LIF(surrogate=Passing(2.0)).state_dict()
    lif = rb.LIF()
    lif.load_state_dict(state)
    assert lif.surrogate == Passing(2.0)
    del SHAPES[Passing.name]
    with pytest.raises((ValueError, RuntimeError), match=rf"{Passing.__qualname__}.*import the module that defines it"):
        rb.LIF().load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (rb.LIF, "decay", 1.5),
        (rb.LIF, "threshold", 0.0),
        (rb.LIF, "threshold", float("nan")),
        (rb.LIF, "surrogate_width", -1.0),
        (rb.CubaLIF, "current_decay", -0.1),
        (rb.AdaptiveLIF, "adaptation", -1.0),
        (rb.Integrator, "decay", 2.0),
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_a_value_out_of_range_is_refused(make: Any, name: str, value: float, assign: bool) -> None:
    neuron = make()
    state = neuron.state_dict() | {name: torch.tensor(value)}
    with pytest.raises((ValueError, RuntimeError), match=rf"{name} must be a number in"):
        neuron.load_state_dict(state, assign=assign)
    assert repr(neuron) == repr(make()), "and nothing is taken"


def test_a_refusal_names_the_place() -> None:
    net = tiny("plain_convnet")
    state = net.state_dict()
    state["features.3.neuron.decay"] = torch.tensor(2.0)
    with pytest.raises((ValueError, RuntimeError), match=r"features\.3\.neuron.*decay"):
        net.load_state_dict(state)


# buffers that are changed in place


def test_what_is_changed_in_place_is_used() -> None:
    """As DistributedDataParallel broadcasts buffers from the first process."""
    theirs, ours = rb.LIF(0.9, 0.6, surrogate=ATan(5.0)), rb.LIF()
    before = outcome(ours)
    with torch.no_grad():
        for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
            mine.copy_(other)
    assert same(outcome(ours), outcome(theirs))
    assert not same(outcome(ours), before)
    assert repr(ours) == repr(theirs)


@torch.no_grad()
def test_an_average_of_models_is_of_their_numbers_too() -> None:
    x, lif = currents(), rb.LIF(0.9, learn="threshold")
    ema = AveragedModel(lif, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    ema.update_parameters(lif)
    lif.decay, lif.threshold = 0.5, 0.5
    ema.update_parameters(lif)
    assert ema.module.decay.item() == pytest.approx(0.75 * 0.9 + 0.25 * 0.5)
    want = rb.LIF(0.8, ema.module.threshold.item())
    assert torch.equal(ema(x), want(x))
    assert not torch.equal(ema(x), lif(x))


def test_an_average_of_nets_works_and_is_copied() -> None:
    net = tiny("sew_resnet18", neuron=rb.LIF(0.9, reset="hard"))
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer, weights = torch.optim.SGD(net.parameters(), 0.1), []
    for _ in range(3):
        optimizer.zero_grad()
        rb.readout(net(images())).square().sum().backward()
        optimizer.step()
        weights.append(net.head.module.weight.detach().clone())
        ema.update_parameters(net)
    want = 0.9 * (0.9 * weights[0] + 0.1 * weights[1]) + 0.1 * weights[2]
    torch.testing.assert_close(ema.module.head.module.weight, want)
    assert "decay=0.9" in repr(ema.module)
    assert "reset='hard'" in repr(ema.module)
    assert ema.eval()(images()).isfinite().all()
