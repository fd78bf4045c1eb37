"""Names used in wordings: packages, and names that they removed or renamed. `versions.py` has the replacements."""

from __future__ import annotations

# Packages whose names, versions and modules puna distinguishes.
PACKAGES = (
    *("accelerate", "bitsandbytes", "compressed_tensors", "datasets", "deepspeed", "diffusers", "flash_attn", "flashinfer"),
    *("huggingface_hub", "kernels", "llama_cpp", "mistral_common", "mlx", "mlx_lm", "numpy", "optimum", "outlines", "peft"),
    *("safetensors", "sentence_transformers", "sglang", "tokenizers", "torch", "torchao", "torchaudio", "torchvision"),
    *("transformers", "triton", "trl", "unsloth", "unsloth_zoo", "vllm", "xformers", "xgrammar"),
)
# Other modules of this field that may be missing; puna ignores modules of other fields.
MODULES = (
    *(
        "apex",
        "aqlm",
        "causal_conv1d",
        "comfy_kitchen",
        "ctransformers",
        "cupy",
        "cutlass",
        "decord",
        "deep_ep",
        "deep_gemm",
        "eetq",
    ),
    *(
        "fla",
        "hf_xet",
        "hqq",
        "insightface",
        "intel_extension_for_pytorch",
        "liger_kernel",
        "mamba_ssm",
        "nunchaku",
        "onnxruntime",
    ),
    *("open_webui", "pynvml", "qwen_vl_utils", "sageattention", "timm", "torch_npu", "transformer_engine"),
)
# Parts of the file names of packages that are little else than compiled kernels.
KERNELS = (
    *("vllm", "sgl_kernel", "sglang", "xformers", "flash_attn", "flashinfer", "causal_conv1d", "mamba_ssm", "selective_scan"),
    *(
        "deep_gemm",
        "deep_ep",
        "exllama",
        "awq",
        "gptq",
        "bitsandbytes",
        "apex",
        "transformer_engine",
        "nunchaku",
        "sageattention",
    ),
    *("torchao", "torchvision", "torchaudio", "lmdeploy", "detectron2", "pytorch3d", "torch_scatter", "torch_sparse"),
)
# What other runtimes print when they end: the exit code beside it is theirs.
OTHER_RUNTIMES = (
    *("javascript heap out of memory", "near heap limit", "v8::internal::", "node::oomerrorhandler", "npm err!", "npm error"),
    *(
        "yarn run v",
        "error command failed with ",
        "elifecycle",
        "webpack",
        "java.lang.",
        "hs_err_pid",
        "java runtime environment",
    ),
    *("gradle", "there is insufficient memory for the java", "erl_crash.dump", "dotnet test", "msbuild"),
)
# Names that are known in a text without their package's name.
KNOWN_ALONE = (
    *("automodelforvision2seq", "is_torch_fx_available", "hybridcache", "slidingwindowcache", "losskwargs", "shard_checkpoint"),
    *("llamaflashattention2", "llamasdpaattention", "find_pruneable_heads_and_indices", "encoderdecodercache", "cached_download"),
    *("hffolder", "is_offline_mode", "split_torch_state_dict_into_shards", "attrsdescriptor", "triton_key"),
)
# Former attributes of transformers' K/V caches.
OF_A_CACHE = (
    *("seen_tokens", "get_usable_length", "get_max_length", "get_max_cache_shape", "from_legacy_cache", "to_legacy_cache"),
    *("key_cache", "value_cache", "_seen_tokens"),
)
# Former attributes of transformers' tokenizers.
OF_A_TOKENIZER = (
    *("all_special_tokens_extended", "additional_special_tokens", "batch_encode_plus", "encode_plus", "prepare_for_model"),
    *("build_inputs_with_special_tokens", "special_tokens_map_extended"),
)
# Arguments that were added, removed or renamed.
ARGUMENTS = (
    *("load_in_4bit", "load_in_8bit", "torch_dtype", "dtype", "use_auth_token", "evaluation_strategy", "use_flash_attention_2"),
    *("attn_implementation", "cache_position", "num_logits_to_keep", "logits_to_keep", "position_embeddings", "past_key_value"),
    *("num_items_in_batch", "dispatch_batches", "processing_class", "max_seq_length", "use_safetensors", "trust_remote_code"),
    *("low_cpu_mem_usage", "device_map", "quantization_config", "local_dir_use_symlinks", "resume_download", "proxies"),
    *("even_batches", "use_seedable_sampler"),
)
# Classes and functions that gained or lost arguments -> their package. A class may have a name before it: Qwen2ForCausalLM.
OWNERS = {
    "accelerator": "accelerate",
    **dict.fromkeys(("hfapi", "hf_hub_download", "snapshot_download"), "huggingface_hub"),
    **dict.fromkeys(("sfttrainer", "dpotrainer", "grpotrainer", "sftconfig", "grpoconfig"), "trl"),
    **dict.fromkeys(("loraconfig", "get_peft_model"), "peft"),
    "engineargs": "vllm",
    **dict.fromkeys(("causallm", "conditionalgeneration", "tokenizerfast", "attention", "decoderlayer"), "transformers"),
    **dict.fromkeys(("trainer", "trainingarguments", "trainingargs", "bitsandbytesconfig"), "transformers"),
    **dict.fromkeys(("from_pretrained", "apply_chat_template", "compute_loss", "_sample", "update_causal_mask"), "transformers"),
    **dict.fromkeys(("prepare_inputs_for_generation", "create_quantized_param"), "transformers"),
    "_prepare_4d_causal_attention_mask_with_cache_position": "transformers",
}
# Commands that may be missing; if one is a prefix of another, the longer comes first.
TOOLS = (
    *(
        "make",
        "gmake",
        "cmake",
        "git-lfs",
        "git",
        "gcc",
        "g++",
        "cc",
        "c++",
        "clang",
        "ninja",
        "pip3",
        "pip",
        "python3",
        "python",
    ),
    *("uv", "cargo", "rustc", "curl", "wget", "hipcc", "docker", "ollama", "vllm", "conda", "llama-server", "llama-cli"),
)
