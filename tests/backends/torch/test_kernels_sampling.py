"""`kernels/sampling.py` against `puna/sampling.py`, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puna import sampling
from puna.errors import NumericalError
from puna.request import SamplingParams
from puna.sampling import History, Row
from tests.backends.torch import interpreter

interpreter.require()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter and numbers that are not finite

from puna.backends.torch import plain  # noqa: E402
from puna.backends.torch.kernels import sampling as on_device  # noqa: E402

VOCAB_SIZE = 100


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "BLOCK", 64)


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


def test_penalties() -> None:
    logits, prompt, outputs = rows(3), [5, 9, 9, 99], [[], [9, 9, 9, 70], [0]]
    params = [
        SamplingParams(repetition_penalty=1.3),
        SamplingParams(repetition_penalty=0.7, presence_penalty=0.3, frequency_penalty=0.1),
        SamplingParams(presence_penalty=-2.0),
    ]
    expected = [
        sampling.penalties(row, param, History(prompt, output))
        for row, param, output in zip(logits, params, outputs, strict=True)
    ]
    seen, counts = np.full((3, 6), -1), np.zeros((3, 6), np.int32)
    for row, output in enumerate(outputs):
        ids = sorted({*prompt, *output})
        seen[row, : len(ids)] = ids
        counts[row, : len(ids)] = [output.count(i) for i in ids]
    found = on_device.penalise(
        torch.from_numpy(logits),
        torch.from_numpy(seen),
        torch.from_numpy(counts),
        torch.tensor([p.repetition_penalty for p in params]),
        torch.tensor([p.presence_penalty for p in params], dtype=torch.float64),
        torch.tensor([p.frequency_penalty for p in params], dtype=torch.float64),
    )
    assert np.array_equal(found.numpy(), np.stack(expected))


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
]


@pytest.mark.parametrize("params", FILTERS, ids=lambda p: f"T{p.temperature}-k{p.top_k}-p{p.top_p}-m{p.min_p}")
def test_draw(params: SamplingParams) -> None:
    uniforms = np.array([0.0, 0.71, 1 - 2.0**-53])
    logits = rows(len(uniforms), seed=1)
    count = len(uniforms)
    ids, finite = on_device.draw(
        torch.from_numpy(logits),
        torch.from_numpy(uniforms),
        torch.full((count,), params.temperature),
        torch.full((count,), params.top_k, dtype=torch.int32),
        torch.full((count,), params.top_p, dtype=torch.float64),
        torch.full((count,), params.min_p),
    )
    filters = sampling.FILTERS if params.temperature else sampling.GREEDY_FILTERS
    filtered = [sampling.apply(filters, row, params, History()) for row in logits]
    if params.temperature:
        expected = [sampling.draw(row, float(u)) for row, u in zip(filtered, uniforms, strict=True)]
    else:
        expected = [int(row.argmax()) for row in filtered]
    assert ids.tolist() == expected and finite.all()


def test_draw_flags_what_is_not_finite() -> None:
    logits = torch.from_numpy(rows(3, seed=2))
    logits[0, 99], logits[1, 99] = torch.nan, torch.inf
    half = torch.full((3,), 0.5)
    ids, finite = on_device.draw(logits, half.double(), half, torch.zeros(3, dtype=torch.int32), half.double(), half * 0)
    assert finite.tolist() == [False, False, True] and 0 <= ids[2] < VOCAB_SIZE


@pytest.mark.parametrize("params", [FILTERS[:1] * 11, FILTERS], ids=["greedy", "mixed"])
def test_a_step_chooses_what_plain_torch_chooses(params: list[SamplingParams]) -> None:
    logits = rows(11, seed=5)
    logits[3, 90] = np.nan
    samplers = [sampling.Sampler(param, VOCAB_SIZE) for param in params]
    choices = sampling.make_choices(np.full(11, -1, np.int32), samplers)
    expected = plain.choose(torch.from_numpy(logits), choices)
    found = on_device.choose(torch.from_numpy(logits), choices)
    assert found.dtype == expected.dtype == torch.int32
    assert found.tolist() == expected.tolist() and found[3] == -1
