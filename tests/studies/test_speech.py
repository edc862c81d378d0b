"""The study of spoken digits, on made recordings."""

import json
import sys
import wave
from pathlib import Path

import pytest
import torch

import rheobase as rb
from recipes.studies import speech
from rheobase.training.guard import NotFiniteError


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tones, a pitch for each digit, of two of the speakers."""
    folder = tmp_path / "data" / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    time = torch.arange(1600) / 8000
    for digit in range(10):
        for speaker, pitch in (("george", 1.0), ("theo", 1.1)):
            for index in range(8):
                sound = torch.sin(2 * torch.pi * (250 + 300 * digit) * pitch * time) * (8000 + 500 * index)
                with wave.open(str(folder / f"{digit}_{speaker}_{index}.wav"), "wb") as file:
                    file.setparams((1, 2, 8000, 0, "NONE", ""))
                    file.writeframes(sound.to(torch.int16).numpy().tobytes())
    monkeypatch.setenv("RHEOBASE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(speech, "EPOCHS", {"rates": 1, "official": 2, "unheard": 1})
    monkeypatch.setattr(speech, "SAMPLES", 50)
    monkeypatch.setattr(speech, "RATES", (0.005, 0.01))
    monkeypatch.setattr(speech, "SPEAKERS", ("theo",))
    return tmp_path


def test_each_arm_is_trained_once_with_the_rate_that_did_best(recordings, monkeypatch, capsys):
    words = ["--out", str(recordings / "out"), "--runs", str(recordings / "runs"), "--arm", "spike_train", "gru"]

    def call(what):
        monkeypatch.setattr(sys, "argv", ["speech.py", what, *words])
        speech.main()

    call("run")
    lines = (recordings / "out").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(done["part"], done["arm"]) for done in found] == [
        *[("rates", "spike_train")] * 2,
        *[("rates", "gru")] * 2,
        *(("official", "spike_train"), ("official", "gru"), ("unheard", "spike_train"), ("unheard", "gru")),
    ]
    for done in found[4:]:
        tried = [each for each in found[:4] if each["arm"] == done["arm"]]
        assert done["lr"] == max(tried, key=lambda each: each["validation"])["lr"]
    assert all(done["test"] is None for done in found[:4])
    official, unheard = found[4], found[6]
    assert official["test"] > 0.15
    assert unheard["split"] == "speaker:theo"
    assert all(0.002 < rate < 0.5 for rate in official["layers"].values())
    call("run")
    assert (recordings / "out").read_text().splitlines() == lines
    call("report")
    said = capsys.readouterr().out
    assert f"| spike_train | {official['parameters']} | {official['lr']} | {100 * official['test']:.2f} |" in said


def test_a_rate_that_diverges_is_told_and_the_next_is_taken(recordings, monkeypatch, capsys):
    words = ["run", "--out", str(recordings / "out"), "--runs", str(recordings / "runs"), "--arm", "gru"]
    train, begun = rb.train, []

    def sometimes(recipe):
        begun.append(recipe)
        if len(begun) == 3:  # after two rates, the first of the official part
            raise NotFiniteError("training diverged in step 7")
        return train(recipe)

    monkeypatch.setattr(rb, "train", sometimes)
    monkeypatch.setattr(sys, "argv", ["speech.py", *words])
    speech.main()
    found = [json.loads(line) for line in (recordings / "out").read_text().splitlines()]
    first, second = (done for done in found if done["part"] == "official")
    assert first["diverged"] == "training diverged in step 7"
    assert first["test"] is None
    assert not second["diverged"]
    assert {first["lr"], second["lr"]} == {0.005, 0.01}
    assert found[-1]["part"] == "unheard"
    assert found[-1]["lr"] == second["lr"]
    monkeypatch.setattr(sys, "argv", ["speech.py", "report", *words[1:]])
    speech.main()
    assert f"| gru | {second['parameters']} | {second['lr']} | {100 * second['test']:.2f} |" in capsys.readouterr().out


def test_no_rate_is_chosen_before_all_were_tried_and_a_table_is_of_one_rate(capsys):
    def done(part, lr, **values):
        return {"part": part, "arm": "gru", "lr": lr, "parameters": 1, "diverged": "", "train_seconds": 30.0, **values}

    found = [done("rates", lr, validation=lr) for lr in speech.RATES[:-1]]
    with pytest.raises(ValueError, match=r"gru: no learning rate .* before \[0.02\] were tried: run --part rates"):
        speech.ranked(found, "gru")
    found.append(done("rates", speech.RATES[-1], validation=0.0))
    assert speech.ranked(found, "gru")[0] == speech.RATES[-2]
    speech.report([*found, done("official", 0.005, test=0.5), done("official", 0.01, test=0.75)])
    assert "| gru | 1 | 0.01 | 75.00 |  |  | 1 |" in capsys.readouterr().out


def test_the_gru_hears_means_of_ten_steps_and_nothing_of_the_padding():
    torch.manual_seed(0)
    net = speech.gru(3, 4)
    frames = torch.rand(25, 2, 4, 1, 1)
    with torch.no_grad():
        logits = net(frames)
        longer = net(torch.cat([frames[:20], torch.zeros(20, 2, 4, 1, 1)]))
        mixed = net(torch.cat([frames[:10].flip(0), frames[10:]]))
    assert logits.shape == (25, 2, 3)
    assert torch.equal(logits[:10], logits[:1].expand(10, 2, 3))
    assert torch.equal(longer[:20], logits[:20])
    torch.testing.assert_close(mixed, logits)  # the order within a frame does not count
    assert not torch.allclose(logits[0], logits[10], atol=1e-3)
    assert rb.readout(logits, torch.tensor([10, 25]))[0].allclose(logits[0, 0])
