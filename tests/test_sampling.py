"""Sampling: each filter's exact result on a row of four, the draw, the seeds, the log-probabilities."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from puna import sampling
from puna.errors import NumericalError, UsageError
from puna.request import SamplingParams
from puna.sampling import FILTERS, History, Occurrences, Row, Sampler, apply, draw, token_logprob

INF = math.inf
NOTHING = History()
SEEN = History(prompt_ids=[0], output_ids=[1, 1, 2])


def row(*values: float) -> Row:
    return np.array(values, np.float32)


def logs(*probabilities: float) -> Row:
    with np.errstate(divide="ignore"):
        return np.log(row(*probabilities))


def probabilities(logits: Row) -> list[float]:
    powers = np.exp(logits.astype(np.float64))
    return [round(float(p), 6) for p in powers / powers.sum()]


# filter, its setting, logits, history, exact result
TABLE: list[tuple[str, dict[str, Any], Row, History, list[float]]] = [
    ("logit_bias", {}, row(1, 2, 3, 4), SEEN, [1, 2, 3, 4]),
    ("logit_bias", {"logit_bias": {1: 10.0, 3: -4.0}}, row(1, 2, 3, 4), SEEN, [1, 12, 3, 0]),
    ("logit_bias", {"logit_bias": {0: -100.0}}, row(-INF, 2, 3, 4), SEEN, [-sampling.LARGEST, 2, 3, 4]),
    ("penalties", {}, row(1, 2, 3, 4), SEEN, [1, 2, 3, 4]),
    ("penalties", {"repetition_penalty": 2.0}, row(1, -2, 4, 4), SEEN, [0.5, -4, 2, 4]),
    ("penalties", {"presence_penalty": 0.5}, row(1, 2, 3, 4), SEEN, [1, 1.5, 2.5, 4]),
    ("penalties", {"frequency_penalty": 0.5}, row(1, 2, 3, 4), SEEN, [1, 1, 2.5, 4]),
    ("penalties", {"repetition_penalty": 2.0, "presence_penalty": 1.0}, row(2, 2, 4, 4), SEEN, [1, 0, 1, 4]),
    ("penalties", {"presence_penalty": 1.0}, row(1, 2, 3, 4), NOTHING, [1, 2, 3, 4]),
    ("temperature", {"temperature": 1.0}, row(1, 2, 3, 4), NOTHING, [-3, -2, -1, 0]),
    ("temperature", {"temperature": 0.5}, row(1, 2, 3, -INF), NOTHING, [-4, -2, 0, -INF]),
    ("temperature", {"temperature": 1e-300}, row(-9, -8, 3, 3), NOTHING, [-INF, -INF, 0, 0]),
    ("top_k", {}, row(1, 2, 3, 4), NOTHING, [1, 2, 3, 4]),
    ("top_k", {"top_k": 4}, row(1, 2, 3, 4), NOTHING, [1, 2, 3, 4]),
    ("top_k", {"top_k": 2}, row(1, 4, 2, 3), NOTHING, [-INF, 4, -INF, 3]),
    ("top_k", {"top_k": 2}, row(3, 3, 3, 4), NOTHING, [3, -INF, -INF, 4]),
    ("top_k", {"top_k": 1}, row(-INF, -INF, 2, -INF), NOTHING, [-INF, -INF, 2, -INF]),
    ("min_p", {}, row(1, 2, 3, 4), NOTHING, [1, 2, 3, 4]),
    ("min_p", {"min_p": 1.0}, row(4, 2, 3, 4), NOTHING, [4, -INF, -INF, 4]),
]


@pytest.mark.parametrize(("name", "setting", "logits", "history", "expected"), TABLE)
def test_a_filter_gives_exactly_this(
    name: str, setting: dict[str, Any], logits: Row, history: History, expected: list[float]
) -> None:
    before = logits.copy()
    step = getattr(sampling, name)
    assert step(logits, SamplingParams(**setting), history).tolist() == expected
    assert logits.tolist() == before.tolist(), "the raw logits were changed"


NUCLEI = [
    (1.0, [0.1, 0.6, 0.1, 0.2], [0, 1, 2, 3]),
    (0.95, [0.1, 0.6, 0.1, 0.2], [0, 1, 2, 3]),
    (0.89, [0.1, 0.6, 0.1, 0.2], [0, 1, 3]),  # of equals the lower id
    (0.7, [0.1, 0.6, 0.1, 0.2], [1, 3]),  # the token that crosses stays
    (0.59, [0.1, 0.6, 0.1, 0.2], [1]),
    (0.0, [0.1, 0.6, 0.1, 0.2], [1]),  # at least one
    (0.5, [0.25, 0.25, 0.25, 0.25], [0, 1]),
    (0.999, [0.0, 1.0, 0.0, 0.0], [1]),
]


@pytest.mark.parametrize(("p", "given", "kept"), NUCLEI)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float, given: list[float], kept: list[int]) -> None:
    logits = logs(*given)
    result = sampling.top_p(logits, SamplingParams(top_p=p), NOTHING)
    assert np.flatnonzero(result > -INF).tolist() == [i for i in kept if given[i] > 0]
    assert all(result[i] == logits[i] for i in kept)


def test_top_p_agrees_with_a_full_sort() -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        logits = (rng.standard_normal(rng.integers(2, 3000)) * rng.uniform(0.01, 5)).astype(np.float32)
        p = float(rng.uniform(0, 1))
        order = np.argsort(-logits, kind="stable")
        masses = np.exp(logits - logits.max()).astype(np.float64)
        count = int(np.searchsorted(np.cumsum(masses[order]), p * masses.sum())) + 1
        kept = np.flatnonzero(sampling.top_p(logits, SamplingParams(top_p=p), NOTHING) > -INF)
        assert abs(len(kept) - count) <= 1
        assert set(kept) == set(order[: len(kept)])


def test_min_p_drops_what_is_much_less_likely_than_the_best() -> None:
    result = sampling.min_p(logs(0.8, 0.1, 0.05, 0.05), SamplingParams(min_p=0.1), NOTHING)
    assert probabilities(result) == [0.888889, 0.111111, 0.0, 0.0]


def test_filters_run_in_the_written_order() -> None:
    assert [step.__name__ for step in FILTERS] == ["logit_bias", "penalties", "temperature", "top_k", "top_p", "min_p"]
    # Top-p sees what top-k left: 0.5 and 0.3 become 0.625 and 0.375, so that 0.62 is reached by the first alone.
    params = SamplingParams(temperature=1.0, top_k=2, top_p=0.62)
    assert probabilities(apply(FILTERS, logs(0.5, 0.3, 0.1, 0.1), params, NOTHING)) == [1.0, 0.0, 0.0, 0.0]
    # Temperature comes before top-p: at 2 the first two have 0.41 and 0.32.
    params = SamplingParams(temperature=2.0, top_p=0.5)
    assert probabilities(apply(FILTERS, logs(0.5, 0.3, 0.1, 0.1), params, NOTHING)) == [0.563508, 0.436492, 0.0, 0.0]


def test_greedy_takes_the_first_of_equals_and_draws_nothing() -> None:
    sampler = Sampler(SamplingParams(), 4)
    assert sampler.choose(row(1, 3, 3, 2), NOTHING) == 1
    assert sampler.params.seed is None
    seeded, fresh = (Sampler(SamplingParams(seed=1), 4) for _ in range(2))
    seeded.choose(row(1, 3, 3, 2), NOTHING)
    assert seeded.uniform() == fresh.uniform()


def test_greedy_hears_bias_and_penalties() -> None:
    assert Sampler(SamplingParams(logit_bias={0: 9.0}), 4).choose(row(1, 3, 3, 2), NOTHING) == 0
    assert Sampler(SamplingParams(repetition_penalty=2.0), 4).choose(row(1, 3, 1, 2), SEEN) == 3
    assert Sampler(SamplingParams(frequency_penalty=1.5), 4).choose(row(1, 3, 1, 2), SEEN) == 3


def test_the_same_seed_gives_the_same_tokens_and_a_drawn_seed_can_be_used_again() -> None:
    logits = logs(0.1, 0.2, 0.3, 0.4)
    first = Sampler(SamplingParams(temperature=1.0), 4)
    assert first.params.seed is not None
    ids = [first.choose(logits, NOTHING) for _ in range(50)]
    again = Sampler(SamplingParams(temperature=1.0, seed=first.params.seed), 4)
    assert [again.choose(logits, NOTHING) for _ in range(50)] == ids
    other = Sampler(SamplingParams(temperature=1.0, seed=(first.params.seed + 1) % 2**53), 4)
    assert [other.choose(logits, NOTHING) for _ in range(50)] != ids


def test_the_stream_of_a_seed_never_changes() -> None:
    sampler = Sampler(SamplingParams(temperature=1.0, seed=42), 4)
    assert [round(sampler.uniform(), 6) for _ in range(4)] == [0.773956, 0.438878, 0.858598, 0.697368]


def test_draws_follow_the_probabilities() -> None:
    wanted = [0.1, 0.2, 0.3, 0.4]
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1), 4)
    counts = np.bincount([sampler.choose(logs(*wanted), NOTHING) for _ in range(20000)], minlength=4) / 20000
    assert np.abs(counts - wanted).max() < 0.012


def test_a_draw_never_takes_what_was_removed() -> None:
    logits = row(-INF, 0, -INF, 0, -INF)
    assert {draw(logits, u) for u in np.linspace(0, 1 - 2**-53, 99)} == {1, 3}


@pytest.mark.parametrize("bad", [[1, math.nan, 2, 3], [1, INF, 2, 3], [-INF] * 4, [math.nan] * 4])
def test_logits_that_are_not_finite_are_told(bad: list[float]) -> None:
    for params in (SamplingParams(), SamplingParams(temperature=1.0, top_k=2, seed=1)):
        with pytest.raises(NumericalError, match="not finite"):
            Sampler(params, 4).choose(row(*bad), NOTHING)


def test_minus_infinity_alone_is_no_fault() -> None:
    assert Sampler(SamplingParams(), 4).choose(row(-INF, -INF, 1, -INF), NOTHING) == 2


@pytest.mark.parametrize("token_id", [-1, 4])
def test_a_bias_of_an_id_outside_the_vocabulary_is_refused(token_id: int) -> None:
    with pytest.raises(UsageError, match=r"ids 0\.\.3"):
        Sampler(SamplingParams(logit_bias={token_id: 1.0}), 4)


def test_logprobs_are_of_the_raw_logits_best_first_then_by_id() -> None:
    found = token_logprob(logs(0.1, 0.4, 0.1, 0.4), 0, 3)
    assert found.logprob == pytest.approx(math.log(0.1))
    assert [i for i, _ in found.top] == [1, 3, 0]
    assert [value for _, value in found.top] == pytest.approx([math.log(0.4), math.log(0.4), math.log(0.1)])
    assert token_logprob(logs(0.1, 0.4, 0.1, 0.4), 0, 0).top == ()


def test_logprobs_of_a_row_do_not_depend_on_where_it_lies() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((7, 1001)).astype(np.float32)
    for each in rows:
        lone = np.array(each)
        assert token_logprob(each, 5, 20) == token_logprob(lone, 5, 20)


# ---- what a device is told ------------------------------------------------------------------------------------------


def test_occurrences_counted_piece_by_piece_are_those_counted_at_once() -> None:
    rng = np.random.default_rng(5)
    prompt, output = rng.integers(0, 50, 30).tolist(), rng.integers(0, 50, 200).tolist()
    seen = Occurrences(prompt)
    for end in np.sort(rng.integers(0, 201, 40)).tolist():
        seen.count(output[:end])
        assert dict(zip(seen.ids, seen.counts, strict=True)) == {i: output[:end].count(i) for i in {*prompt, *output[:end]}}


def test_who_changes_no_logits_makes_no_edits() -> None:
    samplers = [Sampler(SamplingParams(temperature=t, top_k=5, top_p=0.5, min_p=0.1), 4) for t in (0.0, 1.0)]
    assert sampling.make_edits(samplers, [SEEN] * 2, np.full(2, -1, np.int32)) is None


def test_the_host_samples_where_a_field_is_set_that_no_device_knows() -> None:
    """A field that is new is the host's, until it is listed."""
    known = {field.name for field in dataclasses.fields(SamplingParams)}
    assert known >= sampling.DEVICE_FIELDS and known - sampling.DEVICE_FIELDS >= {"logprobs", "prompt_logprobs"}
    plain: dict[str, Any] = {"temperature": 1.0, "top_k": 5, "logit_bias": {1: 2.0}, "stop": "x", "min_tokens": 3, "seed": 4}
    assert Sampler(SamplingParams(**plain), 4).is_plain
    for given in ({"logprobs": 0}, {"prompt_logprobs": 0}, {"max_tokens": 0}):
        assert not Sampler(SamplingParams(**plain | given), 4).is_plain


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_choice_that_is_described_to_a_device_is_the_samplers_own(temperature: float) -> None:
    """Over a whole text: each id is chosen of a description that knows the last one by its place only."""
    rng, sources = np.random.default_rng(9), np.full(6, -1, np.int32)
    params = [
        SamplingParams(temperature=temperature, repetition_penalty=1.3, seed=1),
        SamplingParams(temperature=temperature, seed=2),
        SamplingParams(temperature=temperature, presence_penalty=0.5, frequency_penalty=0.4, logit_bias={3: 2.0}, seed=3),
        SamplingParams(temperature=temperature, suppress_ids=[1, 3], begin_suppress_ids=[2], min_tokens=9, stop_ids=[4], seed=4),
        SamplingParams(temperature=temperature, begin_suppress_ids=[0, 5], repetition_penalty=1.2, seed=5),
        SamplingParams(temperature=temperature, min_tokens=1, stop_ids=[7], seed=6),
    ]
    samplers, alone = ([Sampler(each, 20, each.stop_ids) for each in params] for _ in range(2))
    chosen: list[int] = []
    read, whole = ([History([1, 2], []) for _ in params] for _ in range(2))
    for _ in range(40):
        choices = sampling.make_choices(sources, samplers, sampling.make_edits(samplers, read, sources))
        logits = (rng.standard_normal((6, 20)) * 2).astype(np.float32)
        latest = [sampling.choose_row(each, choices, i, chosen) for i, each in enumerate(logits)]
        assert latest == [sampler.choose(*each) for sampler, *each in zip(alone, logits, whole, strict=True)]
        for i, token_id in enumerate(latest):
            read[i] = whole[i]
            whole[i] = History([1, 2], [*whole[i].output_ids, token_id])
        assert latest[3] not in (1, 3) and (len(whole[3].output_ids) > 9 or latest[3] != 4)
        chosen, sources = latest, np.arange(6, dtype=np.int32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalty_that_passes_the_largest_number_is_told(temperature: float) -> None:
    with pytest.raises(NumericalError, match="not finite"):
        Sampler(SamplingParams(temperature=temperature, repetition_penalty=0.5), 4).choose(row(3e38, 1, 2, 3), SEEN)


def test_an_id_that_is_suppressed_is_not_forced_by_a_bias_and_its_log_probability_is_the_models() -> None:
    sampler = Sampler(SamplingParams(suppress_ids=[1], logit_bias={1: 1e30}), 4)
    assert sampler.choose(row(1, 30, 3, 2), NOTHING) == 2
    with pytest.raises(UsageError, match=r"suppress_ids names id 4; the vocabulary has ids 0\.\.3"):
        Sampler(SamplingParams(suppress_ids=[4]), 4)


def test_more_ids_than_a_device_takes_are_refused_with_what_they_are() -> None:
    params = SamplingParams(suppress_ids=range(1000), logit_bias=dict.fromkeys(range(1000, 1100), 1.0))
    with pytest.raises(UsageError, match="1100 ids together; at most 1024"):
        Sampler(params, 2000)
