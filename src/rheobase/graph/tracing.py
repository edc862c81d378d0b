"""A module's forward pass taken down by torch.fx, each operation with the module and the line that it stands in."""

from __future__ import annotations

import operator
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from rheobase.chance import forked, state

_LIBRARIES = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"), str(Path(__file__).parent), "<")


class _Value(fx.Proxy):
    """A proxy that takes down `x += y` as what it is: fx takes it for `x = x + y`, which leaves the old x alone."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class Tracer(fx.Tracer):
    """Takes a module down.

    Args:
        leaf: whether a module is one operation.
    """

    def __init__(self, leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._leaf = leaf
        self._paths: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether it is one operation."""
        return self._leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a node's value."""
        return _Value(node, self)

    def create_args_for_root(self, *args: Any, **options: Any) -> Any:
        """What the forward is called with: its input, and its options, which have defaults, as these are."""
        function, found = super().create_args_for_root(*args, **options)
        inputs = [one for one in found if isinstance(one, fx.Proxy)]
        plain = {one: one.node.args[0] for one in inputs[1:] if one.node.op == "placeholder" and one.node.args}
        return function, [plain.get(one, one) if isinstance(one, fx.Proxy) else one for one in found]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module that is called: its path is that of what happens in it."""
        self._paths.append(self.path_of_module(m))
        found = super().call_module(m, forward, args, kwargs)
        self._paths.pop()  # (not where it failed: the path tells where)
        return found

    def create_node(self, *args: Any, **options: Any) -> fx.Node:
        """A node that knows where it stands."""
        node = super().create_node(*args, **options)
        node.meta["path"] = self._paths[-1] if self._paths else ""
        node.meta["modes"] = _modes()
        frame: Any = sys._getframe()
        while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
            frame = frame.f_back
        node.meta["where"] = "" if frame is None else _line(frame.f_code.co_filename, frame.f_lineno)
        return node

    def taken(self, module: nn.Module) -> fx.Graph:
        """The operations of a module.

        Raises:
            ValueError: it does what cannot be taken down, such as a choice that depends on its input.
        """
        try:
            with forked(0):
                before = state()
                graph = self.trace(module)
                if state() != before:
                    raise ValueError("it draws random numbers, to choose what to do")
                return graph
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
            where = _line(frames[-1].filename, frames[-1].lineno or 0) if frames else "where it is called"
            path = (self._paths[-1] if self._paths else "") or "its forward"
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{type(module).__name__} cannot be read: {path} ({where}): {type(error).__name__}: {reason}. What it "
                "does must not depend on values or shapes of its input"
            ) from error


def _modes() -> dict[str, bool]:
    """What the operations that are written now run under."""
    return {
        "torch.no_grad()": not torch.is_grad_enabled(),
        "torch.inference_mode()": torch.is_inference_mode_enabled(),
        "torch.autocast": torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
    }


def _line(file: str, number: int) -> str:
    return f"{Path(file).name}, line {number}"
