"""256-bit vectors inside Numba, as LLVM instructions. Memory is named by its address (an int64).

A kernel in Python loops is 5 to 10 times slower than the same with these (docs/LOG.md). Each operation is one or a few LLVM
instructions. Where LLVM does not find an x86 instruction by itself, the operation calls it by name, and `PORTABLE` computes the
same numbers with plain vector instructions on any other CPU. All integer results are exact, so both agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from puna.backends.cpu.host import PORTABLE

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()


class Vector(types.Type):
    """A SIMD value: it lives in a register, and Python never sees it."""

    def __init__(self, name: str, element: ir.Type, lanes: int) -> None:
        super().__init__(name=f"{name}x{lanes}")
        self.llvm = ir.VectorType(element, lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


I8x32, I16x16, I32x8, F32x8 = Vector("i8", _I8, 32), Vector("i16", _I16, 16), Vector("i32", _I32, 8), Vector("f32", _F32, 8)
I16x8 = Vector("i16", _I16, 8)
I8x64, I32x16, F32x16 = Vector("i8", _I8, 64), Vector("i32", _I32, 16), Vector("f32", _F32, 16)
_V8F, _V8I, _V8B = F32x8.llvm, I32x8.llvm, ir.VectorType(_I8, 8)

Build = Callable[..., Any]


# ---- how an operation is declared -----------------------------------------------------------------------------------


def _operation(result: types.Type, arguments: tuple[types.Type, ...], build: Build) -> Any:
    """An operation of Numba's type `result`, made by `build(builder, *values)`; numbers are converted to `arguments`."""

    def typed(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pairs = zip(values, signature.args, arguments, strict=True)
        made = build(
            builder, *(value if isinstance(to, Vector) else context.cast(builder, value, of, to) for value, of, to in pairs)
        )
        return context.get_dummy_value() if result is types.void else made

    def zero(typing: Any) -> Any:
        return result(), typed

    def one(typing: Any, a: Any) -> Any:
        return result(a), typed

    def two(typing: Any, a: Any, b: Any) -> Any:
        return result(a, b), typed

    def three(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return result(a, b, c), typed

    return intrinsic((zero, one, two, three)[len(arguments)])


def build_call(builder: Any, name: str, result: ir.Type, *values: Any) -> Any:
    """Call an LLVM intrinsic or a C function by name."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def constant(vector: ir.VectorType, value: float) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def build_splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _pick(builder: Any, value: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


# ---- memory ---------------------------------------------------------------------------------------------------------


def build_load(builder: Any, address: Any, kind: ir.Type) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()), typ=kind)
    value.align = 1
    return value


def build_store(builder: Any, address: Any, value: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def build_load_f32(builder: Any, address: Any) -> Any:
    return build_load(builder, address, _V8F)


def build_load_f16(builder: Any, address: Any) -> Any:
    return builder.fpext(build_load(builder, address, ir.VectorType(_F16, 8)), _V8F)


def build_load_i8(builder: Any, address: Any) -> Any:
    return builder.sitofp(builder.sext(build_load(builder, address, _V8B), _V8I), _V8F)


def _load_bf16(builder: Any, address: Any) -> Any:
    wide = builder.zext(build_load(builder, address, ir.VectorType(_I16, 8)), _V8I)
    return builder.bitcast(builder.shl(wide, constant(_V8I, 16)), _V8F)


def _store_i8(builder: Any, address: Any, value: Any) -> None:
    build_store(builder, address, builder.trunc(value, _V8B))


def _store_quad_sums(builder: Any, address: Any, value: Any, factor: Any) -> None:
    """The sum of two quads, then of its numbers 0 and 1, and 2 and 3: two int16, times a factor."""
    quad = builder.add(_pick(builder, value, [0, 1, 2, 3]), _pick(builder, value, [4, 5, 6, 7]))
    pairs = builder.trunc(_pair_sums(builder, quad, 2), ir.VectorType(_I16, 2))
    build_store(builder, address, builder.mul(pairs, build_splat(builder, builder.trunc(factor, _I16), 2)))


load_f32x8 = _operation(F32x8, (types.int64,), build_load_f32)
load_f16x8 = _operation(F32x8, (types.int64,), build_load_f16)
load_bf16x8 = _operation(F32x8, (types.int64,), _load_bf16)
store_f32x8 = _operation(types.void, (types.int64, F32x8), lambda b, at, v: build_store(b, at, v))
store_quad_sums = _operation(types.void, (types.int64, I32x8, types.int64), _store_quad_sums)
store_i8x8 = _operation(types.void, (types.int64, I32x8), _store_i8)  # the low byte of each lane

load_f32 = _operation(types.float32, (types.int64,), lambda b, at: build_load(b, at, _F32))
load_f16 = _operation(types.float32, (types.int64,), lambda b, at: b.fpext(build_load(b, at, _F16), _F32))
load_bf16 = _operation(
    types.float32, (types.int64,), lambda b, at: b.bitcast(b.shl(b.zext(build_load(b, at, _I16), _I32), _I32(16)), _F32)
)
load_i32 = _operation(types.int32, (types.int64,), lambda b, at: build_load(b, at, _I32))
load_i64 = _operation(types.int64, (types.int64,), lambda b, at: build_load(b, at, _I64))
load_i8x8 = _operation(F32x8, (types.int64,), build_load_i8)
load_u8 = _operation(types.uint8, (types.int64,), lambda b, at: build_load(b, at, _I8))
store_f32 = _operation(types.void, (types.int64, types.float32), lambda b, at, v: build_store(b, at, v))
store_f16 = _operation(types.void, (types.int64, types.float32), lambda b, at, v: build_store(b, at, b.fptrunc(v, _F16)))
store_i32 = _operation(types.void, (types.int64, types.int32), lambda b, at, v: build_store(b, at, v))
store_u8 = _operation(types.void, (types.int64, types.uint8), lambda b, at, v: build_store(b, at, v))


def _prefetch(builder: Any, address: Any) -> None:
    pointer = builder.inttoptr(address, _I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(fetch, [pointer, _I32(0), _I32(3), _I32(1)])  # to read, into every cache level, data


prefetch = _operation(types.void, (types.int64,), _prefetch)  # the cache line of an address; any address is allowed


def tuple_reader(kind: Any) -> Any:
    """An operation that reads a named tuple of int64 and float64 fields from an address, eight bytes a field."""
    fields = [types.float64 if hint is float else types.int64 for hint in get_type_hints(kind).values()]
    result = types.NamedTuple(fields, kind) if len(set(fields)) > 1 else types.NamedUniTuple(fields[0], len(fields), kind)

    @intrinsic
    def read(typing: Any, address: Any) -> Any:
        def built(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            items = [
                build_load(builder, builder.add(values[0], _I64(8 * i)), context.get_value_type(field))
                for i, field in enumerate(fields)
            ]
            return context.make_tuple(builder, signature.return_type, items)

        return result(types.int64), built

    return read


def _call_entry(typing: Any, function: Any, *arguments: Any) -> Any:
    """Call the entry (`compiled.py`) at an address; its arguments become int64. Returns what it returns."""

    def built(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        numbers = [
            context.cast(builder, value, kind, types.int64)
            for value, kind in zip(cgutils.unpack_tuple(builder, values[1]), arguments, strict=True)
        ]
        result, error = (cgutils.alloca_once(builder, kind) for kind in (_I64, _I8.as_pointer()))
        kind = ir.FunctionType(_I32, [result.type, error.type, *[_I64] * len(numbers)])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), [result, error, *numbers])
        return builder.load(result)

    return types.int64(types.int64, types.StarArgTuple(arguments)), built


call: Any = intrinsic(_call_entry)


# One float, repeated over the whole vector.
repeat_f32 = _operation(F32x8, (types.int64,), lambda b, at: build_splat(b, build_load(b, at, _F32), 8))
splat_f32 = _operation(F32x8, (types.float32,), lambda b, x: build_splat(b, x, 8))


# ---- float32 --------------------------------------------------------------------------------------------------------


def _fold(builder: Any, value: Any, join: Build) -> Any:
    """Join eight lanes as ((0+4)+(2+6))+((1+5)+(3+7)): always this order."""
    for lanes in (4, 2, 1):
        value = join(_pick(builder, value, list(range(lanes))), _pick(builder, value, list(range(lanes, 2 * lanes))))
    return builder.extract_element(value, _I32(0))


def _largest(builder: Any, a: Any, b: Any) -> Any:
    """The larger one; NaN if one is NaN, so that a broken number is never lost."""
    return build_call(builder, f"llvm.maximum.v{a.type.count}f32", a.type, a, b)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger one; b if one is NaN: one instruction, where what follows finds the NaN anyway."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _exp(builder: Any, x: Any) -> Any:
    """e**x for finite x: 2**n * p(r) with |r| <= ln 2 / 2, below 1e-7 relative error; 0 under -87, finite above 88.

    Range reduction and the polynomial (Taylor to degree 7) are the textbook ones.
    """
    low = builder.fcmp_ordered("<", x, constant(_V8F, -87.0))
    x = builder.select(builder.fcmp_ordered(">", x, constant(_V8F, 88.0)), constant(_V8F, 88.0), x)
    n = build_call(builder, "llvm.rint.v8f32", _V8F, builder.fmul(x, constant(_V8F, 1.4426950408889634)))
    r = build_call(builder, "llvm.fma.v8f32", _V8F, n, constant(_V8F, -0.693359375), x)
    r = build_call(builder, "llvm.fma.v8f32", _V8F, n, constant(_V8F, 2.12194440e-4), r)
    p = constant(_V8F, 1.0 / 5040)
    for c in (1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0):
        p = build_call(builder, "llvm.fma.v8f32", _V8F, p, r, constant(_V8F, c))
    exponent = builder.shl(builder.add(builder.fptosi(n, _V8I), constant(_V8I, 127)), constant(_V8I, 23))
    return builder.select(low, constant(_V8F, 0.0), builder.fmul(p, builder.bitcast(exponent, _V8F)))


def _first_lanes(builder: Any, value: Any, count: Any, otherwise: Any) -> Any:
    lanes = ir.Constant(_V8I, list(range(8)))
    kept = builder.icmp_signed("<", lanes, build_splat(builder, builder.trunc(count, _I32), 8))
    return builder.select(kept, value, build_splat(builder, otherwise, 8))


fma = _operation(F32x8, (F32x8, F32x8, F32x8), lambda b, x, y, z: build_call(b, "llvm.fma.v8f32", _V8F, x, y, z))  # x * y + z
mul = _operation(F32x8, (F32x8, F32x8), lambda b, x, y: b.fmul(x, y))
add = _operation(F32x8, (F32x8, F32x8), lambda b, x, y: b.fadd(x, y))
sub = _operation(F32x8, (F32x8, F32x8), lambda b, x, y: b.fsub(x, y))
div = _operation(F32x8, (F32x8, F32x8), lambda b, x, y: b.fdiv(x, y))
maximum = _operation(F32x8, (F32x8, F32x8), _largest)
absolute = _operation(F32x8, (F32x8,), lambda b, x: build_call(b, "llvm.fabs.v8f32", _V8F, x))
exp = _operation(F32x8, (F32x8,), _exp)
sum_lanes = _operation(types.float32, (F32x8,), lambda b, x: _fold(b, x, b.fadd))
max_lanes = _operation(types.float32, (F32x8,), lambda b, x: _fold(b, x, lambda y, z: _largest(b, y, z)))
larger = _operation(F32x8, (F32x8, F32x8), _larger)
largest_lane = _operation(types.float32, (F32x8,), lambda b, x: _fold(b, x, lambda y, z: _larger(b, y, z)))
first_lane = _operation(types.float32, (F32x8,), lambda b, x: b.extract_element(x, _I32(0)))
keep_lanes = _operation(F32x8, (F32x8, types.int64, types.float32), _first_lanes)  # lanes from `count` on become the third


# ---- integers -------------------------------------------------------------------------------------------------------


def _pair_sums(builder: Any, products: Any, lanes: int) -> Any:
    return builder.add(*(_pick(builder, products, list(range(start, 2 * lanes, 2))) for start in (0, 1)))


def build_madd_u8_i8(builder: Any, u: Any, s: Any) -> Any:
    """Sums of two neighbouring products, which must fit into int16."""
    if not PORTABLE:
        return build_call(builder, "llvm.x86.avx2.pmadd.ub.sw", I16x16.llvm, u, s)
    wide = ir.VectorType(_I16, 32)
    return _pair_sums(builder, builder.mul(builder.zext(u, wide), builder.sext(s, wide)), 16)


def build_madd_i16(builder: Any, x: Any, y: Any) -> Any:
    """Sums of two neighbouring products."""
    if not PORTABLE:
        return build_call(builder, "llvm.x86.avx2.pmadd.wd", _V8I, x, y)
    wide = ir.VectorType(_I32, 16)
    return _pair_sums(builder, builder.mul(builder.sext(x, wide), builder.sext(y, wide)), 8)


def build_sign(builder: Any, x: Any, w: Any) -> Any:
    """x * sign(w) for int8, where a w of 0 may leave x as it is: what it is multiplied by is 0."""
    if not PORTABLE:
        return build_call(builder, "llvm.x86.avx2.psign.b", I8x32.llvm, x, w)
    return builder.select(builder.icmp_signed("<", w, constant(w.type, 0)), builder.neg(x), x)


def build_absolute_i8(builder: Any, w: Any) -> Any:
    """|w| as an unsigned byte."""
    return build_sign(builder, w, w)


def _any_negative(builder: Any, x: Any) -> Any:
    signs = builder.bitcast(builder.icmp_signed("<", x, constant(I16x8.llvm, 0)), ir.IntType(8))
    return builder.zext(builder.icmp_unsigned("!=", signs, _I8(0)), _I64)


add_i32 = _operation(I32x8, (I32x8, I32x8), lambda b, x, y: b.add(x, y))
round_i32 = _operation(I32x8, (F32x8,), lambda b, x: b.fptosi(build_call(b, "llvm.rint.v8f32", _V8F, x), _V8I))  # ties to even
sum_lanes_i32 = _operation(types.int32, (I32x8,), lambda b, x: _fold(b, x, b.add))
zeros_i16x8 = _operation(I16x8, (), lambda b: constant(I16x8.llvm, 0))
any_negative = _operation(types.int64, (I16x8,), _any_negative)  # whether any lane is: 1 or 0


# ---- between threads ------------------------------------------------------------------------------------------------


def _pause(builder: Any) -> None:
    if not PORTABLE:
        build_call(builder, "llvm.x86.sse2.pause", ir.VoidType())


def _atomic_add(builder: Any, address: Any, value: Any) -> Any:
    return builder.atomic_rmw("add", builder.inttoptr(address, _I64.as_pointer()), value, "acq_rel")


def _atomic_load(builder: Any, address: Any) -> Any:
    return builder.load_atomic(builder.inttoptr(address, _I64.as_pointer()), "acquire", 8, typ=_I64)


def _atomic_store(builder: Any, address: Any, value: Any) -> None:
    builder.store_atomic(value, builder.inttoptr(address, _I64.as_pointer()), "release", 8)


atomic_add = _operation(types.int64, (types.int64, types.int64), _atomic_add)  # returns the old value
atomic_load = _operation(types.int64, (types.int64,), _atomic_load)
atomic_store = _operation(types.void, (types.int64, types.int64), _atomic_store)
pause = _operation(types.void, (), _pause)
