"""The Hub, simulated by a fake list of files and a fake download function of `huggingface_hub`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from puna import hub
from puna.errors import DownloadError, ModelNotFoundError, UsageError
from puna.hub import listing
from puna.hub.names import HubName
from puna.hub.web import TimeLimit
from tests.hub.conftest import Notes, sha256

DATA = b"GGUF" * 1000


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class FakeHub:
    files: dict[str, bytes] = field(default_factory=lambda: {"m.gguf": DATA, "README.md": b""})
    served: dict[str, bytes] = field(default_factory=dict)  # what is sent instead
    announced: str = ""  # a sha256 to announce instead
    error: Exception | None = None
    sha: str = "abc"
    downloads: int = 0

    def listing(self, name: HubName, limit: TimeLimit) -> bytes:
        if self.error:
            raise self.error
        files = [self._entry(file, data) for file, data in self.files.items()]
        return json.dumps({"id": name.repo_id, "sha": self.sha, "siblings": files}).encode()

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        entry = {"rfilename": name, "size": len(data), "blobId": self.announced or git_sha1(data)}
        if name.endswith((".gguf", ".safetensors", ".bin")):
            entry["lfs"] = {"size": len(data), "sha256": self.announced or sha256(data), "pointerSize": 1}
        return entry

    def download(self, repo_id: str, filename: str, *, revision: str, local_dir: Path, tqdm_class: Any) -> str:
        assert (repo_id, revision) == ("o/r", "abc")
        self.downloads += 1
        data = self.served.get(filename, self.files[filename])
        with tqdm_class(total=len(data), unit="B", name="x") as bar:
            bar.update(len(data))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / filename).write_bytes(data)
        return str(local_dir / filename)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    made = FakeHub()
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    monkeypatch.setattr(listing, "_fetched", made.listing)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


def finished(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.parent.name != "locks")


@pytest.mark.parametrize("name", ["hf:o/r", "hf:o/r/m.gguf", "o/r:m.gguf"])
def test_a_hub_model_is_fetched_verified_and_found_again(fake: FakeHub, tmp_path: Path, notes: Notes, name: str) -> None:
    path = hub.pull(name, notes)
    assert path.read_bytes() == DATA and path == hub.resolve(name)
    assert finished(tmp_path) == ["m.gguf"]
    assert "downloading m.gguf" in notes.stages
    hub.pull(name)
    assert fake.downloads == 1


@pytest.mark.parametrize("sent", [b"x" * len(DATA), DATA[:-1], DATA + b"x", b""])
def test_bytes_that_are_not_the_announced_ones_are_refused(fake: FakeHub, tmp_path: Path, sent: bytes) -> None:
    fake.served["m.gguf"] = sent
    with pytest.raises(DownloadError, match="not the expected ones"):
        hub.pull("hf:o/r")
    assert finished(tmp_path) == []


@pytest.mark.parametrize("announced", ["../../x", "g" * 64, "a"])
def test_a_checksum_that_is_none_is_refused(fake: FakeHub, announced: str) -> None:
    fake.announced = announced
    with pytest.raises(DownloadError, match="no sha256"):
        hub.pull("hf:o/r")
    assert fake.downloads == 0


def test_all_parts_of_a_split_file_are_fetched(fake: FakeHub, tmp_path: Path) -> None:
    fake.files = {f"m-0000{i}-of-00003.gguf": DATA + bytes([i]) for i in (1, 2, 3)}
    assert hub.pull("hf:o/r").name == "m-00001-of-00003.gguf"
    assert len(finished(tmp_path)) == 3


def test_several_models_are_listed(fake: FakeHub) -> None:
    fake.files = {"a.gguf": DATA, "b.gguf": DATA}
    with pytest.raises(ModelNotFoundError, match=r"holds 2 models: a\.gguf, b\.gguf"):
        hub.pull("hf:o/r")


@pytest.mark.parametrize(
    ("files", "name", "words"),
    [
        ({"x": b""}, "hf:o/r", r"neither a \.gguf file nor config\.json"),
        ({"a.gguf": b""}, "hf:o/r/b.gguf", r"no file 'b\.gguf'"),
    ],
)
def test_a_file_that_the_repository_does_not_have_is_named(fake: FakeHub, files: dict[str, bytes], name: str, words: str) -> None:
    fake.files = files
    with pytest.raises(ModelNotFoundError, match=words):
        hub.pull(name)


def test_a_hostile_file_name_of_the_repository_is_refused(fake: FakeHub) -> None:
    fake.files = {"../../evil.gguf": DATA}
    with pytest.raises(UsageError):
        hub.pull("hf:o/r")
    assert fake.downloads == 0


def test_no_network_says_what_to_place_where(fake: FakeHub, tmp_path: Path) -> None:
    fake.error = OSError("Network is unreachable")
    with pytest.raises(DownloadError, match="Network is unreachable") as caught:
        hub.pull("hf:o/r/m.gguf")
    assert str(tmp_path / "models" / "hub" / "o" / "r" / "m.gguf") in caught.value.hint


# ---- folders --------------------------------------------------------------------------------------------------------

FOLDER = {
    "config.json": b"{}", "generation_config.json": b"{ }", "tokenizer.json": b"[]", "tokenizer_config.json": b"{  }",
    "model-00001-of-00002.safetensors": DATA, "model-00002-of-00002.safetensors": DATA[:-1],
    "model.safetensors.index.json": b"{   }",
}  # fmt: skip
OTHERS = {
    "README.md": b"x", "pytorch_model.bin": DATA, "original/consolidated.00.pth": DATA,
    "onnx/model.onnx": DATA, "modeling.py": b"x",
    ".gitattributes": b"x", "training_args.bin": DATA,
}  # fmt: skip


def test_a_folder_is_fetched_without_what_it_does_not_need_and_found_again(fake: FakeHub, tmp_path: Path) -> None:
    fake.files = FOLDER | OTHERS
    path = hub.pull("hf:o/r")
    assert path == hub.resolve("hf:o/r") and {file.name: file.read_bytes() for file in path.iterdir()} == FOLDER
    assert "hf:o/r" in hub.cached_names() and finished(tmp_path) == sorted(FOLDER)
    hub.pull("hf:o/r")
    assert fake.downloads == len(FOLDER)


def test_without_safetensors_pytorchs_files_are_fetched(fake: FakeHub) -> None:
    fake.files = {"config.json": b"{}", "pytorch_model.bin": DATA, "tokenizer.model": DATA[:9]}
    assert sorted(file.name for file in hub.pull("hf:o/r").iterdir()) == sorted(fake.files)


@pytest.mark.parametrize("name", FOLDER)
def test_a_folder_is_whole_or_not_found(name: str, fake: FakeHub) -> None:
    fake.files = FOLDER | OTHERS
    fake.served[name] = FOLDER[name][:-1] + b"?"
    with pytest.raises(DownloadError, match="not the expected ones"):
        hub.pull("hf:o/r")
    with pytest.raises(ModelNotFoundError, match="is not in the cache"):
        hub.resolve("hf:o/r")
    fake.served.clear()
    assert hub.resolve("hf:o/r") if hub.pull("hf:o/r") else False


def test_a_newer_file_of_the_same_size_is_fetched_again(fake: FakeHub) -> None:
    fake.files = dict(FOLDER)
    hub.pull("hf:o/r")
    fake.files["tokenizer.json"] = b"{}"
    assert (hub.pull("hf:o/r") / "tokenizer.json").read_bytes() == b"{}" and fake.downloads == len(FOLDER) + 1


def test_a_folder_without_checksums_is_refused(fake: FakeHub) -> None:
    fake.files, fake.announced = dict(FOLDER), "../../x"
    with pytest.raises(DownloadError, match="no sha256"):
        hub.pull("hf:o/r")
    assert fake.downloads == 0


def test_a_repository_of_gguf_files_and_a_config_gives_the_gguf_file(fake: FakeHub) -> None:
    fake.files = FOLDER | {"m.gguf": DATA}
    assert hub.pull("hf:o/r").name == "m.gguf"
