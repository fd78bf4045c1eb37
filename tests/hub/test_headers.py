"""A model of the Hub is opened by its headers: over HTTP, from a server on this machine that counts what it sends."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import huggingface_hub.utils
import numpy as np
import pytest

from puna import hub
from puna.convert import convert
from puna.errors import DownloadError, ModelFormatError, ModelNotFoundError, PunaError, UnsupportedModelError, UsageError
from puna.formats import header_ranges, open_checkpoint
from puna.formats.base import Checkpoint
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.names import GGUF_NAMES, HUGGINGFACE_NAMES, foreign_name
from puna.formats.safetensors import read_safetensors
from puna.hub import headers, ranges, web
from puna.hub.headers import gguf_files, header_checkpoint
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig
from puna.model.weights import tensor_shapes
from puna.writers.torch_file import OutputArray, write_torch_file
from tests.formats.test_quantised import CASES, quantise
from tests.formats.test_quantised import source as quantised_source
from tests.hub.conftest import Notes
from tests.hub.remote_hub import REPO, SHA, RemoteFile, RemoteHub
from tests.models import (
    TYPE_CODES,
    Draft,
    DraftTensor,
    DraftValue,
    bpe_tokenizer,
    config_values,
    draft_gguf,
    random_tensors,
    tiny_config,
    tokenizer_values,
    write_gguf,
)

source = quantised_source  # a fixture
NAME = f"hf:{REPO}"


@pytest.fixture
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only parts of tiny models are fetched too."""
    for name in ("HEAD_BYTES", "TAIL_BYTES", "MAX_STEP_BYTES"):
        monkeypatch.setattr(header_ranges, name, 1024)
    monkeypatch.setattr(headers, "NEAR_BYTES", 0)


def serve(remote: RemoteHub, *files: Path) -> None:
    remote.files = {file.name: RemoteFile.of(file.read_bytes()) for file in files}


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "partial").glob("*"))


def told(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that the headers say."""
    tensors = {name: (tensor.shape, tensor.type.name, tensor.data.nbytes) for name, tensor in checkpoint.tensors.items()}
    files = [(file.name, file.stat().st_size) for file in checkpoint.files]
    said = (checkpoint.metadata, checkpoint.unused_keys, checkpoint.notices, checkpoint.generation)
    return {"config": checkpoint.config, "tensors": tensors, "files": files, "said": said}


def tiny_gguf(folder: Path, **changes: Any) -> Path:
    config = tiny_config(**changes)
    return write_gguf(folder / "m.gguf", config, random_tensors(config, seed=1))


# ---- every format ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_small_steps")
@pytest.mark.parametrize("name", [NAME, f"{NAME}/m.gguf"])
def test_a_gguf_model_opens_from_its_header(remote: RemoteHub, tmp_path: Path, notes: Notes, name: str) -> None:
    path = tiny_gguf(tmp_path)
    serve(remote, path)
    with header_checkpoint(name, notes) as found:
        twin, truth = open_checkpoint(found.path), open_checkpoint(path)
        assert told(twin) == told(truth)
        assert twin.tokenizer is not None and truth.tokenizer is not None and twin.tokenizer.tokens == truth.tokenizer.tokens
        assert found.fetched_bytes == remote.sent_bytes < found.total_bytes == path.stat().st_size
        assert found.path.stat().st_size == path.stat().st_size and not found.is_local
    assert leftovers(tmp_path) == [] and set(notes.stages) == {f"reading the headers of {NAME}/m.gguf"}


@pytest.mark.usefixtures("in_small_steps")
def test_the_types_of_the_matrices_are_read_from_the_header(remote: RemoteHub, tmp_path: Path) -> None:
    config = tiny_config(hidden_size=64, ffn_size=96)
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), "Q8_0")
    serve(remote, path)
    assert headers.matrix_types(f"{NAME}/m.gguf") == matrix_types_of(path)
    assert 0 < remote.sent_bytes < path.stat().st_size and leftovers(tmp_path) == []


def matrix_types_of(path: Path) -> tuple[str, ...]:
    tensors = open_checkpoint(path).tensors
    matrices = [tensor for tensor in tensors.values() if len(tensor.shape) == 2]
    return tuple(dict.fromkeys([tensors["embed"].type.name, *(tensor.type.name for tensor in matrices)]))


def test_the_headers_of_many_files_are_not_read_during_a_download(remote: RemoteHub, tmp_path: Path) -> None:
    config = tiny_config()
    whole = draft_gguf(config, random_tensors(config, seed=1), tokenizer=bpe_tokenizer())
    for number in range(headers.FEW_FILES + 1):
        values = [DraftValue(b"split.no", "uint16", number), DraftValue(b"split.count", "uint16", headers.FEW_FILES + 1)]
        name = f"m-{number + 1:05}-of-{headers.FEW_FILES + 1:05}.gguf"
        (tmp_path / name).write_bytes(Draft([*whole.values, *values], whole.tensors[number::5]).to_bytes())
    serve(remote, *sorted(tmp_path.glob("m-*.gguf")))
    with pytest.raises(DownloadError, match="more than 4 files"):
        headers.matrix_types(NAME)
    assert remote.sent_bytes == 0


@pytest.mark.usefixtures("in_small_steps")
def test_the_rotary_factors_are_fetched_too(remote: RemoteHub, tmp_path: Path) -> None:
    factors = tuple(float(number) for number in np.linspace(1, 8, 8, dtype=np.float32))
    path = tiny_gguf(tmp_path, rope=RopeConfig(theta=10000.0, factors=factors))
    serve(remote, path)
    with header_checkpoint(NAME) as found:
        assert open_checkpoint(found.path).config.rope == open_checkpoint(path).config.rope
        assert found.fetched_bytes < found.total_bytes / 2


@pytest.mark.usefixtures("in_small_steps")
def test_of_a_split_model_every_part_opens_from_its_header(remote: RemoteHub, tmp_path: Path) -> None:
    config = tiny_config()
    whole = draft_gguf(config, random_tensors(config, seed=1), tokenizer=bpe_tokenizer())
    for number, tensors in enumerate((whole.tensors[:7], whole.tensors[7:])):
        split = [DraftValue(b"split.no", "uint16", number), DraftValue(b"split.count", "uint16", 2)]
        values = [*(whole.values if number == 0 else whole.values[:1]), *split]
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(Draft(values, tensors).to_bytes())
    parts = sorted(tmp_path.glob("*.gguf"))
    serve(remote, *parts)
    with header_checkpoint(NAME) as found:
        assert told(open_checkpoint(found.path)) == told(open_checkpoint(parts[0]))
        assert found.path.name == parts[0].name and found.fetched_bytes == remote.sent_bytes < found.total_bytes / 2


@pytest.mark.usefixtures("in_small_steps")
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_folder_opens_from_its_headers(remote: RemoteHub, tmp_path: Path, kind: str) -> None:
    folder = convert(tiny_gguf(tmp_path), tmp_path / "r", to="safetensors").path
    if kind == "torch":
        stored = read_safetensors(folder / "model.safetensors")
        arrays = {name: OutputArray(tensor.dtype, tensor.shape, tensor.rows()) for name, tensor in stored.items()}
        write_torch_file(folder / "pytorch_model.bin", arrays, lambda _: None)
        (folder / "model.safetensors").unlink()
    serve(remote, *folder.iterdir())
    weights = sum(file.size for name, file in remote.files.items() if name.endswith((".bin", ".safetensors")))
    with header_checkpoint(NAME) as found:
        twin, truth = open_checkpoint(found.path), open_checkpoint(folder)
        assert told(twin) == told(truth) and twin.config.name == "r"
        assert twin.tokenizer is None and truth.tokenizer is not None
        assert found.fetched_bytes == remote.sent_bytes < weights / 4
    assert leftovers(tmp_path) == []


DECIDED_BY_VALUES = ["gptq, 4 bits", "gptq, 4 bits, zeros", "gptq, act-order", "awq", "awq, symmetric", "compressed, 4 bits"]
DECIDED_BY_VALUES += ["compressed, 4 bits, zeros", "compressed, act-order", "compressed, int8 by rows, zeros"]


@pytest.mark.usefixtures("in_small_steps")
@pytest.mark.parametrize("case", DECIDED_BY_VALUES)
def test_the_types_of_quantised_matrices_are_those_of_the_whole_model(
    remote: RemoteHub, tmp_path: Path, source: Path, case: str
) -> None:
    quantise(source, tmp_path / "r", CASES[case])
    serve(remote, *(tmp_path / "r").iterdir())
    with header_checkpoint(NAME) as found:
        assert told(open_checkpoint(found.path)) == told(open_checkpoint(tmp_path / "r"))
        assert found.fetched_bytes < found.total_bytes / 2


# ---- large models ---------------------------------------------------------------------------------------------------

LLAMA_7B = tiny_config(
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    hidden_size=4096,
    ffn_size=11008,
    vocab_size=32000,
    max_context=4096,
)
LLAMA_70B = tiny_config(
    num_layers=80, num_heads=64, num_kv_heads=8, head_dim=128, hidden_size=8192, ffn_size=28672, vocab_size=128256,
    max_context=8192,
)  # fmt: skip


def large_gguf(config: ModelConfig, quant: str, extra: tuple[DraftValue, ...] = ()) -> RemoteFile:
    """The header of a model, and the size that its file would have."""
    tensors, end = [], 0
    for ours, shape in tensor_shapes(config).items():
        kind = quant if len(shape) == 2 else "F32"
        name = foreign_name(GGUF_NAMES, ours).encode()
        tensors.append(DraftTensor(name, list(shape[::-1]), TYPE_CODES[kind], b"", offset=end))
        end += int(np.prod(shape[:-1])) * BLOCK_TYPES[kind].row_bytes(shape[-1])
    tokens = tokenizer_values(bpe_tokenizer(config.vocab_size))
    head = Draft([*config_values(config), *tokens, *extra], tensors).to_bytes()
    return RemoteFile(head, len(head) + end)


def large_safetensors(config: ModelConfig, num_shards: int) -> Mapping[str, RemoteFile]:
    """The headers of a BF16 model, distributed over shards."""
    shards: list[dict[str, Any]] = [{} for _ in range(num_shards)]
    ends = [0] * num_shards
    places = {}
    for number, (ours, shape) in enumerate(tensor_shapes(config).items()):
        name, shard = foreign_name(HUGGINGFACE_NAMES, ours), number * num_shards // len(tensor_shapes(config))
        end = ends[shard] + 2 * int(np.prod(shape))
        shards[shard][name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [ends[shard], end]}
        ends[shard], places[name] = end, f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
    files = {}
    for number, (entries, end) in enumerate(zip(shards, ends)):
        head = json.dumps(entries).encode()
        head = struct.pack("<Q", len(head)) + head
        files[f"model-{number + 1:05}-of-{num_shards:05}.safetensors"] = RemoteFile(head, len(head) + end)
    sizes = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads, "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size, "vocab_size": config.vocab_size, "rms_norm_eps": 1e-5,
        "max_position_embeddings": config.max_context, "rope_theta": 500000.0,
    }  # fmt: skip
    texts = {"config.json": sizes, "model.safetensors.index.json": {"weight_map": places}}
    tokenizer = {"tokenizer.json": RemoteFile(b"", 17_000_000)}
    return files | tokenizer | {name: RemoteFile.of(json.dumps(text).encode()) for name, text in texts.items()}


def weight_bytes(checkpoint: Checkpoint) -> int:
    return sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())


def disk_bytes(folder: Path) -> int:
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(("config", "quant", "limit"), [(LLAMA_7B, "F32", 5e6), (LLAMA_70B, "Q4_0", 10e6)])
def test_of_a_large_gguf_file_some_megabytes_are_fetched(
    remote: RemoteHub, tmp_path: Path, config: ModelConfig, quant: str, limit: float
) -> None:
    remote.files = {"m.gguf": large_gguf(config, quant)}
    with header_checkpoint(NAME) as found:
        checkpoint = open_checkpoint(found.path)
        assert found.total_bytes > 20e9 and weight_bytes(checkpoint) > 0.99 * found.total_bytes
        assert found.fetched_bytes == remote.sent_bytes < limit
        assert disk_bytes(tmp_path) < found.fetched_bytes + 1e6
    assert leftovers(tmp_path) == []


def test_of_140_gb_of_shards_a_few_megabytes_are_fetched_and_no_tokenizer(remote: RemoteHub) -> None:
    remote.files = dict(large_safetensors(LLAMA_70B, 30))
    with header_checkpoint(NAME) as found:
        assert 140e9 < weight_bytes(open_checkpoint(found.path)) < found.total_bytes
        assert found.fetched_bytes == remote.sent_bytes < 6e6
    assert not [request for request in remote.requests if "tokenizer" in request.path]


def test_a_header_that_names_gigabytes_is_not_fetched(remote: RemoteHub, tmp_path: Path) -> None:
    huge = struct.pack("<Q", 10 << 30) + b"{" + bytes(1000)
    remote.files = dict(large_safetensors(LLAMA_7B, 1)) | {"model-00001-of-00001.safetensors": RemoteFile(huge, 20 << 30)}
    with pytest.raises(ModelFormatError, match=r"hf:o/r/model-.*header length.*at most"), header_checkpoint(NAME) as found:
        open_checkpoint(found.path)
    assert remote.sent_bytes < 1e6 and leftovers(tmp_path) == []


@pytest.mark.parametrize("count", [5_000_000, 1 << 40])
def test_a_gguf_array_without_end_is_not_fetched(remote: RemoteHub, tmp_path: Path, count: int) -> None:
    endless = DraftValue(b"x", "array of int64", [], count=count)
    remote.files = {"m.gguf": RemoteFile(large_gguf(LLAMA_7B, "F32", (endless,)).head, 20 << 30)}
    with pytest.raises(PunaError), header_checkpoint(NAME) as found:
        open_checkpoint(found.path)
    assert remote.sent_bytes < ranges.MAX_FETCHED_BYTES and leftovers(tmp_path) == []


def test_headers_beyond_the_limit_say_that_the_model_must_be_fetched(
    remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "MAX_FETCHED_BYTES", 1 << 20)
    remote.files = {"m.gguf": large_gguf(LLAMA_70B, "Q4_0")}
    with pytest.raises(DownloadError, match="need more than 1 MB") as caught, header_checkpoint(NAME):
        pass
    assert caught.value.hint == f"Fetch all of it first: puna pull {NAME}/m.gguf" and remote.sent_bytes <= 1 << 20


# ---- servers and lines ----------------------------------------------------------------------------------------------


def test_a_server_that_ignores_ranges_is_refused_before_it_sends_gigabytes(remote: RemoteHub, tmp_path: Path) -> None:
    remote.files, remote.ignores_ranges = {"m.gguf": large_gguf(LLAMA_7B, "F32")}, True
    with pytest.raises(DownloadError, match=r"m\.gguf: the server sends the whole file.*Refused"), header_checkpoint(NAME):
        pass
    assert remote.sent_bytes < 50e6 and leftovers(tmp_path) == []


@pytest.mark.parametrize("trouble", [{"cut_after": [1000, 0, 5000]}, {"statuses": [503, 429, 500]}])
def test_a_connection_that_is_cut_is_taken_up_again(remote: RemoteHub, tmp_path: Path, trouble: dict[str, list[int]]) -> None:
    path = tiny_gguf(tmp_path)
    serve(remote, path)
    for key, value in trouble.items():
        setattr(remote, key, value)
    with header_checkpoint(NAME) as found:
        assert told(open_checkpoint(found.path)) == told(open_checkpoint(path))
    assert len(remote.ranges) > 3


@pytest.mark.parametrize("trouble", [{"cut_after": [10] * 99}, {"statuses": [503] * 99}])
def test_a_line_that_stays_bad_is_told(remote: RemoteHub, tmp_path: Path, trouble: dict[str, list[int]]) -> None:
    serve(remote, tiny_gguf(tmp_path))
    for key, value in trouble.items():
        setattr(remote, key, value)
    with (
        pytest.raises(DownloadError, match=r"could not fetch hf:o/r/m\.gguf: m\.gguf: .*\(5 attempts\)"),
        header_checkpoint(NAME),
    ):
        pass
    assert len(remote.ranges) == 5 and leftovers(tmp_path) == []


def test_a_slow_line_ends_at_the_time_limit(remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIME_LIMIT_S", 0.3)
    remote.files = {"m.gguf": large_gguf(LLAMA_7B, "F32")}
    remote.while_sending = lambda: time.sleep(0.2)
    with pytest.raises(DownloadError, match="did not arrive within"), header_checkpoint(NAME):
        pass
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"content-range": "bytes 0-131071/999"}, r"the Hub says \d+ bytes, but the server says 999"),
        ({"content-range": "bytes 1-131072/999"}, "the server sends others"),
        ({"content-range": f"bytes 0-131071/{'9' * 5000}"}, "the server sends others"),
        ({"content-range": "nonsense"}, "the server sends others"),
        ({"content-encoding": "gzip"}, "the server compresses it"),
    ],
)
def test_an_answer_that_is_not_the_range_is_refused(remote: RemoteHub, tmp_path: Path, sent: dict[str, str], words: str) -> None:
    remote.files, remote.headers = {"m.gguf": large_gguf(LLAMA_7B, "F32")}, sent
    with pytest.raises(DownloadError, match=words), header_checkpoint(NAME):
        pass
    assert len(remote.ranges) == 1 and leftovers(tmp_path) == []


def test_a_size_that_the_hub_tells_wrongly_is_refused(remote: RemoteHub, tmp_path: Path) -> None:
    serve(remote, tiny_gguf(tmp_path))
    remote.announced = {"size": 20 << 30}
    with pytest.raises(DownloadError, match=f"the Hub says {20 << 30} bytes"), header_checkpoint(NAME):
        pass


def test_a_small_file_of_other_bytes_is_refused(remote: RemoteHub, tmp_path: Path) -> None:
    remote.files = dict(large_safetensors(LLAMA_7B, 1))
    remote.announced = {"blobId": "b" * 40}
    with pytest.raises(DownloadError, match="the bytes are not the expected ones"), header_checkpoint(NAME):
        pass
    assert leftovers(tmp_path) == []


def test_the_token_goes_to_the_hub_alone(remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    serve(remote, tiny_gguf(tmp_path))
    with header_checkpoint(NAME):
        pass
    assert {request.authorization for request in remote.ranges} == {None}
    assert {request.authorization for request in remote.requests if request.host == "hub"} == {"Bearer hf_secret"}
    assert all(request.path.startswith(f"/{REPO}/resolve/{SHA}/") for request in remote.ranges)


# ---- names ----------------------------------------------------------------------------------------------------------


def test_a_model_of_the_cache_is_used_from_there(remote: RemoteHub, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models" / "hub" / "o" / "r"
    folder.mkdir(parents=True)
    path = tiny_gguf(folder)
    for name in (NAME, f"{NAME}/m.gguf", str(path)):
        with header_checkpoint(name) as found:
            assert found.path == path and found.is_local and found.fetched_bytes == 0
    assert remote.requests == [] and path.is_file()


def test_a_short_name_that_is_not_in_the_cache_says_how_to_fetch_it(remote: RemoteHub) -> None:
    with (
        pytest.raises(ModelNotFoundError, match=r"\(98 MB\) is not in the cache") as caught,
        header_checkpoint(hub.DEFAULT_MODEL),
    ):
        pass
    assert caught.value.hint == f"Fetch it: puna pull {hub.DEFAULT_MODEL}"


@pytest.mark.parametrize("name", ["lama", "no/such.gguf", ""])
def test_an_unknown_name_is_told_as_everywhere(remote: RemoteHub, name: str) -> None:
    with pytest.raises(ModelNotFoundError), header_checkpoint(name):
        pass
    assert remote.requests == []


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("GatedRepo", DownloadError, "requires an agreement"),
        ("RepoNotFound", ModelNotFoundError, "no such repository"),
        ("", ModelNotFoundError, r"neither a \.gguf file nor config\.json"),
    ],
)
def test_what_pull_refuses_is_refused_in_the_same_words(
    remote: RemoteHub, tmp_path: Path, code: str, kind: type[PunaError], words: str
) -> None:
    remote.error_code = code
    for get in (hub.pull, lambda name: header_checkpoint(name).__enter__(), gguf_files if code else hub.pull):
        with pytest.raises(kind, match=words):
            get(NAME)
    assert leftovers(tmp_path) == []


def test_bytes_that_are_gated_are_told_so(remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(remote, tiny_gguf(tmp_path))

    def gated(response: Any) -> NoReturn:
        raise huggingface_hub.errors.GatedRepoError("gated", response=response)

    monkeypatch.setattr(huggingface_hub.utils, "hf_raise_for_status", gated)
    with pytest.raises(DownloadError, match="requires an agreement"), header_checkpoint(NAME):
        pass


def test_no_network_is_told(remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="offline"), header_checkpoint(NAME):
        pass
    assert remote.requests == [] and leftovers(tmp_path) == []


def test_files_that_the_hub_does_not_size_are_refused(remote: RemoteHub, tmp_path: Path) -> None:
    serve(remote, tiny_gguf(tmp_path))
    remote.announced = {"size": None, "lfs": None}
    with pytest.raises(DownloadError, match="cannot verify it"), header_checkpoint(NAME):
        pass
    assert remote.ranges == []


def test_several_gguf_files_are_listed_with_their_sizes(remote: RemoteHub, tmp_path: Path) -> None:
    sizes = {
        "b.gguf": 300,
        "a.gguf": 200,
        "c-00001-of-00002.gguf": 60,
        "c-00002-of-00002.gguf": 50,
        "d/e.gguf": 1,
        "README.md": 1,
    }
    remote.files = {name: RemoteFile(b"", size) for name, size in sizes.items()}
    assert gguf_files(NAME) == [("c-00001-of-00002.gguf", 110), ("a.gguf", 200), ("b.gguf", 300)]
    with pytest.raises(ModelNotFoundError, match="holds 4 models"), header_checkpoint(NAME):
        pass
    with pytest.raises(ModelNotFoundError, match="is not the name of a repository"):
        gguf_files("m.gguf")
    remote.files = dict(large_safetensors(LLAMA_7B, 1))
    assert gguf_files(NAME) == []


@pytest.mark.parametrize("name", ["../x.gguf", "a/../../x.gguf"])
def test_a_hostile_file_name_is_refused(remote: RemoteHub, tmp_path: Path, name: str) -> None:
    remote.files = {name: RemoteFile.of(b"GGUF")}
    with pytest.raises(UsageError), header_checkpoint(NAME):
        pass
    assert remote.ranges == []


def test_what_is_wrong_with_a_file_is_told_by_the_name_of_the_repository(remote: RemoteHub, tmp_path: Path) -> None:
    values = [DraftValue(b"general.architecture", "string", "bert")]
    remote.files = {"m.gguf": RemoteFile.of(Draft(values, []).to_bytes())}
    with (
        pytest.raises(UnsupportedModelError, match=r"^hf:o/r/m\.gguf: the architecture is 'bert'"),
        header_checkpoint(NAME) as found,
    ):
        open_checkpoint(found.path)
    assert leftovers(tmp_path) == []


# ---- the disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EFBIG, errno.ENOSPC, errno.EINVAL])
def test_a_disk_that_cannot_hold_the_file_is_told(
    remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    remote.files = {"m.gguf": large_gguf(LLAMA_7B, "F32")}
    make = headers._make

    def refuse(path: Path, size: int) -> int | None:
        if size > 1 << 30:
            raise OSError(code, os.strerror(code))
        return make(path, size)

    monkeypatch.setattr(headers, "_make", refuse)
    with pytest.raises(PunaError, match=r"need sparse files.*cannot create a file of 27\.\d GB there") as caught:
        header_checkpoint(NAME).__enter__()
    assert f"puna pull {NAME}/m.gguf" in caught.value.hint and leftovers(tmp_path) == [] and remote.ranges == []


def test_a_disk_without_sparse_files_is_told(remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(remote, tiny_gguf(tmp_path))
    make = headers._make
    monkeypatch.setattr(headers, "_make", lambda path, size: (make(path, size), size)[1])
    with pytest.raises(PunaError, match="gives every file its full size at once"), header_checkpoint(NAME):
        pass
    assert leftovers(tmp_path) == []


def test_where_sparse_files_cannot_be_told_there_must_be_room_for_all(
    remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.files = {"m.gguf": RemoteFile(b"GGUF", 1 << 50)}
    make = headers._make
    monkeypatch.setattr(headers, "_make", lambda path, size: (make(path, size), None)[1])
    with pytest.raises(DownloadError, match="not enough space in"), header_checkpoint(NAME):
        pass
    assert leftovers(tmp_path) == [] and remote.ranges == []


def test_a_cache_that_is_a_file_is_told(remote: RemoteHub, tmp_path: Path) -> None:
    serve(remote, tiny_gguf(tmp_path))
    (tmp_path / "cache").write_text("")
    with pytest.raises(PunaError, match="cannot use the cache folder"), header_checkpoint(NAME):
        pass


# ---- endings, and several at once -----------------------------------------------------------------------------------


def test_an_error_or_ctrl_c_inside_leaves_nothing(remote: RemoteHub, tmp_path: Path) -> None:
    serve(remote, tiny_gguf(tmp_path))
    for error in (KeyboardInterrupt, OSError, PunaError("x")):
        with pytest.raises(error if isinstance(error, type) else PunaError), header_checkpoint(NAME):
            raise error
        assert leftovers(tmp_path) == []


def test_ctrl_c_while_it_is_fetched_leaves_nothing_and_does_not_wait(
    remote: RemoteHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.files = {"m.gguf": large_gguf(LLAMA_7B, "F32")}
    sending, go_on = threading.Event(), threading.Event()

    def stall() -> None:
        sending.set()
        go_on.wait(20)

    remote.while_sending = stall
    caller = threading.get_ident()

    def interrupt() -> None:
        sending.wait(20)
        signal.pthread_kill(caller, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), header_checkpoint(NAME):
        pass
    assert time.monotonic() - start < 5 and leftovers(tmp_path) == []
    go_on.set()


def test_several_of_one_model_do_not_disturb_each_other(remote: RemoteHub, tmp_path: Path) -> None:
    serve(remote, tiny_gguf(tmp_path))
    with header_checkpoint(NAME) as first, header_checkpoint(NAME) as second:
        assert first.path != second.path
        with header_checkpoint(NAME) as third:
            open_checkpoint(third.path)
        assert told(open_checkpoint(first.path)) == told(open_checkpoint(second.path))
    assert leftovers(tmp_path) == []


def test_what_a_killed_process_left_goes_with_the_next(remote: RemoteHub, tmp_path: Path) -> None:
    serve(remote, tiny_gguf(tmp_path))
    code = (
        "import os, signal, sys, huggingface_hub\n"
        "from puna.hub.headers import header_checkpoint\n"
        f"with header_checkpoint({NAME!r}):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": remote.address("hub")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(leftovers(tmp_path)) == 1
    with header_checkpoint(NAME):
        pass
    assert leftovers(tmp_path) == []
