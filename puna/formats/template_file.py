"""A chat template in a file of its own."""

from __future__ import annotations

from pathlib import Path

from puna.errors import ModelFormatError, ModelNotFoundError
from puna.formats.mapped import file_size, inside

TEMPLATE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1 << 20


def read_template(path: Path) -> str:
    """The text of a template file."""
    if file_size(path) > MAX_TEMPLATE_BYTES:
        raise ModelFormatError(path, "file", None, f"is longer than {MAX_TEMPLATE_BYTES} bytes, which no template needs")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ModelFormatError(path, "file", error.start, "is not UTF-8") from None
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}") from None


def template_beside(model: Path) -> str | None:
    """That of a model's folder, None where it has none.

    It may be any text, and goes into what the model is converted to: a link out of the folder would carry a private file along.
    """
    path = inside(model.parent, TEMPLATE)
    return None if path is None else read_template(path)
