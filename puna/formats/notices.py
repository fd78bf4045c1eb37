"""What a reader reports about a model that it reads all the same: one line each, shown wherever the model is used.

Notices are the first of three grades; the others are errors. UnsupportedModelError, ModelFormatError: puna refuses the model, for
a reason. DamagedFileError: the bytes are not those that were written, so fetching them again helps.

A plain `str` among the notices is a harmless remark.
"""

from __future__ import annotations


class Doubt(str):
    """The file contradicts itself, or what is known of such models: the line says which side puna takes."""

    __slots__ = ()


class ConversionLoss(str):
    """The source holds something that the Checkpoint does not: a conversion is not exact."""

    __slots__ = ()
