"""The page is told of each served model what `puna plan` says of it, without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puna import formats
from puna.backends.base import Roofline
from puna.config import EngineConfig
from puna.machine.host import ThisHost
from puna.machine.planning.devices import device_for
from puna.machine.planning.fit import fit
from puna.server import model_plans
from puna.server.models import ServedModel
from puna.server.settings import ServerSettings
from puna.suggested import Suggested
from tests.models import random_tensors, tiny_config, write_gguf
from tests.server.serving import TEMPLATE, RunningServer, serving, tiny_model

PATH = "/page/models"
MEASURED = Roofline(10e9, 100e9, 50e9)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_plans, "remembered", lambda device: MEASURED)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    config = tiny_config()
    write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, seed=1))
    return tmp_path / "tiny.gguf"


@pytest.fixture
def server(source: Path, tmp_path: Path) -> Iterator[RunningServer]:
    others = [ServedModel("apart", str(source)), ServedModel("gone", str(tmp_path / "gone.gguf"))]
    with serving(tiny_model("first", f"{TEMPLATE}{{# </think> #}}"), *others) as running:
        running.service.models.config = EngineConfig(device="cpu")
        yield running


def listed(server: RunningServer) -> dict[str, Any]:
    return {model["name"]: model for model in server.get(PATH).json["models"]}


def test_a_loaded_model_has_the_plan_that_it_runs_by(server: RunningServer) -> None:
    found, plan = listed(server)["first"], server.llm.plan
    assert (found["state"], found["problem"], found["thinks"]) == ("loaded", "", True)
    assert (found["needed_bytes"], found["max_context"]) == (plan.total_bytes, plan.max_context)
    assert found["tokens_per_s"] is None  # the reference backend was not measured


def test_an_unloaded_one_has_the_plan_that_it_would_get(server: RunningServer, source: Path) -> None:
    config = EngineConfig(device="cpu")
    expected = fit(formats.open_checkpoint(source), config, device_for(config, ThisHost(), MEASURED, None, None))
    found = listed(server)["apart"]
    assert (found["state"], found["problem"], found["thinks"]) == ("unloaded", "", False)
    assert (found["needed_bytes"], found["max_context"]) == (expected.needed_bytes, expected.plan.max_context)
    assert expected.speed is not None and found["tokens_per_s"] == pytest.approx(expected.speed.decode_per_s)
    assert server.service.models.named("apart").llm is None  # nothing was loaded


def test_the_models_own_temperature_is_told(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = Suggested({"temperature": 0.6})
    monkeypatch.setattr(model_plans, "suggestions_in", lambda *_: warm)
    monkeypatch.setattr(server.llm, "suggested", warm)
    assert {name: listed(server)[name]["temperature"] for name in ("first", "apart")} == {"first": 0.6, "apart": 0.6}


def test_one_that_does_not_fit_says_so_with_what_it_needs(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.machine.planning.devices.memory_bytes", lambda host: (1 << 20, 1 << 10))
    found = listed(server)["apart"]
    assert found["problem"] == "memory" and found["needed_bytes"] > 1 << 10
    idle = server.llm.plan.total_bytes
    assert server.get(PATH).json["free_bytes"] == (1 << 10) + idle  # the first one is idle, and would make room
    server.service.models.default.num_users += 1
    assert server.get(PATH).json["free_bytes"] == 1 << 10
    server.service.models.default.num_users -= 1


def test_one_that_cannot_be_read_names_no_path(server: RunningServer, tmp_path: Path) -> None:
    answer = server.get(PATH)
    assert listed(server)["gone"]["problem"] == "unreadable"
    assert str(tmp_path) not in answer.body.decode()


def test_one_that_is_being_loaded_says_so(server: RunningServer) -> None:
    server.service.models.named("apart").is_loading = True
    assert listed(server)["apart"]["state"] == "loading"


def test_the_plans_need_the_key() -> None:
    with serving(settings=ServerSettings(port=0, api_keys=("secret",))) as server:
        assert server.get(PATH).status == 401
        assert server.get(PATH, {"x-api-key": "secret"}).status == 200
