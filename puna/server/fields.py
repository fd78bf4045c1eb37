"""The fields of requests, in three classes (docs/wires.md is made from these tables):

* a field that means something is used, or refused by name (400): the declared fields, and those of `SETTINGS` and `REFUSED`;
* a hint (`HINTS`) changes no answer: it is accepted, and named in the header `x-puna-ignored` and in the log;
* a tool that this server does not have, such as a web search, is skipped and named in the same way (`SKIPPED`).

A field that nobody knows is treated as a hint, unless it looks like a misspelled field that means something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from puna import checks
from puna.errors import UsageError, did_you_mean
from puna.request import allowed_range, checked_setting
from puna.server.refusals import Refusal, invalid

IGNORED_HEADER = "x-puna-ignored"
NOTICE_HEADER = "x-puna-notice"  # what puna does in place of what the model cannot
MAX_IGNORED = 2000  # characters of that header: clients limit the head of an answer, too
MAX_UNKNOWN = 256  # fields of a body that nobody knows: each is compared with all known names


class Fields(BaseModel):
    """The body of a request of one route. `settings` are the fields of SamplingParams that it sets."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    SETTINGS: ClassVar[Mapping[str, str]] = {}  # field -> the field of SamplingParams that it sets; a later one wins
    HINTS: ClassVar[frozenset[str]] = frozenset()
    REFUSED: ClassVar[Mapping[str, str]] = {}  # field -> what to send in its place
    SKIPPED: ClassVar[Sequence[str]] = ()  # parts of fields, in words

    _settings: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """The fields of a body. Refusal (400) that names the first wrong one."""
        try:
            made = cls.model_validate({name: value for name, value in body.items() if value is not None})
        except ValidationError as error:
            raise _refusal_of(error.errors(include_url=False)[0]) from None
        for name, own in cls.SETTINGS.items():
            if (value := body.get(name)) is not None:
                made._settings[own] = _checked(own, value, name)
        made._require_known()
        return made

    @classmethod
    def classes(cls) -> dict[str, str]:
        """Each known field and what becomes of it: "used", with the name of the setting if that differs; "hint"; and so on."""
        used = {name: "used" if name == own else f"used as `{own}`" for name, own in cls.SETTINGS.items()}
        declared: dict[str, str] = {}
        for name, field in cls.model_fields.items():
            name = field.alias or name
            declared[name] = "used"
            declared |= {
                f"{name}.{inner}": what for kind in _bodies_in(field.annotation) for inner, what in kind.classes().items()
            }
        others = {"hint": cls.HINTS, "refused": cls.REFUSED, "skipped": cls.SKIPPED}
        return {name: what for what, names in others.items() for name in names} | used | declared

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    def ignored(self) -> list[str]:
        """Names of the given fields that change nothing."""
        return self._without_meaning()

    def _without_meaning(self) -> list[str]:
        return [name for name in self.model_extra or () if name not in self.SETTINGS]

    def _require_known(self) -> None:
        unknown = self._without_meaning()
        if len(unknown) > MAX_UNKNOWN:
            problem = f"{len(unknown)} fields of the body are not used here; at most {MAX_UNKNOWN} such fields are allowed"
            raise Refusal(400, problem, field=unknown[0], code="unknown_parameter")
        for name in unknown:
            if name in self.REFUSED:
                problem = f"{name} is not supported; {self.REFUSED[name]}"
                raise Refusal(400, problem, field=name, code="unsupported_parameter")
            known = [*type(self).model_fields, *self.SETTINGS]
            if name not in self.HINTS and (similar := did_you_mean(name, known)):
                raise Refusal(400, f"unknown field {name[:80]!r}. {similar}", field=name, code="unknown_parameter")

    @classmethod
    def schema_of_body(cls) -> dict[str, Any]:
        """The JSON schema of the body, for the OpenAPI document."""
        schema = cls.model_json_schema(ref_template="#/components/schemas/{model}")
        settings = {name: schema_of_setting(own) for name, own in cls.SETTINGS.items()}
        needed = schema.get("required", ())
        declared = {name: one if name in needed else _or_null(one) for name, one in schema.get("properties", {}).items()}
        return {**schema, "properties": {**settings, **declared}, "additionalProperties": True}


def _bodies_in(annotation: Any) -> Iterator[type[Fields]]:
    """The kinds of Fields in a type, such as StreamOptions in `StreamOptions | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Fields):
        yield annotation
    for part in get_args(annotation):
        yield from _bodies_in(part)


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """The header that names what changed nothing; none if there is nothing. The names are the client's: any text.

    A header has no spaces at its ends.

    >>> ignored_header(["metadata", "a\\r\\nb", ""]), ignored_header([" "])
    ({'x-puna-ignored': 'metadata, a??b,'}, {})
    """
    text = "".join(c if c.isascii() and c.isprintable() else "?" for c in ", ".join(names)[:MAX_IGNORED]).strip()
    return {IGNORED_HEADER: text} if text else {}


def schema_of_setting(name: str) -> dict[str, Any]:
    """The JSON schema of a field of SamplingParams, as far as its range tells it."""
    limits = allowed_range(name)
    if limits is None:
        return {}
    low, high = limits
    kind = "integer" if isinstance(low, int) else "number"
    return _or_null({"type": kind, "minimum": low, "maximum": high})


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """null is the same as leaving a field out."""
    return {"anyOf": [schema, {"type": "null"}]}


def _checked(own: str, value: Any, name: str) -> Any:
    try:
        return checked_setting(own, value, name)
    except UsageError as error:
        raise invalid(name, error.line) from None


def _refusal_of(problem: ErrorDetails) -> Refusal:
    path = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return Refusal(400, f"{path} is missing", field=path, code="missing_required_parameter")
    return invalid(path, f"{path} is {checks.shown(problem['input'])[:200]}; {problem['msg']}")
