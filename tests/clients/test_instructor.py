"""instructor, whose default mode forces a named tool."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.server.serving import RunningServer

instructor = pytest.importorskip("instructor")


class Animal(BaseModel):
    """An animal."""

    legs: Literal["two", "four"]


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_an_object_of_the_schema(server: RunningServer, mode: str) -> None:
    import openai

    plain = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    client: Any = instructor.from_openai(plain, mode=instructor.Mode[mode])
    messages = [{"role": "user", "content": "hello"}]
    found = client.chat.completions.create(model="caller", messages=messages, response_model=Animal, max_retries=0)
    assert isinstance(found, Animal)
