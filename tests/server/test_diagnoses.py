"""The page's doctor and its `puna why`: on demand, one at a time, and without the paths of a machine that is not the client's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from puna.causes import CAUSES
from puna.errors import QueueFullError
from puna.machine.finding import Finding, Remedy
from puna.machine.host import ThisHost
from puna.machine.probes import PROBES
from puna.machine.why import why
from puna.server import diagnoses
from puna.server.diagnoses import BESIDE_MODELS, MAX_TEXT, MAX_WAITING, Doctor, OneAtATime, explained
from puna.server.failures import FAILURES
from puna.server.ids import new_id
from puna.server.refusals import logged_refusal
from puna.server.settings import ServerSettings
from tests.machine.fake_host import build
from tests.machine.situations import SITUATIONS
from tests.server.serving import RunningServer, serving

DOCTOR, WHY = "/page/doctor", "/page/why"
KEY = {"x-api-key": "secret"}
KEYS = ServerSettings(port=0, api_keys=("secret",))
CACHE_BLOCKS = "ValueError: No available memory for the cache blocks."
FOUND = Finding(
    "disk.cache", "warning", "/home/ann/x: 1 GiB free", "no room", Remedy("r", "Free some.", ("sudo rm -r /home/ann/x",))
)

PROXY = Finding("network.proxy", "note", "a proxy is set: http://proxy.example:3128", "puna fetches models through it")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The doctor finds one thing; the list has the number of probes of each time that it looked."""
    seen: list[int] = []

    def examine(patient: Any, probes: list[Any]) -> list[Finding]:
        seen.append(len(probes))
        return [FOUND, PROXY]

    monkeypatch.setattr(diagnoses, "examine", examine)
    return seen


@pytest.fixture
def with_keys(looks: list[int]) -> Iterator[RunningServer]:
    with serving(settings=KEYS) as running:
        yield running


def test_the_person_at_the_machine_sees_the_findings_as_they_are(looks: list[int]) -> None:
    with serving() as server:
        told = server.get(DOCTOR).json
        assert told["findings"] == json.loads(json.dumps([asdict(FOUND), asdict(PROXY)])) and told["hides_paths"] is False
        again = server.get(DOCTOR).json
        assert again["findings"] == told["findings"] and again["age_s"] >= told["age_s"] and looks == [len(BESIDE_MODELS)]


def test_a_client_with_a_key_sees_them_without_paths_and_without_the_network(with_keys: RunningServer, looks: list[int]) -> None:
    assert with_keys.get(DOCTOR).status == with_keys.post(WHY, {"text": "x"}).status == 401 and looks == []
    told = with_keys.get(DOCTOR, KEY)
    assert "/home/ann" not in told.body.decode() and told.json["hides_paths"] is True
    assert [one["found"] for one in told.json["findings"]] == ["[path]: 1 GiB free"]


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via"])
def test_what_comes_through_a_proxy_comes_from_elsewhere(looks: list[int], header: str) -> None:
    with serving() as server:
        assert server.get(DOCTOR).json["hides_paths"] is False
        assert server.get(DOCTOR, {header: "for=10.0.0.7"}).json["hides_paths"] is True and len(looks) == 1
        told = failed("CUDA error: device-side assert triggered")
        hidden = server.post(WHY, {"text": told}, {header: "for=10.0.0.7"}).json["diagnosis"]
        assert (hidden["line"], server.post(WHY, {"text": told}).json["diagnosis"]["line"] != "") == ("", True)


def test_the_doctor_looks_again_after_a_while_and_once_for_all_who_ask(looks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        doctor = Doctor("auto")
        told = await asyncio.gather(*(doctor.findings(False) for _ in range(5)))
        assert all(one["findings"] == told[0]["findings"] for one in told) and len(looks) == 1
        monkeypatch.setattr(diagnoses, "KEPT_S", 0.0)
        await doctor.findings(False)
        assert len(looks) == 2

    asyncio.run(ask())


def test_nothing_measures_or_computes_beside_the_models_that_are_served() -> None:
    left_out = {probe.__name__ for probe in PROBES if probe not in BESIDE_MODELS}
    assert left_out == {"bandwidth", "gpu_self_test", "nccl"}


@pytest.mark.parametrize("situation", SITUATIONS[::4], ids=lambda situation: situation.name)
def test_no_machine_of_the_doctors_tests_tells_a_path_or_a_proxy(situation: Any, tmp_path: Path) -> None:
    host = build(tmp_path, *situation.overlays)
    told = asyncio.run(Doctor("auto", host).findings(True))
    text = json.dumps(told)
    assert re.findall(r"/(?:home|mnt|srv|opt|tmp|root)/|[A-Z]:\\|http://\w|SOCKS", text) == []


# ---- why


def test_a_text_is_explained_as_the_command_does(server: RunningServer) -> None:
    told, diagnosis = server.post(WHY, {"text": CACHE_BLOCKS}).json, why(CACHE_BLOCKS, ThisHost())
    assert diagnosis is not None and told == {"known": True, "diagnosis": json.loads(json.dumps(asdict(diagnosis)))}
    assert told["diagnosis"]["concept"] == "kv-cache"


def test_a_text_that_is_not_known_says_what_was_taken_for_its_error(server: RunningServer) -> None:
    told = server.post(
        WHY, {"text": "Traceback (most recent call last):\n  x\nFrobError: no frob; use --frob-size 3 to set it"}
    ).json
    assert (told["known"], told["diagnosis"], told["num_causes"]) == (False, None, len(CAUSES))
    assert told["line"].startswith("FrobError") and "--frob-size" in told["advice"][0]


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": 3}, {"text": "x" * (MAX_TEXT + 1)}, {"text": ["x"]}])
def test_what_is_no_text_is_refused(server: RunningServer, body: dict[str, Any]) -> None:
    refused = server.post(WHY, body)
    assert refused.status == 400 and refused.json["error"]["param"] == "text"


def failed(text: str) -> str:
    """What a client is told of an error of the server."""
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return logged_refusal(error).message


def test_the_error_behind_an_id_is_explained_and_its_text_is_told_at_this_machine_only() -> None:
    told = failed("CUDA error: device-side assert triggered\nin /home/ann/model.gguf")
    here, elsewhere = explained(told, hides=False), explained(told, hides=True)
    assert here["diagnosis"]["name"] == elsewhere["diagnosis"]["name"] == "device-side-assert"
    assert "device-side assert" in here["diagnosis"]["line"]
    assert elsewhere["diagnosis"]["line"] == "" and "/home/ann" not in json.dumps(elsewhere)
    assert elsewhere["diagnosis"]["cure"]


def test_an_unknown_error_behind_an_id_tells_nothing_of_its_text() -> None:
    told = failed("frob failed in /home/ann/model.gguf")
    assert FAILURES.text_of(told) is not None
    for hides in (True, False):
        found = explained(told, hides)
        assert found["known"] is False and "frob" not in json.dumps(found)


def test_a_forgotten_id_is_an_unknown_text() -> None:
    assert explained(f"the server failed; its log has the error under {new_id('req_')}", hides=True)["known"] is False


def test_a_clients_own_text_comes_back_as_it_is() -> None:
    text = "OSError: /home/me/model.safetensors: Error while deserializing header: HeaderTooLarge"
    found = explained(text, hides=True)
    assert found["known"] and "/home/me/model.safetensors" in found["diagnosis"]["line"]


def test_only_some_may_wait() -> None:
    async def crowd() -> list[BaseException | None]:
        line, leave = OneAtATime(MAX_WAITING), asyncio.Event()

        async def enter() -> None:
            async with line.turn():
                await leave.wait()

        tasks = [asyncio.ensure_future(enter()) for _ in range(MAX_WAITING + 3)]
        await asyncio.sleep(0)
        leave.set()
        return [result for result in await asyncio.gather(*tasks, return_exceptions=True) if result is not None]

    refused = asyncio.run(crowd())
    assert len(refused) == 2 and all(isinstance(error, QueueFullError) for error in refused)
