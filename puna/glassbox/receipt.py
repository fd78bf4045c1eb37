"""Receipts: what a run depended on, and what came of it, so that whoever has the same weights can run it again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self, get_args, get_origin, get_type_hints

from puna.checks import shown
from puna.completion import Completion
from puna.errors import UsageError, first_line
from puna.filters import needed_filters
from puna.glassbox.record import settings_of
from puna.request import SamplingParams
from puna.version import __version__

RECEIPT_FORMAT = "puna-receipt-1"
BESIDE_RESULT = frozenset({"cache_salt", "priority"})  # settings that change no token; a server makes a salt of its client's key


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What makes two models the same: digests of all weights and sizes, and of the tokenizer ("": it has none)."""

    weights: str
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """One run."""

    format: str
    engine: str  # the version of puna
    model: str  # its path
    weights: str  # as in Fingerprint
    tokenizer: str
    backend: str
    device: str  # in words
    settings: dict[str, Any]  # the sampling parameters that are not at their defaults; with the seed in use, if it draws
    filters: tuple[str, ...]  # that ran, in this order
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    adapter: str = ""  # a digest of the LoRA adapter that `lora_name` chose
    num_opened: int = 0  # of `token_ids`, those that the answer was given as its opening

    @classmethod
    def of(
        cls, completion: Completion, model: str, fingerprint: Fingerprint, backend: str, device: str, adapter: str = ""
    ) -> Self:
        """The receipt of one sample. UsageError for one that was not made here, or that no receipt can repeat."""
        params = completion.params
        if params is None:
            raise UsageError("only the process that ran the model can write a receipt", hint="Leave --server out.")
        _require_repeatable(completion, params)
        return cls(
            format=RECEIPT_FORMAT,
            engine=__version__,
            model=model,
            weights=fingerprint.weights,
            tokenizer=fingerprint.tokenizer,
            backend=backend,
            device=device,
            settings={name: value for name, value in settings_of(params).items() if name not in BESIDE_RESULT},
            filters=needed_filters(params),
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            text=completion.text,
            finish_reason=completion.finish_reason.value,
            adapter=adapter,
            num_opened=completion.num_given,
        )

    @classmethod
    def read(cls, text: str, name: str = "the receipt") -> Self:
        """From the JSON of `as_json`. UsageError for anything else."""
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name} is no JSON: {first_line(error)}", hint=HINT) from None
        if not isinstance(given, dict) or given.get("format") != RECEIPT_FORMAT:
            raise UsageError(f"{name} is no receipt of the format {RECEIPT_FORMAT}", hint=HINT)
        hints = get_type_hints(cls)
        given = {**_LATER, **given}
        if wrong := [field for field, kind in hints.items() if not _is_of(given.get(field), kind)]:
            raise UsageError(f"{name} has no {wrong[0]}, or it is not of its type", hint=HINT)
        if not 0 <= given["num_opened"] <= len(given["token_ids"]):
            raise UsageError(f"{name} opens with {given['num_opened']} tokens, and has {len(given['token_ids'])}", hint=HINT)
        return cls(**{field: _as(given[field], kind) for field, kind in hints.items()})

    @property
    def params(self) -> SamplingParams:
        """The sampling parameters of the run. UsageError if this puna does not know one of them."""
        own = dict(self.settings)
        if isinstance(bias := own.get("logit_bias"), dict):
            own["logit_bias"] = {int(key) if key.isdecimal() else key: value for key, value in bias.items()}
        return SamplingParams(**own)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def require_same(self, fingerprint: Fingerprint, model: str, adapters: Mapping[str, str] = MappingProxyType({})) -> None:
        """UsageError, with both digests, if the weights, the tokenizer or the adapter of a model are not those of the run.

        `adapters`: the LoRA adapters that the model was loaded with, and a digest of each.
        """
        for what in ("weights", "tokenizer"):
            self._require_equal(what, getattr(self, what), getattr(fingerprint, what), model)
        if self.adapter or self.settings.get("lora_name") is not None:
            name = str(self.settings.get("lora_name"))
            if name not in adapters:
                given = name if name.isprintable() and len(name) <= MAX_NAME else "NAME"
                raise UsageError(
                    f"the run used the LoRA adapter {shown(name)}, whose digest is {self.adapter}; {model} was loaded without it",
                    hint=f'Load it with lora_modules=["{given}=PATH"] (--lora-modules {given}=PATH).',
                )
            self._require_equal(f"adapter {shown(name)}", self.adapter, adapters[name], model)

    def require_tokens(self, vocab_size: int) -> None:
        """UsageError for ids of an answer that no token of the model has. Those of the prompt are checked as any prompt's."""
        wrong = next((number for number, one in enumerate(self.token_ids) if not 0 <= one < vocab_size), None)
        if wrong is not None:
            raise UsageError(
                f"token {wrong + 1} of the receipt has the id {shown(self.token_ids[wrong])}; the model's ids are 0 to "
                f"{vocab_size - 1}",
                hint=HINT,
            )

    def _require_equal(self, what: str, theirs: str, own: str, model: str) -> None:
        if theirs != own:
            raise UsageError(
                f"the receipt is of another model: the digest of its {what} is {theirs or 'none'}, and that of {model} "
                f"{own or 'none'}",
                hint=f"The run used {self.model}.",
            )


def _require_repeatable(completion: Completion, params: SamplingParams) -> None:
    """UsageError for a run that depended on more than a receipt holds."""
    if completion.own_code:
        raise UsageError(
            f"the run used {completion.own_code} of the caller's own, which no receipt can hold",
            hint=f"Leave {completion.own_code} out.",
        )
    if completion.is_reasoning_cut and params.thinking_budget is None:
        raise UsageError(
            "somebody ended the thinking of the run, which no receipt can repeat", hint="Set thinking_budget instead."
        )


MAX_NAME = 40
_LATER: dict[str, Any] = {"adapter": "", "num_opened": 0}  # older receipts lack them
HINT = "`puna run --receipt FILE` writes one."


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(type(one) is get_args(kind)[0] for one in value)
    return isinstance(value, get_origin(kind) or kind)


def _as(value: Any, kind: Any) -> Any:
    return tuple(value) if get_origin(kind) is tuple else value
