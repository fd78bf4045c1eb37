"""The letters that spell byte-level BPE tokens (Radford et al. 2019, GPT-2): one for each byte."""

from __future__ import annotations


def byte_alphabet() -> list[str]:
    """GPT-2's letter for each byte: printable Latin-1 stands for itself, the others become U+0100, U+0101, ... in order.

    >>> byte_alphabet()[ord("A")], byte_alphabet()[ord(" ")]
    ('A', 'Ġ')
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


LETTERS = dict(enumerate(byte_alphabet()))  # for `str.translate`: byte, as Latin-1 -> its letter
BYTES = {ord(letter): byte for byte, letter in LETTERS.items()}  # and back
