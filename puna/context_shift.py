"""Context shift: goes on where the context is full, without the oldest tokens. Only a request that asks for it is ever shifted.

As llama.cpp's `--context-shift`, it keeps the first `num_keep` tokens (and a BOS before them) and drops half of the others, the
older half. llama.cpp then rotates the K of what remains; puna computes it again, as a prompt, so that each bit is that of a
request whose prompt is what remains. That costs a prefill of half a context, once in half a context.
"""

from __future__ import annotations

from puna.errors import UsageError
from puna.request import Request, SamplingParams


def require_asked(params: SamplingParams) -> None:
    """UsageError for tokens to keep without a shift."""
    if params.num_keep and not params.context_shift:
        raise UsageError(
            f"num_keep is {params.num_keep}, and context_shift is off", hint="Add context_shift=True (--context-shift)."
        )


def drop_oldest(request: Request, bos_id: int | None) -> int:
    """Drop old tokens of a request, and return how many; 0 if too few are left to drop one.

    >>> from puna.request import SamplingParams
    >>> request = Request(1, [7, 8, 9], SamplingParams(context_shift=True, num_keep=1), output_ids=[10, 11])
    >>> drop_oldest(request, bos_id=None), request.token_ids(0, request.num_tokens), request.prompt_length
    (2, [7, 10, 11], 3)
    """
    has_bos = bool(request.prompt_ids) and request.prompt_ids[0] == bos_id
    first = min(request.params.num_keep + has_bos, request.num_tokens)
    count = (request.num_tokens - first) // 2
    request.first_dropped = first
    request.num_dropped += count
    request.shifted_length = request.num_tokens
    return count
