"""Contexts in which a model is looked into or told something are not for compiled code, which would not see them."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def eagerly() -> AbstractContextManager[Any]:
    """Within it, what `torch.compile` has compiled runs as it was written."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
