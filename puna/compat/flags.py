"""A function's parameters as a program's flags: `--name value`, `--name=value`, or in order without names.

    if __name__ == "__main__":
        flags.run(main)

Meta's examples use another package for this. Types: str, int, float and bool, and None among them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from puna.errors import PunaError, UsageError

HELP = ("-h", "--help")
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def run(main: Callable[..., None], arguments: Sequence[str] | None = None) -> None:
    """Call `main` with the flags of the command line and exit: 0 done, 1 the work failed, 2 wrong usage."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if any(word in HELP for word in given):
        sys.stdout.write(usage(main))
        sys.exit(0)
    try:
        values = parse(main, given)
    except UsageError as error:
        sys.stderr.write(f"{error.line}\n{usage(main)}")
        sys.exit(2)
    try:
        main(**values)
    except PunaError as error:
        sys.stderr.write("".join(f"{line}\n" for line in error.typed if line))
        sys.exit(error.exit_code)


def parse(function: Callable[..., None], arguments: Sequence[str]) -> dict[str, Any]:
    """The values of `function`'s parameters.

    >>> def f(folder: str, batch: int = 4, rate: float | None = None) -> None: ...
    >>> parse(f, ["x", "--batch=8", "--rate", "0.5"])
    {'folder': 'x', 'batch': 8, 'rate': 0.5}
    """
    parameters, kinds = inspect.signature(function).parameters, get_type_hints(function)
    texts = _texts(list(arguments), list(parameters))
    missing = [name for name, parameter in parameters.items() if parameter.default is parameter.empty and name not in texts]
    if missing:
        raise UsageError(f"{', '.join('--' + name for name in missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return {name: _value(name, texts[name], kinds[name]) for name in parameters if name in texts}


def usage(function: Callable[..., None]) -> str:
    """The flags and their defaults, after the first paragraph of the function's docstring."""
    lines = [(inspect.getdoc(function) or "").partition("\n\n")[0], "", "flags:"]
    for name, parameter in inspect.signature(function).parameters.items():
        needed = parameter.default is parameter.empty
        lines.append(f"  --{name:<16} {'needed' if needed else f'[{parameter.default}]'}")
    return "\n".join(lines) + "\n"


def _texts(words: list[str], names: list[str]) -> dict[str, str]:
    """The text of each given parameter: by its name, or as the first that was not given."""
    texts: dict[str, str] = {}
    loose: list[str] = []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            loose.append(word)
            continue
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in names:
            raise UsageError(f"there is no flag --{name}")
        if name in texts:
            raise UsageError(f"--{name} is given twice")
        if not equals and not words:
            raise UsageError(f"--{name} needs a value")
        texts[name] = text if equals else words.pop(0)
    free = [name for name in names if name not in texts]
    if len(loose) > len(free):
        raise UsageError(f"there is one value too many: {loose[len(free)]!r}")
    return texts | dict(zip(free, loose))


def _value(name: str, text: str, kind: Any) -> Any:
    kinds = get_args(kind) or (kind,)
    if text == "None" and type(None) in kinds:
        return None
    read = next(READERS[k] for k in kinds if k in READERS)
    try:
        return read(text)
    except (ValueError, KeyError):
        raise UsageError(f"--{name} is {text!r}; {WORDS[read]} is needed") from None


def _truth(text: str) -> bool:
    return TRUTHS[text.lower()]


READERS: Mapping[Any, Callable[[str], Any]] = {str: str, int: int, float: float, bool: _truth}
WORDS: Mapping[Callable[[str], Any], str] = {int: "a whole number", float: "a number", _truth: "True or False"}
