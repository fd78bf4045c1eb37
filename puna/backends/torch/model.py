"""The torch backend: one forward pass on a GPU, or on the CPU; alone, or as one of several ranks that share a model.

A layer is five operations, and a few others in some families; `plain` has them in torch, `kernels` in Triton (`ops.py`
chooses). With several ranks, each holds a part of every matrix (`formats/shards.py` says which), and a layer sums their results
twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NoReturn

import numpy as np
import torch

from puna.backends.base import DeviceInfo, PageBytes, ProcessRank, Roofline, Translation, load_whole, moved
from puna.backends.torch import device as devices
from puna.backends.torch import lora, parallel, roofline
from puna.backends.torch.device import require_gpu
from puna.backends.torch.errors import is_out_of_memory, translated
from puna.backends.torch.exact import glu, softcap
from puna.backends.torch.graph import CUDARecorder, Graphs, NotRecordedError, Recorder, bucket_rows
from puna.backends.torch.kv import allocate, read_pages, write_pages
from puna.backends.torch.layer import ExpertWeights, Layer, Loader
from puna.backends.torch.offload import Offload, pack
from puna.backends.torch.ops import Ops
from puna.backends.torch.ops import choose as choose_ops
from puna.backends.torch.parallel import Ranks
from puna.backends.torch.staging import num_bytes, upload
from puna.backends.torch.step import Step, make_step
from puna.backends.torch.weights import Norm
from puna.batch import Batch, Computed, Logits, Pending, SamplingBatch
from puna.config import EngineConfig
from puna.errors import DeviceError, PunaError, first_line
from puna.formats.base import Checkpoint
from puna.model.rotary import RotaryTables
from puna.model.spec import ModelConfig
from puna.plan import GPU_RESERVED_BYTES, Plan, advice
from puna.progress import SILENT, Reporter
from puna.resources import own_bytes, return_free_memory

__all__ = ["TorchBackend", "create", "require_gpu"]

MAIN_MEMORY = torch.device("cpu")
WEIGHTS = ("int8", "int4")  # ways to keep weights in fewer bits
CLOSE_OTHERS = "Close other programs that use the device."


class TorchBackend:
    """The contract is in `backends/base.py`."""

    def __init__(
        self,
        device: torch.device,
        info: DeviceInfo,
        ranks: Ranks,
        ops: Ops,
        report: Reporter = SILENT,
        recorder: Recorder | None = None,
    ) -> None:
        """`recorder` records decode steps, where that is possible."""
        self.info = info
        self.filters: frozenset[str] = SamplingBatch.FILTERS if ranks.process.size == 1 else frozenset()
        self.prompts_apart = ops.PROMPTS_APART
        self.kv_arithmetic = f"{devices.arithmetic(device)}, {ops.READS_HOST}" if ranks.process.size == 1 else ""
        self._report = report
        self._device = device
        self._ranks = ranks
        self._ops = ops
        self._recorder = recorder
        self._graphs: Graphs | None = None
        self._model: ModelConfig | None = None
        self._advice = ""  # the hint when memory runs out
        self._hidden: list[torch.Tensor] = []  # of a step's passes, in order: only prompts have hidden rows, and come first

    # ---- loading ----------------------------------------------------------------------------------------------------

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        is_gpu = self._device.type == "cuda"
        reserved = GPU_RESERVED_BYTES if is_gpu else 0
        self._advice = advice(plan, checkpoint.config, checkpoint.tensors, WEIGHTS, reserved if is_gpu else None)
        load_whole(partial(self._load, checkpoint, plan, report), self._release, self._told("while loading the model"))
        if self._ranks.process.rank > 0:
            self._follow()

    def _told(self, doing: str) -> Translation:
        return translated(self.info.name, doing, lambda: self._advice)

    def _release(self) -> None:
        """Free all memory, also of a model that is loaded in part."""
        self._model, self._graphs = None, None
        for name in ("_kv", "_embed", "_layers", "_offloaded", "_final_norm", "_lm_head", "_last_ids"):
            vars(self).pop(name, None)
        if self._device.type == "cuda":
            with suppress(RuntimeError):  # the GPU may be lost
                torch.cuda.empty_cache()

    def _load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter) -> None:
        model = checkpoint.config
        loader = Loader(checkpoint.tensors, plan.types, self._ranks.process.rank == 0, report)
        rotary, pages = RotaryTables(model), allocate(model, plan, self._device)
        self._kv = pages
        num_resident = model.num_layers - plan.num_offloaded

        def layer(number: int, device: torch.device = self._device) -> Layer:
            tables = rotary.of_q[number], rotary.of_k[number]
            made = loader.layer(number, model.layers[number], tables, pages[number], device)
            return replace(made, adapters=lora.of_layer(checkpoint.adapters, number, self._device))

        self._embed = loader.matrix("embed", self._device)
        self._layers = [layer(number) for number in range(num_resident)]
        is_gpu = self._device.type == "cuda"
        packed = [pack(layer(number, MAIN_MEMORY), pinned=is_gpu) for number in range(num_resident, model.num_layers)]
        self._offloaded = Offload(packed, self._device)
        self._final_norm = loader.vector("final_norm", self._device)
        self._lm_head = self._embed if model.tie_embeddings else loader.matrix("lm_head", self._device)
        self._first_id = sum(self._ranks.each(self._embed.rows)[: self._ranks.process.rank])
        self._last_ids = torch.zeros(1, dtype=torch.int32, device=self._device)  # those that the previous step sampled
        self._page_size, self._max_rows = plan.page_size, plan.max_tokens
        self._model, self._rotary = model, rotary
        most_rows = max(plan.max_sequences, bucket_rows(plan.max_sequences))  # a recorded step fills its bucket
        self._ops.reserve(model, plan.max_sequences if self._recorder is None else most_rows, self._device)
        if self._recorder is not None and not plan.num_offloaded:
            self._graphs = self._new_graphs(self._recorder, model, plan)
        return_free_memory()

    def _new_graphs(self, recorder: Recorder, model: ModelConfig, plan: Plan) -> Graphs:
        rows = bucket_rows(plan.max_sequences)
        return Graphs(self._pass, self._rotary, plan, torch.empty((rows, model.vocab_size), device=self._device), recorder)

    # ---- running ----------------------------------------------------------------------------------------------------

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Pending:
        self._ranks.tell(batch)
        doing = f"in a step of {len(batch.token_ids)} tokens"
        with self._told(doing), self._current():
            if sampling is None:
                return self._forward(batch)
            return SampledTokens(self._sample(batch, sampling), lambda: self._told(doing))

    def _current(self) -> AbstractContextManager[object]:
        """Triton launches on the current device, which each thread has for itself: any thread may run a step."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _forward(self, batch: Batch) -> Computed:
        self._hidden = []
        with torch.inference_mode():
            logits = self._logits(batch, torch.from_numpy(batch.token_ids).to(self._device))
            hidden = torch.cat(self._hidden) if self._hidden else logits.new_empty((0, self._loaded().hidden_size))
        self._ranks.done()
        return Computed(_on_host(logits), _on_host(hidden))

    def _sample(self, batch: Batch, sampling: SamplingBatch) -> torch.Tensor:
        """Sample on the device, where the next step finds the ids without the host.  # -> (num_logits,) int32"""
        with torch.inference_mode():
            there = upload({"sources": sampling.sources, "given": batch.token_ids}, self._device)
            token_ids = torch.where(there["sources"] < 0, there["given"], self._last_ids[there["sources"].clamp_min(0)])
            ids = self._ops.sample(self._logits(batch, token_ids), sampling, self._last_ids)
            if len(ids):
                self._last_ids = ids.clamp_min(0)  # a row without an id takes any: nobody reads what follows
        return ids

    def _logits(self, batch: Batch, token_ids: torch.Tensor) -> torch.Tensor:
        """The requested logits, on the device.  # (num_logits, vocab_size)

        Prompt tokens and generated ones take different ways, one fast for many rows, one for few. A row's way, and so its bits,
        does not depend on the other rows. Prompts come first, because generated tokens see their K and V.
        """
        of_prompt = batch.is_prompt
        if not of_prompt.any():
            return self._decoded(batch, token_ids)
        if of_prompt.all():
            return self._in_parts(batch, token_ids, of_prompts=True)
        prompts, others, wanted = np.flatnonzero(of_prompt), np.flatnonzero(~of_prompt), of_prompt[batch.logit_rows]
        indices = {"of_prompts": np.flatnonzero(wanted), "of_others": np.flatnonzero(~wanted)}
        there = upload({"prompts": prompts, "others": others, **indices}, self._device)
        first = self._in_parts(batch.rows(prompts), token_ids[there["prompts"]], of_prompts=True)
        logits = first.new_empty((len(wanted), first.shape[1]))
        logits[there["of_prompts"]] = first
        logits[there["of_others"]] = self._decoded(batch.rows(others), token_ids[there["others"]])
        return logits

    def _decoded(self, batch: Batch, token_ids: torch.Tensor) -> torch.Tensor:
        """The logits of generated tokens: by a recorded step if possible."""
        try:
            logits = None if self._graphs is None or batch.has_adapters else self._graphs.logits(batch, token_ids)
        except (NotRecordedError, torch.OutOfMemoryError) as error:
            self._record_less(len(token_ids), error)
            logits = None
        return self._in_parts(batch, token_ids, of_prompts=False) if logits is None else logits

    def _record_less(self, rows: int, error: RuntimeError) -> None:
        """Record no steps of `rows` or more if memory ran out; else none at all."""
        if self._graphs is None:
            return
        which = f"of {rows} or more sequences " if isinstance(error, torch.OutOfMemoryError) and rows > 1 else ""
        self._graphs.keep_below(rows if which else 0)
        self._report.notice(f"steps {which}are no longer recorded as CUDA graphs, which makes them slower: {first_line(error)}")

    def _in_parts(self, batch: Batch, token_ids: torch.Tensor, of_prompts: bool) -> torch.Tensor:
        """Run several smaller steps if one does not fit into the free memory."""
        rows = len(token_ids)
        if rows <= self._max_rows:
            try:
                return self._pass(make_step(batch, self._rotary, self._page_size, token_ids, of_prompts))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._step_down(rows, error)
        at = min(self._max_rows, rows // 2)
        parts = zip(batch.split(at), (token_ids[:at], token_ids[at:]), strict=True)
        return torch.cat([self._in_parts(part, ids, of_prompts) for part, ids in parts])

    def _step_down(self, rows: int, error: RuntimeError | MemoryError) -> None:
        """Halve the rows of a step from now on; InsufficientMemoryError if one row is too many."""
        if rows == 1 or self._ranks.process.size > 1:
            with self._told(f"in a step of {rows} tokens"):
                raise error
        self._max_rows = rows // 2
        if self._graphs is not None:
            self._graphs.keep_below(self._max_rows + 1)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._report.notice(f"{self.info.name} ran out of memory: from now on at most {self._max_rows} tokens in one step")

    def _follow(self) -> NoReturn:
        """On a rank that is not the first: take part in every step of the first one, and end with it."""
        code = 0
        try:
            while (batch := self._ranks.hear()) is not None:
                with self._told(f"in a step of {len(batch.token_ids)} tokens"), torch.inference_mode():
                    self._logits(batch, torch.from_numpy(batch.token_ids).to(self._device))
        except PunaError as error:  # end here: the script after `load` is for the first rank only
            code = error.exit_code
            sys.stderr.write(f"puna (rank {self._ranks.process.rank}): {error.line}\n")
        self.close()
        raise SystemExit(code)

    def _pass(self, step: Step) -> torch.Tensor:
        """Run one forward pass.  # -> (num_logits, vocab_size)"""
        model = self._loaded()
        x = self._embedded(model, step)
        for layer in chain(self._layers, self._offloaded.layers()):
            x = self._block(model, layer, x, step)
        logits = self._ops.norm_matvec(x[step.logit_rows], self._final_norm, model.norm_eps, (self._lm_head,), (None,))
        if len(step.hidden_rows):
            self._hidden.append(self._normed(x[step.hidden_rows], self._final_norm, model.norm_eps))
        return softcap(self._ranks.gather(logits), model.logit_softcap)

    def _embedded(self, model: ModelConfig, step: Step) -> torch.Tensor:
        """The scaled embeddings, (tokens, hidden_size). Each rank has the rows of its part of the vocabulary."""
        ids = step.token_ids - self._first_id
        known = (ids >= 0) & (ids < self._embed.rows)
        rows = self._ops.embed(self._embed, ids.clamp(0, self._embed.rows - 1))
        x = self._ranks.sum(torch.where(known.unsqueeze(1), rows, torch.zeros_like(rows)))
        return x if model.embedding_scale == 1.0 else x * model.embedding_scale

    def _block(self, model: ModelConfig, layer: Layer, x: torch.Tensor, step: Step) -> torch.Tensor:
        """One layer.  # (tokens, hidden_size) -> (tokens, hidden_size)"""
        eps, many, attention = model.norm_eps, step.of_prompts, layer.attention
        qkv = self._ops.norm_matvec(x, layer.attn_norm, eps, layer.qkv, layer.qkv_bias, many)
        if step.adapted:
            heights = model.q_size, model.kv_size, model.kv_size
            roles = tuple(zip(("q_proj", "k_proj", "v_proj"), heights, strict=True))
            lora.add(qkv, layer.adapters, roles, self._normed(x, layer.attn_norm, eps), step.adapted)
        q = self._ops.rope_write(qkv, model.num_heads, layer.head_norms, eps, layer.kv, step, layer.tables)
        attended = self._ops.attend(q, layer.kv, attention.window, step, attention.scale, attention.softcap)
        output = self._adapting(
            "o_proj", layer, attended, step, partial(self._ops.matvec_add, attended, layer.o, layer.o_bias, many=many)
        )
        x = self._add(x, layer.attn_post_norm, eps, output)
        return self._add(x, layer.ffn_post_norm, eps, partial(self._ffn, layer, x, eps, step=step))

    def _normed(self, x: torch.Tensor, norm: Norm, eps: float) -> torch.Tensor:
        """x, normed if `norm` is given.  # (rows, hidden_size)"""
        return x if norm is None else self._ops.norm_add(x, norm, eps, torch.zeros_like(x))

    def _adapting(
        self, role: str, layer: Layer, x: torch.Tensor, step: Step, output: Callable[..., torch.Tensor]
    ) -> Callable[..., torch.Tensor]:
        """`output`, which multiplies x by a matrix, with what adapters add to that."""
        if not step.adapted:
            return output

        def adapted(residual: torch.Tensor | None) -> torch.Tensor:
            y = output(residual)
            lora.add(y, layer.adapters, ((role, y.shape[1]),), x, step.adapted)
            return y

        return adapted

    def _add(self, x: torch.Tensor, norm: Norm, eps: float, output: Callable[..., torch.Tensor]) -> torch.Tensor:
        """x + output, normed first if `norm` is given. `output(residual)` adds the residual by itself; None: it adds none."""
        if norm is not None:
            return self._ops.norm_add(self._ranks.sum(output(None)), norm, eps, x)
        return self._ranks.sum(output(x if self._ranks.process.rank == 0 else None))

    def _ffn(self, layer: Layer, x: torch.Tensor, eps: float, residual: torch.Tensor | None, step: Step) -> torch.Tensor:
        """The feed-forward part's output (+ residual).  # (tokens, hidden_size) -> (tokens, hidden_size)"""
        ffn, many = layer.ffn, step.of_prompts
        if isinstance(ffn, ExpertWeights):
            return self._ops.experts_add(x, layer.ffn_norm, eps, ffn, residual, many)
        gate_up = self._ops.norm_matvec(x, layer.ffn_norm, eps, ffn.gate_up, ffn.gate_up_bias, many)
        down = partial(self._ops.glu_matvec_add, gate_up, ffn.down, ffn.down_bias, many=many, activation=ffn.spec.activation)
        if not step.adapted:
            return down(residual)
        roles = ("gate_proj", ffn.spec.size), ("up_proj", ffn.spec.size)
        lora.add(gate_up, layer.adapters, roles, self._normed(x, layer.ffn_norm, eps), step.adapted)
        return self._adapting("down_proj", layer, glu(gate_up, ffn.spec.activation), step, down)(residual)

    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        with self._told("while reading K and V"), self._current(), torch.inference_mode():
            return moved(read_pages(self._kv, page_ids).numpy(), out)

    def write_pages(self, page_ids: Sequence[int], pages: PageBytes) -> None:
        with self._told("while writing K and V"), self._current(), torch.inference_mode():
            write_pages(self._kv, page_ids, torch.from_numpy(pages))

    def roofline(self) -> Roofline:
        return roofline.measure(self._device)

    def weights_bytes(self) -> int:
        outside = [self._embed] if self._lm_head is self._embed else [self._embed, self._lm_head]
        others = num_bytes(self._final_norm) + sum(matrix.num_bytes for matrix in outside)
        return others + sum(layer.num_bytes for layer in self._layers) + self._offloaded.buffer_bytes

    def held_bytes(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else own_bytes()

    def close(self) -> None:
        self._ranks.close()
        self._release()

    def _loaded(self) -> ModelConfig:
        if self._model is None:
            raise DeviceError("the model is not loaded, or was closed")
        return self._model


def _on_host(rows: torch.Tensor) -> Logits:
    return np.array(rows.cpu().numpy(), np.float32)


class SampledTokens:
    """A pending step whose tokens the device samples, on their way to the host."""

    def __init__(self, ids: torch.Tensor, told: Callable[[], Translation]) -> None:
        """`told` translates the errors of reading; errors of the step show there."""
        self._ids, self._told = ids, told
        self._there: torch.cuda.Event | None = None
        if ids.device.type == "cuda":
            self._ids = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
            self._ids.copy_(ids, non_blocking=True)
            self._there = torch.cuda.Event()
            self._there.record()

    def logits(self) -> Logits:
        raise NotImplementedError("sampling overwrote the logits")

    def hidden(self) -> Logits:
        raise NotImplementedError("a step that samples has no hidden rows")

    def token_ids(self) -> list[int]:
        with self._told():
            if self._there is not None:
                self._there.synchronize()
            ids: list[int] = self._ids.tolist()
        return ids


def create(config: EngineConfig, report: Reporter = SILENT) -> TorchBackend:
    """A backend on the device of `config.device`; as one rank of several if torchrun started this process."""
    process = ProcessRank.from_env()
    device = devices.open_device(config, process)
    with translated(config.device, "while starting", lambda: CLOSE_OTHERS):
        return _create(config, process, device, report)


def _create(config: EngineConfig, process: ProcessRank, device: torch.device, report: Reporter) -> TorchBackend:
    ranks = parallel.join(process, device, report)
    ops = choose_ops(device, report)
    recorder = CUDARecorder() if config.graphs and device.type == "cuda" and process.size == 1 and not ops.READS_HOST else None
    return TorchBackend(device, devices.describe(device, config, ranks), ranks, ops, report, recorder)
