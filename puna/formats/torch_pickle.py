"""The pickle of a PyTorch checkpoint, run by a machine that cannot import, call, or read attributes.

A pickle is a program for a stack machine. Python's own runs any function that the file names. This one knows the opcodes that
`torch.save` writes for names, numbers, dicts and tensors, and a table of inert names. It refuses any other opcode or name. There
is no way around it (puna/formats never imports `pickle`; a test checks that).

A few bytes can make a value of any size (lists in lists, recalled again and again). So this module formats, compares or hashes a
value only once it is known to be a short text or a small number, and the work for one opcode is bounded by what it takes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from puna.formats.mapped import shown

MAX_OPERATIONS = 1 << 19  # a tensor takes some 30, and Llama 3.1 405B has 1,200; the maximum takes a second and 50 MB
MAX_STACK = 1 << 18  # torch.save puts a thousand items on it at once
MAX_MEMO = 1 << 18  # entries of 100 bytes; torch.save remembers about ten for each tensor
MAX_COPIED = 1 << 20  # pairs passed to OrderedDict, in all: one list can be recalled for each call
MAX_TEXT = 1 << 10  # characters of a key, a name or a storage; real ones have 10 to 100
MAX_KEY = 1 << 31  # magnitude of number keys (an optimizer's): larger ones can be made to share a hash
LONG_BYTES = 8  # no size, offset or count has more
MAX_DIMS = 8


class Fail(Protocol):
    """Raises an error for a byte of the pickle; `is_whole`: the file may be intact, but holds more than weights."""

    def __call__(self, at: int, problem: str, is_whole: bool = False) -> NoReturn: ...


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the table: one that a pickle may mention."""

    text: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A run of numbers in the archive, under `key`."""

    dtype: str  # a key of stored.DTYPES; "" if the tensors give it
    key: str
    size: int  # in numbers, or in bytes if the tensors give the type


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A dense tensor in a storage; offset and strides count numbers."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    is_plain: bool = True  # False: its numbers are changed from those in the storage (negated, conjugated)


STORAGES = {
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.DoubleStorage": "F64",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": "",
}
TYPES = {
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float64": "F64",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.uint16": "U16",
    "torch.uint32": "U32",
    "torch.uint64": "U64",
    "torch.bool": "BOOL",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}
_MARK = object()
_NUMBERS = {layout[1]: struct.Struct(layout) for layout in ("<B", "<H", "<i", "<I", "<Q", ">d")}


def run(program: bytes, fail: Fail) -> Any:
    """The values that a pickle makes: dicts, lists, tuples, texts, numbers, TensorRefs. `fail` raises for byte and problem."""
    return _Machine(program, fail).run()


class _Machine:
    def __init__(self, program: bytes, fail: Fail) -> None:
        self._program = program
        self._fail_at = fail
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            code = self._take(1)
            if code == b".":
                return self._pop()
            operation = OPERATIONS.get(code)
            if operation is None:
                self._fail(
                    f"has the opcode {shown(code)}, which no checkpoint of weights needs; nothing of it was executed", True
                )
            operation(self)
            if len(self._stack) > MAX_STACK:
                self._fail("fills the stack", True)
        return self._fail(f"does not end within {MAX_OPERATIONS} operations", True)

    # ---- bytes and stack ------------------------------------------------------------------------------------------

    def _fail(self, problem: str, is_whole: bool = False) -> NoReturn:
        self._fail_at(self._at, problem, is_whole)

    def _take(self, count: int) -> bytes:
        if count > len(self._program) - self._at:
            self._fail("ends too early")
        self._at += count
        return self._program[self._at - count : self._at]

    def _number(self, kind: str) -> Any:
        layout = _NUMBERS[kind]
        return layout.unpack(self._take(layout.size))[0]

    def _line(self) -> str:
        end = self._program.find(b"\n", self._at, self._at + 256)
        if end < 0:
            self._fail("has a name without an end")
        text = self._text(end - self._at)
        self._at += 1
        return text

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            self._fail("has a text that is not UTF-8")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self._fail("takes from an empty stack")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for begin in range(len(self._stack) - 1, -1, -1):
            if self._stack[begin] is _MARK:
                items = self._stack[begin + 1 :]
                del self._stack[begin:]
                return items
        return self._fail("lacks a mark")

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            self._fail(f"needs a {kind.__name__} on the stack")
        return self._stack[-1]

    # ---- operations -----------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def protocol(self) -> None:
        if self._number("B") > 5:
            self._fail("is of a protocol that does not exist yet", True)

    def frame(self) -> None:
        """Ignore it: a hint for those who read from a stream."""
        self._take(8)

    def drop(self) -> None:
        self._pop()

    def put(self, index: int) -> None:
        if not self._stack:
            self._fail("remembers what is not there")
        if len(self._memo) >= MAX_MEMO and index not in self._memo:
            self._fail(f"remembers more than {MAX_MEMO} values", True)
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        if index not in self._memo or self._memo[index] is _MARK:
            self._fail(f"recalls number {index}, which it never remembered")
        self.push(self._memo[index])

    def long(self) -> None:
        length = self._number("B")
        if length > LONG_BYTES:
            self._fail(f"has a whole number of {length} bytes; at most {LONG_BYTES} are allowed", True)
        self.push(int.from_bytes(self._take(length), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            self._fail("sets a key without a value")
        for key, value in zip(items[::2], items[1::2]):
            target[self._key(key)] = value

    def _key(self, key: Any) -> str | int:
        """A key that is fast to hash and compare, whatever keys there are already."""
        if not _is_short(key) and not (type(key) is int and -MAX_KEY <= key < MAX_KEY):
            self._fail(f"has a key of type {type(key).__name__}; texts of at most {MAX_TEXT} characters and small numbers are")
        checked: str | int = key
        return checked

    def append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def name(self, module: Any, name: Any) -> None:
        text = f"{module}.{name}"
        if text not in NAMES:
            self._fail(f"names {shown(text)}, which no checkpoint of weights needs; nothing of it was executed", True)
        self.push(Name(text))

    def stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if not _is_short(name) or not _is_short(module):
            self._fail(f"takes a name from the stack that is no text of at most {MAX_TEXT} characters")
        self.name(module, name)

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        build = BUILDERS.get(function.text) if isinstance(function, Name) else None
        if build is None or not isinstance(arguments, tuple):
            self._fail(f"calls {shown(getattr(function, 'text', type(function).__name__))}, which cannot be called")
        self.push(build(self, *arguments[: self._count(build, arguments)]))

    def _count(self, build: Any, arguments: tuple[Any, ...]) -> int:
        needed, known = ARGUMENTS[build]
        if len(arguments) < needed:
            self._fail(f"calls with {len(arguments)} arguments; {needed} are needed")
        return min(len(arguments), known)

    def build(self) -> None:
        """Ignore the attributes of an OrderedDict (a state dict's `_metadata`)."""
        self._pop()
        self._top(dict)

    def storage(self) -> None:
        match self._pop():
            case ("storage", Name(text), str(key), str(), int(size)) if text in STORAGES and _is_short(key) and size >= 0:
                self.push(StorageRef(STORAGES[text], key, size))
            case other:
                self._fail(f"refers to a {type(other).__name__}, which is not a storage")

    # ---- what names stand for --------------------------------------------------------------------------------------

    def make_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        if not isinstance(pairs, list | tuple):
            self._fail("makes a dict of something that is not pairs")
        self._copied += len(pairs)
        if self._copied > MAX_COPIED:
            self._fail(f"makes dicts of more than {MAX_COPIED} pairs in all", True)
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                self._fail("makes a dict of something that is not pairs")
            made[self._key(pair[0])] = pair[1]
        return made

    def make_tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = None, hooks: Any = None, marks: Any = None
    ) -> TensorRef:
        if not isinstance(storage, StorageRef) or not storage.dtype:
            self._fail("makes a tensor of something that is not a typed storage")
        return self._tensor(storage, storage.dtype, offset, shape, strides, marks)

    def make_typed_tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, marks: Any = None
    ) -> TensorRef:
        if not isinstance(storage, StorageRef) or not isinstance(dtype, Name) or dtype.text not in TYPES:
            self._fail("makes a tensor of something that is not a storage, or has no type")
        return self._tensor(storage, TYPES[dtype.text], offset, shape, strides, marks)

    def make_parameter(self, tensor: Any, requires_grad: Any = False, hooks: Any = None, state: Any = None) -> TensorRef:
        """The tensor. Ignores `state`, the attributes that somebody gave it, inert like all that this machine makes."""
        if not isinstance(tensor, TensorRef) or not isinstance(requires_grad, bool):
            self._fail("makes a parameter of something that is not a tensor")
        if hooks not in (None, {}):
            self._fail("makes a parameter with hooks, which are functions", True)
        return tensor

    def make_shape(self, sizes: Any) -> tuple[int, ...]:
        return self._sizes(sizes, "shape")

    def _tensor(self, storage: StorageRef, dtype: str, offset: Any, shape: Any, strides: Any, marks: Any) -> TensorRef:
        shape, strides = self._sizes(shape, "shape"), self._sizes(strides, "strides")
        (offset,) = self._sizes((offset,), "offset")
        if len(shape) != len(strides):
            self._fail(f"has a tensor of shape {shape} with strides {strides}")
        is_plain = marks is None or (isinstance(marks, dict) and not marks)
        return TensorRef(storage, dtype, offset, shape, strides, is_plain)

    def _sizes(self, sizes: Any, what: str) -> tuple[int, ...]:
        ok = isinstance(sizes, tuple | list) and len(sizes) <= MAX_DIMS
        if not ok or not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in sizes):
            self._fail(f"has a tensor whose {what} is not a row of at most {MAX_DIMS} whole numbers that are not negative")
        return tuple(sizes)


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


BUILDERS: dict[str, Any] = {
    "collections.OrderedDict": _Machine.make_dict,
    "torch._utils._rebuild_tensor": _Machine.make_tensor,
    "torch._utils._rebuild_tensor_v2": _Machine.make_tensor,
    "torch._utils._rebuild_tensor_v3": _Machine.make_typed_tensor,
    "torch._utils._rebuild_parameter": _Machine.make_parameter,
    "torch._utils._rebuild_parameter_with_state": _Machine.make_parameter,
    "torch.Size": _Machine.make_shape,
}
# Arguments that a builder needs, and those it reads; nothing depends on the others (gradients, hooks).
ARGUMENTS: dict[Any, tuple[int, int]] = {
    _Machine.make_dict: (0, 1),
    _Machine.make_tensor: (4, 7),
    _Machine.make_typed_tensor: (7, 8),
    _Machine.make_parameter: (1, 4),
    _Machine.make_shape: (1, 1),
}
NAMES = frozenset({*STORAGES, *TYPES, *BUILDERS})

OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": lambda m: m.push(_MARK),
    b"0": _Machine.drop,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m._number("B")),
    b"M": lambda m: m.push(m._number("H")),
    b"J": lambda m: m.push(m._number("i")),
    b"\x8a": _Machine.long,
    b"G": lambda m: m.push(m._number("d")),
    b"X": lambda m: m.push(m._text(m._number("I"))),
    b"\x8c": lambda m: m.push(m._text(m._number("B"))),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m._pop_to_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.append([m._pop()]),
    b"e": lambda m: m.append(m._pop_to_mark()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m.set_items(m._pop_to_mark()),
    b"q": lambda m: m.put(m._number("B")),
    b"r": lambda m: m.put(m._number("I")),
    b"\x94": lambda m: m.put(len(m._memo)),
    b"h": lambda m: m.get(m._number("B")),
    b"j": lambda m: m.get(m._number("I")),
    b"c": lambda m: m.name(m._line(), m._line()),
    b"\x93": _Machine.stack_name,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.storage,
}
