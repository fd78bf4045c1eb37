"""Typed access to the metadata of a GGUF file. Remembers which keys were read, so that the others can be listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats.gguf_file import INTEGERS, REALS, Value

DESCRIPTIVE = ("general.", "split.")  # keys that describe the file, not the model


class Values:
    """The values of one file. A key of the wrong type is an error; an absent one is None."""

    def __init__(self, file: Path, values: Mapping[str, Value]) -> None:
        self.file = file
        self._values = values
        self._used: set[str] = set()
        self.notices: list[str] = []  # for the user; the readers add to it

    def fail(self, key: str, problem: str) -> NoReturn:
        found = self._values.get(key)
        raise ModelFormatError(self.file, key, None if found is None else found.offset, problem)

    def unused(self) -> tuple[str, ...]:
        """Keys that nobody read and that are not mere description."""
        return tuple(key for key in self._values if key not in self._used and not key.startswith(DESCRIPTIVE))

    def _of(self, key: str, kinds: tuple[str, ...]) -> Any:
        self._used.add(key)
        found = self._values.get(key)
        if found is None:
            return None
        if found.kind not in kinds:
            self.fail(key, f"is of type {found.kind}; {' or '.join(kinds[:2])} is needed")
        return found.value

    def scalar(self, key: str) -> Any:
        return self._of(key, (*INTEGERS, *REALS, "bool", "string"))

    def integer(self, key: str) -> int | None:
        value: int | None = self._of(key, INTEGERS)
        return value

    def needed_integer(self, key: str) -> int:
        value = self.integer(key)
        if value is None:
            self.fail(key, "is missing")
        return value

    def real(self, key: str) -> float | None:
        value: float | None = self._of(key, REALS)
        return value

    def needed_real(self, key: str) -> float:
        value = self.real(key)
        if value is None:
            self.fail(key, "is missing")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value: bool | None = self._of(key, ("bool",))
        return default if value is None else value

    def text(self, key: str) -> str | None:
        value: str | None = self._of(key, ("string",))
        return value

    def array(self, key: str, kind: str) -> Any:
        return self._of(key, (f"array of {kind}",))

    def pattern(self, key: str) -> Any:
        """Flags, or a whole number."""
        return self._of(key, ("array of bool", *INTEGERS))

    def for_each_layer(self, key: str, num_layers: int) -> int | None:
        """A whole number, or an array with the same number for each layer, which llama.cpp accepts too.

        UnsupportedModelError if layers differ.
        """
        value = self._of(key, (*INTEGERS, *(f"array of {kind}" for kind in INTEGERS)))
        if value is None or isinstance(value, int):
            return value
        if len(value) != num_layers or not len(value):
            self.fail(key, f"holds {len(value)} numbers; the model has {num_layers} layers")
        numbers = [int(number) for number in value]
        if len(set(numbers)) > 1:
            other = next(layer for layer, number in enumerate(numbers) if number != numbers[0])
            raise UnsupportedModelError(
                f"{self.file}: {key} differs between layers ({numbers[0]} in layer 0, {numbers[other]} in layer {other}); "
                "puna runs models whose layers are alike",
                hint="Use a model of the family that was not pruned layer by layer.",
            )
        return numbers[0]
