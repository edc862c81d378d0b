"""What is read from a network is that network; what cannot be read is named, with its line."""

import copy
import operator
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from rheobase.graph import read
from rheobase.graph.layers import Flow, Graph, Step
from tests.graph.networks import NETWORKS, PreActivation, TorchvisionResNet, images, randomized


def flow(graph: Graph) -> Flow:
    """The layers that were read, run one by one."""
    return Flow([Step(one.name, one.module, one.inputs) for one in graph.layers], graph.output)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_layers_are_the_network(name: str) -> None:
    network = randomized(NETWORKS[name]()).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = flow(read(network)).eval()
    torch.testing.assert_close(found(images()), network(images()), rtol=0, atol=0)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert network(images()).std() > 0.01


@pytest.mark.parametrize(
    "name", ["sew_resnet18", "ms_resnet18", "spiking_resnet18", "spiking_resnet11", "vgg11", "plain_convnet", "7b_net"]
)
@torch.no_grad()
def test_our_twins_are_read(name: str) -> None:
    torch.manual_seed(0)
    twin = rb.models.create(name, classes=3, in_channels=1, width=4, spiking=False).eval()
    for part in twin.modules():
        if isinstance(part, rb.CurrentNorm):
            part.running_mean.uniform_(-0.3, 0.3)
            part.weight.uniform_(0.5, 1.5)
    graph = read(twin)
    steps = []
    for one in graph.layers:
        module: Any = one.module
        if isinstance(module, rb.CurrentNorm):
            module = Timed(module)
        steps.append(Step(one.name, module, one.inputs))
    found = Flow(steps, graph.output)(images())
    assert found.std() > 1e-3
    torch.testing.assert_close(found, twin(images())[0], rtol=1e-5, atol=1e-6)


class Timed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.unsqueeze(0))[0]


class Own(nn.Module):
    """A network whose forward is a function of itself and x."""

    def __init__(self, function: Callable[["Own", Tensor], Any]) -> None:
        super().__init__()
        self.function = [function]
        self.inner = nn.Module()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.scale = nn.Parameter(torch.ones(1))
        self.fc = nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Any:
        return self.function[0](self, x)


def changed_in_place(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    y = net.relu(x)  # x is changed
    return x + y


def added_in_place(net: Own, x: Tensor) -> Tensor:
    old = x = net.conv(x)
    x += F.relu(x)
    return old + x


def unused_in_place(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    x.relu_()
    F.relu_(net.bn(x))
    return x.flatten(1)


def cloned(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    old = x.clone()
    net.relu(x)
    return old + x.contiguous()


@pytest.mark.parametrize("function", [changed_in_place, added_in_place, unused_in_place, cloned])
@torch.no_grad()
def test_what_is_changed_in_place_is_changed_for_all_that_read_it_later(function: Any) -> None:
    network = Own(function).eval()
    x = images()
    right = copy.deepcopy(network)(x.clone())
    torch.testing.assert_close(flow(read(network)).eval()(x), right, rtol=0, atol=0)
    assert right.std() > 0.01


def flattened_in_place(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    y = net.relu(x.flatten(1))
    return x.flatten(1) + y


def sliced_in_place(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    y = net.relu(x[:, :2])
    return torch.cat([x, y], 1)


def behind_a_view(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    y = x.flatten(1)
    net.relu(x)  # y is changed
    return y


def through_another_view(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    y, z = x[:, :2], x.flatten(1)
    y.relu_()  # z is changed
    return z


def added_behind_a_view(net: Own, x: Tensor) -> Tensor:
    x = net.conv(x)
    y = x[:, 2:]
    x += net.bn(x)
    return torch.cat([x, y], 1)


REFUSED: dict[str, tuple[Callable[[Own, Tensor], Any], str]] = {
    "sigmoid": (
        lambda net, x: torch.sigmoid(net.conv(x)),
        r"sigmoid in its forward \(test_reader\.py, line \d+\): it is",
    ),
    "product": (
        lambda net, x: net.conv(x) * net.conv(x),
        r"mul in its forward \(test_reader\.py, line \d+\): it is",
    ),
    "parameter": (lambda net, x: net.conv(x) * net.scale, r"mul in its forward .*uses 'scale' by itself"),
    "constant": (lambda net, x: net.conv(x) + 1, r"add in its forward .*must be what a layer gives, got 1"),
    "scaled sum": (lambda net, x: torch.add(net.conv(x), net.conv(x), alpha=2), r"add in .*of two values alone"),
    "choice": (
        lambda net, x: net.conv(x) if x.sum() > 0 else x,
        r"its forward \(test_reader\.py, line \d+\): TraceError",
    ),
    "pool of a size": (lambda net, x: F.avg_pool2d(net.conv(x), x.shape[2]), r"avg_pool2d in .*a shape"),
    "pool of the batch's": (
        lambda net, x: (lambda y: F.avg_pool2d(y, y.size(0)))(net.conv(x)),
        r"avg_pool2d in .*a shape",
    ),
    "pool of a size of two arguments": (
        lambda net, x: (lambda y: F.avg_pool2d(y, y.size(2), 1))(net.conv(x)),
        r"avg_pool2d in .*a shape",
    ),
    "reshape": (lambda net, x: net.conv(x).view(-1, 16, 16), r"view in .*only x\.view\(x\.size\(0\), -1\) and"),
    "reshape of the batch": (lambda net, x: net.conv(x).view(8, -1), r"view in .*only x\.view\(x\.size\(0\), -1\) and"),
    "channels for a batch": (
        lambda net, x: (lambda y: y.view(y.size(1), -1))(net.conv(x)),
        r"view in .*only x\.view\(x\.size\(0\), -1\) and",
    ),
    "squeeze of all": (lambda net, x: net.conv(x).squeeze(), r"squeeze in .*may be one, got dim=None"),
    "squeeze of the batch": (lambda net, x: net.conv(x).squeeze(0), r"squeeze in .*may be one, got dim=\(0,\)"),
    "padding by ones": (lambda net, x: F.pad(net.conv(x), (1, 1), value=1.0), r"pad in .*only that by zeros"),
    "mirrored padding": (lambda net, x: F.pad(net.conv(x), (1, 1, 1, 1), "reflect"), r"pad in .*only that by zeros"),
    "padding of the batch": (lambda net, x: F.pad(net.conv(x), (0,) * 8), r"pad in .*only that by zeros"),
    "half of the batch": (lambda net, x: net.conv(x)[::2], r"getitem in .*only x\[:, \.\.\.\] by plain numbers"),
    "a list": (lambda net, x: net.conv(x)[:, [0, 1]], r"getitem in .*only x\[:, \.\.\.\] by plain numbers"),
    "flattened batch": (lambda net, x: torch.flatten(net.conv(x)), r"flatten in .*keep the batch"),
    "mean of all": (lambda net, x: net.conv(x).mean(), r"mean in .*got dim=None"),
    "mean of batch": (lambda net, x: net.conv(x).mean((0, 2)), r"mean in .*over the batch"),
    "joined batches": (lambda net, x: torch.cat([net.conv(x), net.conv(x)]), r"cat in .*along the batch.*dim=0"),
    "time in between": (lambda net, x: net.conv(x).unsqueeze(0).relu(), r"unsqueeze in .*at the end"),
    "first sample": (lambda net, x: net.conv(x)[0], r"getitem in .*of indexing, only"),
    "attribute": (lambda net, x: net.conv(x.T), r"getattr in .*'T' of a tensor"),
    "two outputs": (lambda net, x: (net.conv(x), x), r"must give one tensor"),
    "no output": (lambda net, x: net.conv(torch.ones(1, 1, 8, 8)), r"cannot be read"),
    "input": (lambda net, x: x, r"does not depend on its input"),
    "dropout": (lambda net, x: F.dropout(net.conv(x), 0.5), r"dropout in .*on in evaluation too"),
    "indices": (lambda net, x: F.max_pool2d(net.conv(x), 2, return_indices=True), r"max_pool2d_with_indices in"),
    "a view in place": (flattened_in_place, r"relu \(ReLU, test_reader\.py, line \d+\): it changes in place .*'conv'"),
    "a slice in place": (sliced_in_place, r"relu \(ReLU, test_reader\.py, line \d+\): it changes in place .*'conv'"),
    "behind a view": (behind_a_view, r"relu \(ReLU, test_reader\.py, line \d+\): it changes in place .*'flatten'"),
    "through another view": (through_another_view, r"relu in .*line \d+\): it changes in place .*'flatten'"),
    "added behind a view": (added_behind_a_view, r"add in .*line \d+\): it changes in place .*'getitem'"),
    "pool of sizes from an unknown axis on": (
        lambda net, x: (lambda y: F.avg_pool2d(y, y.shape[y.dim() :]))(net.conv(x)),
        r"avg_pool2d in .*a shape",
    ),
    "random": (lambda net, x: net.conv(x) + torch.randn_like(x), r"randn_like in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named_with_its_line(name: str) -> None:
    function, said = REFUSED[name]
    with pytest.raises(ValueError, match=r"Own cannot be read: .*" + said if said[0] not in "dmc" else said):
        read(Own(function))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sigmoid(), r"layer1\.0\.1 \(Sigmoid, .*line \d+\): Sigmoid is not known"),
        (nn.LayerNorm(8), r"layer1\.0\.1 \(LayerNorm, .*: LayerNorm is not known"),
        (nn.BatchNorm2d(8, track_running_stats=False), r"layer1\.0\.1 \(BatchNorm2d.*without running statistics"),
        (nn.BatchNorm2d(8, momentum=None), r"layer1\.0\.1 .*momentum=None"),
        (nn.MaxPool2d(2, return_indices=True), r"layer1\.0\.1 .*indices"),
        (nn.ConstantPad2d(1, 0.5), r"layer1\.0\.1 .*by anything but zeros"),
        (nn.ReflectionPad2d(1), r"layer1\.0\.1 .*ReflectionPad2d is not known"),
        (nn.Flatten(0), r"layer1\.0\.1 .*keep the batch"),
        (nn.LSTM(8, 8), r"layer1\.0\.1 \(LSTM"),
    ],
)
def test_a_module_that_is_not_known_is_named_by_its_path(module: nn.Module, said: str) -> None:
    network = TorchvisionResNet()
    network.layer1[0] = nn.Sequential(nn.ReLU(), module)
    with pytest.raises(ValueError, match=f"TorchvisionResNet cannot be read: {said}"):
        read(network)


class Standardized(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Gentle(nn.ReLU):
    """A subclass that does the same."""


def test_a_subclass_counts_only_with_the_forward_of_its_class() -> None:
    network = TorchvisionResNet()
    network.relu = Gentle()
    assert read(network)["relu"].kind == "activation"
    network.layer2[0].conv1 = Standardized(8, 16, 3, 2, 1)
    with pytest.raises(ValueError, match=r"in layer2\.0\.conv1 \(test_reader\.py, line \d+\).*'layer2.0.conv1.weight'"):
        read(network)
    network = TorchvisionResNet()
    network.conv1.forward = lambda x: x
    with pytest.raises(ValueError, match=r"conv1 \(Conv2d, .*forward of its own"):
        read(network)


def test_hooks_spiking_nets_and_other_things_are_refused() -> None:
    network = TorchvisionResNet()
    hook = network.layer1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks on layer1 would be lost"):
        read(network)
    hook.remove()
    read(network)
    with pytest.raises(ValueError, match=r"Net is a spiking network already: features\.\d+\.neuron is a LIF"):
        read(rb.models.create("plain_convnet", classes=2, width=2))
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got function"):
        read(images)


def test_what_the_output_does_not_depend_on_is_told_apart() -> None:
    def aside(net: Own, x: Tensor) -> Tensor:
        x = net.conv(x)
        net.bn(x)
        return net.relu(x)

    graph = read(Own(aside))
    assert [one.name for one in graph.layers] == ["conv", "relu"]
    assert [one.name for one in graph.unused] == ["bn"]


def test_a_place_has_a_name_of_its_own() -> None:
    def twice(net: Own, x: Tensor) -> Tensor:
        return operator.add(net.relu(F.relu(net.relu(net.conv(x)))), F.relu(x)).relu()

    names = [one.name for one in read(Own(twice)).layers]
    assert names == ["conv", "relu", "relu_2", "relu_3", "relu_4", "add", "relu_5"]


def test_a_graph_tells_itself() -> None:
    text = str(read(PreActivation()))
    assert all(word in text for word in ("conv2", "activation", "act_3", "input", "add", "mean"))


@torch.no_grad()
def test_a_view_that_would_make_other_samples_is_an_error() -> None:
    network = Own(lambda net, x: net.conv(x).view(-1, 128)).eval()
    assert network(images()).shape == (8, 128)
    with pytest.raises(
        ValueError,
        match=r"view in its forward \(test_reader\.py, line \d+\): a sample must have 128 values, .*got \[4, 4, 8, 8\]",
    ):
        flow(read(network))(images())
    text = str(read(Own(lambda net, x: net.conv(x)[:, 1:3, ::2, 0].squeeze(-1).reshape(-1, 8))))
    assert all(told in text for told in ("Slice([:, 1:3, ::2, 0])", "Squeeze((-1,))", "Flat(8)"))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(x).squeeze(-4),
        lambda net, x: net.conv(x).mean((-4, -1)),
        lambda net, x: torch.cat([net.conv(x), net.conv(x)], -4),
        lambda net, x: (lambda y: F.avg_pool2d(y, y.size(-4)))(net.conv(x)),
        lambda net, x: (lambda y: F.avg_pool2d(y, y.shape[-4:-2]))(net.conv(x)),
        lambda net, x: net.conv(x).mean(-4),
        lambda net, x: F.pad(net.conv(x)[:, :, 0, 0], (0, 0, 1, 0)),
    ],
)
@torch.no_grad()
def test_axes_from_the_end_that_reach_the_batch_are_an_error_that_names_the_place(function: Any) -> None:
    said = r" in its forward \(test_reader\.py, line \d+\): it must leave the batch alone, .* \[4, 4(, 8, 8)?\]"
    with pytest.raises(ValueError, match=said):
        flow(read(Own(function)))(images())


class Padded(nn.Module):
    def __init__(self, pad: nn.Module) -> None:
        super().__init__()
        self.first, self.pad, self.last = nn.Linear(5, 6), pad, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pad(F.relu(self.first(x))))


class ByFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 1))


@pytest.mark.parametrize(
    ("pad", "said"),
    [
        (nn.ZeroPad2d((0, 0, 0, 1)), r"pad \(ZeroPad2d, test_reader\.py, line \d+\): .* \[{}, 6\]"),
        (ByFunction(), r"pad in pad \(test_reader\.py, line \d+\): .* \[{}, 6\]"),
    ],
)
def test_padding_of_the_batch_is_an_error_that_names_the_place(pad: nn.Module, said: str) -> None:
    torch.manual_seed(0)
    network, x = Padded(pad).eval(), torch.rand(4, 5)
    assert network(x).shape == (5, 3)  # of torch's own: it makes a sample
    with pytest.raises(ValueError, match=said.format(12)):
        rb.to_spiking(network, steps=3)(x)
    with pytest.raises(ValueError, match=said.format(4)):
        rb.convert(network, [x], steps=3)


def test_padding_that_leaves_the_batch_alone_is_read_whatever_it_names() -> None:
    torch.manual_seed(0)
    network, x = Padded(nn.ZeroPad2d((2, -2, 0, 0))).eval(), torch.rand(4, 5)
    torch.testing.assert_close(flow(read(network))(x), network(x), rtol=0, atol=0)


def test_padding_of_an_image_is_computed_once() -> None:
    net = rb.to_spiking(nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)))
    with rb.record(net) as tape:
        net(torch.rand(2, 1, 8, 8))
    currents = tape["features.2"].currents
    assert currents.shape == (4, 2, 2, 8, 8)
    assert currents.stride(0) == 0


@torch.no_grad()
def test_the_input_may_be_given_by_name() -> None:
    network = Own(lambda net, x: torch.squeeze(input=F.pad(input=net.conv(x), pad=(0, 1)).mean(-1, True), dim=3)).eval()
    torch.testing.assert_close(flow(read(network))(images()), network(images()), rtol=0, atol=0)


def test_logits_with_a_time_axis_are_read_without_it() -> None:
    for function in (lambda net, x: net.relu(net.conv(x)).unsqueeze(0), lambda net, x: net.relu(net.conv(x))[None]):
        assert read(Own(function)).output == "relu"


def no_gradient(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = net.conv(x)
    return net.relu(y)


def half(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = net.conv(x)
    return net.relu(y)


def at_random(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y + net.relu(y) if torch.rand(1).item() > 0.5 else y


def by_python(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y + net.relu(y) if random.random() > 0.5 else y


def by_numpy(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y + net.relu(y) if np.random.rand() > 0.5 else y


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_gradient, r"conv \(Conv2d, test_reader\.py, line \d+\): it runs under torch.no_grad\(\)"),
        (half, r"conv \(Conv2d, test_reader\.py, line \d+\): it runs under torch.autocast"),
        (at_random, "it draws random numbers, to choose what to do"),
        (by_python, "it draws random numbers, to choose what to do"),
        (by_numpy, "it draws random numbers, to choose what to do"),
        (lambda net, x: net.relu(net.conv(x) + torch.tensor(1.0)), "it uses a tensor that the forward makes"),
        (lambda net, x: net.relu(torch.zeros(1) + net.conv(x)), "it uses a tensor that the forward makes"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_what_a_reader_would_lose_is_refused(function: Any, said: str, training: bool) -> None:
    network = Own(function)
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(ValueError, match=said):
        read(network, training)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


class WithOptions(nn.Module):
    """Its forward has options, which change what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.head = nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(
        self, x: Tensor, start: int = 1, deep: bool = True, mask: Tensor | None = None, *, twice: Any = ()
    ) -> Tensor:
        y = self.relu(self.first(x.flatten(start)))
        if not deep or mask is not None or twice:
            y = y + self.relu(y)
        return self.head(y)


def test_options_of_a_forward_are_at_their_defaults() -> None:
    torch.manual_seed(0)
    network, x = WithOptions().eval(), torch.randn(5, 3, 4)
    found = flow(read(network)).eval()
    assert torch.equal(found(x), network(x))
    assert not torch.equal(found(x), network(x, deep=False))


def test_it_may_be_read_where_no_gradient_is_wanted() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert len(read(Own(lambda net, x: net.relu(net.conv(x)))).layers) == 2


class Keeping(nn.Module):
    """It keeps what is in the middle, as many do to look at it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Own(self.kept)

    @staticmethod
    def kept(net: Any, x: Tensor) -> Tensor:
        net.features = net.conv(x)
        return net.relu(net.features)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_what_a_pass_left_in_a_module_is_named() -> None:
    network = Keeping()
    read(network)
    network(images())
    with pytest.raises(ValueError, match=r"Keeping cannot be read: a pass has left inner\.features there"):
        read(network)


@pytest.mark.parametrize(
    ("wrap", "inside"),
    [
        (lambda net: torch.optim.swa_utils.AveragedModel(net), "its .module"),
        (lambda net: nn.DataParallel(net), "its .module"),
        (lambda net: torch.compile(net, backend="eager"), "its ._orig_mod"),
    ],
)
def test_of_what_is_around_a_network_it_is_said_where_that_is(wrap: Any, inside: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be read: give what is in it, {inside}"):
        read(wrap(nn.Sequential(nn.Linear(8, 4), nn.ReLU())))


VOLUMES = {
    "pool": lambda: nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
    "max": lambda: nn.Sequential(nn.AdaptiveMaxPool3d(2), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_samples_with_depth_are_not_taken_for_time(name: str) -> None:
    torch.manual_seed(0)
    network, x = VOLUMES[name]().eval(), torch.rand(5, 1, 6, 6, 6)
    assert rb.to_spiking(network, steps=4)(x).shape == (4, 5, 2)
    net = rb.convert(network, [x], steps=256)
    assert rb.readout(net(x)).sub(network(x)).abs().max() < 0.02


def test_where_no_layer_tells_the_network_does() -> None:
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)).eval(),
        torch.rand(5, 1, 4, 4, 4),
    )
    net = rb.convert(network, [x], steps=256)
    assert rb.readout(net(x)).sub(network(x)).abs().max() < 0.02
    frames = torch.rand(5, 3, 1, 8, 8)  # of which the network takes none
    assert rb.convert(network, [frames], steps=4)(frames).shape == (5, 3, 2)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
    ],
    ids=["pool", "norm"],
)
def test_a_first_layer_of_signals_is_known(network: nn.Module) -> None:
    x = torch.rand(5, 2, 6)
    assert rb.to_spiking(network, steps=4)(x).shape == (4, 5, 3)


def test_channels_that_are_cut_or_joined_before_the_first_layer_that_tells_are_not_the_inputs() -> None:
    torch.manual_seed(0)
    cut, joined = (
        Own(lambda net, x: net.conv(x[:, :1]).relu().flatten(1)),
        Own(lambda net, x: net.conv(torch.cat([x[:, :1], x[:, :1]], 1)).relu().flatten(1)),
    )
    joined.conv = nn.Conv2d(2, 4, 3, padding=1)
    for network, channels in ((cut, 3), (joined, 1)):
        assert rb.to_spiking(network, steps=2)(torch.rand(5, channels, 8, 8)).shape[:2] == (2, 5)
