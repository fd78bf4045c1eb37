"""Headless Chromium for the pictures in docs/, and their files."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = 64


def launched(playwright: Any) -> Any:
    """The system's Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    return playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


def keep(png: bytes, file: Path) -> None:
    """A third of the bytes, and the same to the eye: a page has few colours."""
    Image.open(BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
