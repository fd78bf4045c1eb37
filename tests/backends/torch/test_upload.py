"""`upload`: what comes back is what was given, in the types that were asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puna.backends.torch.upload import ALIGNMENT, Typed, upload

CPU = torch.device("cpu")


@pytest.mark.parametrize("sizes", [(), (0,), (1, 0, 7, 5), (0, 33)], ids=str)
def test_each_array_comes_back_in_its_type_and_at_an_aligned_place(sizes: tuple[int, ...]) -> None:
    types = [torch.int32, torch.float64, torch.float32, torch.int64]
    given: list[Typed] = [
        (np.arange(size) / 3 if dtype.is_floating_point else np.arange(size), dtype) for size, dtype in zip(sizes, types)
    ]
    found = upload(given, CPU)
    assert len(found) == len(given)
    for tensor, (array, dtype) in zip(found, given, strict=True):
        assert tensor.dtype == dtype and tensor.data_ptr() % ALIGNMENT == 0
        assert torch.equal(tensor, torch.from_numpy(array).to(dtype))


def test_shapes_are_kept() -> None:
    (found,) = upload([(np.arange(12, dtype=np.int32).reshape(3, 4), torch.int32)], CPU)
    assert found.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
