"""Malicious and broken files of torch.save: each a function that makes bytes. A canary tells whether one of them was executed.

    python -m tests.formats.hostile_torch FOLDER

opens every file of a folder under an audit hook and prints, as JSON, what became of each and every event that should not be.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

CANARY = "PUNA_CANARY"  # names a file that a payload would make
GLOBALS = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
OLD_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before 1.6
CLIMBING = STORAGE.replace(b"X\x01\x00\x00\x000", b"X\x0c\x00\x00\x00../../../etc")
OF_NO_KIND = STORAGE.replace(b"ctorch\nFloatStorage", b"ccollections\nOrderedDict")


def tensor(
    offset: bytes = b"K\x00", shape: bytes = b"K\x02K\x02\x86", strides: bytes = b"K\x02K\x01\x86", storage: bytes = STORAGE
) -> bytes:
    """Opcodes that make a 2 x 2 tensor, or one with other numbers."""
    return GLOBALS + b"(" + storage + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"


def state(value: bytes, key: bytes = b"X\x01\x00\x00\x00w") -> bytes:
    """A pickle of {"w": value}."""
    return b"\x80\x02}" + key + value + b"s."


RIGHT = state(tensor())


def archive(
    program: bytes = RIGHT,
    data: bytes = bytes(16),
    extra: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    names: tuple[str, str] = ("archive/data.pkl", "archive/data/0"),
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as made:
        made.writestr(names[0], program)
        made.writestr(names[1], data)
        for name, content in (extra or {}).items():
            made.writestr(name, content)
    return stream.getvalue()


class Attack:
    """Python's unpickler would create the canary from it."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def _touch() -> str:
    return f"touch ${CANARY}"


def pickled(value: Any, protocol: int = 2) -> bytes:
    return archive(pickle.dumps(value, protocol))


def call(module: str, name: str, argument: bytes) -> bytes:
    """GLOBAL, argument, REDUCE."""
    return archive(b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"\x85R.")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


SHELL = text(_touch())
CODE = text(f"import os; os.system('{_touch()}')")
CALLS: dict[str, tuple[str, str, bytes]] = {
    "os.system": ("os", "system", SHELL),
    "posix.system": ("posix", "system", SHELL),
    "nt.system": ("nt", "system", SHELL),
    "subprocess.call": ("subprocess", "call", SHELL),
    "builtins.eval": ("builtins", "eval", CODE),
    "builtins.exec": ("builtins", "exec", CODE),
    "__builtin__.eval": ("__builtin__", "eval", CODE),
    "builtins.__import__": ("builtins", "__import__", text("this")),
    "builtins.open": ("builtins", "open", text("/etc/passwd")),
    "builtins.getattr": ("builtins", "getattr", text("x")),
    "builtins.compile": ("builtins", "compile", CODE),
    "importlib.import_module": ("importlib", "import_module", text("this")),
    "runpy.run_path": ("runpy", "run_path", text("/tmp/x.py")),
    "code.interact": ("code", "interact", SHELL),
    "pip.main": ("pip", "main", text("install")),
    "pickle.loads": ("pickle", "loads", b"C\x01."),
    "torch.load": ("torch", "load", text("x")),
    "torch.storage._load_from_bytes": ("torch.storage", "_load_from_bytes", b"C\x01."),
    "torch.jit.load": ("torch.jit", "load", text("x")),
    "torch.hub.load": ("torch.hub", "load", text("x")),
    "torch._utils._rebuild_sparse_tensor": ("torch._utils", "_rebuild_sparse_tensor", text("x")),
    "torch._utils._rebuild_qtensor": ("torch._utils", "_rebuild_qtensor", text("x")),
    "torch._utils._rebuild_parameter_with_state of a text": ("torch._utils", "_rebuild_parameter_with_state", text("x")),
    "torch._tensor._rebuild_from_type_v2": ("torch._tensor", "_rebuild_from_type_v2", text("x")),
    "torch.serialization.load": ("torch.serialization", "load", text("x")),
    "numpy.core.multiarray._reconstruct": ("numpy.core.multiarray", "_reconstruct", text("x")),
    "operator.attrgetter": ("operator", "attrgetter", text("x")),
    "functools.partial": ("functools", "partial", text("x")),
    "webbrowser.open": ("webbrowser", "open", text("x")),
    "a dotted name": ("collections", "OrderedDict.fromkeys", text("x")),
    "a storage called": ("torch", "FloatStorage", b"K\x04"),
    "a type called": ("torch", "float16", b"K\x04"),
}

FILES: dict[str, Callable[[], bytes]] = {
    **{f"calls {name}": partial(call, *parts) for name, parts in CALLS.items()},
    "__reduce__, protocol 2": lambda: pickled({"w": Attack(os.system, _touch())}),
    "__reduce__, protocol 4 (STACK_GLOBAL)": lambda: pickled({"w": Attack(os.system, _touch())}, 4),
    "__reduce__, protocol 0": lambda: pickled({"w": Attack(os.system, _touch())}, 0),
    "INST": lambda: archive(b"(S'touch x'\nios\nsystem\n."),
    "OBJ": lambda: archive(b"(cos\nsystem\nS'touch x'\no."),
    "NEWOBJ": lambda: archive(b"\x80\x02ccollections\nOrderedDict\n)\x81."),
    "NEWOBJ_EX": lambda: archive(b"\x80\x04ccollections\nOrderedDict\n)}\x92."),
    "BUILD on a text": lambda: archive(b"\x80\x02X\x01\x00\x00\x00x}b."),
    "EXT1": lambda: archive(b"\x80\x02\x82\x01."),
    "EXT4": lambda: archive(b"\x80\x02\x84\x01\x00\x00\x00."),
    "PERSID in text": lambda: archive(b"Pos.system\n."),
    "NEXT_BUFFER": lambda: archive(b"\x80\x05\x97."),
    "a memo that recalls what it never had": lambda: archive(b"\x80\x02h\x07."),
    "a memo of the mark": lambda: archive(b"\x80\x02(q\x00h\x00."),
    "a memo that swaps a name": lambda: archive(b"\x80\x02cos\nsystem\nq\x00ccollections\nOrderedDict\nh\x00."),
    "an empty stack": lambda: archive(b"\x80\x02tR."),
    "no end": lambda: archive(RIGHT[:-1]),
    "a program without a dict": lambda: archive(b"\x80\x02K\x01."),
    "a dict of texts": lambda: archive(state(text("w"))),
    "an unhashable key": lambda: archive(b"\x80\x02}]K\x01s."),
    "a list that holds itself": lambda: archive(b"\x80\x02]q\x00h\x00a."),
    "offset beyond the storage": lambda: archive(state(tensor(offset=b"K\x05"))),
    "a negative offset": lambda: archive(state(tensor(offset=b"J\xff\xff\xff\xff"))),
    "a shape beyond the storage": lambda: archive(state(tensor(shape=b"M\xff\xffM\xff\xff\x86"))),
    "strides beyond the storage": lambda: archive(state(tensor(strides=b"M\xff\xffK\x01\x86"))),
    "negative strides": lambda: archive(state(tensor(strides=b"J\xff\xff\xff\xffK\x01\x86"))),
    "stride 0, a bomb": lambda: archive(state(tensor(shape=b"J\xff\xff\xff\x7fM\xff\xff\x86", strides=b"K\x00K\x00\x86"))),
    "more strides than sizes": lambda: archive(state(tensor(strides=b"K\x02K\x01K\x01\x87"))),
    "a size that is a text": lambda: archive(state(tensor(shape=b"X\x01\x00\x00\x002K\x02\x86"))),
    "a storage that is not there": lambda: archive(names=("archive/data.pkl", "archive/data/1")),
    "a storage of another size": lambda: archive(data=bytes(15)),
    "a storage key that climbs": lambda: archive(state(tensor(storage=CLIMBING))),
    "a storage of a wrong kind": lambda: archive(state(tensor(storage=OF_NO_KIND))),
    "compressed": lambda: archive(method=zipfile.ZIP_DEFLATED),
    "a zip bomb": lambda: archive(data=bytes(1 << 22), method=zipfile.ZIP_DEFLATED),
    "two of a name": lambda: _twice(),
    "a bad checksum": lambda: archive().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3", 1),
    "a name that differs in its two headers": lambda: archive().replace(b"archive/data.pkl", b"archive/data.pkX", 1),
    "an entry that overlaps the directory": lambda: _larger(),
    "no directory": lambda: archive()[:-22],
    "an entry that the directory does not count": lambda: _counted(1),
    "another archive before it": lambda: archive() * 2,
    "cut": lambda: archive()[:120],
    "two programs": lambda: archive(extra={"other/data.pkl": RIGHT}),
    "no program": lambda: archive(names=("archive/data.txt", "archive/data/0")),
    "TorchScript": lambda: archive(extra={"archive/constants.pkl": b""}),
    "big-endian": lambda: archive(extra={"archive/byteorder": b"big"}),
    "the old layout": lambda: b"".join(pickle.dumps(part, 2) for part in (OLD_MAGIC, 1001, Attack(os.system, _touch()))),
    "a bare pickle": lambda: pickle.dumps(Attack(os.system, _touch()), 4),
    "tar": lambda: _tar(),
    "a reference nested a million deep": lambda: archive(b"\x80\x02)" + b"\x85" * 1_000_000 + b"Q."),
    "a shape nested a million deep": lambda: archive(state(tensor(shape=b")" + b"\x85" * 1_000_000))),
    "a reference of a billion laughs": lambda: archive(b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Q."),
    "a long integer": lambda: archive(b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "a text longer than the file": lambda: archive(b"\x80\x02X\xff\xff\xff\xff."),
    "a name of a billion laughs": lambda: archive(
        b"\x80\x04]q\x00" + b"h\x00h\x00\x86q\x00" * 28 + b"h\x00" + text("x") + b"\x93."
    ),
    "a name nested deep": lambda: archive(b"\x80\x04)" + b"\x85" * 100_000 + text("x") + b"\x93."),
    "a name that is a number": lambda: archive(b"\x80\x04K\x01" + text("x") + b"\x93."),
    "a name of a million letters": lambda: archive(b"\x80\x04" + text("x" * 1_000_000) + text("x") + b"\x93."),
    "keys that share a hash": lambda: archive(b"\x80\x02}(" + b"".join(key + b"N" for key in _colliding()) + b"u."),
    "pairs whose keys share a hash": lambda: archive(
        b"\x80\x02ccollections\nOrderedDict\n](" + b"".join(key + b"N\x86" for key in _colliding()) + b"e\x85R."
    ),
    "a key of 2**31": lambda: archive(b"\x80\x02}" + long(2**31) + b"Ns."),
    "a key of a million letters": lambda: archive(b"\x80\x02}" + text("x" * 1_000_000) + b"Ns."),
    "a storage whose key has a million letters": lambda: archive(
        state(tensor(storage=STORAGE.replace(b"X\x01\x00\x00\x000", text("0" * 1_000_000))))
    ),
    "one list of pairs again and again": lambda: archive(
        b"\x80\x02](" + b"K\x01N\x86" * 10_000 + b"eq\x00ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R0" * 10_000 + b"."
    ),
    "four million memos": lambda: archive(b"\x80\x04N" + b"\x94" * 4_000_000 + b"."),
    "four million dicts": lambda: archive(b"\x80\x04]" + (b"(" + b"}" * 1_000_000 + b"e") * 4 + b"."),
    "four million tuples": lambda: archive(b"\x80\x04)" + b"\x85" * 4_000_000 + b"."),
    "a negated view": lambda: archive(state(tensor().replace(b")RtR", b")R}" + text("neg") + b"\x88stR"))),
    "marks that are no dict": lambda: archive(state(tensor().replace(b")RtR", b")RK\x01tR"))),
    "eight sizes of 2000 bits": lambda: archive(state(tensor(shape=_row(*[2**2000] * 8), strides=_row(*[1] * 8)))),
    "no numbers, and a size beyond 64 bits": lambda: archive(state(tensor(shape=_row(0, 2**62), strides=_row(1, 1)))),
    "no numbers, and strides beyond 64 bits": lambda: archive(state(tensor(shape=_row(0, 5), strides=_row(2**70, 2**80)))),
    "strong encryption": lambda: _flagged(1 << 6),
    "a masked local header": lambda: _flagged(1 << 13),
    "an OrderedDict of numbers": lambda: pickled(OrderedDict(w=1)),
}  # fmt: skip


def _twice() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("archive/data.pkl", RIGHT)
        made.writestr("archive/data/0", bytes(16))
        made.writestr("archive/data.pkX", pickle.dumps(Attack(os.system, _touch()), 2))
    return stream.getvalue().replace(b"data.pkX", b"data.pkl")


def _colliding() -> Iterator[bytes]:
    """Numbers that Python hashes to 0."""
    return (long(number * (2**61 - 1)) for number in range(1, 100_000))


def long(number: int) -> bytes:
    """LONG1."""
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _row(*numbers: int) -> bytes:
    return b"(" + b"".join(map(long, numbers)) + b"t"


def _flagged(flag: int) -> bytes:
    """A flag in the last entry's line of the directory."""
    data = bytearray(archive())
    at = data.rindex(b"PK\x01\x02")
    data[at + 8 : at + 10] = struct.pack("<H", flag)
    return bytes(data)


def _counted(count: int) -> bytes:
    """The number of entries in the record at the end."""
    data = bytearray(archive())
    data[-14:-10] = struct.pack("<2H", count, count)
    return bytes(data)


def _larger() -> bytes:
    data = bytearray(archive())
    at = data.rindex(b"PK\x01\x02")  # the last entry's line of the directory
    data[at + 20 : at + 28] = struct.pack("<2I", 1 << 20, 1 << 20)
    return bytes(data)


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        info = tarfile.TarInfo("pickle")
        info.size = len(RIGHT)
        made.addfile(info, io.BytesIO(RIGHT))
    return stream.getvalue()


# ---- in a process of its own ----------------------------------------------------------------------------------------

WATCHED = ("import", "exec", "compile", "os.", "subprocess.", "pickle.", "ctypes.", "socket.", "marshal.", "code.")
HARMLESS = ("os.scandir", "os.listdir")


def main(folder: Path) -> None:
    from puna.errors import PunaError
    from puna.formats.torch_file import read_torch_file

    events: list[str] = []
    files = sorted(folder.iterdir())
    allowed = {str(file) for file in files}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]) not in allowed:
            events.append(f"open {arguments[0]}")
        if event.startswith(WATCHED) and event not in HARMLESS:
            events.append(f"{event} {arguments!r:.80}")

    outcomes, seconds, megabytes = {}, {}, {}
    sys.addaudithook(hook)
    for file in files:
        begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_torch_file(file)
            outcomes[file.name] = "read"
        except PunaError as error:
            outcomes[file.name] = type(error).__name__
        except BaseException as error:  # noqa: BLE001
            outcomes[file.name] = f"BUG {type(error).__name__}: {error}"
        seconds[file.name] = time.process_time() - begun
        megabytes[file.name] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"outcomes": outcomes, "events": events, "seconds": seconds, "megabytes": megabytes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
