"""Every environment variable PUNA_... that puna reads: the table of docs/variables.md, and what is said of a misspelt one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from puna.errors import did_you_mean

PREFIX = "PUNA_"
# Besides the fields of EngineConfig: what each sets, and its default.
OTHERS: Mapping[str, str] = {
    "PUNA_CACHE": "the folder for models, compiled kernels and saved conversations [the user's cache folder]",
    "PUNA_SERVER": "the address of a running `puna serve` that `puna run` and `puna chat` ask (`--server`) [none]",
    "PUNA_API_KEY": "the key that `puna serve` requires, and that `--server` sends (`--api-key`) [none]",
    "PUNA_SIMD": "the kernels of an older CPU, to test them: avx512, avxvnni, avx2 or portable [the best here]",
    "PUNA_DEBUG": "1: a bug of puna prints its traceback [0]",
}
OF_TESTS = ("PUNA_TEST_", "PUNA_REAL_MODELS", "PUNA_LLAMA3_TOKENIZER", "PUNA_JSON_SCHEMA_SUITE", "PUNA_CANARY")
_FIELD = re.compile(r"^    (?:    )?(?P<name>\w+): (?P<meaning>.+) \[(?P<default>[^\[\]]*)\]$", re.MULTILINE)
_DEFAULTS = {"False": "0", "True": "1", "''": "none", "()": "none", str(4 << 30): "4GiB"}  # as a person types them

_told = set[str]()  # what this process has said of misspelt ones


def misspelt() -> Iterator[str]:
    """A line for each variable that looks like one of puna's and is none. Each is told once in a process.

    >>> os.environ["PUNA_MAX_CONTXT"] = "2048"
    >>> list(misspelt()), list(misspelt())
    (['PUNA_MAX_CONTXT has no effect: puna has no such variable. Did you mean PUNA_MAX_CONTEXT?'], [])
    >>> del os.environ["PUNA_MAX_CONTXT"]
    """
    given = [name for name in os.environ if name.startswith(PREFIX) and name not in OTHERS and not name.startswith(OF_TESTS)]
    known = [*OTHERS, *_of_engine()] if given else []
    for name in given:
        if name not in known and name not in _told:
            _told.add(name)
            near = did_you_mean(name, known, prefix=PREFIX.lower()) or "docs/variables.md lists all."
            yield f"{name[:80]} has no effect: puna has no such variable. {near}"


def _of_engine() -> Iterator[str]:
    from dataclasses import fields

    from puna.config import EngineConfig  # needs numpy

    return (f"{PREFIX}{field.name.upper()}" for field in fields(EngineConfig))


def markdown() -> str:
    """docs/variables.md."""
    from puna.config import EngineConfig

    found = {match["name"]: match for match in _FIELD.finditer(EngineConfig.__doc__ or "")}
    lines = [
        "# Environment variables",
        "`python -m scripts.variables` writes this page. A flag wins over its variable. A variable that puna does",
        "not know is named on stderr. Switches are 1 or 0; lists have commas between their parts; sizes may have units (12GiB).",
        "",
        "| variable | what it sets [default] |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in OTHERS.items()),
    ]
    for name, match in found.items():
        default = _DEFAULTS.get(match["default"], match["default"].strip("'"))
        meaning = match["meaning"].replace(" on the command line", "").replace(" '': none", "").replace(" them ", " K and V ")
        lines.append(f"| `{PREFIX}{name.upper()}` | {meaning} [{default}] |")
    return "\n".join(lines) + "\n"
