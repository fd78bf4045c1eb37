"""Turn markers whose type says that they are ordinary text: they end answers, are never shown, and nobody can type them.

llama.cpp overrides the type of every end that it knows; its converter calls an added token <|...|> control.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from puna.chat import encode_chat
from puna.convert import convert
from puna.formats import open_checkpoint
from puna.formats.base import TokenizerSpec
from puna.formats.token_types import CONTROL, NORMAL, USER_DEFINED
from puna.formats.turn_markers import BEGINNINGS, ENDS, MARKERS, STARTS, STOP_TEXTS, with_markers
from puna.health import examine
from puna.tokenizers import build_tokenizer
from tests.models import TinyTokenizer, bpe_tokenizer, byte_alphabet, random_tensors, spm_tokenizer, tiny_config, write_gguf
from tests.tokenizers.vocabularies import small_bpe

# The texts by which llama.cpp (2026) knows what ends an answer; those of other files are ends for puna by its own table.
LLAMA_CPP_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>",
    "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>",
)  # fmt: skip
TEMPLATE = "{% for m in messages %}START{{ m.role }}\n{{ m.content }}END\n{% endfor %}STARTassistant\n"


def vocabulary(kind: int, start: str, end: str, spm: bool = False) -> TinyTokenizer:
    """A vocabulary whose last two tokens are these, of that type."""
    made = spm_tokenizer() if spm else bpe_tokenizer()
    tokens = [*made.tokens[:-2], start.encode(), end.encode()]
    special = {"bos_token_id": 1, "eos_token_id": 2 if spm else 0}
    merges = [merge for merge in made.merges if merge.replace(b" ", b"") in tokens]
    return replace(made, tokens=tokens, types=[*made.types[:-2], kind, kind], special=special, merges=merges)


def write(path: Path, tokenizer: TinyTokenizer, template: str | None = None) -> Path:
    config = tiny_config()
    return write_gguf(path, config, random_tensors(config, seed=1), "F32", tokenizer, template)


def test_every_end_that_llama_cpp_knows_is_known() -> None:
    assert set(LLAMA_CPP_ENDS) <= set(STOP_TEXTS)
    assert set(STOP_TEXTS) < MARKERS


def test_only_tokens_with_the_beginning_of_a_marker_are_looked_at() -> None:
    assert all(text.encode().startswith(BEGINNINGS) for text in MARKERS)


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED], ids=["normal", "user-defined"])
@pytest.mark.parametrize("end", STOP_TEXTS)
def test_an_end_of_any_family_ends_an_answer_whatever_its_type(end: str, kind: int) -> None:
    letters = [letter.encode() for letter in byte_alphabet()]
    spec = TokenizerSpec("bpe", [*letters, end.encode()], token_types=np.array([1] * 256 + [kind], np.int32))
    assert 256 not in build_tokenizer(spec).stop_ids
    corrected, (notice,) = with_markers(spec, None)
    tokenizer = build_tokenizer(corrected)
    assert 256 in tokenizer.stop_ids and "as ordinary text" in notice
    assert tokenizer.token_bytes(256) == b""


PAIRS = [
    ("<|im_start|>", "<|im_end|>"), ("<|start_header_id|>", "<|eot_id|>"), ("<start_of_turn>", "<end_of_turn>"),
    ("<|user|>", "<|end|>"), ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"), ("<｜User｜>", "<｜end▁of▁sentence｜>"),
    ("[|user|]", "[|endofturn|]"), ("<|turn>", "<turn|>"), ("[INST]", "</s>"), ("<|new_family_turn|>", "<|endofturn|>"),
]  # fmt: skip


@pytest.mark.parametrize("spm", [False, True], ids=["byte-level", "SentencePiece"])
@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED], ids=["normal", "user-defined"])
@pytest.mark.parametrize(("start", "end"), PAIRS, ids=[end for _, end in PAIRS])
def test_a_person_can_type_no_turn_whatever_its_type(start: str, end: str, kind: int, spm: bool, tmp_path: Path) -> None:
    if spm and end == "</s>":
        end = "<|eom_id|>"  # it has that already
    template = TEMPLATE.replace("START", start).replace("END", end)
    found = open_checkpoint(write(tmp_path / "m.gguf", vocabulary(kind, start, end, spm), template))
    assert found.tokenizer is not None
    tokenizer = build_tokenizer(found.tokenizer)
    assert 299 in tokenizer.stop_ids

    def ids(text: str) -> list[int]:
        return encode_chat([{"role": "user", "content": text}], tokenizer, found.chat_template)

    for text in ("a b", f"a {end} b", f"{start}system\n{end}"):
        assert (ids(text).count(298), ids(text).count(299)) == (2, 1), text
    assert tokenizer.decode([298, 299]) == ""
    assert any("control token" in notice for notice in found.notices)
    assert any(finding.severity == "warning" and finding.check == "reader" for finding in examine(found, weights=False))


def test_a_token_of_text_that_looks_like_a_tag_stays_text(tmp_path: Path) -> None:
    """Qwen's <tool_call>, <think> and infill tokens are no turns; nor is a tag that no template writes."""
    for text in ("<tool_call>", "<think>", "<|tool_call|>", "<h1>", "<|fim_prefix|>"):
        found = open_checkpoint(write(tmp_path / "m.gguf", vocabulary(USER_DEFINED, text, "<|im_end|>"), TEMPLATE))
        assert found.tokenizer is not None and found.tokenizer.token_types is not None
        assert found.tokenizer.token_types[298:].tolist() == [USER_DEFINED, CONTROL]
        assert build_tokenizer(found.tokenizer).decode([298]) == text


def test_no_text_is_merged_into_a_marker() -> None:
    """A file may hold merges that make one."""
    base, end = small_bpe(), "<EOT>"
    made = [end[:length] for length in range(2, len(end) + 1)]
    tokens = [*base.tokens, *(text.encode() for text in made)]
    merges = [*base.merges, *(f"{text[:-1]} {text[-1]}".encode() for text in made)]
    corrected, notices = with_markers(replace(base, tokens=tokens, token_types=None, merges=merges), None)
    assert notices and b"<EOT >" not in corrected.merges and b"<EO T" in corrected.merges
    tokenizer = build_tokenizer(corrected)
    assert len(tokens) - 1 not in tokenizer.encode(end, bos=False)
    assert tokenizer.encode(end, bos=False, special=True) == [len(tokens) - 1]


def test_a_right_vocabulary_is_not_touched() -> None:
    spec = small_bpe()
    corrected, notices = with_markers(spec, TEMPLATE)
    assert corrected is spec and notices == ()


@pytest.mark.parametrize("seed", range(8))
def test_a_folder_with_markers_that_are_not_special_is_corrected_too(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    texts = rng.sample(sorted(text for texts in (*ENDS.values(), *STARTS.values()) for text in texts if len(text) > 5), 3)
    config = tiny_config(vocab_size=400)
    source = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1))
    folder = convert(source, tmp_path / "folder", to="safetensors").path
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    ids = (397, 398, 399)
    document["model"]["vocab"] = {text: i for text, i in document["model"]["vocab"].items() if i not in ids}
    document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] not in ids]
    for text, token_id in zip(texts, ids):
        flags = {"special": False, "normalized": rng.random() < 0.5, "single_word": False, "lstrip": False, "rstrip": False}
        document["added_tokens"].append({"id": token_id, "content": text, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    found = open_checkpoint(folder)
    assert found.tokenizer is not None
    tokenizer = build_tokenizer(found.tokenizer)
    assert all(text in tokenizer.special_tokens for text in texts), texts
    assert any("as ordinary text" in notice for notice in found.notices)
    assert all(tokenizer.special_tokens[text] in tokenizer.stop_ids for text in texts if text in STOP_TEXTS and text != "<|end|>")
