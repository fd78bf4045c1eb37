"""The contract of a probe: a function of the machine that yields findings and raises for no state of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

from puna.machine.distribution import Distribution, distribution_of
from puna.machine.finding import Finding, Remedy
from puna.machine.host import Host
from puna.machine.remedies import remedy

Fact = TypeVar("Fact")


@dataclass
class Patient:
    """A machine and the facts that several probes share; each fact is looked up once."""

    host: Host
    device: str = "auto"  # the requested device: "auto", "cpu", "torch", "cuda", "cuda:1"
    facts: dict[str, Any] = field(default_factory=dict)  # facts from the probes as JSON types, for `--json` and the plan
    known: dict[Callable[[Host], Any], Any] = field(default_factory=dict, repr=False)
    asked: dict[Callable[[Host], Any], Lock] = field(default_factory=dict, repr=False)

    @cached_property
    def distribution(self) -> Distribution:
        return distribution_of(self.host)

    def once(self, fact: Callable[[Host], Fact]) -> Fact:
        """The result of a function of the machine; it is called once for all probes and threads."""
        with self.asked.setdefault(fact, Lock()):
            if fact not in self.known:
                self.known[fact] = fact(self.host)
        found: Fact = self.known[fact]
        return found

    def remedy(self, name: str, **values: object) -> Remedy:
        return remedy(name, self.distribution, **values)


Probe = Callable[[Patient], Iterable[Finding]]
