"""The chat template of a model's folder.

If several files hold one, the order is that of transformers (5.23) for a tokenizer. Of named templates puna uses the one called
"default".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from puna.errors import ModelFormatError, ModelNotFoundError
from puna.formats.json_file import JsonObject, read_json
from puna.formats.mapped import file_size, inside, is_there, shown
from puna.formats.notices import ConversionLoss, Doubt

TEMPLATE = "chat_template.jinja"
SETTINGS = ("tokenizer_config.json", "chat_template.json")  # in this order, after TEMPLATE; the latter is a processor's
MORE_TEMPLATES = "additional_chat_templates"  # a folder of more, NAME.jinja
DEFAULT = "default"
MAX_TEMPLATE_BYTES = 1 << 20
MAX_TEMPLATES = 16


class FoundTemplate(NamedTuple):
    """A template, and notices about it."""

    text: str | None
    notices: tuple[str, ...] = ()


def read_template(path: Path) -> str:
    """The text of a template file."""
    if file_size(path) > MAX_TEMPLATE_BYTES:
        raise ModelFormatError(path, "file", None, f"is longer than {MAX_TEMPLATE_BYTES} bytes, more than any template needs")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFormatError(path, "file", error.start, "is not UTF-8") from None
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}") from None


def template_in(folder: Path) -> FoundTemplate:
    """The chat template of a model's folder: its own file, else a JSON file.

    Its own file may hold any text, and a conversion copies it: through a link out of the folder it would copy a private file
    too.
    """
    found = list(_sources(folder))
    named = [name for _, texts in found for name in texts if name != DEFAULT]
    others = tuple(dict.fromkeys((*named, *_more_names(folder))))
    defaults = [(file, texts[DEFAULT]) for file, texts in found if DEFAULT in texts]
    notices = [] if not others else [other_templates(others) if defaults else _no_default(others)]
    differing = [file for file, text in defaults[1:] if text.strip() != defaults[0][1].strip()]
    if differing:
        holders = " and ".join((defaults[0][0], *differing))
        notices.append(Doubt(f"{holders} hold different chat templates; puna uses {defaults[0][0]}, as transformers does"))
    return FoundTemplate(defaults[0][1] if defaults else None, tuple(notices))


def other_templates(names: Sequence[str]) -> ConversionLoss:
    """The notice about named templates beside the default one."""
    return ConversionLoss(f"puna uses the default chat template and drops the others ({_listed(names)})")


def _no_default(names: Sequence[str]) -> Doubt:
    return Doubt(f"the model names chat templates ({_listed(names)}), but none is the default; puna uses none of them")


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > MAX_TEMPLATES else ""
    return ", ".join(shown(name)[1:-1] for name in names[:MAX_TEMPLATES]) + more


def _sources(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(file, its templates by name) of each file that holds one, the file that counts first."""
    alone = inside(folder, TEMPLATE)
    if alone is not None:
        yield TEMPLATE, {DEFAULT: read_template(alone)}
    for name in SETTINGS:
        path = folder / name
        if is_there(path) and (texts := _templates_of(read_json(path))):
            yield name, texts


def _more_names(folder: Path) -> Iterator[str]:
    try:
        yield from (path.stem for path, _ in zip(sorted((folder / MORE_TEMPLATES).glob("*.jinja")), range(MAX_TEMPLATES)))
    except OSError:
        return


def _templates_of(settings: JsonObject) -> dict[str, str]:
    """Templates by name: a text is the default one; a list names each."""
    if not isinstance(settings.values.get("chat_template"), list):
        text = settings.text("chat_template")
        return {} if text is None else {DEFAULT: text}
    pairs = ((entry.text("name"), entry.text("template")) for entry in settings.objects("chat_template"))
    return {name: text for name, text in pairs if name is not None and text is not None}
