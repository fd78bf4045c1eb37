"""A model that answers what a test wants: a byte for a token, and a pause for each step."""

from __future__ import annotations

import time
from collections.abc import Callable

from puna.config import EngineConfig
from puna.llm import LLM
from puna.server.models import ServedModel
from tests.fakes import EOS, ByteTokenizer, FakeBackend, make_plan, random_checkpoint, tiny_config
from tests.server.serving import TEMPLATE

OPENING, CLOSING = b"assistant: ", b"</think>"
CONTEXT = 4096


def scripted_model(
    answer: Callable[[str], str], name: str = "scripted", pause_s: float = 0.0, template: str = TEMPLATE
) -> ServedModel:
    """A model whose greedy answer to a prompt is `answer(prompt)`. `template` must open an answer as TEMPLATE does."""
    plan = make_plan(max_context=CONTEXT, num_pages=4 * CONTEXT // 16, max_tokens=256)
    backend = FakeBackend(plan, lambda ids: _next(bytes(i for i in ids if i < 256), answer))
    backend.fail = lambda call: time.sleep(pause_s)
    checkpoint = random_checkpoint(tiny_config(max_context=CONTEXT), seed=1)
    llm = LLM.from_parts(checkpoint, ByteTokenizer(), backend, plan, EngineConfig(device="reference"))
    llm.chat_template = template
    return ServedModel(name, None, llm)


def _next(text: bytes, answer: Callable[[str], str]) -> int:
    """The byte that follows: of the answer to what stands before the last opening. The rest follows any end of thoughts."""
    at = text.rfind(OPENING) + len(OPENING)
    whole, said = answer(text[:at].decode(errors="replace")).encode(), text[at:]
    if CLOSING in said:
        whole, said = whole.rpartition(CLOSING)[2], said.rpartition(CLOSING)[2]
    return whole[len(said)] if len(said) < len(whole) else EOS


def last_question(prompt: str) -> str:
    """The last message of a user in a prompt of TEMPLATE."""
    return prompt.rpartition("user: ")[2].rpartition("\nassistant: ")[0]
