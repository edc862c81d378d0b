"""rheobase.run: pieces equal the whole, memory stays flat in T, state lives in no module."""

import pytest
import torch

import rheobase as rb


def model(name: str = "sew_resnet18") -> rb.models.Net:
    return rb.models.create(name, classes=3, in_channels=1, steps=4, width=4).eval()


@pytest.mark.parametrize("name", ["sew_resnet18", "ms_resnet18", "spiking_resnet18", "plain_convnet"])
@torch.no_grad()
def test_pieces_equal_the_whole(name: str) -> None:
    net, frames = model(name), torch.rand(7, 2, 1, 8, 8)
    whole = net(frames)
    logits, state = [], None
    for piece in frames.split([2, 1, 4]):
        out, state = rb.run(net, piece, state)
        logits.append(out)
    torch.testing.assert_close(torch.cat(logits), whole)
    torch.testing.assert_close(net(frames), whole)
    assert all(isinstance(path, str) for path in state)


@torch.no_grad()
def test_static_images_run_for_the_models_steps() -> None:
    net, images = model(), torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(rb.run(net, images)[0], net(images))


@torch.no_grad()
def test_memory_is_flat_in_time() -> None:
    net, sizes = model("plain_convnet"), []
    for steps in (2, 40):
        peak = 0

        def count(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            nonlocal peak
            peak = max(peak, output.numel())

        handles = [m.register_forward_hook(count) for m in net.modules()]
        rb.run(net, torch.rand(steps, 2, 1, 8, 8))
        for handle in handles:
            handle.remove()
        sizes.append(peak)
    assert sizes[0] == sizes[1]


def test_no_graph_is_kept() -> None:
    logits, state = rb.run(model(), torch.rand(3, 2, 1, 8, 8))
    assert not logits.requires_grad
    assert not any(v.requires_grad for v in state.values())


def test_refusals() -> None:
    net = model()
    with pytest.raises(ValueError, match="ANN twin"):
        rb.run(
            rb.models.create("plain_convnet", classes=2, in_channels=1, spiking=False).eval(), torch.rand(2, 1, 8, 8)
        )
    with pytest.raises(ValueError, match="training mode"):
        rb.run(net.train(), torch.rand(2, 2, 1, 8, 8))
    with pytest.raises(ValueError, match="state is of another model: 'elsewhere'"):
        rb.run(net.eval(), torch.rand(2, 2, 1, 8, 8), {"elsewhere": torch.zeros(1)})


def test_one_neuron_at_two_places_cannot_be_streamed() -> None:
    lif = rb.LIF()
    twice = torch.nn.Sequential(lif, lif).eval()
    with pytest.raises(RuntimeError, match="called twice in one pass"):
        rb.run(twice, torch.rand(2, 3))


def test_an_error_within_leaves_no_stream_behind() -> None:
    net = model()
    with pytest.raises(ValueError, match="images must be"):
        rb.run(net, torch.rand(2, 2, 5, 8, 8))
    assert net(torch.rand(2, 1, 8, 8)).shape == (4, 2, 3)
