"""rheobase.save and load: the same model comes back, files are whole, refusals are clear."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rheobase as rb


def test_round_trip(tmp_path: Path) -> None:
    model = rb.models.create(
        "sew_resnet18", classes=3, in_channels=1, steps=2, width=4, connect="iand", neuron=rb.LIF(0.7, reset="hard")
    )
    model(torch.rand(4, 1, 8, 8))  # moves the running statistics
    tuned = [m for m in model.modules() if isinstance(m, rb.LIF)][3]
    tuned.surrogate, tuned.threshold = rb.surrogate.SuperSpike(1.3).scaled(0.7), 0.9
    tuned.reset, model.steps = "soft", 7
    rb.save(model, tmp_path / "m.safetensors")
    again = rb.load(tmp_path / "m.safetensors")
    assert again.arguments.keys() == model.arguments.keys()
    assert repr(again) == repr(model)
    assert again.steps == 7
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again.eval()(images), model.eval()(images))
    rb.save(again, tmp_path / "n.safetensors")
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_twin_and_if(tmp_path: Path) -> None:
    for options in ({"spiking": False}, {"neuron": rb.IF(0.5)}):
        model = rb.models.create("plain_mlp", classes=2, width=3, image_size=4, **options)
        rb.save(model, tmp_path / "m")
        assert repr(rb.load(tmp_path / "m")) == repr(model)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Linear is not of rheobase.models.create"):
        rb.save(torch.nn.Linear(2, 2), tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="no file"):
        rb.load(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors here")
    with pytest.raises(ValueError, match="not a safetensors file"):
        rb.load(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="not written by rheobase.save"):
        rb.load(tmp_path / "other")

    class Mine(rb.LIF):
        pass

    model = rb.models.create("plain_mlp", classes=2, width=3, image_size=4, neuron=Mine())
    with pytest.raises(TypeError, match="how to rebuild Mine"):
        rb.save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()
