"""Instructions that Numba has no name for."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.np.arrayobj import populate_array

from rheobase.kernels.numba.jit import exact

LINE = 64  # bytes that come at once
intrinsic: Any = _intrinsic  # its own type asks callers for the context, which Numba passes


@exact
def least(a: int, b: int) -> int:
    """The smaller one. (Numba's `min` takes two functions to compile.)"""
    return a if a < b else b


def _view(context: Any, builder: Any, kind: Any, data: Any, size: Any) -> Any:
    """An array of this type on memory that is another's: it does not keep it alive."""
    array = context.make_array(kind)(context, builder)
    item = context.get_constant(types.intp, context.get_abi_sizeof(data.type.pointee))
    populate_array(array, data=data, shape=[size], strides=[item], itemsize=item, meminfo=None)
    return array._getvalue()


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Pointer to element arguments[1] of the array arguments[0]."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def array(context: Any, address: Any, size: Any, element: Any) -> Any:
    """The array at an address. (Numba's `carray` and a slice are functions to compile; these two are not.)"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = builder.inttoptr(arguments[0], context.get_data_type(element.dtype).as_pointer())
        return _view(context, builder, signature.return_type, data, arguments[1])

    return types.Array(element.dtype, 1, "C")(types.int64, types.intp, element), generate


@intrinsic
def row(context: Any, array: Any, start: Any, size: Any) -> Any:
    """`array[start : start + size]`, unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = _place(context, builder, signature, arguments)
        return _view(context, builder, signature.return_type, data, arguments[2])

    return array(array, types.intp, types.intp), generate


def _counted(field: int, order: str) -> Any:
    """The value of one of a job's first fields, which is counted up whichever thread asks."""

    def typed(context: Any, job: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            fields = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
            counter = builder.gep(fields, [ir.Constant(ir.IntType(32), field)])
            return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), order)

        return types.int64(job), generate

    return intrinsic(typed)


take = _counted(0, "monotonic")  # the number of the next piece
enter = _counted(2, "monotonic")  # the number of a thread, by which it has its own scratch
finish = _counted(1, "acq_rel")  # how many pieces were finished before; who finishes the last sees what all wrote


@intrinsic
def _at(context: Any, array: Any, index: Any) -> Any:
    """Pointer to `array[index]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _place(context, builder, signature, arguments)

    return types.CPointer(array.dtype)(array, types.intp), generate


@intrinsic
def _touch(context: Any, address: Any) -> Any:
    """Prefetch the cache line of an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        start = builder.bitcast(arguments[0], cgutils.voidptr_t)
        i32 = ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [start.type, i32, i32, i32])
        callee = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        # for reading, to be kept in every cache, data
        builder.call(callee, [start, ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)])

    return types.void(address), generate


@exact
def prefetch(array: Any, start: int, size: int) -> None:
    """Ask the memory for a row ahead of its use."""
    for i in range(start, start + size, LINE // array.itemsize):
        _touch(_at(array, i))


@intrinsic
def _number(context: Any, address: Any) -> Any:
    """A pointer as an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(address), generate


@intrinsic
def _stream(context: Any, source: Any, target: Any, lines: Any) -> Any:
    """Copy whole lines to an address that is a multiple of a line."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        line = ir.VectorType(ir.FloatType(), LINE // 4)
        old, new = (builder.bitcast(address, line.as_pointer()) for address in arguments[:2])
        past = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with cgutils.for_range(builder, arguments[2]) as loop:
            value = builder.load(builder.gep(old, [loop.index]), align=2)
            store = builder.store(value, builder.gep(new, [loop.index]), align=LINE)
            store.set_metadata("nontemporal", past)

    return types.void(source, target, types.intp), generate


@exact
def stream(source: Any, target: Any, start: int, size: int) -> None:
    """`target[start : start + size] = source[:size]`, past the caches: memory need not be read before it is written.

    Other threads may read it after a `fence`.
    """
    lanes = LINE // target.itemsize
    head = least(size, -(_number(_at(target, start)) // target.itemsize) % lanes)
    lines = (size - head) // lanes
    for i in range(head):
        target[start + i] = source[i]
    _stream(_at(source, head), _at(target, start + head), lines)
    for i in range(head + lines * lanes, size):
        target[start + i] = source[i]


@intrinsic
def fence(context: Any) -> Any:
    """What was written before can be seen by all threads."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        builder.fence("seq_cst")

    return types.void(), generate
