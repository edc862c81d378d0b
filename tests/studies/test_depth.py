"""The study of depth, on a net that is none."""

import json
import sys

import pytest
import torch

from recipes.studies import depth


def test_a_net_is_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(depth, "BLOCKS", 4)
    monkeypatch.setattr(depth, "ITERATIONS", 3)
    out = tmp_path / "depth.jsonl"

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["depth", "--out", str(out), *words])
        depth.main()

    monkeypatch.setattr(depth, "NETS", ("ms 10",))
    call("--net", "ms 10")
    [done] = map(json.loads, out.read_text().splitlines())
    assert done["net"] == "ms 10"
    assert len(done["losses"]) == 3
    assert done["before"]["healthy"]
    whole, parts = done["megabytes"].values()
    assert 0 < parts < whole  # (in parts less is kept)
    call("--net", "ms 10")
    assert len(out.read_text().splitlines()) == 1
    capsys.readouterr()
    call("--show")
    assert f"| ms 10 | {sum(done['losses']) / 3:.2f} to" in capsys.readouterr().out


def test_nets_are_as_deep_as_their_names_say():
    for name in ("classic 50", "sew 101"):
        net = depth.made(name)
        layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        shortcuts = sum(bool(list(m.shortcut.parameters())) for m in net.modules() if hasattr(m, "shortcut"))
        assert len(layers) - shortcuts == int(name.split()[1])


def test_the_most_that_is_allocated_at_once():
    def call():
        first = torch.zeros(250_000)
        del first
        second = torch.zeros(500_000)
        third = torch.zeros(250_000)
        return second.sum() + third.sum()

    assert depth.peak(call) == pytest.approx(3.0, rel=0.01)
