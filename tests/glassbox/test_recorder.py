"""What a trace says of each filter and each draw is what the sampler did: by hand, and against the sampler alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from puna.filters import FILTERS
from puna.glassbox.recorder import StepRecorder
from puna.glassbox.trace import TracedStep, TracedToken
from puna.history import History, Row
from puna.philox import uniform
from puna.request import SamplingParams
from puna.sampling import Sampler, token_logprob
from tests.fakes import VOCAB_SIZE, ByteTokenizer
from tests.glassbox.cases import SETTINGS

A, B, C, D = b"abcd"
LN2 = math.log(2)


def token(token_id: int) -> TracedToken:
    return TracedToken(token_id, "", "", "", is_control=False)


def recorder() -> StepRecorder:
    return StepRecorder(token, kv_bytes_per_token=10, top=VOCAB_SIZE, max_candidates=1 << 40)


def traced(settings: dict[str, Any], logits: Row, history: History) -> TracedStep:
    found = recorder()
    sampler = Sampler(SamplingParams(**settings), len(logits), tokenizer=ByteTokenizer(), watcher=found)
    found.begin(logits, history)
    found.end(sampler.sample(logits, history))
    return found.steps[history.num_generated]


def four() -> Row:
    """a, b, c and d have 1/2, 1/4, 1/8 and 1/8: an entropy of 1.75 bits."""
    row = np.full(VOCAB_SIZE, -np.inf, np.float32)
    row[[A, B, C, D]] = np.array([3, 2, 1, 1], np.float32) * np.float32(LN2)
    return row


def shares(*weights: float) -> list[float]:
    return [weight / sum(weights) for weight in weights]


ONE = {"temperature": 1.0, "seed": 42}
# filter, settings, history, the probabilities of a, b, c, d after it, what it removed and the probability of that before it
BY_HAND: list[tuple[str, dict[str, Any], History, list[float], str, float]] = [
    ("logit_bias", {"logit_bias": {A: -LN2}}, History(), shares(2, 2, 1, 1), "", 0),
    ("bad_words", {"bad_words_ids": [[A]]}, History(), shares(0, 2, 1, 1), "a", 1 / 2),
    ("banned_strings", {"banned_strings": ["a"]}, History(), shares(0, 2, 1, 1), "a", 1 / 2),
    ("penalties", {"repetition_penalty": 2.0}, History([A]), shares(2**1.5, 4, 2, 2), "", 0),
    ("dry", {"dry_multiplier": LN2, "dry_base": 1.0}, History([], [B, C, A, B, C]), shares(2, 2, 1, 1), "", 0),
    ("top_n_sigma", {"top_n_sigma": 1.0}, History(), [1, 0, 0, 0], "bcd", 1 / 2),  # the deviation is 0.83 ln 2
    ("top_k", {"top_k": 3}, History(), shares(4, 2, 1, 0), "d", 1 / 8),
    ("typical_p", {"typical_p": 0.2}, History(), [0, 1, 0, 0], "acd", 3 / 4),  # b's 2 bits are nearest to 1.75
    ("top_p", {"top_p": 0.6}, History(), shares(2, 1, 0, 0), "cd", 1 / 4),  # b crosses 0.6
    ("min_p", {"min_p": 0.5}, History(), shares(2, 1, 0, 0), "cd", 1 / 4),
    ("xtc", {"xtc_probability": 1.0, "xtc_threshold": 0.2}, History(), shares(0, 2, 1, 1), "a", 1 / 2),
    ("temperature", {"temperature": 0.5}, History(), shares(16, 4, 1, 1), "", 0),  # the squares
    # 1.75 of 2 bits: a temperature of 0.5 + 0.875
    ("dynamic_temperature", {"dynatemp_range": 0.5}, History(), shares(*(2 ** (k / 1.375) for k in (3, 2, 1, 1))), "", 0),
    ("mirostat", {"mirostat": 2, "mirostat_tau": 1.0}, History(), shares(2, 1, 0, 0), "cd", 1 / 4),  # at most 2 bits
    # logits 5 - 10 d^2 / (1 + d), where d is the distance to the target / 0.3
    (
        "adaptive_p",
        {"adaptive_target": 0.25},
        History(),
        shares(*(math.exp(5 - 10 * d * d / (1 + d)) for d in (0.25 / 0.3, 0, 0.125 / 0.3, 0.125 / 0.3))),
        "",
        0,
    ),
]


def test_every_filter_has_a_case() -> None:
    assert {name for name, *_ in BY_HAND} == FILTERS.keys() == SETTINGS.keys() - {"greedy", "several"}


@pytest.mark.parametrize(("name", "settings", "history", "after", "removed", "lost"), BY_HAND, ids=[row[0] for row in BY_HAND])
def test_a_stage_is_as_worked_out_by_hand(
    name: str, settings: dict[str, Any], history: History, after: list[float], removed: str, lost: float
) -> None:
    step = traced(ONE | settings, four(), history)
    model, stage = step.stages[0], next(stage for stage in step.stages if stage.name == name)
    found = {one.id: one.probability for one in stage.top}
    assert [found.get(i, 0.0) for i in (A, B, C, D)] == pytest.approx(after, abs=1e-6)
    assert model.num_candidates == 4 and model.entropy_bits == pytest.approx(1.75)
    if not removed:
        assert stage.cut is None and stage.num_candidates == 4
    else:
        cut = stage.cut
        assert cut is not None and cut.num_removed == len(removed) and cut.probability == pytest.approx(lost)
        assert chr(cut.first_removed.id) == removed[0] and stage.num_candidates == 4 - len(removed)


def test_top_p_names_the_token_that_crosses_the_line_and_the_draw_falls_where_it_must() -> None:
    step = traced(ONE | {"top_p": 0.6}, four(), History())
    cut, draw = step.stages[1].cut, step.draw
    assert cut is not None and draw is not None
    assert cut.last_kept.id == B and cut.last_kept.probability == pytest.approx(1 / 4)
    assert cut.first_removed.id == C and cut.first_removed.probability == pytest.approx(1 / 8)
    # 0.82 lies in b's part, 2/3 to 1
    assert draw.uniform == uniform(42, 0) and draw.low == pytest.approx(2 / 3) and draw.high == 1.0
    assert step.token.id == B and step.rank == 2 and step.logprob == pytest.approx(math.log(1 / 4))


def test_xtc_shows_the_number_that_it_drew_for_itself() -> None:
    # index 2**61 of the seed's stream is the first number of block 2**59 + 1; numpy counts up before it makes a block
    number = np.random.Generator(np.random.Philox(key=42, counter=1 << 59)).random()
    for probability, acts in ((number - 1e-9, False), (number + 1e-9, True)):
        step = traced(ONE | {"xtc_probability": probability, "xtc_threshold": 0.2}, four(), History())
        model, xtc, temperature = step.stages
        assert (xtc.uniform, model.uniform, temperature.uniform) == (number, None, None) and (xtc.cut is not None) is acts
        assert step.draw is not None and step.draw.uniform == uniform(42, 0) != number


def test_a_token_that_a_filter_removed_may_still_be_forced() -> None:
    found, logits = recorder(), four()
    sampler = Sampler(SamplingParams(top_k=1, temperature=1.0, seed=1), VOCAB_SIZE, watcher=found)
    found.begin(logits, History())
    sampler.sample(logits, History())
    found.end(C)  # as a budget for thoughts does
    model, *rest = found.steps[0].stages
    assert model.chosen is not None and model.chosen.id == C and [stage.chosen for stage in rest] == [None, None]


def check_steps(name: str, count: int) -> None:
    """Sample `count` tokens with and without a watcher, and check what the trace says."""
    params, rng = SamplingParams(**SETTINGS[name]), np.random.default_rng(11)
    found, history = recorder(), History(list(b"the llama"), output := list[int]())
    watched, alone = (Sampler(params, VOCAB_SIZE, (), ByteTokenizer(), watcher=one) for one in (found, None))
    for index in range(count):
        logits = (rng.standard_normal(VOCAB_SIZE) * 3).astype(np.float32)
        before = logits.copy()
        found.begin(logits, history)
        token_id = watched.sample(logits, history)
        found.end(token_id)
        assert token_id == alone.sample(logits, history) and logits.tobytes() == before.tobytes()
        check_step(found.steps.pop(index), logits, token_id, params)
        output.append(token_id)


def check_step(step: TracedStep, logits: Row, token_id: int, params: SamplingParams) -> None:
    entry = token_logprob(logits, token_id, VOCAB_SIZE)
    assert step.token.id == token_id and step.logprob == entry.logprob
    assert tuple((one.id, one.logprob) for one in step.stages[0].top) == entry.top and entry.top[step.rank - 1][0] == token_id  # type: ignore[operator]
    for before, stage in zip(step.stages, step.stages[1:], strict=False):
        assert sum(one.probability for one in stage.top) == pytest.approx(1, abs=1e-6) and len(stage.top) == stage.num_candidates
        gone = {one.id: one.probability for one in before.top if one.id not in {other.id for other in stage.top}}
        assert (stage.cut is None) == (not gone)
        if stage.cut is not None:
            assert stage.cut.num_removed == len(gone) and stage.cut.probability == pytest.approx(sum(gone.values()), abs=1e-6)
    last = step.stages[-1]
    if step.draw is None:
        assert params.temperature == 0 and last.top[0].id == token_id
        return
    assert step.draw.uniform == uniform(params.seed or 0, step.index)
    assert step.draw.low in step.draw.starts
    assert step.draw.low - 1e-12 <= step.draw.uniform <= step.draw.high + 1e-12
    below = sum(one.probability for one in last.top if one.id < token_id)
    assert last.chosen is not None
    assert (step.draw.low, step.draw.high) == pytest.approx((below, below + last.chosen.probability), abs=1e-6)
    parts = sorted(zip((one.id for one in last.top), step.draw.starts, (one.probability for one in last.top), strict=True))
    ends = np.cumsum([0.0, *(probability for _, _, probability in parts)])
    assert [start for _, start, _ in parts] == pytest.approx(list(ends[:-1]), abs=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_trace_says_what_the_sampler_did(name: str) -> None:
    check_steps(name, 8)


@pytest.mark.full
@pytest.mark.parametrize("name", SETTINGS)
def test_a_trace_says_what_the_sampler_did_10_200_times_in_all(name: str) -> None:
    check_steps(name, 600)
