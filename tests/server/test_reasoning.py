"""What a client wants of thinking, in the settings and variables of a model that thinks in this way or that, or not at all."""

from __future__ import annotations

import pytest

from puna.server.reasoning import ReasoningWish, hears, packed, unpacked

DULL = "{{ messages }}"
SWITCHED = "{{ enable_thinking }}<think></think>"
ALWAYS = "<think></think>"
LEVELS = "{{ reasoning_effort }}<think></think>"


@pytest.mark.parametrize(
    ("wish", "template", "settings", "args"),
    [
        (ReasoningWish(), SWITCHED, {}, {}),
        (ReasoningWish(True, 50), SWITCHED, {"thinking_budget": 50}, {"enable_thinking": True}),
        (ReasoningWish(False), SWITCHED, {}, {"enable_thinking": False}),
        (ReasoningWish(False), ALWAYS, {"thinking_budget": 0}, {}),
        (ReasoningWish(effort="none"), SWITCHED, {}, {"enable_thinking": False}),
        (ReasoningWish(effort="low"), SWITCHED, {"thinking_budget": 1024}, {"enable_thinking": True}),
        (ReasoningWish(effort="high"), SWITCHED, {}, {"enable_thinking": True}),
        (ReasoningWish(False, effort="high"), SWITCHED, {}, {"enable_thinking": False}),
        (ReasoningWish(effort="low"), LEVELS, {}, {"reasoning_effort": "low"}),
        (ReasoningWish(True, 50, "low"), DULL, {}, {}),
        (ReasoningWish(True, 50, "low"), None, {}, {}),
        (ReasoningWish(True, 50, "low"), "chatml", {}, {}),
    ],
)
def test_each_model_gets_what_it_understands(
    wish: ReasoningWish, template: str | None, settings: dict[str, int], args: dict[str, object]
) -> None:
    assert wish.settings(template) == settings
    assert wish.template_args(template) == args
    assert hears(template) is (template in (SWITCHED, ALWAYS, LEVELS))


@pytest.mark.parametrize("text", ["", "hm", "Grüße \U0001f999", "\ud800"])
def test_thoughts_come_back_as_they_went(text: str) -> None:
    assert unpacked(packed(text)) == text.encode("utf-8", "replace").decode()
    assert unpacked(text) == unpacked(packed(text) + "!") == unpacked("puna1:/w==") == ""
