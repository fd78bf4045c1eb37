"""The reference's operations against hand-written float64 arithmetic, and the whole forward pass against a naive one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from puna.backends.reference import Floats, ReferenceBackend, attend, create, glu, matvec, rms_norm, rope, softmax
from puna.batch import Batch
from puna.config import EngineConfig
from puna.errors import DeviceError
from puna.formats.base import Checkpoint
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig
from tests.fakes import chunk_of, make_plan, random_checkpoint, tiny_config

Wide = npt.NDArray[np.float64]
RNG = np.random.default_rng(5)


def floats(*shape: int) -> Floats:
    return RNG.standard_normal(shape).astype(np.float32)


def test_rms_norm_divides_by_the_root_of_the_mean_square() -> None:
    x, weight = floats(50), floats(50)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).sum() / 50 + 1e-5) * weight
    np.testing.assert_allclose(rms_norm(x, weight, 1e-5), expected, rtol=1e-5)


def test_rope_turns_interleaved_pairs() -> None:
    x = np.array([[1, 0, 0, 2]], np.float32)
    turned = rope(x, np.array([0, -1], np.float32), np.array([1, 0], np.float32))
    np.testing.assert_allclose(turned, [[0, 1, 0, -2]], atol=1e-6)


def turn(x: Floats, angles: npt.NDArray[np.float64]) -> Floats:
    return rope(x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def test_rope_keeps_scores_a_function_of_the_distance() -> None:
    q, k, angles = floats(1, 8), floats(1, 8), RopeConfig().frequencies(8)

    def score(i: int, j: int) -> float:
        return float((turn(q, i * angles) * turn(k, j * angles)).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (8, 1)])
def test_attend_shares_a_kv_head_between_its_queries(heads: int, kv_heads: int) -> None:
    q, keys, values = floats(heads, 10), floats(kv_heads, 7, 10), floats(kv_heads, 7, 10)
    for head, found in enumerate(attend(q, keys, values)):
        kv = head // (heads // kv_heads)
        weights = np.exp(keys[kv] @ q[head] / np.sqrt(10))
        np.testing.assert_allclose(found, weights @ values[kv] / weights.sum(), rtol=1e-4, atol=1e-6)


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([1000, 1000, -1000], np.float32)), [0.5, 0.5, 0])


def test_glu_is_silu_of_the_gate_times_up() -> None:
    gate = np.array([-1000, -1, 0, 2, 1000], np.float32)
    np.testing.assert_allclose(glu(gate, np.full(5, 2, np.float32)), [0, -0.537883, 0, 3.523188, 2000], rtol=1e-5, atol=1e-6)


def test_matvec_maps_columns_to_rows() -> None:
    assert matvec(np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([1, 0, 1], np.float32)).tolist() == [4, 10]


def naive(checkpoint: Checkpoint, ids: list[int]) -> Wide:
    """The whole sequence at once, float64, no cache, no pages: LLaMA from its paper (arXiv 2302.13971).  # (tokens, vocab)"""
    c = checkpoint.config
    w = {name: tensor.dequantize().astype(np.float64) for name, tensor in checkpoint.tensors.items()}
    n = len(ids)
    turn = np.exp(1j * np.outer(np.arange(n), c.rope.frequencies(c.head_dim)))[:, None, :]

    def norm(x: Wide, name: str) -> Wide:
        scaled: Wide = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + c.norm_eps) * w[name]
        return scaled

    def rotated(x: Wide, heads: int) -> Wide:
        pairs = x.reshape(n, heads, -1, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack((turned.real, turned.imag), axis=-1).reshape(n, heads, c.head_dim)

    x = w["embed"][ids]
    for layer in range(c.num_layers):
        p = f"layers.{layer}."
        h = norm(x, p + "attn_norm")
        q = rotated(h @ w[p + "q_proj"].T, c.num_heads)
        k = rotated(h @ w[p + "k_proj"].T, c.num_kv_heads).repeat(c.num_heads // c.num_kv_heads, axis=1)
        v = (h @ w[p + "v_proj"].T).reshape(n, c.num_kv_heads, -1).repeat(c.num_heads // c.num_kv_heads, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(c.head_dim)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        mix = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mix /= mix.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", mix, v).reshape(n, -1) @ w[p + "o_proj"].T
        h = norm(x, p + "ffn_norm")
        gate = h @ w[p + "gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[p + "up_proj"].T)) @ w[p + "down_proj"].T
    logits: Wide = norm(x, "final_norm") @ w.get("lm_head", w["embed"]).T
    return logits


LLAMA3 = RopeConfig(theta=500000.0, scaling="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
CONFIGS = [
    tiny_config(),
    tiny_config(num_kv_heads=4, tie_embeddings=True),
    tiny_config(num_heads=6, num_kv_heads=2, head_dim=20, hidden_size=52, ffn_size=70),
    tiny_config(rope=LLAMA3),
    tiny_config(rope=RopeConfig(scaling="linear", factor=4.0)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.num_heads}/{c.num_kv_heads}x{c.head_dim}-{c.rope.scaling}")
def test_the_whole_pass_is_llama(config: ModelConfig) -> None:
    checkpoint = random_checkpoint(config, seed=3)
    ids = RNG.integers(0, config.vocab_size, 40)
    backend = create(EngineConfig(device="reference"))
    backend.load(checkpoint, make_plan(max_tokens=64))
    batch = Batch.of([chunk_of(ids.tolist(), 0, [5, 0, 9], num_logits=40, prompt_length=40)])
    np.testing.assert_allclose(backend.step(batch).logits(), naive(checkpoint, ids.tolist()), rtol=1e-3, atol=2e-4)
    backend.close()


def test_a_closed_backend_says_so() -> None:
    backend = ReferenceBackend(EngineConfig(device="reference"))
    backend.close()
    backend.close()
    with pytest.raises(DeviceError, match="no model"):
        backend.step(Batch.of([chunk_of([1], 0, [0], num_logits=1, prompt_length=1)]))


def test_limits_are_positive() -> None:
    roofline = create(EngineConfig(device="reference")).roofline()
    assert min(roofline.read_bytes_per_s, roofline.int8_ops_per_s, roofline.f32_ops_per_s) > 0
