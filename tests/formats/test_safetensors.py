"""safetensors: files of the format's library are read bit for bit; hostile files are refused (A3, A4)."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import ModelFormatError, PunaError, UnsupportedModelError
from puna.formats.safetensors import read_safetensors

Entry = dict[str, Any]
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "empty": {"dtype": "F16", "shape": [0, 7], "data_offsets": [32, 32]},
    "scalar": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
}
DATA = np.arange(10, dtype=np.float32).tobytes()


def packed(header: object, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_arrays_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    found = read_safetensors(write(tmp_path / "x", packed(HEADER)))
    assert list(found) == ["a", "b", "empty", "scalar"]
    assert found["a"].array().tolist() == [[0, 1, 2], [3, 4, 5]] and found["scalar"].array().shape == ()
    assert found["empty"].array().shape == (0, 7) and found["b"].rows().shape == (1, 8)
    assert not found["a"].data.flags.owndata and not found["a"].data.flags.writeable


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    kinds += ["float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"]
    tensors = {kind: torch.randint(0, 2, (3, 5, 8), dtype=torch.uint8).view(getattr(torch, kind)) for kind in kinds}
    save_file(tensors, tmp_path / "x", {"note": "text"})
    found = read_safetensors(tmp_path / "x")
    for kind, values in tensors.items():
        assert found[kind].shape == tuple(values.shape)
        assert found[kind].data.tobytes() == values.view(torch.uint8).numpy().tobytes()


def entry(**changes: Any) -> dict[str, Any]:
    return HEADER | {"a": HEADER["a"] | changes}


def without(key: str) -> dict[str, Any]:
    return HEADER | {"a": {name: value for name, value in HEADER["a"].items() if name != key}}


def named(name: str) -> dict[str, Any]:
    return {name: {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}}


BROKEN: dict[str, tuple[bytes, str]] = {
    "no header": (b"\0" * 7, "header length"),
    "a header longer than the file": (struct.pack("<Q", 10**6) + b"{}", "needs 1000000 bytes"),
    "a header of exabytes": (struct.pack("<Q", 2**63) + b"{}", "at most 8388608"),
    "a list": (packed([]), "an object is needed"),
    "no JSON": (packed(b"{'a'}"), "is not JSON"),
    "no UTF-8": (packed(b'{"\xff": 1}'), "is not UTF-8"),
    "a key twice": (packed(b'{"a": 1, "a": 2}'), "occurs twice"),
    "NaN": (packed(b'{"a": NaN}'), "no JSON number"),
    "a deep nest": (packed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "too deeply|not JSON"),
    "a number of 5000 digits": (packed(b'{"a": ' + b"9" * 5000 + b"}"), "is not JSON"),
    "metadata of numbers": (packed(HEADER | {"__metadata__": {"a": 1}}), "only texts"),
    "an entry that is a text": (packed(HEADER | {"a": "x"}), "an object is needed"),
    "an entry that is null": (packed(HEADER | {"a": None}), "an object is needed"),
    "no dtype": (packed(without("dtype")), "dtype: is missing"),
    "no offsets": (packed(without("data_offsets")), "two ascending ones"),
    "one offset": (packed(entry(data_offsets=[0])), "two ascending ones"),
    "offsets that fall": (packed(entry(data_offsets=[24, 0])), "two ascending ones"),
    "a negative offset": (packed(entry(data_offsets=[-8, 16])), "not negative"),
    "an offset that is no whole number": (packed(entry(data_offsets=[0, 24.0])), "whole numbers"),
    "an offset that is true": (packed(entry(data_offsets=[False, 24])), "whole numbers"),
    "a negative size": (packed(entry(shape=[-2, -3])), "not negative"),
    "a size too large": (packed(entry(shape=[2, 4])), "needs 32"),
    "sizes whose product wraps": (packed(entry(shape=[2**32, 2**32])), "needs 73786976294838206464"),
    "a size of thousands of digits": (packed(HEADER).replace(b"[4]", b"[" + b"9" * 4299 + b"]"), "needs|is not JSON"),
    "a size of 31 digits": (packed(entry(shape=[10**30])), "holds 10{30}; whole numbers"),
    "no numbers, and a size beyond 64 bits": (
        packed(HEADER | {"empty": HEADER["empty"] | {"shape": [0, 2**62]}}),
        "than any memory holds",
    ),
    "too many arrays": (
        packed({f"z{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(17_000)}),
        "17000",
    ),
    "nine dimensions": (packed(entry(shape=[1] * 9)), "at most 8"),
    "a gap": (packed(HEADER | {"b": HEADER["b"] | {"shape": [2], "data_offsets": [28, 32]}}), "byte 24 comes next"),
    "an overlap": (packed(HEADER | {"b": HEADER["b"] | {"shape": [6], "data_offsets": [20, 32]}}), "byte 24 comes next"),
    "bytes behind the last": (packed(HEADER, DATA + b"\0"), "describes 40 bytes of data, but 41 follow"),
    "data cut": (packed(HEADER, DATA[:-1]), "it is 39 bytes long"),
    "a pickle": (b"\x80\x02}q\x00.", "needs"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_kind_of_broken_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    data, words = BROKEN[kind]
    with pytest.raises(ModelFormatError, match=words) as caught:
        read_safetensors(write(tmp_path / "x", data))
    assert str(caught.value).startswith(str(tmp_path / "x")) and len(str(caught.value)) < 500


def test_a_type_that_puna_does_not_hold_is_named_with_those_it_does(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'a' is 'F4'; puna reads: F64, F32"):
        read_safetensors(write(tmp_path / "x", packed(entry(dtype="F4"))))


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = packed(HEADER)
    for length in range(1, len(whole)):
        with pytest.raises(PunaError):
            read_safetensors(write(tmp_path / "x", whole[:length]))


VALUES: list[Any] = [None, [], [0], [0, 2**63], -1, 1e308, True, "F32", "F16", {}, [2, 3], 2**64, [[0], [1]], "x" * 999]


def mutant(rng: random.Random) -> bytes:
    """A header with one to three of its parts changed, or bytes of the whole file."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(["a", "b", "empty", "scalar"])
        value: Any = rng.choice(
            [None, [], [0], [0, 2**63], -1, 1e308, True, "F32", "F16", {}, [2, 3], 2**64, [[0], [1]], "x" * 999]
        )
        header[name] = {**header[name], rng.choice(["dtype", "shape", "data_offsets", "more"]): value} if header[name] else value
    data = bytearray(packed(header))
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def require_read_or_refused(seed: int, count: int, folder: Path) -> None:
    rng = random.Random(seed)
    for number in range(count):
        try:
            found = read_safetensors(write(folder / "x", mutant(rng)))
        except PunaError:
            continue
        assert sum(stored.data.nbytes for stored in found.values()) <= (folder / "x").stat().st_size, (seed, number)


@pytest.mark.parametrize("seed", range(4))
def test_mutants_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    require_read_or_refused(seed, 1000, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_mutants_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    require_read_or_refused(seed, 10_000, tmp_path)
