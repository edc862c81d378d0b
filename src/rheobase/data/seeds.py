"""Randomness as a function: a seed from what it is for; and where it is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
HOST = torch.device("cpu")


def on_host(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with indices and random numbers on the CPU whatever torch's default device is."""

    @wraps(function)
    def within(*arguments: P.args, **options: P.kwargs) -> R:
        with HOST:
            return function(*arguments, **options)

    return within


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed, a function of its parts: seed_of("order", 7, 0). The same on every machine and version."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
