"""Receipts: what a run depended on, and what came of it, so that whoever has the same weights can run it again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self, get_args, get_origin, get_type_hints

from puna.completion import Completion
from puna.errors import UsageError, first_line
from puna.filters import needed_filters
from puna.glassbox.record import settings_of
from puna.request import SamplingParams
from puna.version import __version__

RECEIPT_FORMAT = "puna-receipt-1"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What makes two models the same: digests of all weights and sizes, and of the tokenizer ("": it has none)."""

    weights: str
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """One run. It does not hold a sampler or logits processors of the caller's own: without them, a replay differs."""

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
    num_given: int = 0  # the first tokens, which were given as the answer's opening

    @classmethod
    def of(cls, completion: Completion, model: str, fingerprint: Fingerprint, backend: str, device: str) -> Self:
        """The receipt of a completion. UsageError for one that was not made here, or by an adapter of its own."""
        params = completion.params
        if params is None:
            raise UsageError("only the process that ran the model can write a receipt", hint="Leave --server out.")
        if params.lora_name is not None:
            raise UsageError("a run with lora_name has no receipt", hint="Merge the adapter: lora (--lora).")
        return cls(
            format=RECEIPT_FORMAT,
            engine=__version__,
            model=model,
            weights=fingerprint.weights,
            tokenizer=fingerprint.tokenizer,
            backend=backend,
            device=device,
            settings=settings_of(params),
            filters=needed_filters(params),
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            text=completion.text,
            finish_reason=completion.finish_reason.value,
            num_given=completion.num_given,
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
        hints, given = get_type_hints(cls), {"num_given": 0, **given}
        if wrong := [field for field, kind in hints.items() if not _is_of(given.get(field), kind)]:
            raise UsageError(f"{name} has no {wrong[0]}, or it is not of its type", hint=HINT)
        receipt = cls(**{field: _as(given[field], kind) for field, kind in hints.items()})
        if not 0 <= receipt.num_given <= len(receipt.token_ids):
            raise UsageError(f"{name} has {len(receipt.token_ids)} tokens, and num_given is {receipt.num_given}", hint=HINT)
        return receipt

    @property
    def params(self) -> SamplingParams:
        """The sampling parameters of the run. UsageError if this puna does not know one of them."""
        own = dict(self.settings)
        if isinstance(bias := own.get("logit_bias"), dict):
            own["logit_bias"] = {int(key) if key.isdecimal() else key: value for key, value in bias.items()}
        return SamplingParams(**own)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def require_same(self, fingerprint: Fingerprint, model: str) -> None:
        """UsageError, with both digests, if the weights or the tokenizer of a model are not those of the run."""
        for what in ("weights", "tokenizer"):
            theirs, own = getattr(self, what) or "none", getattr(fingerprint, what) or "none"
            if theirs != own:
                raise UsageError(
                    f"the receipt is of another model: the digest of its {what} is {theirs}, and that of {model} {own}",
                    hint=f"The run used {self.model}.",
                )


HINT = "`puna run --receipt FILE` writes one."


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(type(one) is get_args(kind)[0] for one in value)
    return isinstance(value, get_origin(kind) or kind)


def _as(value: Any, kind: Any) -> Any:
    return tuple(value) if get_origin(kind) is tuple else value
