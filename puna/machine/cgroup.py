"""Limits that a container, or a service manager, sets on this process: control groups of version 1 and 2.

A limit of any group above counts too, so the least of the row is taken. Inside a container the row is often the root alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine.host import Host
from puna.machine.sizes import whole

ROOT = "/sys/fs/cgroup"
NO_LIMIT = 1 << 60  # version 1 writes a huge number where there is none
MAX_DEPTH = 40


def memory_limit(host: Host) -> int | None:
    """Bytes of memory that this process and those of its group may have together; None: no limit."""
    limits = [whole(host.read(f"{folder}/memory.max")) for folder in _unified(host)]
    limits += [whole(host.read(f"{folder}/memory.limit_in_bytes")) for folder in _legacy(host, "memory")]
    return min((limit for limit in limits if limit is not None and limit < NO_LIMIT), default=None)


def memory_used(host: Host) -> int | None:
    """Bytes that the limited group has now."""
    for folder in _unified(host):
        if whole(host.read(f"{folder}/memory.max")) is not None:
            return whole(host.read(f"{folder}/memory.current"))
    return next(
        (used for f in _legacy(host, "memory") if (used := whole(host.read(f"{f}/memory.usage_in_bytes"))) is not None), None
    )


def cpu_quota(host: Host) -> float | None:
    """How many cores' time this process may use; None: no limit."""
    quotas = [_quota(*_two((host.read(f"{folder}/cpu.max") or "").split())) for folder in _unified(host)]
    quotas += [
        _quota(host.read(f"{folder}/cpu.cfs_quota_us"), host.read(f"{folder}/cpu.cfs_period_us"))
        for folder in _legacy(host, "cpu")
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def oom_kills(host: Host) -> int:
    """How many processes of this group the kernel has ended because the group's memory was full."""
    texts = [host.read(f"{folder}/memory.events") or "" for folder in _unified(host)]
    texts += [host.read(f"{folder}/memory.oom_control") or "" for folder in _legacy(host, "memory")]
    return max((_value(text, "oom_kill") for text in texts), default=0)


def _value(text: str, name: str) -> int:
    lines = (line.split() for line in text.splitlines())
    return next((whole(words[1]) or 0 for words in lines if len(words) == 2 and words[0] == name), 0)


def _quota(quota: str | None, period: str | None) -> float | None:
    microseconds, of = whole(quota), whole(period)
    return microseconds / of if microseconds and of else None


def _two(words: list[str]) -> tuple[str | None, str | None]:
    return (words[0], words[1]) if len(words) == 2 else (None, None)


def _unified(host: Host) -> Iterator[str]:
    """The folders of version 2, from this process's own up to the root."""
    own = next((line[3:] for line in _groups(host) if line.startswith("0::")), "/")
    return _upwards(ROOT, own)


def _legacy(host: Host, controller: str) -> Iterator[str]:
    """The folders of one controller of version 1; "/" inside a container whose row does not begin at the root."""
    rows = (line.split(":", 2) for line in _groups(host) if line.count(":") >= 2)
    own = next((path for _, names, path in rows if controller in names.split(",")), "/")
    return _upwards(f"{ROOT}/{controller}", own)


def _upwards(root: str, path: str) -> Iterator[str]:
    """
    >>> list(_upwards("/r", "/a/b")), list(_upwards("/r", "/"))
    (['/r/a/b', '/r/a', '/r'], ['/r'])
    """
    names = [name for name in path.split("/") if name not in ("", ".", "..")][:MAX_DEPTH]
    yield from ("/".join([root, *names[:depth]]) for depth in range(len(names), -1, -1))


def _groups(host: Host) -> list[str]:
    return (host.read("/proc/self/cgroup") or "").splitlines()
