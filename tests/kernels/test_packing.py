"""Spikes kept for the backward pass as bytes: exact, or not done."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import rheobase as rb

from .cases import assert_fires


def saved_input(x: torch.Tensor) -> Any:
    """What autograd keeps of a convolution's input, and what it gives back."""
    conv = torch.nn.Conv2d(x.shape[2], 3, 1, dtype=x.dtype)
    with rb.engine(packed=True):
        y = rb.PerStep(conv)(x)
    node = y.grad_fn.next_functions[0][0]
    return node._raw_saved_input.data.tensor, node._saved_input


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_packing_is_exact_or_not_done(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    numbers = torch.randint(-128, 128, (2, 3, 4, 7, 5)).to(dtype)
    flat = numbers.flatten(0, 1)
    for x in (numbers, flat.contiguous(memory_format=torch.channels_last).unflatten(0, (2, 3)), numbers[..., :1, :1]):
        kept, back = saved_input(x)
        assert kept.element_size() == 1
        assert torch.equal(back, x.flatten(0, 1))
        assert back.dtype is dtype
    for wrong in (-129.0, 128.0, 256.0, 0.5, 1e-40, 1e30, float("nan"), float("inf")):
        x = numbers.clone()
        x[-1, -1, -1, -1, -1] = wrong
        kept, back = saved_input(x)
        assert kept.dtype is dtype, wrong
        assert torch.equal(back.nan_to_num(7), x.flatten(0, 1).nan_to_num(7))


def step(packed: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    first, second = rb.PerStep(torch.nn.Conv2d(1, 6, 3)), rb.PerStep(torch.nn.Conv2d(6, 2, 3))
    fire = rb.Fire(rb.CurrentNorm(6), rb.LIF())
    with rb.engine(packed=packed):
        spikes = fire(first(torch.rand(3, 5, 1, 19, 17)))
        outputs = second(spikes)
    assert_fires(spikes)
    outputs.square().sum().backward()
    return [outputs.detach(), *(p.grad for p in torch.nn.Sequential(first, fire, second).parameters())]


def test_packed_spikes_give_the_same_gradients() -> None:
    assert all(torch.equal(a, b) for a, b in zip(step(True), step(False), strict=True))


def test_what_they_were_packed_from_is_free() -> None:
    memory = np.ones((2, 4, 2, 8, 8), np.float32)
    conv, spikes = rb.PerStep(torch.nn.Conv2d(2, 3, 3)), torch.from_numpy(memory)
    with rb.engine(packed=True):
        y = conv(spikes)
    alive = weakref.ref(memory)
    del memory, spikes
    assert alive() is None
    y.sum().backward()


def test_without_being_asked_nothing_is_packed() -> None:
    conv, kept = rb.PerStep(torch.nn.Conv2d(2, 3, 3)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.dtype) or x, lambda x: x):
        conv(torch.ones(2, 4, 2, 8, 8))
    assert set(kept) == {torch.float32}


def test_packing_still_sees_a_change_in_place() -> None:
    conv, x = rb.PerStep(torch.nn.Conv2d(2, 3, 3)), torch.ones(2, 4, 2, 8, 8, requires_grad=True)
    with rb.engine(packed=True):
        y = conv(x).sum()
    with torch.no_grad():
        conv.module.weight.zero_()
    with pytest.raises(RuntimeError, match=r"\[3, 2, 3, 3\] needed for the backward pass was modified by an inplace"):
        y.backward()


def test_packing_leaves_checkpointing_its_own() -> None:
    conv, x = rb.PerStep(torch.nn.Conv2d(2, 3, 3)), torch.ones(2, 4, 2, 8, 8, requires_grad=True)
    grads = []
    for packed in (False, True):
        x.grad = None
        with rb.engine(packed=packed):
            y = checkpoint(conv, x, use_reentrant=False)
        y.square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)
