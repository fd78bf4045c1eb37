"""Mutants of tokenizer files: a right file is edited, read, built, and asked to cut and to spell a text, under limits.

    python -m tests.formats.hostile_tokenizers FORM SEED FIRST COUNT

ends with an error at the first that does anything but work or be refused by a named error. Mutant i of a seed is always the same.
"""

from __future__ import annotations

import base64
import copy
import json
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

from puna.errors import ModelFormatError, UnsupportedModelError, UsageError
from puna.formats.base import TokenizerSpec
from puna.formats.piece_order import merges_of
from puna.formats.sentencepiece_model import sentencepiece_model
from puna.formats.tokenizer_files import read_tokenizer_file, read_tokenizer_folder
from puna.tokenizers import build_tokenizer
from puna.writers.tokenizers import (
    gguf_tokenizer_metadata,
    write_llama2c_tokenizer,
    write_sentencepiece,
    write_tiktoken,
    write_tokenizer_config,
    write_tokenizer_json,
)
from tests.formats import hostile
from tests.tokenizers.folders import byte_level_document, pieces_document, sentencepiece_bytes, tiktoken_bytes
from tests.tokenizers.libraries import FAMILIES
from tests.tokenizers.vocabularies import small_spm

TEXT = "the llama 日 é 🦙  12\n" + "\u2581" * 9 + "ﬁ①" + "a" * 40
Files = dict[str, bytes]
ODD: list[Any] = [None, True, False, 0, -1, 1, 3, 274, 2**31, 2**63, 10**30, 1.5, "", " ", "e", "<s>", "▁", "\ud800", "x" * 300]
ODD += [[], {}, [[]], ["a", "b"], {"type": "ByteLevel"}, {"type": "Sequence"}, {"String": " "}, {"Regex": "(a*)*b"}]


@cache
def _model(normalizes: bool) -> bytes:
    if normalizes:
        return sentencepiece_bytes(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    return sentencepiece_bytes()


@cache
def _ranks() -> bytes:
    return tiktoken_bytes()


@cache
def _small_model() -> bytes:
    spm = small_spm()
    assert spm.scores is not None
    return sentencepiece_model(spm, spm.scores.tolist())


@cache
def _documents() -> tuple[dict[str, Any], ...]:
    spm = small_spm()
    libraries = [make() for make in FAMILIES.values()]
    for library in libraries:
        library.add_tokens([AddedToken("<x>", lstrip=True), AddedToken("tok", single_word=True)])
    libraries[0].normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " ")])
    libraries[0].pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.ByteLevel(True), pre_tokenizers.Punctuation()]
    )
    libraries[0].post_processor = processors.RobertaProcessing(("a", 5), ("b", 6))
    return byte_level_document(), pieces_document(spm, merges_of(spm)), *(json.loads(library.to_str()) for library in libraries)


def sentencepiece_mutant(rng: random.Random) -> Files:
    return {"tokenizer.model": _scratched(_model(rng.random() < 0.5), rng)}


def tiktoken_mutant(rng: random.Random) -> Files:
    """With another last token, of which the lines before tell nothing, or scratched."""
    token = base64.b64encode(rng.choice([b"the the", b"x" * 4000, "日本".encode(), rng.randbytes(rng.randrange(1, 99))]))
    data = _ranks() + b"%s %d\n" % (token, rng.choice([264, 264, 264, 0, 263, 265, 2**32]))
    return {"tokenizer.model": data if rng.random() < 0.5 else _scratched(data, rng)}


@cache
def _pickled_documents() -> tuple[bytes, ...]:
    """Faster to copy."""
    return tuple(map(pickle.dumps, _documents()))


def json_mutant(rng: random.Random, count: int | None = None) -> Files:
    """Of the first `count` documents; the others have more tokens than the folder's model."""
    document = pickle.loads(rng.choice(_pickled_documents()[:count]))
    for _ in range(rng.randint(1, 3)):
        _edit(document, rng)
    data = json.dumps(document).encode()
    return {"tokenizer.json": _scratched(data, rng) if rng.random() < 0.1 else data}


def folder_mutant(rng: random.Random) -> Files:
    """Both files, and the small ones beside them."""
    config = {
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "legacy": False,
        "added_tokens_decoder": {"275": {"content": "<x>", "special": True}},
        "additional_special_tokens": ["<x>"],
    }
    files: Files = json_mutant(rng, count=2)
    for name, document in (
        ("tokenizer_config", config),
        ("added_tokens", {"<y>": 276}),
        ("special_tokens_map", {"unk_token": "e"}),
    ):
        if rng.random() < 0.7:
            _edit(document, rng)
        files[f"{name}.json"] = json.dumps(document).encode()
    if rng.random() < 0.5:
        files["tokenizer.model"] = _scratched(_small_model(), rng) if rng.random() < 0.3 else _small_model()
    return files


def _scratched(data: bytes, rng: random.Random) -> bytes:
    """Cut short, or with some bytes changed, taken out or put in."""
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data))]
    scratched = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at, taken, put = rng.randrange(len(scratched)), *rng.choice([(1, 0), (1, 1), (1, 1), (1, 1), (0, 1)])
        scratched[at : at + taken] = bytes([rng.choice([0, 1, 10, 127, 128, 255, rng.randrange(256)])] * put)
    return bytes(scratched)


def _edit(document: Any, rng: random.Random) -> None:
    """A value, at any depth, replaced, taken out or doubled."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(document[key], dict | list) and document[key] and rng.random() < 0.8:
            document = document[key]
            continue
        what = rng.randrange(4)
        if what == 0:
            del document[key]
        elif what == 1 and isinstance(document, list):
            document.insert(rng.choice(keys), copy.deepcopy(document[key]))
        elif what == 2 and isinstance(document, dict):
            document[str(rng.choice(ODD))] = copy.deepcopy(document[key])
        else:
            document[key] = copy.deepcopy(rng.choice([*ODD, document[rng.choice(keys)]]))
        return


MUTANTS: dict[str, Callable[[random.Random], Files]] = {
    "sentencepiece": sentencepiece_mutant,
    "tiktoken": tiktoken_mutant,
    "json": json_mutant,
    "folder": folder_mutant,
}


WRITERS: tuple[Callable[[TokenizerSpec, Path], object], ...] = (
    write_sentencepiece,
    write_tiktoken,
    write_tokenizer_json,
    write_llama2c_tokenizer,
    lambda spec, path: write_tokenizer_config(spec, None, path),
    lambda spec, _: gguf_tokenizer_metadata(spec),
)


def run_mutants(form: str, seed: int, count: int) -> None:
    """Try `count` mutants, a batch to a process, and fail with the seed and number of the first bad one."""
    for first in range(0, count, hostile.BATCH):
        batch = min(hostile.BATCH, count - first)
        command = [sys.executable, "-m", "tests.formats.hostile_tokenizers", form, str(seed), str(first), str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=hostile.ROOT)
        where = f"{form} mutants of seed {seed}, {first} to {first + batch - 1}"
        assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stdout[-400:]}\n{done.stderr[-4000:]}"


def _works(folder: Path, files: Files) -> bool:
    """Whether the tokenizer is read and built; then it gives the text's bytes back or normalizes them, and nothing else."""
    try:
        if len(files) == 1:
            spec = read_tokenizer_file(folder / next(iter(files)), None)
        else:
            found, notices = read_tokenizer_folder(folder, 290)
            assert all(notice.isprintable() and len(notice) < 1000 for notice in notices)
            if found is None:
                return False
            spec = found
        tokenizer = build_tokenizer(spec)
    except (ModelFormatError, UnsupportedModelError) as error:
        assert error.message.isprintable() and len(error.message) < 1000, f"message {error.message!r}"
        return False
    try:
        ids = tokenizer.encode(TEXT, special=True)
    except UsageError as error:  # SmolLM2 too has no token for some bytes
        assert "has no token" in error.message
        return True
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)
    tokenizer.decode(ids)
    for number, write in enumerate(WRITERS):
        with suppress(ModelFormatError, UnsupportedModelError):
            write(spec, folder / f"written {number}")
    return True


def main(form: str, seed: int, first: int, count: int) -> None:
    _model(True), _documents()
    build_tokenizer(small_spm()).encode("")  # the libraries are loaded
    hostile._limit_memory()
    worked = 0
    with tempfile.TemporaryDirectory() as name:
        for index in range(first, first + count):
            folder, files = Path(name), MUTANTS[form](random.Random(f"{form} {seed} {index}"))
            for old in folder.iterdir():
                old.unlink()
            for file, data in files.items():
                (folder / file).write_bytes(data)
            print(f"mutant {index}", flush=True)
            hostile._limit_time()
            started = time.process_time()
            worked += _works(folder, files)
            seconds = time.process_time() - started
            assert seconds <= hostile.MAX_SECONDS, f"mutant {index} took {seconds:.2f} s"
    assert count < 100 or 0 < worked < count, f"{worked} of {count} worked: the edits are too coarse or too fine"
    print(f"{worked} of {count} worked")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
