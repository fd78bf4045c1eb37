"""Each filter's exact result on a row of four, its state, and which fields switch it on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from puna import filters
from puna.errors import UsageError
from puna.filters import AdaptiveP, Mirostat, States, effective, needed_filters, without_effect
from puna.history import History, Row
from puna.philox import uniform
from puna.request import SamplingParams
from puna.sampling import Sampler

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


DYNAMIC = {"temperature": 1.0, "dynatemp_range": 0.5}
EIGHTHS = row(3, 2, 1, 1) * np.float32(math.log(2))
A_HALF, A_QUARTER, AN_EIGHTH, _ = EIGHTHS.tolist()

# filter, its setting, logits, history, exact result
TABLE: list[tuple[str, dict[str, Any], Row, History, list[float]]] = [
    ("logit_bias", {}, row(1, 2, 3, 4), SEEN, [1, 2, 3, 4]),
    ("logit_bias", {"logit_bias": {1: 10.0, 3: -4.0}}, row(1, 2, 3, 4), SEEN, [1, 12, 3, 0]),
    ("logit_bias", {"logit_bias": {0: -100.0}}, row(-INF, 2, 3, 4), SEEN, [-filters.LARGEST, 2, 3, 4]),
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
    ("penalties", {"repetition_penalty": 2.0, "penalty_last_n": 2}, row(2, 2, 4, 4), SEEN, [2, 1, 2, 4]),
    ("penalties", {"repetition_penalty": 2.0, "penalty_last_n": 4}, row(2, 2, 4, 4), SEEN, [1, 1, 2, 4]),
    ("penalties", {"frequency_penalty": 0.5, "penalty_last_n": 2}, row(1, 2, 3, 4), SEEN, [1, 1.5, 2.5, 4]),
    ("penalties", {"presence_penalty": 0.5, "penalty_last_n": 0}, row(1, 2, 3, 4), SEEN, [1, 2, 3, 4]),
    ("top_n_sigma", {"top_n_sigma": 1.0}, row(0, 2, 4, 6), NOTHING, [-INF, -INF, 4, 6]),  # the deviation is 2.236
    ("top_n_sigma", {"top_n_sigma": 2.0}, row(0, 2, 4, 6), NOTHING, [-INF, 2, 4, 6]),
    ("top_n_sigma", {"top_n_sigma": 1.0}, row(-1e30, 2, 4, -INF), NOTHING, [-INF, -INF, 4, -INF]),  # of the two others: 1
    ("top_n_sigma", {"top_n_sigma": 1.0}, row(3, 3, 3, 3), NOTHING, [3, 3, 3, 3]),
    # The entropy of 1/2, 1/4, 1/8, 1/8 is 1.75 bits: 1/4, with 2 bits, is nearest, then 1/2, with 1, then 1/8, with 3.
    ("typical_p", {"typical_p": 0.2}, EIGHTHS, NOTHING, [-INF, A_QUARTER, -INF, -INF]),
    ("typical_p", {"typical_p": 0.3}, EIGHTHS, NOTHING, [A_HALF, A_QUARTER, -INF, -INF]),
    ("typical_p", {"typical_p": 0.76}, EIGHTHS, NOTHING, [A_HALF, A_QUARTER, AN_EIGHTH, -INF]),
    ("typical_p", {"typical_p": 0.0}, EIGHTHS, NOTHING, [-INF, A_QUARTER, -INF, -INF]),
    ("typical_p", {"typical_p": 0.5}, row(-INF, -INF, 5, -INF), NOTHING, [-INF, -INF, 5, -INF]),
    # Probabilities 1/2, 1/4, 1/8, 1/8: of those above the threshold the least likely stays, of equal ones the last.
    ("xtc", {"xtc_probability": 1.0, "xtc_threshold": 0.2}, row(3, 2, 1, 1), NOTHING, [-INF, 2, 1, 1]),
    ("xtc", {"xtc_probability": 1.0, "xtc_threshold": 0.05}, row(3, 2, 2, 2), NOTHING, [-INF, -INF, -INF, 2]),
    ("xtc", {"xtc_probability": 1.0, "xtc_threshold": 0.5}, row(9, 2, 1, 1), NOTHING, [9, 2, 1, 1]),  # only one is likely
    ("xtc", {"xtc_probability": 0.0, "xtc_threshold": 0.05}, row(3, 2, 1, 1), NOTHING, [3, 2, 1, 1]),
    ("dynamic_temperature", DYNAMIC, row(2, 2, 2, 2), NOTHING, [0, 0, 0, 0]),
    ("dynamic_temperature", DYNAMIC, row(0, 0, -INF, -3000), NOTHING, [0, 0, -INF, -2000]),
    (
        "dynamic_temperature",
        {"temperature": 1.0, "dynatemp_range": 0.5},
        row(0, -900, -INF, -INF),
        NOTHING,
        [0, -1800, -INF, -INF],
    ),
    ("bad_words", {"bad_words_ids": [[1]]}, row(1, 2, 3, 4), SEEN, [1, -INF, 3, 4]),
    ("bad_words", {"bad_words_ids": [[1, 2, 0], [0, 3], [2, 3]]}, row(1, 2, 3, 4), SEEN, [-INF, 2, 3, -INF]),
    ("bad_words", {"bad_words_ids": [[9, 0, 1, 1, 2, 3]]}, row(1, 2, 3, 4), SEEN, [1, 2, 3, 4]),  # longer than the text
    ("bad_words", {"bad_words_ids": [[0, 1, 1, 2, 3]]}, row(1, 2, 3, 4), SEEN, [1, 2, 3, -INF]),  # begins in the prompt
]


@pytest.mark.parametrize(("name", "setting", "logits", "history", "expected"), TABLE)
def test_a_filter_gives_exactly_this(
    name: str, setting: dict[str, Any], logits: Row, history: History, expected: list[float]
) -> None:
    before = logits.copy()
    step = getattr(filters, name)
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
    result = filters.top_p(logits, SamplingParams(top_p=p), NOTHING)
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
        kept = np.flatnonzero(filters.top_p(logits, SamplingParams(top_p=p), NOTHING) > -INF)
        assert abs(len(kept) - count) <= 1
        assert set(kept) == set(order[: len(kept)])


def hard_rows(rng: np.random.Generator) -> Iterator[Row]:
    """Rows that are sharp, flat, full of ties, mostly removed, half suppressed, or far from 0; short and long ones."""
    for number in range(240):
        size = int(rng.choice([1, 2, 9, 255, 512, 513, 1024, 2049, 5000, 20000][: 10 if number % 8 == 0 else 8]))
        logits = (rng.standard_normal(size) * rng.choice([0, 0.01, 0.3, 3, 30])).astype(np.float32)
        changes: list[Row] = [
            logits,
            logits.round(),
            np.where(rng.random(size) < 0.9, np.float32(-INF), logits),
            np.where(rng.random(size) < 0.5, np.float32(filters.SUPPRESSED), logits),
            logits + np.float32(1e4),
        ]
        changed = changes[number % len(changes)]
        changed[int(rng.integers(size))] = 4.0
        yield changed


PLAIN: dict[str, Callable[[Row, float], npt.NDArray[Any]]] = {  # the ids that stay, by a full sort and sums in float64
    "top_k": lambda logits, k: np.argsort(-logits, kind="stable")[: int(k)],
    "top_p": lambda logits, p: first_reaching(-logits, logits, p, "left"),
    "typical_p": lambda logits, p: first_reaching(surprise(logits), logits, p, "right"),
    "min_p": lambda logits, p: np.flatnonzero(np.exp(logits - logits.max()) >= np.float32(p)),
}


def first_reaching(keys: Row, logits: Row, p: float, side: Literal["left", "right"]) -> npt.NDArray[Any]:
    order, masses = np.argsort(keys, kind="stable"), np.exp(logits - logits.max())
    total = masses.sum(dtype=np.float64)
    return order[: int(np.searchsorted(np.cumsum(masses[order], dtype=np.float64), p * total, side=side)) + 1]


def surprise(logits: Row) -> Row:
    shifted = logits - logits.max()
    masses = np.exp(shifted)
    mean = (masses * np.maximum(shifted, -filters.LARGEST)).sum(dtype=np.float64) / masses.sum(dtype=np.float64)
    return np.asarray(np.abs(shifted - np.float32(mean)))


@pytest.mark.parametrize("name", PLAIN)
def test_no_short_cut_keeps_other_ids_than_a_full_sort(name: str) -> None:
    rng = np.random.default_rng(20261130)
    for number, logits in enumerate(hard_rows(rng)):
        few = [0.0, 1e-6, 0.5, 0.95, 0.999]
        value = int(rng.choice([1, 7, 40, 300, 1000])) if name == "top_k" else float(rng.choice([*few, rng.random()]))
        if name == "min_p" and value == 0:
            continue
        settings: dict[str, Any] = {name: value}
        params, keeps = SamplingParams(**settings), filters.FILTERS[name].keeps
        assert keeps is not None
        expected = np.full_like(logits, -INF)
        stay = PLAIN[name](logits, value)
        expected[stay] = logits[stay]
        row = getattr(filters, name)(logits, params, NOTHING)
        assert np.array_equal(row, expected), f"row {number}: {name} {value}"
        ids = keeps(logits, params)
        assert ids is None or np.array_equal(ids[logits[ids] > -INF], np.flatnonzero(expected > -INF)), (
            f"row {number}: {name} {value}"
        )


def test_min_p_drops_what_is_much_less_likely_than_the_best() -> None:
    result = filters.min_p(logs(0.8, 0.1, 0.05, 0.05), SamplingParams(min_p=0.1), NOTHING)
    assert probabilities(result) == [0.888889, 0.111111, 0.0, 0.0]


# ---- what is drawn and what is remembered -----------------------------------------------------------------------------


def test_xtc_excludes_as_often_as_it_is_told_by_numbers_of_its_own() -> None:
    params = SamplingParams(xtc_probability=0.3, xtc_threshold=0.1, seed=5, temperature=1.0)
    logits, count = logs(0.5, 0.5, 0, 0), 4000
    excluded = [filters.xtc(logits, params, History([], range(n)))[0] == -INF for n in range(count)]
    assert abs(sum(excluded) / count - 0.3) < 0.025
    drawn = [uniform(5, n) < 0.3 for n in range(count)]
    assert abs(float(np.corrcoef(excluded, drawn)[0, 1])) < 0.06, "independent of the numbers that draw the tokens"


def test_a_state_is_that_of_the_tokens_before_whatever_was_sampled_beyond() -> None:
    states = States((1.0,))
    states.set_after(0, (2.0,))
    states.set_after(1, (3.0,))
    states.set_after(2, (4.0,))
    assert [states.before(i) for i in range(5)] == [(1.0,), (2.0,), (3.0,), (4.0,), (4.0,)]
    states.set_after(1, (7.0,))  # the second token is sampled again
    assert states.before(1) == (2.0,) and states.before(2) == (7.0,) and states.before(3) == (7.0,)
    states.set_after(4, (9.0,))  # two tokens were accepted without being sampled
    assert states.before(3) == (7.0,) and states.before(5) == (9.0,)


@pytest.mark.parametrize(
    "settings",
    [{"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5}, {"adaptive_target": 0.3}, {"xtc_probability": 0.5}],
    ids=str,
)
def test_a_token_that_is_sampled_again_is_the_same_and_guesses_that_were_rejected_leave_no_trace(
    settings: dict[str, Any],
) -> None:
    rng = np.random.default_rng(8)
    logits = (rng.standard_normal((30, 50)) * 2).astype(np.float32)
    params = SamplingParams(temperature=1.2, seed=3, **settings)
    plain, guessing, ids = Sampler(params, 50), Sampler(params, 50), list[int]()
    for n in range(30):
        for ahead in range(n, min(n + int(rng.integers(0, 4)), 30)):  # rows of a draft that is rejected after `n`
            guess = [*ids, *rng.integers(0, 50, ahead - n).tolist()]
            guessing.sample(logits[ahead] if ahead == n else rng.permuted(logits[ahead]), History([], guess))
        ids.append(plain.sample(logits[n], History([], ids)))
        assert guessing.sample(logits[n], History([], ids[:n])) == ids[n]


def test_mirostat_holds_the_mean_surprise_at_its_target() -> None:
    rng = np.random.default_rng(2)
    for tau in (1.5, 3.0):
        params = SamplingParams(temperature=1.0, mirostat=2, mirostat_tau=tau, mirostat_eta=0.2, seed=1)
        sampler, mirostat, surprises, ids = Sampler(params, 1000), Mirostat(params), list[float](), list[int]()
        for _ in range(600):
            logits, history = (rng.standard_normal(1000) * 2.5).astype(np.float32), History([], ids)
            kept = mirostat(logits, params, history)
            token_id = sampler.sample(logits, history)
            mirostat.accept(kept, token_id, history)
            powers = np.exp((kept - kept.max()).astype(np.float64))
            surprises.append(-math.log2(powers[token_id] / powers.sum()))
            ids = [*ids, token_id]
        assert abs(float(np.mean(surprises[100:])) - tau) < 0.15


def test_adaptive_p_prefers_what_is_near_its_target_and_never_draws_what_was_removed() -> None:
    adaptive, params = AdaptiveP(SamplingParams(adaptive_target=0.2)), SamplingParams(adaptive_target=0.2)
    adapted = adaptive(logs(0.5, 0.2, 0.3, 0.0), params, NOTHING)
    assert adapted.tolist() == pytest.approx([0.0, 5.0, 25 / 6, -INF], abs=1e-6)
    adaptive.accept(adapted, 0, NOTHING)  # 0.5 was drawn: the next target is lower
    assert list(adaptive.states.before(1)) == pytest.approx([0.5 + 0.9 * 2.0, 10.0])
    assert adaptive(logs(0.5, 0.2, 0.3, 0.0), params, History([], [0])).argmax() == 1


# ---- which filters run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9}, ["top_k", "typical_p", "top_p", "min_p", "temperature"]),
        ({"xtc_probability": 0.5, "top_n_sigma": 1.0, "dry_multiplier": 1.0}, ["dry", "top_n_sigma", "xtc", "temperature"]),
        ({"presence_penalty": 1.0, "penalty_last_n": 0, "dry_multiplier": 1.0, "dry_penalty_last_n": 0}, ["temperature"]),
        ({"dynatemp_range": 0.5, "top_k": 2}, ["top_k", "dynamic_temperature"]),
        ({"mirostat": 2, "top_k": 2, "typical_p": 0.4, "repetition_penalty": 1.1}, ["penalties", "temperature", "mirostat"]),
        ({"adaptive_target": 0.5, "min_p": 0.1}, ["min_p", "temperature", "adaptive_p"]),
        ({"banned_strings": "x", "bad_words_ids": [[1]], "logit_bias": {2: 1.0}, "top_k": 1, "samplers": "temp,top-k"},
         ["logit_bias", "bad_words", "banned_strings", "temperature", "top_k"]),
        ({"top_k": 3, "temperature": 0.0, "xtc_probability": 1.0, "frequency_penalty": 0.1}, ["penalties"]),
        ({"top_k": 3, "repetition_penalty": 2.0, "samplers": ["typ_p", "top_k", "penalties"]}, ["top_k", "penalties"]),
    ],
    ids=str,
)  # fmt: skip
def test_filters_run_in_llama_cpps_order_or_the_callers(settings: dict[str, Any], names: list[str]) -> None:
    params = SamplingParams(**{"temperature": 0.7, "seed": 1} | settings)
    assert list(needed_filters(params)) == names


def test_what_does_not_run_is_at_its_default_for_a_device() -> None:
    params = SamplingParams(temperature=0.7, top_k=3, top_p=0.5, repetition_penalty=2.0, samplers=["top_p"], seed=1)
    assert effective(params) == SamplingParams(temperature=1.0, top_p=0.5, samplers=["top_p"], seed=1)
    same = SamplingParams(temperature=0.7, top_k=3, seed=1)
    assert effective(same) is same


@pytest.mark.parametrize(
    ("settings", "given", "told"),
    [
        ({"temperature": 0.0}, ["top_p", "seed"], dict.fromkeys(["top_p", "seed"], "at temperature 0: sampling is greedy")),
        ({"temperature": 0.0, "repetition_penalty": 1.2}, ["repetition_penalty", "temperature", "stop"], {}),
        ({"temperature": 1.0, "mirostat": 2, "top_k": 4}, ["mirostat", "top_k"], {"top_k": "beside mirostat"}),
        ({"temperature": 1.0, "top_k": 4, "samplers": ["temp"]}, ["top_k"], {"top_k": "because samplers does not name top_k"}),
        ({"temperature": 1.0, "dry_base": 3.0}, ["dry_base"], {"dry_base": "without dry_multiplier"}),
        ({"temperature": 1.0, "top_k": 0}, ["top_k", "seed", "max_tokens"], {}),
        ({"temperature": 1.0, "penalty_last_n": 9}, ["penalty_last_n"], {"penalty_last_n": "without repetition_penalty"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_an_effect_is_told_with_the_reason(
    settings: dict[str, Any], given: list[str], told: dict[str, str]
) -> None:
    assert dict(without_effect(SamplingParams(**settings), given)) == told


def test_two_filters_that_both_choose_are_refused() -> None:
    with pytest.raises(UsageError, match="mirostat and adaptive_target both choose"):
        SamplingParams(temperature=1.0, mirostat=2, adaptive_target=0.5)


SETTINGS_OF_DRAWS: list[dict[str, Any]] = [
    {"top_n_sigma": 1.0}, {"top_k": 1}, {"typical_p": 0.5}, {"top_p": 0.5}, {"min_p": 0.5},
    {"xtc_probability": 1.0, "xtc_threshold": 0.01}, {"dynatemp_range": 0.5}, {"mirostat": 2}, {"adaptive_target": 0.3},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS_OF_DRAWS, ids=str)
@pytest.mark.parametrize("ids", [[2], [2, 3]], ids=str)
def test_where_only_suppressed_tokens_are_left_one_of_them_is_taken(settings: dict[str, Any], ids: list[int]) -> None:
    """A form may allow nothing else. The constraint then says so: it knows which one had to follow."""
    row = np.full(9, -np.inf, np.float32)
    row[ids] = 5.0
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1, suppress_ids=ids, **settings), len(row), frozenset())
    assert sampler.sample(row, History([1], [])) in ids
