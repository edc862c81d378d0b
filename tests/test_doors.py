"""What comes in by the wrong door is refused, or warned of, in words that tell the right one."""

import importlib.util
import io
import warnings
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import rheobase as rb

CLASSES = {"classes": 3, "in_channels": 2, "steps": 4}


def net(spiking: bool = True, **options: Any) -> rb.models.Net:
    torch.manual_seed(0)
    return rb.models.create("plain_convnet", **CLASSES, depth=2, width=4, spiking=spiking, **options).eval()


# time comes first


def test_no_time_step_is_refused_everywhere() -> None:
    model = net()
    for call in (
        lambda: model(torch.rand(0, 5, 2, 8, 8)),
        lambda: model(torch.rand(5, 2, 8, 8), steps=0),
        lambda: net(spiking=False)(torch.rand(0, 5, 2, 8, 8)),
        lambda: rb.readout(torch.rand(0, 5, 3)),
        lambda: rb.run(model, torch.rand(0, 5, 2, 8, 8)),
        lambda: rb.LIF()(torch.rand(0, 5)),
        lambda: rb.Integrator().run(torch.rand(0, 5)),
        lambda: rb.PerStep(nn.Linear(2, 2))(torch.rand(0, 5, 2)),
    ):
        with pytest.raises(ValueError, match=r"time step|T >= 1|steps must be at least 1"):
            call()


def test_a_batch_that_comes_first_is_warned_of() -> None:
    model, right = net(), torch.rand(4, 16, 2, 8, 8)
    said = r"taken for 16 time steps of 4 samples.*steps=4.*images\.transpose\(0, 1\).*steps=16"
    with pytest.warns(RuntimeWarning, match=said):
        model(right.transpose(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(right)
        model(right.transpose(0, 1), steps=16)  # who says so is believed
        model(torch.rand(7, 5, 2, 8, 8))
        model(torch.rand(4, 4, 2, 8, 8))
        net(spiking=False)(right.transpose(0, 1))


def test_a_forgotten_per_step_is_hinted_at() -> None:
    with pytest.raises(ValueError, match=r"\[T, B, 4, \.\.\.\], got \[5, 4, 8, 8\].*without PerStep\?"):
        rb.CurrentNorm(4)(torch.rand(5, 4, 8, 8))
    block = nn.Sequential(nn.Conv2d(2, 4, 3), rb.Fire(rb.CurrentNorm(4), rb.LIF()))
    with pytest.raises(ValueError, match=r"without PerStep\?"):
        block(torch.rand(5, 2, 8, 8))


def test_a_neuron_that_would_see_time_and_batch_in_one_is_refused() -> None:
    with pytest.raises(TypeError, match="contains a neuron, which has to see time"):
        rb.PerStep(nn.Sequential(nn.Conv1d(4, 4, 1), rb.LIF(), nn.Conv1d(4, 4, 1)))


# names of other libraries


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        ("num_classes", "classes"),
        ("in_chans", "in_channels"),
        ("T", "steps"),
        ("time_steps", "steps"),
        ("cnf", "connect"),
    ],
)
def test_other_names_of_an_option_are_understood(elsewhere: str, here: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"{elsewhere}.*'{here}'"):
        rb.models.create("sew_resnet18", **{elsewhere: 4})


def test_classes_are_asked_for() -> None:
    with pytest.raises((TypeError, ValueError), match="classes"):
        rb.models.create("sew_resnet18")


def test_currents_that_are_not_dense_are_refused() -> None:
    ragged = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(3, 3)], layout=torch.jagged)
    for currents in (torch.rand(4, 5, 3).to_sparse(), ragged):
        for neuron in (rb.LIF(), rb.AdaptiveLIF(), rb.Integrator()):
            with pytest.raises(
                TypeError, match="currents must be a dense floating point .* got (one of torch.sp|a nest)"
            ):
                neuron(currents)
        with pytest.raises(TypeError, match="SoftLIF: x must be a dense floating point tensor, got (one of|a nested)"):
            rb.SoftLIF()(currents)


class Both(nn.Module):
    """Gives two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_per_step_wants_one_tensor_of_its_module() -> None:
    for module in (Both(), nn.LSTM(3, 2)):
        with pytest.raises(TypeError, match=rf"PerStep\({type(module).__name__}\): it must give one tensor, got tuple"):
            rb.PerStep(module)(torch.rand(4, 5, 6, 3))
    still = torch.rand(5, 2, 8, 8).expand(4, -1, -1, -1, -1)
    with pytest.raises(TypeError, match=r"PerStep\(MaxPool2d\): it must give one tensor, got tuple"):
        rb.PerStep(nn.MaxPool2d(2, return_indices=True))(still)


@pytest.mark.parametrize("steps", [1.5, True, "2", torch.rand(2)])
def test_steps_are_an_integer(steps: Any) -> None:
    with pytest.raises(TypeError, match="steps must be an integer, got "):
        net()(torch.rand(5, 2, 8, 8), steps)
    assert net()(torch.rand(5, 2, 8, 8), numpy.int64(3)).shape == (3, 5, 3)


def replica(module: Any) -> Any:
    """What `torch.nn.DataParallel` makes of it (which wants GPUs)."""
    copy = module._replicate_for_data_parallel()
    copy._parameters = module._parameters
    copy._modules = {name: replica(child) for name, child in module._modules.items()}
    return copy


def test_data_parallel_is_refused_as_it_may_divide_time() -> None:
    for model, x in ((net(), torch.rand(5, 2, 8, 8)), (nn.Sequential(rb.LIF()), torch.rand(4, 5, 6))):
        with pytest.raises(NotImplementedError, match=r"DataParallel divides .* time: .*DistributedDataParallel"):
            replica(model)(x)
        assert len(model(x)) == 4


# export


@pytest.mark.parametrize("kind", ["net", "own net"])
@pytest.mark.parametrize("way", ["torch.jit.trace", "torch.onnx", "add_graph"])
def test_what_cannot_follow_a_neuron_is_refused_with_what_can(kind: str, way: str, tmp_path: Any) -> None:
    if way == "add_graph" and importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    if kind == "net":
        model, x = net(), torch.rand(5, 2, 8, 8)
    else:
        model, x = nn.Sequential(rb.PerStep(nn.Linear(6, 6)), rb.LIF()).eval(), torch.rand(4, 5, 6)

    def export() -> None:
        if way == "torch.jit.trace":
            torch.jit.trace(model, x)
        elif way == "torch.onnx":
            torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=False)
        else:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(tmp_path) as writer:
                writer.add_graph(model, x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace.*onnx.*torch\.export\.export"):
            export()
    assert model(x).shape[0] == 4, "nothing is left behind"


@pytest.mark.parametrize(
    "model", [rb.LIF(), nn.Sequential(rb.PerStep(nn.Linear(6, 6)), rb.CubaLIF()), net(), net(spiking=False)]
)
def test_script_and_fx_are_refused_with_what_can(model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (torch calls script deprecated)
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.script cannot .* torch\.export\.export"):
            torch.jit.script(model)
    if isinstance(model, rb.models.Net):
        with pytest.raises(TypeError, match=r"got Proxy: torch\.fx cannot trace it, torch\.export\.export"):
            torch.fx.symbolic_trace(model)


@torch.no_grad()
def test_the_way_that_is_told_works() -> None:
    model, x = net(), 3 * torch.rand(5, 2, 8, 8)
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), model(x))


class Plain(rb.Neuron):
    """A neuron of one's own."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        u = 0.5 * state + current
        spikes = rb.spike(u - 1, rb.surrogate.ATan(2.0))
        return spikes, u - spikes


@torch.no_grad()
@pytest.mark.parametrize("neuron", [rb.LIF, Plain])
def test_a_batch_of_any_size_can_be_exported(neuron: Any) -> None:
    model, x = net(neuron=neuron()), 3 * torch.rand(7, 2, 8, 8)
    program = torch.export.export(model, (x[:3],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert model(x).any()
    torch.testing.assert_close(program.module()(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_a_norm_of_any_size_can_be_exported(axes: tuple[int, ...]) -> None:
    norm, x = rb.CurrentNorm(4).eval(), torch.randn(6, 7, 4, 3)
    shapes = {axis: torch.export.Dim(f"axis{axis}") for axis in axes}
    part = x[: 2 if 0 in axes else 6, : 3 if 1 in axes else 7].contiguous()
    program = torch.export.export(norm, (part,), dynamic_shapes=(shapes,))
    torch.testing.assert_close(program.module()(x), norm(x))


@torch.no_grad()
def test_the_twin_can_be_traced() -> None:
    twin, x = net(spiking=False), torch.rand(5, 2, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (what torch says of tracing)
        traced = torch.jit.trace(twin, x)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        loaded = torch.jit.load(file)
    for images in (x, torch.rand(3, 2, 8, 8)):
        torch.testing.assert_close(loaded(images), twin(images))


# engines


def spikes(x: Tensor) -> Tensor:
    return rb.LIF()(x)


def test_a_named_engine_that_cannot_says_why() -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    for wrong, reason in ((x, "takes float32 and bfloat16"), (torch.rand(3, 2, device="meta"), "runs on cpu")):
        with rb.engine("numba"), pytest.raises(RuntimeError, match=f"numba engine was asked for, but it {reason}"):
            spikes(wrong)
    with pytest.raises(ValueError, match=r"name must be one of \('auto', 'reference', 'numba'.*got 'cuda'"):
        rb.engine("cuda")
    spikes(x)


def test_engines_nest_and_end() -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    with rb.engine("numba"):
        with rb.engine(fused=False), pytest.raises(RuntimeError, match="numba"):
            spikes(x)
        with rb.engine("reference"):
            spikes(x)
        with rb.engine("auto"):
            spikes(x)
        with pytest.raises(RuntimeError, match="numba"):
            spikes(x)
    spikes(x)


def test_automatic_choice_says_once_why_not(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from rheobase.kernels import registry

    monkeypatch.setattr(registry, "_said", set())
    for _ in range(3):
        spikes(torch.rand(3, 2, dtype=torch.float64))
        spikes(torch.rand(3, 2))
    said = [record.getMessage() for record in caplog.records if record.name == "rheobase"]
    assert len(said) == 1
    assert "reference engine runs" in said[0]
    assert "float64" in said[0]
