"""torch.save files: PyTorch's files are read bit for bit; hostile ones are refused and not executed (A6)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import ModelFormatError, PunaError, UnsupportedModelError
from puna.formats.arrays import DTYPES
from puna.formats.torch_file import altered_entries, read_torch_file
from puna.writers.torch_file import OutputArray, write_torch_file
from tests.formats.hostile_torch import CANARY, FILES, RIGHT, archive, long, state, tensor

ROOT = Path(__file__).parents[2]
MAX_SECONDS, MAX_MEGABYTES = 4.0, 100.0  # of CPU time and of memory, for files of at most 4 MB
REFUSED = ("ModelFormatError", "DamagedFileError", "UnsupportedModelError")


def read(data: bytes, folder: Path) -> dict[str, Any]:
    path = folder / "x.pth"
    path.write_bytes(data)
    return {name: stored.array() for name, stored in read_torch_file(path).items()}


def test_hostile_files_are_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    folder, canary = tmp_path / "files", tmp_path / "canary"
    folder.mkdir()
    names = {}
    for number, (name, make) in enumerate(FILES.items()):
        names[f"{number:03}.pth"] = name
        (folder / f"{number:03}.pth").write_bytes(make())
    assert len(names) >= 60
    run = subprocess.run(
        [sys.executable, "-m", "tests.formats.hostile_torch", str(folder)],
        cwd=ROOT, env={**os.environ, CANARY: str(canary)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = json.loads(run.stdout)
    assert found["events"] == []
    assert {names[file]: outcome for file, outcome in found["outcomes"].items() if outcome not in REFUSED} == {}
    assert len(found["outcomes"]) == len(names) and not canary.exists()
    assert {names[file]: taken for file, taken in found["seconds"].items() if taken > MAX_SECONDS} == {}
    assert {names[file]: taken for file, taken in found["megabytes"].items() if taken > MAX_MEGABYTES} == {}


def test_the_seed_of_the_hostile_files_is_right(tmp_path: Path) -> None:
    found = read(archive(data=np.arange(4, dtype=np.float32).tobytes()), tmp_path)
    assert found["w"].tolist() == [[0, 1], [2, 3]]


def test_every_type_that_torch_saves_is_read(tmp_path: Path) -> None:
    import torch

    rng = np.random.default_rng(1)
    kinds = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16", "uint32"]
    kinds += ["uint64", "float8_e4m3fn", "float8_e5m2"]
    raw = {kind: torch.from_numpy(rng.integers(0, 2, (3, 5, 8), np.uint8)).view(getattr(torch, kind)) for kind in kinds}
    torch.save(raw, tmp_path / "x.pth")
    found = read_torch_file(tmp_path / "x.pth")
    assert list(found) == kinds
    for kind, values in raw.items():
        assert found[kind].shape == tuple(values.shape) and found[kind].dtype in DTYPES
        assert found[kind].data.tobytes() == values.contiguous().view(torch.uint8).numpy().tobytes(), kind


def test_views_transposes_parameters_and_shared_storages_are_read(tmp_path: Path) -> None:
    import torch

    base = torch.arange(60.0).reshape(5, 12)
    saved = {
        "base": base,
        "transposed": base.T,
        "part": base[1:4, 2:9:3],
        "row": base[3],
        "parameter": torch.nn.Parameter(base + 1),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(7.0),
        "expanded": torch.arange(3.0)[None],
    }
    torch.save(saved, tmp_path / "x.pth")
    found = read_torch_file(tmp_path / "x.pth")
    for name, values in saved.items():
        assert np.array_equal(found[name].array(), values.detach().numpy()), name


def test_named_parameters_are_read_with_or_without_attributes_of_their_own(tmp_path: Path) -> None:
    """transformers marks the parameters that it filled."""
    import torch

    model = torch.nn.Linear(3, 2)
    model.weight._is_hf_initialized = True
    torch.save(dict(model.named_parameters()), tmp_path / "x.bin")
    assert b"_rebuild_parameter_with_state" in (tmp_path / "x.bin").read_bytes()
    found = read_torch_file(tmp_path / "x.bin")
    for name, values in model.named_parameters():
        assert np.array_equal(found[name].array(), values.detach().numpy())


@pytest.mark.parametrize("function", [b"_rebuild_parameter", b"_rebuild_parameter_with_state"])
def test_a_parameter_with_hooks_is_refused(function: bytes, tmp_path: Path) -> None:
    head, state_of = b"ctorch._utils\n" + function + b"\n(", b"}" if function.endswith(b"state") else b""
    read(archive(state(head + tensor() + b"\x88ccollections\nOrderedDict\n)R" + state_of + b"tR")), tmp_path)
    hooks = b"}K\x01K\x02s"
    with pytest.raises(ModelFormatError, match="makes a parameter with hooks"):
        read(archive(state(head + tensor() + b"\x88" + hooks + state_of + b"tR")), tmp_path)


def test_a_whole_model_is_refused_and_what_to_save_is_told(tmp_path: Path) -> None:
    import torch

    for whole in (torch.nn.Linear(3, 2), {"model": torch.nn.Linear(3, 2)}, {"step": 5}, [1]):
        torch.save(whole, tmp_path / "x.bin")
        with pytest.raises(ModelFormatError) as error:
            read_torch_file(tmp_path / "x.bin")
        assert "torch.save(model.state_dict(), path)" in error.value.hint
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(UnsupportedModelError, match=r"before 1\.6") as old:
        read_torch_file(tmp_path / "x.bin")
    assert "save it again" in old.value.hint


def test_transposed_tensors_are_read_by_rows_and_none_of_them_when_the_file_is_opened(tmp_path: Path) -> None:
    import torch

    side = 512
    base = torch.arange(side * side).reshape(side, side)
    deep = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    saved = {f"t{number}": base.T for number in range(200)}  # 2 MB each, all in one storage
    saved |= {"deep": deep.permute(3, 1, 0, 2), "step": base[3, ::7], "one": base[:, :1].T}
    torch.save(saved, tmp_path / "x.pth")
    tracemalloc.start()
    found = read_torch_file(tmp_path / "x.pth")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * side * side, peak
    for name, values in saved.items():
        rows = values.reshape(-1, values.shape[-1]).numpy()
        assert found[name].rows()[:].tobytes() == rows.tobytes(), name
        assert found[name].rows()[1:3].tobytes() == rows[1:3].tobytes(), name
        assert found[name].rows().shape == (len(rows), rows.shape[1] * 8)


def test_a_negated_view_is_refused_by_name(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch._neg_view(torch.randn(3))}, tmp_path / "x.pth")
    with pytest.raises(UnsupportedModelError, match="tensor 'w' is a view that negates or conjugates its numbers"):
        read_torch_file(tmp_path / "x.pth")


def test_strides_of_what_there_is_only_one_of_may_be_anything(tmp_path: Path) -> None:
    program = state(tensor(shape=b"K\x01K\x02K\x02\x87", strides=b"(" + long(2**61) + b"K\x01K\x02t"))
    found = read(archive(program, data=np.arange(4, dtype=np.float32).tobytes()), tmp_path)
    assert found["w"].tolist() == [[[0, 2], [1, 3]]]


def test_a_trainers_numbers_may_be_keys(tmp_path: Path) -> None:
    import torch

    optimizer = {"state": {0: {"step": 1}, 2**31 - 1: {}}, "param_groups": [{"betas": (0.9, 0.99)}]}
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": optimizer}, tmp_path / "x.pth")
    assert set(read_torch_file(tmp_path / "x.pth")) == {"w"}


def test_entries_whose_bytes_were_changed_are_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(archive(data=bytes(range(16))))
    assert list(altered_entries([path])) == []
    path.write_bytes(path.read_bytes().replace(bytes(range(16)), bytes(16)))
    assert list(altered_entries([path, Path(__file__)])) == [(path, "archive/data/0")]


def test_a_state_dict_may_lie_in_a_trainers_notes(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(3, 2)
    torch.save({"model": model.state_dict(), "step": 5, "lr": 0.1, "note": "x"}, tmp_path / "x.pth")
    assert set(read_torch_file(tmp_path / "x.pth")) == {"weight", "bias"}


def test_arrays_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    found = read(archive(), tmp_path)["w"]
    assert not found.flags.owndata and not found.flags.writeable


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = archive()
    for length in range(len(whole)):
        with pytest.raises(PunaError):
            read(whole[:length], tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_mutants_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    rng, whole = random.Random(seed), archive()
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 5])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        try:
            read(bytes(data), tmp_path)
        except PunaError:
            continue


@pytest.mark.parametrize("seed", range(4))
def test_mutants_of_the_program_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    """With a right checksum, so that the machine itself meets them."""
    rng = random.Random(seed)
    for _ in range(250):
        program = bytearray(RIGHT)
        for _ in range(rng.choice([1, 1, 2, 5])):
            program[rng.randrange(len(program))] = rng.choice([*b"(.0NKMJXq}]tRbQcus", rng.randrange(256)])
        try:
            read(archive(bytes(program)), tmp_path)
        except PunaError:
            continue


def test_an_error_names_the_file_and_the_byte(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"x\.pth: pickle at byte \d+: names 'os\.system', .*nothing of it was executed"):
        read(archive(b"\x80\x02cos\nsystem\n."), tmp_path)
    with pytest.raises(ModelFormatError, match=r"tensor 'w' at byte \d+: reaches to number 7 of its storage, which has 4"):
        read(archive(state(tensor(offset=b"K\x04"))), tmp_path)


def test_what_we_write_is_aligned_and_read_by_torch(tmp_path: Path) -> None:
    import torch

    rng = np.random.default_rng(2)
    arrays = {}
    for number, dtype in enumerate(("F32", "F16", "BF16")):
        values = rng.integers(0, 100, (3 + number, 7), np.uint8).astype(DTYPES[dtype])
        arrays[f"layer.{number}"] = OutputArray(dtype, values.shape, values.view(np.uint8))
    vector = np.arange(5, dtype=np.float32)
    arrays["vector"] = OutputArray("F32", (5,), vector.view(np.uint8).reshape(1, -1))
    write_torch_file(tmp_path / "consolidated.00.pth", arrays, lambda num_bytes: None)
    theirs, ours = (
        torch.load(tmp_path / "consolidated.00.pth", weights_only=True),
        read_torch_file(tmp_path / "consolidated.00.pth"),
    )
    for name, array in arrays.items():
        assert theirs[name].view(torch.uint8).numpy().tobytes() == array.rows[:].tobytes() == ours[name].data.tobytes()
        assert tuple(theirs[name].shape) == array.shape == ours[name].shape
        assert ours[name].offset % 64 == 0
