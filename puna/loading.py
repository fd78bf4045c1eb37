"""From a path or name to a loaded model: its checkpoint, tokenizer, plan and backend, and what stands beside them."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from puna import formats, hub
from puna.backends import backend_spec, begin_to_compile, choose_device, create_backend, require_device
from puna.backends.base import Backend
from puna.config import EngineConfig
from puna.draft_model import ModelDrafter, require_same_vocabulary
from puna.errors import UsageError
from puna.formats.base import Adapter, Checkpoint, TokenizerSpec
from puna.formats.lora import for_requests, merged
from puna.formats.lora_files import read_adapter
from puna.formats.shards import part_of
from puna.lora import split_name, split_scale
from puna.plan import Plan, make_plan
from puna.progress import Reporter
from puna.speculation import Drafter, drafter_of
from puna.stored_pages import StoredPages, open_stored_pages, prepared_folder
from puna.suggested import NOTHING, Suggested, suggested
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Footprint:
    """Device memory for loading: predicted by the plan, and measured."""

    predicted_bytes: int
    actual_bytes: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an LLM."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer | None
    backend: Backend
    plan: Plan
    config: EngineConfig
    footprint: Footprint | None = None


def load_parts(
    path_or_name: str | Path | None,
    config: EngineConfig,
    tokenizer: Path | None,
    report: Reporter,
    check: Callable[[Checkpoint], None] | None,
) -> Parts:
    """Open a model, plan it, and load its weights; the arguments are those of `LLM`. What fails leaves nothing allocated."""
    with _without_collection():
        return _load_parts(path_or_name, config, tokenizer, report, check)


@contextmanager
def _without_collection() -> Iterator[None]:
    """A vocabulary is a million objects that stay: the collector would walk over them again and again, a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _load_parts(
    path_or_name: str | Path | None,
    config: EngineConfig,
    tokenizer: Path | None,
    report: Reporter,
    check: Callable[[Checkpoint], None] | None,
) -> Parts:
    if config.cache_dir:
        prepared_folder(config)  # an error comes before the weights are read
    require_device(config)  # before a model is fetched
    config = choose_device(config, report)
    begin_to_compile(config, partial(hub.types_to_fetch, path_or_name))
    checkpoint = formats.open_checkpoint(hub.resolve(path_or_name, report), tokenizer=tokenizer)
    if check is not None:
        check(checkpoint)
    checkpoint = with_adapters(checkpoint, config)
    backend = create_backend(config, report)
    tokenizer_built = _begin_to_build(checkpoint.tokenizer)  # on a core that the weights leave idle
    try:
        info, spec_of_device = backend.info, backend_spec(config.device)
        largest = part_of(checkpoint, info.num_ranks - 1, info.num_ranks)  # every process makes the same plan
        layouts = spec_of_device.layouts
        plan = make_plan(largest.config, largest.tensors, config, layouts, info.free_bytes, report, largest.adapters)
        held = backend.held_bytes()
        backend.load(part_of(checkpoint, info.rank, info.num_ranks), plan, report)
        text = tokenizer_built()
        predicted = plan.weights_bytes + plan.adapters_bytes + (plan.kv_bytes if spec_of_device.fills_kv else 0)
        footprint = Footprint(predicted, backend.held_bytes() - held)
    except BaseException:
        backend.close()
        raise
    return Parts(checkpoint, text, backend, plan, config, footprint)


def _begin_to_build(spec: TokenizerSpec | None) -> Callable[[], Tokenizer | None]:
    """Build the tokenizer in the background. The function that is returned waits for it, and raises what building it raised."""
    if spec is None:
        return lambda: None
    pool = ThreadPoolExecutor(1, "puna-tokenizer")
    built = pool.submit(build_tokenizer, spec)
    pool.shutdown(wait=False)
    return built.result


def with_adapters(checkpoint: Checkpoint, config: EngineConfig) -> Checkpoint:
    """The model with the adapters of `lora` in its weights, and those of `lora_modules` beside them."""
    if not (config.lora or config.lora_modules):
        return checkpoint

    def read(text: str) -> Adapter:
        path, scale = split_scale(text)
        return read_adapter(Path(path).expanduser(), checkpoint.config).scaled(scale)

    names, paths = zip(*map(split_name, config.lora_modules), strict=True) if config.lora_modules else ((), ())
    if len(set(names)) < len(names):
        raise UsageError(f"lora_modules names {max(names, key=names.count)!r} twice", hint="Give each adapter a name of its own.")
    beside = [for_requests(read(path), name) for name, path in zip(names, paths, strict=True)]
    changed = merged(checkpoint, list(map(read, config.lora))) if config.lora else checkpoint
    return dataclasses.replace(changed, adapters=beside)


def load_beside(parts: Parts, report: Reporter) -> tuple[StoredPages | None, Drafter | None]:
    """The pages on disk, if a folder is named for them, and who guesses tokens. What fails closes the backend too."""
    stored = None
    try:
        stored = open_stored_pages(parts.checkpoint, parts.backend, parts.plan, parts.config, report)
        return stored, _drafter(parts, report)
    except BaseException:
        if stored is not None:
            stored.close()
        parts.backend.close()
        raise


def _drafter(parts: Parts, report: Reporter) -> Drafter | None:
    """The draft model, loaded here once its vocabulary is known to be the same, or n-grams, or nobody."""
    config = parts.config
    if not config.draft_model:
        return drafter_of(config, parts.backend)

    def check(draft: Checkpoint) -> None:
        require_same_vocabulary(parts.tokenizer, None if draft.tokenizer is None else build_tokenizer(draft.tokenizer))

    own = dataclasses.replace(
        config, draft_model="", max_context=0, weights="auto", vram=0, cache_dir="", lora=(), lora_modules=()
    )
    if parts.backend.info.num_ranks > 1:
        raise UsageError("a draft model cannot guess for a model that several processes share", hint="Leave --draft-model out.")
    draft = load_parts(config.draft_model, own, None, report, check)
    return ModelDrafter(draft.backend, draft.plan, parts.checkpoint.config.vocab_size)


SOURCES = {"huggingface": "generation_config.json", "gguf": "the file (general.sampling)"}


def suggestions_in(checkpoint: Checkpoint, plan: Plan, config: EngineConfig) -> Suggested:
    """The sampling parameters that the model's files suggest, if `config` wants them."""
    if config.sampling_defaults != "model":
        return NOTHING
    source = "config.json" if "_from_model_config" in checkpoint.generation else SOURCES.get(checkpoint.format, "the model")
    made = suggested(checkpoint.generation, source, checkpoint.config.vocab_size, plan.max_context)
    if checkpoint.tokenizer is not None:
        return made
    # A tokenizer knows the end-of-text ids; without one they are the ids that the files name.
    ends = checkpoint.generation.get("eos_token_id", checkpoint.metadata.get("eos_token_id"))
    ids = [i for i in (ends if isinstance(ends, list) else [ends]) if type(i) is int and 0 <= i < checkpoint.config.vocab_size]
    return dataclasses.replace(made, settings={**made.settings, "stop_ids": tuple(ids)}) if ids else made
