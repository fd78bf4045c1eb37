"""A serialized SentencePiece model is written in bulk; the reader finds every piece again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from puna.formats.base import TokenizerSpec
from puna.formats.sentencepiece_model import read_sentencepiece_model, sentencepiece_model
from puna.formats.token_types import MAX_TYPE, NORMAL, UNKNOWN


def test_pieces_of_all_lengths_scores_and_types_are_read_again() -> None:
    rng = np.random.default_rng(3)
    tokens = [bytes(rng.integers(0, 256, size, np.uint8)) for size in (*range(1, 300), 16373, 16384, 65536)]
    types = rng.integers(0, MAX_TYPE + 1, len(tokens)).astype(np.int32)
    types[types == UNKNOWN] = NORMAL
    scores = rng.standard_normal(len(tokens)).astype(np.float32)
    spec = TokenizerSpec("spm", tokens, scores, types)
    read = read_sentencepiece_model(Path("some.model"), sentencepiece_model(spec, scores.tolist()))
    assert list(read.tokens) == tokens
    assert read.scores is not None and read.scores.tobytes() == scores.tobytes()
    assert read.token_types is not None and read.token_types.tolist() == np.where(types == 0, NORMAL, types).tolist()
