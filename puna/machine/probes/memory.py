"""Main memory: size, free bytes, limits, the processes that the OOM killer ended, and the models that fit."""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine.child import ask
from puna.machine.finding import Finding, State
from puna.machine.host import Host
from puna.machine.probes.base import Patient
from puna.resources import Limit, MainMemory, machine_memory, memory_limits, oom_kills, oom_kills_since_start, within
from puna.units import GIB, MIB, rough_gib

NEEDED_BYTES = 300 * MIB  # Python, the kernels and the default model
SHORT_BYTES = 2 * GIB  # below this, no model of a billion weights fits
SMALL_BYTES = 16 * GIB  # a machine with less memory needs swap
RUN_BYTES = 600 * MIB  # in addition to the weights: K and V of a usual context, scratch, Python
BY_ULIMIT = ("{name} allows this process", "a larger allocation fails", "raise-ulimit")
# Name of a limit -> its words, the effect of exceeding it, and the remedy.
HOLDERS = {
    "cgroup": (
        "this process and its group may use",
        "the kernel ends a program that needs more, without a message (exit code 137)",
        "raise-memory-limit",
    ),
    "ulimit -v": BY_ULIMIT,
    "ulimit -d": BY_ULIMIT,
}
SHOWN_MODELS = (
    "llama-3.2-1b",
    "llama-3.2-3b",
    "llama-2-7b",
    "llama-3.1-8b",
    "llama-2-13b",
    "codellama-34b",
    "llama-2-70b",
    "llama-3.1-405b",
)
BYTES_PER_WEIGHT = {"4 bits": 20 / 32, "8 bits": 34 / 32, "16 bits": 2.0}  # Q4_1, Q8_0, F16


def memory(patient: Patient) -> Iterator[Finding]:
    """Free memory, limits, swap, and processes ended by the OOM killer."""
    found = patient.once(read_memory)
    if found is None:
        yield Finding("memory.free", "note", "the system does not say how much memory there is")
        return
    limits = memory_limits(patient.host)
    total, free = within(found, limits)
    if total < found.total:
        yield _limit(patient, found, min(limits, key=lambda limit: limit.bytes))
    patient.facts["memory"] = {
        "total_bytes": total,
        "free_bytes": free,
        "machine_bytes": found.total,
        "swap_bytes": found.swap_total,
    }
    yield _free(patient, total, free)
    yield from _swap(patient, found)
    yield from _kills(patient)


def read_memory(host: Host) -> MainMemory | None:
    """/proc/meminfo; without it, what a child of this Python finds."""
    if host.system == "Linux":
        return machine_memory(host)
    answer = ask(host, "puna.machine.facts", "memory")
    numbers = [int(answer.number(name) or 0) for name in MainMemory._fields]
    return MainMemory(*numbers) if numbers[0] > 0 else None


def _limit(patient: Patient, found: MainMemory, limit: Limit) -> Finding:
    holds, effect, remedy = HOLDERS.get(limit.name, HOLDERS["cgroup"])
    return Finding(
        "memory.limit",
        "warning" if limit.bytes < SHORT_BYTES else "note",
        f"{holds.format(name=limit.name)} {rough_gib(limit.bytes)} of the machine's {rough_gib(found.total)}",
        effect,
        patient.remedy(remedy, wanted=f"{max(8, min(found.total // GIB, 16))}g", limit=limit.name),
    )


def _free(patient: Patient, total: int, free: int) -> Finding:
    found = f"{rough_gib(free)} free of {rough_gib(total)}"
    if free < NEEDED_BYTES:
        return Finding("memory.free", "error", found, "even the default model does not fit", patient.remedy("close-programs"))
    if free < SHORT_BYTES:
        return Finding("memory.free", "warning", found, what_fits(free), patient.remedy("close-programs"))
    return Finding("memory.free", "ok", found, what_fits(free))


def what_fits(free: int) -> str:
    """The largest known model that fits in each precision, with the memory that running needs.

    >>> what_fits(16 << 30)
    'on the CPU fit: Llama-2-13B in 4 bits, Llama-2-13B in 8 bits, Llama-3.1-8B in 16 bits'
    >>> what_fits(1 << 30)
    'on the CPU fit: models below a billion weights'
    """
    largest = {
        bits: [name for name in SHOWN_MODELS if _num_weights(name) * each + RUN_BYTES <= free][-1:]
        for bits, each in BYTES_PER_WEIGHT.items()
    }
    fitting = [f"{_title(names[0])} in {bits}" for bits, names in largest.items() if names]
    return f"on the CPU fit: {', '.join(fitting) or 'models below a billion weights'}"


def _num_weights(name: str) -> int:
    from math import prod

    from puna.machine.planning.known_models import KNOWN_MODELS
    from puna.model.weights import tensor_shapes

    return sum(map(prod, tensor_shapes(KNOWN_MODELS[name]).values()))


def _title(name: str) -> str:
    """
    >>> _title("llama-3.1-8b"), _title("codellama-34b")
    ('Llama-3.1-8B', 'CodeLlama-34B')
    """
    return name[:-1].replace("codellama", "CodeLlama").replace("llama", "Llama") + "B"


def _swap(patient: Patient, found: MainMemory) -> Iterator[Finding]:
    used = found.swap_total - found.swap_free
    if found.swap_total and used > found.swap_total // 2 and used > GIB:
        yield Finding(
            "memory.swap",
            "warning",
            f"{rough_gib(used)} of {rough_gib(found.swap_total)} swap is in use",
            "memory is short: a model in swap runs hundreds of times slower",
            patient.remedy("close-programs"),
            device="cpu",
        )
    elif not found.swap_total and found.total < SMALL_BYTES and patient.host.system == "Linux":
        yield Finding(
            "memory.swap",
            "note",
            f"no swap, and {rough_gib(found.total)} of memory",
            "when memory runs out, the kernel ends a program at once",
            patient.remedy("add-swap"),
        )


def _kills(patient: Patient) -> Iterator[Finding]:
    group = oom_kills(patient.host)
    machine = oom_kills_since_start(patient.host)
    if group:
        yield _killed(patient, "warning", f"the kernel ended processes of this container because its memory was full: {group}")
    elif machine:
        yield _killed(patient, "note", f"the kernel ended processes since the start because memory was full: {machine}")


def _killed(patient: Patient, state: State, found: str) -> Finding:
    effect = "a program that stopped silently with exit code 137 is one of them"
    return Finding("memory.oom-kills", state, found, effect, patient.remedy("close-programs"))
