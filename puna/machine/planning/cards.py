"""NVIDIA cards by name, to plan for a card you do not have: `puna plan MODEL --gpu "RTX 4070"`.

Numbers from NVIDIA's data sheets: memory, its bandwidth, compute capability, and the dense rate of half-precision matrix products
that are summed in float32. "Laptop" cards are cards of their own.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from puna.errors import UsageError
from puna.units import GIB

ECC_CARDS = frozenset(("T4", "L4", "L40", "L40S", "A10", "A10G", "A16", "A40", "P40"))  # ECC takes a sixteenth of their GDDR
SIMILAR = 0.6  # share of the letters that two names have in common
HIDDEN_BYTES = 320 << 20  # the driver keeps about this much memory: programs see 11.69 GiB of 12, 23.69 of 24


class Card(NamedTuple):
    """One card model."""

    name: str
    memory_gib: int
    gb_per_s: int  # memory bandwidth
    capability: tuple[int, int]
    tflops: int  # bf16 (fp16 where there is no bf16), dense, float32 sums

    @property
    def visible_bytes(self) -> int:
        """The memory that CUDA reports."""
        whole = self.memory_gib * GIB
        return (whole * 15 // 16 if self.name in ECC_CARDS else whole) - HIDDEN_BYTES


CARDS: tuple[Card, ...] = tuple(
    Card(name, memory, bandwidth, (capability // 10, capability % 10), tflops)
    for name, memory, bandwidth, capability, tflops in (
        ("RTX 5090", 32, 1792, 120, 209),
        ("RTX 5080", 16, 960, 120, 113),
        ("RTX 5070 Ti", 16, 896, 120, 88),
        ("RTX 5070", 12, 672, 120, 62),
        ("RTX 5060 Ti 16GB", 16, 448, 120, 47),
        ("RTX 5060 Ti 8GB", 8, 448, 120, 47),
        ("RTX 5060", 8, 448, 120, 38),
        ("RTX 4090", 24, 1008, 89, 165),
        ("RTX 4090 Laptop", 16, 576, 89, 78),
        ("RTX 4080 Super", 16, 736, 89, 104),
        ("RTX 4080", 16, 717, 89, 97),
        ("RTX 4080 Laptop", 12, 432, 89, 60),
        ("RTX 4070 Ti Super", 16, 672, 89, 88),
        ("RTX 4070 Ti", 12, 504, 89, 80),
        ("RTX 4070 Super", 12, 504, 89, 71),
        ("RTX 4070", 12, 504, 89, 58),
        ("RTX 4070 Laptop", 8, 256, 89, 36),
        ("RTX 4060 Ti 16GB", 16, 288, 89, 44),
        ("RTX 4060 Ti 8GB", 8, 288, 89, 44),
        ("RTX 4060", 8, 272, 89, 30),
        ("RTX 4060 Laptop", 8, 256, 89, 28),
        ("RTX 4050 Laptop", 6, 192, 89, 23),
        ("RTX 3090 Ti", 24, 1008, 86, 80),
        ("RTX 3090", 24, 936, 86, 71),
        ("RTX 3080 Ti", 12, 912, 86, 68),
        ("RTX 3080 12GB", 12, 912, 86, 61),
        ("RTX 3080 10GB", 10, 760, 86, 60),
        ("RTX 3070 Ti", 8, 608, 86, 43),
        ("RTX 3070", 8, 448, 86, 41),
        ("RTX 3060 Ti", 8, 448, 86, 32),
        ("RTX 3060 12GB", 12, 360, 86, 25),
        ("RTX 3060 Laptop", 6, 336, 86, 22),
        ("RTX 3050", 8, 224, 86, 18),
        ("RTX 2080 Ti", 11, 616, 75, 54),
        ("RTX 2080 Super", 8, 496, 75, 45),
        ("RTX 2080", 8, 448, 75, 40),
        ("RTX 2070", 8, 448, 75, 30),
        ("RTX 2060", 6, 336, 75, 26),
        ("RTX 8000", 48, 672, 75, 65),
        ("GTX 1660", 6, 192, 75, 10),
        ("GTX 1080 Ti", 11, 484, 61, 11),
        ("GTX 1080", 8, 320, 61, 9),
        ("GTX 1070", 8, 256, 61, 6),
        ("GTX 1060", 6, 192, 61, 4),
        ("T4", 16, 320, 75, 65),
        ("V100 16GB", 16, 900, 70, 125),
        ("V100 32GB", 32, 900, 70, 125),
        ("P100", 16, 732, 60, 19),
        ("P40", 24, 347, 61, 12),
        ("A100 40GB", 40, 1555, 80, 312),
        ("A100 80GB", 80, 2039, 80, 312),
        ("A30", 24, 933, 80, 165),
        ("A10", 24, 600, 86, 125),
        ("A10G", 24, 600, 86, 70),
        ("A16", 16, 200, 86, 18),
        ("A40", 48, 696, 86, 150),
        ("RTX A2000 12GB", 12, 288, 86, 32),
        ("RTX A4000", 16, 448, 86, 77),
        ("RTX A5000", 24, 768, 86, 111),
        ("RTX A6000", 48, 768, 86, 155),
        ("RTX 4000 Ada", 20, 360, 89, 107),
        ("RTX 5000 Ada", 32, 576, 89, 261),
        ("RTX 6000 Ada", 48, 960, 89, 364),
        ("L4", 24, 300, 89, 121),
        ("L40", 48, 864, 89, 181),
        ("L40S", 48, 864, 89, 362),
        ("H100 PCIe", 80, 2039, 90, 756),
        ("H100", 80, 3352, 90, 989),
        ("GH200", 96, 4000, 90, 989),
        ("H200", 141, 4800, 90, 989),
        ("B200", 180, 8000, 100, 2250),
        ("GB10", 128, 273, 121, 100),
        ("RTX PRO 6000", 96, 1792, 120, 252),
    )
)

_NOISE = re.compile(
    r"nvidia|geforce|quadro|tesla|graphics|with max-q design|blackwell|\bgpu\b|\bnvl\b|\bsxm\d?\b|\bhbm\d?e?\b|[^a-z0-9]"
)
OTHER_MAKERS = re.compile(r"radeon|\brx ?\d|\bmi\d{2,3}|\barc\b|intel|apple|\bm\d( (pro|max|ultra))?$|amd", re.IGNORECASE)
_SIZE = re.compile(r"(\d+)\s*gi?b")


def find_card(name: str) -> Card | None:
    """The card of a name as people, nvidia-smi and shops write it. If two memory sizes exist and the name has none: the
    smaller.

    >>> find_card("NVIDIA GeForce RTX 4070").memory_gib, find_card("rtx4060ti").name, find_card("3090").name, find_card("a card")
    (12, 'RTX 4060 Ti 8GB', 'RTX 3090', None)
    """
    size = _SIZE.search(name.lower())
    wanted = _bare(name)
    names = (wanted, f"rtx{wanted}", f"gtx{wanted}")  # people leave that out
    same = [card for card in CARDS if _bare(card.name) in names and (size is None or card.memory_gib == int(size[1]))]
    return min(same, key=lambda card: card.memory_gib, default=None)


def require_card(name: str) -> Card:
    """As `find_card`; for an unknown card, UsageError lists the most similar ones."""
    require_nvidia(name)
    if (card := find_card(name)) is not None:
        return card
    names = {_bare(card.name): card.name for card in CARDS}
    close = ", ".join(names[one] for one in difflib.get_close_matches(_bare(name), names, n=4, cutoff=SIMILAR))
    raise UsageError(
        f"--gpu is {name[:60]!r}, which puna does not know" + (f"; similar cards: {close}" if close else ""),
        hint=f"Name {'one of these' if close else 'a card such as RTX 4070'}, or give its memory too: --vram 12GiB.",
    )


def require_nvidia(name: str) -> None:
    """UsageError for a card of another maker."""
    if find_card(name) is None and OTHER_MAKERS.search(name):
        raise UsageError(
            f"--gpu is {name[:60]!r}; puna runs on NVIDIA cards only", hint="For a CPU with its memory: --ram 32GiB."
        )


def _bare(name: str) -> str:
    """The name without maker, spaces and memory.

    >>> _bare("NVIDIA GeForce RTX 4060 Ti 16GB")
    'rtx4060ti'
    """
    return _NOISE.sub("", _SIZE.sub("", name.lower()))
