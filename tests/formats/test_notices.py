"""Files that contradict themselves or known facts about their model: how each is read, and which notice says so.

The table GGUF_CASES holds files for llama.cpp, FOLDER_CASES those for transformers; `oracle` is what that program does with such
a file (llama.cpp's loader as of 2026, transformers 5.23). `outcome`: "told" and "silent" load, "refused" is an error without the
word "damaged", "damage" is one with it. Where transformers can be asked in a test, it is: random folders are at the end.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from puna.convert import convert
from puna.errors import DamagedFileError, PunaError
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint
from puna.formats.notices import ConversionLoss, Doubt
from puna.formats.token_types import CONTROL
from puna.health import examine
from puna.tokenizers import build_tokenizer
from tests.models import (
    TYPE_CODES,
    Draft,
    DraftTensor,
    DraftValue,
    TinyTokenizer,
    bpe_tokenizer,
    draft_gguf,
    random_tensors,
    spm_tokenizer,
    tiny_config,
    write_gguf,
)  # fmt: skip

CONFIG = tiny_config()
WEIGHTS = random_tensors(CONFIG, seed=1)
G = "tokenizer.ggml."
Edit = Callable[[Draft], object]
Check = Callable[[Checkpoint], bool]


class GGUFCase(NamedTuple):
    oracle: str
    edit: Edit
    outcome: str
    words: str = ""
    check: Check = lambda checkpoint: True
    tokenizer: Callable[[], TinyTokenizer] = bpe_tokenizer


def put(key: str, kind: str, value: Any) -> Edit:
    def edit(draft: Draft) -> None:
        draft.values = [found for found in draft.values if found.key != key.encode()] + [DraftValue(key.encode(), kind, value)]

    return edit


def drop(key: str) -> Edit:
    def edit(draft: Draft) -> None:
        draft.values = [found for found in draft.values if found.key != key.encode()]

    return edit


def change(key: str, new: Callable[[Any], Any]) -> Edit:
    def edit(draft: Draft) -> None:
        found = next(value for value in draft.values if value.key == key.encode())
        found.value = new(found.value)

    return edit


def both(*edits: Edit) -> Edit:
    return lambda draft: [edit(draft) for edit in edits]


def rename(old: str, new: str) -> Edit:
    """Of a token."""
    return change(f"{G}tokens", lambda tokens: [new.encode() if token == old.encode() else token for token in tokens])


def add_factors(draft: Draft) -> None:
    factors = np.full(8, 2.0, np.float32)
    draft.tensors.append(DraftTensor(b"rope_freqs.weight", [8], TYPE_CODES["F32"], factors.tobytes()))


def shortened(draft: Draft) -> None:
    """The embedding and the head keep 300 rows; the vocabulary loses ten tokens that text is never made of."""
    for key in ("tokens", "token_type"):
        change(f"{G}{key}", lambda values: values[:290])(draft)
    change(f"{G}merges", lambda merges: [merge for merge in merges if merge.replace(b" ", b"") in tokens_of(draft)])(draft)


def tokens_of(draft: Draft) -> list[bytes]:
    tokens: list[bytes] = next(value.value for value in draft.values if value.key == f"{G}tokens".encode())
    return tokens


def longer(text: bytes, kind: int) -> Edit:
    return both(
        change(f"{G}tokens", lambda tokens: [*tokens, text]),
        change(f"{G}token_type", lambda types: [*types, kind]),
    )


def spec(checkpoint: Checkpoint) -> Any:
    assert checkpoint.tokenizer is not None
    return checkpoint.tokenizer


def ends(checkpoint: Checkpoint) -> set[int]:
    return set(build_tokenizer(spec(checkpoint)).stop_ids)


WARNS, USES_DEFAULT = "warns 'bad special token' and has none", "warns 'bad special token' and uses the default"
THROWS, LOADS = "throws an error", "loads it without a word"

GGUF_CASES: dict[str, GGUFCase] = {
    # ids out of range
    "padding id beyond the vocabulary": GGUFCase(
        WARNS, put(f"{G}padding_token_id", "uint32", 300), "told", "padding_token_id is 300", lambda c: spec(c).pad_id is None
    ),
    "padding id of minus one": GGUFCase(
        WARNS, put(f"{G}padding_token_id", "int32", -1), "told", "padding_token_id is -1", lambda c: spec(c).pad_id is None
    ),
    "eos id beyond the vocabulary": GGUFCase(
        WARNS, put(f"{G}eos_token_id", "uint32", 999), "told", "it is not used", lambda c: ends(c) == {0, 2}
    ),
    "eos id beyond a SentencePiece vocabulary": GGUFCase(
        USES_DEFAULT,
        put(f"{G}eos_token_id", "uint32", 999),
        "told",
        "puna uses 2, as llama.cpp does",
        lambda c: spec(c).eos_id == 2,
        spm_tokenizer,
    ),
    "bos id beyond a SentencePiece vocabulary": GGUFCase(
        USES_DEFAULT,
        put(f"{G}bos_token_id", "uint32", 2**32 - 1),
        "told",
        "puna uses 1",
        lambda c: spec(c).bos_id == 1,
        spm_tokenizer,
    ),
    "bos id beyond the vocabulary, and BOS asked for": GGUFCase(
        "aborts (an assertion)",
        both(put(f"{G}bos_token_id", "uint32", 300), put(f"{G}add_bos_token", "bool", 1)),
        "told",
        "names no BOS token; puna adds none",
        lambda c: not spec(c).add_bos,
    ),
    "end of turn beyond the vocabulary": GGUFCase(
        WARNS, put(f"{G}eot_token_id", "uint32", 300), "told", "eot_token_id is 300", lambda c: spec(c).eot_id is None
    ),
    # arrays for each layer
    "K/V heads as an array of equal values": GGUFCase(
        LOADS, put("llama.attention.head_count_kv", "array of uint32", [2, 2]), "silent", "", lambda c: c.config.num_kv_heads == 2
    ),
    "K/V heads as an array of int32": GGUFCase(
        LOADS, put("llama.attention.head_count_kv", "array of int32", [2, 2]), "silent", "", lambda c: c.config.num_kv_heads == 2
    ),
    "heads as an array of equal values": GGUFCase(
        LOADS, put("llama.attention.head_count", "array of uint32", [4, 4]), "silent", "", lambda c: c.config.num_heads == 4
    ),
    "feed-forward sizes as an array of equal values": GGUFCase(
        LOADS, put("llama.feed_forward_length", "array of uint32", [96, 96]), "silent", "", lambda c: c.config.ffn_size == 96
    ),
    "K/V heads that differ between layers": GGUFCase(
        "runs it; puna's layers are alike",
        put("llama.attention.head_count_kv", "array of uint32", [2, 1]),
        "refused",
        r"head_count_kv differs between layers \(2 in layer 0, 1 in layer 1\)",
    ),
    "an array for another number of layers": GGUFCase(
        THROWS,
        put("llama.feed_forward_length", "array of uint32", [96] * 3),
        "refused",
        "holds 3 numbers; the model has 2 layers",
    ),
    # vocabulary and embedding
    "spare rows behind the vocabulary": GGUFCase(
        "throws: wrong shape", shortened, "told", "the rows after them are never used", lambda c: len(spec(c).tokens) == 300
    ),
    "a padding token without a row": GGUFCase(
        "throws: wrong shape", longer(b"[PAD300]", 3), "told", "puna drops it", lambda c: len(spec(c).tokens) == 300
    ),
    "an unused token without a row": GGUFCase(
        "throws: wrong shape", longer(b"<0>", 5), "told", "puna drops it", lambda c: len(spec(c).tokens) == 300
    ),
    "a word without a row": GGUFCase(
        "throws: wrong shape", longer(b"word", 1), "refused", "holds 301 tokens, but the embedding has 300"
    ),
    "more types than tokens": GGUFCase(
        "reads as many as there are tokens",
        change(f"{G}token_type", lambda types: [*types, 1, 1]),
        "told",
        "holds 302 elements for 300",
    ),
    "more scores than tokens": GGUFCase(
        "reads as many as there are tokens",
        change(f"{G}scores", lambda scores: [*scores, 0.0]),
        "told",
        "holds 301 elements for 300",
        tokenizer=spm_tokenizer,
    ),
    # splitters
    "no splitter": GGUFCase(
        "warns and takes 'default'", drop(f"{G}pre"), "told", "guesses, 'default'", lambda c: spec(c).pre == "default"
    ),
    "an empty splitter": GGUFCase("warns and takes 'default'", put(f"{G}pre", "string", ""), "told", "guesses, 'default'"),
    "no splitter of a SentencePiece vocabulary": GGUFCase(
        "takes 'default', which such a vocabulary has no use for", drop(f"{G}pre"), "silent", tokenizer=spm_tokenizer
    ),
    # rotary embedding
    "two keys of one stretch": GGUFCase(
        "reads the old key only where the new one is absent",
        both(put("llama.rope.scaling.factor", "float32", 2.0), put("llama.rope.scale_linear", "float32", 4.0)),
        "told",
        "puna uses llama.rope.scaling.factor",
        lambda c: c.config.rope.factor == 2.0,
    ),
    "a stretch of 0 beside the old key": GGUFCase(
        "reads the old key only where the new one is absent",
        both(put("llama.rope.scaling.factor", "float32", 0.0), put("llama.rope.scale_linear", "float32", 4.0)),
        "told",
        "puna uses",
        lambda c: c.config.rope.scaling == "none",
    ),
    "the same stretch twice": GGUFCase(
        LOADS, both(put("llama.rope.scaling.factor", "float32", 4.0), put("llama.rope.scale_linear", "float32", 4.0)), "silent"
    ),
    "a stretch beside the type none": GGUFCase(
        "scales nothing",
        both(put("llama.rope.scaling.type", "string", "none"), put("llama.rope.scaling.factor", "float32", 4.0)),
        "told",
        "puna scales nothing",
        lambda c: c.config.rope.scaling == "none",
    ),
    "a stretch beside factors": GGUFCase(
        "applies both",
        both(put("llama.rope.scaling.type", "string", "linear"), put("llama.rope.scaling.factor", "float32", 4.0), add_factors),
        "told",
        "puna applies both",
        lambda c: bool(np.allclose(c.config.rope.frequencies(16)[0], 1 / 8)),
    ),
    # templates
    "named templates": GGUFCase(
        "uses the default one",
        both(
            put("tokenizer.chat_template", "string", "{{ messages }}"),
            put("tokenizer.chat_template.tool_use", "string", "tools"),
            put("tokenizer.chat_templates", "array of string", [b"tool_use"]),
        ),
        "told",
        r"drops the others \(tool_use\)",
        lambda c: c.chat_template == "{{ messages }}",
    ),
    # ends
    "gpt-oss: <|end|> ends a message, not the answer": GGUFCase(
        "takes <|end|> from the ends where <|return|> and <|call|> are there",
        both(
            rename("<|endoftext|>", "<|end|>"),
            rename("<|im_start|>", "<|return|>"),
            rename("<|im_end|>", "<|call|>"),
            put(f"{G}eos_token_id", "uint32", 1),
        ),
        "silent",
        "",
        lambda c: ends(c) == {1, 2},
    ),
    "no types at all": GGUFCase(
        "overrides those of the markers it knows", drop(f"{G}token_type"), "told", "as ordinary text", lambda c: ends(c) == {0, 2}
    ),
    # not puna's, and not damaged
    "a future version": GGUFCase(THROWS, lambda draft: setattr(draft, "version", 4), "refused", "GGUF version 4"),
    "a tensor type of a newer ggml": GGUFCase(
        THROWS, lambda draft: setattr(draft.tensors[0], "code", 77), "refused", "newer ggml"
    ),
    "a vocabulary alone": GGUFCase(
        "loads it only for tokenising", lambda draft: setattr(draft, "tensors", []), "refused", "a vocabulary but no weights"
    ),
    "a size that no model has": GGUFCase(THROWS, put("llama.block_count", "uint32", 0), "refused", "num_layers is 0"),
    # damage
    "bytes behind the last tensor": GGUFCase(
        "does not look", lambda draft: setattr(draft, "tail", b"x" * 99), "damage", "bytes follow the last"
    ),
    "an offset into the tensor before": GGUFCase(
        THROWS, lambda draft: setattr(draft.tensors[1], "offset", 32), "damage", "overlaps"
    ),
    "more values than bytes": GGUFCase(THROWS, lambda draft: setattr(draft, "num_values", 30000), "damage", "bytes remain|needs"),
}


@pytest.mark.parametrize("name", GGUF_CASES)
def test_a_gguf_file_is_read_as_llama_cpp_reads_it_and_said(name: str, tmp_path: Path) -> None:
    case = GGUF_CASES[name]
    draft = draft_gguf(CONFIG, WEIGHTS, tokenizer=case.tokenizer())
    case.edit(draft)
    path = tmp_path / "m.gguf"
    path.write_bytes(draft.to_bytes())
    assert_outcome(case.outcome, case.words, case.check, path)


def assert_outcome(outcome: str, words: str, check: Check, path: Path) -> None:
    if outcome in ("refused", "damage"):
        with pytest.raises(PunaError, match=words) as caught:
            open_checkpoint(path)
        assert isinstance(caught.value, DamagedFileError) == (outcome == "damage"), caught.value
        assert ("damaged" in caught.value.line) == (outcome == "damage") and caught.value.hint
        return
    checkpoint = open_checkpoint(path)
    if outcome == "silent":
        assert checkpoint.notices == ()
    else:
        assert any(re.search(words, notice) for notice in checkpoint.notices), checkpoint.notices
    assert check(checkpoint)
    build_tokenizer(spec(checkpoint))


def test_a_file_that_was_cut_short_anywhere_is_damaged_or_empty(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", CONFIG, WEIGHTS).read_bytes()
    rng = random.Random(5)
    for at in [*rng.sample(range(64, len(whole) - 32), 20), 5, 9, 23]:
        (tmp_path / "cut.gguf").write_bytes(whole[:at])
        with pytest.raises(DamagedFileError):
            open_checkpoint(tmp_path / "cut.gguf")


# ---- folders --------------------------------------------------------------------------------------------------------


class FolderCase(NamedTuple):
    oracle: str
    edit: Callable[[Path], object]
    outcome: str
    words: str = ""
    check: Check = lambda checkpoint: True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    source = write_gguf(home / "tiny.gguf", CONFIG, WEIGHTS)
    return convert(source, home / "folder", to="safetensors").path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def keys(file: str, **values: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text("utf-8")) if path.exists() else {}
        path.write_text(json.dumps({key: value for key, value in {**found, **values}.items() if value is not ...}), "utf-8")

    return edit


def every(*edits: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [edit(folder) for edit in edits]


def text(file: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def marked(file: str) -> Callable[[Path], object]:
    """With a byte order mark."""
    return lambda folder: (folder / file).write_bytes(b"\xef\xbb\xbf" + (folder / file).read_bytes())


def head(value: str | None, embed: bool = True, tie: bool = True) -> Callable[[Path], object]:
    """A stored head beside `tie_word_embeddings`: "same" as the embedding, "other" in its last row, or none."""

    def edit(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        matrix = weights["model.embed_tokens.weight"]
        weights.pop("lm_head.weight", None)
        if value is not None:
            weights["lm_head.weight"] = matrix.copy()
        if value == "other":
            weights["lm_head.weight"][-1, -1] += 1
        if not embed:
            del weights["model.embed_tokens.weight"]
        save_file(weights, folder / "model.safetensors")
        keys("config.json", tie_word_embeddings=tie)(folder)

    return edit


def special(in_tokenizer: bool, in_config: bool, name: str = "<|im_start|>", token_id: int = 1) -> Callable[[Path], object]:
    """What two files say of a token."""

    def edit(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        for token in document["added_tokens"]:
            token["special"] = in_tokenizer if token["content"] == name else token["special"]
        (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")
        entry = {"content": name, "special": in_config, "lstrip": False, "rstrip": False, "normalized": False}
        keys("tokenizer_config.json", added_tokens_decoder={str(token_id): {**entry, "single_word": False}})(folder)

    return edit


def excess(name: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        document["added_tokens"].append({**document["added_tokens"][0], "id": 300, "content": name})
        (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")

    return edit


def is_tied(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.tie_embeddings and "lm_head" not in checkpoint.tensors


NAMED = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
FOLDER_CASES: dict[str, FolderCase] = {
    "a stored head that differs in one number": FolderCase(
        "uses the stored one and warns", head("other"), "told", "puna uses the stored one", lambda c: not is_tied(c)
    ),
    "a stored head that is the embedding": FolderCase("ties them", head("same"), "silent", "", is_tied),
    "a head, no embedding, and tied": FolderCase(
        "ties the embedding to the head", head("same", embed=False), "silent", "", is_tied
    ),
    "no head, and not tied": FolderCase(
        "makes a random one and warns", head(None, tie=False), "refused", "is missing, and tie_word_embeddings is false"
    ),
    "an end beyond the vocabulary": FolderCase(
        "compares ids with it, which never matches",
        keys("generation_config.json", eos_token_id=[2, 300]),
        "told",
        r"eos_token_id names \[300\]",
        lambda c: ends(c) == {0, 2},
    ),
    "a padding id beyond the vocabulary": FolderCase(
        "fails: its embedding wants that row", keys("config.json", pad_token_id=32000), "told", "pad_token_id is 32000"
    ),
    "a BOS id beyond the vocabulary": FolderCase(
        "takes the tokenizer's", keys("config.json", bos_token_id=32000), "told", "bos_token_id is 32000"
    ),
    "another end in generation_config.json": FolderCase(
        "generate() ends there",
        keys("generation_config.json", eos_token_id=7),
        "told",
        "puna ends it at each of them",
        lambda c: ends(c) >= {2, 7},
    ),
    "no end in generation_config.json": FolderCase(
        "takes that of config.json",
        every(keys("generation_config.json", eos_token_id=...), keys("config.json", eos_token_id=[2, 9])),
        "silent",
        "",
        lambda c: 9 in ends(c),
    ),
    "an end that is null in generation_config.json": FolderCase(
        "takes that of config.json",
        every(keys("generation_config.json", eos_token_id=None), keys("config.json", eos_token_id=[2, 9])),
        "silent",
        "",
        lambda c: 9 in ends(c),
    ),
    "BOS by a flag, none by the post-processor": FolderCase(
        "follows the post-processor",
        keys("tokenizer_config.json", add_bos_token=True, bos_token="<|im_start|>"),
        "told",
        "add_bos_token true, but the post-processor of tokenizer.json does not add BOS",
        lambda c: not spec(c).add_bos,
    ),
    "a token that only tokenizer_config.json calls special": FolderCase(
        "calls it special", special(in_tokenizer=False, in_config=True), "told", "is special by tokenizer_config.json"
    ),
    "a token that only tokenizer.json calls special": FolderCase(
        "calls it special", special(in_tokenizer=True, in_config=False), "told", "is special by tokenizer.json"
    ),
    "a turn marker that no file calls special": FolderCase(
        "is not asked; llama.cpp calls it control",
        special(False, False, "<|endoftext|>", 0),
        "told",
        "as ordinary text",
        lambda c: spec(c).token_types[0] == CONTROL,
    ),
    "a padding token without a row": FolderCase("loads it; it is never used", excess("<pad>"), "told", "puna drops it"),
    "a mask token without a row": FolderCase("loads it; it is never used", excess("[MASK]"), "told", "puna drops it"),
    "a turn marker without a row": FolderCase(
        "loads it; using it is an error", excess("<|eot_id|>"), "refused", "there are 301 tokens; the model has 300"
    ),
    "two templates that differ": FolderCase(
        "uses chat_template.jinja",
        every(text("chat_template.jinja", "j"), keys("tokenizer_config.json", chat_template="c")),
        "told",
        "puna uses chat_template.jinja",
        lambda c: c.chat_template == "j",
    ),
    "two templates that are one": FolderCase(
        LOADS, every(text("chat_template.jinja", "j\n"), keys("tokenizer_config.json", chat_template="j")), "silent"
    ),
    "a processor's template beside the tokenizer's": FolderCase(
        "its tokenizer does not read chat_template.json",
        every(keys("chat_template.json", chat_template="p"), keys("tokenizer_config.json", chat_template="c")),
        "told",
        "puna uses tokenizer_config.json",
        lambda c: c.chat_template == "c",
    ),
    "a list of templates": FolderCase(
        "uses the default one",
        keys("tokenizer_config.json", chat_template=NAMED),
        "told",
        r"drops the others \(tool_use\)",
        lambda c: c.chat_template == "d",
    ),
    "a list of templates without a default": FolderCase(
        "refuses to choose",
        keys("tokenizer_config.json", chat_template=NAMED[1:]),
        "told",
        "none is the default",
        lambda c: c.chat_template is None,
    ),
    "a byte order mark in config.json": FolderCase("fails", marked("config.json"), "silent"),
    "a byte order mark in tokenizer.json": FolderCase("fails", marked("tokenizer.json"), "silent"),
    "a byte order mark in tokenizer_config.json": FolderCase("fails", marked("tokenizer_config.json"), "silent"),
    "a byte order mark before a template": FolderCase(
        "keeps it as a letter", text("chat_template.jinja", b"\xef\xbb\xbfj"), "silent", "", lambda c: c.chat_template == "j"
    ),
    "JSON with a comma too many": FolderCase("fails", text("generation_config.json", '{"a": 1,}'), "refused", "is not JSON"),
    "JSON that was cut short": FolderCase("fails", text("generation_config.json", '{"a": [1, 2'), "damage", "ends too early"),
    "JSON that was cut within a text": FolderCase(
        "fails", text("generation_config.json", '{"a": "b'), "damage", "ends too early"
    ),
    "the same key twice": FolderCase("takes the last", text("generation_config.json", '{"top_k": 1, "top_k": 1}'), "silent"),
    "a key twice with two values": FolderCase(
        "takes the last", text("generation_config.json", '{"top_k": 1, "top_k": 2}'), "refused", "'top_k' occurs twice"
    ),
    "code in the folder": FolderCase(
        "asks for trust", keys("config.json", auto_map={"AutoModel": "m.M"}), "told", "never runs it"
    ),
}


@pytest.mark.parametrize("name", FOLDER_CASES)
def test_a_folder_is_read_as_transformers_reads_it_and_said(name: str, folder: Path) -> None:
    case = FOLDER_CASES[name]
    case.edit(folder)
    assert_outcome(case.outcome, case.words, case.check, folder)


# ---- who says so ----------------------------------------------------------------------------------------------------


def test_inspect_finds_a_problem_where_a_file_contradicts_itself_and_none_in_a_remark(folder: Path) -> None:
    head("other")(folder)
    keys("tokenizer_config.json", chat_template=NAMED)(folder)
    checkpoint = open_checkpoint(folder)
    assert [type(notice) for notice in checkpoint.notices] == [Doubt, ConversionLoss]
    found = [(finding.severity, finding.found) for finding in examine(checkpoint) if finding.check == "reader"]
    assert [severity for severity, _ in found] == ["warning", "note"]


# ---- random folders, held against transformers ----------------------------------------------------------------------

RANDOM_FOLDERS = 16


def at_random(rng: random.Random) -> list[Callable[[Path], object]]:
    """Edits of a folder that say things twice, and differently."""
    flag = rng.choice
    template = [
        text("chat_template.jinja", flag(("a", "b"))),
        keys("tokenizer_config.json", chat_template=flag(("a", "b", NAMED, [*NAMED[::-1]]))),
        keys("chat_template.json", chat_template=flag(("a", "c"))),
    ]
    return [
        head(flag(("same", "other", "other", None)), tie=True),
        *rng.sample([special(flag((True, False)), flag((True, False)), "<|endoftext|>", 0)], rng.randrange(2)),
        keys("special_tokens_map.json", **flag(({}, {"eos_token": "<|endoftext|>"}, {"eos_token": {"content": "<|im_end|>"}}))),
        keys("generation_config.json", eos_token_id=flag((2, 7, [7, 9], [2, 7], [300, 5]))),
        keys("config.json", eos_token_id=flag((2, 11)), pad_token_id=flag((None, 0))),
        keys("tokenizer_config.json", add_bos_token=flag((True, False)), eos_token=flag(("<|im_end|>", "<|endoftext|>"))),
        *rng.sample(template, rng.randrange(4)),
    ]


@pytest.mark.parametrize("seed", range(RANDOM_FOLDERS))
def test_a_folder_that_contradicts_itself_at_random_is_what_transformers_makes_of_it(seed: int, folder: Path) -> None:
    import torch
    import transformers

    for edit in at_random(random.Random(seed)):
        edit(folder)
    ours = open_checkpoint(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    output = ours.tensors["embed" if ours.config.tie_embeddings else "lm_head"]
    assert np.array_equal(output.dequantize(), theirs.lm_head.weight.detach().numpy())
    their_ends = theirs.generation_config.eos_token_id
    their_ends = set(their_ends if isinstance(their_ends, list) else [their_ends])
    library, tokenizer = transformers.AutoTokenizer.from_pretrained(folder), build_tokenizer(spec(ours))
    assert spec(ours).eos_id == library.eos_token_id
    assert {library.eos_token_id} | their_ends - {300} <= tokenizer.stop_ids
    assert tokenizer.stop_ids - their_ends - {library.eos_token_id} <= {0, 2}  # those that everybody knows by their text
    assert tokenizer.encode("the day of her") == library("the day of her")["input_ids"]
    template = library.chat_template
    template = template["default"] if isinstance(template, dict) else template
    processors = folder / "chat_template.json"
    if template is None and processors.exists():  # not the tokenizer's for transformers; llama.cpp's converter takes it
        template = json.loads(processors.read_text())["chat_template"]
    assert ours.chat_template == template
    is_hidden = library.decode([0], skip_special_tokens=True) == ""
    assert not is_hidden or tokenizer.decode([0]) == ""


@pytest.mark.parametrize("value", ["same", "other", None])
def test_a_conversion_keeps_the_head_that_counts_and_says_exactly_only_where_nothing_is_lost(
    value: str | None, folder: Path, tmp_path: Path
) -> None:
    head(value)(folder)
    (folder / "generation_config.json").unlink()
    source = open_checkpoint(folder)
    done = convert(folder, tmp_path / "out.gguf", to="gguf")
    again = open_checkpoint(tmp_path / "out.gguf")
    assert done.exact and done.losses == ()
    assert again.config.tie_embeddings == (value != "other") == source.config.tie_embeddings
    keys("generation_config.json", temperature=0.6, eos_token_id=2)(folder)
    done = convert(folder, tmp_path / "again.gguf", to="gguf")
    assert not done.exact and "temperature" in done.losses[0]
    assert convert(folder, tmp_path / "kept", to="safetensors").exact


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_a_stretch_beside_factors_survives_a_conversion(kind: str, tmp_path: Path) -> None:
    draft = draft_gguf(CONFIG, WEIGHTS, tokenizer=bpe_tokenizer())
    both(put("llama.rope.scaling.type", "string", kind), put("llama.rope.scaling.factor", "float32", 4.0), add_factors)(draft)
    put("llama.rope.scaling.original_context_length", "uint32", 32)(draft)
    (tmp_path / "m.gguf").write_bytes(draft.to_bytes())
    source = open_checkpoint(tmp_path / "m.gguf").config
    again = open_checkpoint(convert(tmp_path / "m.gguf", tmp_path / "again.gguf", to="gguf").path).config
    assert np.allclose(source.rope.frequencies(16), again.rope.frequencies(16), rtol=1e-6)
