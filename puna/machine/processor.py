"""This machine's CPU as the kernel describes it: name, cores, instructions. Imports no compiler."""

from __future__ import annotations

from dataclasses import dataclass, field

from puna.machine.child import ask
from puna.machine.host import Host
from puna.resources import count_of_list, whole


@dataclass(frozen=True, slots=True)
class Processor:
    """A CPU. `threads`: what the system counts as CPUs; `cores` is 0 if unknown."""

    name: str
    threads: int
    cores: int = 0
    flags: frozenset[str] = field(default_factory=frozenset)  # in the spelling of /proc/cpuinfo; empty: not known
    is_x86: bool = True
    is_virtual: bool = False


def processor(host: Host) -> Processor | None:
    """The CPU; None if unknown."""
    return {"Linux": _of_linux, "Darwin": _of_macos}.get(host.system, _of_python)(host)


def _of_linux(host: Host) -> Processor | None:
    """From /proc/cpuinfo: a block of lines per thread. ARM's has no name, and `Features` instead of `flags`."""
    blocks = [_pairs(block) for block in (host.read("/proc/cpuinfo") or "").split("\n\n")]
    blocks = [block for block in blocks if "processor" in block]
    if not blocks:
        return None
    first = blocks[0]
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    is_x86 = "flags" in first
    name = first.get("model name") or first.get("Model") or ("CPU" if is_x86 else "ARM CPU")
    cores = {(block.get("physical id"), block["core id"]) for block in blocks if "core id" in block}
    threads = count_of_list(host.read("/sys/devices/system/cpu/online")) or len(blocks)
    return Processor(name[:100], max(threads, len(blocks)), len(cores), flags, is_x86, "hypervisor" in flags)


def _pairs(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _of_macos(host: Host) -> Processor | None:
    """From sysctl, which writes Intel's flags in capitals."""
    output = host.run(
        "sysctl",
        "machdep.cpu.brand_string",
        "hw.logicalcpu",
        "hw.physicalcpu",
        "machdep.cpu.features",
        "machdep.cpu.leaf7_features",
    )
    said = _pairs(output.text if output else "")
    threads = whole(said.get("hw.logicalcpu"))
    if threads is None:
        return None
    flags = f"{said.get('machdep.cpu.features', '')} {said.get('machdep.cpu.leaf7_features', '')}".lower().split()
    name = said.get("machdep.cpu.brand_string", "CPU")
    return Processor(name[:100], threads, whole(said.get("hw.physicalcpu")) or 0, frozenset(flags), is_x86=bool(flags))


def _of_python(host: Host) -> Processor | None:
    """What a child of this Python finds; for Windows."""
    answer = ask(host, "puna.machine.facts", "cpu")
    threads = answer.number("threads")
    if threads is None:
        return None
    flags = frozenset(("avx2",) if answer.facts.get("avx2") else ())
    return Processor(
        answer.text("name")[:100] or "CPU", int(threads), flags=flags, is_x86="arm" not in answer.text("name").lower()
    )
