"""What a reader has to say about a model that it reads all the same: one line each, told wherever the model is used.

The first of three grades; the others are errors. UnsupportedModelError, ModelFormatError: puna refuses the model, for a reason.
DamagedFileError: the bytes are not those that were written, so that fetching them again helps.

A plain `str` among the notices is a harmless remark.
"""

from __future__ import annotations


class Doubt(str):
    """The file contradicts itself, or what everybody knows of such models: the line says which side puna takes."""

    __slots__ = ()


class Loss(str):
    """The source holds something that the Checkpoint does not: a conversion of it is not exact."""

    __slots__ = ()
