"""The tour of the KV cache: what is kept of each token, what that costs, and what it saves, measured here and now."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from puna.backends.reference import ForwardPass
from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.parts import Bar, Bars, Quoted, TextTable, TourPart
from puna.explain.steps import EngineRun, fresh_salt, run_steps
from puna.explain.words import Words
from puna.llm import LLM
from puna.pages import Pages
from puna.plan import KV_BYTES, kv_bytes
from puna.request import SamplingParams
from puna.scheduler import Scheduler
from puna.units import gib, kib, megabytes

EXAMPLE = "Why do llamas live in the high mountains?"
NEXT_QUESTION = "And what do they eat?"
NUM_TOKENS = 24  # of the answer that is made in both ways
PATIENCE_S = 15  # without the cache, on a slow device
ANSWER_TOKENS = 64  # of the first turn
LENGTHS = (1024, 4096, 8192, 32768, 131072)  # tokens of context


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    ids = live.chat_ids(text)
    yield _size(live, say)
    yield _both_ways(live, say, ids)
    yield _second_turn(live, say, text, ids)
    yield _growth(live, say)
    yield _pages(live, say, len(ids))


def bytes_per_token(llm: LLM) -> int:
    """Of K and V, in all layers."""
    return kv_bytes(llm.model, 1, llm.plan.kv_type, llm.plan.layout.value_multiple)


# ---- what is kept -----------------------------------------------------------------------------------------------------------


def _size(live: LiveModel, say: Words) -> TourPart:
    llm, model = live.llm, live.config
    kv_type = llm.plan.kv_type
    factors = (
        ("layers", model.num_layers),
        ("both", 2),
        ("heads", model.num_kv_heads),
        ("numbers", model.head_dim),
        ("bytes", KV_BYTES[kv_type]),
    )
    rows = tuple((say(f"size.{name}", type=kv_type), str(count)) for name, count in factors)
    each = bytes_per_token(llm)
    if rest := each - math.prod(count for _, count in factors):
        rows += ((say("size.rest"), f"+ {rest}"),)  # scales of int8
    all_heads = each * model.num_heads // model.num_kv_heads
    return TourPart.of(
        say("size.title"),
        say.prose("size.text"),
        TextTable(say.head("size.head"), (*rows, (say("size.product"), f"{each} B"))),
        say.prose(
            "size.after",
            kib=say.measured(kib(each)),
            queries=model.num_heads,
            heads=model.num_kv_heads,
            all=say.measured(kib(all_heads)),
        ),
        code_of(kv_bytes),
    )


# ---- with and without -------------------------------------------------------------------------------------------------------


class Recomputed(NamedTuple):
    """An answer that was made without the cache: each step read everything again."""

    output_ids: list[int]
    num_tokens: int
    seconds: float


def without_cache(llm: LLM, ids: list[int], count: int) -> Recomputed:
    """Make up to `count` tokens, each by a request of its own that finds nothing in the cache; fewer if that takes too long."""
    made, num_tokens, seconds = list[int](), 0, 0.0
    while len(made) < count and (seconds < PATIENCE_S or len(made) < 2):
        params = SamplingParams(max_tokens=1, ignore_eos=True, cache_salt=fresh_salt())
        run = run_steps(llm, [ids + made], params)
        made += run.requests[0].output_ids
        num_tokens, seconds = num_tokens + run.num_tokens, seconds + run.seconds
    return Recomputed(made, num_tokens, seconds)


def with_cache(llm: LLM, ids: list[int], count: int) -> EngineRun:
    return run_steps(llm, [ids], SamplingParams(max_tokens=count, ignore_eos=True, cache_salt=fresh_salt()))


def _both_ways(live: LiveModel, say: Words, ids: list[int]) -> TourPart:
    with_cache(live.llm, ids, 2)  # the first run warms up what both use
    again = without_cache(live.llm, ids, NUM_TOKENS)
    count = len(again.output_ids)
    kept = with_cache(live.llm, ids, count)
    rows = tuple(
        (say(f"both.{name}"), str(run.num_tokens), say.number(run.seconds * 1000, ".0f") + " ms")
        for name, run in (("kept", kept), ("again", again))
    )
    return TourPart.of(
        say("both.title"),
        say.prose("both.text", prompt=len(ids), count=count),
        TextTable(say.head("both.head"), rows),
        say.prose(
            "both.after",
            tokens=again.num_tokens / kept.num_tokens,
            seconds=again.seconds / kept.seconds,
            equal=say("both.equal" if again.output_ids == kept.requests[0].output_ids else "both.unequal"),
            formula=f"{len(ids)} + {len(ids) + 1} + ... + {len(ids) + count - 1}",
        ),
        Quoted(live.tokenizer.decode(kept.requests[0].output_ids)),
        code_of(ForwardPass._attended),
    )


# ---- a conversation ---------------------------------------------------------------------------------------------------------


def _second_turn(live: LiveModel, say: Words, text: str, ids: list[int]) -> TourPart:
    salt = fresh_salt()
    first = run_steps(live.llm, [ids], SamplingParams(max_tokens=ANSWER_TOKENS, cache_salt=salt))
    answer = live.tokenizer.decode(first.requests[0].output_ids)
    longer = live.second_turn_ids(text, answer, NEXT_QUESTION)
    kept = run_steps(live.llm, [longer], SamplingParams(max_tokens=1, cache_salt=salt))
    anew = run_steps(live.llm, [longer], SamplingParams(max_tokens=1, cache_salt=fresh_salt()))
    rows = tuple(
        (say(f"turn.{name}"), str(run.requests[0].num_cached), str(run.num_tokens), say.number(run.seconds * 1000, ".0f") + " ms")
        for name, run in (("kept", kept), ("anew", anew))
    )
    return TourPart.of(
        say("turn.title"),
        say.prose("turn.text", count=len(longer), question=NEXT_QUESTION),
        TextTable(say.head("turn.head"), rows),
        say.prose("turn.after", page=live.llm.plan.page_size),
        code_of(Scheduler.publish),
    )


# ---- what it costs ----------------------------------------------------------------------------------------------------------


def _growth(live: LiveModel, say: Words) -> TourPart:
    llm, weights = live.llm, sum(tensor.num_bytes for tensor in live.checkpoint.tensors.values())
    lengths = [length for length in LENGTHS if length <= live.config.max_context] or [live.config.max_context]
    sizes = {say("growth.context", count=length): length * bytes_per_token(llm) for length in lengths}
    most = float(max(*sizes.values(), weights))
    bars = [Bar(name, size / most, say.measured(gib(size))) for name, size in sizes.items()]
    bars.append(Bar(say("growth.weights"), weights / most, say.measured(gib(weights)), is_marked=True))
    break_even = weights // bytes_per_token(llm)
    return TourPart.of(
        say("growth.title"),
        say.prose("growth.text"),
        Bars(tuple(bars)),
        say.prose("growth.after", count=break_even, weights=say.measured(megabytes(weights))),
    )


def _pages(live: LiveModel, say: Words, count: int) -> TourPart:
    plan = live.llm.plan
    used = -(-count // plan.page_size)
    facts = {"page": plan.page_size, "pages": plan.num_pages, "count": count, "used": used}
    return TourPart.of(
        say("pages.title"),
        say.prose("pages.text", **facts, bytes=say.measured(kib(plan.page_size * bytes_per_token(live.llm)))),
        say.prose("pages.after", **facts),
        code_of(Pages.reserve),
        code_of(ForwardPass._write),
    )
