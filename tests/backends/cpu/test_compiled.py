"""Cached machine code: used if complete, recompiled if damaged, skipped if the cache is not writable."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from puna.backends.cpu import compiled, host
from puna.backends.cpu.layout import KINDS, aligned_zeros
from puna.backends.cpu.tables import entries_of_layers
from puna.formats import open_checkpoint
from puna.hub import CATALOGUE, DEFAULT_MODEL
from puna.model.spec import AttentionSpec, Experts
from puna.progress import KeepingReporter
from tests.fakes import tiny_config, with_layers

NAME = "interleave_f32"  # the smallest entry: it compiles in a second


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "kernel_folder", lambda: tmp_path)
    return tmp_path


def interleaved() -> bytes:
    """Eight rows of two floats, interleaved by a freshly loaded entry."""
    compiled.load_entry.cache_clear()
    source, target = aligned_zeros(64), aligned_zeros(64)
    source[:] = range(64)
    compiled.load_entry(NAME)(source.ctypes.data, 8, 2, 1, target.ctypes.data)
    return target.tobytes()


def test_code_is_kept_and_loaded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = interleaved()
    assert [path.name for path in folder.iterdir()] == [f"{NAME}.o"]
    monkeypatch.setattr(compiled, "compile_entry", lambda name: pytest.fail("compiled again"))
    assert interleaved() == first
    assert first[:8] == bytes([0, 1, 2, 3, 8, 9, 10, 11])


def test_damaged_code_is_compiled_anew(folder: Path) -> None:
    expected = interleaved()
    file = folder / f"{NAME}.o"
    whole = file.read_bytes()
    for damaged in (b"", b"\xff" * 40, whole[:-1], whole[:500] + b"\0" + whole[501:], whole.replace(b"\n", b"x", 1)):
        file.write_bytes(damaged)
        assert interleaved() == expected
        assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has the folder's name; a notice says so, and the answer is right."""
    (tmp_path / "kernels").write_text("in the way")
    monkeypatch.setattr(host, "kernel_folder", lambda: tmp_path / "kernels" / "key")
    monkeypatch.setattr(compiled, "_unkept", {})
    compiled.load_entry.cache_clear()
    notices = KeepingReporter()
    compiled.prepare((NAME,), notices)
    assert len(notices.texts) == 1 and "PUNA_CACHE" in notices.texts[0]
    monkeypatch.setattr(compiled, "compile_entry", lambda name: pytest.fail("compiled again"))
    assert interleaved()[:4] == bytes([0, 1, 2, 3])


def test_a_full_disk_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    monkeypatch.setattr(compiled, "_unkept", {})
    assert interleaved()[:4] == bytes([0, 1, 2, 3])
    assert list(folder.iterdir()) == []


def test_kept_code_is_read_where_nothing_can_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = interleaved()
    monkeypatch.setattr(compiled, "write_whole", lambda *_: pytest.fail("written again"))
    assert interleaved() == expected


def test_the_key_names_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    key = host.cache_key.__wrapped__()
    assert key == host.cache_key() == host.kernel_folder().name
    monkeypatch.setattr(host, "CPU_NAME", "another")
    assert key != host.cache_key.__wrapped__()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_once_the_compiler_has_ended(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Not inside it, where an exception could get lost in a callback."""
    ended = []

    def interrupted(kernel: object, num_arguments: int) -> tuple[str, bytes]:
        signal.raise_signal(number)
        ended.append(kernel)
        return "symbol", b""

    class ToldToEndError(Exception):
        pass

    def end(*_: object) -> None:
        raise ToldToEndError

    from puna.backends.cpu import emit

    monkeypatch.setattr(emit, "machine_code", interrupted)
    before = signal.signal(number, end)
    try:
        with pytest.raises(ToldToEndError):
            compiled.compile_entry(NAME)
        assert len(ended) == 1 and signal.getsignal(number) is end
    finally:
        signal.signal(number, before)


def test_a_model_needs_the_kernels_of_its_types_only() -> None:
    q8_0, q4_1 = KINDS["Q8_0"], KINDS["Q4_1"]
    names = compiled.entries_for([q8_0, q4_1, q4_1], q8_0, "f16")
    assert sorted(names) == [
        "attend_f16", "dequantize_row_q8_0", "glu_silu", "interleave_all", "interleave_q4_1", "interleave_q8_0", "multiply_q4_1",
        "multiply_q8_0", "run", "write_kv_f16",
    ]  # fmt: skip
    assert names[0] == "run", "the longest to compile comes first"


def test_a_model_needs_the_kernels_of_its_layers_only() -> None:
    plain, capped = tiny_config(), replace(tiny_config(), logit_softcap=30.0)
    experts = with_layers(plain, AttentionSpec(softcap=50.0), Experts(32, count=4, top_k=2, activation="gelu"))
    found = [entries_of_layers(config) for config in (plain, capped, experts)]
    assert found == [{"glu_silu"}, {"glu_silu", "softcap"}, {"glu_gelu", "softcap", "experts"}]
    assert set.union(*found) <= compiled.ENTRIES.keys()


def test_the_catalogue_names_the_types_of_the_default_model(default_model: Path) -> None:
    """Their kernels are compiled while it is being fetched."""
    checkpoint = open_checkpoint(default_model)
    types = {name: tensor.type.name for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2}
    model = CATALOGUE[DEFAULT_MODEL]
    assert model.weight_types[0] == types["embed"] and set(model.weight_types) == set(types.values())
