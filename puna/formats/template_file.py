"""The chat template of a model's folder."""

from __future__ import annotations

from pathlib import Path

from puna.errors import ModelFormatError, ModelNotFoundError
from puna.formats.json_file import JsonObject, read_json
from puna.formats.mapped import file_size, inside, is_there

TEMPLATE = "chat_template.jinja"
SETTINGS = ("chat_template.json", "tokenizer_config.json")  # of which the first that holds one counts
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


def template_in(folder: Path) -> str | None:
    """That of a model's folder: in a file of its own, else in a JSON file, as a text or as a list of named ones, of which
    "default" is taken. None where it has none.

    A file of its own may hold any text, and goes into what the model is converted to: by a link out of the folder a private file
    would go along.
    """
    alone = inside(folder, TEMPLATE)
    if alone is not None:
        return read_template(alone)
    settings = (read_json(path) for name in SETTINGS if is_there(path := folder / name))
    return next((found for found in map(_template_of, settings) if found is not None), None)


def _template_of(settings: JsonObject) -> str | None:
    if not isinstance(settings.values.get("chat_template"), list):
        return settings.text("chat_template")
    named = {entry.text("name"): entry.text("template") for entry in settings.objects("chat_template")}
    return named.get("default")
