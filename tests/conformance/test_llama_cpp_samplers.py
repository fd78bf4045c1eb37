"""Each filter against llama.cpp's own sampler, on random rows and texts. Skipped where llama-cpp-python is missing."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.filters import AdaptiveP, Mirostat, make_steps
from puna.formats import open_checkpoint
from puna.history import History, Row
from puna.request import SAMPLERS, SamplingParams
from puna.sampling import apply
from puna.tokenizers import build_tokenizer
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

SEED, ROUNDS = 20261130, 150
TOLERANCE = 2e-4  # of a probability: llama.cpp sums in float32
NEAR = 2e-5  # a limit may be off by as much
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


@pytest.fixture(scope="module")
def llama() -> Any:
    library: Any = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    return library.llama_cpp


class Chain:
    """Samplers of llama.cpp, one after the other."""

    def __init__(self, llama: Any, *samplers: Any) -> None:
        self._llama = llama
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for sampler in samplers:
            llama.llama_sampler_chain_add(self._chain, sampler)

    def apply(self, logits: Row) -> tuple[Row, int]:
        """What they leave of a row (-inf: nothing), and the id that they select (-1: none)."""
        candidates = np.zeros(len(logits), CANDIDATE)
        candidates["id"], candidates["logit"] = np.arange(len(logits)), logits
        data = candidates.ctypes.data_as(ctypes.POINTER(self._llama.llama_token_data))
        array = self._llama.llama_token_data_array(data, len(logits), -1, False)
        self._llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        left, kept = np.full_like(logits, -np.inf), array.data[: array.size]
        for each in kept:
            left[each.id] = each.logit
        return left, -1 if array.selected < 0 else kept[array.selected].id

    def accept(self, token_id: int) -> None:
        self._llama.llama_sampler_accept(self._chain, token_id)

    def close(self) -> None:
        self._llama.llama_sampler_free(self._chain)


@contextmanager
def chain(llama: Any, *samplers: Any) -> Iterator[Chain]:
    made = Chain(llama, *samplers)
    try:
        yield made
    finally:
        made.close()


def probabilities(logits: Row) -> Row:
    powers = np.exp((logits - logits.max()).astype(np.float64))
    return np.asarray(powers / powers.sum())


def rows(rng: np.random.Generator) -> Iterator[Row]:
    for _ in range(ROUNDS):
        yield (rng.standard_normal(int(rng.integers(2, 400))) * rng.uniform(0.3, 6)).astype(np.float32)


def agree(ours: Row, theirs: Row) -> bool:
    return bool(np.abs(probabilities(ours) - probabilities(theirs)).max() < TOLERANCE)


NOTHING = History()


def ours(logits: Row, params: SamplingParams, history: History = NOTHING) -> Row:
    return apply(make_steps(params), logits, params, history)


# Field -> (its least and greatest value, the sampler of llama.cpp).
SINGLE: dict[str, tuple[float, float, Any]] = {
    "top_k": (1, 60, lambda llama, value: llama.llama_sampler_init_top_k(int(value))),
    "top_p": (0.05, 0.999, lambda llama, value: llama.llama_sampler_init_top_p(value, 1)),
    "min_p": (0.001, 0.9, lambda llama, value: llama.llama_sampler_init_min_p(value, 1)),
    "typical_p": (0.05, 0.99, lambda llama, value: llama.llama_sampler_init_typical(value, 1)),
    "top_n_sigma": (0.05, 3.0, lambda llama, value: llama.llama_sampler_init_top_n_sigma(value)),
    "temperature": (0.1, 5.0, lambda llama, value: llama.llama_sampler_init_temp(value)),
}


@pytest.mark.parametrize("field", SINGLE)
def test_a_filter_leaves_what_llama_cpps_sampler_leaves(llama: Any, field: str) -> None:
    low, high, make = SINGLE[field]
    rng, num_equal = np.random.default_rng(SEED), 0
    for logits in rows(rng):
        value = type(low)(rng.uniform(low, high))
        with chain(llama, make(llama, value)) as theirs:
            expected, _ = theirs.apply(logits)
        nudges = (0.0,) if field == "top_k" else (0.0, -NEAR, NEAR)
        settings: list[dict[str, Any]] = [{"temperature": 1.0, field: type(low)(value * (1 + nudge))} for nudge in nudges]
        found = [agree(ours(logits, SamplingParams(**each)), expected) for each in settings]
        num_equal += found[0]
        assert any(found), f"seed {SEED}: {field} {value}, {len(logits)} logits"
    print(f"seed {SEED}: {num_equal} of {ROUNDS} equal, the others at a limit that float32 sums move")
    assert num_equal > ROUNDS * 0.97


def test_xtc_excludes_what_llama_cpp_excludes(llama: Any) -> None:
    rng = np.random.default_rng(SEED)
    for logits in rows(rng):
        threshold = float(rng.uniform(0.01, 0.6))
        params = SamplingParams(temperature=1.0, xtc_probability=1.0, xtc_threshold=threshold, seed=1)
        with chain(llama, llama.llama_sampler_init_xtc(1.0, threshold, 1, 1)) as theirs:
            expected, _ = theirs.apply(logits)
        assert agree(ours(logits, params), expected), f"seed {SEED}: {threshold}"


def test_a_dynamic_temperature_is_llama_cpps(llama: Any) -> None:
    rng = np.random.default_rng(SEED)
    for logits in rows(rng):
        settings = [float(rng.uniform(0.2, 2)), float(rng.uniform(0.01, 2)), float(rng.uniform(0.2, 4))]
        with chain(llama, llama.llama_sampler_init_temp_ext(*settings)) as theirs:
            expected, _ = theirs.apply(logits)
        params = SamplingParams(temperature=settings[0], dynatemp_range=settings[1], dynatemp_exponent=settings[2])
        assert agree(ours(logits, params), expected), f"seed {SEED}: {settings}"


def test_penalties_with_a_window_are_llama_cpps(llama: Any) -> None:
    rng = np.random.default_rng(SEED)
    for logits in rows(rng):
        window, factor = int(rng.integers(1, 30)), float(rng.uniform(0.5, 2))
        presence, frequency = rng.uniform(-1, 1, 2).tolist()
        text = rng.integers(0, min(len(logits), 20), int(rng.integers(0, 60))).tolist()
        with chain(llama, llama.llama_sampler_init_penalties(len(logits), window, factor, frequency, presence)) as theirs:
            for token_id in text:
                theirs.accept(token_id)
            expected, _ = theirs.apply(logits)
        params = SamplingParams(
            repetition_penalty=factor, presence_penalty=presence, frequency_penalty=frequency, penalty_last_n=window
        )
        found = ours(logits, params, History([], text))
        assert np.allclose(found, expected, atol=1e-5), f"seed {SEED}: {params}, {text}"


def test_the_filters_one_after_the_other_leave_what_llama_cpps_chain_leaves(llama: Any) -> None:
    """In llama.cpp's order, and in any other. Its typical-p gets NaN from what its top-n-sigma removes, so never both."""
    rng, num_equal = np.random.default_rng(SEED), 0
    for number, logits in enumerate(rows(rng)):
        apart = ("typ_p", "top_n_sigma")[number % 2]
        names = [name for name in SAMPLERS if name not in ("penalties", "dry", apart)]
        order = names if number < ROUNDS // 3 else rng.permutation(names).tolist()
        values = {"top_k": int(rng.integers(1, 60)), "top_p": float(rng.uniform(0.3, 1)), "min_p": float(rng.uniform(0, 0.3))}
        values |= {"typ_p": float(rng.uniform(0.3, 1)), "top_n_sigma": float(rng.uniform(0.5, 3))}
        values |= {"temperature": float(rng.uniform(0.3, 2)), "xtc": float(rng.uniform(0.05, 0.5))}
        made = {
            **{name: SINGLE[name][2](llama, values[name]) for name in ("top_k", "top_p", "min_p", "top_n_sigma", "temperature")},
            "typ_p": SINGLE["typical_p"][2](llama, values["typ_p"]),
            "xtc": llama.llama_sampler_init_xtc(1.0, values["xtc"], 1, 1),
        }
        with chain(llama, *[made[name] for name in order]) as theirs:
            expected, _ = theirs.apply(logits)
        settings: dict[str, Any] = {"typical_p": values.pop("typ_p"), "xtc_threshold": values.pop("xtc"), **values}
        params = SamplingParams(**settings, xtc_probability=1.0, samplers=order, seed=1)
        found = agree(ours(logits, params), expected)
        num_equal += found
    print(f"seed {SEED}: {num_equal} of {ROUNDS} equal, the others at a limit that float32 sums move")
    assert num_equal > ROUNDS * 0.97


def test_mirostat_follows_llama_cpps(llama: Any) -> None:
    """Texts of 40 tokens: llama.cpp draws, and both keep the same tokens of the next row."""
    rng = np.random.default_rng(SEED)
    for seed in range(8):
        tau, eta = float(rng.uniform(1, 6)), float(rng.uniform(0.01, 0.5))
        params = SamplingParams(temperature=1.0, mirostat=2, mirostat_tau=tau, mirostat_eta=eta)
        mirostat = Mirostat(params)
        with chain(llama, llama.llama_sampler_init_mirostat_v2(seed, tau, eta)) as theirs:
            for index in range(40):
                logits = (rng.standard_normal(300) * 3).astype(np.float32)
                expected, token_id = theirs.apply(logits)
                history = History([], range(index))
                found = mirostat(logits, params, history)
                assert ((found > -np.inf) == (expected > -np.inf)).all(), f"seed {SEED}: {params}, token {index}"
                mirostat.accept(found, token_id, history)


def test_adaptive_p_follows_llama_cpps(llama: Any) -> None:
    rng = np.random.default_rng(SEED)
    for seed in range(8):
        target, decay = float(rng.uniform(0, 1)), float(rng.uniform(0, 0.99))
        params = SamplingParams(temperature=1.0, adaptive_target=target, adaptive_decay=decay)
        adaptive = AdaptiveP(params)
        with chain(llama, llama.llama_sampler_init_adaptive_p(target, decay, seed)) as theirs:
            for index in range(40):
                logits = (rng.standard_normal(300) * 3).astype(np.float32)
                expected, token_id = theirs.apply(logits)
                history = History([], range(index))
                found = adaptive(logits, params, history)
                assert np.allclose(found, expected, atol=2e-3), f"seed {SEED}: {params}, token {index}"
                theirs.accept(token_id)
                adaptive.accept(found, token_id, history)


# ---- DRY, which needs a vocabulary --------------------------------------------------------------------------------------------

PIECES = ["ab", "bc", "aĊ", "Ġa", "Ġb", "*d", "cc", "dd:d", "Ã©"]  # beside the bytes
NUM_FIXED = 3 + 256  # control tokens, bytes
VOCAB_SIZE = NUM_FIXED + len(PIECES)
# Pieces with which breakers would stand in the text that llama.cpp does not see: "ab" in "a", "bc", which ends within a token;
# and the second "dd" of "dd:d", "d", which begins in a token that holds another.
UNSEEN: dict[tuple[str, ...], bytes] = {("ab",): b"bc", ("dd",): b"dd:d"}
BREAKERS: list[tuple[str, ...]] = [("\n", ":", '"', "*"), ("b",), ("ab",), ("dd",), ()]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are the bytes and these pieces, none of which text is cut into."""
    config, plain = tiny_config(vocab_size=VOCAB_SIZE), bpe_tokenizer(NUM_FIXED)
    tokens = [*plain.tokens, *(piece.encode() for piece in PIECES)]
    tokenizer = replace(plain, tokens=tokens, types=[*plain.types, *[1] * len(PIECES)], merges=[b"a b"])
    return write_gguf(tmp_path_factory.mktemp("dry") / "m.gguf", config, random_tensors(config, 1), "F32", tokenizer)


@pytest.fixture(scope="module")
def model(llama: Any, path: Path) -> Iterator[Any]:
    yield from opened(llama, path)


def opened(llama: Any, path: Path) -> Iterator[Any]:
    settings = llama.llama_model_default_params()
    settings.vocab_only = True
    loaded = llama.llama_model_load_from_file(str(path).encode(), settings)
    yield loaded
    llama.llama_model_free(loaded)


def dry_sampler(llama: Any, model: Any, params: SamplingParams, breakers: Sequence[str]) -> Any:
    texts = (ctypes.c_char_p * len(breakers))(*[text.encode() for text in breakers])
    vocab = llama.llama_model_get_vocab(model)
    settings = (params.dry_multiplier, params.dry_base, params.dry_allowed_length, params.dry_penalty_last_n)
    return llama.llama_sampler_init_dry(vocab, *settings, texts, len(breakers))


def test_dry_is_llama_cpps(llama: Any, model: Any, path: Path) -> None:
    spec = open_checkpoint(path).tokenizer
    assert spec is not None
    rng, tokenizer, num_changed = np.random.default_rng(SEED), build_tokenizer(spec), 0
    ids = [*range(NUM_FIXED, VOCAB_SIZE), *(tokenizer.encode(letter, bos=False)[0] for letter in 'abcd\n:*"')]
    for number, breakers in zip(range(400), itertools.cycle(BREAKERS)):
        params = SamplingParams(
            dry_multiplier=float(rng.uniform(0.1, 3)),
            dry_base=float(rng.choice([1.0, 1.75, 3.0])),
            dry_allowed_length=int(rng.integers(1, 5)),
            dry_penalty_last_n=int(rng.choice([5, 20, 64, 1000])),
            dry_sequence_breakers=breakers,
        )
        drawn = [token_id for token_id in ids if tokenizer.token_bytes(token_id) != UNSEEN.get(breakers)]
        kinds, length = int(rng.integers(1, len(drawn) + 1)), int(rng.integers(0, 200))
        text = rng.permutation(drawn)[:kinds][rng.integers(0, kinds, length)].tolist()
        logits = rng.standard_normal(VOCAB_SIZE).astype(np.float32)
        with chain(llama, dry_sampler(llama, model, params, breakers)) as theirs:
            for token_id in text:
                theirs.accept(token_id)
            expected, _ = theirs.apply(logits)
        cut = int(rng.integers(0, length + 1))  # llama.cpp's server counts the prompt too
        found = apply(make_steps(params, tokenizer), logits, params, History(text[:cut], text[cut:]))
        num_changed += not np.array_equal(found, logits)
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-5), f"seed {SEED}, case {number}: {params}, {text}"
    print(f"seed {SEED}: {num_changed} of 400 rows changed")
    assert num_changed > 100
