"""A step's data: the arrays of chunks and their parts, and what a device needs to sample as the host does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from puna.batch import Batch, Computed, IntArray, LogitEdits, SamplingBatch
from puna.filters import FILTERS
from puna.request import PLACEHOLDER, SamplingParams
from puna.sampling import History, Sampler
from tests.fakes import chunk_of


def example() -> Batch:
    """A prompt's beginning, a generated token, and the middle of a prompt."""
    return Batch.of(
        [
            chunk_of([10, 11, 12], 0, [4], num_logits=1, prompt_length=3),
            chunk_of([13], 7, [2, 6], num_logits=1, prompt_length=7),
            chunk_of([14, 15, 16, 17, 18], 3, [1], num_logits=2, prompt_length=9),
        ]
    )


def test_chunks_become_ragged_arrays() -> None:
    batch = example()
    assert batch.token_ids.tolist() == list(range(10, 19))
    assert batch.positions.tolist() == [0, 1, 2, 7, 3, 4, 5, 6, 7]
    assert batch.starts.tolist() == [0, 3, 4, 9]
    assert batch.page_tables.tolist() == [[4, -1], [2, 6], [1, -1]]
    assert batch.logit_rows.tolist() == [2, 3, 7, 8]
    assert batch.prompt_lengths.tolist() == [3, 7, 9]
    assert {getattr(batch, field.name).dtype for field in dataclasses.fields(batch)} == {np.dtype(np.int32)}


def test_what_follows_from_a_batch_is_computed_once() -> None:
    batch = example()
    assert batch.sequences.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2] and batch.sequences is batch.sequences
    assert batch.row_prompt_lengths.tolist() == [3, 3, 3, 7, 9, 9, 9, 9, 9]
    assert batch.is_prompt.tolist() == [True, True, True, False, True, True, True, True, True]
    assert batch.is_prompt is batch.is_prompt


def test_logits_are_split_by_sequence() -> None:
    logits = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert [part.tolist() for part in example().by_sequence(logits)] == [[[0, 1]], [[2, 3]], [[4, 5], [6, 7]]]
    silent = Batch.of([chunk_of([1, 2], 0, [0], 0, prompt_length=5), chunk_of([3], 0, [1], 1, prompt_length=1)])
    assert [len(part) for part in silent.by_sequence(logits[:1])] == [0, 1]


def test_some_rows_are_a_batch_of_their_sequences() -> None:
    part = example().rows(np.array([3, 6, 7]))
    assert part.token_ids.tolist() == [13, 16, 17] and part.positions.tolist() == [7, 5, 6]
    assert part.starts.tolist() == [0, 1, 3] and part.page_tables.tolist() == [[2, 6], [1, -1]]
    assert part.logit_rows.tolist() == [0, 2] and part.prompt_lengths.tolist() == [7, 9]


@pytest.mark.parametrize("at", range(1, 9))
def test_two_parts_hold_all_rows_once(at: int) -> None:
    batch = example()
    seen, wanted = [], []
    for first, part in zip((0, at), batch.split(at), strict=True):
        lengths = np.diff(part.starts)
        assert part.starts[0] == 0 and part.starts[-1] == len(part.token_ids) and lengths.min() > 0
        assert len(part.page_tables) == len(part.prompt_lengths) == len(lengths)
        pages = part.page_tables[part.sequences, 0]
        seen += list(zip(part.token_ids.tolist(), part.positions.tolist(), pages.tolist(), strict=True))
        wanted += (part.logit_rows + first).tolist()
    assert seen == list(zip(range(10, 19), batch.positions.tolist(), [4, 4, 4, 2, 1, 1, 1, 1, 1], strict=True))
    assert wanted == batch.logit_rows.tolist()


def test_hidden_rows_follow_their_tokens_into_parts() -> None:
    batch = dataclasses.replace(example(), hidden_rows=np.array([1, 2, 5, 8], np.int32))
    ids = batch.token_ids[batch.hidden_rows].tolist()
    for at in range(1, 9):
        first, second = batch.split(at)
        assert [int(part.token_ids[row]) for part in (first, second) for row in part.hidden_rows] == ids
    part = batch.rows(np.array([2, 4, 5, 6]))
    assert part.token_ids[part.hidden_rows].tolist() == [12, 15]


def test_the_rows_that_pad_a_batch_are_copies_of_the_one_that_sees_least() -> None:
    pieces = [(7, 30, [4, 2], 3), (8, 5, [1], 2), (9, 20, [3, 6], 1)]
    batch = Batch.of([chunk_of([i], at, pages, num_logits=1, prompt_length=length) for i, at, pages, length in pieces])
    whole, least = batch.padded(5, 3)
    assert least == 1
    assert whole.token_ids.tolist() == [7, 8, 9, 8, 8] and whole.positions.tolist() == [30, 5, 20, 5, 5]
    assert whole.page_tables.tolist() == [[4, 2, -1], [1, -1, -1], [3, 6, -1], [1, -1, -1], [1, -1, -1]]
    assert whole.starts.tolist() == [0, 1, 2, 3, 4, 5] and whole.logit_rows.tolist() == [0, 1, 2, 3, 4]
    assert whole.prompt_lengths.tolist() == [3, 2, 1, 2, 2]
    assert batch.padded(4, 1)[0].page_tables.tolist() == [[4], [1], [3], [1]], "as wide as is read"


def test_a_placeholder_names_its_place_among_the_ids_of_the_step_before() -> None:
    batch = example()
    assert batch.sources([5, 6, 7]).tolist() == [-1] * 9, "all ids are known"
    in_flight = dataclasses.replace(batch, token_ids=np.where(batch.positions == 7, PLACEHOLDER, batch.token_ids))
    assert in_flight.sources([-1, 0, 1]).tolist() == [-1, -1, -1, 0, -1, -1, -1, -1, 1]


def test_logits_that_are_there_are_no_tokens() -> None:
    with pytest.raises(NotImplementedError, match="host samples"):
        Computed(np.zeros((1, 4), np.float32)).token_ids()


# ---- how a device samples -------------------------------------------------------------------------------------------


def batch_of(samplers: list[Sampler], histories: list[History], sources: IntArray) -> SamplingBatch:
    """Of sequences of one token each."""
    return SamplingBatch.of(samplers, histories, sources, np.arange(len(samplers), dtype=np.int32))


def test_a_sampling_batch_describes_filters_that_exist() -> None:
    assert FILTERS.keys() >= SamplingBatch.FILTERS
    assert all(set(order) == SamplingBatch.FILTERS for order in SamplingBatch.ORDERS)


def test_who_changes_no_logits_makes_no_edits() -> None:
    samplers = [Sampler(SamplingParams(temperature=t, top_k=5, top_p=0.5, min_p=0.1), 4) for t in (0.0, 1.0)]
    assert LogitEdits.of(samplers, [History([0], [1, 1, 2])] * 2, np.full(2, -1, np.int32)) is None


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_token_that_is_sampled_by_a_sampling_batch_is_the_samplers_own(temperature: float) -> None:
    """Over a whole text: each id is sampled by a description that knows the last one by its place only."""
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
    last: list[int] = []
    read, whole = ([History([1, 2], []) for _ in params] for _ in range(2))
    for _ in range(40):
        batch = batch_of(samplers, read, sources)
        logits = (rng.standard_normal((6, 20)) * 2).astype(np.float32)
        latest = [batch.sample_row(i, each, last) for i, each in enumerate(logits)]
        assert latest == [sampler.sample(*each) for sampler, *each in zip(alone, logits, whole, strict=True)]
        for i, token_id in enumerate(latest):
            read[i] = whole[i]
            whole[i] = History([1, 2], [*whole[i].output_ids, token_id])
        assert latest[3] not in (1, 3) and (len(whole[3].output_ids) > 9 or latest[3] != 4)
        last, sources = latest, np.arange(6, dtype=np.int32)
