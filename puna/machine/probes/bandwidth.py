"""Tests the CPU: loads or compiles the kernels in a child, checks a result, measures memory speed for the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from puna.machine.child import Answer, ask
from puna.machine.finding import Finding
from puna.machine.probes.base import Patient

LIMIT_S = 7.0  # half a second if the kernels are cached; if they are compiled two or three, and on an old or busy CPU six
SLOW_BYTES_PER_S = 8e9  # one module of DDR3: a lower rate means a fault or a busy machine
EXAMPLE = ("a 7B model in 4 bits", 3.79e9)  # bytes read per token
LIMITS = ("read_bytes_per_s", "int8_ops_per_s", "f32_ops_per_s")


def bandwidth(patient: Patient) -> Iterator[Finding]:
    """Whether the CPU runs models, and its maximum speed."""
    answer = ask(patient.host, "puna.backends.cpu.self_test", limit_s=LIMIT_S)
    if answer.died_by in ("SIGILL", "SIGSEGV", "SIGABRT", "SIGBUS"):
        yield _error(
            f"{answer.died_by} ended the test of the kernels",
            "the CPU, or the virtual machine around it, lacks an instruction",
            patient,
        )
    elif answer.died_by == "SIGKILL":
        yield _error("the system ended the test, as it does when memory is short", "it would end models too", None)
    elif answer.problem:
        yield Finding("cpu.trial", "note", f"the kernels were not tested: {answer.problem}", _unknown(answer), device="cpu")
    elif problem := answer.text("problem"):
        yield _error(problem, answer.text("hint") or "the CPU kernels cannot run", None)
    elif answer.facts.get("is_right") is not True:
        yield _error("a kernel gave a wrong sum", "answers of this CPU may be wrong: its memory or the compiler is faulty", None)
    else:
        yield from _measured(patient, answer.facts.get("limits"))


def _unknown(answer: Answer) -> str:
    return (
        "the first run compiles them, which takes some seconds"
        if answer.timed_out
        else "puna does not know whether the CPU runs models"
    )


def _error(found: str, effect: str, patient: Patient | None) -> Finding:
    return Finding("cpu.trial", "error", found, effect, patient.remedy("show-cpu-to-guest") if patient else None, device="cpu")


def _measured(patient: Patient, limits: Any) -> Iterator[Finding]:
    yield Finding("cpu.trial", "ok", "the kernels run and give the right result", device="cpu")
    rates = Answer(limits if isinstance(limits, dict) else {})
    measured = {name: rates.number(name) or 0.0 for name in LIMITS}
    if min(measured.values()) <= 0:
        return
    patient.facts["cpu_limits"] = measured
    read, int8, f32 = measured.values()
    yield Finding(
        "cpu.bandwidth",
        "note" if read < SLOW_BYTES_PER_S else "ok",
        f"memory reads {read / 1e9:.1f} GB/s; {int8 / 1e9:.0f} GOP/s of int8, {f32 / 1e9:.0f} GFLOP/s of float32",
        f"{EXAMPLE[0]} can reach {read / EXAMPLE[1]:.1f} tokens per second",
        device="cpu",
    )
    _keep(patient)


def _keep(patient: Patient) -> None:
    from puna.backends.base import Roofline  # loads numpy
    from puna.machine.rooflines import remember

    remember("cpu", Roofline(**patient.facts["cpu_limits"]), patient.host)
