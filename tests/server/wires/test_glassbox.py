"""The glass box over HTTP: traces, ranks and branches are the library's, and what makes no sense is refused by its field."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from puna.glassbox.schema import trace_schema
from puna.llm import LLM
from puna.request import SamplingParams
from puna.server.settings import ServerSettings
from puna.server.wires import glassbox
from tests.fakes import VOCAB_SIZE
from tests.glassbox import test_record
from tests.server.scripted import scripted_model
from tests.server.serving import TEMPLATE, RunningServer, quick_model, serving
from tests.test_opening import Forcing

CHAT, TRACE, RANK = "/v1/chat/completions", "/trace", "/rank"
HELLO = [{"role": "user", "content": "hello"}]
DRAWN: dict[str, Any] = {"temperature": 0.9, "top_p": 0.8, "seed": 3, "ignore_eos": True}
TIMES = {"tokenizer_s", "model_s", "sampling_s", "first_token_s", "total_s", "computed", "num_cached"}


@pytest.fixture(scope="module")
def answered(server: RunningServer) -> tuple[int, ...]:
    """The ids of an answer to HELLO."""
    return server.llm.chat(HELLO, max_tokens=16, **DRAWN).token_ids


def timeless(value: Any) -> Any:
    """A trace without what differs from run to run."""
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if name not in TIMES}
    return [timeless(one) for one in value] if isinstance(value, list | tuple) else value


def streamed(server: RunningServer, **body: Any) -> tuple[str, list[int], list[Any]]:
    """The text, the ids and the choices of a stream."""
    answer = server.post(CHAT, {"messages": HELLO, "stream": True, "return_token_ids": True, **body})
    assert answer.status == 200, answer.body
    choices = [chunk["choices"][0] for chunk in answer.events[:-1]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return text, [token for choice in choices for token in choice.get("token_ids", ())], choices


def test_an_answer_opens_with_given_tokens(server: RunningServer, answered: tuple[int, ...]) -> None:
    opening = [*answered[:7], 65]
    expected = server.llm.chat(HELLO, max_tokens=16, opening=opening, **DRAWN)
    text, ids, choices = streamed(server, max_tokens=16, opening=opening, **DRAWN)
    assert (text, ids) == (expected.text, list(expected.token_ids)) and ids[:8] == opening
    (start,) = [choice["puna_start"] for choice in choices if "puna_start" in choice]
    assert start == {"seed": 3, "num_opened": 8} and choices[-1]["puna"]["num_opened"] == 8
    whole = server.post(CHAT, {"messages": HELLO, "max_tokens": 16, "opening": opening, **DRAWN}).json
    assert whole["choices"][0]["message"]["content"] == expected.text


def test_a_text_opens_an_answer_too(server: RunningServer) -> None:
    text, ids, choices = streamed(server, max_tokens=12, opening="Sure, ü", ignore_eos=True)
    assert text.startswith("Sure, ü") and bytes(ids[:8]).decode() == "Sure, ü"
    assert choices[-1]["puna"]["num_opened"] == 8
    prompt = {"prompt": "the llama", "max_tokens": 12, "opening": "Sure, ü", "ignore_eos": True}
    expected = server.llm.generate("the llama", max_tokens=12, opening="Sure, ü", ignore_eos=True).text
    assert server.post("/v1/completions", prompt).json["choices"][0]["text"] == expected
    chunks = server.post("/v1/completions", {**prompt, "stream": True, "return_token_ids": True}).events[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert chunks[-1]["choices"][0]["puna"]["num_opened"] == 8


def test_the_cap_of_the_server_counts_new_tokens() -> None:
    with serving(quick_model(), settings=ServerSettings(port=0, max_tokens=4)) as server:
        _, ids, _ = streamed(server, opening=list(range(65, 75)), ignore_eos=True)
        assert len(ids) == 14


def test_a_trace_is_the_librarys(server: RunningServer, answered: tuple[int, ...]) -> None:
    got = server.post(TRACE, {"messages": HELLO, "token_ids": list(answered), "top": 5, **DRAWN}).json
    whole = server.llm.chat_trace(HELLO, max_tokens=16, opening=answered, first=0, top=5, **DRAWN).as_json()
    jsonschema.validate(got, trace_schema())
    assert timeless(got["steps"]) == timeless(json.loads(json.dumps(whole["steps"])))
    assert {name: got[name] for name in ("text", "seed", "settings", "why")} == {
        name: whole[name] for name in ("text", "seed", "settings", "why")
    }
    assert got["model"] == "tiny" and got["prompt"]["tokens"] == []
    assert got["prompt"]["num_left_out"] == got["prompt"]["num_tokens"] == len(whole["prompt"]["tokens"])


def test_one_step_is_that_of_the_whole(server: RunningServer, answered: tuple[int, ...]) -> None:
    whole = server.llm.chat_trace(HELLO, max_tokens=16, opening=answered, first=0, top=5, **DRAWN).as_json()
    asked = {"messages": HELLO, "token_ids": list(answered), "top": 5, "prompt_tokens": 3, **DRAWN}
    got = server.post(TRACE, {**asked, "first": 9, "last": 11}).json
    assert timeless(got["steps"]) == timeless(json.loads(json.dumps(whole["steps"][9:11])))
    assert len(got["prompt"]["tokens"]) == 3
    given = {
        "prompt": list(server.llm.encode_chat(HELLO)),
        "token_ids": list(answered),
        "top": 5,
        "first": 9,
        "last": 11,
        **DRAWN,
    }
    assert timeless(server.post(TRACE, given).json["steps"]) == timeless(got["steps"])


def test_beyond_the_answer_tokens_are_sampled_with_any_settings(server: RunningServer, answered: tuple[int, ...]) -> None:
    hot = {**DRAWN, "temperature": 1.9, "top_p": 0.3}
    asked = {"messages": HELLO, "token_ids": list(answered[:5]), "first": 5, "last": 7, "top": 3, **hot}
    got = server.post(TRACE, asked).json
    expected = server.llm.chat(HELLO, max_tokens=7, opening=answered[:5], **hot).token_ids
    assert [step["token"]["id"] for step in got["steps"]] == list(expected[5:])
    assert [stage["name"] for stage in got["steps"][0]["stages"]] == ["model", "top_p", "temperature"]
    fresh = server.post(TRACE, {"messages": HELLO, "last": 3, "top": 0, **DRAWN}).json
    assert [step["token"]["id"] for step in fresh["steps"]] == list(answered[:3])
    assert all(step["stages"] == [] and step["rank"] for step in fresh["steps"])


def test_a_step_costs_a_step(answered: tuple[int, ...]) -> None:
    with serving(scripted_model(lambda _: "a" * 400)) as server:
        _, ids, _ = streamed(server)
        got = server.post(TRACE, {"messages": HELLO, "token_ids": ids, "first": 300, "last": 301}).json
        computed = sum(one["last"] - one["first"] for one in got["steps"][0]["computed"])
        assert 0 < computed <= 16  # what is left of a page


def test_options_in_the_place_of_a_token_have_the_space_that_it_has(server: RunningServer, answered: tuple[int, ...]) -> None:
    body = {"messages": HELLO, "token_ids": list(answered[:6]), "options": ["yes", " no", '"or"']}
    for given, texts in ((" x", {" yes", " no", "or"}), ("x", {"yes", " no", '"or"'}), (None, {"yes", " no", '"or"'})):
        got = server.post(RANK, body | ({} if given is None else {"in_place_of": given})).json["results"]
        assert {one["text"] for one in got} == texts
        assert all(bytes(one["token_ids"]).decode() == one["text"] for one in got)


def test_options_are_ranked_as_the_library_scores_them(server: RunningServer, answered: tuple[int, ...]) -> None:
    options = ["yes", "no", "perhaps so", "ü"]
    got = server.post(RANK, {"messages": HELLO, "token_ids": list(answered[:6]), "options": options}).json
    before = [*server.llm.encode_chat(HELLO), *answered[:6]]
    scores = server.llm.score(before, [list(option.encode()) for option in options])
    best = sorted(range(4), key=lambda number: -scores[number].logprob)
    assert [one["index"] for one in got["results"]] == best and got["model"] == "tiny"
    for one in got["results"]:
        score = scores[one["index"]]
        assert (one["token_ids"], one["token_logprobs"]) == (list(score.token_ids), list(score.token_logprobs))
        assert (one["logprob"], one["text"]) == (score.logprob, options[one["index"]])


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no prompt": (TRACE, {"messages": []}, "messages"),
    "two prompts": (TRACE, {"prompt": "a"}, "messages"),
    "no step": (TRACE, {}, "first"),
    "a step after the last": (TRACE, {"token_ids": [65], "first": 1}, "first"),
    "a step far beyond": (TRACE, {"token_ids": [65], "first": 3, "last": 4}, "first"),
    "a strange id": (TRACE, {"token_ids": [99999]}, "token_ids"),
    "a negative id": (TRACE, {"token_ids": [-1]}, "token_ids"),
    "a text as id": (TRACE, {"token_ids": ["a"]}, "token_ids.0"),
    "too many candidates": (TRACE, {"token_ids": [65], "top": 1001}, "top"),
    "a length": (TRACE, {"token_ids": [65], "max_tokens": 3}, "max_tokens"),
    "several samples": (TRACE, {"token_ids": [65], "n": 2}, "n"),
    "tools": (TRACE, {"token_ids": [65], "tools": []}, "tools"),
    "a wild temperature": (TRACE, {"token_ids": [65], "temperature": -1}, "temperature"),
    "an unknown model": (TRACE, {"token_ids": [65], "model": "gpt"}, "model"),
    "no options": (RANK, {"options": []}, "options"),
    "an empty option": (RANK, {"options": ["a", ""]}, "options.1"),
    "an endless option": (RANK, {"options": ["a" * 5000]}, "options.0"),
    "too many options": (RANK, {"options": ["a"] * 65}, "options"),
    "a strange id before": (RANK, {"options": ["a"], "token_ids": [99999]}, "token_ids"),
    "a strange opening": (CHAT, {"opening": [99999]}, "opening"),
    "a long opening": (CHAT, {"opening": [65, 66, 67], "max_tokens": 2}, "opening"),
    "an opening of no kind": (CHAT, {"opening": {"a": 1}}, "opening.str"),
}


@pytest.mark.parametrize(("path", "body", "field"), WRONG.values(), ids=WRONG.keys())
def test_what_makes_no_sense_is_refused_by_its_field(server: RunningServer, path: str, body: dict[str, Any], field: str) -> None:
    answer = server.post(path, {"messages": HELLO, **body})
    assert (answer.status, answer.json["error"]["param"]) == (404 if field == "model" else 400, field)


def test_more_than_the_context_is_refused(server: RunningServer) -> None:
    many = [65] * server.llm.plan.max_context
    for path, body in ((TRACE, {}), (RANK, {"options": ["a"]})):
        answer = server.post(path, {"messages": HELLO, "token_ids": many, **body})
        assert (answer.status, answer.json["error"]["code"]) == (400, "context_length_exceeded")


def test_a_large_trace_is_bounded_and_says_so(
    server: RunningServer, answered: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glassbox, "MAX_CANDIDATES", 100)
    got = server.post(TRACE, {"messages": HELLO, "token_ids": list(answered), "top": 10, **DRAWN}).json
    assert 0 < len(got["steps"]) < 16 == len(got["steps"]) + got["num_left_out"]


def test_a_client_that_goes_away_ends_its_trace() -> None:
    with serving(scripted_model(lambda _: "a" * 4000, pause_s=0.005)) as server:
        body = json.dumps({"messages": HELLO, "last": 3000, "top": 1})
        head = f"POST /trace HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        with server.connect() as connection:
            connection.sendall((head + body).encode())
            wait_until(lambda: len(server.service.running) == 1)
            assert server.get("/health").status == 200  # the loop is free meanwhile
        wait_until(lambda: not server.service.running and server.llm.runner.is_idle)


def wait_until(is_so: Any) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_clients_of_other_keys_share_no_cache() -> None:
    anna, luis = ({"authorization": f"Bearer {key}"} for key in ("anna", "luis"))
    with serving(scripted_model(lambda _: "a" * 100), settings=ServerSettings(port=0, api_keys=("anna", "luis"))) as server:
        assert server.post(TRACE, {"messages": HELLO, "last": 1}).status == 401
        body = {"prompt": "a long prompt " * 20, "last": 1}
        cached = [server.post(TRACE, body, who).json["prompt"]["num_cached"] for who in (anna, luis, anna)]
        assert cached[0] == cached[1] == 0 < cached[2]
        scored = {"prompt": "a long prompt " * 20, "options": ["a"]}
        assert server.post(RANK, scored, luis).status == 200


def test_thoughts_are_traced_as_they_ran() -> None:
    thinking = TEMPLATE + "{# <think> </think> #}"
    with serving(scripted_model(lambda _: "<think>so</think>Yes.", template=thinking)) as server:
        _, ids, choices = streamed(server)
        assert "".join(choice["delta"].get("reasoning_content", "") for choice in choices) == "so"
        got = server.post(TRACE, {"messages": HELLO, "token_ids": ids, "top": 2}).json
        assert [step["token"]["id"] for step in got["steps"]] == ids and got["text"] == "Yes."
        assert not any(step["is_given"] for step in got["steps"])


@pytest.fixture(scope="module")
def branching() -> Iterator[tuple[RunningServer, LLM]]:
    llm = test_record.make_llm()
    llm.chat_template = TEMPLATE
    model = quick_model()
    model.llm = llm
    with serving(model) as running:
        yield running, llm


@pytest.mark.full
def test_50_branches_are_what_fresh_runs_with_those_prefixes_forced_give(branching: tuple[RunningServer, LLM]) -> None:
    server, _ = branching
    seed, length = 50, 40
    print("seed", seed)
    own = random.Random(seed)
    for number in range(50):
        settings = own.choice([{}, {"temperature": 0.8, "seed": number}, {**DRAWN, "repetition_penalty": 1.2}])
        params = SamplingParams(**{**settings, "ignore_eos": True}, max_tokens=length)
        _, ids, _ = streamed(server, **{**settings, "ignore_eos": True}, max_tokens=length)
        prefix = [*ids[: own.randrange(length)], own.randrange(VOCAB_SIZE)]
        text, found, _ = streamed(server, **{**settings, "ignore_eos": True}, max_tokens=length, opening=prefix)
        with test_record.make_llm(prefix_cache=False) as fresh:
            fresh.chat_template = TEMPLATE
            expected = fresh.chat(HELLO, params, sampler=Forcing(prefix, params))
        assert (text, found) == (expected.text, list(expected.token_ids)), (number, prefix)


def test_a_rank_without_time_is_refused(server: RunningServer) -> None:
    answer = server.post(RANK, {"prompt": "hello", "options": ["a", "b"], "timeout": 0})
    assert answer.status == 400 and "timeout" in answer.json["error"]["message"]


def test_a_trace_tells_no_digest_of_its_client_s_key() -> None:
    with serving(settings=ServerSettings(port=0, drain_s=5.0, api_keys=("key-of-somebody",))) as running:
        headers = {"authorization": "Bearer key-of-somebody"}
        traced = running.post(TRACE, {"prompt": "hello", "last": 2, "cache_salt": "mine"}, headers)
    assert traced.status == 200 and "cache_salt" not in traced.json["settings"] and b"mine" not in traced.body
