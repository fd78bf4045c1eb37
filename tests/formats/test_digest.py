"""The digest of a model: every byte of its weights counts, and a kept one is used only for files that are certainly the same."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from puna.formats import digest, open_checkpoint
from puna.formats.base import Checkpoint
from puna.formats.digest import KnownDigests, StoppedError, content_digest, tokenizer_digest
from tests.fakes import random_checkpoint, tiny_config
from tests.models import random_tensors, write_gguf
from tests.models import tiny_config as tiny_file
from tests.tokenizers.vocabularies import small_spm


def test_every_byte_and_every_size_counts() -> None:
    checkpoint = random_checkpoint(tiny_config(), "Q8_0", seed=1)
    found = {content_digest(checkpoint), content_digest(random_checkpoint(tiny_config(), "Q8_0", seed=1))}
    assert len(found) == 1
    renamed = replace(checkpoint, config=replace(checkpoint.config, name="another"))
    assert content_digest(renamed) in found
    rng = random.Random(3)
    for name, tensor in checkpoint.tensors.items():
        data = np.array(tensor.data[0 : tensor.data.shape[0]])
        data.reshape(-1)[rng.randrange(data.size)] ^= 1 << rng.randrange(8)
        found.add(content_digest(replace(checkpoint, tensors={**checkpoint.tensors, name: replace(tensor, data=data)})))
    found.add(content_digest(replace(checkpoint, config=replace(checkpoint.config, norm_eps=2e-5))))
    assert len(found) == len(checkpoint.tensors) + 2


def test_every_part_of_a_tokenizer_counts_and_not_how_it_lies_in_memory() -> None:
    spec = small_spm()
    assert spec.scores is not None
    others = [
        replace(spec, tokens=[*spec.tokens[:-1], b"other"]),
        replace(spec, scores=spec.scores + 1),
        replace(spec, add_bos=not spec.add_bos),
        replace(spec, pre="other"),
    ]
    assert len({tokenizer_digest(one) for one in (spec, *others)}) == 5 and tokenizer_digest(None) == ""
    assert tokenizer_digest(replace(spec, tokens=tuple(spec.tokens), scores=spec.scores.copy(), source="x")) == tokenizer_digest(
        spec
    )


def test_pieces_change_nothing_and_it_stops_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_checkpoint(tiny_config(), "F16", seed=2)
    whole = content_digest(checkpoint)
    monkeypatch.setattr(digest, "PIECE_BYTES", 100)
    assert content_digest(checkpoint) == whole
    with pytest.raises(StoppedError):
        content_digest(checkpoint, lambda: False)


def written(path: Path, seed: int = 0) -> Checkpoint:
    """A model in a file that is older than this process."""
    write_gguf(path, tiny_file(), random_tensors(tiny_file(), seed=seed))
    return open_checkpoint(path)


def test_a_digest_is_kept_for_files_that_have_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, checkpoint = KnownDigests(tmp_path / "digests.json"), written(tmp_path / "m.gguf")
    known.keep(checkpoint, "new")
    assert known.find(checkpoint) is None, "a file of this moment may be another one than the one that was opened"
    monkeypatch.setattr(digest, "STARTED_NS", digest.STARTED_NS + (1 << 50))
    known.keep(checkpoint, "abc")
    assert known.find(checkpoint) == "abc" and KnownDigests(tmp_path / "digests.json").find(checkpoint) == "abc"
    times = (tmp_path / "m.gguf").stat()
    written(tmp_path / "m.gguf", seed=1)
    os.utime(tmp_path / "m.gguf", ns=(times.st_atime_ns, times.st_mtime_ns))  # as some tools copy
    assert known.find(open_checkpoint(tmp_path / "m.gguf")) is None


def test_a_damaged_file_of_digests_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "STARTED_NS", digest.STARTED_NS + (1 << 50))
    checkpoint, path = written(tmp_path / "m.gguf"), tmp_path / "digests.json"
    for text in ("", "[", "[]", '{"%s": 3}' % (tmp_path / "m.gguf"), '{"%s": [1, 2]}' % (tmp_path / "m.gguf"), "[" * 9000):
        path.write_text(text)
        assert KnownDigests(path).find(checkpoint) is None
        KnownDigests(path).keep(checkpoint, "abc")
        assert KnownDigests(path).find(checkpoint) == "abc"


def test_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "STARTED_NS", digest.STARTED_NS + (1 << 50))
    monkeypatch.setattr(digest, "MAX_KEPT", 3)
    known = KnownDigests(tmp_path / "digests.json")
    checkpoints = [written(tmp_path / f"{number}.gguf", number) for number in range(5)]
    for number, checkpoint in enumerate(checkpoints):
        known.keep(checkpoint, str(number))
    assert [known.find(checkpoint) for checkpoint in checkpoints] == [None, None, "2", "3", "4"]
