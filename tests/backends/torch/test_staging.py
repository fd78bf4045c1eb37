"""Arrays packed into one buffer come back unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puna.backends.torch.staging import StagingBuffer, upload


@pytest.mark.parametrize("shapes", [(), (0,), (1, 0, 7, 5), (0, 33), ((3, 5), 1, (2, 0))], ids=str)
def test_each_array_comes_back_at_an_aligned_place(shapes: tuple[int | tuple[int, ...], ...]) -> None:
    types = [np.int32, np.float64, np.int8, np.float32]
    given = {f"array {i}": np.full(shape, i + 1, types[i]) for i, shape in enumerate(shapes)}
    found = upload(given, torch.device("cpu"))
    assert list(found) == list(given)
    for name, array in given.items():
        assert found[name].numpy().dtype == array.dtype and found[name].data_ptr() % 16 == 0, "what kernels are compiled for"
        assert np.array_equal(found[name].numpy(), array) and found[name].shape == array.shape


def test_a_blob_is_filled_anew_where_it_lies() -> None:
    buffer = StagingBuffer({"ids": np.array([1, 2, 3]), "cos_sin": np.ones((2, 2), np.float32)}, torch.device("cpu"))
    places = {name: tensor.data_ptr() for name, tensor in buffer.tensors.items()}
    buffer.fill({"ids": np.array([7, 8, 9]), "cos_sin": np.zeros((2, 2), np.float32)})
    assert buffer.tensors["ids"].tolist() == [7, 8, 9] and not buffer.tensors["cos_sin"].any()
    assert places == {name: tensor.data_ptr() for name, tensor in buffer.tensors.items()}
