"""The graphics cards on the PCI bus, from /sys: whether a card exists, which driver it has, and whether it is awake.

This needs no program and no rights. Systems that show no bus (Windows, macOS, WSL) yield no cards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from puna.machine.host import Host

DEVICES = "/sys/bus/pci/devices"
NAMES = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")  # Debian's path, Fedora's and Arch's
NVIDIA = "10de"
MAKERS = {NVIDIA: "NVIDIA", "1002": "AMD", "8086": "Intel"}
GRAPHICS = re.compile(r"0x03(00|02|80)")  # classes: VGA, 3D, other display controllers
UNREADABLE = "\ufffd" * 4  # four bytes ff, as text: the answer of a device that is gone


class Generation(NamedTuple):
    """One generation of NVIDIA's chips."""

    name: str
    capability: tuple[int, int]


# First device id of each generation, in order.
GENERATIONS: tuple[tuple[int, Generation], ...] = (
    (0x0000, Generation("older than Maxwell", (3, 5))),
    (0x1340, Generation("Maxwell", (5, 2))),
    (0x15F0, Generation("Pascal", (6, 0))),
    (0x1617, Generation("Maxwell", (5, 2))),
    (0x1B00, Generation("Pascal", (6, 1))),
    (0x1D81, Generation("Volta", (7, 0))),
    (0x1E02, Generation("Turing", (7, 5))),
    (0x2080, Generation("Ampere", (8, 0))),
    (0x2182, Generation("Turing", (7, 5))),
    (0x2200, Generation("Ampere", (8, 6))),
    (0x2300, Generation("Hopper", (9, 0))),
    (0x2400, Generation("Ampere", (8, 6))),
    (0x2681, Generation("Ada", (8, 9))),
    (0x2900, Generation("Blackwell", (10, 0))),
    (0x2B80, Generation("Blackwell", (12, 0))),
    (0x3180, Generation("Blackwell", (10, 3))),
)

# Device ids of common cards, for machines without a list of names.
COMMON: dict[str, str] = {
    "1b06": "GeForce GTX 1080 Ti",
    "1b80": "GeForce GTX 1080",
    "1b81": "GeForce GTX 1070",
    "1c03": "GeForce GTX 1060 6GB",
    "1e07": "GeForce RTX 2080 Ti",
    "1f08": "GeForce RTX 2060",
    "2204": "GeForce RTX 3090",
    "2206": "GeForce RTX 3080",
    "2208": "GeForce RTX 3080 Ti",
    "2484": "GeForce RTX 3070",
    "2486": "GeForce RTX 3060 Ti",
    "2503": "GeForce RTX 3060",
    "2504": "GeForce RTX 3060",
    "2520": "GeForce RTX 3060 Laptop",
    "2684": "GeForce RTX 4090",
    "2702": "GeForce RTX 4080 Super",
    "2704": "GeForce RTX 4080",
    "2705": "GeForce RTX 4070 Ti Super",
    "2782": "GeForce RTX 4070 Ti",
    "2783": "GeForce RTX 4070 Super",
    "2786": "GeForce RTX 4070",
    "2803": "GeForce RTX 4060 Ti",
    "2805": "GeForce RTX 4060 Ti 16GB",
    "2820": "GeForce RTX 4070 Laptop",
    "2882": "GeForce RTX 4060",
    "28a0": "GeForce RTX 4060 Laptop",
    "28e0": "GeForce RTX 4060 Laptop",
    "2b85": "GeForce RTX 5090",
    "2c02": "GeForce RTX 5080",
    "2c05": "GeForce RTX 5070 Ti",
    "2d04": "GeForce RTX 5060 Ti",
    "2d05": "GeForce RTX 5060",
    "2f04": "GeForce RTX 5070",
    "1eb8": "Tesla T4",
    "20b0": "A100 SXM4 40GB",
    "20b2": "A100 SXM4 80GB",
    "20b5": "A100 PCIe 80GB",
    "20f1": "A100 PCIe 40GB",
    "2330": "H100 SXM5 80GB",
    "2331": "H100 PCIe",
    "2335": "H200",
    "26b9": "L40S",
    "27b8": "L4",
}


@dataclass(frozen=True, slots=True)
class PciCard:
    """A graphics card."""

    address: str  # "0000:01:00.0"
    vendor: str  # "10de"
    device: str  # "2786"
    name: str  # "GeForce RTX 4070"
    driver: str  # the bound driver: "nvidia", "nouveau"; "" for none
    power_state: str = ""  # "D0", "D3cold"; "" if unknown
    is_lost: bool = False  # it does not answer

    @property
    def generation(self) -> Generation:
        number = int(self.device, 16)
        return [generation for first, generation in GENERATIONS if first <= number][-1]

    @property
    def words(self) -> str:
        """For a finding: "NVIDIA GeForce RTX 4070 at 0000:01:00.0"."""
        return f"{MAKERS.get(self.vendor, self.vendor)} {self.name} at {self.address}"


def graphics_cards(host: Host) -> tuple[PciCard, ...]:
    """The cards of all makers, in the order of the bus."""
    cards = (_card(host, address) for address in host.listing(DEVICES))
    return tuple(card for card in cards if card is not None)


def nvidia_cards(host: Host) -> tuple[PciCard, ...]:
    return tuple(card for card in graphics_cards(host) if card.vendor == NVIDIA)


def _card(host: Host, address: str) -> PciCard | None:
    folder = f"{DEVICES}/{address}"
    vendor, device = _hex(host, f"{folder}/vendor"), _hex(host, f"{folder}/device")
    if not (vendor and device and GRAPHICS.match(host.read(f"{folder}/class") or "")):
        return None
    driver = re.search(r"^DRIVER=(\S+)", host.read(f"{folder}/uevent") or "", re.MULTILINE)
    power_state = (host.read(f"{folder}/power_state") or "").strip()
    is_asleep = power_state.startswith("D3")  # reading a sleeping card's registers would wake it
    is_lost = not is_asleep and (host.read(f"{folder}/config") or "").startswith(UNREADABLE)
    return PciCard(address, vendor, device, _name(host, vendor, device), driver[1] if driver else "", power_state, is_lost)


def _hex(host: Host, path: str) -> str:
    """
    A number of /sys, "0x10de", as four digits; "" if it is not one.
    """
    found = re.fullmatch(r"0x([0-9a-f]{4})", (host.read(path) or "").strip().lower())
    return found[1] if found else ""


def _name(host: Host, vendor: str, device: str) -> str:
    listed = next((name for path in NAMES if (name := name_in(host.read(path) or "", vendor, device))), "")
    common = COMMON.get(device, "") if vendor == NVIDIA else ""
    return common or listed or f"card {vendor}:{device}"


def name_in(names: str, vendor: str, device: str) -> str:
    """A device's name in a pci.ids; for "AD104 [GeForce RTX 4070]" the part in brackets.

    >>> name_in("10de  NVIDIA Corporation\\n\\t2786  AD104 [GeForce RTX 4070]\\n", "10de", "2786")
    'GeForce RTX 4070'
    """
    maker = re.search(rf"^{vendor}  .*\n((?:[\t#].*\n?)*)", names, re.MULTILINE)
    line = re.search(rf"^\t{device}  (.*)$", maker[1], re.MULTILINE) if maker else None
    if line is None:
        return ""
    bracketed = re.search(r"\[(.+)\]", line[1])
    return (bracketed[1] if bracketed else line[1]).strip()
