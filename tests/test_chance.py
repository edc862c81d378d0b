"""Random numbers that are drawn aside."""

import random

import numpy as np
import pytest
import torch

from rheobase.chance import forked, sow


def test_draws_are_of_the_seed_and_those_of_before_go_on():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with forked(7):
        first = torch.rand(3)
        with forked(7):
            assert torch.equal(torch.rand(3), first), "they nest"
        second = torch.rand(3)
    assert torch.equal(torch.rand(3), wanted)
    with forked(7):
        assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.rand(3), second)


def test_an_error_puts_them_back_too():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), forked(7):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


def test_gpus_that_begin_later_begin_as_the_host_was_seeded(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(5)
    with forked(7):
        pass
    assert seeds[-1] == torch.initial_seed() == 5
    with pytest.raises(KeyError), forked(7):
        raise KeyError
    assert seeds[-1] == 5


def test_numpy_and_python_draw_of_the_seed_too():
    def drawn():
        return np.random.rand(), random.random(), torch.rand(()).item()

    sow(1)
    wanted = [drawn(), drawn()]
    sow(1)
    assert drawn() == wanted[0]
    with forked(7):
        first = drawn()
    with forked(8):
        assert not set(first) & set(drawn())
    with forked(7):
        assert drawn() == first
    assert drawn() == wanted[1], "those of before go on"
