"""Measured rooflines belong to their own machine; any other content of the file is ignored."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from puna.backends.base import Roofline
from puna.machine.rooflines import machine_file, remember, remembered
from tests.machine.fake_host import FLAGS_ZEN_4, build, cpuinfo

ROOFLINE = Roofline(58e9, 2.4e12, 0.6e12)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))


def test_what_was_measured_is_remembered_by_device() -> None:
    assert remembered("cpu") is None
    remember("cpu", ROOFLINE)
    remember("NVIDIA GeForce RTX 4070", Roofline(480e9, 1e14, 3e13))
    assert remembered("cpu") == ROOFLINE
    assert remembered("NVIDIA GeForce RTX 4070") == Roofline(480e9, 1e14, 3e13)
    assert remembered("NVIDIA GeForce RTX 4090") is None
    assert [entry.name for entry in machine_file().parent.iterdir()] == ["machine.json"]


def test_a_slower_measurement_leaves_the_faster_one() -> None:
    for roofline in (ROOFLINE, Roofline(20e9, 3e12, 0.1e12), ROOFLINE):
        remember("cpu", roofline)
    assert remembered("cpu") == Roofline(58e9, 3e12, 0.6e12)


def test_another_cpu_or_fewer_cores_are_another_machine(tmp_path: Path) -> None:
    desktop = build(tmp_path / "a")
    remember("cpu", ROOFLINE, desktop)
    assert remembered("cpu", desktop) == ROOFLINE
    other = build(tmp_path / "b", {"files": {"/proc/cpuinfo": cpuinfo("Intel(R) Xeon(R)", FLAGS_ZEN_4, 16, 8)}})
    pinned = build(tmp_path / "c", {"files": {"/proc/self/status": "Cpus_allowed_list:\t0-3\n"}})
    assert remembered("cpu", other) is remembered("cpu", pinned) is None


@pytest.mark.parametrize(
    "value", [None, "1e9", True, -1.0, 0, float("nan"), float("inf"), 10**400, [], {}], ids=lambda value: repr(value)[:10]
)
def test_a_number_that_cannot_be_is_no_measurement(value: object) -> None:
    remember("cpu", ROOFLINE)
    content = json.loads(machine_file().read_text())
    (key,) = content["limits"]
    content["limits"][key]["read_bytes_per_s"] = value
    machine_file().write_text(json.dumps(content))
    assert remembered("cpu") is None
    remember("cpu", ROOFLINE)
    assert remembered("cpu") == ROOFLINE


@pytest.mark.parametrize(
    "text", [b"", b"\xff\x00", b"[]", b'{"version": 2, "limits": 3}', b'{"version": 9}', b"[" * 100_000, b" " * (1 << 17) + b"{}"]
)
def test_a_file_that_is_damaged_or_hostile_is_no_measurement(text: bytes) -> None:
    machine_file().parent.mkdir(parents=True)
    machine_file().write_bytes(text)
    assert remembered("cpu") is None
    remember("cpu", ROOFLINE)
    assert remembered("cpu") == ROOFLINE


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "file" / "cache"))
    remember("cpu", ROOFLINE)
    assert remembered("cpu") is None


def test_the_file_does_not_grow_without_end() -> None:
    for number in range(100):
        remember(f"card {number}", ROOFLINE)
    assert len(json.loads(machine_file().read_text())["limits"]) <= 65
    assert remembered("card 99") == ROOFLINE and asdict(ROOFLINE)["f32_ops_per_s"] == 0.6e12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
def test_a_pipe_or_a_link_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    machine_file().parent.mkdir(parents=True)
    os.mkfifo(machine_file())
    assert remembered("cpu") is None
    remember("cpu", ROOFLINE)
    assert remembered("cpu") == ROOFLINE
    machine_file().unlink()
    (tmp_path / "mine").write_text("mine")
    machine_file().symlink_to(tmp_path / "mine")
    remember("cpu", ROOFLINE)
    assert (tmp_path / "mine").read_text() == "mine" and remembered("cpu") == ROOFLINE
