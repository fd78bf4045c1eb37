"""The settings of LoRA adapters: what `lora` and `lora_modules` say, and which adapter a request names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from puna.checks import shown
from puna.errors import UsageError, did_you_mean
from puna.request import NO_ADAPTER


def split_scale(text: str) -> tuple[str, float]:
    """PATH[=SCALE]; the scale is 1 if none is given. UsageError for one that is not finite.

    >>> split_scale("my/adapter=0.5"), split_scale("my/adapter"), split_scale("a=b")
    (('my/adapter', 0.5), ('my/adapter', 1.0), ('a=b', 1.0))
    """
    path, equals, number = text.rpartition("=")
    try:
        scale = float(number) if equals else 1.0
    except ValueError:
        return text, 1.0
    if not math.isfinite(scale):
        raise UsageError(f"the scale of the adapter {path} is {number}; a finite number is needed")
    return (path, scale) if equals else (text, 1.0)


def split_name(text: str) -> tuple[str, str]:
    """NAME=PATH[=SCALE] -> (name, the rest). UsageError without a name.

    >>> split_name("sql=adapters/sql=0.5")
    ('sql', 'adapters/sql=0.5')
    """
    name, equals, rest = text.partition("=")
    if not (equals and name and rest):
        raise UsageError(f"lora_modules holds {text!r}; NAME=PATH is needed", hint="For example: sql=adapters/sql")
    return name, rest


def adapter_number(name: str | None, names: Sequence[str]) -> int:
    """The number of the adapter that a request names; NO_ADAPTER if it names none. UsageError for an unknown name."""
    if name is None:
        return NO_ADAPTER
    if name in names:
        return names.index(name)
    if not names:
        told = name if len(name) <= 40 and name.isprintable() else "NAME"
        raise UsageError(
            f"lora_name is {shown(name)}, and the model was loaded without lora_modules",
            hint=f'Load it with lora_modules=["{told}=PATH"] (--lora-modules {told}=PATH).',
        )
    raise UsageError(f"lora_name is {shown(name)}; loaded are: {', '.join(names)}", hint=did_you_mean(name, names))
