"""Will it fit? Computes weights, KV and scratch in bytes from headers alone, before anything is allocated."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple, Protocol

from puna.config import EngineConfig
from puna.errors import InsufficientMemoryError, UsageError
from puna.formats.base import Adapter
from puna.model.spec import Dense, Experts, ModelConfig
from puna.model.weights import EMBED, active_share, layer_of
from puna.progress import SILENT, Reporter
from puna.units import exact_gib, gib

# Types that a backend keeps in memory -> (weights per block, bytes per block).
RESIDENT_BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q8_0": (32, 34),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q4_K": (256, 148),  # its 6-bit scales take a byte each, as those of other types do (`backends/cpu/layout.py`)
    "Q5_K": (256, 180),
    "Q6_K": (256, 210),
    "Q3_K": (256, 114),
    "Q2_K": (256, 84),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 138),
    "MXFP4": (32, 17),
}
KV_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "int8": 1}
KV_SCALE_BYTES = {"int8": 4}  # per token and head
LEAST_CONTEXT = 256  # tokens: a context is not lowered below this
USUAL_CONTEXT = 2048  # tokens: rather than a lower context, fewer bits per weight
OFFLOAD_BUFFERS = 2  # offloaded layers that the device holds at a time
GPU_RESERVED_BYTES = 512 << 20  # for partial sums of kernels, dequantised weights, gaps between the allocator's blocks
LOGIT_ROWS = 256  # of one step that scores prompts
FULL_SEQUENCES = 4  # of max_context tokens that fit the pages by default; more sequences can run if they are shorter


@dataclass(frozen=True, slots=True)
class Layout:
    """How a backend keeps tensors and KV in memory: a row of the table of backends."""

    resident_types: Mapping[str, str]  # tensor type in the file -> type in memory; other types become `other`
    other: str
    kv_types: tuple[str, ...]  # the first is the default
    row_multiple: int = 1  # rows are padded to a multiple of this
    vector_multiple: int = 1  # vectors are padded to a multiple of this; rows of blocks to whole blocks
    value_multiple: int = 1  # the head_dim of V is padded to a multiple of this
    better: Mapping[str, str] = field(default_factory=dict)  # a weight's role -> the smallest type that it may have
    offloads: bool = False  # whether layers may stay in main memory
    kv_share: float = 0.5  # default share of K and V in the memory left by the weights: other programs need main memory too
    max_batch: int = 64  # default of sequences that run at once
    chunk_tokens: int = 256  # default token budget of a step
    logits_copies: int = 1  # copies of the logits in memory at a time
    attention_shares: int = 0  # partial results of attention in memory, per row and head

    def resident_type(self, file_type: str, name: str = "") -> str:
        """The type in memory of a matrix whose type in the file is `file_type`."""
        kept = self.resident_types.get(file_type, self.other)
        better = self.better.get(name.rpartition(".")[2], kept)
        return better if file_type == better or _bits(better) > _bits(kept) else kept


DEVICE, MAIN = "device", "main memory"


class Placement(NamedTuple):
    """A weight in memory: as which type, of how many bytes, and where. The backend obeys it."""

    name: str
    type: str  # a key of RESIDENT_BLOCKS; a vector is F32
    bytes: int
    where: str = DEVICE  # or MAIN: it is copied to the device in every step


@dataclass(frozen=True, slots=True)
class Plan:
    """What a backend must allocate, and the bytes of each part."""

    placements: tuple[Placement, ...]  # of all weights, and of the buffers for those in main memory
    kv_bytes: int
    scratch_bytes: int  # activations of the largest step, with attention's partial results
    logits_bytes: int  # of `max_logits` rows
    num_pages: int
    page_size: int  # tokens
    max_context: int  # tokens of one sequence
    max_tokens: int  # token rows of one step
    max_sequences: int
    max_logits: int  # token rows of one step that need logits
    kv_type: str  # a key of KV_BYTES
    layout: Layout  # how weights and KV lie in memory
    weights: str = "as-is"  # its name among the backend's layouts
    adapters_bytes: int = 0  # LoRA adapters that requests may name

    def offloading(self, count: int) -> Plan:
        """The same with the last `count` layers in main memory."""
        on_device = [one._replace(where=DEVICE) for one in self.placements if one.type]
        return replace(self, placements=offloading(on_device, count))

    @property
    def types(self) -> dict[str, str]:
        """Weight -> its type in memory."""
        return {one.name: one.type for one in self.placements}

    @property
    def weights_bytes(self) -> int:
        """Of the device's memory."""
        return sum(one.bytes for one in self.placements if one.where == DEVICE)

    @property
    def num_offloaded(self) -> int:
        """Offloaded layers, the last ones: their weights stay in main memory and are copied to the device in every step."""
        return len({layer_of(one.name) for one in self.placements if one.where == MAIN})

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.adapters_bytes + self.kv_bytes + self.scratch_bytes + self.logits_bytes


class TypeName(Protocol):
    """The fields of a block type that the plan needs."""

    @property
    def name(self) -> str: ...


class TensorHeader(Protocol):
    """The fields of a tensor that the plan needs (`formats.base.Tensor` has both)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> TypeName: ...


def make_plan(
    config: ModelConfig,
    tensors: Mapping[str, TensorHeader],
    engine: EngineConfig,
    layouts: Mapping[str, Layout],
    free_bytes: int,
    report: Reporter = SILENT,
    adapters: Sequence[Adapter] = (),
) -> Plan:
    """What to allocate on a device with `free_bytes` free; `engine.vram`, if set, is the most to use. `adapters`: LoRA adapters
    beside the weights, which requests may name.

    Takes the requested one of `layouts`, else the first that leaves space for a useful context, else the smallest. A requested
    `max_context` is kept, or refused with both numbers. The model's own limit is lowered, with a notice, to what fits in the
    layout's share of the memory that the weights leave.
    """
    _require_context(config, engine)
    engine = _settled(engine, next(iter(layouts.values())))
    free_bytes = min(free_bytes, engine.vram or free_bytes)
    needs = {name: _needs(config, tensors, engine, layouts[name], adapters) for name in _candidates(engine, layouts)}
    usual = engine.max_context or min(config.max_context, USUAL_CONTEXT)
    fitting = (name for name, need in needs.items() if need.fits(usual, free_bytes))
    name = next(fitting, min(needs, key=lambda name: needs[name].weights))
    num_offloaded = _num_offloaded(needs[name], usual, free_bytes) if layouts[name].offloads else 0
    need = needs[name].offloading(num_offloaded)
    left = need.pages_left(free_bytes)
    unasked = int(layouts[name].kv_share * left)
    context = engine.max_context or min(
        config.max_context, max(unasked * engine.page_size, min(config.max_context, LEAST_CONTEXT))
    )
    per_sequence = need.pages_of(context)
    if per_sequence > left:
        raise _too_large(need, per_sequence * need.page, free_bytes, context)
    _tell_weights(needs, name, free_bytes, report)
    if num_offloaded:
        report.notice(
            f"{num_offloaded} of {config.num_layers} layers stay in main memory and are copied to the device in every step, "
            f"{gib(sum(need.layers[-num_offloaded:]))}: slow, but it runs"
        )
    if not engine.max_context and context < config.max_context:
        report.notice(
            f"context lowered from the model's {config.max_context} tokens to {context}: its K and V take "
            f"{gib(per_sequence * need.page)} of the {gib(left * need.page)} that the weights leave free; "
            f"--max-context may be up to {min(config.max_context, left * engine.page_size)}"
        )
    num_pages = max(per_sequence, min(min(engine.max_batch, FULL_SEQUENCES) * per_sequence, unasked))
    return Plan(
        placements=offloading(need.placements, num_offloaded),
        kv_bytes=num_pages * need.page,
        scratch_bytes=need.scratch,
        logits_bytes=need.logits,
        num_pages=num_pages,
        page_size=engine.page_size,
        max_context=context,
        max_tokens=engine.chunk_tokens,
        max_sequences=min(engine.max_batch, engine.chunk_tokens),
        max_logits=_max_logits(engine),
        kv_type=need.kv_type,
        layout=layouts[name],
        weights=name,
        adapters_bytes=need.adapters,
    )


@dataclass(frozen=True, slots=True)
class _Needs:
    """Memory that a layout needs, in bytes."""

    placements: tuple[Placement, ...]  # all on the device
    weights: int
    layers: tuple[int, ...]  # parts of `weights`
    adapters: int
    scratch: int
    logits: int
    page: int
    page_size: int  # tokens
    kv_type: str

    def offloading(self, count: int) -> _Needs:
        """The same with the last `count` layers offloaded, and space for two of them."""
        moved = self.layers[len(self.layers) - count :]
        return replace(self, weights=self.weights - sum(moved) + OFFLOAD_BUFFERS * max(moved, default=0))

    def fits(self, num_tokens: int, free_bytes: int) -> bool:
        return self.pages_of(num_tokens) <= self.pages_left(free_bytes)

    def pages_left(self, free_bytes: int) -> int:
        return (free_bytes - self.weights - self.adapters - self.scratch - self.logits) // self.page

    def pages_of(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)


def _needs(
    config: ModelConfig,
    tensors: Mapping[str, TensorHeader],
    engine: EngineConfig,
    layout: Layout,
    adapters: Sequence[Adapter],
) -> _Needs:
    kv_type = _kv_type(engine, layout)
    placements = placements_of(tensors, layout)
    return _Needs(
        placements=placements,
        weights=sum(one.bytes for one in placements),
        layers=tuple(_bytes_by_layer(placements).values()),
        adapters=sum(adapter_bytes(one, layout) for one in adapters),
        scratch=scratch_bytes(config, engine, layout.attention_shares),
        logits=4 * _max_logits(engine) * config.vocab_size * layout.logits_copies,
        page=kv_bytes(config, engine.page_size, kv_type, layout.value_multiple),
        page_size=engine.page_size,
        kv_type=kv_type,
    )


def placements_of(tensors: Mapping[str, TensorHeader], layout: Layout) -> tuple[Placement, ...]:
    """Every weight as a layout keeps it, all on the device."""
    types = {
        name: layout.resident_type(tensor.type.name, name) if len(tensor.shape) > 1 else "F32" for name, tensor in tensors.items()
    }
    return tuple(Placement(name, kind, resident_bytes(tensors[name].shape, kind, layout)) for name, kind in types.items())


def offloading(placements: Sequence[Placement], count: int) -> tuple[Placement, ...]:
    """The same with the last `count` layers in main memory, and buffers for two of them on the device."""
    if not count:
        return tuple(placements)
    layers = _bytes_by_layer(placements)
    moved = set(list(layers)[-count:])
    buffers = Placement("offload buffers", "", OFFLOAD_BUFFERS * max(layers[layer] for layer in moved))
    return (*(one._replace(where=MAIN) if layer_of(one.name) in moved else one for one in placements), buffers)


def _bytes_by_layer(placements: Iterable[Placement]) -> Counter[int]:
    """Layer -> bytes of its weights, in order."""
    sizes: Counter[int] = Counter()
    for one in placements:
        if (layer := layer_of(one.name)) is not None:
            sizes[layer] += one.bytes
    return Counter(dict(sorted(sizes.items())))


def read_by_type(config: ModelConfig, plan: Plan) -> Counter[str]:
    """Bytes of weights on the device that one decoded token reads: one row of an untied embedding, and its experts'."""
    sizes: Counter[str] = Counter()
    for one in plan.placements:
        if one.where == DEVICE and one.type and (one.name != EMBED.name or config.tie_embeddings):
            sizes[one.type] += round(one.bytes * active_share(config, one.name))
    return sizes


def offloaded_bytes(plan: Plan) -> int:
    """Bytes of the weights that stay in main memory and cross the bus."""
    return sum(one.bytes for one in plan.placements if one.where == MAIN)


def _settled(engine: EngineConfig, layout: Layout) -> EngineConfig:
    """The settings, with the device's defaults for those not given. All layouts of a device have the same ones."""
    return replace(
        engine, max_batch=engine.max_batch or layout.max_batch, chunk_tokens=engine.chunk_tokens or layout.chunk_tokens
    )


def _max_logits(engine: EngineConfig) -> int:
    """The most rows with logits. A row of logits takes as much memory as hundreds of rows of activations, and few need one."""
    return min(engine.chunk_tokens, max(engine.max_batch, LOGIT_ROWS))


def _candidates(engine: EngineConfig, layouts: Mapping[str, Layout]) -> list[str]:
    if engine.weights == "auto":
        return list(layouts)
    if engine.weights not in layouts:
        raise UsageError(f"this device cannot use --weights {engine.weights}; it has {', '.join(layouts)}")
    return [engine.weights]


def _num_offloaded(need: _Needs, num_tokens: int, free_bytes: int) -> int:
    """The fewest layers to offload; all if even that is not enough."""
    if need.fits(num_tokens, free_bytes):
        return 0
    counts = range(OFFLOAD_BUFFERS + 1, len(need.layers) + 1)
    at = bisect_left(counts, True, key=lambda count: need.offloading(count).fits(num_tokens, free_bytes))
    return counts[at] if at < len(counts) else (counts or (0,))[-1]


def _tell_weights(needs: Mapping[str, _Needs], name: str, free_bytes: int, report: Reporter) -> None:
    asked = next(iter(needs))
    if name != asked:
        report.notice(
            f"weights as {name}, {gib(needs[name].weights)}: as they are in the file they need {gib(needs[asked].weights)}, "
            f"and {gib(free_bytes)} are free"
        )


def resident_bytes(shape: tuple[int, ...], resident_type: str, layout: Layout) -> int:
    """Bytes of a weight in memory. A matrix, and each of several experts', is padded as the layout says; a vector (a norm's
    weight) is kept as float32."""
    if len(shape) == 1:
        return 4 * _round_up(shape[0], layout.vector_multiple)
    weights, size = RESIDENT_BLOCKS[resident_type]
    rows = prod(shape[:-2]) * _round_up(shape[-2], layout.row_multiple)
    return rows * (_round_up(shape[-1], weights) // weights * size)


def adapter_bytes(adapter: Adapter, layout: Layout) -> int:
    """Bytes of a LoRA adapter beside the weights: all its numbers are float32, and the rows of A and of B's transpose padded."""
    rows = [(part.a.shape[1], part.b.shape[0], len(part.a)) for part in adapter.parts.values()]
    return sum(
        4 * rank * (_round_up(columns, layout.vector_multiple) + _round_up(height, layout.row_multiple))
        for columns, height, rank in rows
    )


def kv_bytes(config: ModelConfig, num_tokens: int, kv_type: str, value_multiple: int = 1) -> int:
    """Bytes of the K and V of `num_tokens` tokens, all layers."""
    numbers = config.head_dim + _round_up(config.head_dim, value_multiple)
    per_head = numbers * KV_BYTES[kv_type] + 2 * KV_SCALE_BYTES.get(kv_type, 0)
    return config.num_layers * config.num_kv_heads * num_tokens * per_head


def scratch_bytes(config: ModelConfig, engine: EngineConfig, attention_shares: int = 0) -> int:
    """Bytes of activations of the largest step, all float32: an upper bound for any backend. Includes attention's partial results
    for generated tokens: per row and split, one sum for each number of a head, and two numbers of the softmax."""
    ffn = max(_ffn_numbers(config, layer.ffn) for layer in config.layers)
    row = 4 * config.hidden_size + 2 * (config.q_size + config.kv_size) + ffn
    partial = config.num_heads * attention_shares * (config.head_dim + 2)
    return 4 * (engine.chunk_tokens * row + min(engine.max_batch, engine.chunk_tokens) * partial)


def _ffn_numbers(config: ModelConfig, ffn: Dense | Experts) -> int:
    """Of a token's activations inside a feed-forward part; with experts also what goes into each and comes out of it."""
    if isinstance(ffn, Dense):
        return 3 * ffn.size
    return ffn.count + ffn.top_k * (3 * ffn.size + 2 * config.hidden_size + 4)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _require_context(config: ModelConfig, engine: EngineConfig) -> None:
    if engine.max_context > config.max_context:
        raise UsageError(
            f"--max-context is {engine.max_context}; the model was made for {config.max_context} tokens at most",
            hint=f"Give {config.max_context} or fewer, or leave it out.",
        )


def _kv_type(engine: EngineConfig, layout: Layout) -> str:
    if engine.kv_type == "auto":
        return layout.kv_types[0]
    if engine.kv_type not in layout.kv_types:
        raise UsageError(f"--kv-type is {engine.kv_type!r}; this backend has {', '.join(layout.kv_types)}")
    return engine.kv_type


def _bits(kind: str) -> float:
    weights, size = RESIDENT_BLOCKS[kind]
    return 8 * size / weights


# Weights setting -> types of matrices that it makes smaller.
SHRINKS: Mapping[str, frozenset[str]] = {
    "int8": frozenset(("F32", "F16", "BF16")),
    "int4": frozenset(("F32", "F16", "BF16", "Q8_0", "Q6_K")),
}
OFFLOAD_SHARE = 0.8  # of the planned bytes: with this budget some layers are offloaded


def advice(
    plan: Plan, config: ModelConfig, tensors: Mapping[str, TensorHeader], weights: Sequence[str] = (), reserved: int | None = None
) -> str:
    """What to do if memory ran out although the plan fits: one sentence with the next flag to try.

    The steps: fewer bits per weight (the first of `weights` that saves memory), offloaded layers, a smaller context, a smaller
    model. `reserved`: bytes of the device that a plan leaves free; None: its memory is the main memory.
    """
    step = next(_next_steps(plan, config, tensors, weights, reserved))
    return f"Take {step}, or close other programs; `puna plan MODEL` lists what fits."


def _next_steps(
    plan: Plan, config: ModelConfig, tensors: Mapping[str, TensorHeader], weights: Sequence[str], reserved: int | None
) -> Iterator[str]:
    kinds = {one.type for one in plan.placements if layer_of(one.name) is not None and len(tensors[one.name].shape) > 1}
    yield from (f"--weights {name}" for name in weights if SHRINKS[name] & kinds)
    if reserved is not None and plan.num_offloaded < config.num_layers:
        budget = int(OFFLOAD_SHARE * plan.total_bytes + reserved) >> 20  # MiB
        if (budget << 20) - reserved >= plan.total_bytes - plan.weights_bytes + _least_weights(plan):
            yield f"--vram {budget}MiB, with which some layers stay in main memory"
    if plan.max_context >= 2 * LEAST_CONTEXT:
        yield f"--max-context {plan.max_context // 2}"
    yield "a smaller model"


def _least_weights(plan: Plan) -> int:
    """Bytes of weights on a device if all layers are offloaded."""
    layers = _bytes_by_layer(plan.placements)
    others = sum(one.bytes for one in plan.placements if one.type and layer_of(one.name) is None)
    return others + OFFLOAD_BUFFERS * max(layers.values(), default=0)


def _too_large(need: _Needs, kv: int, free_bytes: int, context: int) -> InsufficientMemoryError:
    scratch = need.scratch + need.logits
    beside = free_bytes - need.weights - need.adapters - scratch
    adapters = f"adapters {exact_gib(need.adapters)}, " if need.adapters else ""
    needed = need.weights + need.adapters + kv + scratch
    return InsufficientMemoryError(
        f"the model needs {exact_gib(needed)}, and {exact_gib(max(0, free_bytes))} are free: "
        f"weights {exact_gib(need.weights)}, {adapters}KV of {context} tokens {exact_gib(kv)}, scratch {exact_gib(scratch)}",
        hint=("Take a smaller context with --max-context" if beside >= kv // 16 else "Take a smaller model or one of fewer bits")
        + ", or close other programs; `puna plan MODEL` lists what fits.",
        needed_bytes=needed,
    )
