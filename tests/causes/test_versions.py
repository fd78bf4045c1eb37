"""Names that packages removed: the installed packages confirm what `puna why` says."""

from __future__ import annotations

import importlib

import pytest

from puna.causes import find
from puna.causes.versions import MOVED

GONE = {
    "transformers": (
        "AutoModelForVision2Seq",
        "AutoModelWithLMHead",
        "HybridCache",
        "SlidingWindowCache",
        "TFAutoModel",
        "AdamW",
    ),
    "transformers.utils": ("is_torch_fx_available", "is_tf_available", "LossKwargs", "TRANSFORMERS_CACHE"),
    "transformers.utils.import_utils": ("is_torch_sdpa_available", "is_flax_available", "is_flash_attn_available"),
    "transformers.models.gpt2.tokenization_gpt2": ("bytes_to_unicode",),
    "transformers.models.vit.modeling_vit": ("ViTIntermediate", "ViTOutput", "ViTSelfAttention", "ViTSelfOutput"),
    "transformers.models.llama.modeling_llama": (
        *("LlamaFlashAttention2", "LlamaDynamicNTKScalingRotaryEmbedding", "LlamaLinearScalingRotaryEmbedding"),
        *("_expand_mask", "_make_causal_mask"),
    ),
    "transformers.modeling_utils": (
        *("no_init_weights", "load_sharded_checkpoint", "get_parameter_dtype", "dtype_byte_size"),
        *("apply_chunking_to_forward", "prune_linear_layer"),
    ),
    "transformers.cache_utils": ("OffloadedCache", "SinkCache", "HybridChunkedCache", "QuantizedCacheConfig"),
    "transformers.image_utils": ("VideoInput", "make_batched_videos"),
    "transformers.processing_utils": ("ChatTemplateLoadKwargs",),
    "transformers.generation": ("LogitsWarper", "top_k_top_p_filtering", "BeamSearchScorer", "SampleOutput"),
    "huggingface_hub": ("cached_download", "HfFolder", "InferenceApi", "ModelFilter", "configure_http_backend"),
    "numpy": (
        *("float", "int", "float_", "complex_", "unicode_", "string_", "bool8", "int0", "uint0", "object0", "product"),
        *("cumproduct", "msort", "AxisError", "ComplexWarning", "VisibleDeprecationWarning"),
    ),
}
HERE = {
    "transformers": ("AutoModelForImageTextToText", "EncoderDecoderCache", "StaticCache"),
    "transformers.utils": ("TransformersKwargs", "is_flash_attn_2_available", "is_flash_attn_greater_or_equal"),
    "transformers.convert_slow_tokenizer": ("bytes_to_unicode",),
    "transformers.initialization": ("no_init_weights",),
    "transformers.trainer_utils": ("load_sharded_checkpoint",),
    "transformers.video_utils": ("VideoInput", "make_batched_videos"),
    "transformers.processing_utils": ("ProcessorChatTemplateKwargs",),
    "transformers.modeling_attn_mask_utils": ("_prepare_4d_attention_mask", "_prepare_4d_causal_attention_mask"),
    "transformers.activations": ("GELUTanh",),
    "numpy": (
        *("float64", "complex128", "str_", "bytes_", "bool_", "intp", "uintp", "object_", "prod", "cumprod", "sort", "isin"),
        *("trapezoid", "exceptions"),
    ),
    "huggingface_hub": ("get_token", "hf_hub_download", "InferenceClient", "is_offline_mode", "set_client_factory"),
}


@pytest.mark.parametrize("module", GONE)
def test_names_that_are_told_as_gone_are_gone(module: str) -> None:
    package = pytest.importorskip(module, reason="an oracle that is installed with the tests")
    assert [name for name in GONE[module] if hasattr(package, name)] == []
    assert all(MOVED[name.lower()].gone for name in GONE[module])


@pytest.mark.parametrize("module", HERE)
def test_names_that_are_told_in_their_place_are_there(module: str) -> None:
    pytest.importorskip(module, reason="an oracle that is installed with the tests")
    package = importlib.import_module(module)
    assert [name for name in HERE[module] if not hasattr(package, name)] == []


def test_names_that_are_told_as_there_again_are_there() -> None:
    pytest.importorskip("transformers", reason="an oracle that is installed with the tests")
    again = {"transformers.activations": "PytorchGELUTanh", "transformers.utils": "is_flash_attn_greater_or_equal_2_10"}
    for module, name in again.items():
        assert hasattr(importlib.import_module(module), name) and MOVED[name.lower()].back
    assert {name for name, moved in MOVED.items() if moved.back} == {name.lower() for name in again.values()}


def test_what_a_cache_and_a_configuration_no_longer_have_is_so() -> None:
    transformers = pytest.importorskip("transformers")
    cache, config = transformers.DynamicCache(), transformers.LlamaConfig()
    gone = ("seen_tokens", "get_usable_length", "from_legacy_cache", "to_legacy_cache", "key_cache", "value_cache")
    assert [name for name in gone if hasattr(cache, name)] == [] and hasattr(cache, "get_seq_length")
    assert not hasattr(config, "rope_theta") and "rope_theta" in config.rope_parameters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cannot import name 'cached_download' from 'huggingface_hub'", ("huggingface_hub since 0.26", "hf_hub_download")),
        ("cannot import name 'EncoderDecoderCache' from 'transformers'", ("came with transformers 4.43", "older")),
        ("'DynamicCache' object has no attribute 'seen_tokens'", ("seen_tokens", "get_seq_length()")),
        (
            "cannot import name 'nothing_known' from 'transformers.utils'",
            ("transformers has no nothing_known", "older or a newer"),
        ),
        (
            "cannot import name 'one' from 'peft.utils'. Did you mean: 'two'?",
            ("peft has no one", "A similar name is there: two."),
        ),
        (
            "cannot import name 'PytorchGELUTanh' from 'transformers.activations'",
            ("since 4.57, and there again from 5.0 on", "It is now: GELUTanh"),
        ),
        (
            "Accelerator.__init__() got an unexpected keyword argument 'dispatch_batches'",
            ("gone from accelerate since 1.0", "DataLoaderConfiguration(dispatch_batches=...)"),
        ),
        ("__init__() got an unexpected keyword argument 'use_seedable_sampler'", ("came with accelerate 0.26", "since 1.0")),
        ("Accelerator.__init__() got an unexpected keyword argument 'anything'", ("accelerate has no anything",)),
        ("SFTTrainer.__init__() got an unexpected keyword argument 'tokenizer'", ("trl has no tokenizer",)),
        ("AttributeError: module 'numpy' has no attribute 'bool8'", ("gone from numpy since 2.0", "numpy.bool_")),
        ("AttributeError: `np.Inf` was removed in the NumPy 2.0 release. Use `np.inf` instead.", ("since 2.0", "now: np.inf.")),
        ("`np.cast` was removed in the NumPy 2.0 release. Use `np.asarray(arr, dtype=dtype)` instead.", ("cast is gone",)),
        ("module 'torch' has no attribute 'float_'", ("torch has no float_",)),
    ],
)
def test_a_name_is_told_with_its_version_and_its_new_name(text: str, words: tuple[str, ...]) -> None:
    told = find(text)[0].explain()
    assert all(word in told.cause for word in words), told.cause


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("cannot import name 'bytes_to_unicode' from 'transformers.models.gpt2.tokenization_gpt2'", "install 'transformers<5.0'"),
        ("cannot import name 'nothing_known' from 'transformers.utils'", "install 'transformers<5'"),
        ("cannot import name 'nothing_known' from 'transformers.utils'", "install -U transformers"),
        ("cannot import name 'nothing_known' from 'huggingface_hub'", "install 'huggingface_hub<1'"),
        ("cannot import name 'PytorchGELUTanh' from 'transformers.activations'", "uninstall autoawq"),
        ("cannot import name 'PytorchGELUTanh' from 'transformers.activations'", "install 'transformers>=5.0'"),
    ],
)
def test_the_version_to_install_is_the_end_of_a_step_and_can_be_copied(text: str, command: str) -> None:
    assert any(step.endswith(f"python -m pip {command}") for step in find(text)[0].explain().cure), find(text)[0].explain().cure


def test_a_models_own_code_is_named_as_who_asks() -> None:
    text = """
  File "/root/.cache/huggingface/modules/transformers_modules/Kimi/abc/tokenization_kimi.py", line 10, in <module>
ImportError: cannot import name 'bytes_to_unicode' from 'transformers.models.gpt2.tokenization_gpt2'
"""
    told = find(text)[0].explain()
    assert "the model's own code, tokenization_kimi.py" in told.cause and "without trust_remote_code" in told.cure[1]


def test_numbers_of_the_new_kinds_are_told() -> None:
    ptxas = find("ptxas fatal   : Value 'sm_120' is not defined for option 'gpu-name'")[0].explain()
    assert "sm_120 (compute capability 12.0)" in ptxas.cause and "CUDA 12.8" in ptxas.cause
    shared = find("out of resource: shared memory, Required: 131072, Hardware limit: 101376.")[0].explain()
    assert "128 KiB" in shared.cause and "99 KiB" in shared.cause
    words = (
        "Found GPU0 {} which is of cuda capability {}. Minimum and Maximum cuda capability supported by this version of PyTorch "
        "is ({}) - ({})"
    )
    kinds = [("GTX 1060", "6.1", "7.5", "12.0"), ("NVIDIA GB10", "12.1", "8.0", "12.0"), ("RTX 5090", "12.0", "5.0", "9.0")]
    assert [find(words.format(*kind))[0].explain().kind for kind in kinds] == ["too-old", "newer-of-a-generation", "too-new"]
    mxfp4 = find("tensor 'blk.0.ffn_down_exps.weight' has invalid ggml type 39 (NONE)")[0].explain()
    assert "MXFP4" in mxfp4.cause and "August 2025" in mxfp4.cause


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("Accelerator.__init__() got an unexpected keyword argument 'dispatch_batches'", ("-U transformers", "'accelerate<1.0'")),
        (
            "Accelerator.__init__() got an unexpected keyword argument 'use_seedable_sampler'",
            ("-U accelerate", "'accelerate<1.0'"),
        ),
        ("AttributeError: module 'numpy' has no attribute 'bool8'", ("pip show numpy", "'numpy<2.0'")),
        ("module 'numpy' has no attribute 'float'.", ("pip show numpy", "'numpy<1.24'")),
        ("cannot import name 'EncoderDecoderCache' from 'transformers'", ("-U transformers",)),
    ],
)
def test_a_name_is_told_with_the_versions_to_install(text: str, commands: tuple[str, ...]) -> None:
    told = find(text)[0].explain()
    assert all(any(step.endswith(command) for step in told.cure) for command in commands), told.cure
    assert ("transformers_modules" in " ".join(told.cure)) == ("from 'transformers'" in text)


def test_what_numpy_says_of_its_own_removals_is_repeated() -> None:
    numpy = pytest.importorskip("numpy")
    for name in ("float_", "NaN", "alltrue", "infty"):
        with pytest.raises(AttributeError) as caught:
            getattr(numpy, name)
        told = find(f"AttributeError: {caught.value}")[0].explain()
        assert f"{name} is gone from numpy since 2.0. It is now: np." in told.cause
