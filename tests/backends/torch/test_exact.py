"""Why a row's bits depend only on its own numbers on every CPU, shown on a single CPU.

A forward pass uses only operations of EXACT, which IEEE 754 defines to the last bit. So the same bits come from 1 to 5 threads,
alone and in a batch, and under every instruction set that torch, MKL and oneDNN can be told to use here.
"""

from __future__ import annotations

import hashlib
import math
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from puna.backends.torch import exact
from puna.batch import Logits
from tests.conformance.test_backends import ODD_SIZES, forward, loaded, random_ids, random_model
from tests.forked import ForkServer, completed

# Operations of ATen that have one right result for each element, whatever computes it, and those that only move numbers.
EXACT = {
    "IEEE 754 defines the result": "add add_ sub rsub mul mul_ div neg abs round clamp clamp_min amax to",
    "integers": "__and__ __or__ __lshift__ __rshift__ eq ge lt nonzero_numpy _unique2",
    "the order of numbers, of equal ones that of their places": "sort",
    "copies and shapes": "alias cat chunk clone copy_ detach empty flatten full_like gather index index_put_ lift_fresh "
    "new_empty repeat_interleave resolve_conj resolve_neg select slice split_with_sizes stack transpose unbind unflatten "
    "unsqueeze view where zeros_like",
}
ALLOWED = {name for names in EXACT.values() for name in names.split()}

# What stands in for another CPU: fewer instructions for each library that has kernels of its own.
CPUS: dict[str, dict[str, str]] = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "sse": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
PROGRAM = """
import torch
from tests.backends.torch.test_exact import digests
print(torch.backends.cpu.get_cpu_capability(), digests())
"""
SHAPES = ("ratio-3-head-64", "qk-norm-head-20", "window-17-one-layer-of-two", "biases")
PAGES = [3, 11, 7, 0]


class Recorded(TorchDispatchMode):  # type: ignore[misc]
    """Notes the name of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("shape", "quant", "kv"),
    [
        *((shape, "Q4_1", "f32") for shape in SHAPES),
        ("plain", "BF16", "bf16"),
        ("plain", "Q8_0", "int8"),
        ("plain", "Q4_0", "f16"),
        ("wide", "Q4_K", "f16"),
        ("wide", "Q6_K", "f16"),
        ("like-gemma", "Q4_1", "f32"),
        ("like-olmo", "F32", "f32"),
        ("experts-2-of-5", "F32", "f32"),
    ],
)
def test_a_forward_pass_uses_only_operations_with_one_right_result(shape: str, quant: str, kv: Any) -> None:
    checkpoint = random_model(shape, quant, seed=1)
    with loaded("torch", checkpoint, kv=kv) as backend, Recorded() as recorded:
        forward(backend, (random_ids(checkpoint.config, 21), 0, PAGES), ([1], 0, [4]))
    assert {"mul", "add_"} <= recorded.names, "nothing was recorded"
    assert recorded.names <= ALLOWED, sorted(recorded.names - ALLOWED)


def digest(shape: str, quant: str, threads: int) -> str:
    """Of all logits of a prompt and of a batch."""
    checkpoint = random_model(shape, quant, seed=9)
    ids = random_ids(checkpoint.config, 33)
    with loaded("torch", checkpoint, threads=threads) as backend:
        rows = [forward(backend, (ids, 0, PAGES)), forward(backend, (ids[:5], 0, [1]), (ids[5:20], 0, [2, 4]))]
    return hashlib.sha256(np.concatenate(rows).tobytes()).hexdigest()


def digests() -> str:
    return "\n".join(digest(shape, quant, threads) for (shape, quant) in product(SHAPES, ("Q4_1", "F32")) for threads in (1, 3))


def test_every_instruction_set_gives_the_same_bits(fork_server: ForkServer, tmp_path: Path) -> None:
    """In processes forked before any operation, because libraries choose their code at the first one; this process has the CPU
    as it is."""
    (tmp_path / "program.py").write_text(PROGRAM)
    begun = []
    for name, variables in CPUS.items():
        (tmp_path / name).mkdir()
        begun.append(fork_server.start([str(tmp_path / "program.py")], tmp_path / name, variables))
    expected = digests().split()
    assert len(expected) == 4 * len(SHAPES) and expected[::2] == expected[1::2], "threads change bits"
    for name, process in zip(CPUS, begun, strict=True):
        done = completed([process], [], tmp_path / name)
        assert done.returncode == 0, done.stderr
        capability, *found = done.stdout.split()
        assert capability.lower() == CPUS[name]["ATEN_CPU_CAPABILITY"]
        assert found == expected, name


def alone_and_together(seed: int) -> tuple[Logits, Logits]:
    """Random sequences, each alone on one thread, and all in one step on some."""
    rng = np.random.default_rng(seed)
    shape, quant = rng.choice(sorted(ODD_SIZES)), rng.choice(["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
    threads, lengths = int(rng.integers(2, 6)), rng.integers(1, 32, rng.integers(2, 8))
    print("seed", seed, shape, quant, threads, "threads", lengths)
    checkpoint = random_model(str(shape), str(quant), seed)
    prompts = [rng.integers(0, checkpoint.config.vocab_size, n).tolist() for n in lengths]
    pieces = [(ids, 0, [2 * i, 2 * i + 1]) for i, ids in enumerate(prompts)]
    with loaded("torch", checkpoint, threads=1) as backend:
        alone = np.concatenate([forward(backend, piece) for piece in pieces])
    with loaded("torch", checkpoint, threads=threads) as backend:
        return alone, forward(backend, *pieces)


@pytest.mark.parametrize("seed", range(8))
def test_random_rows_have_the_same_bits_alone_on_one_thread_and_together_on_several(seed: int) -> None:
    alone, together = alone_and_together(seed)
    assert np.array_equal(alone, together)


# ---- the operations themselves ------------------------------------------------------------------------------------------


def tree(terms: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """The order of `row_sums`, one addition at a time."""
    numbers = list(terms)
    while len(numbers) > 1:
        half = 1 << (len(numbers) - 1).bit_length() - 1
        numbers = [numbers[i] + numbers[half + i] if half + i < len(numbers) else numbers[i] for i in range(half)]
    return numbers[0]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 33, 172, 1000])
def test_sums_have_the_order_that_is_told(count: int) -> None:
    terms = np.random.default_rng(count).standard_normal((5, count)).astype(np.float32)
    found = exact.row_sums(torch.from_numpy(terms.copy())).numpy()
    assert np.array_equal(found, np.array([tree(row) for row in terms]))


@pytest.mark.parametrize("seed", range(6))
def test_products_have_the_same_bits_in_tiles_of_any_size_and_at_any_address(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    heads, n, rows, columns = (int(rng.integers(1, most)) for most in (4, 90, 9, 300))
    print("seed", seed, heads, n, rows, columns)
    weights, x = (torch.from_numpy(rng.standard_normal((heads, k, columns)).astype(np.float32)) for k in (n, rows))
    expected = exact.products(weights, x)
    close = torch.bmm(x.double(), weights.double().transpose(1, 2))
    assert torch.allclose(expected.double(), close, rtol=0, atol=1e-6 * columns)
    shifted = torch.empty(x.numel() + 1)[1:].view(x.shape).copy_(x)
    across = weights.transpose(1, 2).contiguous().transpose(1, 2)
    for tile in (1, columns, 7 * columns, 1 << 15):
        monkeypatch.setattr(exact, "TILE", tile)
        assert torch.equal(exact.products(weights, shifted), expected)
        assert torch.equal(exact.products(across, x), expected)
        assert torch.equal(exact.products(weights, x[:, :1]), expected[:, :1])


def test_exp_and_roots_are_the_nearest_numbers_or_their_neighbours() -> None:
    x = torch.linspace(-87, 88, 200_001)
    true = np.exp(x.double().numpy())
    assert np.abs(exact.exp(x).double().numpy() / true - 1).max() < 2**-23
    y = torch.from_numpy(np.random.default_rng(0).uniform(1e-12, 4, 200_001).astype(np.float32))
    assert np.abs(exact.inverse_root(y).double().numpy() * np.sqrt(y.double().numpy()) - 1).max() < 2**-23
    assert exact.exp(torch.tensor([-math.inf, -104.0, math.inf])).tolist() == [0.0, 0.0, math.inf]
    assert all(torch.isnan(f(torch.tensor([math.nan]))).all() for f in (exact.exp, exact.silu, exact.gelu, exact.inverse_root))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 15, 16, 17, 31, 33, 1000])
def test_softmax_and_activations_of_a_number_do_not_depend_on_its_place(count: int) -> None:
    x = torch.from_numpy(np.random.default_rng(count).standard_normal((7, count)).astype(np.float32) * 9)
    for f, some in ((exact.silu, x), (exact.gelu, x[0]), (partial(exact.softcap, cap=5.0), x[0])):
        assert torch.equal(f(some), torch.stack([f(one) for one in some.flatten()]).view(some.shape))
    assert torch.equal(exact.softmax(x), torch.stack([exact.softmax(row.clone()) for row in x]))
    assert torch.allclose(exact.softmax(x), torch.softmax(x, dim=1), rtol=1e-5, atol=1e-7)
    assert torch.allclose(exact.silu(x), torch.nn.functional.silu(x), rtol=1e-5, atol=1e-7)
    assert torch.allclose(exact.gelu(x), torch.nn.functional.gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6)
    assert torch.allclose(exact.softcap(x, 5.0), 5 * torch.tanh(x / 5), rtol=1e-6, atol=1e-7)
