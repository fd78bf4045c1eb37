"""Hostile GGUF files: each is refused by a named error, or it loads; nothing else may happen (RELIABILITY A1 to A3)."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from puna.errors import ModelFormatError, PunaError, UnsupportedModelError
from puna.formats import open_checkpoint
from tests.formats.hostile import run_mutants
from tests.formats.micro import micro_draft, seeded_draft
from tests.models import TYPE_CODES, Draft, DraftTensor, DraftValue

HUGE = [2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]
Edit = Callable[[Draft, random.Random], "bytes | None"]
Broken = ModelFormatError
Unsupported = UnsupportedModelError


def value(draft: Draft, key: str) -> DraftValue:
    return next(found for found in draft.values if found.key == key.encode())


def put(key: str, kind: str, what: object) -> Edit:
    """Set a key, or add it."""

    def edit(draft: Draft, rng: random.Random) -> None:
        draft.values = [found for found in draft.values if found.key != key.encode()] + [DraftValue(key.encode(), kind, what)]

    return edit


def drop(key: str) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        draft.values.remove(value(draft, key))

    return edit


def header(field: str, *choices: object) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        setattr(draft, field, rng.choice(choices))

    return edit


def any_value(field: str, *choices: object, arrays: bool = False) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        chosen = [found for found in draft.values if found.kind.startswith("array") == arrays]
        setattr(rng.choice(chosen), field, rng.choice(choices))

    return edit


def any_tensor(field: str, *choices: object) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        setattr(rng.choice(draft.tensors), field, rng.choice(choices))

    return edit


def one_dimension(*choices: int) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        dims = rng.choice(draft.tensors).dims
        dims[rng.randrange(len(dims))] = rng.choice(choices)

    return edit


def shifted_tensor(by: int) -> Edit:
    """The last tensor begins `by` bytes from where it should."""

    def edit(draft: Draft, rng: random.Random) -> None:
        sizes = [len(tensor.data) + -len(tensor.data) % 32 for tensor in draft.tensors]
        draft.tensors[-1].offset = sum(sizes[:-1]) + by

    return edit


def string_length(length: int) -> Edit:
    """The length of a random string of the file becomes `length`."""

    def edit(draft: Draft, rng: random.Random) -> bytes:
        key = rng.choice(draft.values).key
        data = draft.to_bytes()
        at = data.index(len(key).to_bytes(8, "little") + key)
        return data[:at] + length.to_bytes(8, "little") + data[at + 8 :]

    return edit


def token_length(draft: Draft, rng: random.Random) -> bytes:
    data = draft.to_bytes()
    at = data.index(b"<unk>") - 8
    return data[:at] + rng.choice([*HUGE, len(data)]).to_bytes(8, "little") + data[at + 8 :]


def nested_array(draft: Draft, rng: random.Random) -> None:
    rng.choice([found for found in draft.values if found.kind.startswith("array")]).code = 9


def twice(kind: str) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        if kind == "key":
            draft.values.insert(0, rng.choice(draft.values))
        else:
            draft.tensors.append(rng.choice(draft.tensors))

    return edit


def without_a_tensor(draft: Draft, rng: random.Random) -> None:
    required = [tensor for tensor in draft.tensors if tensor.name not in (b"output.weight", b"rope_freqs.weight")]
    draft.tensors.remove(rng.choice(required))


def ragged_row(draft: Draft, rng: random.Random) -> None:
    draft.tensors[0].dims, draft.tensors[0].code = [33, 12], TYPE_CODES["Q8_0"]


def foreign_tensor(*names: bytes) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        draft.tensors.append(DraftTensor(rng.choice(names), [32], TYPE_CODES["F32"], bytes(128)))

    return edit


def cut(draft: Draft, rng: random.Random) -> bytes:
    data = draft.to_bytes()
    return data[: -rng.randrange(33, len(data) // 2)]


def vocabulary(field: str, index: int, what: object) -> Edit:
    def edit(draft: Draft, rng: random.Random) -> None:
        put("tokenizer.ggml.model", "string", "llama")(draft, rng)
        put("tokenizer.ggml.scores", "array of float32", [0.0] * 12)(draft, rng)
        found = value(draft, f"tokenizer.ggml.{field}")
        found.value = [*found.value[:index], what, *found.value[index + 1 :]]

    return edit


def numbers_for_merges(draft: Draft, rng: random.Random) -> None:
    put("tokenizer.ggml.model", "string", "gpt2")(draft, rng)
    put("tokenizer.ggml.merges", "array of uint32", [1])(draft, rng)


KINDS: dict[str, tuple[Edit, type[PunaError], str]] = {
    "bad magic": (header("magic", b"FUGG", b"GGML", b"\0\0\0\0"), PunaError, "neither|big-endian"),
    "version 0": (header("version", 0), Broken, "version"),
    "version 1": (header("version", 1), Unsupported, "version 1"),
    "future version": (header("version", 4, 99, 65535), Unsupported, "version"),
    "big-endian": (header("version", 2 << 24, 3 << 24), Unsupported, "big-endian"),
    "tensor count too big": (header("num_tensors", *HUGE, 40000), Broken, "tensor_count"),
    "value count too big": (header("num_values", *HUGE, 40000), Broken, "kv_count"),
    "one tensor too many": (lambda draft, rng: setattr(draft, "num_tensors", len(draft.tensors) + 1), Broken, "tensor"),
    "one value too many": (lambda draft, rng: setattr(draft, "num_values", len(draft.values) + 1), Broken, "byte"),
    "no tensors": (lambda draft, rng: draft.tensors.clear(), Unsupported, "no weights"),
    "no values": (lambda draft, rng: draft.values.clear(), Broken, "general.architecture"),
    "key too long": (string_length(65537), Broken, "key"),
    "key longer than the file": (string_length(2**63), Broken, "key"),
    "empty key": (any_value("key", b""), Broken, "key"),
    "key that is not UTF-8": (any_value("key", b"\xff\xfe"), Broken, "UTF-8"),
    "key with control characters": (any_value("key", b"a\nb", b"a\x1b[2J", b"\0"), Broken, "printable"),
    "unknown value type": (any_value("code", 13, 255, 2**31, 2**32 - 1), Broken, "type"),
    "nested array": (nested_array, Broken, "array of arrays"),
    "array count too big": (any_value("count", *HUGE, arrays=True), Broken, "needs|at most|ends"),
    "array of unknown type": (any_value("code", 13, 99, 2**31, arrays=True), Broken, "type"),
    "string longer than the file": (token_length, Broken, "tokenizer.ggml.tokens"),
    "string value that is not UTF-8": (put("general.name", "string", b"\xff"), Broken, "UTF-8"),
    "bool of value 2": (put("x.flag", "bool", 2), Broken, "bool"),
    "duplicate key": (twice("key"), Broken, "twice"),
    "alignment 0": (put("general.alignment", "uint32", 0), Broken, "alignment"),
    "alignment 3": (put("general.alignment", "uint32", 3), Broken, "alignment"),
    "alignment 2^31": (put("general.alignment", "uint32", 2**31), Broken, "alignment"),
    "alignment of another type": (put("general.alignment", "uint64", 32), Broken, "alignment"),
    "alignment that the data does not have": (put("general.alignment", "uint32", 4096), Broken, "tensor|bytes"),
    "architecture missing": (drop("general.architecture"), Broken, "general.architecture"),
    "architecture of another type": (put("general.architecture", "uint32", 1), Broken, "uint32"),
    "another architecture": (put("general.architecture", "string", "gpt\x1b[2J"), Unsupported, "puna runs: llama"),
    "block_count missing": (drop("llama.block_count"), Broken, "block_count"),
    "block_count 0": (put("llama.block_count", "uint32", 0), Broken, "block_count"),
    "block_count 2^31": (put("llama.block_count", "uint32", 2**31), Broken, "block_count"),
    "block_count negative": (put("llama.block_count", "int32", -1), Broken, "block_count"),
    "block_count as text": (put("llama.block_count", "string", "1"), Broken, "block_count"),
    "block_count one too many": (put("llama.block_count", "uint32", 2), Broken, "blk.1"),
    "head_count 0": (put("llama.attention.head_count", "uint32", 0), Broken, "head_count"),
    "head_count that does not divide": (put("llama.attention.head_count_kv", "uint32", 3), Broken, "head_count_kv"),
    "key_length odd": (put("llama.attention.key_length", "uint32", 15), PunaError, "15|dimension|rope_freqs"),
    "hidden size 2^40": (put("llama.embedding_length", "uint64", 2**40), PunaError, "embedding_length|heads|hidden"),
    "norm_eps not a number": (put("llama.attention.layer_norm_rms_epsilon", "float32", float("nan")), Broken, "norm_eps"),
    "rope base infinite": (put("llama.rope.freq_base", "float32", float("inf")), Broken, "freq_base"),
    "rope base negative": (put("llama.rope.freq_base", "float64", -1.0), Broken, "freq_base"),
    "longrope": (put("llama.rope.scaling.type", "string", "longrope"), Unsupported, "longrope"),
    "experts, how many of them": (
        put("llama.expert_count", "uint32", 8),
        Broken,
        "expert_used_count is missing|expert_used_count: ",
    ),
    "shared experts": (put("llama.expert_shared_count", "uint32", 1), Unsupported, "expert_shared_count"),
    "soft caps": (put("llama.attn_logit_softcapping", "float32", 50.0), Unsupported, "attn_logit_softcapping"),
    "tensor name too long": (any_tensor("name", b"a" * 257, b"a" * 70000), Broken, "name of tensor"),
    "tensor name empty": (any_tensor("name", b""), Broken, "name of tensor"),
    "no dimensions": (any_tensor("num_dims", 0), Broken, "dimensions"),
    "too many dimensions": (any_tensor("num_dims", 5, 255, 2**31, 2**32 - 1), Broken, "dimensions"),
    "dimension 0": (one_dimension(0), Broken, "may be 0"),
    "dimension huge": (one_dimension(*(size // 256 * 256 for size in HUGE)), Broken, "tensor"),
    "product of dimensions overflows": (any_tensor("dims", [2**32, 2**32], [2**62, 4], [2**63, 2, 2, 2]), Broken, "tensor"),
    "row that is no multiple of the block": (
        ragged_row,
        Broken,
        "multiple",
    ),
    "unknown tensor type": (any_tensor("code", 42, 255, 2**31), Unsupported, "newer ggml"),
    "unreadable tensor type": (any_tensor("code", 16, 9, 24, 28, 40), Unsupported, "Readable"),
    "removed tensor type": (any_tensor("code", 4, 5, 31), Unsupported, "Readable"),
    "offset beyond the file": (any_tensor("offset", *(size // 32 * 32 for size in HUGE)), Broken, "tensor"),
    "offset not aligned": (shifted_tensor(1), Broken, "gap"),
    "overlap": (shifted_tensor(-32), Broken, "overlaps"),
    "gap": (shifted_tensor(32), Broken, "gap"),
    "duplicate tensor": (twice("tensor"), Broken, "twice"),
    "tensor missing": (without_a_tensor, Broken, "missing"),
    "foreign tensor": (foreign_tensor(b"blk.0.attn_q.lora_a", b"blk.1.attn_q.weight", b"v.patch"), Unsupported, "no part"),
    "bias": (foreign_tensor(b"output.bias", b"blk.0.attn_norm.bias"), Unsupported, "no part of a llama"),
    "half the biases": (foreign_tensor(b"blk.0.attn_q.bias"), ModelFormatError, "bias.*is missing"),
    "data cut": (cut, Broken, "file ends|needs|remain|ends after|bytes long"),
    "trailing bytes": (header("tail", bytes(1), bytes(32), b"x" * 1000), Broken, "bytes follow the last tensor"),
    "tokens of another type": (put("tokenizer.ggml.tokens", "array of uint32", list(range(12))), Broken, "tokens"),
    "too few tokens": (
        put("tokenizer.ggml.tokens", "array of string", [b"a"] * 9),
        Broken,
        "holds 9 tokens.* 12 rows|not <0xNN>",
    ),
    "too many tokens": (
        put("tokenizer.ggml.tokens", "array of string", [b"a"] * 13),
        Broken,
        "holds 13 tokens.* 12 rows|holds 12",
    ),
    "scores of another type": (put("tokenizer.ggml.scores", "array of float64", [0.0] * 12), Broken, "scores"),
    "scores too few": (put("tokenizer.ggml.scores", "array of float32", [0.0] * 11), Broken, "11"),
    "score not a number": (vocabulary("scores", 5, float("nan")), Broken, "finite"),
    "token types as bytes": (put("tokenizer.ggml.token_type", "array of uint8", [1] * 12), Broken, "token_type"),
    "token types too few": (put("tokenizer.ggml.token_type", "array of int32", [1] * 3), Broken, "token_type"),
    "unknown token type": (vocabulary("token_type", 5, 7), Broken, "token_type"),
    "byte token <0x-1>": (vocabulary("tokens", 3, b"<0x-1>"), Broken, "<0xNN>"),
    "byte token <0x1G>": (vocabulary("tokens", 3, b"<0x1G>"), Broken, "<0xNN>"),
    "special id as text": (put("tokenizer.ggml.bos_token_id", "string", "1"), Broken, "bos_token_id"),
    "flag as a number": (put("tokenizer.ggml.add_bos_token", "uint32", 1), Broken, "add_bos_token"),
    "unknown tokenizer": (put("tokenizer.ggml.model", "string", "bert"), Unsupported, "bert"),
    "merges as numbers": (numbers_for_merges, Broken, "merges"),
    "template that is no text": (put("tokenizer.chat_template", "array of string", ["a"]), Broken, "chat_template"),
    "split count without its name": (put("split.count", "uint16", 3), Broken, "split.count"),
    "split count negative": (put("split.count", "int32", -1), Broken, "split.count"),
    "split count as text": (put("split.count", "string", "2"), Broken, "split.count"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_broken_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    edit, error, words = KINDS[kind]
    for seed in range(20):
        rng = random.Random(seed)
        draft = seeded_draft(rng)
        data = edit(draft, rng)
        path = tmp_path / f"{seed}.gguf"
        path.write_bytes(data if isinstance(data, bytes) else draft.to_bytes())
        with pytest.raises(error, match=words) as caught:
            open_checkpoint(path)
        message = str(caught.value)
        assert isinstance(caught.value, ModelFormatError | UnsupportedModelError), f"{kind}, seed {seed}: {caught.value!r}"
        assert str(path) in message and message.isprintable() and len(message) < 600, f"{kind}, seed {seed}: {message!r}"


@pytest.mark.parametrize("seed", range(20))
def test_the_files_that_the_hostile_ones_are_made_from_load(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(seeded_draft(random.Random(seed)).to_bytes())
    open_checkpoint(path)


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    data = micro_draft("Q8_0").to_bytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    open_checkpoint(path)
    padding = len(data) - len(data.rstrip(b"\0"))
    assert 8_000 < len(data) < 20_000 and padding < 32
    for length in range(len(data) - 33, -1, -1):
        os.truncate(path, length)
        with pytest.raises(ModelFormatError):
            open_checkpoint(path)


def test_two_thousand_mutants_load_or_are_refused() -> None:
    run_mutants("gguf", seed=2026, count=2_000)


@pytest.mark.full
def test_twenty_thousand_mutants_load_or_are_refused() -> None:
    run_mutants("gguf", seed=1, count=20_000)
