"""Log-probabilities of one token, as a request gets them: raw, after the filters if it asks for that too, with text and bytes.

`TokenLogprob.logprob` is the model's own opinion: the log-softmax of the raw logits (vLLM's "raw_logprobs"). Its `processed`
holds the same token under the distribution that it was drawn from, after all filters ("processed_logprobs").
"""

from __future__ import annotations

from dataclasses import replace

from puna.constraints import Constraint
from puna.detokenize import token_text
from puna.errors import UsageError
from puna.request import SamplingParams, TokenLogprob
from puna.sampling import History, Row, Sampler, TokenSampler, token_logprob
from puna.tokenizers.base import Tokenizer
from puna.units import counted


def require_possible(params: SamplingParams, num_prompt: int, custom: TokenSampler | None) -> None:
    """UsageError if the parameters ask for log-probabilities that cannot be given for a prompt of `num_prompt` tokens."""
    start = params.prompt_logprobs_start
    if start and params.prompt_logprobs is None:
        raise UsageError(
            f"prompt_logprobs_start is {start}, and prompt_logprobs is None",
            hint="Add prompt_logprobs=0, or leave the start out.",
        )
    if start > num_prompt:
        raise UsageError(f"prompt_logprobs_start is {start}; the prompt has {counted(num_prompt, 'token')}")
    if params.processed_logprobs:
        _require_known_filters(params, custom)


def _require_known_filters(params: SamplingParams, custom: TokenSampler | None) -> None:
    if params.logprobs is None:
        raise UsageError("processed_logprobs needs logprobs", hint="Add logprobs=0, or the number of top tokens.")
    if custom is not None:
        raise UsageError(
            "processed_logprobs is not possible with a sampler of your own: puna does not know its filters",
            hint="Leave processed_logprobs out: logprobs are of the raw logits.",
        )


def sampled_logprob(
    logits: Row, token_id: int, sampler: Sampler | Constraint, history: History, tokenizer: Tokenizer | None
) -> TokenLogprob | None:
    """The entry of a sampled token; None if the request asks for none. `history` ends before the token."""
    params = sampler.params
    if params.logprobs is None:
        return None
    entry = spelled(token_logprob(logits, token_id, params.logprobs), tokenizer)
    if not params.processed_logprobs:
        return entry
    processed = token_logprob(sampler.sampled_from(logits, history), token_id, params.logprobs)
    return replace(entry, processed=spelled(processed, tokenizer))


def spelled(entry: TokenLogprob, tokenizer: Tokenizer | None) -> TokenLogprob:
    """The entry, with the text and the bytes of its ids."""
    ids = (entry.token_id, *(token_id for token_id, _ in entry.top))
    text, *top_texts = (token_text(tokenizer, token_id) for token_id in ids)
    data, *top_bytes = (_bytes_of(tokenizer, token_id) for token_id in ids)
    return replace(entry, text=text, top_texts=tuple(top_texts), bytes=data, top_bytes=tuple(top_bytes))


def _bytes_of(tokenizer: Tokenizer | None, token_id: int) -> bytes:
    return b"" if tokenizer is None or token_id >= tokenizer.vocab_size else tokenizer.token_bytes(token_id)
