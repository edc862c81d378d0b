import math
import wave

import numpy as np
import pytest
import torch

from rheobase.data import load, log_mel
from rheobase.data.sounds import mel_bands, read_wav

RATE = 8000


def write(path, samples, rate=RATE, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


def tone(frequency, samples=RATE):
    return torch.sin(2 * math.pi * frequency * torch.arange(samples) / RATE)


def centres(mels):
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    return [700 * (10 ** (top * (band + 1) / (mels + 1) / 2595) - 1) for band in range(mels)]


@pytest.mark.parametrize("band", [3, 10, 20, 38])
def test_a_pure_tone_lights_its_band(band):
    frames = log_mel(tone(centres(40)[band]), RATE)
    assert frames.shape == (1 + (RATE - 200) // 80, 40)
    assert (frames.argmax(1) == band).all()


def test_energy_grows_with_the_square_of_the_sound_and_silence_is_the_offset():
    sound = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    quiet, loud = log_mel(sound, RATE, offset=1e-12), log_mel(3 * sound, RATE, offset=1e-12)
    torch.testing.assert_close(loud - quiet, torch.full_like(quiet, math.log(9)), atol=1e-4, rtol=0)
    torch.testing.assert_close(log_mel(torch.zeros(2000), RATE), torch.full((23, 40), math.log(1e-6)))


def test_the_energy_is_that_of_the_window():
    """Parseval: over all bands but the edges, mean |X|^2 of white noise is the variance."""
    sound = 0.5 * torch.randn(100_000, generator=torch.Generator().manual_seed(2))
    energy = log_mel(sound, RATE).exp().mean(0) / mel_bands(40, 512, RATE).sum(1)
    torch.testing.assert_close(energy, torch.full((40,), 0.25), rtol=0.15, atol=0)


def test_bands_share_each_frequency_between_two_neighbours():
    bands = mel_bands(20, 512, RATE)
    first, last = centres(20)[0], centres(20)[-1]
    between = [k for k in range(257) if first <= k * RATE / 512 <= last]
    torch.testing.assert_close(bands[:, between].sum(0), torch.ones(len(between)))
    assert ((bands > 0).sum(0) <= 2).all()


def test_frames_follow_the_sound_and_a_short_one_is_filled_up():
    sound = torch.cat([torch.zeros(4000), tone(1000, 4000)])
    loudness = log_mel(sound, RATE).exp().sum(1)
    assert loudness[:47].max() < 1e-3 < loudness[51:].min()
    assert log_mel(tone(500, 10), RATE).shape == (1, 40)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"mels": 0}, "mels >= 1"), ({"hop": 0}, "at least one sample"), ({"mels": 400}, "mels=400 are more bands")],
)
def test_bad_transforms_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        log_mel(tone(500), RATE, **options)


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        for place, speaker in enumerate(("ann", "bob", "eve")):
            for index in range(4, 8):
                write(
                    folder / f"{digit}_{speaker}_{index}.wav", 9000 * tone(300 + 50 * digit, 400 + 80 * (index + place))
                )
    return folder


def test_official_split_and_lengths(recordings):
    data = load("spoken-digits", str(recordings.parents[1]))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [81, 9, 30]
    assert data.test.labels.bincount().tolist() == [3] * 10
    assert data.train.inputs.shape[1:] == (1 + (400 + 80 * 9 - 200) // 80, 40, 1, 1)
    assert sorted(data.test.lengths.unique().tolist()) == [7, 8, 9]  # recordings 4 of 720, 800 and 880 samples
    assert data.channels == 40
    for sample, length in zip(data.test.inputs, data.test.lengths, strict=True):
        assert not sample[length:].any()
        assert sample[:length].flatten(1).any(1).all()


def test_speakers_can_be_held_out(recordings):
    data = load("spoken-digits", str(recordings), split="speaker:eve", validation=10)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [70, 10, 40]
    assert sorted(data.test.lengths.unique().tolist()) == [9, 10, 11, 12]
    two = load("spoken-digits", str(recordings), split="speaker:ann,eve")
    assert len(two.test) == 80
    for wrong in ("speaker:joe", "speakers", "speaker:ann,bob,eve"):
        with pytest.raises(ValueError, match=rf"of the speakers ann, bob, eve, got '{wrong}'"):
            load("spoken-digits", str(recordings), split=wrong)


def test_a_damaged_or_other_file_is_named(recordings, tmp_path):
    good = (recordings / "3_bob_5.wav").read_bytes()
    bad = recordings / "3_bob_5.wav"
    for content, match in (
        (good[:-100], "is damaged: wanted [0-9]+ samples, got"),
        (good[:10], "not a whole wav file"),
        (b"", "not a whole wav file"),
        (b"junk" * 100, "not a whole wav file"),
    ):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=f"3_bob_5.wav: .*{match}"):
            load("spoken-digits", str(recordings))
    write(bad, tone(300), rate=16000)
    with pytest.raises(
        ValueError, match="3_bob_5.wav: wanted 1 channel of 16 bits at 8000 Hz, got 1 of 16 at 16000 Hz"
    ):
        read_wav(bad)
    write(bad, [])
    with pytest.raises(ValueError, match="3_bob_5.wav: .*wanted some samples, got 0"):
        read_wav(bad)


def test_a_file_of_another_name_and_a_missing_digit_are_named(recordings):
    for path in recordings.glob("7_*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match="wanted training samples of all 10 classes, got none of 7"):
        load("spoken-digits", str(recordings))
    write(recordings / "x_y_z.wav", tone(300))
    with pytest.raises(ValueError, match="wanted a name DIGIT_SPEAKER_INDEX.wav, got x_y_z.wav"):
        load("spoken-digits", str(recordings))


def test_a_wrong_folder_says_what_is_there(tmp_path):
    (tmp_path / "songs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"wanted \S*fsdd/recordings/\*_\*_\*.wav; .* holds songs"):
        load("spoken-digits", str(tmp_path))
