"""A fault in other forms than the one it was met in: other names, numbers, libraries and words round it."""

from __future__ import annotations

import pytest

from puna.causes import SURE, find

FORMS = (
    ("package-name-moved", "AttributeError: PreTrainedTokenizerFast has no attribute all_special_tokens_extended", "5.0"),
    ("package-name-moved", "'CachedQwen2TokenizerFast' object has no attribute 'all_special_tokens_extended'", "5.0"),
    ("package-name-moved", "AttributeError: TokenizersBackend has no attribute all_special_tokens_extended", "5.0"),
    ("registers-with-transformers", "'ovis' is already used by a Transformers config, pick another name.", "vllm>=0.10"),
    ("registers-with-transformers", "'deepseek_v3' is already used by a Transformers config", "deepseek_v3"),
    ("mps-buffer-too-large", "RuntimeError: Invalid buffer size: 24.00 GB", "24.00 GB"),
    ("metal-resource-limit", "RuntimeError: [metal::malloc] Resource limit exceeded.", "buffers"),
    ("metal-out-of-memory", "[metal::malloc] Attempting to allocate 37580963840 bytes which is greater than", "memory"),
    ("metal-shader", "ggml_metal_init: error: failed to initialize the Metal library", "GGML_METAL_TENSOR_DISABLE"),
    ("bitsandbytes-setup", "Configured ROCm binary not found at /x/libbitsandbytes_rocm83.so", "ROCm is 7.13"),
    ("bitsandbytes-setup", "Configured ROCm binary not found at /x/libbitsandbytes_rocm64.so", "ROCm 6.4"),
    ("template-filter", "Error: Unknown (built-in) filter 'upper' for type Array", "upper"),
    ("cuda-library-missing", "ImportError: libnvrtc.so.12: cannot open shared object file", "cu128"),
    ("cuda-library-missing", "ImportError: libcudart.so.11.0: cannot open shared object file", "cu118"),
    ("cuda-library-missing", "OSError: libcudnn.so.9: cannot open shared object file", "libcudnn.so.9"),
    ("container-without-gpu", "failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=all", "nvidia-ctk cdi"),
    ("unknown-authority", "x509: certificate has expired or is not yet valid: current time 2023-01-01T00:00:00Z", "clock"),
    ("unknown-authority", "pull model manifest: x509: certificate is valid for proxy.example, not registry.ollama.ai", "date"),
    ("ollama-network", "pull model manifest: Get https://registry.ollama.ai/v2/x: dial tcp: i/o timeout", "HTTPS_PROXY"),
    ("rust-certificate", "hf_xet: error trying to connect: invalid peer certificate: UnknownIssuer", "HF_HUB_DISABLE_XET"),
    ("runner-died", "llama runner process has terminated: exit status 0xc000001d", "instruction"),
    ("gguf-vocabulary-incomplete", "cannot find tokenizer scores in model file", "no scores"),
    ("gguf-unknown-splitter", "error loading model vocabulary: unknown pre-tokenizer type: 'qwen35'", "qwen35"),
    ("vulkan-buffer-limit", "ggml_vulkan: Device memory allocation of size 5368709120 failed. ggml_vulkan: Requested buffer size "
     "exceeds device memory allocation limit: ErrorOutOfDeviceMemory", "maxBufferSize"),
    ("ggml-out-of-memory", "ggml_vulkan: Device memory allocation of size 5368709120 failed.", "buffer"),
    ("kfd-rights", "PermissionError: [Errno 13] Permission denied: '/dev/kfd'", "--group-add"),
    ("lmstudio-no-runtime", "No LM Runtime found for model format 'mlx'!", "MLX"),
    ("torchcodec", "ImportError: TorchCodec is required for load_with_torchcodec.", "FFmpeg"),
    ("tiktoken-download", "url https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken", "TIKTOKEN"),
    ("gguf-unknown-architecture", "error loading model: unknown model architecture: 'qwen35moe'", "qwen35moe"),
)  # fmt: skip


@pytest.mark.parametrize(("cause", "text", "told"), FORMS)
def test_a_fault_is_known_in_its_other_forms(cause: str, text: str, told: str) -> None:
    matches = find(text)
    assert matches and matches[0].cause.name == cause and matches[0].confidence >= SURE, matches
    explanation = matches[0].explain()
    assert told in "\n".join((explanation.cause, *explanation.cure)), explanation
