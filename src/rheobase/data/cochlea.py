"""Lyon's passive model of the cochlea, as the Auditory Toolbox designs it (Lyon 1982; Slaney 1988, 1998)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rheobase.compiled import compiled

Array = np.ndarray[Any, Any]
BREAK = 1000.0  # Hz: above it bandwidth grows with frequency, below it stays
SHARPNESS = 5.0  # of the zeros, as a multiple of the quality of a pole at the same place
OFFSET = 1.5  # of a zero above its pole, in steps
FRONT = 300.0  # Hz: corner of the outer ear's high pass
TARGETS = np.array([0.0032, 0.0016, 0.0008, 0.0004])
SECONDS = np.array([0.64, 0.16, 0.04, 0.01])
LIMIT = 0.9  # of a gain control's state
SMOOTH = 3.0  # time constant of the last low pass, in frames


class Design(NamedTuple):
    """Filters of the cascade, `[F, 5]` as b0, b1, b2, a1, a2: two of the outer ear, then one a channel; its centres."""

    filters: Array
    centres: Array


def design(rate: int, quality: float = 8.0, step: float = 0.25) -> Design:
    """The filters of an ear.

    With E = 1000 Hz, the bandwidth at f is sqrt(f^2 + E^2) / quality, and centres are `step` of it apart, from near
    rate / 2 down to E / sqrt(4 quality^2 - 1). Each channel has a pole at its centre, of quality centre / bandwidth,
    and a zero OFFSET steps above; the gain of its stage at 0 Hz is the ratio of the centre before to its own.

    Raises:
        ValueError: a number out of range.
    """
    if not (rate > 0 and quality > 0.5 and 0 < step <= 1):
        raise ValueError(f"cochlea: wanted rate > 0, quality > 0.5, 0 < step <= 1, got {rate}, {quality}, {step}")
    below = math.hypot(rate / 2, BREAK) / quality * step
    top = rate / 2 - below * OFFSET + below
    high = top + math.hypot(top, BREAK)
    low = BREAK / math.sqrt(4 * quality**2 - 1)
    count = int(quality * (math.log(high) - math.log(low + math.hypot(low, BREAK))) / step)
    if count < 2:
        raise ValueError(f"cochlea: rate={rate}, quality={quality}, step={step} leave {max(count, 0)} channels, not 2")
    shrink = np.exp(np.arange(1, count + 1) * step / quality)
    centres = (high / shrink - BREAK**2 * shrink / high) / 2
    width = np.hypot(centres, BREAK) / quality
    above = centres + width * step * OFFSET
    poles = _resonance(centres, centres / width, rate)
    stages = np.hstack((_resonance(above, SHARPNESS * above / width, rate), poles[:, 1:]))
    ratios = centres[:-1] / centres[1:]
    stages = _scaled(stages, np.concatenate((ratios[:1], ratios)), 0.0)
    outer = np.array([[0.0, 1.0, -math.exp(-2 * math.pi * FRONT / rate), 0.0, 0.0]])
    middle = np.hstack(([[1.0, 0.0, -1.0]], _resonance(np.array([top]), centres[:1] / width[:1], rate)[:, 1:]))
    front = _scaled(np.vstack((outer, middle)), np.ones(2), 0.25)
    return Design(np.vstack((front, stages)), centres)


def _resonance(frequency: Array, quality: Array, rate: int) -> Array:
    """1, -2 r cos a, r^2 `[N, 3]`: a pair of poles, or of zeros, at such a frequency."""
    radius = np.exp(-np.pi * frequency / (rate * quality))
    angle = 2 * np.pi * frequency / rate * np.sqrt(1 - 1 / (4 * quality**2))
    return np.stack((np.ones_like(radius), -2 * radius * np.cos(angle), radius**2), 1)


def _scaled(filters: Array, gains: Array, frequency: float) -> Array:
    """With these gains at a frequency, a share of the rate."""
    z = np.exp(-2j * np.pi * frequency * np.arange(3))
    now = np.abs(filters[:, :3] @ z) / np.abs(z[0] + filters[:, 3:] @ z[1:])
    return np.hstack((filters[:, :3] * (gains / now)[:, None], filters[:, 3:]))


def cochleagram(sound: Tensor, rate: int, *, frames: float = 62.5, quality: float = 8.0, step: float = 0.25) -> Tensor:
    """What the nerves of the ear's channels carry, float32 `[T, channels]`, of a sound `[samples]` in -1 ... 1.

    The sound runs down a cascade of filters (`design`), highest centre first; what each passes on is rectified, four
    gain controls in a row, 0.64 s to 10 ms fast, hold it near their targets, each coupled to its neighbours; each
    channel loses what the next one has, is rectified again and smoothed, and one of `rate / frames` samples is kept.

    Args:
        sound: samples.
        rate: samples a second: 64 channels at 8,000, 78 at 12,500, 86 at 16,000.
        frames: a second.
        quality: of the resonances.
        step: distance of channels, as a share of their bandwidth.

    Raises:
        ValueError: a number out of range.
    """
    every = round(rate / frames) if frames > 0 else 0
    if sound.dim() != 1 or every < 1:
        raise ValueError(
            "cochleagram: wanted a sound [samples] and frames above 0, at most one a sample, got "
            f"{list(sound.shape)} and {frames} frames at {rate} samples a second"
        )
    filters = design(rate, quality, step).filters
    pace = 1 - np.exp(-1 / (SECONDS * rate))
    smooth = math.exp(-1 / (SMOOTH * every))
    found = _heard(sound.double().cpu().numpy(), filters, pace, pace / TARGETS, smooth, every)
    return torch.from_numpy(found[:, 2:].astype(np.float32))


@compiled
def _heard(sound: Array, filters: Array, pace: Array, hold: Array, smooth: float, every: int) -> Array:
    """Frames `[len(sound) // every, F]`, those of the outer ear's filters first."""
    count = len(filters)
    found = np.zeros((len(sound) // every, count))
    early, late = np.zeros(count), np.zeros(count)  # what a filter keeps from a sample to the next
    control = np.zeros((len(pace), count))
    first, second = np.zeros(count), np.zeros(count)  # of the two low passes
    now = np.zeros(count)
    for sample in range(len(found) * every):
        value = sound[sample]
        for at in range(count):
            passed = filters[at, 0] * value + early[at]
            early[at] = filters[at, 1] * value - filters[at, 3] * passed + late[at]
            late[at] = filters[at, 2] * value - filters[at, 4] * passed
            value = passed
            now[at] = max(passed, 0.0)
        for stage in range(len(pace)):
            state, share = control[stage], (1 - pace[stage]) / 3
            left = state[0]
            for at in range(count):
                now[at] *= 1 - state[at]
                right = state[min(at + 1, count - 1)]
                new = hold[stage] * now[at] + share * (left + state[at] + right)
                left = state[at]
                state[at] = min(new, LIMIT)
        before = now[0]
        for at in range(count):
            own = now[at]
            difference = own if at == 0 else max(before - own, 0.0)
            before = own
            first[at] += (1 - smooth) * (difference - first[at])
            second[at] += (1 - smooth) * (first[at] - second[at])
        if (sample + 1) % every == 0:
            found[sample // every] = second
    return found
