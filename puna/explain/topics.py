"""The topics of `puna explain`, in the order in which a learner needs them, and the other names that they go by."""

from __future__ import annotations

from puna.errors import did_you_mean

TOPICS = ("generate", "tokenizer", "attention", "rope", "kv-cache", "sampling", "quantisation", "batching")
OTHER_NAMES = {
    **dict.fromkeys(("generation",), "generate"),
    **dict.fromkeys(("tokeniser", "tokenization", "tokenisation", "tokens"), "tokenizer"),
    **dict.fromkeys(("self-attention", "heads"), "attention"),
    **dict.fromkeys(("rotary", "positions"), "rope"),
    **dict.fromkeys(("kv_cache", "kvcache", "kv", "cache"), "kv-cache"),
    **dict.fromkeys(("temperature", "top-p", "top_p", "nucleus", "sample"), "sampling"),
    **dict.fromkeys(("quantization", "quantize", "quantise", "quants"), "quantisation"),
    **dict.fromkeys(("batch", "batches", "padding"), "batching"),
}


def topic_of(name: str) -> str | None:
    """The topic that a person means by a name; None if there is none.

    >>> topic_of("Quantization"), topic_of("KV-cache"), topic_of("generate.py")
    ('quantisation', 'kv-cache', None)
    """
    lower = name.lower()
    return lower if lower in TOPICS else OTHER_NAMES.get(lower)


def similar_topics(name: str) -> str:
    """A sentence with the topics that are spelled like a name; "" if there are none."""
    return did_you_mean(name, TOPICS)
