"""Ask the memory for a row ahead of its use: an instruction that Numba has no name for."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes that come at once


@intrinsic
def _touch(context: Any, row: Any, index: Any) -> Any:
    """Prefetch the cache line that holds `row[index]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        callee = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        # for reading, to be kept in every cache, data
        builder.call(callee, [pointer, ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)])

    return types.void(row, types.intp), generate


@numba.njit(nogil=True, cache=True, error_model="numpy")
def prefetch(row: Any) -> None:
    """Prefetch a contiguous row."""
    step = LINE // row.itemsize
    for i in range(0, row.size, step):
        _touch(row, i)  # type: ignore[call-arg]  # Numba passes the context
