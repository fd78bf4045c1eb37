"""Stand-ins that tests of the spine share: a tokenizer of bytes, a backend of arithmetic, random models in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from puna.backends.base import DeviceInfo, PageBytes, Roofline, moved
from puna.batch import Batch, Computed, Logits, Pending, SamplingBatch
from puna.config import EngineConfig
from puna.engine import Engine
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.model.rope import RopeConfig
from puna.model.spec import AttentionSpec, Dense, Experts, LayerSpec, ModelConfig, NormPosition, plain_model
from puna.model.weights import role_of, tensor_shapes
from puna.plan import Layout, Plan
from puna.progress import SILENT, Reporter
from puna.request import PLACEHOLDER, Request, SamplingParams, StepOutput
from puna.sampling import History, Row
from puna.scheduler import ScheduledChunk
from tests.models import encode

VOCAB_SIZE = 258
BOS, EOS = 256, 257


class ByteTokenizer:
    """Id = byte; BOS and EOS above."""

    vocab_size = VOCAB_SIZE
    bos_id: int | None = BOS
    eos_id: int | None = EOS
    stop_ids = frozenset({EOS})
    add_bos = True
    add_eos = False
    special_tokens: dict[str, int] = {"<s>": BOS, "</s>": EOS}  # noqa: RUF012
    utf8_errors = "replace"
    controls_part_bytes = False

    def encode(
        self,
        text: str,
        *,
        bos: bool | None = None,
        eos: bool | None = None,
        special: bool = False,
        guard: str = "",
        limit: int | None = None,
    ) -> list[int]:
        return [BOS] * (self.add_bos if bos is None else bos) + list(text.encode()) + [EOS] * bool(eos)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def first_bytes(self, token_id: int) -> bytes:
        data = self.token_bytes(token_id)
        return data.removeprefix(b" ") if self.strips_leading_space() else data

    def piece(self, token_id: int) -> str:
        return repr(self.token_bytes(token_id))

    def strips_leading_space(self) -> bool:
        return False


class FakeBackend:
    """Its logits are a function of the ids in its pages, so a wrong page table gives a wrong answer.

    By default the next token is the sum of all ids so far plus the number of them, modulo 256; `answer` replaces that.
    """

    info = DeviceInfo("fake", "arithmetic", 1, 1 << 30, 1 << 30)
    filters: frozenset[str] = frozenset()
    prompts_apart = False
    kv_arithmetic = "exact"

    def __init__(self, plan: Plan, answer: Callable[[list[int]], int] | None = None) -> None:
        self.page_size = plan.page_size
        self.pages = np.full((plan.num_pages, plan.page_size), -1, np.int64)
        self.answer = answer or (lambda ids: (sum(ids) + len(ids)) % 256)
        self.poison: Callable[[list[int]], float] = lambda ids: 0.0
        self.fail: Callable[[int], None] = lambda call: None
        self.batches: list[Batch] = []
        self.num_written = 0  # pages that came from elsewhere

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        pass

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Pending:
        return Computed(self._forward(batch), self._hidden(batch))

    def _forward(self, batch: Batch) -> Logits:
        self.batches.append(batch)
        self.fail(len(self.batches))
        rows: dict[int, Logits] = {}
        for s, table in enumerate(batch.page_tables):
            for row in range(batch.starts[s], batch.starts[s + 1]):
                position = int(batch.positions[row])
                self.pages[table[position // self.page_size], position % self.page_size] = batch.token_ids[row]
                ids = self.pages[table[: position // self.page_size + 1]].reshape(-1)[: position + 1].tolist()
                rows[row] = self._logits(ids)
        return np.array([rows[int(row)] for row in batch.logit_rows], np.float32).reshape(-1, VOCAB_SIZE)

    def _hidden(self, batch: Batch) -> Logits:
        """Four numbers of the ids so far."""
        rows = [self._ids_at(batch, int(row)) for row in batch.hidden_rows]
        states = [_noise(sum(ids) * 1013 + len(ids))[:4] + np.float32(self.poison(ids)) for ids in rows]
        return np.array(states, np.float32).reshape(-1, 4)

    def _ids_at(self, batch: Batch, row: int) -> list[int]:
        """The ids in the pages up to this row's."""
        table, position = batch.page_tables[batch.sequences[row]], int(batch.positions[row])
        found: list[int] = self.pages[table[: position // self.page_size + 1]].reshape(-1)[: position + 1].tolist()
        return found

    def _logits(self, ids: list[int]) -> Logits:
        assert min(ids) >= 0, "a position was read before it was written"
        logits = _noise(sum(ids) * 1009 + len(ids)) + np.float32(self.poison(ids))
        logits[self.answer(ids)] = 5.0 + self.poison(ids)
        return logits

    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        return moved(self.pages[list(page_ids)].view(np.uint8), out)

    def write_pages(self, page_ids: Sequence[int], pages: PageBytes) -> None:
        self.num_written += len(page_ids)
        self.pages[list(page_ids)] = pages.view(np.int64)

    def roofline(self) -> Roofline:
        return Roofline(1.0, 1.0, 1.0)

    def weights_bytes(self) -> int:
        return 0

    def held_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


@lru_cache(maxsize=1 << 12)
def _noise(seed: int) -> Logits:
    return np.random.default_rng(seed).random(VOCAB_SIZE, np.float32)


class SamplingBackend(FakeBackend):
    """The same, but samples by itself. Its result is readable only after the next step was launched, or at the end."""

    filters = SamplingBatch.FILTERS

    def __init__(self, plan: Plan, answer: Callable[[list[int]], int] | None = None) -> None:
        super().__init__(plan, answer)
        self._sampled: list[int] = []
        self.num_in_flight = self.most_in_flight = 0

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Pending:
        if sampling is None:
            return super().step(batch)
        token_ids = batch.token_ids.copy()
        taken = sampling.sources >= 0
        assert np.array_equal(taken, token_ids == PLACEHOLDER)
        token_ids[taken] = [max(self._sampled[i], 0) for i in sampling.sources[taken]]  # any id, where there is none
        logits = self._forward(dataclasses.replace(batch, token_ids=token_ids))
        before = [max(i, 0) for i in self._sampled]
        self._sampled = [sampling.sample_row(i, row, before) for i, row in enumerate(logits)]
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        return FakeSampled(self, list(self._sampled))


@dataclasses.dataclass
class FakeSampled:
    backend: SamplingBackend
    ids: list[int]

    def logits(self) -> Logits:
        raise AssertionError("the device has sampled")

    def hidden(self) -> Logits:
        raise AssertionError("the device has sampled")

    def token_ids(self) -> list[int]:
        self.backend.num_in_flight -= 1
        return self.ids


@dataclasses.dataclass(frozen=True, slots=True)
class ParamsWithOnly(SamplingParams):
    """With a field that `only` reads."""

    only: int = -1


def only(logits: Row, params: SamplingParams, history: History) -> Row:
    """A filter that no device has: it keeps one token; -1: off."""
    kept = getattr(params, "only", -1)
    return logits if kept < 0 else np.where(np.arange(len(logits)) == kept, logits, np.float32(-np.inf))


FILTERS: list[dict[str, Any]] = [
    {},
    {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.4},
    {"adaptive_target": 0.3, "min_p": 0.01},
    {"xtc_probability": 0.5, "xtc_threshold": 0.02, "typical_p": 0.95},
    {"dry_multiplier": 2.0, "dry_allowed_length": 1, "top_n_sigma": 3.0},
    {"dynatemp_range": 1.0, "samplers": ("temperature", "top_k", "penalties")},
    {"penalty_last_n": 3, "banned_strings": ("ab", "e "), "bad_words_ids": ((97, 98), (7,))},
]  # settings of a request


def chunk_of(ids: Sequence[int], first: int, pages: Sequence[int], num_logits: int, prompt_length: int) -> ScheduledChunk:
    """The chunk of a sequence that has `ids` at the positions from `first` on, and any others elsewhere."""
    whole = [0] * first + list(ids)
    prompt = (whole + [0] * prompt_length)[:prompt_length]
    request = Request(0, prompt, SamplingParams(), output_ids=whole[prompt_length:], page_ids=list(pages))
    return ScheduledChunk(request, first, len(whole), num_logits, is_last=False)


def make_plan(**changes: int) -> Plan:
    sizes: dict[str, Any] = {
        "placements": (),
        "kv_bytes": 0,
        "scratch_bytes": 0,
        "logits_bytes": 0,
        "num_pages": 64,
        "page_size": 16,
        "max_context": 128,
        "max_tokens": 32,
        "max_sequences": 8,
        "max_logits": 32,
        "kv_type": "f32",
        "layout": Layout({}, other="F32", kv_types=("f32",)),
    }
    return Plan(**(sizes | changes))


def make_engine(backend: FakeBackend | None = None, plan: Plan | None = None, **settings: Any) -> Engine:
    plan = plan or make_plan()
    return Engine(
        backend or FakeBackend(plan), ByteTokenizer(), plan, EngineConfig(**settings), tiny_config(vocab_size=VOCAB_SIZE)
    )


def run(engine: Engine) -> dict[int, list[StepOutput]]:
    """Step until all requests end; return the outputs of each."""
    outputs: dict[int, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def tiny_config(**changes: Any) -> ModelConfig:
    sizes: dict[str, Any] = {
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "hidden_size": 32,
        "ffn_size": 64,
        "vocab_size": VOCAB_SIZE,
        "max_context": 128,
        "rope": RopeConfig(theta=10000.0),
    }
    return plain_model(**(sizes | changes))


def with_layers(
    config: ModelConfig, attention: AttentionSpec, ffn: Dense | Experts, norms: NormPosition = "before"
) -> ModelConfig:
    """The model with other layers, all alike."""
    return replace(config, layers=(LayerSpec(attention, ffn, norms),) * config.num_layers)


def random_checkpoint(config: ModelConfig, quant: str = "F32", seed: int = 0) -> Checkpoint:
    """Random weights of the scale that a trained model has, so that activations stay near 1. Rows that are no multiple of
    `quant`'s block are kept as F16; norms as F32."""
    rng = np.random.default_rng(seed)
    tensors = {name: _random_tensor(name, shape, quant, rng) for name, shape in tensor_shapes(config).items()}
    return Checkpoint(path=Path("random"), format="memory", config=config, tensors=tensors)


def _random_tensor(name: str, shape: tuple[int, ...], quant: str, rng: np.random.Generator) -> Tensor:
    if len(shape) == 1:
        return make_tensor(name, (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32), "F32")
    values = (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    if role_of(name).name == "router":
        return make_tensor(name, 4 * values, "F32")  # as in files; of clear opinions
    return make_tensor(name, values, quant if shape[-1] % BLOCK_TYPES[quant].block_size == 0 else "F16")


def make_tensor(name: str, values: Logits, quant: str) -> Tensor:
    rows = np.ascontiguousarray(values.reshape(1 if values.ndim == 1 else -1, values.shape[-1]))
    return Tensor(name, values.shape, BLOCK_TYPES[quant], encode(rows, quant))
