"""Served models: loaded when asked for, once; evicted when another needs the memory; unloaded when nobody used them for long."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from puna.config import EngineConfig
from puna.errors import InsufficientMemoryError, ModelFormatError, UsageError
from puna.llm import LLM
from puna.server.models import SEVERAL_S, Models, ServedModel
from puna.server.refusals import Refusal
from tests.server.serving import quick_model


class Memory:
    """Opens models while fewer than `room` are open."""

    def __init__(self, room: int = 9) -> None:
        self.room = room
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.error: Exception | None = None

    def load(self, source: str, config: EngineConfig) -> LLM:
        if self.error is not None:
            raise self.error
        if len(self.opened) - len(self.closed) >= self.room:
            raise InsufficientMemoryError("/secret/path does not fit")
        self.opened.append(source)
        made = quick_model(source).llm
        assert made is not None
        close = made.close

        def closing() -> None:
            self.closed.append(source)
            close()

        made.close = closing  # type: ignore[method-assign]
        return made


def run(test: Callable[[Models], Any], memory: Memory, keep_alive_s: float | None = None) -> None:
    async def all_of_it() -> None:
        models = Models([ServedModel(name, name) for name in "abc"], EngineConfig(), ("x",), memory.load, keep_alive_s)
        try:
            await test(models)
        finally:
            await models.close()
        assert sorted(memory.closed) == sorted(memory.opened)

    asyncio.run(all_of_it())


def test_a_model_is_loaded_once_for_all_who_ask_at_once() -> None:
    memory = Memory()

    async def test(models: Models) -> None:
        found = await asyncio.gather(*(models.loaded(models.named("b")) for _ in range(20)))
        assert len(set(map(id, found))) == 1 and memory.opened == ["b"]

    run(test, memory)


def test_the_one_that_was_used_longest_ago_makes_room() -> None:
    memory = Memory(room=2)

    async def test(models: Models) -> None:
        for name in "aba":
            async with models.using(name):
                pass
        async with models.using("c"):
            assert memory.closed == ["b"]

    run(test, memory)


def test_one_that_is_used_is_never_evicted() -> None:
    memory = Memory(room=1)

    async def test(models: Models) -> None:
        async with models.using("a") as llm:
            with pytest.raises(Refusal) as caught:
                async with models.using("b"):
                    pass
            assert caught.value.status == 503 and "secret" not in caught.value.message
            assert llm.generate("hello", max_tokens=1).token_ids
        async with models.using("b"):
            assert memory.closed == ["a"]

    run(test, memory)


def test_unused_models_are_unloaded_in_their_time() -> None:
    memory = Memory()

    async def test(models: Models) -> None:
        async with models.using("a"), models.using("b"):
            await models.unload_expired()
            assert memory.closed == []
        models.named("b").keep_alive_s = None
        await models.unload_expired()
        assert memory.closed == ["a"]

    run(test, memory, keep_alive_s=0.0)


def test_one_alone_stays_and_several_go_unless_told_otherwise() -> None:
    several = [ServedModel("a", "a"), ServedModel("b", "b")]
    for given, alone, many in ((None, None, SEVERAL_S), (9.0, 9.0, 9.0), (math.inf, None, None)):
        kept = [Models(models, EngineConfig(), keep_alive_s=given).default.keep_alive_s for models in (several[:1], several)]
        assert kept == [alone, many]


def test_names_aliases_and_those_that_nobody_serves() -> None:
    memory = Memory()

    async def test(models: Models) -> None:
        assert models.named("").name == models.named("x").name == "a"
        with pytest.raises(Refusal) as caught:
            models.named("d")
        assert caught.value.status == 404 and "a, b, c, x" in caught.value.message

    run(test, memory)
    with pytest.raises(UsageError, match="two models are named 'a'"):
        Models([ServedModel("a", "1"), ServedModel("a", "2")], EngineConfig())


def test_a_client_learns_nothing_of_files() -> None:
    memory = Memory()
    memory.error = ModelFormatError("/secret/path.gguf", "x", 3, "is wrong")

    async def test(models: Models) -> None:
        with pytest.raises(Refusal) as caught:
            async with models.using("a"):
                pass
        assert "secret" not in caught.value.message and models.default.num_users == 0
        memory.error = None
        async with models.using("a"):
            assert memory.opened == ["a"]

    run(test, memory)
