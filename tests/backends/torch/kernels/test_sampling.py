"""`kernels/sampling.py` against `puna/sampling.py`, row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from puna import sampling
from puna.batch import IntArray, LogitEdits, SamplingBatch
from puna.errors import NumericalError
from puna.filters import make_steps
from puna.request import TEMPERATURE_FIRST, SamplingParams
from puna.sampling import History, Row
from tests.backends.torch import interpreter

interpreter.require()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter and numbers that are not finite

from puna.backends.torch import plain  # noqa: E402
from puna.backends.torch.kernels import sampling as on_device  # noqa: E402
from puna.backends.torch.staging import upload  # noqa: E402

VOCAB_SIZE = 100
NO_IDS = torch.zeros(1, dtype=torch.int32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "BLOCK", 64)
    monkeypatch.setattr(on_device, "PIECE", 16)


def rows(count: int, seed: int = 0) -> Row:
    """Logits with many equal ones, some of them -inf."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((count, VOCAB_SIZE)) * 3).round(1).astype(np.float32)
    logits[rng.random(logits.shape) < 0.05] = -np.inf
    return logits


def is_finite(row: Row) -> bool:
    try:
        sampling.require_finite(row)
    except NumericalError:
        return False
    return True


def test_argmax_takes_the_first_of_equals_and_flags_what_the_host_refuses() -> None:
    logits = rows(8)
    logits[0, [3, 70, 99]] = 50
    logits[1, [70, 99]] = 50
    logits[2, 99] = 50
    logits[3, 90], logits[4, 90], logits[5] = np.nan, np.inf, -np.inf
    ids, finite = on_device.argmax(torch.from_numpy(logits))
    assert finite.tolist() == [is_finite(row) for row in logits]
    assert [i for i, good in zip(ids.tolist(), finite.tolist(), strict=True) if good] == [
        int(row.argmax()) for row in logits if is_finite(row)
    ]


# ---- edits ------------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A request when it samples."""

    params: SamplingParams
    prompt: list[int]
    output: list[int]
    last: int = -1  # an id of the output that nobody has read yet

    @property
    def history(self) -> History:
        return History(self.prompt, self.output if self.last < 0 else [*self.output, self.last])


EDITED = [
    Case(SamplingParams(repetition_penalty=1.3), [5, 9, 9, 99], []),
    Case(SamplingParams(repetition_penalty=0.7, presence_penalty=0.3, frequency_penalty=0.1), [5, 9, 9, 99], [9, 9, 9, 70]),
    Case(SamplingParams(presence_penalty=-2.0), [5, 9, 9, 99], [0]),
    Case(SamplingParams(frequency_penalty=0.7, presence_penalty=1e-3), [5], [3, 3, 4], last=3),  # which occurred before
    Case(
        SamplingParams(frequency_penalty=0.7, presence_penalty=0.1), [5], [3, 3, 4], last=5
    ),  # in the prompt, which is not counted
    Case(SamplingParams(repetition_penalty=1.1, presence_penalty=0.1), [5], [3, 3, 4], last=5),  # and here it is
    Case(SamplingParams(repetition_penalty=1.1), [99], [], last=0),
    Case(SamplingParams(presence_penalty=1.1), [99], [], last=0),  # all that is known
    Case(SamplingParams(repetition_penalty=1.2, frequency_penalty=0.2), list(range(16)), [20], last=16),  # a piece that is full
    Case(SamplingParams(repetition_penalty=1.2), list(range(VOCAB_SIZE)), [99] * 40, last=98),
    Case(SamplingParams(logit_bias={0: 5.0, 99: -100.0, 50: 1e300, 51: -1e300}), [1], [2], last=3),
    Case(SamplingParams(logit_bias={i: i / 7 - 3 for i in range(33)}, repetition_penalty=1.4), [1, 40], [2, 32], last=3),
    Case(SamplingParams(logit_bias={7: 0.1, 8: 0.1}, frequency_penalty=0.3), [7], [7, 8, 7], last=8),
    Case(SamplingParams(), [1, 2], [3], last=3),  # takes its row as it is
]


def sources_of(cases: list[Case]) -> IntArray:
    """The last id of each case stands at its own place among the ids of the step before."""
    return np.array([-1 if case.last < 0 else i for i, case in enumerate(cases)], np.int32)


def batch_of(samplers: list[sampling.Sampler], histories: list[History], sources: IntArray) -> SamplingBatch:
    """Of sequences of one token each."""
    return SamplingBatch.of(samplers, histories, sources, np.arange(len(samplers), dtype=np.int32))


def edits_of(cases: list[Case], vocab_size: int = VOCAB_SIZE) -> LogitEdits:
    samplers = [sampling.Sampler(case.params, vocab_size) for case in cases]
    histories = [History(case.prompt, case.output) for case in cases]
    edits = LogitEdits.of(samplers, histories, sources_of(cases))
    assert edits is not None
    return edits


def last_ids(cases: list[Case]) -> torch.Tensor:
    return torch.tensor([max(case.last, 0) for case in cases], dtype=torch.int32)


def edit(logits: Row, edits: LogitEdits, last_ids: torch.Tensor = NO_IDS) -> tuple[Row, list[bool]]:
    edited = torch.from_numpy(logits.copy())
    sound = on_device.edit(edited, last_ids, **upload(on_device._edits(edits), edited.device))
    return edited.numpy(), sound.tolist()


def edited_by_host(logits: Row, cases: list[Case]) -> Row:
    edits = [[bound for bound in make_steps(case.params) if bound.is_edit] for case in cases]
    given = zip(edits, logits, cases, strict=True)
    return np.stack([sampling.apply(each, row, case.params, case.history) for each, row, case in given])


def test_edits_are_the_hosts_bit_for_bit_and_leave_other_rows_alone() -> None:
    logits = rows(len(EDITED), seed=4)
    found, sound = edit(logits, edits_of(EDITED), last_ids(EDITED))
    assert np.array_equal(found.view(np.int32), edited_by_host(logits, EDITED).view(np.int32)) and all(sound)


@pytest.mark.parametrize("seed", range(3))
def test_edits_of_many_ids_are_the_hosts_bit_for_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 biases, histories of up to 3,000 ids, at the sizes that a card works with."""
    monkeypatch.setattr(on_device, "PIECE", 1024)
    rng, vocab_size = np.random.default_rng(seed), 1537
    cases = [
        Case(
            SamplingParams(
                repetition_penalty=float(rng.uniform(0.5, 2)),
                presence_penalty=float(rng.uniform(-2, 2)),
                frequency_penalty=float(rng.uniform(-1, 1)),
                logit_bias=dict.fromkeys(rng.permutation(vocab_size)[:num_biases].tolist(), float(rng.uniform(-100, 100))),
            ),
            rng.integers(0, vocab_size, int(rng.integers(1, 3000))).tolist(),
            rng.zipf(1.3, int(rng.integers(0, 3000))).clip(0, vocab_size - 1).tolist(),
            last=int(rng.integers(0, vocab_size)),
        )
        for num_biases in (0, 1, 1023, 1024)
    ]
    logits = rng.standard_normal((len(cases), vocab_size), np.float32) * 9
    found, _ = edit(logits, edits_of(cases, vocab_size), last_ids(cases))
    assert np.array_equal(found.view(np.int32), edited_by_host(logits, cases).view(np.int32))


def test_a_row_that_was_not_finite_before_its_edits_is_told() -> None:
    logits = rows(4, seed=6)
    logits[0, 3], logits[1, 98], logits[2] = np.nan, np.inf, -np.inf
    cases = [Case(SamplingParams(logit_bias={3: 1.0, 98: -1e30}), [1], [2])] * 4
    assert edit(logits, edits_of(cases))[1] == [False, False, False, True]


def as_drawn(case: Case, i: int) -> Case:
    params = replace(case.params, temperature=0.7 + i / 10, top_k=(0, 9)[i % 2], top_p=(1.0, 0.8)[i % 3 == 0], seed=i)
    return case._replace(params=params)


@pytest.mark.parametrize("cases", [EDITED, list(map(as_drawn, EDITED, range(20)))], ids=["greedy", "drawn"])
def test_edited_rows_get_the_tokens_that_each_sampler_samples_alone(cases: list[Case]) -> None:
    logits = rows(len(cases), seed=7)
    logits[2, 90], logits[10, 98] = np.nan, np.inf
    samplers, again = ([sampling.Sampler(case.params, VOCAB_SIZE) for case in cases] for _ in range(2))
    batch = batch_of(samplers, [History(case.prompt, case.output) for case in cases], sources_of(cases))
    expected, found = (
        module.sample(torch.from_numpy(logits.copy()), batch, last_ids(cases)).tolist() for module in (plain, on_device)
    )
    alone = [
        sampler.sample(row, case.history) if is_finite(row) else -1
        for sampler, row, case in zip(again, logits, cases, strict=True)
    ]
    assert found == expected == alone and found.count(-1) == 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalty_that_passes_the_largest_number_is_told(temperature: float) -> None:
    logits = rows(2, seed=8)
    logits[0, 5] = 3e38
    cases = [Case(SamplingParams(repetition_penalty=0.5, temperature=temperature, seed=1), [5], [])] * 2
    samplers = [sampling.Sampler(case.params, VOCAB_SIZE) for case in cases]
    batch = batch_of(samplers, [case.history for case in cases], sources_of(cases))
    for module in (plain, on_device):
        found = module.sample(torch.from_numpy(logits.copy()), batch, NO_IDS).tolist()
        assert found[0] == -1 and found[1] >= 0


# ---- draws ------------------------------------------------------------------------------------------------------------

FILTERS = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_k=1),
    SamplingParams(temperature=1.5, top_k=20),
    SamplingParams(temperature=1.0, top_k=100, top_p=0.9),
    SamplingParams(temperature=1.0, top_p=0.5),
    SamplingParams(temperature=0.9, top_p=0.0),
    SamplingParams(temperature=2.0, top_k=30, top_p=0.6),
    SamplingParams(temperature=2.0, min_p=0.05),
    SamplingParams(temperature=1.3, top_k=40, top_p=0.95, min_p=0.1),
    SamplingParams(temperature=1e-30, top_p=0.95),
    SamplingParams(temperature=2.0, top_k=30, top_p=0.6, samplers=TEMPERATURE_FIRST),
    SamplingParams(temperature=0.4, min_p=0.05, samplers=TEMPERATURE_FIRST),
    SamplingParams(temperature=1.3, top_k=40, top_p=0.95, min_p=0.1, samplers=TEMPERATURE_FIRST),
    SamplingParams(temperature=1e-30, top_p=0.95, samplers=TEMPERATURE_FIRST),
]


def described(params: SamplingParams) -> str:
    place = "first" if params.samplers == TEMPERATURE_FIRST else ""
    return f"T{params.temperature}{place}-k{params.top_k}-p{params.top_p}-m{params.min_p}"


@pytest.mark.parametrize("params", FILTERS, ids=described)
def test_draw(params: SamplingParams) -> None:
    uniforms = np.array([0.0, 0.71, 1 - 2.0**-53])
    logits = rows(len(uniforms), seed=1)
    count = len(uniforms)
    ids, finite = on_device.draw(
        torch.from_numpy(logits.copy()),  # they are overwritten
        torch.from_numpy(uniforms),
        torch.full((count,), params.temperature),
        torch.full((count,), params.samplers == TEMPERATURE_FIRST),
        torch.full((count,), params.top_k, dtype=torch.int32),
        torch.full((count,), params.top_p, dtype=torch.float64),
        torch.full((count,), params.min_p),
    )
    filtered = [sampling.apply(make_steps(params), row, params, History()) for row in logits]
    if params.temperature:
        expected = [sampling.draw(row, float(u)) for row, u in zip(filtered, uniforms, strict=True)]
    else:
        expected = [int(row.argmax()) for row in filtered]
    assert ids.tolist() == expected and finite.all()


def test_draw_flags_what_is_not_finite() -> None:
    logits = torch.from_numpy(rows(3, seed=2))
    logits[0, 99], logits[1, 99] = torch.nan, torch.inf
    half = torch.full((3,), 0.5)
    zeros = torch.zeros(3, dtype=torch.int32)
    ids, finite = on_device.draw(logits, half.double(), half, zeros.bool(), zeros, half.double(), half * 0)
    assert finite.tolist() == [False, False, True] and 0 <= ids[2] < VOCAB_SIZE


@pytest.mark.parametrize("params", [FILTERS[:1] * len(FILTERS), FILTERS], ids=["greedy", "mixed"])
def test_a_step_samples_what_plain_torch_samples(params: list[SamplingParams]) -> None:
    logits = rows(len(params), seed=5)
    logits[3, 90] = np.nan
    samplers = [sampling.Sampler(param, VOCAB_SIZE) for param in params]
    batch = batch_of(samplers, [History()] * len(params), np.full(len(params), -1, np.int32))
    expected = plain.sample(torch.from_numpy(logits), batch, NO_IDS)
    found = on_device.sample(torch.from_numpy(logits.copy()), batch, NO_IDS)
    assert found.dtype == expected.dtype == torch.int32
    assert found.tolist() == expected.tolist() and found[3] == -1
