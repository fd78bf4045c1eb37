"""Recorded and replayed decode steps give the bits of ordinary steps, whatever changes between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from puna.backends import create_backend
from puna.backends.torch import graph
from puna.backends.torch.model import TorchBackend
from puna.backends.torch.step import Step
from puna.batch import Batch
from puna.config import EngineConfig, KVType
from puna.engine import Engine
from puna.formats.base import Checkpoint
from puna.model.rope import RopeConfig
from puna.model.spec import AttentionSpec, Experts, ModelConfig
from puna.progress import SilentReporter
from puna.request import SamplingParams
from tests.backends.torch import interpreter
from tests.conformance.test_backends import ODD_SIZES, PAGE_SIZE, Piece, forward, plan_of, random_ids
from tests.fakes import chunk_of, random_checkpoint, tiny_config, with_layers

interpreter.require()

from tests.backends.torch.tape import Tape  # noqa: E402  (needs Triton)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of rows that only fill a tile


class Notices(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def _products_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "matmul", interpreter.product_in_order)


@contextmanager
def loaded(checkpoint: Checkpoint, tape: Any = None, kv: KVType = "f32", report: Any = None) -> Iterator[TorchBackend]:
    config = EngineConfig(device="torch", threads=1, page_size=PAGE_SIZE, kv_type=kv, max_batch=8)
    backend = create_backend(config, report or SilentReporter())
    assert isinstance(backend, TorchBackend)
    backend._recorder = tape
    try:
        backend.load(checkpoint, plan_of(checkpoint, config, backend))
        yield backend
    finally:
        backend.close()


def decode(backend: TorchBackend, rows: list[tuple[int, int]], ids: list[int]) -> Any:
    """One generated token of each (sequence, position); a sequence's pages are its own."""
    pieces: list[Piece] = [
        ([ids[at % 32]], at, [3 * sequence + 1, 3 * sequence, 3 * sequence + 2, 20, 21]) for sequence, at in rows
    ]
    return forward(backend, *pieces, prompt_length=4)


STEPS = [  # sequences and positions of rows: more and fewer, in other orders, over the border of a page and of a length
    [(0, 4), (1, 4), (2, 4)],
    [(2, 5), (0, 5), (1, 5)],
    [(0, 6), (2, 6), (1, 6), (3, 4)],
    [(3, 5), (1, 7), (0, 7)],
    [(1, 15)],
    [(1, 16)],
    [(0, 15)],
    [(0, 16)],
    [(2, 7), (0, 17)],
    [(0, 18), (1, 17)],
    [(1, 18), (2, 8)],
    [(1, 70)],  # more than one program shares the positions of a row
    [(1, 71), (0, 19)],
]
SMALL: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vocab_size": 33}


EXPERTS = Experts(16, count=5, top_k=2, activation="gelu")


def small(config: ModelConfig) -> ModelConfig:
    return replace(config, layers=config.layers[:1], **{name: size for name, size in SMALL.items() if name != "num_layers"})


@pytest.mark.parametrize(
    ("shape", "quant", "kv"), [("plain", "Q4_1", "bf16"), ("biases", "Q8_0", "int8"), ("dynamic", "F32", "f32")]
)
def test_replayed_steps_have_the_bits_of_others(shape: str, quant: str, kv: KVType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "LENGTHS", (16, 128))
    checkpoint = random_checkpoint(small(ODD_SIZES[shape]), quant, seed=1)
    ids = random_ids(checkpoint.config, 32, seed=2)
    tape = Tape()
    with loaded(checkpoint, kv=kv) as plain, loaded(checkpoint, tape, kv=kv) as recorded:
        for backend in (plain, recorded):
            prompts: list[Piece] = [(ids[:4], 0, [3 * i + 1, 3 * i, 3 * i + 2]) for i in range(4)]
            forward(backend, *prompts, prompt_length=4)
        for step in STEPS:
            assert np.array_equal(decode(recorded, step, ids), decode(plain, step, ids)), step
    sizes = [(graph.bucket_rows(len(step)), max(at for _, at in step) < 16) for step in STEPS]
    assert tape.num_replayed == len(STEPS) - len(set(sizes)), "all but the first of each bucket"
    assert tape.num_recorded == len([size for size in set(sizes) if sizes.count(size) > 1])


def test_a_replayed_step_chooses_other_experts_and_takes_every_table() -> None:
    """And norms after, all heads normed together, and both soft caps."""
    attention = AttentionSpec(qk_norm="full", scale=0.3, softcap=4.0)
    config = with_layers(tiny_config(**SMALL, rope=RopeConfig(q_beta=0.3, original_context=2)), attention, EXPERTS, "both")
    checkpoint = random_checkpoint(replace(config, logit_softcap=3.0, embedding_scale=2.0), "F32", seed=1)
    ids, tape = random_ids(checkpoint.config, 32, seed=2), Tape()
    with loaded(checkpoint) as plain, loaded(checkpoint, tape) as recorded:
        for rows in ([(0, at), (1, at)] for at in range(4, 8)):
            assert np.array_equal(decode(recorded, rows, ids), decode(plain, rows, ids)), rows
    assert (tape.num_recorded, tape.num_replayed) == (1, 3)


def test_prompts_beside_are_not_recorded_and_change_nothing() -> None:
    checkpoint = random_checkpoint(tiny_config(**SMALL), "Q4_0", seed=3)
    ids = random_ids(checkpoint.config, 32, seed=4)
    tape = Tape()

    def run(backend: TorchBackend) -> Iterator[Any]:
        yield forward(backend, (ids[:4], 0, [0]), (ids[4:9], 0, [1]), prompt_length=4)
        for at in range(4, 7):
            rows = [(ids[at : at + 1], at, [0]), (ids[9 : 9 + at], 0, [2]), (ids[at + 1 : at + 2], at + 1, [1])]
            yield forward(backend, *rows, prompt_length=4)
        yield forward(backend, (ids[9:12], 7, [0]), ([1], 8, [1]), prompt_length=4)  # computed again: two of a sequence
        yield forward(backend, ([5], 10, [0]), last_only=True)

    with loaded(checkpoint) as plain, loaded(checkpoint, tape) as recorded:
        for found, expected in zip(run(recorded), run(plain), strict=True):
            assert np.array_equal(found, expected)
    assert tape.num_replayed > 0


@pytest.mark.parametrize(
    "temperatures",
    [
        pytest.param((0.9, 0.9, 0.0, 0.0), id="drawn and not"),  # the last two requests live longest: in the end all are greedy
        pytest.param((0.0,) * 4, id="greedy", marks=pytest.mark.full),
        pytest.param((0.9,) * 4, id="drawn", marks=pytest.mark.full),
    ],
)
def test_texts_are_the_same_with_and_without(temperatures: tuple[float, ...]) -> None:
    """Overlapped steps: ids go from step to step on the device."""
    checkpoint = random_checkpoint(tiny_config(**SMALL), "F32", seed=5)
    prompts = [random_ids(checkpoint.config, n, seed=n) for n in (3, 1, 7, 5)]

    def texts(tape: Tape | None) -> list[list[int]]:
        with loaded(checkpoint, tape) as backend:
            config = EngineConfig(device="torch", threads=1, page_size=PAGE_SIZE, kv_type="f32", max_batch=3)
            engine = Engine(backend, None, plan_of(checkpoint, config, backend), config, checkpoint.config)
            params = (SamplingParams(max_tokens=3 + 2 * i, temperature=temperatures[i], seed=i) for i in range(4))
            requests = [engine.add(ids, each) for ids, each in zip(prompts, params, strict=True)]
            while engine.has_work:
                engine.step()
            return [request.output_ids for request in requests]

    tape = Tape()
    assert texts(tape) == texts(None)
    assert tape.num_replayed > 5


class Broken:
    """A recorder that fails to record an operation."""

    def __init__(self, error: RuntimeError) -> None:
        self.error, self.asked = error, 0

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "asked", "words"),
    [
        (RuntimeError("operation not permitted\nwhen capturing"), 1, "steps are no longer recorded as CUDA graphs"),
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "steps of 3 or more sequences are no longer recorded"),
    ],
)
def test_what_cannot_be_recorded_is_told_and_done_without(error: RuntimeError, asked: int, words: str) -> None:
    checkpoint = random_checkpoint(tiny_config(**SMALL), "F32", seed=6)
    ids = random_ids(checkpoint.config, 32, seed=7)
    broken, notices = Broken(error), Notices()
    with loaded(checkpoint) as plain, loaded(checkpoint, broken, report=notices) as recorded:
        for at in range(4, 7):
            for rows in ([(0, at), (1, at), (2, at)], [(0, at)]):
                assert np.array_equal(decode(recorded, rows, ids), decode(plain, rows, ids))
    assert words in notices.texts[0] and str(error).splitlines()[0] in notices.texts[0]
    assert broken.asked == len(notices.texts) == asked, "never again what has failed"


def test_what_is_not_recorded_any_more_never_is_again() -> None:
    checkpoint = random_checkpoint(tiny_config(**SMALL), "F32", seed=6)
    ids, tape = random_ids(checkpoint.config, 32, seed=7), Tape()
    with loaded(checkpoint, tape) as backend:
        assert backend._graphs is not None
        backend._graphs.keep_below(2)
        backend._graphs.keep_below(100)  # a step of prompts was too large meanwhile
        for at in range(4, 7):
            decode(backend, [(0, at), (1, at)], ids)
        assert tape.num_recorded == 0
        for at in range(7, 10):
            decode(backend, [(0, at)], ids)
        assert tape.num_recorded == 1


def test_a_step_that_was_interrupted_is_not_taken_for_one_that_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(step: Step) -> torch.Tensor:
        raise KeyboardInterrupt

    checkpoint = random_checkpoint(tiny_config(**SMALL), "F32", seed=6)
    ids, tape = random_ids(checkpoint.config, 32, seed=7), Tape()
    with loaded(checkpoint, tape) as backend:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(backend._graphs, "_compute", interrupted)
            decode(backend, [(0, 4)], ids)
        for num_recorded in (0, 1, 1):
            decode(backend, [(0, 4)], ids)
            assert tape.num_recorded == num_recorded, "the first time all kernels run, the second time they are recorded"


@pytest.mark.parametrize(("rows", "logits", "sequences"), [(3, 2, 3), (3, 3, 2), (600, 600, 600)])
def test_steps_that_are_not_one_row_of_each_sequence_have_no_bucket(rows: int, logits: int, sequences: int) -> None:
    lengths = [1] * (sequences - 1) + [rows - sequences + 1]
    batch = Batch.of([chunk_of([0] * n, 0, [0], num_logits=n, prompt_length=0) for n in lengths])
    assert graph.bucket_of(replace(batch, logit_rows=batch.logit_rows[:logits])) is None


def test_what_reads_a_number_cannot_be_recorded() -> None:
    numbers = torch.arange(3)
    with pytest.raises(RuntimeError, match="reads a number of the device"):
        Tape().record(lambda: numbers + int(numbers[1]))
