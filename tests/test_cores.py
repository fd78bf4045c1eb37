"""The cores of simulated machines, and the number of threads that a model begins with there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from puna.cores import CPU, SLOW, Core, choose_threads, cores_by_records, cores_by_sysctl, cores_of
from tests.machine.fake_host import FakeHost, build

GROUP = "/sys/fs/cgroup"
Files = dict[str, str | bytes | None]


def siblings(*cores: str) -> Files:
    """The topology of cores with these CPUs: "0,8" or "0-1"."""
    files: Files = {}
    for core in cores:
        first, _, last = core.replace("-", ",").partition(",")
        for cpu in {first, last or first}:
            files[f"{CPU}/cpu{cpu}/topology/thread_siblings_list"] = f"{core}\n"
    return files


def capacities(*numbers: int) -> Files:
    return {f"{CPU}/cpu{cpu}/cpu_capacity": f"{number}\n" for cpu, number in enumerate(numbers)}


def allowed(cpus: str) -> Files:
    return {"/proc/self/status": f"Name:\tpuna\nCpus_allowed_list:\t{cpus}\n"}


def quota(cores: float) -> Files:
    return {f"{GROUP}/cpu.max": f"{round(cores * 100_000)} 100000\n"}


class Case(NamedTuple):
    """Files of a machine, and the numbers that a model may run with there: the first one, all, and why."""

    files: Files
    start: int
    counts: tuple[int, ...]
    why: str


PAIRS = [f"{i},{i + 8}" for i in range(8)]
P_AND_E = siblings(*(f"{i}-{i + 1}" for i in range(0, 12, 2)), *map(str, range(12, 20)))
CASES: dict[str, Case] = {
    "nothing is told": Case(allowed("0-3"), 4, (1, 2, 3, 4), "one for each of 4 cores"),
    "one core": Case(allowed("5"), 1, (1,), "one for each of 1 core"),
    "two threads a core": Case(allowed("0-15") | siblings(*PAIRS), 8, (1, 2, 3, 4, 6, 8, 16), "one for each of 8 cores"),
    "both threads of two cores": Case(allowed("0-1,8-9") | siblings(*PAIRS), 2, (1, 2, 4), "one for each of 2 cores"),
    "one thread of each core": Case(allowed("0-7") | siblings(*PAIRS), 8, (1, 2, 3, 4, 6, 8), "one for each of 8 cores"),
    "6 fast cores with two threads, 8 slow ones": Case(
        allowed("0-19") | P_AND_E | {"/sys/devices/cpu_core/cpus": "0-11\n", "/sys/devices/cpu_atom/cpus": "12-19\n"},
        6,
        (1, 2, 3, 4, 6, 14, 20),
        "one for each of the 6 fast ones of 14 cores",
    ),
    "2 fast cores, 8 slow ones": Case(
        allowed("0-11") | siblings("0-1", "2-3", *map(str, range(4, 12))) | {"/sys/devices/cpu_atom/cpus": "4-11\n"},
        10,
        (1, 2, 3, 4, 6, 9, 10, 12),
        "one for each of 10 cores",
    ),
    "ARM with three kinds": Case(
        allowed("0-7") | capacities(250, 250, 250, 250, 800, 800, 800, 1024),
        4,
        (1, 2, 3, 4, 8),
        "one for each of the 4 fast ones of 8 cores",
    ),
    "ARM, bound to its slow cores": Case(
        allowed("0-3") | capacities(250, 250, 250, 250, 1024), 4, (1, 2, 3, 4), "one for each of 4 cores"
    ),
    "a quota of 1.5 cores": Case(allowed("0-15") | quota(1.5), 1, (1, 2), "as many as the quota allows"),
    "a quota of half a core": Case(allowed("0-15") | quota(0.5), 1, (1,), "as many as the quota allows"),
    "a quota larger than the machine": Case(allowed("0-1") | quota(8), 2, (1, 2), "one for each of 2 cores"),
    "a quota between cores and hardware threads": Case(
        allowed("0-15") | siblings(*PAIRS) | quota(11.5), 8, (1, 2, 3, 4, 6, 8, 12), "one for each of 8 cores"
    ),
    "version 1's quota": Case(
        allowed("0-7") | {f"{GROUP}/cpu/cpu.cfs_quota_us": "250000\n", f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"},
        2,
        (1, 2, 3),
        "as many as the quota allows",
    ),
    "texts that are none": Case(
        allowed("0-1")
        | {
            "/sys/devices/cpu_atom/cpus": "many\n",
            f"{CPU}/cpu0/cpu_capacity": "fast\n",
            f"{CPU}/cpu1/topology/thread_siblings_list": "",
        },
        2,
        (1, 2),
        "one for each of 2 cores",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_begins_with_a_thread_for_each_fast_core(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = choose_threads(machine=build(tmp_path, {"files": case.files}))
    assert (found.start, found.counts, found.why) == case[1:]


@pytest.mark.parametrize(
    ("limit", "start", "counts"),
    [
        (1, 1, (1,)),
        (3, 3, (1, 2, 3)),
        (8, 8, (1, 2, 3, 4, 6, 8)),
        (16, 8, (1, 2, 3, 4, 6, 8, 16)),
        (24, 8, (1, 2, 3, 4, 6, 8, 16, 24)),
    ],
)
def test_a_wanted_number_is_the_largest_one_that_is_tried(
    limit: int, start: int, counts: tuple[int, ...], tmp_path: Path
) -> None:
    found = choose_threads(limit, build(tmp_path, {"files": allowed("0-15") | siblings(*PAIRS)}))
    assert (found.start, found.counts) == (start, counts)
    assert found.why == ("as --threads says" if limit <= 8 else "one for each of 8 cores")


@pytest.mark.parametrize("cpus", [1, 2, 3, 5, 6, 8, 12, 64, 96, 255, 256])
def test_numbers_ascend_from_one_and_hold_the_first_one(cpus: int, tmp_path: Path) -> None:
    found = choose_threads(machine=build(tmp_path, {"files": allowed(f"0-{cpus - 1}")}))
    assert found.counts[0] == 1 and found.counts[-1] == found.most == found.start == cpus
    assert list(found.counts) == sorted(set(found.counts)) and len(found.counts) <= 15


def test_a_machine_of_thousands_of_processors_is_read_in_part(tmp_path: Path) -> None:
    found = choose_threads(machine=build(tmp_path, {"files": allowed("0-99999999999999")}))
    assert found.start == 1024


@pytest.mark.parametrize("system", ["Darwin", "Windows", "FreeBSD"])
def test_other_systems_than_this_one_count_processors(system: str, tmp_path: Path) -> None:
    host: FakeHost = build(tmp_path, {"system": system, "files": {"/proc/self/status": None}})
    assert cores_of(host, present=6) == [Core()] * 6


def test_a_mac_that_tells_nothing_has_no_known_cores() -> None:
    assert cores_by_sysctl(lambda _: None) is None


def test_a_mac_with_levels_of_which_one_is_empty() -> None:
    assert cores_by_sysctl({"hw.nperflevels": 2, "hw.perflevel0.physicalcpu": 8}.get) == [Core()] * 8


def windows_record(mask: int, level: int, kind: int = 0, groups: int = 1) -> bytes:
    """PROCESSOR_RELATIONSHIP with its head."""
    body = bytes([int(mask.bit_count() > 1), level, *bytes(20)]) + groups.to_bytes(2, "little")
    body += b"".join(mask.to_bytes(8, "little") + bytes(8) for _ in range(groups))
    return kind.to_bytes(4, "little") + (8 + len(body)).to_bytes(4, "little") + body


def windows_cores(records: Iterable[bytes]) -> list[Core]:
    return cores_by_records(b"".join(records)) or []


def test_windows_tells_hardware_threads_and_classes_of_cores() -> None:
    fast, slow = [windows_record(3 << 2 * i, 1) for i in range(2)], [windows_record(16 << i, 0) for i in range(4)]
    package = windows_record(255, 0, kind=3)
    assert windows_cores([package, *fast, *slow]) == [Core(threads=2)] * 2 + [Core(speed=SLOW)] * 4
    assert windows_cores([windows_record(1 << i, 0) for i in range(6)]) == [Core()] * 6


def test_windows_records_that_are_cut_or_have_no_size_end_the_list() -> None:
    whole = windows_record(3, 0)
    for cut in range(len(whole)):
        assert len(windows_cores([whole, whole[:cut]])) in (1, 2)
    assert windows_cores([bytes(64)]) == [Core(), Core()]
