"""Is there a card? Checks the PCI bus, the bound driver, the power state, and whether the card answers."""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine import nvidia_smi, pci
from puna.machine.environment import environment
from puna.machine.finding import Finding
from puna.machine.host import Host
from puna.machine.probes.base import Patient

CHECK = "nvidia.card"
ON_CPU = "models run on the CPU"


def nvidia_card(patient: Patient) -> Iterator[Finding]:
    """One finding per card, or one that there is none. Without a visible bus, `nvidia_rights` reports."""
    cards = patient.once(pci.nvidia_cards)
    if not cards and patient.once(environment) in ("bare", "container"):
        yield from _none(patient)
    for card in cards:
        yield _card(patient, card)


def is_expected(patient: Patient) -> bool:
    """Whether later probes are useful: a card is on the bus, or no bus is visible and a driver may have a card."""
    where = patient.once(environment)
    if where in ("windows", "wsl-2"):
        return bool(patient.once(nvidia_smi.query).gpus) or (where == "wsl-2" and patient.host.exists("/dev/dxg"))
    return bool(patient.once(pci.nvidia_cards))


def capability(patient: Patient) -> tuple[int, int] | None:
    """The first card's compute capability, from nvidia-smi or from its device id."""
    told = next((gpu.capability for gpu in patient.once(nvidia_smi.query).gpus if gpu.capability), None)
    return told or next((card.generation.capability for card in patient.once(pci.nvidia_cards)), None)


def _none(patient: Patient) -> Iterator[Finding]:
    is_wanted = patient.device.startswith("cuda")
    if patient.once(_is_switched_off):
        yield _switched_off(patient, "prime-select intel has switched the NVIDIA card off")
        return
    yield Finding(CHECK, "error" if is_wanted else "note", "no NVIDIA card", ON_CPU, device="cuda")
    others = [card.words for card in patient.once(pci.graphics_cards) if card.vendor in pci.MAKERS]
    if others:
        yield Finding(
            "gpu.other", "note", f"there is {', '.join(others)}", f"puna uses NVIDIA's GPUs only; {ON_CPU}", device="cuda"
        )


def _card(patient: Patient, card: pci.PciCard) -> Finding:
    if card.is_lost:
        found = f"{card.words} is listed on the bus but does not answer: it has fallen off the bus"
        return Finding(CHECK, "error", found, ON_CPU, patient.remedy("check-card"), "cuda")
    if card.driver == "vfio-pci":
        found = f"{card.words} is reserved for virtual machines: its driver is vfio-pci"
        return Finding(CHECK, "error", found, ON_CPU, patient.remedy("give-card-back"), "cuda")
    if not card.driver and (card.power_state == "D3cold" or patient.once(_is_switched_off)):
        return _switched_off(patient, f"{card.words} is switched off ({card.power_state or 'prime-select says intel'})")
    driver = f"driver {card.driver}" if card.driver else "no driver"
    asleep = f", asleep ({card.power_state}) until it is used" if card.power_state.startswith("D3") else ""
    return Finding(CHECK, "ok", f"{card.words} ({card.generation.name}), {driver}{asleep}", device="cuda")


def _switched_off(patient: Patient, found: str) -> Finding:
    return Finding(CHECK, "error", found, f"no program can use it: {ON_CPU}", patient.remedy("switch-card-on"), "cuda")


def _is_switched_off(host: Host) -> bool:
    """Whether Ubuntu's switch for laptops has turned the card off."""
    answer = host.run("prime-select", "query")
    return answer is not None and answer.text.strip() == "intel"
