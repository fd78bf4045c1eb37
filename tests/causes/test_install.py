"""Libraries and toolkits that do not fit each other: whose symbol it is, and which of two CUDAs is which."""

from __future__ import annotations

import pytest

from puna.causes import find
from puna.causes.install import plain_name


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_Z20cutlass_moe_mm_sm100RN2at6TensorERKS0_", "cutlass_moe_mm_sm100"),
        ("_ZN4vllm3moe4topkERN2at6TensorE", "vllm::moe::topk"),
        ("_ZNK4vllm3fooEv", "vllm::foo"),
        ("_ZTVN4vllm3fooE", "vllm::foo"),
        ("_Z99short", "short"),
        ("_Z", "_Z"),
        ("", ""),
    ],
)
def test_a_symbol_is_told_as_its_source_calls_it(symbol: str, name: str) -> None:
    assert plain_name(symbol) == name


def test_a_kernel_that_was_left_out_is_told_with_its_package_and_card() -> None:
    text = "ImportError: /env/sgl_kernel/common_ops.abi3.so: undefined symbol: _Z18fp8_scaled_mm_sm90RN2at6TensorE"
    told = find(text)[0].explain()
    assert "fp8_scaled_mm_sm90" in told.cause and "compute capability 9.0" in told.cause
    assert any("pip install sgl-kernel" in step for step in told.cure) and any("'9.0'" in step for step in told.cure)


def test_both_numbers_of_two_cudas_are_told_and_no_index_that_does_not_exist() -> None:
    words = "The detected CUDA version ({}) mismatches the version that was used to compile PyTorch ({})."
    told = find(words.format("12.9", "11.8"))[0].explain()
    assert "is 12.9, and PyTorch was built with CUDA 11.8" in told.cause
    cure = " ".join(told.cure)
    assert "CUDA_HOME=/usr/local/cuda-11.8" in cure and "whl/cu129" in cure and "llama-cpp" not in cure
    assert "whl/cu125" not in " ".join(find(words.format("12.5", "11.8"))[0].explain().cure)
