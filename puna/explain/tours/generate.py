"""The tour of generate: one question through the whole loop, beside what Meta's `generate` does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from puna import chat, engine, filters, sampling
from puna.backends.reference import ForwardPass, ReferenceBackend
from puna.batch import Batch
from puna.engine import Engine
from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.parts import Bar, Bars, Picture, Quoted, TextTable, TourPart
from puna.explain.steps import EngineRun, fresh_salt, run_steps
from puna.explain.words import Words
from puna.glassbox.record import PAD_ID, padded
from puna.glassbox.trace import Trace
from puna.model.spec import Dense, ModelConfig
from puna.request import SamplingParams
from puna.scheduler import Scheduler

EXAMPLE = "What is the capital of Peru?"
OTHER = "Name three animals of the Andes, and tell me in one short sentence what each of them eats."  # in the same batch
MAX_TOKENS = 12
MAX_STEPS = 14  # that a table shows
TOKEN, PAD = "█", "·"
CELLS = 66  # of a picture of a batch

# Lines of Meta's `generate` (facebookresearch/llama, llama/generation.py), and what does it in puna; None: nothing is needed.
BESIDE: tuple[tuple[str, Callable[..., Any] | None], ...] = (
    ("tokens = torch.full((bsz, total_len), pad_id)", Batch.of),
    ("input_text_mask = tokens != pad_id", None),
    ("model.forward(tokens[:, prev_pos:cur_pos], prev_pos)", ReferenceBackend.step),
    ("probs = softmax(logits[:, -1] / temperature)", filters.temperature),
    ("next_token = sample_top_p(probs, top_p)", filters.top_p),
    ("torch.multinomial(probs_sort, 1)", sampling.draw),
    ("torch.where(input_text_mask, tokens, next_token)", None),
    ("token_logprobs = -cross_entropy(logits, tokens)", sampling.token_logprob),
    ("eos_reached |= next_token == eos_id", engine._end_of),
    ("prev_pos = cur_pos", Scheduler.advance),
)


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    ids = live.chat_ids(text)
    yield _ids(live, say, text, ids)
    yield _padding(live, say, ids)
    yield _forward(live.config, say, len(ids))
    trace = live.llm.trace(ids, SamplingParams(max_tokens=MAX_TOKENS, cache_salt=fresh_salt()), top=5)
    yield _choice(live, say, trace)
    yield _loop(live, say, trace)
    yield _end(live, say, trace)
    yield _beside(say)


def _ids(live: LiveModel, say: Words, text: str, ids: list[int]) -> TourPart:
    key = "ids.text" if live.template else "ids.plain"
    pieces = " ".join(f"{one}:{live.tokenizer.piece(one)}" for one in ids)
    return TourPart.of(
        say("ids.title"),
        say.prose(key, text=text),
        Quoted(live.tokenizer.decode(ids, skip_special=False)),
        say.prose("ids.pieces", count=len(ids), vocabulary=live.config.vocab_size),
        Quoted(pieces),
        code_of(chat.encode_chat),
    )


# ---- the batch --------------------------------------------------------------------------------------------------------------


def _padding(live: LiveModel, say: Words, ids: list[int]) -> TourPart:
    prompts = [ids, live.chat_ids(OTHER)]
    run = run_steps(live.llm, prompts, SamplingParams(max_tokens=MAX_TOKENS, cache_salt=fresh_salt()))
    lengths = list(map(len, prompts))
    layout = padded(lengths, MAX_TOKENS, live.llm.plan.max_context)
    rows, columns = layout.shape
    ends = [length + len(request.output_ids) for length, request in zip(lengths, run.requests)]
    facts = {
        "rows": rows,
        "columns": columns,
        "pad": PAD_ID,
        "shortest": min(lengths),
        "forced": max(lengths) - min(lengths),
        "places": rows * (max(ends) - 1),
        "computed": run.num_tokens,
        "steps": len(run.steps),
    }
    return TourPart.of(
        say("padding.title"),
        say.prose("padding.text", other=OTHER, **facts),
        Picture(tuple(padded_rows(lengths, columns))),
        say.prose("padding.mask", **facts),
        say.prose("padding.ragged", **facts),
        _ragged_table(say, run),
        say.prose("padding.after", **facts),
        code_of(Batch.of),
    )


def padded_rows(lengths: list[int], columns: int) -> Iterator[str]:
    """A row of signs for each prompt: its tokens, then padding.

    >>> list(padded_rows([2, 3], 5))
    ['1 ██···', '2 ███··']
    """
    step = -(-columns // CELLS)  # places that a sign stands for
    for number, length in enumerate(lengths, start=1):
        yield f"{number} {TOKEN * -(-length // step)}{PAD * (-(-columns // step) - -(-length // step))}"


def _ragged_table(say: Words, run: EngineRun) -> TextTable:
    rows = []
    for number, step in enumerate(run.steps[:4], start=1):
        own = {chunk.index: span(chunk.first, chunk.last) for chunk in step.chunks}
        rows.append((str(number), own.get(0, ""), own.get(1, ""), str(step.num_tokens)))
    return TextTable(say.head("padding.head"), (*rows, *([("...", "", "", "")] if len(run.steps) > len(rows) else [])))


def span(first: int, last: int) -> str:
    """Positions first..last-1.

    >>> span(0, 37), span(37, 38)
    ('0..36', '37')
    """
    return f"{first}..{last - 1}" if last > first + 1 else str(first)


# ---- the model --------------------------------------------------------------------------------------------------------------


def _forward(model: ModelConfig, say: Words, count: int) -> TourPart:
    q, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    ffn = next((layer.ffn for layer in model.layers if isinstance(layer.ffn, Dense)), None)
    rows = [
        ("ids", f"({count},)"),
        ("embedding", f"({count}, {model.hidden_size})"),
        ("q", f"({count}, {model.num_heads}, {model.head_dim})"),
        ("kv", f"({count}, {model.num_kv_heads}, {model.head_dim})"),
        ("attention", f"({count}, {q})"),
        *([("ffn", f"({count}, {ffn.size})")] if ffn is not None else []),
        ("logits", f"(1, {model.vocab_size})"),
    ]
    table = TextTable(say.head("forward.head"), tuple((say(f"forward.{name}"), shape) for name, shape in rows))
    facts = {"layers": model.num_layers, "hidden": model.hidden_size, "count": count, "q": q, "kv": kv}
    return TourPart.of(
        say("forward.title"),
        say.prose("forward.text", **facts),
        table,
        say.prose("forward.after", **facts),
        code_of(ForwardPass._block),
    )


# ---- the loop ---------------------------------------------------------------------------------------------------------------


def _choice(live: LiveModel, say: Words, trace: Trace) -> TourPart:
    step = trace.steps[0]
    top = step.stages[0].top
    best = top[0].probability
    bars = tuple(
        Bar(live.quoted(one.id), one.probability / best, f"{say.number(one.logit, '6.2f')} {say.number(one.probability, '6.1%')}")
        for one in top
    )
    facts = {"vocabulary": live.config.vocab_size, "token": live.quoted(step.token.id), "id": step.token.id}
    return TourPart.of(say("choice.title"), say.prose("choice.text", **facts), Bars(bars), say.prose("choice.after", **facts))


def _loop(live: LiveModel, say: Words, trace: Trace) -> TourPart:
    rows = []
    for step in trace.steps[:MAX_STEPS]:
        top = step.stages[0].top
        computed = ", ".join(span(one.first, one.last) for one in step.computed)
        best, second = (say.number(one.probability, ".1%") for one in top[:2])
        second_token = f"{live.quoted(top[1].id)} {second}"
        time = say.number((step.model_s or 0.0) * 1000, ".1f")
        rows.append((computed, live.quoted(step.token.id), str(step.token.id), best, second_token, time))
    return TourPart.of(
        say("loop.title"),
        say.prose("loop.text"),
        TextTable(say.head("loop.head"), tuple(rows)),
        say.prose("loop.after", prompt=trace.prompt.num_tokens),
        code_of(Engine._plain_step),
    )


def _end(live: LiveModel, say: Words, trace: Trace) -> TourPart:
    last, ends = trace.token_ids[-1], sorted(live.tokenizer.stop_ids)
    named = ", ".join(f"{one} {live.tokenizer.piece(one)}" for one in ends) or "-"
    why = "end.stop" if trace.finish_reason == "stop" else "end.length"
    return TourPart.of(
        say("end.title"),
        Quoted(trace.text),
        say.prose(why, token=live.tokenizer.piece(last), id=last, count=len(trace.token_ids), limit=MAX_TOKENS),
        say.prose("end.text", ends=named),
        code_of(engine._end_of),
    )


def _beside(say: Words) -> TourPart:
    rows = []
    for line, function in BESIDE:
        code = None if function is None else code_of(function)
        rows.append((line, say("beside.nothing") if code is None else f"{code.file}:{code.line}  {code.name}"))
    pairs = tuple(one for row in rows for one in ((row[0],), (f"  → {row[1]}",)))
    return TourPart.of(say("beside.title"), say.prose("beside.text"), TextTable(("",), pairs), say.prose("beside.after"))
