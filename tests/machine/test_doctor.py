"""Machines with one fault each: the doctor's finding, its state, and the command. Then the doctor itself."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puna.cli import main
from puna.cli.doctor import COMMAND, Line, report_lines, show, summary
from puna.machine import self_test, started_torch
from puna.machine.cuda_versions import index_of
from puna.machine.doctor import MachineDiagnosis, diagnose, examine, fix_script, judge
from puna.machine.facts import FACTS, NEEDED
from puna.machine.finding import Finding, Remedy, State
from puna.machine.probes import PROBES
from puna.machine.probes.base import Patient
from puna.machine.probes.torch_on_cpu import LEAST_TORCH
from puna.machine.remedies import REMEDIES, quoted
from tests.machine.fake_host import BASE, WSL2, FakeHost, Overlay, build, command_line
from tests.machine.nvidia_machines import NO_TORCH, RTX_4070, torch
from tests.machine.situations import (
    BATTERY,
    CPUFREQ,
    MANY_INTERFACES,
    MOUSE,
    SITUATIONS,
    V1_LIMIT,
    WINDOWS,
    Situation,
    python_facts,
    several,
    storage,
    trial_ends,
)
from tests.own_cache import OWN

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests of this file, but for the kernels: these are of all tests, and stay."""
    folder, kernels = tmp_path_factory.getbasetemp() / "doctors-cache", OWN / "kernels"
    if not folder.exists():
        folder.mkdir()
        kernels.mkdir(parents=True, exist_ok=True)
        (folder / "kernels").symlink_to(kernels, target_is_directory=True)
    monkeypatch.setenv("PUNA_CACHE", str(folder))


def findings_of(host: FakeHost, device: str = "auto") -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(Patient(host, device))}


@pytest.mark.parametrize("situation", SITUATIONS, ids=[situation.name for situation in SITUATIONS])
def test_what_is_wrong_is_found(tmp_path: Path, situation: Situation) -> None:
    found = findings_of(build(tmp_path, *situation.overlays))
    assert situation.check in found, list(found)
    finding = found[situation.check]
    assert finding.state == situation.state
    assert situation.words in finding.found or situation.words in finding.effect, finding
    assert situation.typed in "\n".join(finding.remedy.commands if finding.remedy else ())
    assert finding.effect or finding.state == "ok"


def test_on_a_healthy_machine_all_is_well(tmp_path: Path) -> None:
    found = findings_of(build(tmp_path))
    assert {name: f for name, f in found.items() if f.state != "ok" and f.device != "cuda"} == {}
    assert {"cpu.cores", "cpu.trial", "memory.free", "disk.cache", "python.packages", "network.torchrun"} <= set(found)


@pytest.mark.parametrize(
    ("overlay", "absent"),
    [
        (MOUSE, "power.battery"),
        (several(NCCL_SOCKET_IFNAME="enp"), "network.interfaces"),
        (several(), "network.port"),  # torchrun itself listens there
        (
            {"files": {f"{CPUFREQ}/scaling_driver": "intel_pstate\n", f"{CPUFREQ}/scaling_governor": "powersave\n"}},
            "power.governor",
        ),
        (WSL2, "wsl.memory"),  # 31 GiB are enough
    ],
    ids=["a mouse's battery", "an interface's prefix", "torchrun's own port", "powersave of intel_pstate", "much memory in WSL"],
)
def test_what_is_in_order_is_not_complained_of(tmp_path: Path, overlay: Overlay, absent: str) -> None:
    assert absent not in findings_of(build(tmp_path, overlay))


def test_a_password_in_a_proxy_is_never_shown(tmp_path: Path) -> None:
    host = build(tmp_path, {"environ": {"HTTPS_PROXY": "http://me:secret@proxy:3128"}})
    assert "secret" not in json.dumps(diagnose(Patient(host)).as_json())


# ---- machines that answer nonsense


def garbage(random_bytes: random.Random) -> Iterator[bytes]:
    yield b""
    yield random_bytes.randbytes(2000)
    yield b"\xff" * (2 << 20)
    yield b"9" * 5000 + b"\n"
    yield b"-1 nan inf 1e999 : : :\n" * 50
    yield "Größe: 12,5 GiB; verfügbar\n".encode("latin-1")


GARBAGE = list(garbage(random.Random(1)))


@pytest.mark.parametrize("content", GARBAGE, ids=["empty", "random", "huge", "digits", "numbers", "latin-1"])
def test_garbage_in_every_file_crashes_nothing(tmp_path: Path, content: bytes) -> None:
    everywhere = dict.fromkeys(
        [name for o in (BASE, V1_LIMIT, BATTERY, MANY_INTERFACES) for name in o["files"] if name[-1] != "/"], content
    )
    everywhere |= dict.fromkeys(("/proc/vmstat", "/proc/net/route", "/etc/ufw/ufw.conf", "/sys/fs/cgroup/cpu.max"), content)
    everywhere |= {"/sys/fs/cgroup/cgroup.controllers": content}
    _no_probe_has_a_bug(build(tmp_path, {"files": everywhere}))


FACT_NAMES = ("folder", "free", "total", "name", "addresses", "packages", "version", "threads", "limits", "is_right")
NONSENSE: list[Any] = [None, True, -1, 1e300, "x", [[]], {"a": 1}]
TEXTS = ["", "\x00\x1b[2J", "[1]", "{}", '{"is_right": true, "limits": {"read_bytes_per_s": Infinity}}', "9" * 5000, "[" * 9000]
TEXTS += [json.dumps(dict.fromkeys(FACT_NAMES, value)) for value in NONSENSE]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("system", ["Linux", "Windows", "Darwin", "Plan 9"])
def test_garbage_from_every_command_crashes_nothing(tmp_path: Path, text: str, system: str) -> None:
    commands = [{"command": [], "prefix": True, "stdout": text, "stderr": text, "code": 0}]
    _no_probe_has_a_bug(build(tmp_path, {"commands": commands, "system": system}))


@pytest.mark.parametrize("value", ["", "-1", "\udcff", "9" * 400, "a b;c", "::", "http://[", "^", "=", ","])
def test_garbage_in_every_variable_crashes_nothing(tmp_path: Path, value: str) -> None:
    names = [
        "WORLD_SIZE",
        "RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NCCL_SOCKET_IFNAME",
        "HTTPS_PROXY",
        "HF_HUB_OFFLINE",
        "container",
    ]
    _no_probe_has_a_bug(build(tmp_path, {"environ": dict.fromkeys(names, value)}))
    _no_probe_has_a_bug(build(tmp_path, several(), {"environ": dict.fromkeys(names[3:], value) | {"TORCHELASTIC_RUN_ID": None}}))


def test_without_rights_and_commands_notes_are_all_that_is_left(tmp_path: Path) -> None:
    absent = [{"command": [], "prefix": True, "absent": True}]
    host = build(tmp_path, {"unreadable": ["/proc", "/sys", "/etc"], "commands": absent})
    _no_probe_has_a_bug(host)
    assert {finding.state for finding in examine(Patient(host))} <= {"ok", "note"}


def _no_probe_has_a_bug(host: FakeHost) -> None:
    diagnosis = diagnose(Patient(host))
    bugs = [finding for finding in diagnosis.findings if finding.check.endswith(".probe")]
    assert bugs == []
    json.dumps(diagnosis.as_json(), allow_nan=False)
    assert all(len(line.text) < 2000 for line in report_lines(diagnosis))


# ---- the doctor


def test_a_probe_that_raises_is_a_bug_of_puna_and_hides_no_other(tmp_path: Path) -> None:
    def broken(patient: Patient) -> Iterator[Finding]:
        yield Finding("broken.first", "ok", "before")
        raise KeyError(patient.device)

    found = examine(Patient(build(tmp_path)), (broken, *PROBES))
    assert [f.check for f in found[:2]] == ["broken.probe", "cpu.cores"] or [f.check for f in found[:2]] == [
        "broken.first",
        "broken.probe",
    ]
    assert any("a bug in puna" in f.found and "KeyError" in f.found for f in found)
    assert "memory.free" in {f.check for f in found}


def test_a_probe_that_hangs_is_left_alone(tmp_path: Path) -> None:
    def hanging(_: Patient) -> list[Finding]:
        time.sleep(5)
        return []

    started = time.monotonic()
    found = examine(Patient(build(tmp_path)), (hanging, *PROBES), limit_s=0.3)
    assert time.monotonic() - started < 2
    assert found[0].check == "hanging.probe" and "not done after 0.3 s" in found[0].found


def test_without_threads_the_probes_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("puna.machine.host.ThisHost", lambda: build(tmp_path))
    assert main.run(["doctor"]) == 0
    _no_probe_has_a_bug(build(tmp_path))


def test_a_probe_that_lacks_memory_or_a_package_is_no_bug(tmp_path: Path) -> None:
    def short(_: Patient) -> list[Finding]:
        raise ImportError("\n\nIMPORTANT:\n" + "x" * 999)

    (found,) = examine(Patient(build(tmp_path)), (short,))
    assert found.check == "short.probe" and found.found.startswith("this part was not checked: ImportError: IMPORTANT: xx")
    assert len(found.found) < 300


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is of Linux")
def test_little_address_space_is_enough() -> None:
    command = 'ulimit -v 400000; exec "$0" -m puna doctor --json'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    checks = {finding["check"] for finding in json.loads(done.stdout.splitlines()[-1])["findings"]}
    assert {"memory.free", "disk.cache", "cpu.trial"} <= checks


def finding(check: str, state: Any, device: Any = "any") -> Finding:
    return Finding(check, state, "")


@pytest.mark.parametrize(
    ("findings", "wanted", "runs", "devices"),
    [
        ([], "auto", True, ("cpu",)),
        ([], "cpu", True, ("cpu",)),
        ([], "cuda", False, ("cpu",)),
        ([Finding("gpu.trial", "ok", "", device="cuda")], "cuda:0", True, ("cpu", "cuda")),
        ([Finding("gpu.trial", "ok", "", device="cuda"), Finding("x", "error", "", device="cuda")], "cuda", False, ("cpu",)),
        ([Finding("x", "error", "", device="cuda")], "auto", True, ("cpu",)),
        ([Finding("x", "error", "", device="cpu")], "auto", False, ()),
        ([Finding("x", "error", "", device="cpu"), Finding("gpu.trial", "ok", "", device="cuda")], "auto", True, ("cuda",)),
        ([Finding("x", "error", "", device="cpu")], "cpu", False, ()),
        ([Finding("x", "error", ""), Finding("gpu.trial", "ok", "", device="cuda")], "cuda", False, ()),
        ([], "torch", True, ("cpu", "torch")),
        ([Finding("x", "error", "", device="torch")], "torch", False, ("cpu",)),
        ([Finding("x", "error", "", device="torch")], "auto", True, ("cpu",)),
        ([Finding("x", "error", "", device="cpu")], "torch", True, ("torch",)),
        ([Finding("x", "warning", "")], "cpu", True, ("cpu",)),
    ],
)
def test_the_verdict_is_on_the_wanted_device(findings: list[Finding], wanted: str, runs: bool, devices: tuple[str, ...]) -> None:
    verdict = judge(findings, wanted)
    assert (verdict.runs, verdict.devices) == (runs, devices)


# ---- its script

EVIL = "x\ntouch /tmp/evil\r\n$(touch evil) `touch evil` \u2028touch evil"


def test_the_script_is_a_shell_script_that_runs_nothing_of_what_files_say(tmp_path: Path) -> None:
    findings = [
        Finding("a.evil", "error", EVIL, EVIL, Remedy("r", EVIL, ("true mends",))),
        Finding("b.note", "note", "n", "", Remedy("r", "w", ("false 'a\nfalse'",))),
        Finding("c.boot", "warning", "n", "", Remedy("r", "w", ("true again", "sudo reboot"), needs_reboot=True)),
        Finding("d.shell", "error", "n", "", Remedy("r", "w", ("export PUNA_CACHE=/x", "true mends"))),
        Finding("e.fine", "ok", "n", "", Remedy("r", "w", ("false",))),
    ]
    script = fix_script(findings, "ubuntu")
    live = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert live == ["set -eu", "true mends", "true again"]
    assert script.splitlines()[-1] == "# sudo reboot"
    (tmp_path / "fix.sh").write_text(script, "utf-8")
    assert subprocess.run(["sh", str(tmp_path / "fix.sh")], cwd=tmp_path, check=False).returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["fix.sh"]


@pytest.mark.parametrize("state", ["error", "warning"])
def test_a_script_names_what_no_command_fixes_and_never_says_that_all_is_well(state: State) -> None:
    finding = Finding("a.hopeless", state, "the card is broken", "models run on the CPU")
    for others in ([], [Finding("b.fine", "ok", "n")], [Finding("c.mendable", "error", "n", "", Remedy("r", "w", ("true",)))]):
        script = fix_script([*others, finding], "ubuntu")
        assert f"# ---- {state}: a.hopeless: no command fixes this\n# the card is broken" in script
        assert "nothing to fix" not in script
    assert "nothing to fix" in fix_script([Finding("b.fine", "ok", "n"), Finding("d.note", "note", "n")], "ubuntu")


def test_scripts_of_all_situations_are_understood_by_a_shell(tmp_path: Path) -> None:
    texts = []
    for i, (_, overlays, *_) in enumerate(SITUATIONS):
        patient = Patient(build(tmp_path / str(i), *overlays))
        if patient.distribution != "windows":
            texts.append(fix_script(examine(patient), patient.distribution))
    for text in set(texts):
        done = subprocess.run(["sh", "-n"], input=text.encode(), capture_output=True, check=False)
        assert done.returncode == 0, (done.stderr, text)


def test_on_windows_the_script_is_powershell(tmp_path: Path) -> None:
    patient = Patient(build(tmp_path, WINDOWS))
    script = fix_script(examine(patient), patient.distribution)
    assert script.startswith("# Written by puna doctor, for windows")
    assert "$ErrorActionPreference = 'Stop'\n" in script and "\npowercfg /setactive SCHEME_BALANCED\n" in script


def test_for_powershell_a_text_stays_one_word() -> None:
    quotes = "\u2018\u2019\u201a\u201b"
    assert quoted(f"a'{quotes}", "windows") == "'a''" + "".join(2 * quote for quote in quotes) + "'"
    assert quoted("C:\\Users\\J\u00fcrgen", "windows") == "'C:\\Users\\J\u00fcrgen'"
    evil = quoted("a\r\n; calc \u2028\x00\udcff", "windows")
    assert evil == "('a' + [char]0x0D + [char]0x0A + '; calc ' + [char]0x2028 + [char]0x00 + [char]0xDCFF)"
    assert quoted("\n", "windows") == "('' + [char]0x0A)"


def test_on_windows_no_name_ends_a_line_and_the_file_says_that_it_is_utf8(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = build(tmp_path / "machine", WINDOWS, storage("C:\\\u00fc\ncalc\u2019; calc", free=1))
    monkeypatch.setattr("puna.machine.host.ThisHost", lambda: host)
    file = tmp_path / "mend.ps1"
    assert main.run(["doctor", "--fix-script", str(file)]) == main.run(["doctor", "--fix-script", str(file)]) == 0
    assert file.read_bytes().startswith(b"\xef\xbb\xbf# Written by puna doctor, for windows")
    live = [line for line in file.read_text("utf-8-sig").splitlines() if "calc" in line and not line.startswith("#")]
    assert [line.split(" | ")[0] for line in live] == [
        "Get-ChildItem -Recurse ('C:\\\u00fc' + [char]0x0A + 'calc\u2019\u2019; calc')"
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
def test_a_script_is_not_written_over_a_pipe_or_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    host = build(tmp_path / "machine")
    monkeypatch.setattr("puna.machine.host.ThisHost", lambda: host)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "machine"):
        assert main.run(["doctor", "--fix-script", str(tmp_path / name)]) == 2
        assert "is not a script of puna doctor" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(REMEDIES))
def test_every_remedy_has_words(name: str) -> None:
    words = REMEDIES[name].words
    assert words == words.strip() != "" and "!" not in words and "\n" not in words


# ---- the real machine


def puna(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [sys.executable, "-m", "puna", *arguments], capture_output=True, encoding="utf-8", env=variables, timeout=60, check=False
    )


def test_this_machine_runs_models_on_its_cpu_and_is_looked_at_within_10_seconds() -> None:
    started = time.monotonic()
    done = puna("doctor")
    assert time.monotonic() - started < 10
    assert done.returncode == 0, done.stdout
    assert "This machine runs models on: CPU (" in done.stdout and "\x1b" not in done.stdout


def test_the_json_is_one_line_with_findings_verdict_and_facts() -> None:
    done = puna("doctor", "--json", "--device", "cpu", LC_ALL="de_DE.UTF-8", LANGUAGE="de")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and facts["verdict"]["runs"] is True and facts["verdict"]["wanted"] == "cpu"
    assert {"check", "state", "found", "effect", "remedy", "device"} == set(facts["findings"][0])
    assert facts["facts"]["memory"]["total_bytes"] > 0 and facts["facts"]["cpu_limits"]["read_bytes_per_s"] > 1e8


def test_a_gpu_that_is_not_there_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("puna.machine.host.ThisHost", lambda: build(tmp_path))
    assert main.run(["doctor", "--device", "cuda"]) == 1
    assert "The device cuda does not" in capsys.readouterr().out
    assert main.run(["doctor", "--device", "tpu"]) == 2


def test_a_rank_of_a_group_that_is_not_there_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    group = {"WORLD_SIZE": "2", "RANK": "1"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("puna.machine.host.ThisHost", lambda: build(tmp_path, {"environ": group}))
    assert main.run(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "rank 1 of 2 processes" in told and "unset WORLD_SIZE RANK" in told


# The doctor with as much time for the CPU's trial as it takes: without a cache it compiles, beside other tests.
PATIENT = """
import sys
from puna.cli import main
from puna.machine import probes
probes.LONGER_S[probes.bandwidth] = 55
sys.modules["puna.machine.probes.bandwidth"].LIMIT_S = 50  # the package has the function of that name
main.main(["doctor", "--json"])
"""


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PUNA_CACHE": str(tmp_path / "file" / "cache")}
    command = [sys.executable, "-c", PATIENT]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=variables, timeout=60, check=False)
    states = {f["check"]: f["state"] for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0 and states["disk.cache"] == "warning" and states["cpu.trial"] == "ok"


def test_a_cache_below_a_folder_that_may_not_be_searched_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = Path.stat

    def guarded(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if tmp_path / "locked" in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, follow_symlinks=follow_symlinks)

    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(Path, "stat", guarded)
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "locked" / "a" / "b"))
    assert FACTS["storage"]()["looked_at"] == str(tmp_path / "locked")


def test_a_cache_of_nobody_is_told_with_the_reason() -> None:
    done = puna("doctor", "--json", PUNA_CACHE="~nobody-of-this-name/a")
    told = json.loads(done.stdout.splitlines()[-1])
    (found,) = [f for f in told["findings"] if f["check"] == "disk.cache"]
    assert found["state"] == "warning" and "no home folder is known for ~nobody-of-this-name" in found["found"]
    assert done.returncode == 1 and told["verdict"]["runs"] is False


def test_a_folder_for_the_cache_is_nobody_elses(tmp_path: Path) -> None:
    at_root = storage("/puna", "/", "Permission denied")
    beside = findings_of(build(tmp_path / "a", at_root))["disk.cache"].remedy
    at_home = findings_of(build(tmp_path / "b", at_root, {"files": {"/home/user/": ""}}))["disk.cache"].remedy
    full = storage(problem="No space left on device")
    full_home = findings_of(build(tmp_path / "c", full, {"files": {"/home/user/": ""}}))["disk.cache"].remedy
    assert beside is not None and at_home is not None and full_home is not None
    assert beside == full_home and "mktemp -d" in beside.commands[0]
    assert at_home.commands[0] == 'mkdir -p -m 700 "$HOME/puna-cache"'


@pytest.mark.parametrize(
    ("installed", "state", "words", "runs"),
    [
        ({"stdout": '{"torch": "2.11.0+cpu"}'}, "ok", "PyTorch 2.11.0+cpu is installed", True),
        ({"stdout": '{"torch": ""}'}, "error", "PyTorch is not installed", False),
        ({"stdout": '{"torch": "2.3.1"}'}, "error", "PyTorch 2.3.1 is older than 2.11", False),
        ({"absent": True}, "note", "does not say which PyTorch", True),
    ],
)
def test_torch_on_the_cpu_is_a_device_too(
    tmp_path: Path, installed: dict[str, Any], state: str, words: str, *, runs: bool
) -> None:
    host = build(tmp_path, {"commands": [{"command": command_line("puna.machine.installed_torch")} | installed]})
    diagnosis = diagnose(Patient(host, "torch"))
    (found,) = [f for f in diagnosis.findings if f.check == "torch.installed"]
    assert found.state == state and words in found.found and diagnosis.verdict.runs is runs
    assert summary(diagnosis.verdict, diagnosis.facts).endswith("CPU by PyTorch." if runs else "see torch.installed.")
    assert "torch.installed" not in findings_of(host)


LIBCUDART = "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory"


def started(**answer: Any) -> Overlay:
    """What the child says that imports PyTorch."""
    return {"commands": [{"command": command_line(started_torch.MODULE)} | answer]}


@pytest.mark.parametrize(
    ("device", "state", "kind"), [("auto", "warning", "cuda"), ("torch", "error", "torch"), ("cuda", "error", "cuda")]
)
def test_a_torch_that_is_installed_in_part_is_found_with_what_to_type(tmp_path: Path, device: str, state: str, kind: str) -> None:
    host = build(tmp_path, torch("2.13.0+cpu", ""), started(stdout=json.dumps({"problem": LIBCUDART})))
    diagnosis = diagnose(Patient(host, device))
    (found,) = [f for f in diagnosis.findings if f.check == "torch.start"]
    assert (found.state, found.device) == (state, kind)
    assert found.found == f"PyTorch 2.13.0+cpu is installed but does not start: {LIBCUDART}"
    assert found.remedy is not None and " install --force-reinstall 'torch>=" in found.remedy.commands[0]
    assert diagnosis.verdict.runs is (device == "auto")


@pytest.mark.parametrize(
    ("overlays", "device", "check", "state"),
    [
        ((), "auto", "torch.start", "warning"),
        ((), "cuda", "torch.start", "error"),
        ((), "torch", "torch.installed", "error"),
        (RTX_4070, "auto", "torch.build", "error"),
    ],
)
def test_a_rest_of_a_torch_is_found_once_with_what_to_type(
    tmp_path: Path, overlays: tuple[Overlay, ...], device: str, check: str, state: str
) -> None:
    host = build(tmp_path, *overlays, torch("", "", "", nccl="", folders=[], remains="/venv/torch"))
    words = "only a part of PyTorch is installed, in /venv/torch"
    (found,) = [f for f in diagnose(Patient(host, device)).findings if f.found == words]
    assert (found.check, found.state) == (check, state)
    assert found.remedy is not None and " install " in found.remedy.commands[0]


def test_a_torch_for_cuda_comes_again_from_its_own_folder(tmp_path: Path) -> None:
    trial_fails: Overlay = {"commands": [{"command": command_line(self_test.MODULE), "code": 1, "stderr": LIBCUDART}]}
    host = build(tmp_path, *RTX_4070, trial_fails, started(stdout=json.dumps({"problem": LIBCUDART})))
    found = findings_of(host)
    assert "gpu.trial" not in found and found["torch.start"].state == "error"
    remedy = found["torch.start"].remedy
    assert remedy is not None and remedy.commands[0].endswith(f"--force-reinstall torch --index-url {index_of((13, 0))}")


@pytest.mark.parametrize(
    ("device", "answer", "words"),
    [
        ("torch", {"stdout": '{"torch": "2.13.0+cpu"}'}, "PyTorch 2.13.0+cpu starts"),
        ("auto", {"stdout": '{"torch": "2.13.0+cpu"}'}, "PyTorch 2.13.0+cpu is installed"),
        ("auto", {"hangs": True}, "PyTorch 2.13.0+cpu is installed"),
        ("torch", {"absent": True}, None),
        ("cpu", {"stdout": json.dumps({"problem": LIBCUDART})}, None),
    ],
)
def test_a_whole_torch_is_ok_and_an_unknown_one_is_not_blamed(
    tmp_path: Path, device: str, answer: dict[str, Any], words: str | None
) -> None:
    host = build(tmp_path, torch("2.13.0+cpu", ""), started(**answer))
    found = findings_of(host, device).get("torch.start")
    assert (found and (found.state, found.found)) == (words and ("ok", words))


@pytest.mark.parametrize(
    ("device", "state", "answer", "words"),
    [
        ("torch", "error", {"stdout": ""}, "it ended with code 0 and said: nothing"),
        ("auto", "warning", {"stdout": "", "code": 3}, "it ended with code 3 and said: nothing"),
        ("torch", "error", {"stdout": "", "code": -11}, "it was ended by SIGSEGV"),
        ("torch", "error", {"hangs": True}, "it did not end within 60 s"),
    ],
)
def test_a_torch_that_ends_or_hangs_without_a_word_does_not_start(
    tmp_path: Path, device: str, state: str, answer: dict[str, Any], words: str
) -> None:
    host = build(tmp_path, torch("2.13.0+cpu", ""), started(**answer))
    diagnosis = diagnose(Patient(host, device))
    (found,) = [f for f in diagnosis.findings if f.check == "torch.start"]
    assert (found.state, found.found) == (state, f"PyTorch 2.13.0+cpu is installed but does not start: {words}")
    assert diagnosis.verdict.runs is (device == "auto")


def test_where_the_trial_started_torch_it_is_not_started_again(tmp_path: Path) -> None:
    host = build(tmp_path, *RTX_4070, started(stdout="{}"))
    assert "torch.start" not in findings_of(host)
    assert not [command for command in host.asked if started_torch.MODULE in command]


@pytest.mark.parametrize(
    ("overlays", "device", "typed"),
    [
        ((), "auto", 'puna run "What is gravity?"'),
        ((), "cpu", 'puna run --device cpu "What is gravity?"'),
        ((), "cuda", 'puna run --device cpu "What is gravity?"'),
        (RTX_4070, "cuda", 'puna run --device cuda "What is gravity?"'),
        ((*RTX_4070, NO_TORCH), "cuda", "puna doctor --device cuda"),
        ((storage(problem="Read-only file system"),), "cuda:1", 'puna run --device cpu "What is gravity?"'),
        ((trial_ends(absent=True), python_facts(version="3.9.1")), "auto", "puna doctor --device auto"),
    ],
)
def test_the_report_ends_with_what_to_do_next(tmp_path: Path, overlays: tuple[Overlay, ...], device: str, typed: str) -> None:
    lines = list(report_lines(diagnose(Patient(build(tmp_path, *overlays), device))))
    assert (lines[-1].mark, lines[-1].text) == (COMMAND, typed) and "ext, " in lines[-2].text


def test_the_needed_torch_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"torch>={LEAST_TORCH}" in project["optional-dependencies"]["gpu"]


HEALTHY = """
import sys
from pathlib import Path
from puna.cli import main
from puna.machine import host
from tests.machine.fake_host import build
machine = build(Path(sys.argv[1]))
host.ThisHost = lambda: machine
main.main(["doctor"])
"""


@pytest.mark.parametrize("lines", [0, 1])
def test_a_reader_who_has_read_enough_changes_no_exit_code(lines: int, tmp_path: Path) -> None:
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HEALTHY, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as doctor:
        assert doctor.stdout is not None and doctor.stderr is not None
        for _ in range(lines):
            assert doctor.stdout.readline()
        doctor.stdout.close()
        said = doctor.stderr.read().replace(b"puna: looking at this machine ...\n", b"")
    assert (doctor.returncode, said) == (0, b"")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "is_styled"), [("", True), ("1", False)])
def test_without_colour_nothing_is_bold(monkeypatch: pytest.MonkeyPatch, no_color: str, *, is_styled: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal()
    show([Line("", "cpu", "bold"), Line("error", "x", "bold red"), Line(COMMAND, "true", "bold")], terminal)
    assert ("\x1b" in terminal.getvalue()) is is_styled and "cpu" in terminal.getvalue()


def test_neither_torch_nor_numba_is_needed_or_loaded(tmp_path: Path) -> None:
    hiding = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numba", "llvmlite", "triton"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""
    (tmp_path / "sitecustomize.py").write_text(hiding)
    code = (
        "import sys; from puna.cli import main; main.run(['doctor']); print([m for m in ('torch', 'numba') if m in sys.modules])"
    )
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert re.search(r"error +numba is missing", done.stdout) and "CPU kernels cannot run" in done.stdout
    assert "does not run models as it is" in done.stdout


def test_the_script_is_written_and_another_file_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    host = build(tmp_path / "machine", storage(problem="Read-only file system"))
    monkeypatch.setattr("puna.machine.host.ThisHost", lambda: host)
    file = tmp_path / "fix.sh"
    assert main.run(["doctor", "--fix-script", str(file)]) == main.run(["doctor", "--fix-script", str(file)]) == 0
    assert 'PUNA_CACHE="$(mktemp -d /var/tmp/puna-XXXXXXXX)"' in file.read_text()
    capsys.readouterr()
    assert main.run(["doctor", "--fix-script"]) == 0
    out, err = capsys.readouterr()
    assert out == file.read_text() and "disk" in err
    file.write_text("mine")
    assert main.run(["doctor", "--fix-script", str(file)]) == 2 and file.read_text() == "mine"
    assert main.run(["doctor", "--fix-script", str(tmp_path / "no" / "folder")]) == 1
    assert main.run(["doctor", "--json", "--fix-script"]) == 0
    assert "set -eu" in json.loads(capsys.readouterr().out.splitlines()[-1])["fix_script"]


def test_the_needed_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {tuple(line.split(">=")) for line in project["dependencies"]} == {(name, least) for name, (least, _) in NEEDED.items()}


@pytest.mark.parametrize("name", list(FACTS))
def test_every_fact_of_this_machine_is_json(name: str) -> None:
    assert json.loads(json.dumps(FACTS[name]()))


def test_a_diagnosis_is_in_the_types_of_json() -> None:
    odd = MachineDiagnosis((), judge([], "auto"), {"a": float("nan"), "b": {1, 2}, "c": Path("x"), "d": (1.5, None, True)})
    assert odd.as_json()["facts"] == {"a": None, "b": [1, 2], "c": "x", "d": [1.5, None, True]}
