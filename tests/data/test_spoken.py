import math

import numpy as np
import pytest
import torch

from rheobase.data import bsa, cochlear_spikes, load, spoken
from rheobase.data.bsa import KERNEL
from rheobase.data.cochlea import cochleagram, design
from rheobase.data.spoken import read_sphere

from .test_sounds import RATE, tone, write


@pytest.mark.parametrize(("rate", "channels"), [(8000, 64), (12500, 78), (16000, 86), (20000, 93)])
def test_the_ear_has_the_channels_of_the_toolbox(rate, channels):
    found = design(rate)
    assert len(found.centres) == channels
    assert len(found.filters) == channels + 2
    assert (np.diff(found.centres) < 0).all()


def response(filters, frequency, rate):
    z = np.exp(-2j * np.pi * frequency / rate * np.arange(3))
    return (filters[:, :3] @ z) / (1 + filters[:, 3:] @ z[1:])


def test_filters_are_stable_and_have_their_gains():
    found = design(RATE)
    poles = [np.abs(np.roots([1, *stage[3:]])).max(initial=0) for stage in found.filters]
    assert max(poles) < 1
    low = np.abs(response(found.filters[3:], 0, RATE))
    np.testing.assert_allclose(low, found.centres[:-1] / found.centres[1:], rtol=1e-9)
    np.testing.assert_allclose(np.abs(response(found.filters[:2], RATE / 4, RATE)), 1, rtol=1e-9)


@pytest.mark.parametrize("frequency", [250.0, 1000.0, 2500.0])
def test_a_whisper_of_a_tone_is_what_the_cascade_makes_of_it(frequency):
    """So quiet that the gain controls rest: two rectifications of sines whose size and phase the filters give."""
    loudness, count = 1e-9, 8000
    passed = loudness * np.cumprod(response(design(RATE).filters, frequency, RATE))
    time = np.arange(count - 1600, count)  # whole periods
    waves = np.maximum((passed[:, None] * np.exp(2j * np.pi * frequency / RATE * time)).imag, 0)
    wanted = np.maximum(waves[1:-1] - waves[2:], 0).mean(1)
    found = cochleagram(loudness * tone(frequency, count).double(), RATE)[-1].double().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0.03, atol=2e-3 * wanted.max())


def test_it_hears_what_the_toolbox_hears():
    """Every twelfth channel of three frames of a chirp, by the package lyon 1.0.0, a port of the Auditory Toolbox."""
    time = torch.arange(4000, dtype=torch.float64) / RATE
    found = cochleagram(0.1 * torch.sin(2 * math.pi * (200 + 2500 * time) * time), RATE)
    wanted = torch.tensor(
        [
            [2.4275e-06, 5.5860e-06, 8.1593e-06, 1.1287e-05, 7.3771e-05, 1.0885e-05],
            [4.7671e-06, 9.5260e-06, 2.6632e-05, 7.0385e-05, 1.7105e-05, 1.3131e-06],
            [1.9180e-05, 1.7297e-04, 1.7847e-05, 2.4313e-06, 6.8356e-07, 1.0972e-07],
        ]
    )
    assert found.shape == (31, 64)
    torch.testing.assert_close(found[[5, 15, 30], 3::12], wanted, rtol=0.02, atol=1e-7)


@pytest.mark.parametrize("frequency", [250.0, 1000.0, 2500.0])
def test_a_tone_is_heard_at_its_place(frequency):
    centre = design(RATE).centres[cochleagram(0.1 * tone(frequency), RATE)[-1].argmax()]
    assert 0.85 * frequency < centre < 1.05 * frequency


def test_loud_sounds_are_held_down():
    quiet, loud = (cochleagram(level * tone(1000), RATE)[-1].max() for level in (0.001, 0.1))
    assert 1 < loud / quiet < 3, "of a hundred"


def test_frames_follow_the_sound_and_silence_is_silent():
    found = cochleagram(torch.cat([torch.zeros(4000), 0.1 * tone(1000, 4000)]), RATE)
    assert found.shape == (62, 64)
    assert not found[:31].any()
    assert found[33:].sum(1).min() > 0
    assert cochleagram(tone(1000, 127), RATE).shape == (0, 64)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: cochleagram(torch.zeros(2, 3), RATE), r"wanted a sound \[samples\]"),
        (lambda: cochleagram(tone(500), RATE, frames=0), "frames above 0"),
        (lambda: cochleagram(tone(500), RATE, quality=0.5), "quality > 0.5"),
        (lambda: cochleagram(tone(500), 10, frames=1), "leave 0 channels"),
        (lambda: cochlear_spikes(tone(500, 100), RATE), "100 samples is too short: a frame takes 128"),
        (lambda: bsa(torch.zeros(3), threshold=1.0), r"threshold must be in \[0, 1\), got 1.0"),
        (lambda: bsa(torch.zeros(3), kernel=torch.zeros(4)), "nonnegative and not all 0"),
        (lambda: bsa(torch.full((3,), math.nan)), "finite"),
    ],
)
def test_what_cannot_be_heard_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def one_by_one(signal, threshold, kernel):
    signal, kernel = signal.tolist(), (kernel.double() / kernel.double().sum()).tolist()
    spikes = [0] * len(signal)
    for i in range(len(signal) - len(kernel) + 1):
        with_spike = sum(abs(signal[i + n] - kernel[n]) for n in range(len(kernel)))
        if with_spike < sum(abs(signal[i + n]) for n in range(len(kernel))) - threshold:
            spikes[i + 1] = 1
            for n in range(len(kernel)):
                signal[i + n] -= kernel[n]
    return spikes


def test_spikes_are_those_of_the_algorithm_channel_by_channel():
    generator = torch.Generator().manual_seed(0)
    signal = torch.rand(90, 3, 2, generator=generator, dtype=torch.float64)
    found = bsa(signal, threshold=0.4)
    assert found.dtype == torch.uint8
    assert 10 < found.sum() < 500
    for a in range(3):
        for b in range(2):
            assert found[:, a, b].tolist() == one_by_one(signal[:, a, b], 0.4, KERNEL)
    assert not bsa(signal[:23]).any(), "no kernel fits"


def test_the_filter_turns_spikes_back_into_the_signal():
    time = torch.arange(600.0)
    signal = 0.3 + 0.2 * torch.sin(2 * math.pi * time / 150)
    spikes = bsa(signal, threshold=0.6).float()
    kernel = KERNEL / KERNEL.sum()
    again = torch.nn.functional.conv1d(spikes[None, None, 1:], kernel.flip(0)[None, None], padding=23)[0, 0, :600]
    error = (again - signal)[50:550].square().mean().sqrt()
    assert error < 0.1
    assert torch.corrcoef(torch.stack((again[50:550], signal[50:550])))[0, 1] > 0.75


def speech(seed, samples):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator) * tone(3, samples)


def test_frames_are_made_two_thousand_times_as_large_and_held_for_ten_steps():
    sound = speech(0, 2400)
    held = cochleagram(sound, RATE).repeat_interleave(10, 0)
    found = cochlear_spikes(sound, RATE)
    assert found.sum() > 20
    assert torch.equal(found, bsa(2000 * held, threshold=0.6))
    assert not torch.equal(found, bsa(1900 * held, threshold=0.6))
    assert torch.equal(cochlear_spikes(sound, RATE, max_steps=70), found[:70])


def test_spoken_digits_come_as_spikes_and_are_kept(tmp_path, monkeypatch):
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        for index in range(2, 7):
            samples = (32767 * speech(10 * digit + index, 1600 + 100 * index)).numpy()
            write(folder / f"{digit}_ann_{index}.wav", samples)
    data = load("spoken-digits-spikes", str(tmp_path), validation=10, max_steps=150)
    assert data.classes == 10
    assert [len(split) for split in (data.train, data.validation, data.test)] == [10, 10, 30]
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs.shape[1:] == (150, 64, 1, 1)
    assert data.train.inputs.float().mean() > 0.005
    assert data.test.lengths.unique().tolist() == [140, 150]
    assert data.train.lengths.unique().tolist() == [150]
    first = spoken.cochlear_spikes(spoken.read_wav(folder / "0_ann_2.wav"), RATE)
    assert torch.equal(data.test.inputs[0, :140, :, 0, 0], first)
    monkeypatch.setattr(spoken, "read_wav", None)
    again = load("spoken-digits-spikes", str(tmp_path), validation=10, max_steps=150)
    assert torch.equal(again.test.inputs, data.test.inputs)
    assert torch.equal(again.test.lengths, data.test.lengths)


def sphere(path, samples, **fields):
    header = {"channel_count": "-i 1", "sample_count": f"-i {len(samples)}", "sample_rate": "-i 12500"}
    header |= {"sample_n_bytes": "-i 2", "sample_byte_format": "-s2 01"} | fields
    text = "NIST_1A\n   1024\n" + "".join(f"{key} {value}\n" for key, value in header.items()) + "end_head\n"
    order = "<i2" if header["sample_byte_format"].endswith("01") else ">i2"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode().ljust(1024) + np.asarray(samples).astype(order).tobytes())


@pytest.fixture
def disc(tmp_path):
    for number, code in enumerate(("00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "0A", "EN")):
        for session, token in (("SE", "T0"), ("SE", "T1"), ("S1", "T0")):
            samples = 3000 * speech(number, 2500).numpy() / 0.1
            sphere(tmp_path / "TI46" / "F1" / f"{code}F1{session}{token}.WAV", samples)
    return tmp_path


def test_ti46_is_read_by_the_names_of_its_files(disc):
    data = load("ti46", str(disc), validation=10)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [10, 10, 10]
    assert data.train.inputs.shape[1:] == (120, 78, 1, 1)
    assert data.test.labels.tolist() == list(range(10))
    assert data.train.inputs.any()


@pytest.mark.parametrize("order", ["01", "10"])
def test_a_sphere_file_gives_its_samples(tmp_path, order):
    sphere(tmp_path / "a.wav", [0, 16384, -32768], sample_byte_format=f"-s2 {order}")
    sound, rate = read_sphere(tmp_path / "a.wav")
    assert rate == 12500
    assert sound.tolist() == [0, 0.5, -1]


@pytest.mark.parametrize(
    ("fields", "cut", "match"),
    [
        ({"channel_count": "-i 2"}, 0, "channel_count 2"),
        ({"sample_coding": "-s26 pcm,embedded-shorten-v2.00"}, 0, "coding pcm,embedded"),
        ({"sample_count": "-i 9"}, 0, "wanted 9 samples, got 3"),
        ({}, 2, "wanted 3 samples, got 2"),
        ({}, 1020, "NIST_1A"),
    ],
)
def test_a_damaged_sphere_file_is_named(tmp_path, fields, cut, match):
    path = tmp_path / "a.wav"
    sphere(path, [1, 2, 3], **fields)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    with pytest.raises(ValueError, match=rf"a\.wav: .*{match}"):
        read_sphere(path)


def test_a_disc_without_sessions_is_refused(disc):
    (disc / "TI46" / "F1" / "0AF1S1T0.WAV").unlink()
    match = "wanted letters of sessions se and s1 to s8, named such as 0af1set0.wav, got 2 files of se and 0 others"
    with pytest.raises(ValueError, match=match):
        load("ti46", str(disc), words="letters", validation=1)
