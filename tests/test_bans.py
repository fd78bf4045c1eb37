"""Banned strings and sequences: no text of any vocabulary holds one, and nothing else is forbidden."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from puna.bans import BannedStrings, bad_words
from puna.errors import NumericalError, UsageError
from puna.history import History, Row
from puna.request import SamplingParams
from puna.sampling import Sampler

NOTHING = History()


def row_of(*values: float) -> Row:
    return np.array(values, np.float32)


class Pieces:
    """A tokenizer of given bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.vocab_size = pieces, len(pieces)

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def banned(texts: list[str], pieces: list[bytes], output: list[int]) -> list[int]:
    """The ids that must not come next."""
    params = SamplingParams(banned_strings=texts)
    row = BannedStrings(params, Pieces(pieces))(np.zeros(len(pieces), np.float32), params, History([], output))  # type: ignore[arg-type]
    return np.flatnonzero(row == -math.inf).tolist()


def test_a_string_that_begins_and_ends_within_tokens_is_not_completed() -> None:
    pieces = [b"xca", b"t!", b"t", b"c", b"at", b"the cat", b"cats", b"ta", b""]
    assert banned(["cat"], pieces, []) == [5, 6]
    assert banned(["cat"], pieces, [0]) == [1, 2, 5, 6, 7]  # after "xca"
    assert banned(["cat"], pieces, [3]) == [4, 5, 6]
    assert banned(["cat"], pieces, [0, 8, 8, 8]) == [1, 2, 5, 6, 7]  # a control token has no text
    assert banned(["cat"], pieces, [0, 3]) == [4, 5, 6]


def test_a_character_whose_bytes_are_tokens_is_found() -> None:
    pieces = [b"\xe2\x82", b"\xac", b"\xe2", b"\x82", b"1"]
    assert banned(["€"], pieces, [0]) == [1] and banned(["1€"], pieces, [4, 2, 3]) == [1] and banned(["1€"], pieces, [2, 3]) == []


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_tokens_that_would_complete_a_string_are_removed(seed: int) -> None:
    """Against a search in the whole text, over random vocabularies, strings and texts."""
    rng = random.Random(seed)
    pieces = ["".join(rng.choices("abc", k=rng.randint(0, 4))).encode() for _ in range(40)] + [b"a", b"b", b"c"]
    texts = ["".join(rng.choices("abc", k=rng.randint(2, 6))) for _ in range(rng.randint(1, 4))]
    params, tokenizer, output = SamplingParams(banned_strings=texts), Pieces(pieces), list[int]()
    bans = BannedStrings(params, tokenizer)  # type: ignore[arg-type]
    for _ in range(60):
        text = b"".join(pieces[i] for i in output)
        expected = [any(one.encode() in text + piece for one in texts) for piece in pieces]
        row = bans(np.zeros(len(pieces), np.float32), params, History([1, 2], output))
        assert (row == -math.inf).tolist() == expected, f"seed {seed}: {texts} {pieces} {output}"
        allowed = np.flatnonzero(row == 0).tolist()
        if not allowed:
            break
        output.append(rng.choice(allowed))


def test_a_draw_obeys_the_bans_and_says_which_one_leaves_nothing() -> None:
    pieces = Pieces([b"a", b"b"])
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1, banned_strings="aa"), 2, tokenizer=pieces)  # type: ignore[arg-type]
    ids: list[int] = []
    for _ in range(200):
        ids.append(sampler.sample(row_of(3, 0), History([0], ids)))
    assert "aa" not in "".join("ab"[i] for i in ids) and 0 in ids
    nothing = Sampler(SamplingParams(banned_strings=["a", "b"]), 2, tokenizer=pieces)  # type: ignore[arg-type]
    with pytest.raises(NumericalError, match="banned_strings leaves no token"):
        nothing.sample(row_of(3, 0), NOTHING)
    with pytest.raises(UsageError, match="banned_strings need a tokenizer"):
        Sampler(SamplingParams(banned_strings=["a"]), 2)


def test_padding_ids_of_the_model_are_not_banned() -> None:
    params = SamplingParams(banned_strings=["ab"])
    bans = BannedStrings(params, Pieces([b"a", b"b"]))  # type: ignore[arg-type]
    assert bans(np.zeros(4, np.float32), params, History([], [0, 3])).tolist() == [0, -math.inf, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_bad_words_are_those_of_transformers(seed: int) -> None:
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(seed)
    words = [rng.integers(0, 6, int(rng.integers(1, 5))).tolist() for _ in range(12)]
    theirs = processors.NoBadWordsLogitsProcessor(words)
    for length in range(1, 40):
        ids, row = rng.integers(0, 6, length).tolist(), rng.standard_normal(9).astype(np.float32)
        expected = theirs(torch.tensor([ids]), torch.from_numpy(row.copy())[None])[0].numpy()
        cut = int(rng.integers(0, length + 1))
        found = bad_words(row, SamplingParams(bad_words_ids=words), History(ids[:cut], ids[cut:]))
        assert np.array_equal(found, expected), f"seed {seed}: {words} {ids}"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"bad_words_ids": [[]]}, "bad_words_ids holds an empty list"),
        ({"bad_words_ids": [1, 2]}, "each of bad_words_ids is 1; a list of token ids is needed"),
        ({"bad_words_ids": [[1]] * 1025}, "bad_words_ids holds 1025 sequences; at most 1024"),
        ({"bad_words_ids": [["a"]]}, "bad_words_ids holds 'a'; token ids are whole numbers"),
        ({"banned_strings": [""]}, "banned_strings 0 .* has 0 characters; 1 to 256"),
        ({"banned_strings": ["a"] * 17}, "banned_strings holds 17 texts; at most 16"),
    ],
    ids=str,
)
def test_a_ban_that_cannot_be_is_refused_with_what_is_allowed(setting: dict[str, list[object]], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        SamplingParams(**setting)  # type: ignore[arg-type]


def test_a_banned_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match=r"bad_words_ids names id 9; the vocabulary has ids 0\.\.3"):
        Sampler(SamplingParams(bad_words_ids=[[1, 9]]), 4)
