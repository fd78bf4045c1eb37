"""Package versions that do not fit: moved names, clashing pins, libraries of two builds in one process.

The versions that removed a name were checked against the packages (tests/causes/test_versions.py) or their release notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.names import OWNERS
from puna.causes.ranges import explain_versions

OWN_READERS = "puna needs no transformers and runs no code from models: it reads weights and tokenizers by itself."


class Moved(NamedTuple):
    """A name that only some versions of a package have."""

    package: str
    gone: str = ""  # the version that no longer has it; "": see `since`
    since: str = ""  # the first version that has it
    instead: str = ""  # its new name
    back: str = ""  # the version that has it again
    asked_by: str = ""  # a package that still uses it: an older version, or one of ENDED


# Major versions that removed many names.
MAJORS = {"transformers": "5", "huggingface_hub": "1"}
# Packages whose development ended: no newer version asks for other names.
ENDED = ("autoawq", "auto-gptq")
# Name in lower case -> its package. Only code uses these names; a name that a person types has its replacement here.
MOVED: dict[str, Moved] = {
    "automodelforvision2seq": Moved("transformers", "5.0", instead="AutoModelForImageTextToText"),
    "automodelwithlmhead": Moved("transformers", "5.0", instead="AutoModelForCausalLM"),
    "is_torch_fx_available": Moved("transformers", "5.0"),
    "is_tf_available": Moved("transformers", "5.0"),
    "hybridcache": Moved("transformers", "5.0", instead="StaticCache"),
    "slidingwindowcache": Moved("transformers", "5.0", instead="StaticCache"),
    "tfautomodel": Moved("transformers", "5.0"),
    "flaxpretrainedmodel": Moved("transformers", "5.0"),
    "transformers_cache": Moved("transformers", "5.0", instead="the variable HF_HOME"),
    "beamsearchscorer": Moved("transformers", "4.57"),
    "adamw": Moved("transformers", "4.50", instead="torch.optim.AdamW"),
    "pytorchgelutanh": Moved("transformers", "4.57", back="5.0", instead="GELUTanh", asked_by="autoawq"),
    "bytes_to_unicode": Moved("transformers", "5.0", instead="transformers.convert_slow_tokenizer.bytes_to_unicode"),
    "is_flash_attn_available": Moved("transformers", "4.39", instead="is_flash_attn_2_available"),
    "is_flash_attn_greater_or_equal_2_10": Moved("transformers", "5.4", instead="is_flash_attn_greater_or_equal", back="5.5"),
    "is_torch_sdpa_available": Moved("transformers", "5.0"),
    "is_flax_available": Moved("transformers", "5.0"),
    "is_safetensors_available": Moved("transformers", "5.0"),
    "no_init_weights": Moved("transformers", "5.0", instead="transformers.initialization.no_init_weights"),
    "load_sharded_checkpoint": Moved("transformers", "5.0", instead="transformers.trainer_utils.load_sharded_checkpoint"),
    "get_parameter_dtype": Moved("transformers", "5.0"),
    "dtype_byte_size": Moved("transformers", "4.51"),
    "videoinput": Moved("transformers", "4.52", instead="transformers.video_utils.VideoInput"),
    "make_batched_videos": Moved("transformers", "4.52", instead="transformers.video_utils.make_batched_videos"),
    "chattemplateloadkwargs": Moved("transformers", "5.1", instead="ProcessorChatTemplateKwargs"),
    "_flash_supports_window_size": Moved("transformers", "4.54"),
    "_expand_mask": Moved("transformers", "4.38", instead="_prepare_4d_attention_mask"),
    "_make_causal_mask": Moved("transformers", "4.38", instead="_prepare_4d_causal_attention_mask"),
    "logitswarper": Moved("transformers", "4.49", instead="LogitsProcessor"),
    "top_k_top_p_filtering": Moved("transformers", "4.39"),
    "specialtokensmixin": Moved("transformers", "5.0"),
    "sampleoutput": Moved("transformers", "5.0"),
    "greedysearchoutput": Moved("transformers", "5.0"),
    "need_setup_cache_classes_mapping": Moved("transformers", "4.56"),
    "offloadedcache": Moved("transformers", "5.0", instead="DynamicCache(offloading=True)"),
    "sinkcache": Moved("transformers", "5.0"),
    "hybridchunkedcache": Moved("transformers", "5.0", instead="StaticCache"),
    "quantizedcacheconfig": Moved("transformers", "4.56"),
    "qwen2flashattention2": Moved("transformers", "4.48", instead="Qwen2Attention"),
    "mistralflashattention2": Moved("transformers", "4.48", instead="MistralAttention"),
    "llamadynamicntkscalingrotaryembedding": Moved("transformers", "4.48", instead="LlamaRotaryEmbedding"),
    "llamalinearscalingrotaryembedding": Moved("transformers", "4.48", instead="LlamaRotaryEmbedding"),
    "vitintermediate": Moved("transformers", "5.9"),
    "vitoutput": Moved("transformers", "5.9"),
    "vitselfattention": Moved("transformers", "5.9"),
    "vitselfoutput": Moved("transformers", "5.9"),
    "losskwargs": Moved("transformers", "4.54", instead="TransformersKwargs"),
    "shard_checkpoint": Moved("transformers", "4.47", instead="huggingface_hub.split_torch_state_dict_into_shards"),
    "llamaflashattention2": Moved("transformers", "4.48", instead="LlamaAttention"),
    "llamasdpaattention": Moved("transformers", "4.48", instead="LlamaAttention"),
    "llama_attention_classes": Moved("transformers", "4.48"),
    "llama_inputs_docstring": Moved("transformers", "4.52"),
    "find_pruneable_heads_and_indices": Moved("transformers", "5.0"),
    "apply_chunking_to_forward": Moved("transformers", "4.56", instead="transformers.pytorch_utils.apply_chunking_to_forward"),
    "prune_linear_layer": Moved("transformers", "4.56", instead="transformers.pytorch_utils.prune_linear_layer"),
    "seen_tokens": Moved("transformers", "4.5x", instead="get_seq_length()"),
    "get_usable_length": Moved("transformers", "4.5x", instead="get_seq_length()"),
    "get_max_length": Moved("transformers", "4.48", instead="get_max_cache_shape(), and get_max_length() again in the newest"),
    "get_max_cache_shape": Moved("transformers", "5.x", instead="get_max_length()"),
    "from_legacy_cache": Moved("transformers", "5.0", instead="DynamicCache(...)"),
    "to_legacy_cache": Moved("transformers", "5.0"),
    "key_cache": Moved("transformers", "5.0", instead="layers[i].keys"),
    "value_cache": Moved("transformers", "5.0", instead="layers[i].values"),
    "rope_theta": Moved("transformers", "5.0", instead='rope_parameters["rope_theta"]'),
    "batch_encode_plus": Moved("transformers", "5.0", instead="tokenizer(texts)"),
    "encode_plus": Moved("transformers", "5.0", instead="tokenizer(text)"),
    "additional_special_tokens": Moved("transformers", "5.0", instead="extra_special_tokens"),
    "all_special_tokens_extended": Moved("transformers", "5.0", instead="all_special_tokens", asked_by="vllm"),
    "prepare_seq2seq_batch": Moved("transformers", "5.0", instead="tokenizer(texts, text_target=...)"),
    "as_target_tokenizer": Moved("transformers", "5.0", instead="tokenizer(texts, text_target=...)"),
    "build_inputs_with_special_tokens": Moved("transformers", "5.0"),
    "prepare_for_model": Moved("transformers", "5.0"),
    "load_in_4bit": Moved("transformers", "5.0", instead="quantization_config=BitsAndBytesConfig(load_in_4bit=True)"),
    "load_in_8bit": Moved("transformers", "5.0", instead="quantization_config=BitsAndBytesConfig(load_in_8bit=True)"),
    "use_auth_token": Moved("transformers and huggingface_hub", "5.0 and 1.0", instead="token"),
    "evaluation_strategy": Moved("transformers", "4.46", instead="eval_strategy"),
    "use_flash_attention_2": Moved("transformers", "5.0", instead='attn_implementation="flash_attention_2"'),
    "dtype": Moved("transformers", since="4.56", instead="torch_dtype, in older ones"),
    "encoderdecodercache": Moved("transformers", since="4.43"),
    "is_offline_mode": Moved("huggingface_hub", since="1.0"),
    "split_torch_state_dict_into_shards": Moved("huggingface_hub", since="0.23"),
    "cached_download": Moved("huggingface_hub", "0.26", instead="hf_hub_download"),
    "hffolder": Moved("huggingface_hub", "1.0", instead="get_token()"),
    "inferenceapi": Moved("huggingface_hub", "1.0", instead="InferenceClient"),
    "modelfilter": Moved("huggingface_hub", "0.24", instead="list_models(filter=...)"),
    "configure_http_backend": Moved("huggingface_hub", "1.0", instead="set_client_factory"),
    "attrsdescriptor": Moved("triton", "3.3"),
    "triton_key": Moved("triton", "3.5"),
    **{name: Moved("triton", "3.2", asked_by="bitsandbytes") for name in ("ops", "matmul_perf_model")},
    "functional_tensor": Moved("torchvision", "0.17", instead="torchvision.transforms.functional"),
    "prepare_model_for_int8_training": Moved("peft", "0.10", instead="prepare_model_for_kbit_training"),
    "list_audio_backends": Moved("torchaudio", "2.9"),
    "set_audio_backend": Moved("torchaudio", "2.9"),
    "float8_e8m0fnu": Moved("torch", since="2.7"),
    "float8_e4m3fn": Moved("torch", since="2.1"),
    "register_pytree_node": Moved("torch", since="2.2"),
    **{
        name: Moved(
            "accelerate", "1.0", instead=f"dataloader_config=DataLoaderConfiguration({name}=...)", asked_by="transformers"
        )
        for name in ("dispatch_batches", "even_batches")
    },
    "use_seedable_sampler": Moved(
        "accelerate",
        "1.0",
        since="0.26",
        instead="dataloader_config=DataLoaderConfiguration(use_seedable_sampler=...)",
        asked_by="transformers",
    ),
    # numpy itself tells the new names of its other removals, in words that `explain_moved` repeats.
    **{name: Moved("numpy", "1.24", instead=f"{name}, Python's own") for name in ("float", "int", "bool", "object")},
    "float_": Moved("numpy", "2.0", instead="numpy.float64"),
    "complex_": Moved("numpy", "2.0", instead="numpy.complex128"),
    "unicode_": Moved("numpy", "2.0", instead="numpy.str_"),
    "string_": Moved("numpy", "2.0", instead="numpy.bytes_"),
    "bool8": Moved("numpy", "2.0", instead="numpy.bool_"),
    "int0": Moved("numpy", "2.0", instead="numpy.intp"),
    "uint0": Moved("numpy", "2.0", instead="numpy.uintp"),
    "object0": Moved("numpy", "2.0", instead="numpy.object_"),
    "product": Moved("numpy", "2.0", instead="numpy.prod"),
    "cumproduct": Moved("numpy", "2.0", instead="numpy.cumprod"),
    "msort": Moved("numpy", "2.0", instead="numpy.sort(..., axis=0)"),
    **{
        name.lower(): Moved("numpy", "2.0", instead=f"numpy.exceptions.{name}")
        for name in ("AxisError", "ComplexWarning", "VisibleDeprecationWarning")
    },
    "in1d": Moved("numpy", "2.4", instead="numpy.isin"),
    "trapz": Moved("numpy", "2.4", instead="numpy.trapezoid"),
}
INSTEAD = {"numpy": "puna needs NumPy 2; keep it in an environment of its own."}  # of a package: what puna does without it


UPDATE = "Update the program that asks for the name; the traceback's last lines show which file does."
NO_OWN_CODE = "load it without trust_remote_code=True, if transformers knows the model, or take a newer revision of the model."


def explain_moved(numbers: Captures) -> Explanation:
    """A name that this version of a package lacks, with the versions that have it, if known."""
    module = numbers.get("package") or numbers.get("part", "")
    package = module.partition(".")[0].lower() or OWNERS.get(numbers.get("owner", "").lower(), "")
    name = numbers.get("name") or module
    moved = _known_move(name, package, numbers)
    package = package or (moved.package if moved else "")
    told = _unknown_name(name, package) if moved is None else _known_name(name, moved)
    if numbers.get("meant") and (moved is None or not moved.instead):
        told += f" A similar name is there: {numbers['meant']}."
    if numbers.get("model"):
        told += f" What asks for it is the model's own code, {numbers['model'].rpartition('/')[2]}."
    cure = tuple(_cures_of_move(package, moved, numbers))
    return Explanation(told, cure, instead=INSTEAD.get(package, OWN_READERS), numbers=numbers)


def _known_move(name: str, package: str, numbers: Captures) -> Moved | None:
    """What the text itself, or else the table, says of a name. A package may have a name that another one has removed."""
    if "gone" in numbers:
        return Moved(package, numbers["gone"], instead=numbers.get("instead", ""))
    moved = MOVED.get(name.rpartition(".")[2].lower())
    return moved if moved is not None and package in ("", *moved.package.split(" and ")) else None


def _known_name(name: str, moved: Moved) -> str:
    if not moved.gone:
        return f"{name} came with {moved.package} {moved.since}; the installed one is older, or lacks it."
    came = f"came with {moved.package} {moved.since} and is gone" if moved.since else f"is gone from {moved.package}"
    again = f", and there again from {moved.back} on" if moved.back else ""
    called = f" It is now: {moved.instead}." if moved.instead else ""
    older = "" if moved.since or moved.back else " The program is older."
    return f"{name} {came} since {moved.gone}{again}.{called}{older}"


def _unknown_name(name: str, package: str) -> str:
    if not (package and name):
        return "The program was written for another version of a package than the installed one."
    mostly = f"; mostly an older one, for {package} {MAJORS[package]} removed many names" if package in MAJORS else ""
    written = "the program was written for another version of it, an older or a newer one"
    return f"The installed {package} has no {name}: {written}{mostly}."


def _cures_of_move(package: str, moved: Moved | None, numbers: Captures) -> Iterator[str]:
    wanted = package or "transformers"
    yield f"See the version: python -m pip show {wanted.replace(' and ', ' ')}"
    if numbers.get("model"):
        yield f"The model's own code is old: {NO_OWN_CODE}"
    if moved is not None:
        yield from _to_a_version(wanted, moved)
    elif package in MAJORS:
        yield from _to_either_side(package, MAJORS[package])
    else:
        yield from (UPDATE, _as_the_program_says(wanted))
    if wanted == "transformers" and not numbers.get("model"):
        yield f"If the traceback names transformers_modules, the model's own code is old: {NO_OWN_CODE}"


def _to_a_version(package: str, moved: Moved) -> Iterator[str]:
    """Where a name is known: to a version that has it, or away from who asks for it."""
    if moved.since:
        yield f"{f'If it is older than {moved.since}, update' if moved.gone else 'Update'} it: python -m pip install -U {package}"
    if not moved.gone:
        return
    yield _away_from(moved.asked_by)
    if re.fullmatch(r"[\d.]*\d", moved.gone):
        yield f"Or install a version before: python -m pip install '{package}<{moved.gone}'"
    else:
        yield _as_the_program_says(package)
    if moved.back:
        yield f"Or a version that has it again: python -m pip install '{package}>={moved.back}'"


def _away_from(asked_by: str) -> str:
    if asked_by in ENDED:
        leave = f"{asked_by} asks for it and is developed no more. If your model does not need it"
        return f"{leave}: python -m pip uninstall {asked_by}"
    if asked_by:
        return f"Mostly an older {asked_by} asks for it. Update that: python -m pip install -U {asked_by}"
    return UPDATE


def _to_either_side(package: str, major: str) -> Iterator[str]:
    """Where a name is not known: the installed version says on which side of it the program is."""
    yield f"If it is {major} or later, the program is mostly older. Update it, or: python -m pip install '{package}<{major}'"
    yield f"If it is before {major}, the program is newer: python -m pip install -U {package}"


def _as_the_program_says(package: str) -> str:
    return f"Or install the version of {package} that the program's requirements or the model's card name."


def explain_other_pythons(numbers: Captures) -> Explanation:
    """uv and Poetry resolve for every Python that the project allows, not for the active one alone."""
    active, other = numbers.get("active", ""), numbers.get("other", "")
    range_, better = numbers.get("range", ""), numbers.get("better", "")
    failed = f" It failed for Python {other}{' and later' if numbers.get('sign') == '>=' else ''}." if other else ""
    yours = f" Yours, {active}, is not what failed." if active else ""
    allows = f" (requires-python is {range_})" if range_ else ""
    narrow = f"=={active}.*" if active else better or "==3.12.*"
    return Explanation(
        f"uv and Poetry look for packages that fit every Python which the project allows{allows}, not only the one that runs."
        f"{failed}{yours}",
        (
            f'Allow fewer Pythons: in pyproject.toml requires-python = "{narrow}" (with Poetry the dependency on python there). '
            "Then lock again.",
            "Or install into the active environment, for its Python alone: uv pip install PACKAGE",
        ),
        instead="puna needs Python 3.11 or later, and PyTorch only for a GPU.",
        numbers=numbers,
    )


# A model that a package registers by itself -> the package, its version that no longer does, the first transformers that has it.
REGISTERED = {"aimv2": ("vllm", "0.10", "4.54"), "ovis": ("vllm", "0.10", "4.54")}


def explain_registration(numbers: Captures) -> Explanation:
    """A package that registers with transformers what this transformers has itself, or in a way that it no longer takes."""
    model = numbers.get("model", "")
    package, version, has_it = REGISTERED.get(model.lower(), ("", "", ""))
    newer = (
        "Update the package that registers; the traceback's lines above name it: python -m pip install -U mlx-lm (or vllm, ...)"
    )
    older = "Or take the transformers from before: python -m pip install 'transformers<5.13', for older packages 'transformers<5'"
    if package:
        told = f"{package} before {version} registers the model {model} with transformers, which has it itself since {has_it}."
        newer = f"Update: python -m pip install -U '{package}>={version}'"
        older = f"Or take the transformers from before: python -m pip install 'transformers<{has_it}'"
    elif model:
        told = (
            f"A package registers its own model, {model}, with transformers, and this transformers has that model itself. The "
            "package is older than this transformers."
        )
    else:
        told = (
            "A package registers a model or tokenizer of its own with transformers (AutoTokenizer.register and its like), and "
            "does it in a way that this transformers no longer takes. The package is older than this transformers; known of "
            "mlx-lm with transformers 5.13."
        )
    versions = "See the versions: python -m pip list | grep -iE 'transformers|mlx|vllm|sglang'"
    return Explanation(told, (newer, older, versions), instead=OWN_READERS, numbers=numbers)


CAUSES = (
    Cause(
        "numpy-two",
        "versions",
        (
            "compiled using numpy 1.x cannot be run in numpy {version:word}",
            "compiled using numpy 1.x cannot be run in",
            "_array_api not found",
            "numpy.dtype size changed, may indicate binary incompatibility",
            "numpy.core._multiarray_umath failed to import",
            "numpy.core.multiarray failed to import",
            "runtimeerror: numpy is not available",
            "no module named 'numpy._core",
            "failed to initialize numpy: _array_api not found",
        ),
        says(
            (
                "NumPy {version} is installed, but a package was compiled for NumPy 1: they do not work together.",
                "A package and NumPy do not fit: one was built for NumPy 1, the other is NumPy 2 (or the reverse).",
            ),
            "Update the package that the traceback names: python -m pip install -U PACKAGE",
            "If there is no newer one: python -m pip install 'numpy<2'",
            "If the text says numpy._core, NumPy is too old: python -m pip install -U numpy",
            instead="puna needs NumPy 2; keep it in an environment of its own.",
        ),
        ("+numpy", "+2.0|numpy 2|1.x|downgrade|binary incompat", "compiled|module|import|crash"),
    ),
    Cause(
        "torchvision-mismatch",
        "versions",
        (
            "operator torchvision::nms does not exist",
            "no such operator torchvision::nms",
            "unknown builtin op: torchvision::nms",
            "couldn't load custom c++ ops. ... torchvision",
            "pytorch and torchvision versions are incompatible",
            "detected that pytorch and {other:name} were compiled with different cuda",
            "detected that pytorch and {other:name} was compiled with different cuda",
            "could not load this library: {library:path}torchaudio",
            "could not load this library: {library:path}torchvision",
        ),
        says(
            "torch and torchvision (or torchaudio) are of different releases: one was updated without the other, or one comes "
            "from another index (CPU, CUDA).",
            "See the versions and their endings (+cpu, +cu128): python -m pip list | grep -i torch",
            "Install the three in one command from one index: python -m pip install --force-reinstall torch torchvision "
            "torchaudio --index-url https://download.pytorch.org/whl/cu128",
            "On a Jetson take NVIDIA's wheels for all three.",
            instead="puna needs torch alone, and only for a GPU.",
        ),
        ("+torchvision|torchaudio", "+nms|mismatch|incompatib|does not exist|different cuda|version", "torch|error|install"),
    ),
    Cause(
        "torchcodec",
        "versions",
        (
            "could not load libtorchcodec ~~~ the pytorch version ({have:word}) is not compatible with",
            "could not load libtorchcodec",
            "libtorchcodec_core{number:int}",
            "torchcodec is required",
            "torchcodec is not available",
            "to support decoding audio data, please install 'torchcodec'",
        ),
        says(
            (
                "torchcodec, which reads sound and video for torchaudio, datasets and speech programs, does not load beside "
                "PyTorch {have}. It needs the shared libraries of FFmpeg (4 to 8), and its version belongs to one version of "
                "PyTorch.",
                "torchcodec, which reads sound and video for torchaudio, datasets and speech programs, does not load. It needs "
                "the shared libraries of FFmpeg (4 to 8), and its version belongs to one version of PyTorch.",
            ),
            "Install FFmpeg: sudo apt install ffmpeg; macOS: brew install ffmpeg",
            "On Windows its build full-shared, which brings DLLs, in the PATH: winget install Gyan.FFmpeg.Shared",
            "Take the versions that belong together: python -m pip install -U torch torchaudio torchcodec",
            "Or do without it: python -m pip install 'datasets<4' 'torchaudio<2.9', with the torch of that torchaudio",
            instead="puna reads texts only, and needs PyTorch only for a GPU.",
        ),
        ("+torchcodec|libtorchcodec", "+load|install|ffmpeg|not available"),
    ),
    Cause(
        "xformers-mismatch",
        "versions",
        (
            "xformers was built for: pytorch {built:word} with cuda {cuda:int} (you have {have:word})",
            "xformers can't load c++/cuda extensions",
            "no operator found for `memory_efficient_attention_forward`",
            "no such operator xformers::",
        ),
        says(
            (
                "xFormers was built for PyTorch {built}, but PyTorch {have} is installed: its fast attention is off.",
                "xFormers was built for another PyTorch or card: its fast attention is off.",
            ),
            "Install the xFormers that belongs to your PyTorch: its release notes name the PyTorch of each version. Add "
            "--no-deps, so that pip does not replace PyTorch.",
            "Or remove it: python -m pip uninstall xformers. PyTorch's own attention is about as fast.",
            instead="puna needs no xFormers.",
        ),
        ("+xformers", "+built for|version|load|no operator", "torch|cuda|python"),
    ),
    Cause(
        "nvidia-libraries-mixed",
        "versions",
        (
            "undefined symbol: __nvjitlink{symbol:name}, version {needed:cudalib}",
            "undefined symbol: __nvjitlink{symbol:name}",
            "libtorch_cuda.so: undefined symbol: nccl{symbol:name}",
            "libtorch_cuda.so: undefined symbol: cu{symbol:name}",
            "{library:cudalib}: undefined symbol: {symbol:name}, version {needed:cudalib}",
            "symbol cu{symbol:name} version {needed:cudalib} not defined in file {file:cudalib} with link time reference",
            "{library:cudalib}: symbol ... not defined in file {file:cudalib} with link time reference",
        ),
        says(
            "PyTorch found one of NVIDIA's libraries in another version than the one it was built with: an older copy is "
            "first in LD_LIBRARY_PATH, or pip holds two (…-cu11 beside …-cu12 or …-cu13).",
            "Start without the path: env -u LD_LIBRARY_PATH python -c 'import torch'. If that works, take the CUDA folders out "
            "of LD_LIBRARY_PATH.",
            "See what pip has: python -m pip list | grep -i nvidia; only one of cu11, cu12, cu13 should be there.",
            "Safest is a new environment with PyTorch alone: python -m venv NEW && NEW/bin/pip install torch",
            instead="puna needs torch and what torch brings, and nothing else of CUDA.",
        ),
        ("+nvjitlink|libcusparse|libnccl|libcublas", "+undefined symbol|version", "torch|import"),
    ),
    Cause(
        "torch-missing-in-build",
        "versions",
        (
            "no module named '{module:name}' ~~~ doesn't declare it as a build dependency",
            "depends on `torch`, but doesn't declare it as a build dependency",
            "file \"<string>\", line {line:int}, in <module> modulenotfounderror: no module named 'torch'",
            "getting requirements to build wheel ~~~ no module named 'torch'",
            "get_requires_for_build_wheel ~~~ no module named 'torch'",
            "failed to build `{package:word}` ~~~ no module named 'torch'",
            "preparing metadata ~~~ no module named 'torch'",
        ),
        says(
            "The package needs PyTorch during its build, but pip and uv build in an empty environment without it. PyTorch "
            "may well be installed in yours.",
            "Install PyTorch first, then the package without the empty environment: python -m pip install torch ninja packaging "
            "wheel setuptools psutil, then python -m pip install --no-build-isolation PACKAGE",
            "With uv: uv pip install --no-build-isolation PACKAGE",
            "Better, for flash-attn: a wheel that is built already, whose name has your PyTorch, CUDA and Python: "
            "https://github.com/Dao-AILab/flash-attention/releases",
            instead="puna needs no flash-attn and compiles no extension.",
        ),
        (
            "+no module named 'torch'|no module named torch|torch is installed",
            "+flash-attn|flash_attn|xformers|build|wheel|pip install",
            "build|wheel|isolation",
        ),
    ),
    Cause(
        "flash-attention-absent",
        "versions",
        (
            "flashattention2 has been toggled on, but it cannot be used",
            "flashattention3 has been toggled on, but it cannot be used",
            "the package flash_attn seems to be not installed",
            "does not support flash attention 2.0 yet",
            "does not support flash attention 2 yet",
            "you need flash_attn package version to be greater or equal than {needed:word}",
            "flash attention 2 is not available",
            "flash_attn is not installed",
            "this modeling file requires the following packages that were not found in your environment: flash_attn",
        ),
        says(
            "The program asked for FlashAttention 2, but it is missing or too old, or the model has no code for it.",
            'Do without: from_pretrained(..., attn_implementation="sdpa"). PyTorch\'s own attention is about as fast for one '
            "user.",
            "Or install a wheel whose name has your PyTorch, CUDA and Python: "
            "https://github.com/Dao-AILab/flash-attention/releases. It needs Ampere (RTX 30) or later.",
            instead="puna has attention of its own, and needs no flash-attn.",
        ),
        (
            "+flash_attn|flash-attn|flashattention|flash attention",
            "+not installed|missing|cannot be used|not support|not available",
        ),
        concept="attention",
    ),
    Cause(
        "index-lacks-version",
        "versions",
        (
            "because there is no version of {package:package}",
            "because there is no version of nvidia-{part:word}",
            "was not found in the package registry ~~~ requirements are unsatisfiable",
        ),
        says(
            "The index that was asked does not have this version. Versions of PyTorch that end in +cu126 or +cpu, and the "
            "nvidia- packages that belong to them, are on PyTorch's index; most others are on PyPI only; and uv takes a package "
            "from the first index that has its name.",
            "Ask for it without the ending, and let uv find the index: uv pip install torch --torch-backend=auto",
            "Or name both indexes: uv pip install PACKAGE --extra-index-url https://download.pytorch.org/whl/cu126 "
            "--index-strategy unsafe-best-match",
            "pip takes --index-url https://download.pytorch.org/whl/cu126 for torch, torchvision and torchaudio alone.",
            instead="puna needs PyTorch only for a GPU, and no specific version of it.",
        ),
    ),
    Cause(
        "unsloth-import",
        "versions",
        (
            "unsloth: please import unsloth before {package:package}",
            "unsloth should be imported before {package:package}",
            "unsloth: please import unsloth before",
            "unsloth should be imported before",
            "unsloth: please install unsloth_zoo via",
            "unsloth: please update unsloth_zoo via",
        ),
        says(
            "Unsloth changes PyTorch, transformers, trl and peft when it is imported. It must come before them, and its second "
            "package (unsloth_zoo) must be there, in a version that fits.",
            "Write import unsloth as the first import of the program.",
            "Update both: python -m pip install --upgrade unsloth unsloth_zoo",
            'If it is installed and still missing, its import failed: python -c "import unsloth_zoo" says why (often: no GPU).',
            instead="puna runs models and trains none.",
        ),
        ("+unsloth", "+import|unsloth_zoo"),
    ),
    Cause(
        "other-pythons",
        "versions",
        (
            "no solution found when resolving dependencies for split (markers: python_full_version {sign:sign} '{other:number}'",
            "no solution found when resolving dependencies for split (python_full_version {sign:sign} '{other:number}'",
            "while the active python version is {active:number}, the resolution failed for other python versions supported by "
            "your project",
            "the resolution failed for other python versions supported by your project",
            "consider limiting your project's supported python versions using `requires-python`",
            "the `requires-python` value ({range:bounds}) includes python versions that are not supported by your dependencies",
            "consider using a more restrictive `requires-python` value (like {better:bounds})",
            "the current project's supported python range ({range:bounds}) is not compatible with some of the required packages "
            "python requirement",
            "the current project's python requirement ({range:bounds}) is not compatible with some of the required packages "
            "python requirement",
        ),
        explain_other_pythons,
        (
            "+requires-python|supported python|every python|other python",
            "+uv|poetry",
            "+resol|split|unsatisfiable|no solution",
            "wheel|torch|vllm|llama",
        ),
    ),
    Cause(
        "registers-with-transformers",
        "versions",
        (
            "autotokenizer.register ~~~ object has no attribute '__{part:name}__'",
            "autoconfig.register ~~~ is already used by a transformers config",
            "tokenizer_mapping.register ~~~ object has no attribute '__{part:name}__'",
            "'str' object has no attribute '__module__'",
            "'{model:word}' is already used by a transformers config",
            "is already used by a transformers config",
            "is already used by a transformers model",
            "you need to pass either a `slow_tokenizer_class` or a `fast_tokenizer_class`",
        ),
        explain_registration,
        ("+transformers|autotokenizer", "+register", "+mlx|vllm|__module__|already used|upgrade|update"),
    ),
    Cause(
        "no-wheel",
        "versions",
        (
            "no solution found when resolving ~~~ no wheels with a matching python abi tag (e.g., `{python:name}`)",
            "no solution found when resolving ~~~ no wheels with a matching",
            "no matching distribution found for torch",
            "could not find a version that satisfies the requirement torch",
            "have no wheels with a matching python abi tag (e.g., `{python:name}`)",
            "has no wheels with a matching python abi tag (e.g., `{python:name}`)",
            "no wheels with a matching python",
            "no wheels with a matching platform tag",
            "no wheels with a matching python implementation tag",
            "no wheels are available with a matching",
            "has no wheels are available",
            "doesn't have a source distribution or wheel for the current platform",
            "requires a different python: {python:word} not in",
            "no matching distribution found for {package:package}",
            "no matching distribution found for unsloth",
            "no matching distribution found for llama-cpp-python",
            "no matching distribution found for xformers",
            "no matching distribution found for flash_attn",
            "no matching distribution found for huggingface",
            "no matching distribution found for tokenizers",
            "no matching distribution found for vllm",
            "no matching distribution found for triton",
            "no matching distribution found for bitsandbytes",
            "no matching distribution found for flash-attn",
            "no matching distribution found for tensorflow",
            "is not a supported wheel on this platform",
            "the configured python interpreter version ({python:number}) is newer than pyo3's maximum supported version "
            "({newest:number})",
            "is newer than pyo3's maximum supported version",
            "module 'pkgutil' has no attribute 'impimporter'",
            "no module named 'imp'",
            "cannot import name 'mapping' from 'collections'",
            "cannot import name 'sequence' from 'collections'",
            "only python versions >={oldest:word}",
            "python version >= {oldest:word} and < {newest:word} required",
        ),
        says(
            "There is no wheel for this Python, system or processor: a Python that is too new or too old, a 32-bit one, or a "
            "package that does not exist for this system (triton and vLLM: Linux only).",
            'See what pip looks for: python --version; python -c "import platform; print(platform.machine())"; pip debug '
            "--verbose | head",
            "A version that is pinned, such as torch==1.13.1, may have wheels for older Pythons only: take a newer one, or "
            "use that Python.",
            "Use a Python with wheels; https://pytorch.org/get-started names them.",
            instead="puna itself needs Python 3.11 or later, and PyTorch only for a GPU.",
        ),
        ("+no matching distribution|no wheel|no version", "+torch|vllm|triton|cuda|llama"),
    ),
    Cause(
        "package-versions",
        "versions",
        (
            "{wanted:range} is required for a normal functioning of this module, but found {found:pin}",
            "{wanted:range} is required for a normal functioning of this module, but found",
            "is required for a normal functioning of this module, but found",
            "requires {wanted:range}, but you have {name:path} {have:word} which is incompatible",
            "requires ... but you have {name:path} {have:word} which is incompatible",
            "versionconflict: ({name:path} {have:word} ... requirement.parse('{wanted:range}')",
            "depends on {wanted:range} and you require {asked:range}, we can conclude",
            "depends on {wanted:range} and your project depends on {asked:range}, we can conclude",
            "because these package versions have conflicting dependencies",
            "pip's dependency resolver does not currently take into account all the packages that are installed",
            "resolutionimpossible",
            "we can conclude that your requirements are unsatisfiable",
            "we can conclude that all versions of ... cannot be used",
            "no solution found when resolving",
            "libmambaunsatisfiableerror",
            "solving environment: failed",
            "packagesnotfounderror",
            "found an incompatible version of {name:word}. found version {found:word}, but only versions above {wanted:word} "
            "are supported",
            "found an incompatible version of",
            "is no longer compatible with pytorch version",
            "is not compatible with pytorch",
            "due to incompatible torch version. please upgrade to torch >= {wanted:word} (found {have:word}",
            "due to incompatible torch version",
            "please upgrade to torch",
            "please upgrade torch to",
            "we now require users to upgrade torch to at least",
            "disabling pytorch because pytorch >= {wanted:word} is required but found {found:word}",
            "pytorch >= {wanted:word} is required but found",
            "is required but found",
            "unsloth: please update",
            "please update `unsloth",
            "requires transformers version",
            "requires transformers>=",
            "please upgrade transformers",
            "please install transformers>=",
            "version of the package is {found:word}, but",
        ),
        explain_versions,
        (
            "+pip|uv|conda|package|dependency|dependencies",
            "+conflict|incompatible|unsatisfiable|resolver",
            "+torch|transformers|vllm|unsloth|huggingface|numpy|triton",
        ),
    ),
    Cause(
        "package-missing-for-model",
        "versions",
        (
            "this modeling file requires the following packages that were not found in your environment: {package:word}",
            "this modeling file requires the following packages that were not found in your environment",
            "{class:name} requires the pytorch library but it was not found in your environment",
            "requires the pytorch library but it was not found",
            "pytorch was not found. models won't be available",
            "none of pytorch, tensorflow >= 2.0, or flax have been found",
            "at least one of tensorflow 2.0 or pytorch should be installed",
            "name 'init_empty_weights' is not defined",
            "requires the {name:word} library but it was not found in your environment",
        ),
        says(
            (
                "The model's code needs the package {package}, which is not installed in this Python.",
                "The program needs a package (often PyTorch itself or accelerate) that is not installed in the Python that "
                "runs, or is older than transformers wants.",
            ),
            "See which Python runs and what it has: python -m pip list",
            "Install what the text names: python -m pip install -U torch accelerate, or that package. Then start Python again.",
            instead="puna needs PyTorch only for a GPU.",
        ),
        ("+requires|need", "+not found in your environment|pytorch library"),
    ),
    Cause(
        "keras-three",
        "versions",
        (
            "keras 3, but this is not yet supported in transformers",
            "keras 3 is not supported",
            "please install the backwards-compatible tf-keras package",
        ),
        says(
            "transformers 4 found TensorFlow with Keras 3, which it does not support. With PyTorch it needs neither.",
            "Switch TensorFlow off for it: export USE_TF=0; or python -m pip uninstall tensorflow keras",
            "If the program needs TensorFlow: python -m pip install tf-keras. transformers 5 no longer looks for it.",
            instead=OWN_READERS,
        ),
        ("+keras", "+transformers|tf-keras|not supported"),
    ),
    Cause(
        "protobuf-version",
        "versions",
        (
            "descriptors cannot be created directly",
            "descriptors cannot not be created directly",
            "requires the protobuf library but it was not found",
            "cannot import name 'builder' from 'google.protobuf.internal'",
            "'messagefactory' object has no attribute 'getprototype'",
        ),
        says(
            "protobuf, which reads SentencePiece's tokenizer.model, is missing or of another major version than the program's.",
            "python -m pip install -U protobuf sentencepiece",
            "If another package then fails: python -m pip install 'protobuf<4'",
            instead="puna reads tokenizer.model without protobuf.",
        ),
        ("+protobuf", "+version|not found|descriptors|downgrade", "tokenizer|sentencepiece|transformers|error"),
    ),
    Cause(
        "quantization-package-missing",
        "versions",
        (
            "no package metadata was found for bitsandbytes",
            "no package metadata was found for the 'bitsandbytes' distribution",
            "using `bitsandbytes` 4-bit quantization requires",
            "using `bitsandbytes` 8-bit quantization requires",
            "loading an awq quantized model requires",
            "loading a gptq quantized model requires",
            "loading gptq quantized model requires",
            "using a `compressed_tensors` quantized model requires",
            "mxfp4 quantization requires triton",
            "mxfp4 quantized models requires",
            "using mxfp4 quantized models requires",
            "unknown quantization type, got {method:word}",
            "quantization method {method:word} is not supported",
            "unknown quantization method: {method:word}",
            "`load_in_8bit` requires",
            "load a model in {bits:int}bit ... requires",
        ),
        says(
            (
                "The model has the format {method}, which this version of the program does not know.",
                "The model is quantised, and the package that reads this format (bitsandbytes, gptqmodel, autoawq, "
                "compressed-tensors, kernels) is missing, too old, or cannot work on this machine.",
            ),
            "Update transformers and install the package that the text names: python -m pip install -U transformers accelerate "
            "bitsandbytes kernels",
            "See quantization_config in the model's config.json: quant_method names the format.",
            "Most formats need an NVIDIA card. Without one use a GGUF of the same model.",
            instead="puna reads GGUF, GPTQ, AWQ and compressed-tensors by itself, and makes int8 or int4: --weights int4",
        ),
        (
            "+bitsandbytes|awq|gptq|mxfp4|quantization",
            "+requires|missing|not installed|unknown quantization",
            "model|transformers|install",
        ),
        concept="quantisation",
    ),
    Cause(
        "package-name-moved",
        "versions",
        (
            "transformers_modules/{model:path} ~~~ cannot import name '{name:name}' from '{package:package}'",
            "cannot import name '{name:name}' from '{package:package}'. did you mean: '{meant:name}'",
            "cannot import name '{name:name}' from '{package:package}' ({file:path}). did you mean: '{meant:name}'",
            "cannot import name '{name:name}' from '{package:package}'",
            "cannot import name '{name:name}' from partially initialized module '{package:package}'",
            "cannot import name '{name:alone}'",
            "module '{package:package}' has no attribute '{name:name}'",
            "cache' object has no attribute '{name:cachepart}'",
            "'{class:name}config' object has no attribute '{name:name}'",
            "'{class:name}tokenizer' object has no attribute '{name:name}'",
            "'{class:name}tokenizerfast' object has no attribute '{name:name}'",
            "'tokenizersbackend' object has no attribute '{name:name}'",
            "'{class:name}forcausallm' object has no attribute '{name:name}'",
            "'{class:name}forconditionalgeneration' object has no attribute '{name:name}'",
            "'{class:name}model' object has no attribute 'all_tied_weights_keys'",
            "rope_init_functions[{key:word}] keyerror: 'default'",
            "rope_init_functions ... keyerror: 'default'",
            "got an unexpected keyword argument '{name:argument}'",
            "no module named '{part:part}'",
            "no module named '{part:part}",
            "{owner:owner}.__init__() got an unexpected keyword argument '{name:name}'",
            "{owner:owner}() got an unexpected keyword argument '{name:name}'",
            "np.{name:name}` was removed in the {package:package} {gone:number} release. use `{instead:path}` instead",
            "np.{name:name}` was removed in the {package:package} {gone:number} release",
            "np.{name:name} was removed in the {package:package} {gone:number} release",
            "integrations/flash_attention.py ~~~ 'nonetype' object has no attribute 'to'",
            "missing {count:int} required positional argument: 'position_embeddings'",
            "{class:name}tokenizer has no attribute {name:name}",
            "{class:name}tokenizerfast has no attribute {name:name}",
            "tokenizersbackend has no attribute {name:name}",
            "has no attribute {name:tokenizerpart}",
        ),
        explain_moved,
        (
            "+cannot import name|no attribute|unexpected keyword|importerror|removed|renamed",
            "+transformers|huggingface_hub|dynamiccache|torchvision|peft|accelerate|accelerator|numpy",
            "version|update|upgrade|downgrade|v5|import",
        ),
    ),
    Cause(
        "import-failed-below",
        "versions",
        (
            "failed to import {module:path} because of the following error (look up to see its traceback)",
            "because of the following error (look up to see its traceback)",
            "could not import module '{module:word}'. are this object's requirements defined correctly?",
            "are this object's requirements defined correctly",
        ),
        says(
            (
                "This is transformers' report only: it could not load {module}. The error itself stands below this line or above "
                "it, and mostly names another package.",
                "This is transformers' report only: it could not load one of its parts. The error itself stands below this line "
                "or above it, and mostly names another package.",
            ),
            "Give puna why the whole traceback.",
            "Import that package alone, to see its own error: python -c 'import torchvision', 'import flash_attn', ...",
            instead=OWN_READERS,
        ),
        ("+failed to import|could not import", "+transformers"),
        role="effect",
    ),
)
