"""A Hub with endless, slow or invalid answers: `plan` and `pull` end in time with an error and leave no files."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from puna import hub
from puna.cli.main import run
from puna.errors import DownloadError, ModelNotFoundError, PunaError
from puna.hub import huggingface, listing, ranges, web
from puna.hub.headers import gguf_files, header_checkpoint
from puna.hub.names import HubName
from tests.hub.remote_hub import REPO, SHA, RemoteFile, RemoteHub
from tests.models import random_tensors, tiny_config, write_gguf

NAME = f"hf:{REPO}"
OK, PART = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 206 Partial Content\r\n"


def plan(name: str) -> None:
    with header_checkpoint(name):
        pass


ASKING: list[Callable[[str], object]] = [plan, hub.pull, gguf_files]  # all that read the list of files


@pytest.fixture
def served(remote: RemoteHub, tmp_path: Path) -> RemoteHub:
    config = tiny_config()
    remote.files = {"m.gguf": RemoteFile.of(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1)).read_bytes())}
    return remote


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "partial").glob("*"))


def dripping(head: bytes) -> Callable[[], Iterator[bytes]]:
    def parts() -> Iterator[bytes]:
        yield head
        while True:
            time.sleep(0.05)
            yield b"a"

    return parts


def endless(head: bytes) -> Callable[[], Iterator[bytes]]:
    def parts() -> Iterator[bytes]:
        yield head + b"\r\n"
        while True:
            yield b" " * (1 << 16)

    return parts


# ---- time -----------------------------------------------------------------------------------------------------------

DRIPS = [
    ("listing", OK + b"x: "),
    ("listing", OK + b"\r\n"),
    ("redirect", b"HTTP/1.1 302 Found\r\nx: "),
    ("bytes", PART + b"x: "),
]


@pytest.mark.parametrize(("kind", "head"), DRIPS)
def test_an_answer_that_drips_ends_at_the_time_limit(
    served: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, head: bytes
) -> None:
    monkeypatch.setattr(web, "TIME_LIMIT_S", 0.4)
    served.raw = {kind: dripping(head)}
    for ask in ASKING if kind == "listing" else [plan]:
        start = time.monotonic()
        with pytest.raises(DownloadError, match="did not arrive within"):
            ask(NAME)
        assert time.monotonic() - start < 3 and leftovers(tmp_path) == []


@pytest.mark.parametrize(("kind", "head"), DRIPS)
def test_ctrl_c_ends_the_process_while_an_answer_drips(served: RemoteHub, tmp_path: Path, kind: str, head: bytes) -> None:
    served.raw = {kind: dripping(head)}
    code = f"from puna.cli.main import main\nmain(['plan', {NAME!r}])"
    environment = os.environ | {"HF_ENDPOINT": served.address("hub")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not [request for request in served.requests if kind == "listing" or "resolve" in request.path]:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 130 and leftovers(tmp_path) == []
    finally:
        process.kill()
        process.wait()


def test_tasks_give_their_results_in_order_and_the_first_error_ends_them() -> None:
    limit = web.TimeLimit(HubName("o", "r"))
    assert limit.run([partial(abs, number) for number in range(50)], at_once=8) == list(range(50))
    assert limit.run([]) == []
    begun: list[int] = []

    def fail_first() -> None:
        begun.append(1)
        if len(begun) == 1:
            raise PunaError("x")
        time.sleep(0.01)

    with pytest.raises(PunaError, match="x"):
        limit.run([fail_first] * 50)
    with pytest.raises(DownloadError, match="interrupted"):
        limit.require()
    assert len(begun) < 50


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ASKING)
def test_a_list_without_end_is_refused(served: RemoteHub, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], Any]) -> None:
    monkeypatch.setattr(listing, "MAX_LISTING_BYTES", 1 << 20)
    served.raw = {"listing": endless(OK)}
    with pytest.raises(DownloadError, match="the list of its files has more than 1 MiB"):
        ask(NAME)


def test_a_list_that_swells_when_it_is_decompressed_is_refused(served: RemoteHub, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert len(listing._gzip_decoder()(bomb, 1000)) == 1000
    served.raw = {"listing": lambda: [OK + b"content-encoding: gzip\r\n\r\n", bomb]}
    with pytest.raises(DownloadError, match="the list of its files has more than 16 MiB"):
        plan(NAME)


def test_a_compressed_list_is_read(served: RemoteHub) -> None:
    body = gzip.compress(json.dumps(served.listing()).encode())
    served.raw = {"listing": lambda: [OK + b"content-encoding: gzip\r\n\r\n", body[:9], body[9:]]}
    plan(NAME)


@pytest.mark.parametrize(
    ("head", "body", "words"),
    [
        (b"content-encoding: br\r\n", b"", "is compressed by 'br'"),
        (b"content-encoding: gzip\r\n", b"x" * 99, "cannot be decompressed"),
        (b"", b"<html>", "is not JSON"),
        (b"", b"", "is not JSON"),
        (b"", b"[" * 100_000, "is not JSON"),
        (b"", b'{"sha": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_a_list_that_cannot_be_read_is_told(served: RemoteHub, head: bytes, body: bytes, words: str) -> None:
    served.raw = {"listing": lambda: [OK + head + b"\r\n", body]}
    with pytest.raises(DownloadError, match=words):
        plan(NAME)


@pytest.mark.parametrize("kind", ["listing", "bytes"])
def test_a_refusal_without_end_is_not_read(served: RemoteHub, tmp_path: Path, kind: str) -> None:
    served.raw = {kind: endless(b"HTTP/1.1 403 Forbidden\r\n")}
    with pytest.raises(DownloadError, match="403"):
        plan(NAME)
    assert leftovers(tmp_path) == []


def test_a_redirect_without_end_is_followed_and_not_read(served: RemoteHub) -> None:
    head = f"HTTP/1.1 302 Found\r\nlocation: {served.address('cdn')}/{REPO}/resolve/{SHA}/m.gguf\r\n"
    served.raw = {"redirect": endless(head.encode())}
    plan(NAME)


@pytest.mark.parametrize("location", [b"location: /o/r/resolve/x/m.gguf\r\n", b"location: http://[::1\r\n", b""])
def test_a_redirect_that_leads_nowhere_is_told(served: RemoteHub, location: bytes) -> None:
    served.raw = {"redirect": lambda: [b"HTTP/1.1 302 Found\r\n" + location + b"content-length: 0\r\n\r\n"]}
    with pytest.raises(DownloadError, match=r"302, a redirect without a target|5 attempts"):
        plan(NAME)
    assert len(served.requests) <= 1 + ranges.CONNECTIONS * (1 + web.MAX_REDIRECTS)


# ---- how much is told -----------------------------------------------------------------------------------------------


def test_of_many_files_the_first_are_told(served: RemoteHub, capsys: pytest.CaptureFixture[str]) -> None:
    served.files = {f"m{number:03}.gguf": RemoteFile(b"", number) for number in range(100)}
    with pytest.raises(ModelNotFoundError, match=r"holds 100 models: m000\.gguf, .*m019\.gguf \.\.\. and 80 more"):
        plan(NAME)
    with pytest.raises(ModelNotFoundError) as caught:
        plan(f"{NAME}/x.gguf")
    assert caught.value.hint.endswith("m019.gguf ... and 80 more")
    assert run(["plan", NAME]) == 2
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 21 and told[-1] == "  ... and 80 more"


def test_a_split_model_with_missing_parts_is_not_searched_for_all_of_them() -> None:
    asked: list[str] = []

    class Sizes(dict[str, int | None]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.append(key)
            return super().get(key, default)

    name = HubName("o", "r", "m-00001-of-00512.gguf")
    assert huggingface._whole_size(name, Sizes({name.file: 5})) is None and len(asked) == 2


def test_weights_in_too_many_files_are_refused(served: RemoteHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "MAX_PARTS", 3)
    served.files = {f"model-0000{i}-of-00004.safetensors": RemoteFile(b"", 9) for i in range(1, 5)}
    served.files["config.json"] = RemoteFile.of(b"{}")
    for ask in (plan, hub.pull):
        with pytest.raises(DownloadError, match="its weights are in 4 files; puna reads models of at most 3"):
            ask(NAME)


# ---- kinds ----------------------------------------------------------------------------------------------------------

WRONG_VALUES: dict[str, list[Any]] = {
    "size": ["5", -1, 1.5, 10**30, [1], True, (1 << 50) + 1],
    "rfilename": [5, None, "", "a" * 1025, ["m.gguf"]],
    "lfs": [5, [], {}, {"sha256": 5}, {"sha256": None}, "x"],
    "blobId": [5, {}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG_VALUES.items() for value in values])
def test_a_file_that_is_told_wrongly_is_named(served: RemoteHub, tmp_path: Path, key: str, value: Any) -> None:
    served.announced = {key: value}
    for ask in ASKING:
        with pytest.raises(DownloadError, match=f"list of its files is invalid: {key}") as caught:
            ask(NAME)
        assert len(caught.value.message) < 300
    assert leftovers(tmp_path) == [] and served.ranges == []


@pytest.mark.parametrize(
    "told",
    [
        *([1, 2], None, "x", 5, {"siblings": 5}, {"siblings": {}}, {"siblings": ["m.gguf"]}, {"siblings": [None]}),
        *({"sha": 5, "siblings": []}, {"sha": "../../x?a#b", "siblings": []}, {"sha": "main?", "siblings": []}),
    ],
)
def test_a_list_of_the_wrong_kind_is_told(served: RemoteHub, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    monkeypatch.setattr(served, "listing", lambda: told)
    for ask in ASKING:
        with pytest.raises(DownloadError, match="list of its files is invalid"):
            ask(NAME)


@pytest.mark.parametrize("told", [{}, {"siblings": None}, {"id": 5, "siblings": [], "cardData": 5, "lastModified": "x"}])
def test_an_empty_repository_holds_no_model(served: RemoteHub, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    monkeypatch.setattr(served, "listing", lambda: told)
    with pytest.raises(ModelNotFoundError, match=r"neither a \.gguf file nor"):
        plan(NAME)
    assert gguf_files(NAME) == []
