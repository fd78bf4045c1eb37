"""A whole model through the kernels: some of the conformance suite, which then runs in the interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from puna.batch import Logits
from tests.backends.torch import interpreter
from tests.backends.torch.test_model import require_the_hosts_ids
from tests.conformance import test_backends as conformance
from tests.conformance.test_backends import FAMILY_SIZES, ODD_SIZES, forward, loaded, random_ids, require_close
from tests.fakes import random_checkpoint, tiny_config

interpreter.require()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of rows that only fill a tile

PAGES = [3, 11, 7, 0]
SMALL = tiny_config(num_layers=1, num_heads=2, num_kv_heads=1)


@pytest.mark.parametrize(
    ("shape", "num_layers", "quant", "prompt_length"),
    [
        ("plain", 2, "F32", 1),
        ("ratio-3-head-64", 1, "Q4_1", 8),
        ("biases", 1, "Q8_0", 5),
        ("qk-norm-head-20", 1, "BF16", 12),
        ("window-5-ratio-1", 1, "Q4_0", 9),
        ("like-gemma", 1, "Q4_1", 6),
        ("like-olmo", 1, "F32", 6),
        ("scaled-queries", 1, "F32", 6),
        ("experts-2-of-5", 1, "F32", 6),
    ],
)
def test_logits_are_the_references_however_much_is_prompt(shape: str, num_layers: int, quant: str, prompt_length: int) -> None:
    whole = (ODD_SIZES | FAMILY_SIZES)[shape]
    checkpoint = random_checkpoint(replace(whole, layers=whole.layers[:num_layers]), quant, seed=1)
    ids = random_ids(checkpoint.config, 12)
    with loaded("reference", checkpoint) as reference, loaded("torch", checkpoint, kv="f32") as backend:
        expected = forward(reference, (ids, 0, PAGES))
        found = forward(backend, (ids, 0, PAGES), prompt_length=prompt_length)
    require_close(found, expected, conformance.tolerance("torch", quant if quant != "BF16" else "Q8_0", "f32"))


@pytest.mark.parametrize("quant", ["F32", "Q4_1"])
def test_alone_in_chunks_and_in_a_batch_agree_bit_for_bit(quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 17 tokens and 4 that were generated, at once, cut elsewhere, token by token at the end, and beside others."""
    monkeypatch.setattr(np, "matmul", interpreter.product_in_order)
    checkpoint = random_checkpoint(SMALL, quant, seed=2)
    ids, other = random_ids(checkpoint.config, 21), random_ids(checkpoint.config, 9, seed=3)

    def made(*cuts: int, beside: bool = False) -> Logits:
        rows, pages = [], [5, 6]
        for first, last in zip((0, *cuts), (*cuts, 21), strict=True):
            pieces = [(ids[first:last], first, pages)]
            pieces = [(other[:4], 0, [9]), *pieces, (other, 0, [8])] if beside else pieces
            found = forward(backend, *pieces, prompt_length=17)
            rows.append(found[4 : 4 + last - first] if beside else found)
        return np.concatenate(rows)

    with loaded("torch", checkpoint) as backend:
        whole = made()
        for cuts, beside in (((1, 16, 17, 18, 19, 20), False), ((19,), False), ((7, 17, 20), True)):
            assert np.array_equal(made(*cuts, beside=beside), whole), cuts


def test_penalties_on_the_device_give_the_hosts_ids() -> None:
    require_the_hosts_ids(SMALL, max_tokens=3)
