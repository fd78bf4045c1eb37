"""The served models by name: loaded when first asked for, kept while they are used, evicted when another needs the memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from puna.config import EngineConfig
from puna.errors import InsufficientMemoryError, PunaError, UsageError, did_you_mean
from puna.llm import LLM
from puna.server.refusals import Refusal

log = logging.getLogger("puna.server")

SEVERAL_S = 300.0  # that an unused model stays loaded where several are served, unless told otherwise


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model under its name. `source` is what `LLM` takes; `llm` is None while it is not loaded."""

    name: str
    source: str | None
    llm: LLM | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))
    num_users: int = 0
    is_loading: bool = False
    used_at: float = 0.0  # on the clock of time.monotonic
    keep_alive_s: float | None = None  # None: until its memory is needed

    @property
    def is_idle(self) -> bool:
        return self.llm is not None and self.num_users == 0

    @property
    def expires_at(self) -> float | None:
        """When it is unloaded if nobody uses it, on that clock; None: never by itself."""
        return None if self.keep_alive_s is None else self.used_at + self.keep_alive_s


class Models:
    """All served models; the first is the default one. `load` opens one: LLM, or a test's stand-in."""

    def __init__(
        self,
        models: Iterable[ServedModel],
        config: EngineConfig,
        aliases: Iterable[str] = (),
        load: Callable[..., LLM] = LLM,
        keep_alive_s: float | None = None,
    ) -> None:
        """`keep_alive_s`: as ServerSettings has it."""
        self.all = list(models)
        names = [model.name for model in self.all]
        if len(set(names)) < len(names):
            raise UsageError(f"two models are named {max(names, key=names.count)!r}", hint="Give one another name: NAME=MODEL.")
        self._by_name = {model.name: model for model in self.all} | dict.fromkeys(aliases, self.all[0])
        self.config = config
        self._load = load
        self._loading = asyncio.Lock()
        if keep_alive_s is None:
            keep_alive_s = SEVERAL_S if len(self.all) > 1 else math.inf
        for model in self.all:
            model.keep_alive_s = None if keep_alive_s == math.inf else keep_alive_s

    @property
    def default(self) -> ServedModel:
        return self.all[0]

    @property
    def idle_bytes(self) -> int:
        """Memory of the models that nobody uses: they make room for another one."""
        return sum(model.llm.plan.total_bytes for model in self.all if model.llm is not None and model.is_idle)

    def named(self, name: str) -> ServedModel:
        """The model of a request; "" is the default one. Refusal (404) for a name that is not served."""
        if not name:
            return self.default
        spelled = (name, name.replace(":", "-"), name.removesuffix("-instruct"), "*")  # Ollama's spelling, the model's full name
        found = next((self._by_name[one] for one in spelled if one in self._by_name), None)
        if found is None:
            known = ", ".join(self._by_name)
            hint = did_you_mean(name, list(self._by_name))
            raise Refusal(
                404, f"the model {name[:80]!r} is not served. {hint} Served: {known}.".replace("  ", " "),
                field="model", code="model_not_found",
            )  # fmt: skip
        return found

    @contextlib.asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[LLM]:
        """The model, loaded; it stays loaded until the block ends."""
        model = self.named(name)
        model.num_users += 1
        try:
            yield await self.ready(model)
        finally:
            self.release(model)

    def release(self, model: ServedModel) -> None:
        model.num_users -= 1
        model.used_at = time.monotonic()

    async def ready(self, model: ServedModel) -> LLM:
        """The model, loaded for a request. Refusal if that fails: its reason, which may name files, goes to the log only."""
        try:
            return await self.loaded(model)
        except PunaError as error:
            log.error("%s cannot be loaded: %s", model.name, error.line)
            status = 503 if isinstance(error, InsufficientMemoryError) else 500
            what = "does not fit into the memory" if status == 503 else "cannot be loaded; the server's log says why"
            raise Refusal(status, f"the model {model.name!r} {what}", field="model", code="model_not_loadable") from error

    async def loaded(self, model: ServedModel) -> LLM:
        """Load it, unless it is; one model at a time, so that each plan knows what is free.

        Models that nobody uses make room, the one that was used longest ago first.
        """
        async with self._loading:
            model.is_loading = model.llm is None
            try:
                while model.llm is None:
                    await self._load_or_make_room(model)
            finally:
                model.is_loading = False
            return model.llm

    async def _load_or_make_room(self, model: ServedModel) -> None:
        try:
            llm = await asyncio.to_thread(partial(self._load, model.source, self.config))
            await asyncio.to_thread(_warm_up, llm)
            model.llm, model.used_at = llm, time.monotonic()
        except InsufficientMemoryError:
            if not await self._evicted_one():
                raise

    async def unload(self, model: ServedModel) -> None:
        """Free its memory. Requests that run end with ABORT."""
        llm, model.llm = model.llm, None
        if llm is not None:
            await asyncio.to_thread(llm.close)

    async def unload_expired(self) -> None:
        """Unload what nobody has used for as long as it was to be kept."""
        now = time.monotonic()
        for model in self.all:
            if model.is_idle and model.expires_at is not None and model.expires_at <= now:
                await self.unload(model)
                log.info("%s is unloaded: it was not used for %g s", model.name, model.keep_alive_s)

    async def close(self) -> None:
        for model in self.all:
            await self.unload(model)

    async def _evicted_one(self) -> bool:
        idle = [model for model in self.all if model.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda model: model.used_at)
        await self.unload(oldest)
        log.info("%s is unloaded: another model needs the memory", oldest.name)
        return True


def _warm_up(llm: LLM) -> None:
    """Start the thread that steps, and take a step: the first request is then as fast as the tenth."""
    llm.runner.start()
    if llm.tokenizer is not None:
        llm.generate(llm.encode("a") or [0], max_tokens=2, ignore_eos=True)
