"""Instructions that Numba has no name for."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from rheobase.kernels.jit import exact

LINE = 64  # bytes that come at once


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    """An integer as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def take(context: Any, job: Any) -> Any:
    """The number of the next piece of a job: its first field, which is counted up whichever thread asks."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        counter = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(job), generate


@intrinsic
def _at(context: Any, array: Any, index: Any) -> Any:
    """Pointer to `array[index]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.gep(array.data, [arguments[1]])

    return types.CPointer(array.dtype)(array, types.intp), generate


@exact
def row(array: Any, start: int, size: int) -> Any:
    """`array[start : start + size]`, unchecked: a slice takes ten times as long to compile.

    It does not keep the array alive.
    """
    return carray(_at(array, start), size)  # type: ignore[call-arg]  # Numba passes the context


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
        _touch(_at(array, i))  # type: ignore[call-arg]
