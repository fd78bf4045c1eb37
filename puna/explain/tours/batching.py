"""The tour of batching: requests alone and together, with the same bits, and the time that it saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from puna.batch import Batch
from puna.engine import Engine
from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.parts import Picture, Quoted, TextTable, TourPart
from puna.explain.steps import EngineRun, fresh_salt, run_steps
from puna.explain.words import Words
from puna.glassbox.record import padded
from puna.llm import LLM
from puna.request import SamplingParams
from puna.scheduler import Scheduler
from puna.units import megabytes

EXAMPLE = "What is a llama?"
OTHERS = ("Name a colour.", "How many days does a week have, and what are they called?", "Why is the sky blue?")
NUM_TOKENS = 16
STEPS_SHOWN = 12
PROMPT, ANSWER, NOTHING = "█", "▒", "·"


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    texts = (text, *OTHERS)
    prompts = [live.chat_ids(one) for one in texts]
    run_steps(live.llm, prompts, params_of(2))  # warms up what both ways use
    alone = [run_steps(live.llm, [ids], params_of(NUM_TOKENS)) for ids in prompts]
    together = run_steps(live.llm, prompts, params_of(NUM_TOKENS))
    yield _same_bits(live, say, texts, alone, together)
    yield _time(live, say, alone, together)
    yield _steps(live, say, prompts)
    yield _padding(live.llm, say, prompts, together)


def params_of(count: int) -> SamplingParams:
    """Of a request that finds nothing in the cache, with the log-probability of each token."""
    return SamplingParams(max_tokens=count, ignore_eos=True, logprobs=0, cache_salt=fresh_salt())


def logprobs_of(run: EngineRun, index: int) -> list[float]:
    return [one.logprob for one in run.requests[index].logprobs]


def _same_bits(live: LiveModel, say: Words, texts: Sequence[str], alone: Sequence[EngineRun], together: EngineRun) -> TourPart:
    rows = []
    for index, text in enumerate(texts):
        one, many = logprobs_of(alone[index], 0), logprobs_of(together, index)
        same = alone[index].requests[0].output_ids == together.requests[index].output_ids and one == many
        rows.append((text, one[-1].hex(), many[-1].hex(), say("bits.same" if same else "bits.other")))
    return TourPart.of(
        say("bits.title"),
        say.prose("bits.text", count=len(texts), tokens=NUM_TOKENS),
        TextTable(say.head("bits.head"), tuple(rows)),
        Quoted(live.tokenizer.decode(together.requests[0].output_ids)),
        say.prose("bits.after"),
    )


def _time(live: LiveModel, say: Words, alone: Sequence[EngineRun], together: EngineRun) -> TourPart:
    apart = sum(run.seconds for run in alone)
    rows = (
        (say("time.alone"), str(sum(len(run.steps) for run in alone)), say.number(apart * 1000, ".0f") + " ms"),
        (say("time.together"), str(len(together.steps)), say.number(together.seconds * 1000, ".0f") + " ms"),
    )
    weights = say.measured(megabytes(live.llm.plan.weights_bytes))
    return TourPart.of(
        say("time.title"),
        say.prose("time.text", count=len(alone)),
        TextTable(say.head("time.head"), rows),
        say.prose("time.after", ratio=apart / together.seconds, weights=weights, count=len(alone)),
        code_of(Engine._plain_step),
    )


# ---- who is in which step ---------------------------------------------------------------------------------------------------


def _steps(live: LiveModel, say: Words, prompts: list[list[int]]) -> TourPart:
    """Requests of different lengths: one that ends makes room for others at once."""
    run = run_steps(live.llm, prompts, [params_of(count) for count in (4, 10, 6, 12)])
    return TourPart.of(
        say("steps.title"),
        say.prose("steps.text"),
        Picture(tuple(step_rows(run, [len(ids) for ids in prompts]))),
        say.prose("steps.legend", prompt=PROMPT, answer=ANSWER),
        say.prose("steps.after", first=run.steps[0].num_tokens, last=run.steps[-1].num_tokens, steps=len(run.steps)),
        code_of(Scheduler.schedule),
        code_of(Batch.of),
    )


def step_rows(run: EngineRun, lengths: Sequence[int]) -> Iterator[str]:
    """A row for each request, and a sign for each step: what was computed of it, with the tokens where they are a prompt's."""
    for index, length in enumerate(lengths):
        cells = []
        for step in run.steps:
            own = next((chunk for chunk in step.chunks if chunk.index == index), None)
            if own is None:
                cells.append(f"{NOTHING:<4}")
            elif own.first < length:
                cells.append(f"{PROMPT}{own.last - own.first:<3}")
            else:
                cells.append(f"{ANSWER:<4}")
        yield f"{index + 1}  {''.join(cells)}".rstrip()


# ---- beside a padded batch --------------------------------------------------------------------------------------------------


def _padding(llm: LLM, say: Words, prompts: list[list[int]], together: EngineRun) -> TourPart:
    lengths = list(map(len, prompts))
    layout = padded(lengths, NUM_TOKENS, llm.plan.max_context)
    rows, columns = layout.shape
    return TourPart.of(
        say("padding.title"),
        say.prose(
            "padding.text",
            rows=rows,
            columns=columns,
            places=rows * (columns - 1),
            computed=together.num_tokens,
            lengths=", ".join(map(str, lengths)),
        ),
        say.prose("padding.after", max_batch=llm.plan.max_sequences, max_tokens=llm.plan.max_tokens),
    )
