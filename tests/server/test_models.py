"""Served models by name: the first stays, the others are unloaded when nobody uses them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from tests.server.serving import SETTINGS, quick_model, serving


def test_a_model_that_nobody_uses_is_unloaded_but_for_the_first() -> None:
    models = [quick_model("first"), quick_model("second")]
    with serving(*models, settings=replace(SETTINGS, keep_alive_s=0.01)) as server:
        assert server.post("/v1/completions", {"prompt": "a", "model": "second", "max_tokens": 1}).status == 200
        time.sleep(0.02)
        asyncio.run_coroutine_threadsafe(server.service.models.unload_expired(), server.loop).result(10)
    assert [model.keep_alive_s for model in models] == [None, 0.01]
    assert server.service.models.all[1].llm is None
