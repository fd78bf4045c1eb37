"""What OpenAI's chat and completions share: errors, usage, log-probabilities, and the fields of sampling.

Shapes: https://platform.openai.com/docs/api-reference. The further fields are those that vLLM and llama-server take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from puna.completion import Completion, Timing
from puna.errors import UsageError
from puna.request import MAX_LOGIT_BIAS, Reasoning, TokenLogprob
from puna.server.events import Ended, Piece, Usage
from puna.server.refusals import Refusal, invalid
from puna.server.replies import ReplyShape, sse
from puna.server.running_job import RunningJob

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
LEAST_LOGPROB = -9999.0  # what OpenAI sends for a token that cannot come; JSON has no infinity

# Field of a body -> the field of SamplingParams that it sets. OpenAI's, then puna's own, vLLM's and llama-server's.
SETTINGS: Mapping[str, str] = {
    **{name: name for name in ("temperature", "top_p", "n", "seed", "stop", "presence_penalty", "frequency_penalty")},
    **{name: name for name in ("top_k", "min_p", "typical_p", "top_n_sigma", "min_tokens", "ignore_eos", "timeout")},
    **{name: name for name in ("xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent", "samplers")},
    **{name: name for name in ("mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay")},
    **{name: name for name in ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n")},
    **{name: name for name in ("dry_sequence_breakers", "banned_strings", "bad_words_ids", "suppress_ids")},
    **{name: name for name in ("repetition_penalty", "penalty_last_n", "include_stop_str_in_output", "stop_ids")},
    **{name: name for name in ("context_shift", "num_keep", "thinking_budget", "lora_name", "cache_salt", "priority")},
    **{name: name for name in ("json_schema", "regex", "choice", "grammar")},
    "stop_token_ids": "stop_ids",
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "penalty_last_n",
    "typ_p": "typical_p",
    "n_predict": "max_tokens",
    "n_keep": "num_keep",
    "max_tokens": "max_tokens",
}

HINTS = frozenset(
    {
        *("metadata", "store", "user", "safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_retention"),
        *("prompt_cache_options", "prediction", "verbosity", "moderation", "reasoning_effort", "web_search_options"),
        *("cache_prompt",),
    }
)


def error_body(refusal: Refusal) -> dict[str, Any]:
    """An error as OpenAI writes it."""
    kind = KINDS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    body = {"message": refusal.message, "type": kind, "param": refusal.field or None, "code": refusal.code or None}
    return {"error": body}


def failed(refusal: Refusal) -> bytes:
    """The last event of a stream that failed."""
    return sse(error_body(refusal))


SHAPE = ReplyShape(error_body, failed)


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def logprob_entry(entry: TokenLogprob) -> dict[str, Any]:
    """A token of a chat's `logprobs.content`."""
    top = zip(entry.top, entry.top_texts, entry.top_bytes)
    alternatives = [_token(token_id, text, logprob, raw) for (token_id, logprob), text, raw in top]
    return {**_token(entry.token_id, entry.text, entry.logprob, entry.bytes), "top_logprobs": alternatives}


def _token(token_id: int, text: str, logprob: float, raw: bytes) -> dict[str, Any]:
    """A token as OpenAI writes it, with its id, as llama-server does."""
    return {"id": token_id, "token": text, "logprob": finite(logprob), "bytes": list(raw)}


class TokenIds:
    """What a stream tells a client that asks for token ids (`return_token_ids`), and nothing to any other.

    vLLM's `prompt_token_ids`, `token_ids` and `stop_reason`; and what no other API has: "puna_start" with the first ids of a
    sample, its seed and how many of its ids were given (a client may go away before the end comes), and "puna" at its end.
    """

    def __init__(self, run: RunningJob, is_on: bool) -> None:
        self._run, self._is_on = run, is_on
        self._begun: set[int] = set()  # samples whose first ids were told

    def of_prompt(self) -> dict[str, Any]:
        return {"prompt_token_ids": self._run.prompt_ids} if self._is_on else {}

    def of_piece(self, piece: Piece) -> dict[str, Any]:
        if not self._is_on:
            return {}
        begun = {} if piece.index in self._begun else {"puna_start": self._first_facts(piece.index)}
        self._begun.add(piece.index)
        return {"token_ids": list(piece.token_ids), **begun}

    def at_end(self, end: Ended) -> dict[str, Any]:
        return {"stop_reason": end.stop_reason, "puna": self._facts(end.index)} if self._is_on else {}

    def _first_facts(self, index: int) -> dict[str, Any]:
        params = self._run.handle.samples[index].confirm().params
        return {"seed": params.seed if params.temperature > 0 else None, "num_opened": self._run.num_opened}

    def _facts(self, index: int) -> dict[str, Any]:
        handle = self._run.handle.samples[index]
        request = handle.confirm()
        thoughts = request.reasoning or Reasoning()
        return {
            "finish_reason": str(request.finish_reason),
            "error": request.error,
            **self._first_facts(index),
            "num_cached": request.num_cached,
            "num_dropped": request.num_dropped,
            "num_reasoning_tokens": thoughts.num_tokens,
            "has_reasoning": thoughts.is_present,
            "is_reasoning_cut": thoughts.is_cut,
            "timing": asdict(Timing.of(handle, request)),
        }


async def know_model(run: RunningJob) -> None:
    """Read the weights, once for a model, while the run keeps it loaded: what `receipts_of` tells needs their digest. If that
    fails, the run ends."""
    try:
        await asyncio.to_thread(lambda: run.llm.fingerprint)
    except BaseException:
        run.close()
        raise


async def receipts_of(run: RunningJob, model: str) -> list[dict[str, Any]]:
    """What `puna replay` needs of each sample of an ended run (`glassbox/receipt.py`), with the name of the model in place of its
    path; {"problem": words} if it cannot be repeated."""
    return await asyncio.to_thread(lambda: [_receipt(run, one, model) for one in run.completion.choices])


def _receipt(run: RunningJob, one: Completion, model: str) -> dict[str, Any]:
    try:
        return replace(run.llm.receipt(one), model=model).as_json()
    except UsageError as error:
        return {"problem": error.line}


def biases(given: Mapping[str, float]) -> dict[int, float]:
    """`logit_bias`, whose names are token ids in JSON."""
    if len(given) > MAX_LOGIT_BIAS:
        problem = f"logit_bias holds {len(given)} tokens; at most {MAX_LOGIT_BIAS} are allowed"
        raise invalid("logit_bias", problem)
    wrong = next((name for name in given if not name.isdecimal() or len(name) > 9), None)
    if wrong is not None:
        raise invalid("logit_bias", f"logit_bias names {wrong[:40]!r}; token ids are needed")
    return {int(name): value for name, value in given.items()}
