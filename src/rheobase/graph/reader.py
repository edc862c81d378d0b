"""Reads a network of torch: from a module to its layers, or to an error that says what is not understood, and where."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple, NoReturn, cast

from torch import fx, nn

from rheobase.graph import operations as ops
from rheobase.graph.intake import CONSTANT, same, taken_in
from rheobase.graph.layers import INPUT, Add, Cat, Graph, Kind, Layer
from rheobase.graph.shapes import VIEWS, Flat, Mean, Pad, PoolOfSize, Slice, Squeeze, numbers, plain
from rheobase.graph.tracing import Tracer
from rheobase.layers import PerStep
from rheobase.models import Net, Segmented
from rheobase.models.net import Flatten


def read(module: nn.Module, training: bool = False) -> Graph:
    """The layers of a network, copies of what is in it.

    Read are convolutions and linear layers, batch norms, activations, pooling, dropout, flattening, slices, padding by
    zeros, sums and concatenations of branches: as modules, functions or methods, in a module's forward of any form that
    torch.fx can follow. An ANN twin of `rheobase.models` is read too.

    Args:
        module: a network with one input and one output.
        training: whether it must be the same network in training mode, but for dropout and norms.

    Raises:
        TypeError: no module.
        ValueError: it has neurons already, hooks, or something in it that is not understood; the error names the
            module's path and the line.
    """
    owner, module = taken_in(module)
    lead = 1
    if isinstance(module, Net):  # a twin: its layers take [T, B, ...], with a single step
        module, lead = nn.Sequential(*_parts(module)), 2
    elif ops.kind_of(module) is not None:
        module = nn.Sequential(module)
    modes = {part: part.training for part in module.modules()}
    if training:
        same(owner, module, _leaf)
    graph = _Reader(owner, module.eval(), lead).graph()
    for part, mode in modes.items():
        part.training = mode
    return graph


def _parts(twin: Net) -> list[nn.Module]:
    """Features one by one, where they can be, and the head."""
    features: Any = twin.features
    return [*(features if type(features) in (nn.Sequential, Segmented) else [features]), twin.head]


def _leaf(module: nn.Module) -> bool:
    return isinstance(module, PerStep | Flatten) or ops.kind_of(module) is not None


class _Size(NamedTuple):
    """What is known of a number, or of several: they are the sizes of a layer's output along some axes."""

    of: str
    axes: int | slice | None  # (None: it is not known which)


_WHOLE = slice(None)


class _Reader:
    """Reads the operations of one module."""

    def __init__(self, owner: str, module: nn.Module, lead: int) -> None:
        self.owner = owner
        self.lead = lead
        self.root = module
        self.layers: dict[str, Layer] = {}
        self.taken = {path for path, _ in module.named_modules()}
        self.values: dict[fx.Node, str] = {}  # which layer's output a node is
        self.sizes: dict[fx.Node, _Size] = {}  # what is known of a node that is a shape, or a part of one
        self.output = ""

    def graph(self) -> Graph:
        """The layers."""
        nodes = Tracer(_leaf).taken(self.root).nodes
        outside = next(iter(nodes)).meta["modes"]
        for node in nodes:
            for mode, on in node.meta["modes"].items():
                if on != outside[mode]:
                    self._refuse(node, f"it runs under {mode}, which what is read would not")
            getattr(self, f"_{node.op}")(node)
        needed = {self.output}
        for layer in reversed(self.layers.values()):
            if layer.name in needed:
                needed.update(layer.inputs)
        if INPUT not in needed or self.output == INPUT:
            raise ValueError(f"{self.owner} cannot be read: its output does not depend on its input")
        parts = [[one for one in self.layers.values() if (one.name in needed) is used] for used in (True, False)]
        return Graph(self.owner, tuple(parts[0]), self.output, tuple(parts[1]))

    def _place(self, node: fx.Node) -> str:
        """What errors call an operation."""
        path, where = node.meta["path"], node.meta["where"]
        if node.op == "call_module":
            return f"{node.target} ({type(self.root.get_submodule(str(node.target))).__name__}, {where})"
        return f"{ops.name_of(node.target)} in {path or 'its forward'} ({where})"

    def _refuse(self, node: fx.Node, reason: str) -> NoReturn:
        raise ValueError(f"{self.owner} cannot be read: {self._place(node)}: {reason}")

    def _value(self, node: fx.Node, argument: Any) -> str:
        """The layer whose output an argument is."""
        if not isinstance(argument, fx.Node) or argument not in self.values:
            what = "a shape" if argument in self.sizes else f"{argument!r}"
            self._refuse(node, f"its input must be what a layer gives, got {what}")
        return self.values[argument]

    # the five sorts of node

    def _placeholder(self, node: fx.Node) -> None:
        if not self.values:
            self.values[node] = INPUT
        elif node.users:
            raise ValueError(f"{self.owner} cannot be read: it takes more than one input, {node.target!r} besides")

    def _get_attr(self, node: fx.Node) -> None:
        user = next(iter(node.users), None)
        where = node if user is None else user
        if CONSTANT.search(str(node.target)):
            self._refuse(where, "it uses a tensor that the forward makes; constants must be plain numbers")
        self._refuse(where, f"it uses {node.target!r} by itself; parameters and buffers must be those of layers")

    def _output(self, node: fx.Node) -> None:
        argument = node.args[0]
        if not isinstance(argument, fx.Node) or argument not in self.values:
            raise ValueError(f"{self.owner} cannot be read: it must give one tensor, got {argument!r}")
        self.output = self.values[argument]

    def _call_module(self, node: fx.Node) -> None:
        name, module, lead = str(node.target), self.root.get_submodule(str(node.target)), self.lead
        if len(node.args) + len(node.kwargs) != 1:
            self._refuse(node, "it takes one input")
        value = self._value(node, next(iter((*node.args, *node.kwargs.values()))))
        if isinstance(module, PerStep):
            module, lead = module.module, 1
        elif isinstance(module, Flatten):
            module, lead = nn.Flatten(), 1
        inner = list(module.named_modules()) if type(module) is nn.Sequential else [("", module)]
        for path, part in inner:
            if type(part) is not nn.Sequential:
                value = self._module(node, f"{name}.{path}" if path else name, part, value, lead)

    def _module(self, node: fx.Node, name: str, module: nn.Module, value: str, lead: int) -> str:
        found = ops.kind_of(module)
        if found is None:
            known = any(cls in ops.MODULES for cls in type(module).__mro__)
            self._refuse(node, "it has a forward of its own" if known else f"{type(module).__name__} is not known")
        cls, kind = found
        if cls is nn.Identity:
            self.values[node] = value
            return value
        why = _unfit(module)
        if why:
            self._refuse(node, why)
        if cls is nn.Flatten:
            module = self._flatten(node, module.start_dim, module.end_dim, lead)  # type: ignore[arg-type]
        elif cls in ops.PADS:
            module = Pad(module.padding, self._place(node))  # type: ignore[arg-type]
        return self._add(node, name, kind, module, (value,), bool(getattr(module, "inplace", False)))

    def _call_method(self, node: fx.Node) -> None:
        self._call_function(node)

    def _call_function(self, node: fx.Node) -> None:
        target = node.target
        if target in ops.SHAPE:
            self._shape(node)
        elif target == "contiguous":
            self.values[node] = self._value(node, node.args[0])
        elif target in ops.ADD:
            if len(node.args) != 2 or node.kwargs:
                self._refuse(node, f"of two values alone, got {node.args[2:]} {node.kwargs}")
            inputs = tuple(self._value(node, one) for one in node.args)
            self._placed(node, "add", Add(), inputs, target in ops.IN_PLACE or target == "add_")
        elif target in ops.CAT:
            self._cat(node)
        elif target in ops.MEAN:
            self._mean(node)
        elif target in ops.RESHAPE:
            self._reshape(node)
        elif target in ops.SQUEEZE:
            self._squeeze(node)
        elif target in ops.PAD:
            self._pad(node)
        elif target == "unsqueeze":
            self._time(node)
        elif target in ops.FUNCTIONS:
            self._known(node, ops.FUNCTIONS[target])
        else:
            self._refuse(node, "it is not known")

    # operations

    def _known(self, node: fx.Node, function: ops.Function) -> None:
        value = self._value(node, node.args[0] if node.args else node.kwargs.get("input"))
        kwargs = {name: argument for name, argument in node.kwargs.items() if name != "input"}
        if function.module in ops.POOLS_OF_SIZE and self._pool_of_size(node, function, value, kwargs):
            return
        if len(node.all_input_nodes) > 1:
            self._refuse(node, "its arguments must be plain numbers, and one depends on the input or a shape")
        try:
            given = ops.bound(function.arguments, node.args[1:], kwargs)
            inplace = bool(given.pop("inplace", False)) or node.target in ops.IN_PLACE or _underscored(node.target)
            if given.pop("training", False):
                self._refuse(node, "dropout that is on in evaluation too")
            if given.get("return_indices"):
                self._refuse(node, "its indices are not known")
            if function.module is nn.Flatten:
                module: nn.Module = self._flatten(node, given.get("start_dim", 0), given.get("end_dim", -1), self.lead)
            else:
                module = function.module(**given)
        except (TypeError, ValueError) as error:
            if str(error).startswith(self.owner):
                raise
            self._refuse(node, str(error))
        self._placed(node, function.kind, module, (value,), inplace)

    def _pool_of_size(self, node: fx.Node, function: ops.Function, value: str, kwargs: dict[str, Any]) -> bool:
        """Average pooling over a size of its own input, as `F.avg_pool2d(x, x.size()[3])`."""
        kernel = kwargs.get("kernel_size", node.args[1] if len(node.args) > 1 else None)
        size = self.sizes.get(kernel) if isinstance(kernel, fx.Node) else None
        if size is None or size.of != value or size.axes is None or len(node.args) + len(kwargs) != 2:
            return False
        if not (size.axes.start if isinstance(size.axes, slice) else size.axes):  # the batch's too
            return False
        module = PoolOfSize(ops.POOLS_OF_SIZE[function.module], size.axes, self._place(node))
        self._placed(node, function.kind, module, (value,))
        return True

    def _placed(
        self, node: fx.Node, kind: Kind, module: nn.Module, inputs: tuple[str, ...], inplace: bool = False
    ) -> None:
        """What a function or a method does, as a layer."""
        self._add(node, self._path(node), kind, module, inputs, inplace)

    def _bound(self, node: fx.Node, *names: str) -> dict[str, Any]:
        """The node's arguments by these names."""
        try:
            return ops.bound(names, node.args, dict(node.kwargs))
        except ValueError as error:
            self._refuse(node, str(error))

    def _cat(self, node: fx.Node) -> None:
        given = self._bound(node, "tensors", "dim")
        dim = given.get("dim", 0)
        if not isinstance(dim, int) or not (dim < 0 or dim >= self.lead):
            self._refuse(node, f"along the batch, or what is not known, got dim={dim}")
        inputs = tuple(self._value(node, one) for one in given["tensors"])
        self._placed(node, "cat", Cat(dim if dim < 0 else dim - self.lead + 1, self._place(node)), inputs)

    def _mean(self, node: fx.Node) -> None:
        given = self._bound(node, "input", "dim", "keepdim")
        dims = given.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        if not dims or not all(isinstance(d, int) and (d < 0 or d >= self.lead) for d in dims):
            self._refuse(node, f"over the batch, or what is not known, got dim={given.get('dim')}")
        dims = tuple(d if d < 0 else d - self.lead + 1 for d in dims)
        value = self._value(node, given["input"])
        self._placed(node, "pool", Mean(dims, bool(given.get("keepdim", False)), self._place(node)), (value,))

    def _flatten(self, node: fx.Node, start: int, end: int, lead: int) -> nn.Flatten:
        if start < lead or end != -1:
            self._refuse(node, f"it must keep the batch and flatten all the rest, got start_dim={start}, end_dim={end}")
        return nn.Flatten(start - lead + 1)

    def _reshape(self, node: fx.Node) -> None:
        shape: Any = node.args[1:] if len(node.args) != 2 else node.args[1]
        if isinstance(shape, tuple | list) and len(shape) == 2 and self.lead == 1 and not node.kwargs:
            batch, features = shape
            kept = batch in self.sizes and self.sizes[batch].axes == 0
            if kept and features == -1:
                self._moved(node, nn.Flatten())
                return
            if (kept or batch == -1) and type(features) is int and features > 0:
                self._moved(node, Flat(features, self._place(node)))
                return
        self._refuse(node, "of reshapes, only x.view(x.size(0), -1) and x.view(-1, features) are known")

    def _squeeze(self, node: fx.Node) -> None:
        dims = self._bound(node, "input", "dim").get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        if not dims or not all(type(d) is int and (d < 0 or d >= self.lead) for d in dims) or self.lead != 1:
            self._refuse(node, f"of axes that are not told, or the batch, which may be one, got dim={dims}")
        self._moved(node, Squeeze(tuple(dims), self._place(node)))

    def _pad(self, node: fx.Node) -> None:
        given = self._bound(node, "input", "pad", "mode", "value")
        pad = given["pad"]
        known = isinstance(pad, tuple | list) and all(type(n) is int for n in pad) and len(pad) in (2, 4, 6)
        if not known or given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0):
            self._refuse(node, "of padding, only that by zeros, of one to three axes by plain numbers, is known")
        self._placed(node, "pool", Pad(tuple(pad), self._place(node)), (self._value(node, given["input"]),))

    def _moved(self, node: fx.Node, module: nn.Module) -> None:
        value = self._value(node, node.args[0] if node.args else node.kwargs.get("input"))
        self._placed(node, "shape", module, (value,))

    def _shape(self, node: fx.Node) -> None:
        """What is known of a shape: which axis of what a number is."""
        of, *rest = cast("tuple[Any, ...]", node.args)
        if of in self.values and node.target is operator.getitem:
            self._index(node)
        elif of in self.values and node.target in ("size", getattr) and rest in ([], ["shape"]) and not node.kwargs:
            self.sizes[node] = _Size(self.values[of], _WHOLE)
        elif of in self.values and node.target == "size" and len(rest) == 1 and type(rest[0]) is int:
            self.sizes[node] = _Size(self.values[of], rest[0])
        elif of in self.sizes and self.sizes[of].axes == _WHOLE and numbers(*rest):
            self.sizes[node] = self.sizes[of]._replace(axes=rest[0])
        elif of in self.values and node.target is getattr:
            self._refuse(node, f"{rest[0]!r} of a tensor is not known")
        else:
            self.sizes[node] = _Size("", None)

    def _index(self, node: fx.Node) -> None:
        """Some of the values behind the batch's axis."""
        index = plain(node.args[1])
        if index is None or self.lead != 1:
            self._time(node)
        else:
            self._moved(node, Slice(index))

    def _time(self, node: fx.Node) -> None:
        """A time axis of one step in front of the logits, as `rheobase.train` wants it: not a layer."""
        value, *rest = node.args
        last = all(user.op == "output" for user in node.users)
        front = [0] if node.target == "unsqueeze" else [None]
        if self.lead != 1 or not last or rest != front or node.kwargs:
            self._refuse(
                node, "of indexing, only x[:, ...] by plain numbers, and logits.unsqueeze(0) at the end, are known"
            )
        self.values[node] = self._value(node, value)

    # layers

    def _path(self, node: fx.Node) -> str:
        path, name = node.meta["path"], ops.name_of(node.target)
        return f"{path}.{name}" if path else name

    def _add(
        self, node: fx.Node, name: str, kind: Kind, module: nn.Module, inputs: tuple[str, ...], inplace: bool
    ) -> str:
        """A layer of that name, or where there is one, of that name and a number."""
        taken = self.layers.keys() if node.op == "call_module" else self.layers.keys() | self.taken
        free, number = name, 1
        while free in taken:
            number += 1
            free, taken = f"{name}_{number}", self.layers.keys() | self.taken
        if inplace:
            self._overwrite(node, inputs[0], free)
            module.inplace = False  # type: ignore[assignment]
        self.layers[free] = Layer(free, kind, module, inputs, node.meta["where"])
        self.values[node] = free
        return free

    def _overwrite(self, node: fx.Node, old: str, new: str) -> None:
        """What is changed in place is the new value for all that read it from now on, under whatever name."""
        memory = self._memory(old)
        for other, value in self.values.items():
            if value == old:
                self.values[other] = new
            elif self._memory(value) == memory and self._later(node, other):
                what = value or "its input"
                self._refuse(node, f"it changes in place what may be the same memory as {what!r}, which is used later")

    def _memory(self, name: str) -> str:
        """The layer whose output that of a view is a part of."""
        layer = self.layers.get(name)
        while layer is not None and (layer.kind == "dropout" or isinstance(layer.module, VIEWS)):
            name = layer.inputs[0]
            layer = self.layers.get(name)
        return name

    @staticmethod
    def _later(node: fx.Node, other: fx.Node) -> bool:
        return any(user > node for user in other.users)


def _underscored(target: Any) -> bool:
    return isinstance(target, str) and target.endswith("_")


def _unfit(module: Any) -> str:
    """Why a module of a known class is not understood."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if module.running_mean is None:
            return "a norm without running statistics is not known"
        if module.momentum is None:
            return "a norm whose running statistics are a mean over all batches (momentum=None) is not known"
    if getattr(module, "return_indices", False):
        return "its indices are not known"
    if getattr(module, "value", 0) != 0:  # (of a padding)
        return "padding by anything but zeros is not known"
    return ""
