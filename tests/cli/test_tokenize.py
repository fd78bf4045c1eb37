"""puna tokenize: a text, and a message in the chat template of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Puna
from tests.models import random_tensors, tiny_config, write_gguf


@pytest.fixture
def model(tmp_path: Path) -> str:
    config = tiny_config(vocab_size=300)
    template = "[{{ messages[0].role }}] {{ messages[0].content }}{% if mood %} {{ mood }}{% endif %}"
    return str(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), chat_template=template))


def ids(puna: Puna, *arguments: str) -> list[int]:
    done = puna("tokenize", *arguments, "--json")
    assert done.code == 0, done.err
    found: list[int] = json.loads(done.out)["ids"]
    return found


def test_a_message_is_shown_in_the_template_of_the_model(model: str, puna: Puna) -> None:
    assert ids(puna, model, "hi", "--chat") == ids(puna, model, "[user] hi")
    assert ids(puna, model, "hi", "--chat", "--template-arg", "mood=glad") == ids(puna, model, "[user] hi glad")


def test_a_variable_that_has_no_effect_is_told_or_refused(model: str, puna: Puna) -> None:
    done = puna("tokenize", model, "hi", "--chat", "--template-arg", "mod=glad")
    assert done.code == 0 and "does not read mod: it has no effect" in done.err
    done = puna("tokenize", model, "hi", "--template-arg", "mood=glad")
    assert done.code == 2 and "Add --chat." in done.err
    done = puna("tokenize", model, "hi", "--special", "--chat")
    assert done.code == 2 and "--special has no effect with --chat" in done.err
