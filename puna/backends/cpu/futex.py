"""How a thread sleeps until another one changes a number in memory: futex(2) of Linux, called from compiled code.

A thread that yields its core instead stays runnable: the system takes that for a wish to run last, and gives the core to another
program for a whole time slice (milliseconds), at each of some 200 barriers of a step. A thread that sleeps keeps its claim, and
runs at once when it is woken. Where there is no futex (macOS, Windows), threads yield.
"""

from __future__ import annotations

import sys
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from puna.backends.cpu.simd import build_call

# Machine -> number of the system call (the kernel's `syscall.tbl` and `asm-generic/unistd.h`). All little-endian: the low half of
# an int64 lies at its own address.
CALL_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
CALL_NUMBER = CALL_NUMBERS.get(llvm.get_process_triple().split("-")[0], 0) if sys.platform == "linux" else 0
WAIT, WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE, each with FUTEX_PRIVATE_FLAG: the threads are of one process
ALL = (1 << 31) - 1
YIELD = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_NONE = _I64(0)


def _call(builder: Any, address: Any, operation: int, value: Any, limit: Any = _NONE) -> None:
    """syscall(SYS_futex, address, operation, value, limit), or a yield. The compiler knows that memory may change meanwhile."""
    if CALL_NUMBER:
        build_call(builder, "syscall", _I64, _I64(CALL_NUMBER), address, _I64(operation), value, limit)
    else:
        build_call(builder, YIELD, _I32)


def _sleep_while(typing: Any, address: Any, value: Any) -> Any:
    """Sleep while the low 32 bits at `address` are those of `value`; may return early."""

    def typed(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _call(builder, values[0], WAIT, values[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), typed


def _sleep_for(typing: Any, address: Any, value: Any, limit: Any) -> Any:
    """The same, at most as long as the C `timespec` at `limit` says."""

    def typed(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _call(builder, values[0], WAIT, values[1], values[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), typed


def _wake_all(typing: Any, address: Any) -> Any:
    """Wake all threads that sleep at `address`."""

    def typed(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if CALL_NUMBER:
            _call(builder, values[0], WAKE, _I64(ALL))
        return context.get_dummy_value()

    return types.void(types.int64), typed


sleep_while: Any = intrinsic(_sleep_while)
sleep_for: Any = intrinsic(_sleep_for)
wake_all: Any = intrinsic(_wake_all)
