"""N-TIDIGITS, on files made in its format."""

import numpy as np
import pytest
import torch

from rheobase.data import load
from rheobase.data.ntidigits import FILE, WORDS

h5py = pytest.importorskip("h5py")


def written(folder, change=lambda spikes: None):
    """Three speakers say each digit, one says two in a row; a spike every 10 ms, its channel known."""
    spikes = {
        f"{part}/man-{speaker}-a-{word}": (
            np.arange(1, 21) / 100,
            ((7 * number + np.arange(20)) % 64).astype(np.uint8),
        )
        for part, speakers in (("train", ("ae", "ah", "bd", "nn")), ("test", ("zz",)))
        for speaker in speakers
        for number, word in enumerate([*WORDS, "1z"])
    }
    change(spikes)
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / FILE, "w") as file:
        for part in ("train", "test"):
            names = [name.partition("/")[2] for name in spikes if name.startswith(part)]
            file[f"{part}_labels"] = np.array([name.encode() for name in names])
            for name in names:
                for what, values in zip(("timestamps", "addresses"), spikes[f"{part}/{name}"], strict=True):
                    if values is not None:
                        file[f"{part}_{what}/{name}"] = values


def test_single_digits_are_read_as_steps_and_kept(tmp_path):
    written(tmp_path / "ntidigits")
    data = load("ntidigits", str(tmp_path), frame=0.0251, validation=11)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [33, 11, 11]
    assert data.class_names[:2] == ("zero", "one")
    assert data.class_names[-1] == "oh"
    assert data.test.labels.tolist() == list(range(11))
    assert data.test.inputs.shape == (11, 8, 64, 1, 1)
    assert data.test.inputs.dtype == torch.uint8
    assert data.test.lengths.tolist() == [8] * 11
    for number in range(11):
        wanted = torch.zeros(8, 64, dtype=torch.uint8)
        for spike in range(20):
            wanted[int(spike * 0.01 / 0.0251), (7 * number + spike) % 64] += 1
        assert torch.equal(data.test.inputs[number, ..., 0, 0], wanted)
    again = load("ntidigits", str(tmp_path / "ntidigits"), frame=0.0251, validation=11)
    assert torch.equal(again.train.inputs, data.train.inputs)
    short = load("ntidigits", str(tmp_path), frame=0.0251, max_steps=3)
    assert torch.equal(short.test.inputs, data.test.inputs[:, :3])
    assert load("ntidigits", str(tmp_path), frame=1.0).test.inputs.sum() == 11 * 20


FAULTS = {
    "no times": (lambda s: (None, s[1]), "man-zz-a-3 has no spikes in test_timestamps and test_addresses"),
    "fewer channels": (lambda s: (s[0], s[1][:-1]), r"as many times as channels .* man-zz-a-3, got \[20\] and \[19\]"),
    "none": (lambda s: (s[0][:0], s[1][:0]), r"got \[0\] and \[0\]"),
    "another channel": (lambda s: (s[0], s[1] + 60), "of channels 0 to 63, got channels 81 to 100"),
    "another order": (lambda s: (s[0][::-1], s[1]), "in the order of time, .* 19 times before the last"),
    "not finite": (lambda s: (np.append(s[0][:-1], np.nan), s[1]), "in the order of time"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_damaged_recording_is_named(tmp_path, what):
    change, match = FAULTS[what]
    name = "test/man-zz-a-3"
    written(tmp_path / "ntidigits", lambda spikes: spikes.update({name: change(spikes[name])}))
    with pytest.raises(ValueError, match=match):
        load("ntidigits", str(tmp_path))


def test_other_files_are_refused(tmp_path):
    place = tmp_path / "ntidigits"
    written(place, lambda spikes: spikes.update({"train/man-zz-a-x": spikes["train/man-ae-a-1"]}))
    with pytest.raises(ValueError, match="the digit of man-zz-a-x must be one of z, 1, .*, o, got x"):
        load("ntidigits", str(tmp_path))
    with h5py.File(place / FILE, "a") as file:
        del file["train_addresses"]
    with pytest.raises(ValueError, match="wanted train_labels, .*, got no train_addresses"):
        load("ntidigits", str(tmp_path))
    (place / FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"{FILE}: not a whole HDF5 file"):
        load("ntidigits", str(tmp_path))
    (place / FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"wanted .*{FILE}"):
        load("ntidigits", str(tmp_path))
