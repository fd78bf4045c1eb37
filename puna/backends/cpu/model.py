"""The CPU backend: weights packed for the kernels, paged KV, one compiled call per step and thread."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from puna.backends.base import DeviceInfo, DeviceLimits, load_whole, loading_to_main_memory
from puna.backends.cpu import host, limits
from puna.backends.cpu.compiled import begin, entries_for, load_entry, prepare
from puna.backends.cpu.layout import (
    BLOCK,
    EMBED,
    EVEN,
    GROUP,
    KINDS,
    MAX_PARTIALS,
    SLOTS,
    TILE_ROWS,
    Kind,
    Matrix,
    Memory,
    Sizes,
    aligned_zeros,
    padded,
    padded_head_dim,
    record_bytes,
    span_of,
    tile_bytes,
)
from puna.backends.cpu.pace import Pace
from puna.backends.cpu.packing import pack
from puna.backends.cpu.threads import Team, new_control
from puna.config import EngineConfig
from puna.errors import DeviceError
from puna.formats.base import Checkpoint, Tensor
from puna.model.rope import RotaryTables
from puna.model.spec import ModelConfig
from puna.plan import Plan
from puna.progress import SILENT, Reporter
from puna.request import Batch, Logits
from puna.resources import memory_bytes, own_bytes, return_free_memory, usable_cores
from puna.units import counted

Vector = npt.NDArray[np.float32]

LAYER_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYER_BIASES = ("q_bias", "k_bias", "v_bias", "o_bias", "gate_bias", "up_bias", "down_bias")  # beside LAYER_MATRICES
LAYER_NORMS = ("attn_norm", "ffn_norm", "q_norm", "k_norm")


def create(config: EngineConfig, report: Reporter = SILENT) -> CPUBackend:
    """A CPU backend with `config.threads` threads, or one per usable core."""
    host.require_cpu()
    return CPUBackend(config.threads or usable_cores())


def begin_to_compile(weight_types: Sequence[str], kv_type: str) -> None:
    """Compile in the background the kernels for a model that is not here yet. The first type is the embedding's."""
    host.require_cpu()
    kinds = [KINDS.get(name, KINDS["Q8_0"]) for name in weight_types]  # others are packed to Q8_0
    begin(entries_for(kinds, kinds[0], kv_type))


class CPUBackend:
    """The contract is in `backends/base.py`."""

    def __init__(self, threads: int) -> None:
        total, free = memory_bytes()
        extras = [name.upper() for name in ("avx2", "avx512f", "avx512vnni", "avxvnni", "neon") if name in host.CPU_FEATURES]
        description = f"{host.CPU_NAME}, {counted(threads, 'thread')}, {' '.join(extras) or 'portable vectors'}"
        self.info = DeviceInfo("cpu", description, threads, total, free)
        self._arrays: dict[str, npt.NDArray[np.uint8]] = {}
        self._biases: list[Vector | None] = []
        self._norms: list[Vector | None] = []
        self._matrices: list[Matrix] = []
        self._team: Team | None = None

    # ---- loading ----------------------------------------------------------------------------------------------------

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        load_whole(partial(self._load, checkpoint, plan, report), self.close, loading_to_main_memory(checkpoint, plan))

    def _load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter) -> None:
        config = checkpoint.config
        kinds = [KINDS[plan.types[name]] for name in _matrix_names(config)]
        prepare(entries_for(kinds, KINDS[plan.types["embed"]], plan.kv_type), report)
        self._vocab_size = config.vocab_size
        self._run = load_entry("run")
        self._matrices = list(_packed(checkpoint, kinds, self.info.threads, report))
        self._biases, self._norms = _vectors(checkpoint, _bias_names(config)), _vectors(checkpoint, _norm_names(config))
        self._sizes = _sizes(config, plan, self.info.threads)
        self._pace = Pace(self.info.threads)
        self._allocate(config, plan)
        return_free_memory()
        self._gather()

    def _gather(self) -> None:
        """Start the threads of this process. A forked child has none: it starts its own before its first step."""
        self._arrays["control"][:] = 0
        self._team = Team(self.info.threads, self._arrays["control"], self._serve)

    def _allocate(self, config: ModelConfig, plan: Plan) -> None:
        sizes, tokens = self._sizes, plan.max_tokens
        pages = plan.max_sequences * (sizes.table_stride // 4)
        num_bytes = {
            "job": 64,
            "token_ids": 4 * tokens,
            "positions": 4 * tokens,
            "starts": 4 * (plan.max_sequences + 1),
            "tables": 4 * pages,
            "logit_rows": 4 * tokens,
            "turns": sizes.turns_stride * tokens,
            "x": sizes.row_stride * tokens,
            "normed": sizes.row_stride * tokens,
            "records": sizes.record_stride * tokens,
            "qkv": sizes.qkv_stride * tokens,
            "attended": sizes.attended_stride * tokens,
            "gate": sizes.ffn_stride * tokens,
            "up": sizes.ffn_stride * tokens,
            "logits": sizes.logits_stride * tokens,  # rarely more than one row per sequence is touched
            "kv": sizes.page_bytes * plan.num_pages,
            "scratch": sizes.scratch_stride * sizes.threads,
            "partials": sizes.tile_bytes * sizes.num_partials,
        }
        arrays = {name: aligned_zeros(n) for name, n in num_bytes.items()}
        arrays["control"] = new_control()
        matrices = zip(self._matrices, _addresses(self._biases), strict=True)
        arrays["matrices"] = _bytes(np.array([_matrix_row(matrix, bias) for matrix, bias in matrices], np.int64))
        arrays["norms"] = _bytes(np.array(_addresses(self._norms), np.int64))
        arrays["windows"] = _bytes(np.array([layer.attention.window for layer in config.layers], np.int64))
        self._arrays = arrays
        embedding = self._matrices[config.num_layers * SLOTS + EMBED].kind
        entries = {
            "embed": load_entry(f"embed_{embedding.name}").address,
            "write_kv": load_entry(f"write_kv_{plan.kv_type}").address,
            "attend": load_entry(f"attend_{plan.kv_type}").address,
        }
        memory = Memory(**{name: int(array.ctypes.data) for name, array in arrays.items()}, **entries)
        arrays["memory"] = _bytes(np.array(memory, np.int64))
        arrays["sizes"], arrays["sizes_alone"] = _packed_sizes(sizes), _packed_sizes(sizes._replace(threads=1))
        self._addresses = arrays["memory"].ctypes.data, arrays["sizes"].ctypes.data
        self._alone = arrays["memory"].ctypes.data, arrays["sizes_alone"].ctypes.data
        self._job = arrays["job"].view(np.int64)
        self._token_ids, self._positions, self._starts, self._logit_rows = (
            arrays[name].view(np.int32) for name in ("token_ids", "positions", "starts", "logit_rows")
        )
        self._tables = arrays["tables"].view(np.int32).reshape(plan.max_sequences, -1)
        self._turns = arrays["turns"].view(np.float32).reshape(tokens, -1)
        self._logits = arrays["logits"].view(np.float32).reshape(tokens, -1)
        self._rotary = RotaryTables(config)

    def _serve(self, thread: int, last: int) -> int:
        return self._run(*self._addresses, thread, last)

    # ---- running ----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Logits:
        if self._team is None:
            raise DeviceError("the model is not loaded, or was closed")
        if not self._team.is_here:
            self._gather()
        self._write_job(batch)
        rows = len(batch.token_ids)
        shared = self._pace.shares(rows)
        start = time.perf_counter()
        if shared:
            with self._team:
                self._run(*self._addresses, 0, 0)
        else:
            self._run(*self._alone, 0, 0)
        self._pace.note(rows, shared, time.perf_counter() - start)
        return self._logits[: len(batch.logit_rows), : self._vocab_size].copy()

    def _write_job(self, batch: Batch) -> None:
        tokens, sequences, logits = len(batch.token_ids), len(batch.starts) - 1, len(batch.logit_rows)
        assert logits <= tokens <= len(self._token_ids) and sequences <= len(self._tables)
        assert logits < 2 or bool(np.all(np.diff(batch.logit_rows) > 0)), "logit rows must ascend"
        self._job[:3] = tokens, sequences, logits
        self._token_ids[:tokens] = batch.token_ids
        self._positions[:tokens] = batch.positions
        self._starts[: sequences + 1] = batch.starts
        self._logit_rows[:logits] = batch.logit_rows
        self._tables[:sequences, : batch.page_tables.shape[1]] = batch.page_tables
        prompts = np.repeat(batch.prompt_lengths, np.diff(batch.starts))
        cos_sin = self._rotary.cos_sin(batch.positions, prompts)[0]
        self._turns[:tokens, 0::2], self._turns[:tokens, 1::2] = cos_sin[:, 0], cos_sin[:, 1]

    def limits(self) -> DeviceLimits:
        return limits.measure(self.info.threads)

    def weights_bytes(self) -> int:
        arrays = {id(matrix.array): matrix.array for matrix in self._matrices}.values()  # a tied embedding is there twice
        return sum(array.nbytes for array in (*arrays, *self._biases, *self._norms) if array is not None)

    def held_bytes(self) -> int:
        return own_bytes()

    def close(self) -> None:
        if self._team is not None:
            self._team.close()
            self._team = None
        self._arrays, self._matrices, self._norms, self._biases = {}, [], [], []


def _sizes(config: ModelConfig, plan: Plan, threads: int) -> Sizes:
    """Sizes and strides: rows of activations are padded to a whole block, so that they can be quantised."""
    row, q, kv, ffn = (padded(n, BLOCK) for n in (config.hidden_size, config.q_size, config.kv_size, config.ffn_size))
    widest = max(row, q, ffn)
    number = 2 if plan.kv_type == "f16" else 4
    head_bytes = plan.page_size * (config.head_dim + padded_head_dim(config.head_dim)) * number
    return Sizes(
        norm_eps=config.norm_eps,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_size=config.ffn_size,
        vocab_size=config.vocab_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        page_size=plan.page_size,
        head_norms=int("qk_norm" in config.extras),
        threads=threads,
        row_stride=4 * row,
        qkv_stride=4 * (q + 2 * kv),
        k_offset=4 * q,
        v_offset=4 * (q + kv),
        attended_stride=4 * q,
        ffn_stride=4 * ffn,
        record_stride=record_bytes(widest),
        logits_stride=4 * padded(config.vocab_size, GROUP),
        turns_stride=4 * config.head_dim,
        table_stride=4 * -(-plan.max_context // plan.page_size),
        scratch_stride=padded(4 * TILE_ROWS * span_of(plan.page_size) + 2 * tile_bytes(config.head_dim), 128),
        span=span_of(plan.page_size),
        tile_bytes=tile_bytes(config.head_dim),
        num_partials=min(MAX_PARTIALS, EVEN * threads * -(-plan.max_context // span_of(plan.page_size))),
        head_bytes=head_bytes,
        layer_bytes=head_bytes * config.num_kv_heads,
        page_bytes=head_bytes * config.num_kv_heads * config.num_layers,
    )


def _packed_sizes(sizes: Sizes) -> npt.NDArray[np.uint8]:
    """The form that the kernels read: eight bytes a field, the first a float64."""
    return np.frombuffer(struct.pack(f"d{len(sizes) - 1}q", *sizes), np.uint8)


def _matrix_row(matrix: Matrix, bias: int) -> list[int]:
    """The matrix's row in `Memory.matrices`."""
    kind = matrix.kind
    return [matrix.address, matrix.columns, int(kind.is_quantised), load_entry(f"multiply_{kind.name}").address, bias]


def _norm_names(config: ModelConfig) -> list[str]:
    return [f"layers.{i}.{name}" for i in range(config.num_layers) for name in LAYER_NORMS] + ["final_norm"]


def _bias_names(config: ModelConfig) -> list[str]:
    """The bias of each row of the kernels' table of matrices; the last two have none."""
    return [f"layers.{i}.{name}" for i in range(config.num_layers) for name in LAYER_BIASES] + ["", ""]


def _matrix_names(config: ModelConfig) -> list[str]:
    last = ["embed"] if config.tie_embeddings else ["embed", "lm_head"]
    return [f"layers.{i}.{name}" for i in range(config.num_layers) for name in LAYER_MATRICES] + last


def _matrices(checkpoint: Checkpoint) -> list[Tensor]:
    return [checkpoint.tensors[name] for name in _matrix_names(checkpoint.config)]


def _packed(checkpoint: Checkpoint, kinds: Sequence[Kind], threads: int, report: Reporter) -> Iterator[Matrix]:
    """All matrices in the order of the kernels' table; a tied embedding is there twice, in memory once."""
    tensors = _matrices(checkpoint)
    others = sorted({tensor.type.name for tensor in tensors if tensor.type.name not in KINDS})
    if others:
        report.notice(f"packing {', '.join(others)} weights to Q8_0 for this CPU")
    total, done = sum(tensor.num_bytes for tensor in tensors), 0
    with ThreadPoolExecutor(threads) as pool:
        for tensor, matrix in zip(tensors, pool.map(pack, tensors, kinds), strict=True):
            done += tensor.num_bytes
            report.progress("loading weights", done, total, "bytes")
            yield matrix
    if checkpoint.config.tie_embeddings:
        yield matrix


def _vectors(checkpoint: Checkpoint, names: list[str]) -> list[Vector | None]:
    """The vectors that the model has, padded to whole blocks; None for the others."""
    found = (checkpoint.tensors.get(name) for name in names)
    return [None if tensor is None else _padded_vector(tensor.dequantize()) for tensor in found]


def _padded_vector(values: Vector) -> Vector:
    padding = -len(values) % BLOCK
    return np.ascontiguousarray(np.pad(values.astype(np.float32), (0, padding)))


def _addresses(vectors: list[Vector | None]) -> list[int]:
    return [0 if vector is None else int(vector.ctypes.data) for vector in vectors]


def _bytes(array: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)
