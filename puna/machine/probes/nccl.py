"""NCCL, with which several NVIDIA cards share a model: is it needed, is it there, does it sum over the cards?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

from puna.machine import nvidia_smi
from puna.machine.environment import environment
from puna.machine.finding import Finding, Remedy
from puna.machine.probes.base import Patient
from puna.machine.probes.gpu_self_test import is_worth_it
from puna.machine.self_test import all_reduce, self_test

CHECK = "nccl"
NOT_SHARED = "several cards cannot share a model; one card alone can run one"


def nccl(patient: Patient) -> Iterator[Finding]:
    """One card needs no NCCL; several must reach each other."""
    count = len(patient.once(nvidia_smi.query).gpus)
    if count == 1:
        found = (
            'NCCL is not needed: there is one GPU. "Distributed package doesn\'t have NCCL built in" does not matter to puna here'
        )
        yield Finding(CHECK, "ok", found, device="cuda")
    if count < 2 or not is_worth_it(patient):
        return
    told = patient.once(self_test)
    if len(told.gpus) < 2:
        return  # programs can use fewer: gpu.trial says why
    if not told.nccl:
        system = ": NCCL exists for Linux only" if patient.once(environment) == "windows" else ""
        yield Finding(
            CHECK, "warning", f"there are {count} GPUs, but PyTorch {told.torch} has no NCCL{system}", NOT_SHARED, device="cuda"
        )
        return
    yield _sum(patient, told.nccl, len(told.gpus))
    yield from _peers(told.num_peers, len(told.gpus))


def _sum(patient: Patient, version: str, count: int) -> Finding:
    came = patient.once(all_reduce)
    if came == "ok":
        return Finding(CHECK, "ok", f"NCCL {version} sums over {count} GPUs", device="cuda")
    remedy = patient.remedy("no-peer-to-peer") if "did not end" in came else _show(patient)
    return Finding(CHECK, "warning", f"NCCL {version} does not sum over {count} GPUs: {came}", NOT_SHARED, remedy, "cuda")


def _show(patient: Patient) -> Remedy:
    return patient.remedy("show-nccl", python=shlex.quote(sys.executable))


def _peers(num_peers: int, count: int) -> Iterator[Finding]:
    pairs = count * (count - 1)
    if num_peers < pairs:
        who = "no two GPUs can access" if not num_peers else f"{num_peers // 2} of {pairs // 2} pairs of GPUs can access"
        found = f"{who} each other's memory (P2P); GeForce RTX 40 and 50 cannot"
        effect = "sums go through main memory: each token takes a little longer"
        yield Finding("nccl.peers", "note", found, effect, device="cuda")
