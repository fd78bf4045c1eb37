"""The CPU as the kernel describes it: cores, and the instructions that puna's kernels use."""

from __future__ import annotations

from collections.abc import Iterator

from puna.cores import choose_threads
from puna.machine.finding import Finding
from puna.machine.probes.base import Patient
from puna.machine.processor import Processor, processor
from puna.resources import allowed_cores, usable_cores
from puna.units import counted

NEEDED_ON_X86 = ("avx2", "fma", "f16c")
# Flag of /proc/cpuinfo -> usual name of the instructions: wider products, which make prompts faster.
WIDER = {
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "asimddp": "dot products",
    "i8mm": "int8 matrices",
}


def cpu(patient: Patient) -> Iterator[Finding]:
    """Usable and present cores; needed and missing instructions."""
    found = patient.once(processor)
    if found is None:
        yield Finding("cpu.name", "note", "the system does not say which CPU this is", "puna tests the kernels anyway")
        return
    choice = choose_threads(0, patient.host, found.threads)
    patient.facts["cpu"] = {
        "name": found.name,
        "cores": found.cores or found.threads,
        "threads": found.threads,
        "usable_threads": usable_cores(patient.host, found.threads),
        "model_threads": choice.start,
        "model_threads_why": choice.why,
        "flags": sorted(found.flags.intersection((*NEEDED_ON_X86, *WIDER))),
    }
    yield from _cores(patient, found)
    yield from _instructions(patient, found)


def _cores(patient: Patient, found: Processor) -> Iterator[Finding]:
    allowed = allowed_cores(patient.host) or found.threads
    present = ", ".join(counted(number, name) for number, name in ((found.cores, "core"), (found.threads, "thread")) if number)
    if allowed < found.threads:
        yield Finding(
            "cpu.cores",
            "note",
            f"{found.name}: {present}, but this process may use only {allowed}",
            "models use only these and run slower",
            patient.remedy("use-all-cores", pinned=allowed, present=found.threads),
            device="cpu",
        )
    else:
        choice = choose_threads(0, patient.host, found.threads)
        begins = f"models begin with {counted(choice.start, 'thread')}, {choice.why}"
        yield Finding("cpu.cores", "ok", f"{found.name}: {present}; {begins}", device="cpu")


def _instructions(patient: Patient, found: Processor) -> Iterator[Finding]:
    wider = [name for flag, name in WIDER.items() if flag in found.flags]
    more = f"; {', '.join(wider)}" if wider else ""
    if not found.is_x86:
        yield Finding(
            "cpu.instructions", "ok", f"not an x86 CPU{more}", "puna uses portable kernels: correct, not tuned", device="cpu"
        )
        return
    missing = [name.upper() for name in NEEDED_ON_X86 if name not in found.flags]
    if patient.host.system != "Linux" and missing:  # other systems do not list all flags; the self test shows what works
        yield Finding("cpu.instructions", "note", f"the system does not list: {', '.join(missing)}", device="cpu")
    elif missing:
        yield Finding(
            "cpu.instructions",
            "error",
            f"this CPU lacks {', '.join(missing)}" + (", or the virtual machine hides it" if found.is_virtual else ""),
            "the CPU kernels cannot run; --device reference runs slowly",
            patient.remedy("show-cpu-to-guest"),
            device="cpu",
        )
    else:
        needed = ", ".join(name.upper() for name in NEEDED_ON_X86)
        yield Finding("cpu.instructions", "ok", f"{needed}: all that the kernels need{more}", device="cpu")
