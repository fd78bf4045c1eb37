"""Limits of containers and shells: doctor, plan and run read the same number from the files of a simulated machine."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from puna import resources
from puna.backends.reference import ReferenceBackend
from puna.cli.options import engine_config
from puna.config import EngineConfig
from puna.machine.planning.devices import device_for
from puna.machine.probes.base import Patient
from puna.machine.probes.container import container
from puna.machine.probes.cpu import cpu
from puna.machine.probes.memory import memory
from puna.progress import KeepingReporter
from tests.machine.fake_host import FakeHost, build, meminfo

GIB = 1 << 30
Files = dict[str, str | bytes | None]

V2, V1 = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"
LIMITS_HEAD = "Limit                     Soft Limit           Hard Limit           Units     \n"
HUGE = "9223372036854771712\n"  # version 1 where there is no limit


def stat(**sizes: int) -> str:
    return "".join(f"{name} {size}\n" for name, size in sizes.items())


def ulimit(name: str, soft: object, hard: object = "unlimited") -> str:
    return f"{LIMITS_HEAD}{name:<25} {soft!s:<20} {hard!s:<20} bytes     \n"


def status(allowed: str = "0-15", **kib: int) -> str:
    return "".join(f"{name}:\t{size:>8} kB\n" for name, size in kib.items()) + f"Cpus_allowed_list:\t{allowed}\n"


class Case(NamedTuple):
    """Files laid over a PC with 16 threads, and with 31.1 GiB of which 26 are free; what puna may use of it, in GiB."""

    files: Files
    total: float = 31.1
    free: float = 26.0
    cores: int = 16


OWN = {"/proc/self/cgroup": "0::/user.slice/app.scope\n"}
V1_GROUPS = "9:memory:/docker/4f1c\n4:cpu,cpuacct:/docker/4f1c\n3:cpuset:/docker/4f1c\n0::/\n"
CASES: dict[str, Case] = {
    "no limits": Case({}),
    "v2": Case({**OWN, f"{V2}/user.slice/app.scope/memory.max": f"{4 * GIB}\n"}, 4, 4),
    "v2 max": Case({**OWN, f"{V2}/user.slice/app.scope/memory.max": "max\n", f"{V2}/user.slice/app.scope/memory.high": "max\n"}),
    "v2 used": Case({f"{V2}/memory.max": f"{4 * GIB}\n", f"{V2}/memory.current": f"{GIB}\n"}, 4, 3),
    "v2 memory.high": Case({f"{V2}/memory.high": f"{3 * GIB}\n", f"{V2}/memory.current": f"{GIB}\n"}, 3, 2),
    "v2 the tightest is above, and fuller": Case(
        {
            **OWN,
            f"{V2}/user.slice/app.scope/memory.max": f"{4 * GIB}\n",
            f"{V2}/user.slice/app.scope/memory.current": f"{GIB}\n",
            f"{V2}/user.slice/memory.max": f"{6 * GIB}\n",
            f"{V2}/user.slice/memory.current": f"{5 * GIB}\n",
        },
        4,
        1,
    ),
    "v2 page cache": Case(
        {
            f"{V2}/memory.max": f"{4 * GIB}\n",
            f"{V2}/memory.current": f"{4 * GIB - 4096}\n",
            f"{V2}/memory.stat": stat(anon=GIB, file=3 * GIB, inactive_file=2 * GIB, active_file=GIB, slab_reclaimable=0),
        },
        4,
        3,
    ),
    "v2 full": Case({f"{V2}/memory.max": f"{GIB}\n", f"{V2}/memory.current": f"{2 * GIB}\n"}, 1, 0),
    "v2 larger than the machine": Case({f"{V2}/memory.max": f"{64 * GIB}\n", f"{V2}/memory.current": f"{GIB}\n"}),
    "v1": Case(
        {
            "/proc/self/cgroup": V1_GROUPS,
            f"{V1}/docker/4f1c/memory.limit_in_bytes": f"{4 * GIB}\n",
            f"{V1}/docker/4f1c/memory.usage_in_bytes": f"{3 * GIB}\n",
            f"{V1}/docker/4f1c/memory.stat": stat(cache=GIB, inactive_file=1, total_inactive_file=GIB, total_active_file=GIB),
            f"{V1}/memory.limit_in_bytes": HUGE,
        },
        4,
        3,
    ),
    "v1 seen from inside": Case(
        {"/proc/self/cgroup": V1_GROUPS, f"{V1}/memory.limit_in_bytes": f"{2 * GIB}\n", f"{V1}/memory.usage_in_bytes": "0\n"},
        2,
        2,
    ),
    "v1 without a limit": Case({"/proc/self/cgroup": V1_GROUPS, f"{V1}/memory.limit_in_bytes": HUGE}),
    "v1 a limit above that is not seen": Case(
        {
            "/proc/self/cgroup": V1_GROUPS,
            f"{V1}/memory.limit_in_bytes": HUGE,
            f"{V1}/memory.usage_in_bytes": f"{GIB}\n",
            f"{V1}/memory.stat": stat(hierarchical_memory_limit=3 * GIB),
        },
        3,
        2,
    ),
    "hybrid": Case(
        {
            "/proc/self/cgroup": "4:memory:/pod\n0::/pod\n",
            f"{V1}/pod/memory.limit_in_bytes": f"{8 * GIB}\n",
            f"{V2}/unified/pod/memory.max": f"{5 * GIB}\n",
        },
        5,
        5,
    ),
    "ulimit -v": Case(
        {"/proc/self/limits": ulimit("Max address space", 8 * GIB), "/proc/self/status": status(VmSize=2 << 20)}, 8, 6
    ),
    "ulimit -d": Case({"/proc/self/limits": ulimit("Max data size", 4 * GIB), "/proc/self/status": status(VmData=1 << 20)}, 4, 3),
    "ulimit unlimited": Case({"/proc/self/limits": ulimit("Max address space", "unlimited")}),
    "ulimit and group": Case(
        {
            "/proc/self/limits": ulimit("Max address space", 8 * GIB),
            "/proc/self/status": status(VmSize=5 << 20),
            f"{V2}/memory.max": f"{4 * GIB}\n",
        },
        4,
        3,
    ),
    "v2 quota": Case({f"{V2}/cpu.max": "250000 100000\n"}, cores=2),
    "v2 quota max": Case({f"{V2}/cpu.max": "max 100000\n"}),
    "v2 quota above": Case(
        {**OWN, f"{V2}/user.slice/app.scope/cpu.max": "800000 100000\n", f"{V2}/user.slice/cpu.max": "300000 100000\n"}, cores=3
    ),
    "half a core": Case({f"{V2}/cpu.max": "50000 100000\n"}, cores=1),
    "v1 quota": Case(
        {
            "/proc/self/cgroup": V1_GROUPS,
            f"{V2}/cpu,cpuacct/docker/4f1c/cpu.cfs_quota_us": "400000\n",
            f"{V2}/cpu,cpuacct/docker/4f1c/cpu.cfs_period_us": "100000\n",
        },
        cores=4,
    ),
    "v1 no quota": Case({f"{V2}/cpu/cpu.cfs_quota_us": "-1\n", f"{V2}/cpu/cpu.cfs_period_us": "100000\n"}),
    "affinity": Case({"/proc/self/status": status("0,2-5")}, cores=5),
    "v2 cpuset": Case({**OWN, f"{V2}/user.slice/cpuset.cpus.effective": "4-6\n"}, cores=3),
    "v1 cpuset": Case({"/proc/self/cgroup": V1_GROUPS, f"{V2}/cpuset/docker/4f1c/cpuset.cpus": "1\n"}, cores=1),
    "texts that are none": Case(
        {
            f"{V2}/memory.max": "much\n",
            f"{V2}/cpu.max": "fast\n",
            f"{V2}/cpuset.cpus.effective": "7-2\n",
            "/proc/self/limits": "Max address space\n",
            "/proc/self/cgroup": "::\n0\n:::::\n",
        }
    ),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def machine_of(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """The machine, in the place of this one too."""
    host = build(folder, {"files": {"/proc/meminfo": meminfo(31.1, 26.0, 8.0), **case.files}})
    monkeypatch.setattr(resources, "THIS", host)
    return host


def of_doctor(host: FakeHost) -> tuple[int, int, int]:
    patient = Patient(host)
    findings = [*memory(patient), *cpu(patient), *container(patient)]
    assert findings
    found: Any = patient.facts
    return found["memory"]["total_bytes"], found["memory"]["free_bytes"], found["cpu"]["usable_threads"]


def of_run() -> tuple[int, int, int]:
    info = ReferenceBackend(EngineConfig(device="reference")).info
    return info.total_bytes, info.free_bytes, info.threads


def test_doctor_plan_and_run_read_the_same_limits(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = machine_of(case, tmp_path, monkeypatch)
    total, free, cores = of_doctor(host)
    device = device_for(EngineConfig(device="cpu"), host, None, None, None)
    assert of_run() == (total, free, cores)
    assert (device.total_bytes, device.free_bytes, device.main_bytes) == (total, free, free)
    assert [total / GIB, free / GIB] == pytest.approx([case.total, case.free], abs=0.01) and cores == case.cores


def test_more_threads_than_the_quota_allows_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_of(CASES["v2 quota"], tmp_path, monkeypatch)
    report = KeepingReporter()
    engine_config({"threads": 3}, report)
    assert report.texts and "3 threads on 2 cores" in report.texts[0]


def test_the_doctor_names_what_limits(tmp_path: Path) -> None:
    for number, (name, words, cure) in enumerate(
        [
            ("v2", "its group may use 4.0 GiB", "docker"),
            ("ulimit -v", "ulimit -v allows this process 8.0 GiB", "ulimit -v"),
        ]
    ):
        patient = Patient(build(tmp_path / str(number), {"files": CASES[name].files}))
        found = next(finding for finding in memory(patient) if finding.check == "memory.limit")
        assert words in found.found and found.remedy is not None and cure in found.remedy.words


@pytest.mark.parametrize("seed", range(20))
def test_the_least_of_any_path_of_groups_counts(seed: int, tmp_path: Path) -> None:
    """Random paths, limits and uses, held against a rule in three lines."""
    rng = random.Random(seed)
    names = ["", *(f"g{i}" for i in range(rng.randrange(6)))]
    folders = ["/".join(names[: depth + 1]) for depth in range(len(names))]
    files: Files = {"/proc/self/cgroup": f"0::{folders[-1] or '/'}\n", "/proc/meminfo": meminfo(64, 60)}
    totals, frees = [64 * GIB], [60 * GIB]
    for folder in folders:
        if rng.random() < 0.6:
            limit, used = rng.randrange(1, 80 * GIB), rng.randrange(40 * GIB)
            cache = rng.randrange(used + 1)
            files[f"{V2}{folder}/memory.max"] = f"{limit}\n"
            files[f"{V2}{folder}/memory.current"] = f"{used}\n"
            files[f"{V2}{folder}/memory.stat"] = stat(inactive_file=cache)
            totals.append(limit)
            frees.append(max(0, limit - used + cache))
    print("seed", seed, files)
    assert resources.memory_bytes(build(tmp_path, {"files": files})) == (min(totals), min(frees))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_shell_that_limits_address_space_is_heard_by_this_process() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)); from puna import resources; "
        "print(*resources.memory_bytes(), *[limit.name for limit in resources.memory_limits(resources.THIS)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total, free, *names = done.stdout.split(" ", 2)
    assert int(total) <= 6 << 30 and int(free) < 6 << 30 and "ulimit -v" in names[0]


def test_what_this_process_holds_is_counted() -> None:
    before = resources.own_bytes()
    held = bytearray(64 << 20)
    held[::4096] = bytes([1]) * len(held[::4096])
    assert 60 << 20 < resources.own_bytes() - before < 80 << 20
