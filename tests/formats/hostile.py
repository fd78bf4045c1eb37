"""Structure-aware mutants: a right file is edited in one to three of its fields, written, and opened under limits.

    python -m tests.formats.hostile gguf SEED FIRST COUNT

opens COUNT mutants in this process, whose memory and time are limited, and ends with an error at the first that does anything but
load or be refused by a named error. Mutant i of a seed is always the same file.
"""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats import open_checkpoint
from puna.formats.gguf_file import SCALARS
from tests.formats.micro import SPM, micro_config, seeded_draft
from tests.models import KIND_CODES, Draft, DraftTensor, DraftValue, llama2c_bytes, random_tensors, tokenizer_bin_bytes

ROOT = Path(__file__).parents[2]
BATCH = 1_000  # files of one process
MAX_SECONDS = 1.0  # of CPU time, per file
MAX_GROWTH = 64 << 20  # bytes of memory above the base, and above the file's size
ADDRESS_SPACE = 512 << 20  # bytes above the base

EDGES = [0, 1, 2, 3, 7, 8, 31, 32, 33, 255, 256, 257, 4095, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53]
EDGES += [2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan")]


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def _number(rng: random.Random, kind: str) -> Any:
    """A number of a type's range, most often at an edge."""
    layout = SCALARS[KIND_CODES[kind]].layout
    if kind.startswith("float"):
        return rng.choice([*FLOATS, rng.uniform(-1e6, 1e6)])
    edge = rng.choice([*EDGES, rng.getrandbits(64), rng.randrange(64)])
    (number,) = layout.unpack(struct.pack("<Q", edge)[: layout.size])
    return number


def _text(rng: random.Random) -> bytes:
    known = [
        b"llama",
        b"gpt2",
        b"yarn",
        b"linear",
        b"none",
        b"tokenizer.ggml.tokens",
        b"general.architecture",
        b"blk.0.attn_q.weight",
    ]
    return rng.choice([*known, b"", b"\xff\xfe", b"\0" * 9, b"a" * 300, rng.randbytes(rng.randrange(40))])


def _element(rng: random.Random, kind: str) -> Any:
    return _text(rng) if kind == "string" else _number(rng, kind)


def _edit_value(draft: Draft, rng: random.Random) -> None:
    found = rng.choice(draft.values)
    kind = found.kind.removeprefix("array of ")
    if not found.kind.startswith("array"):
        found.value = _element(rng, kind)
    elif found.value:
        at = rng.randrange(len(found.value))
        found.value = [*found.value[:at], *[_element(rng, kind)] * rng.choice([0, 1, 2, 100]), *found.value[at + 1 :]]


def _retype_value(draft: Draft, rng: random.Random) -> None:
    """Another declared type over the same bytes, or another type with bytes of its own."""
    found = rng.choice(draft.values)
    if rng.random() < 0.5:
        found.code = rng.choice([*range(14), 255, 2**31, 2**32 - 1])
        return
    kind = rng.choice([*KIND_CODES])
    as_array = rng.random() < 0.3
    found.kind = f"array of {kind}" if as_array else kind
    found.value = [_element(rng, kind) for _ in range(rng.randrange(20))] if as_array else _element(rng, kind)


def _recount_array(draft: Draft, rng: random.Random) -> None:
    rng.choice(draft.values).count = rng.choice(EDGES)


def _rekey_value(draft: Draft, rng: random.Random) -> None:
    rng.choice(draft.values).key = rng.choice([_text(rng), rng.choice(draft.values).key])


def _move_value(draft: Draft, rng: random.Random) -> None:
    found = draft.values.pop(rng.randrange(len(draft.values)))
    for _ in range(rng.choice([0, 0, 1, 2])):
        draft.values.insert(rng.randrange(len(draft.values) + 1), found)


def _add_value(draft: Draft, rng: random.Random) -> None:
    names = ["general.alignment", "split.count", "split.no", "llama.expert_count", "llama.rope.scaling.type"]
    names += [
        "llama.rope.scaling.factor",
        "llama.attention.value_length",
        "llama.attention.sliding_window",
        "tokenizer.ggml.eot_token_id",
    ]
    kind = rng.choice([*KIND_CODES])
    draft.values.append(DraftValue(rng.choice(names).encode(), kind, _element(rng, kind)))


def _edit_dims(draft: Draft, rng: random.Random) -> None:
    tensor = rng.choice(draft.tensors)
    at = rng.randrange(len(tensor.dims))
    size = rng.choice([*EDGES, tensor.dims[at] + 1, tensor.dims[at] * 2, tensor.dims[at] // 2]) % 2**64
    tensor.dims = [*tensor.dims[:at], *[size] * rng.choice([0, 1, 1, 1, 2]), *tensor.dims[at + 1 :]]
    tensor.dims = tensor.dims or [size]


def _edit_tensor(draft: Draft, rng: random.Random) -> None:
    tensor = rng.choice(draft.tensors)
    edits: list[tuple[str, Callable[[], Any]]] = [
        ("name", lambda: rng.choice([_text(rng), rng.choice(draft.tensors).name])),
        ("code", lambda: rng.choice([*range(45), 2**31, 2**32 - 1])),
        ("offset", lambda: rng.choice([*EDGES, rng.randrange(100) * 32])),
        ("num_dims", lambda: rng.choice(EDGES) % 2**32),
        ("data", lambda: tensor.data[: rng.randrange(len(tensor.data) + 1)]),
        ("data", lambda: tensor.data + bytes(rng.choice([1, 31, 32, 33, 5000]))),
        ("data", lambda: rng.randbytes(len(tensor.data))),
    ]
    name, make = rng.choice(edits)
    setattr(tensor, name, make())


def _move_tensor(draft: Draft, rng: random.Random) -> None:
    tensor: DraftTensor = draft.tensors.pop(rng.randrange(len(draft.tensors)))
    for _ in range(rng.choice([0, 1, 1, 2])):
        draft.tensors.insert(rng.randrange(len(draft.tensors) + 1), tensor)


def _edit_header(draft: Draft, rng: random.Random) -> None:
    edits: list[tuple[str, Any]] = [
        ("version", rng.choice(EDGES) % 2**32),
        ("num_tensors", rng.choice([*EDGES, len(draft.tensors) + rng.choice([-1, 1])])),
        ("num_values", rng.choice([*EDGES, len(draft.values) + rng.choice([-1, 1])])),
        ("alignment", rng.choice([1, 8, 16, 64, 4096])),
        ("tail", bytes(rng.choice([1, 31, 32, 1000]))),
        ("magic", rng.choice([b"GGUf", b"24ka", b"PK\3\4", rng.randbytes(4)])),
    ]
    setattr(draft, *rng.choice(edits))


EDITS = [_edit_value, _edit_value, _retype_value, _recount_array, _rekey_value, _move_value, _add_value]
EDITS += [_edit_dims, _edit_tensor, _edit_tensor, _move_tensor, _edit_header]


def gguf_mutant(rng: random.Random) -> dict[str, bytes]:
    draft = seeded_draft(rng)
    for _ in range(rng.randint(1, 3)):
        if draft.values and draft.tensors:
            rng.choice(EDITS)(draft, rng)
    data = draft.to_bytes()
    return {"m.gguf": _scratched(data, rng) if rng.random() < 0.1 else data}


def _scratched(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes of the first half, ignoring the structure."""
    scratched = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        scratched[rng.randrange(4, max(5, len(data) // 2))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(scratched)


# ---- llama2.c -------------------------------------------------------------------------------------------------------


def llama2c_mutant(rng: random.Random) -> dict[str, bytes]:
    """A model and its tokenizer, one of which is edited."""
    config = micro_config(tie_embeddings=rng.random() < 0.5)
    version = rng.choice([0, 1, 2])
    model = bytearray(llama2c_bytes(config, random_tensors(config, 1), version, rng.choice([1, 4, 16, 32])))
    tokenizer = bytearray(tokenizer_bin_bytes(SPM))
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            _edit_words(model, rng, first=0 if version == 0 else 4, last=28 if version == 0 else 41)
        else:
            _edit_words(tokenizer, rng, first=0, last=len(tokenizer))
    return {"m.bin": bytes(model), "tokenizer.bin": bytes(tokenizer)}


def _edit_words(data: bytearray, rng: random.Random, first: int, last: int) -> None:
    """Overwrite a number of four bytes, cut, or append."""
    what = rng.randrange(10)
    if what == 0:
        del data[rng.randrange(len(data)) :]
    elif what == 1:
        data += rng.randbytes(rng.choice([1, 4, 100]))
    elif len(data) >= last > first + 3:
        at = rng.randrange(first, last - 3)
        data[at : at + 4] = struct.pack("<I", rng.choice([*EDGES, 12, 64, rng.getrandbits(32)]) % 2**32)


MUTANTS: dict[str, Callable[[random.Random], dict[str, bytes]]] = {"gguf": gguf_mutant, "llama2c": llama2c_mutant}


# ---- running --------------------------------------------------------------------------------------------------------


def run_mutants(form: str, seed: int, count: int) -> None:
    """Open `count` mutants, a batch to a process, and fail with the seed and number of the first bad one."""
    for first in range(0, count, BATCH):
        batch = min(BATCH, count - first)
        command = [sys.executable, "-m", "tests.formats.hostile", form, str(seed), str(first), str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)
        where = f"{form} mutants of seed {seed}, {first} to {first + batch - 1}"
        assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stdout[-400:]}\n{done.stderr[-4000:]}"


def _open(path: Path) -> bool:
    """Whether it loads; then every weight can be reached. A scale that is not finite is refused where it is read."""
    try:
        checkpoint = open_checkpoint(path)
        for tensor in checkpoint.tensors.values():
            tensor.dequantize(0, 1)
    except (ModelFormatError, UnsupportedModelError) as error:
        assert error.message.isprintable() and len(error.message) < 1000, f"message {error.message!r}"
        return False
    return True


def _memory() -> int:
    """This process's peak memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit_memory() -> None:
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))


def _limit_time() -> None:
    """A file that hangs ends the process."""
    seconds = int(time.process_time()) + 3
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main(form: str, seed: int, first: int, count: int) -> None:
    loaded = 0
    with tempfile.TemporaryDirectory() as folder:
        _limit_memory()
        for index in range(first, first + count):
            files = MUTANTS[form](random.Random(f"{form} {seed} {index}"))
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            print(f"mutant {index}", flush=True)
            _limit_time()
            before, started = _memory(), time.process_time()
            loaded += _open(Path(folder) / next(iter(files)))
            seconds, grown = time.process_time() - started, _memory() - before
            assert seconds <= MAX_SECONDS, f"mutant {index} took {seconds:.2f} s"
            assert grown <= MAX_GROWTH + sum(map(len, files.values())), f"mutant {index} took {grown} bytes of memory"
    assert count < 100 or 0 < loaded < count, f"{loaded} of {count} loaded: the edits are too coarse or too fine"
    print(f"{loaded} of {count} loaded")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
