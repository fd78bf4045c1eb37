"""Sampling: each filter's exact result on a row of four, the draw, the seeds, the log-probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from puna import filters
from puna.errors import NumericalError, UsageError
from puna.filters import FILTERS, Filter, make_steps, needed_filters
from puna.history import History, Row
from puna.request import TEMPERATURE_FIRST, SamplingParams
from puna.sampling import Sampler, apply, draw, token_logprob

INF = math.inf
NOTHING = History()
SEEN = History(prompt_ids=[0], output_ids=[1, 1, 2])


def row(*values: float) -> Row:
    return np.array(values, np.float32)


def logs(*probabilities: float) -> Row:
    with np.errstate(divide="ignore"):
        return np.log(row(*probabilities))


def after(count: int) -> History:
    """A text of `count` tokens."""
    return History(output_ids=range(count))


def probabilities(logits: Row) -> list[float]:
    powers = np.exp(logits.astype(np.float64))
    return [round(float(p), 6) for p in powers / powers.sum()]


def test_filters_run_in_the_written_order() -> None:
    # Top-p sees what top-k left: 0.5 and 0.3 become 0.625 and 0.375, so that 0.62 is reached by the first alone.
    params = SamplingParams(temperature=1.0, top_k=2, top_p=0.62)
    assert kept(params, 0.5, 0.3, 0.1, 0.1) == [1.0, 0.0, 0.0, 0.0]
    # As in llama.cpp, the temperature comes last: top-p keeps one token of 0.5.
    params = SamplingParams(temperature=2.0, top_p=0.5)
    assert kept(params, 0.5, 0.3, 0.1, 0.1) == [1.0, 0.0, 0.0, 0.0]
    # In the order of transformers and vLLM it comes before top-p: at 2 the first two have 0.41 and 0.32.
    params = SamplingParams(temperature=2.0, top_p=0.5, samplers=TEMPERATURE_FIRST)
    assert kept(params, 0.5, 0.3, 0.1, 0.1) == [0.563508, 0.436492, 0.0, 0.0]
    # A filter that the caller does not name does not run.
    params = SamplingParams(temperature=2.0, top_k=1, top_p=0.1, samplers="temp;top-p")
    assert kept(params, 0.5, 0.3, 0.1, 0.1) == [1.0, 0.0, 0.0, 0.0]
    params = SamplingParams(temperature=2.0, top_k=1, top_p=0.1, samplers=[])
    assert kept(params, 0.5, 0.3, 0.1, 0.1) == [0.5, 0.3, 0.1, 0.1]


def kept(params: SamplingParams, *given: float) -> list[float]:
    return probabilities(apply(make_steps(params), logs(*given), params, NOTHING))


def test_greedy_takes_the_first_of_equals_and_draws_nothing() -> None:
    sampler = Sampler(SamplingParams(), 4)
    assert sampler.sample(row(1, 3, 3, 2), NOTHING) == 1
    assert sampler.params.seed is None
    assert Sampler(SamplingParams(seed=1), 4).uniform(0) == 0.0


def test_greedy_hears_bias_and_penalties() -> None:
    assert Sampler(SamplingParams(logit_bias={0: 9.0}), 4).sample(row(1, 3, 3, 2), NOTHING) == 0
    assert Sampler(SamplingParams(repetition_penalty=2.0), 4).sample(row(1, 3, 1, 2), SEEN) == 3
    assert Sampler(SamplingParams(frequency_penalty=1.5), 4).sample(row(1, 3, 1, 2), SEEN) == 3


def test_the_same_seed_gives_the_same_tokens_and_a_drawn_seed_can_be_used_again() -> None:
    logits = logs(0.1, 0.2, 0.3, 0.4)
    first = Sampler(SamplingParams(temperature=1.0), 4)
    assert first.params.seed is not None
    ids = [first.sample(logits, after(n)) for n in range(50)]
    again = Sampler(SamplingParams(temperature=1.0, seed=first.params.seed), 4)
    assert [again.sample(logits, after(n)) for n in range(50)] == ids
    other = Sampler(SamplingParams(temperature=1.0, seed=(first.params.seed + 1) % 2**53), 4)
    assert [other.sample(logits, after(n)) for n in range(50)] != ids


def test_the_stream_of_a_seed_never_changes() -> None:
    sampler = Sampler(SamplingParams(temperature=1.0, seed=42), 4)
    assert [round(sampler.uniform(n), 6) for n in range(4)] == [0.820198, 0.189246, 0.867661, 0.394581]


def test_a_draw_depends_on_the_seed_and_on_the_number_of_tokens_before_it_alone() -> None:
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((60, 9)).astype(np.float32)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=3), 9)
    ids = [sampler.sample(logits[n], after(n)) for n in range(60)]
    for n in rng.permutation(60).tolist():  # again, in any order, by any sampler, after any other text of that length
        other, history = Sampler(SamplingParams(temperature=1.0, seed=3), 9), History([8], rng.integers(0, 9, n).tolist())
        assert sampler.sample(logits[n], history) == other.sample(logits[n], history) == ids[n]


def test_draws_follow_the_probabilities() -> None:
    wanted = [0.1, 0.2, 0.3, 0.4]
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1), 4)
    counts = np.bincount([sampler.sample(logs(*wanted), after(n)) for n in range(20000)], minlength=4) / 20000
    assert np.abs(counts - wanted).max() < 0.012


def test_a_draw_never_takes_what_was_removed() -> None:
    logits = row(-INF, 0, -INF, 0, -INF)
    assert {draw(logits, u) for u in np.linspace(0, 1 - 2**-53, 99)} == {1, 3}


def test_a_draw_from_a_large_row_is_where_sums_in_float64_pass_the_number() -> None:
    """Also where sums in float32 would leave it open: in flat rows, at the borders of blocks, and after the last token."""
    rng = np.random.default_rng(20261130)
    for number in range(120):
        size, scale = int(rng.choice([1025, 2048, 3000, 20000])), float(rng.choice([0, 0.01, 1, 5]))
        logits = (rng.standard_normal(size) * scale).astype(np.float32)
        logits[rng.random(size) < 0.3] = -INF if number % 2 else -3
        sums = np.cumsum(np.exp(logits - logits.max()), dtype=np.float64)
        borders = (sums[[0, 1023, 1024, size // 2, size - 2]] / sums[-1]).tolist()
        for u in (0.0, 1 - 2**-53, *rng.random(20).tolist(), *(border * (1 - 1e-9) for border in borders)):
            index = draw(logits, u)
            assert logits[index] > -INF
            before = sums[index - 1] if index else 0.0
            assert before * (1 - 1e-12) <= u * sums[-1] <= sums[index] * (1 + 1e-12), f"row {number}: {u}"


@pytest.mark.parametrize("size", [1024, 2048, 3000])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_greatest_number_draws_the_last_token_that_can_be_drawn(size: int, scale: float) -> None:
    logits = (np.random.default_rng(size).standard_normal(size) * scale).astype(np.float32)
    assert draw(logits, 1 - 2**-53) == size - 1
    logits[500:] = -INF
    assert draw(logits, 1 - 2**-53) == 499


@pytest.mark.parametrize("bad", [[1, math.nan, 2, 3], [1, INF, 2, 3], [-INF] * 4, [math.nan] * 4])
def test_logits_that_are_not_finite_are_told(bad: list[float]) -> None:
    for params in (SamplingParams(), SamplingParams(temperature=1.0, top_k=2, seed=1)):
        with pytest.raises(NumericalError, match="not finite"):
            Sampler(params, 4).sample(row(*bad), NOTHING)


def test_minus_infinity_alone_is_no_fault() -> None:
    assert Sampler(SamplingParams(), 4).sample(row(-INF, -INF, 1, -INF), NOTHING) == 2


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


# ---- which filters a request needs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "needed"),
    [
        ({}, []),
        ({"temperature": 1.0, "seed": 4}, ["temperature"]),
        ({"top_k": 5, "top_p": 0.5, "min_p": 0.1}, []),  # greedy sampling needs no cut
        ({"temperature": 1.0, "top_k": 5, "top_p": 0.5, "min_p": 0.1}, ["min_p", "temperature", "top_k", "top_p"]),
        ({"frequency_penalty": -0.5}, ["penalties"]),
        ({"repetition_penalty": 1.1}, ["penalties"]),
        ({"logit_bias": {1: 2.0}}, ["logit_bias"]),
        ({"min_tokens": 3}, ["logit_bias"]),
        ({"suppress_ids": [1]}, ["logit_bias"]),
        ({"begin_suppress_ids": [1]}, ["logit_bias"]),
        ({"max_tokens": 9, "stop": "x", "stop_ids": [3], "ignore_eos": True, "logprobs": 2, "prompt_logprobs": 0}, []),
    ],
    ids=str,
)
def test_a_request_needs_the_filters_whose_fields_it_sets(setting: dict[str, Any], needed: list[str]) -> None:
    assert sorted(Sampler(SamplingParams(**setting), 4).filters) == needed


def test_a_filter_without_fields_is_needed_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "FILTERS", {**FILTERS, "only_two": Filter(only_two, (), is_edit=True)})
    assert needed_filters(SamplingParams()) == ("only_two",)
    assert Sampler(SamplingParams(temperature=5.0), 4).sample(row(9, 1, 1, 1), NOTHING) == 2


def only_two(logits: Row, params: SamplingParams, history: History) -> Row:
    return np.where(np.arange(len(logits)) == 2, logits, np.float32(-INF))


class Reading:
    """Parameters that note which of their fields are read."""

    def __init__(self, **settings: Any) -> None:
        self.params, self.read = SamplingParams(**settings), set[str]()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self.params, name)


TOLD: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 2,
    "top_p": 0.5,
    "min_p": 0.2,
    "typical_p": 0.5,
    "top_n_sigma": 0.5,
    "repetition_penalty": 1.5,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.2,
    "penalty_last_n": 3,
    "xtc_probability": 1.0,
    "xtc_threshold": 0.2,
    "dynatemp_range": 0.2,
    "dry_multiplier": 1.0,
    "mirostat": 2,
    "logit_bias": {1: 2.0},
    "bad_words_ids": [[2, 3]],
    "banned_strings": ["bc"],
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_reads_no_field_but_its_own(name: str) -> None:
    """A device without the filter must know from these fields that a request needs it."""
    reading = Reading(**TOLD | ({"mirostat": 0, "adaptive_target": 0.5} if name == "adaptive_p" else {}))
    made, filter_ = FILTERS[name].make, FILTERS[name]
    step: Any = filter_.step if made is None else made(reading, Letters())  # type: ignore[arg-type]
    step(row(1, 2, 3, 4), reading, SEEN)
    assert reading.read and reading.read <= {*filter_.fields, *filter_.details}


class Letters:
    """A tokenizer of four letters."""

    vocab_size = 4

    def token_bytes(self, token_id: int) -> bytes:
        return b"abcd"[token_id : token_id + 1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalty_that_passes_the_largest_number_is_told(temperature: float) -> None:
    with pytest.raises(NumericalError, match="not finite"):
        Sampler(SamplingParams(temperature=temperature, repetition_penalty=0.5), 4).sample(row(3e38, 1, 2, 3), SEEN)


def test_an_id_that_is_suppressed_is_not_forced_by_a_bias_and_its_log_probability_is_the_models() -> None:
    sampler = Sampler(SamplingParams(suppress_ids=[1], logit_bias={1: 1e30}), 4)
    assert sampler.sample(row(1, 30, 3, 2), NOTHING) == 2
    with pytest.raises(UsageError, match=r"suppress_ids names id 4; the vocabulary has ids 0\.\.3"):
        Sampler(SamplingParams(suppress_ids=[4]), 4)


def test_more_ids_than_a_device_takes_are_refused_with_what_they_are() -> None:
    params = SamplingParams(suppress_ids=range(1000), logit_bias=dict.fromkeys(range(1000, 1100), 1.0))
    with pytest.raises(UsageError, match="1100 ids together; at most 1024"):
        Sampler(params, 2000)


def test_a_vocabulary_of_suppressed_ids_is_refused() -> None:
    with pytest.raises(UsageError, match="name all 4 ids"):
        Sampler(SamplingParams(suppress_ids=[0, 1, 2], begin_suppress_ids=[3]), 4)


# ---- distributions ----------------------------------------------------------------------------------------------------

WEIGHTS = np.array([30, 22, 15, 10, 8, 5, 4, 3, 1.5, 1, 0.4, 0.1])
SHARES = WEIGHTS / WEIGHTS.sum()
NUM_DRAWS = 100_000


def scaled(shares: Any, kept: Any) -> Any:
    """The probabilities of the tokens that are kept."""
    left = np.where(kept, shares, 0.0)
    return left / left.sum()


def surprise_from_entropy() -> Any:
    return np.abs(-np.log(SHARES) + (SHARES * np.log(SHARES)).sum())


def adapted(target: float) -> Any:
    distances = np.abs(SHARES - target) / 0.3
    powers = np.exp(-10 * distances**2 / (1 + distances))
    return powers / powers.sum()


EVERY = np.ones(12, bool)
TYPICAL = np.isin(np.arange(12), np.argsort(surprise_from_entropy())[:5])
DISTRIBUTIONS: list[tuple[dict[str, Any], Any]] = [
    ({}, SHARES),
    ({"temperature": 0.5}, scaled(SHARES**2, EVERY)),
    ({"temperature": 2.0}, scaled(SHARES**0.5, EVERY)),
    ({"top_k": 4}, scaled(SHARES, np.arange(12) < 4)),
    ({"top_p": 0.8}, scaled(SHARES, np.cumsum(SHARES) < 0.87)),
    (
        {"top_p": 0.8, "temperature": 2.0, "samplers": TEMPERATURE_FIRST},
        scaled(SHARES**0.5, np.cumsum(scaled(SHARES**0.5, EVERY)) < 0.84),
    ),
    ({"min_p": 0.12}, scaled(SHARES, 0.12 * SHARES[0] <= SHARES)),
    ({"typical_p": float(SHARES[TYPICAL].sum()) - 0.001}, scaled(SHARES, TYPICAL)),
    ({"top_n_sigma": 1.0}, scaled(SHARES, np.log(SHARES) >= np.log(SHARES[0]) - np.log(SHARES).std())),
    ({"xtc_probability": 0.4, "xtc_threshold": 0.12}, 0.6 * SHARES + 0.4 * scaled(SHARES, np.arange(12) >= 2)),
    ({"logit_bias": {0: -2.0}}, scaled(SHARES * np.where(np.arange(12) == 0, math.exp(-2), 1), EVERY)),
    ({"mirostat": 2, "mirostat_tau": 1.5}, scaled(SHARES, -np.log2(SHARES) <= 3)),  # of the first token
    ({"adaptive_target": 0.1, "adaptive_decay": 0.5}, adapted(0.1)),
]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize(("settings", "expected"), DISTRIBUTIONS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_100_000_draws_have_the_distribution_that_the_filters_leave(settings: dict[str, Any], expected: Any) -> None:
    """Chi-square: a value that a right sampler exceeds once in 10,000 times (Wilson and Hilferty's approximation)."""
    params, logits = SamplingParams(**{"temperature": 1.0, "seed": 7} | settings), np.log(SHARES).astype(np.float32)
    sampler = Sampler(params, 12)
    sampler._stateful = []  # a state stays that of the first token
    drawn = [sampler.sample(logits, after(n)) for n in range(NUM_DRAWS)]
    counts, possible = np.bincount(drawn, minlength=12), expected > 0
    assert counts[~possible].sum() == 0, counts
    wanted, freedom = expected[possible] * NUM_DRAWS, int(possible.sum()) - 1
    statistic = float(((counts[possible] - wanted) ** 2 / wanted).sum())
    limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3
    print(f"seed 7, {settings}: chi-square {statistic:.1f} with {freedom} degrees of freedom, limit {limit:.1f}")
    assert statistic < limit
