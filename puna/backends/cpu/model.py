"""The CPU backend: weights packed for the kernels, paged KV, one compiled call per step and thread."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.backends.base import DeviceInfo, PageBytes, Roofline, load_whole, loading_to_main_memory
from puna.backends.cpu import host, roofline
from puna.backends.cpu.buffers import buffer_bytes, routing_bytes, sizes_of, tile_buffers
from puna.backends.cpu.compiled import begin, entries_for, load_entry, prepare
from puna.backends.cpu.layout import (
    BLOCK,
    KINDS,
    BufferAddresses,
    PackedMatrix,
    PackedType,
    Routing,
    aligned_zeros,
    bytes_of,
)
from puna.backends.cpu.packing import pack_all
from puna.backends.cpu.smoothing import smoothing_factors
from puna.backends.cpu.tables import (
    PackedAdapter,
    adapter_rows,
    entries_of_layers,
    entries_of_step,
    layer_rows,
    matrix_rows,
    packed_adapter,
)
from puna.backends.cpu.threads import Team, ThreadPolicy
from puna.batch import Batch, Computed, SamplingBatch
from puna.config import EngineConfig
from puna.cores import ThreadChoice, choose_threads
from puna.errors import DeviceError
from puna.formats.base import Checkpoint
from puna.model.rotary import RotaryTables
from puna.model.spec import ModelConfig
from puna.model.weights import tensor_shapes
from puna.plan import Plan
from puna.progress import SILENT, Reporter
from puna.resources import memory_bytes, own_bytes, return_free_memory
from puna.units import counted

ROW_ARRAYS = ("token_ids", "positions", "starts", "logit_rows", "hidden_rows", "row_adapters")  # int32; each step fills them
FloatVector = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def create(config: EngineConfig, report: Reporter = SILENT) -> CPUBackend:
    """A CPU backend with at most `config.threads` threads, or as many as this machine has for one program."""
    host.require_cpu()
    return CPUBackend(choose_threads(config.threads))


def begin_to_compile(weight_types: Sequence[str], kv_type: str) -> None:
    """Compile in the background the kernels for a model that is not here yet. The first type is the embedding's."""
    host.require_cpu()
    kinds = [KINDS.get(name, KINDS["Q8_0"]) for name in weight_types]  # others are packed to Q8_0
    begin(entries_for(kinds, kinds[0], kv_type))


class CPUBackend:
    """The contract is in `backends/base.py`."""

    filters: frozenset[str] = frozenset()
    prompts_apart = False

    def __init__(self, threads: ThreadChoice) -> None:
        self._threads = threads
        total, free = memory_bytes()
        extras = [name.upper() for name in ("avx2", "avx512f", "avx512vnni", "avxvnni", "neon") if name in host.CPU_FEATURES]
        description = f"{host.CPU_NAME}, {counted(threads.start, 'thread')}, {' '.join(extras) or 'portable vectors'}"
        self.info = DeviceInfo("cpu", description, threads.start, total, free)
        self.kv_arithmetic = f"kernels {host.cache_key()}, numpy {np.__version__}"  # rotary tables are numpy's
        self._arrays: dict[str, Bytes] = {}
        self._routing: dict[str, Bytes] = {}
        self._matrices: dict[str, PackedMatrix] = {}
        self._vectors: dict[str, FloatVector] = {}
        self._smoothing: dict[str, FloatVector] = {}
        self._adapters: list[PackedAdapter] = []
        self._team: Team | None = None

    # ---- loading ----------------------------------------------------------------------------------------------------

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        load_whole(partial(self._load, checkpoint, plan, report), self.close, loading_to_main_memory(checkpoint, plan))

    def _load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter) -> None:
        config = checkpoint.config
        kinds = {name: KINDS[plan.types[name]] for name in _names(config, is_matrix=True)}
        prepare(entries_for(kinds.values(), kinds["embed"], plan.kv_type, entries_of_layers(config)), report)
        self._vocab_size, self._hidden_size = config.vocab_size, config.hidden_size
        self._run = load_entry("run")
        self._matrices = _packed(checkpoint, kinds, self._threads.most, report)
        self._vectors = _vectors(checkpoint)
        self._smoothing = dict(smoothing_factors(config, checkpoint.tensors)) if plan.kv_type == "int8" else {}
        self._adapters = list(map(packed_adapter, checkpoint.adapters))
        self._policy = ThreadPolicy(self._threads.counts, self._threads.start)
        self._allocate(config, plan)
        return_free_memory()
        self._start_threads()

    def _start_threads(self) -> None:
        """Start the threads of this process. A forked child has none: it starts its own before its first step."""
        self._arrays["control"][:] = 0
        self._team = Team(self._threads.most, self._arrays["control"], self._serve)

    def _allocate(self, config: ModelConfig, plan: Plan) -> None:
        sizes, tokens = sizes_of(config, plan, self._threads.most), plan.max_tokens
        self._rotary = RotaryTables(config)
        arrays = _zeros(buffer_bytes(config, plan, sizes, len(self._rotary)))
        self._routing = _zeros(routing_bytes(config, plan, sizes))
        layers = layer_rows(config, self._vectors | self._smoothing, self._rotary, sizes.cos_sin_stride * tokens)
        arrays |= {
            "matrices": _table(matrix_rows(config, self._matrices, self._vectors)),
            "adapters": _table(adapter_rows(config, self._adapters)),
            "layers": _table(layers),
            "final_norm": self._vectors["final_norm"].view(np.uint8),
            "routing": _table([Routing(**_addresses(self._routing))]),
            "tiles": _table(tile_buffers(arrays["scratch"].ctypes.data, sizes)),
        }
        entries = entries_of_step(config, self._matrices["embed"].kind, plan.kv_type)
        arrays["memory"] = _table([BufferAddresses(**_addresses(arrays), **entries)])
        arrays["sizes"] = _table([sizes._replace(threads=n + 1) for n in range(self._threads.most)])
        self._arrays = arrays
        self._addresses = arrays["memory"].ctypes.data, arrays["sizes"].ctypes.data
        each = range(0, len(arrays["sizes"]), len(bytes_of(sizes)))
        self._runs = [self._run.bound(self._addresses[0], self._addresses[1] + at, 0, 0) for at in each]  # of 1, 2, ... threads
        self._job = arrays["job"].view(np.int64)
        rows = (arrays[name].view(np.int32) for name in ROW_ARRAYS)
        self._token_ids, self._positions, self._starts, self._logit_rows, self._hidden_rows, self._row_adapters = rows
        self._pages = arrays["kv"].reshape(plan.num_pages, -1)
        self._tables = arrays["tables"].view(np.int32).reshape(plan.max_sequences, -1)
        self._cos_sin = arrays["cos_sin"].view(np.float32).reshape(len(self._rotary), tokens, 2, -1)
        self._logits, self._hidden = (arrays[name].view(np.float32).reshape(tokens, -1) for name in ("logits", "added"))

    def _serve(self, thread: int, last: int) -> int:
        return self._run(*self._addresses, thread, last)

    # ---- running ----------------------------------------------------------------------------------------------------

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Computed:
        if self._team is None:
            raise DeviceError("the model is not loaded, or was closed")
        if not self._team.is_here:
            self._start_threads()
        self._write_job(batch)
        rows = len(batch.token_ids)
        threads = self._policy.threads_for(rows)
        start = time.perf_counter()
        self._team.step(threads, self._runs[threads - 1])
        self._policy.note(rows, time.perf_counter() - start)
        logits = self._logits[: len(batch.logit_rows), : self._vocab_size].copy()
        return Computed(logits, self._hidden[: len(batch.hidden_rows), : self._hidden_size].copy())

    def _write_job(self, batch: Batch) -> None:
        tokens, sequences, logits = len(batch.token_ids), len(batch.starts) - 1, len(batch.logit_rows)
        assert logits <= tokens <= len(self._token_ids) and sequences <= len(self._tables)
        assert logits < 2 or bool(np.all(np.diff(batch.logit_rows) > 0)), "logit rows must ascend"
        self._job[:5] = tokens, sequences, logits, len(batch.hidden_rows), batch.has_adapters
        self._token_ids[:tokens] = batch.token_ids
        self._positions[:tokens] = batch.positions
        self._starts[: sequences + 1] = batch.starts
        self._logit_rows[:logits] = batch.logit_rows
        self._hidden_rows[: len(batch.hidden_rows)] = batch.hidden_rows
        self._row_adapters[:tokens] = batch.row_adapters
        self._tables[:sequences, : batch.page_tables.shape[1]] = batch.page_tables
        self._cos_sin[:, :tokens] = self._rotary.cos_sin(batch.positions, batch.row_prompt_lengths)

    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        return self._pages.take(list(page_ids), axis=0, out=out, mode="clip")  # "raise" would copy twice

    def write_pages(self, page_ids: Sequence[int], pages: PageBytes) -> None:
        self._pages[list(page_ids)] = pages

    @property
    def thread_choice(self) -> ThreadChoice:
        """The numbers of threads to choose from."""
        return self._threads

    def best_threads(self) -> dict[int, int]:
        """Tokens of a step, at least -> the number of threads that was found best for it so far."""
        return self._policy.best()

    def roofline(self) -> Roofline:
        return roofline.measure(self.info.threads)

    def weights_bytes(self) -> int:
        matrices = sum(matrix.array.nbytes for matrix in self._matrices.values())
        return matrices + sum(vector.nbytes for vector in self._vectors.values())

    def held_bytes(self) -> int:
        return own_bytes()

    def close(self) -> None:
        if self._team is not None:
            self._team.close()
            self._team = None
        self._arrays, self._routing, self._matrices, self._vectors, self._smoothing, self._adapters = {}, {}, {}, {}, {}, []


def _names(config: ModelConfig, is_matrix: bool) -> list[str]:
    """Of matrices, those of experts too, or of vectors: norms and biases."""
    return [name for name, shape in tensor_shapes(config).items() if (len(shape) > 1) == is_matrix]


def _packed(checkpoint: Checkpoint, kinds: Mapping[str, PackedType], threads: int, report: Reporter) -> dict[str, PackedMatrix]:
    """All matrices, by name."""
    tensors = {name: checkpoint.tensors[name] for name in kinds}
    others = sorted({tensor.type.name for tensor in tensors.values() if tensor.type.name not in KINDS})
    if others:
        report.notice(f"packing {', '.join(others)} weights to Q8_0 for this CPU")
    total, done = sum(tensor.num_bytes for tensor in tensors.values()), 0

    def packed(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        report.progress("loading weights", done, total, "bytes")

    return pack_all(tensors, kinds, threads, packed)


def _vectors(checkpoint: Checkpoint) -> dict[str, FloatVector]:
    """Norms and biases by name, padded to whole blocks."""
    names = _names(checkpoint.config, is_matrix=False)
    return {name: _padded_vector(checkpoint.tensors[name].dequantize()) for name in names}


def _padded_vector(values: FloatVector) -> FloatVector:
    padding = -len(values) % BLOCK
    return np.ascontiguousarray(np.pad(values.astype(np.float32), (0, padding)))


def _zeros(num_bytes: Mapping[str, int]) -> dict[str, Bytes]:
    return {name: aligned_zeros(count) for name, count in num_bytes.items()}


def _addresses(arrays: Mapping[str, Bytes]) -> dict[str, int]:
    return {name: int(array.ctypes.data) for name, array in arrays.items()}


def _table(rows: Iterable[NamedTuple]) -> Bytes:
    return np.frombuffer(b"".join(map(bytes_of, rows)), np.uint8)
