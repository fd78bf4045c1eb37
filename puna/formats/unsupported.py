"""Unsupported files and folders: how to recognise each kind, what it is, what to do.

Literal tables: files by their first bytes, folders by their entries, GGUF files by their kind, quantisations by their name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from puna.errors import UnsupportedModelError
from puna.formats.json_file import JsonObject, read_json
from puna.formats.mapped import is_there, read_head, shown

ORIGINAL = "Fetch the model it was made from (safetensors), or a GGUF conversion of it."
UNPACK = "Unpack it, and give puna the file or folder in it."


class FileKind(NamedTuple):
    """A row of the table of files: bytes at an offset."""

    beginnings: tuple[bytes, ...]
    what: str
    cure: str
    at: int = 0


FILES: tuple[FileKind, ...] = (
    FileKind((b"tjgg", b"lmgg", b"fmgg"), "a GGML file from before GGUF", "Fetch a newer conversion of the model, as GGUF."),
    FileKind((b"algg",), "a LoRA adapter of GGML, from before GGUF", "Merge it into its base model, and open the result."),
    FileKind((b"FUGG",), "a big-endian GGUF file", "Fetch a little-endian one."),
    FileKind((b"version https://git-lfs",), "a Git LFS pointer, not the model itself", "Run: git lfs pull"),
    FileKind(
        (b"<!DOCTYPE", b"<!doctype", b"<html"), "a web page, not a model", "The download fetched a page; use the file's own link."
    ),
    FileKind((b"<?xml",), "an XML file (perhaps OpenVINO's), not a model that puna reads", ORIGINAL),
    FileKind((b"\x89HDF\r\n\x1a\n",), "an HDF5 file (Keras or TensorFlow weights)", ORIGINAL),
    FileKind((b"\x93NUMPY",), "a numpy array, not a model", ORIGINAL),
    FileKind((b"ftrt", b"ptrt"), "a TensorRT engine, built for one GPU", ORIGINAL),
    FileKind((b"TFL3",), "a LiteRT (TensorFlow Lite) model", ORIGINAL, 4),
    FileKind((b"ET12", b"ET11"), "an ExecuTorch program", ORIGINAL, 4),
    FileKind((b"LITERTLM",), "a LiteRT-LM bundle", ORIGINAL),
    FileKind(tuple(b"\x08" + bytes([version]) + b"\x12" for version in range(3, 20)), "an ONNX model", ORIGINAL),
    FileKind((b"MZqFpD",), "a llamafile, a program with a model in it", "Unpack it (unzip): the .gguf in it is the model."),
    FileKind((b"MZ", b"\x7fELF", b"\xcf\xfa\xed\xfe"), "a program, not a model", "Give the model's file."),
    FileKind((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"\x28\xb5\x2f\xfd", b"Rar!"), "an archive", UNPACK),
)  # fmt: skip
HEAD_BYTES = 64


def refuse_unsupported(path: Path) -> None:
    """Raise UnsupportedModelError for a file that begins like one of these."""
    head = read_head(path, HEAD_BYTES)
    for row in FILES:
        if head.startswith(row.beginnings, row.at):
            raise UnsupportedModelError(f"{path} is {row.what}", hint=row.cure)


# ---- folders --------------------------------------------------------------------------------------------------------


class FolderKind(NamedTuple):
    """A row of the table of folders: the name of any entry."""

    marks: tuple[str, ...]
    what: str
    cure: str
    beside_weights: bool = False  # also if weights that puna reads are beside it


FOLDERS: tuple[FolderKind, ...] = (
    FolderKind(
        ("model_index.json",), "a diffusers pipeline, which makes images, sound or video",
        "puna runs language models; run this one with the diffusers library.", True,
    ),
    FolderKind(
        ("modules.json", "config_sentence_transformers.json"), "a sentence-transformers model, which makes embeddings, not text",
        "Run it with the sentence-transformers library.", True,
    ),
    FolderKind(("*.onnx", "*.onnx_data", "onnx"), "an ONNX model", ORIGINAL),
    FolderKind(("*.mlpackage", "*.mlmodelc", "*.mlmodel", "coremldata.bin", "Manifest.json"), "a CoreML model", ORIGINAL),
    FolderKind(("openvino_*.xml", "openvino_*.bin"), "an OpenVINO model", ORIGINAL),
    FolderKind(("*.engine", "*.plan", "*.trt"), "a TensorRT engine, built for one GPU", ORIGINAL),
    FolderKind(("tf_model*.h5", "*.h5", "saved_model.pb", "*.ckpt.index"), "a TensorFlow model", ORIGINAL),
    FolderKind(("flax_model*.msgpack", "*.msgpack", "*.orbax*"), "a Flax model", ORIGINAL),
    FolderKind(("mlc-chat-config.json", "ndarray-cache.json", "tensor-cache.json"), "a model compiled by MLC", ORIGINAL),
    FolderKind(("*.npz",), "an MLX model in numpy's format", ORIGINAL),
    FolderKind(("*.tflite", "*.litertlm", "*.task"), "a LiteRT (TensorFlow Lite) model", ORIGINAL),
    FolderKind(("*.pte",), "an ExecuTorch program", ORIGINAL),
    FolderKind(("*.nemo",), "a NeMo model", "Export it to Hugging Face's format with NeMo, and open that."),
    FolderKind(("shared_vocabulary.*", "source_vocabulary.*"), "a CTranslate2 model", ORIGINAL),
)  # fmt: skip
READABLE = ("*.safetensors", "pytorch_model*.bin", "*.gguf", "*.pth")
ADAPTER, CONFIG = "adapter_config.json", "config.json"


def refuse_unsupported_folder(folder: Path, names: Collection[str], has_model: Callable[[], bool]) -> None:
    """Raise UnsupportedModelError for a folder that holds something else than a language model that puna reads.

    `has_model`: whether one of its files is a model by itself; called only if it matters.
    """
    if ADAPTER in names and CONFIG not in names:
        _refuse_adapter(folder)
    is_readable = _holds(names, READABLE)
    for row in FOLDERS:
        if _holds(names, row.marks) and (row.beside_weights or not (is_readable or has_model())):
            raise UnsupportedModelError(f"{folder} holds {row.what}; puna does not run that", hint=row.cure)


def _holds(names: Collection[str], marks: tuple[str, ...]) -> bool:
    return any(fnmatch(name, mark) for name in names for mark in marks)


def _refuse_adapter(folder: Path) -> NoReturn:
    path = folder / ADAPTER
    adapter = read_json(path) if is_there(path) else JsonObject(path, {})
    kind, base = adapter.text("peft_type") or "LORA", adapter.text("base_model_name_or_path")
    what = "a LoRA adapter" if kind == "LORA" else f"an adapter ({shown(kind)[1:-1]})"
    of = f" for {shown(base)[1:-1]}" if base else ""
    raise UnsupportedModelError(
        f"{folder} holds {what}{of}, not a model",
        hint="Merge it into its base model (PEFT: merge_and_unload, then save_pretrained), and open the result.",
    )


# ---- GGUF files that are no language model --------------------------------------------------------------------------

# general.type, or general.architecture -> what it is, what to do.
GGUF_KINDS: Mapping[str, tuple[str, str]] = {
    "adapter": ("a LoRA adapter", "Merge it into its base model (llama.cpp: llama-export-lora), and open the result."),
    "imatrix": ("an importance matrix, made for quantising", "Give the model's own GGUF file."),
    "mmproj": ("the image or sound encoder of a model (mmproj)", "Give the GGUF file of the language model beside it."),
    "clip": ("the image or sound encoder of a model (mmproj)", "Give the GGUF file of the language model beside it."),
    "controlvector": ("a control vector", "Give the model's own GGUF file."),
}


def refuse_unsupported_gguf(file: Path, kind: str | None, architecture: str | None) -> None:
    """Raise UnsupportedModelError for a GGUF file that is a part of a model, or a tool's."""
    for name in (kind, architecture):
        if name is not None and name in GGUF_KINDS:
            what, cure = GGUF_KINDS[name]
            raise UnsupportedModelError(f"{file} is {what}, not a language model", hint=cure)


# ---- quantisations --------------------------------------------------------------------------------------------------

FETCH = "Fetch the model unquantised, or as GGUF."
# quant_method of config.json -> what it is.
QUANTISATIONS: Mapping[str, str] = {
    "exl2": "EXL2 (ExLlamaV2)",
    "exl3": "EXL3 (ExLlamaV3)",
    "mlx": "MLX",
    "bitsandbytes": "bitsandbytes",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "vptq": "VPTQ",
    "quip": "QuIP#",
    "eetq": "EETQ",
    "quanto": "quanto",
    "torchao": "torchao",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "mxfp4": "MXFP4",
    "modelopt": "NVIDIA ModelOpt",
    "spqr": "SpQR",
    "higgs": "HIGGS",
    "bitnet": "BitNet",
    "auto-round": "AutoRound",
}


def refuse_quantisation(file: Path, method: str, readable: Collection[str]) -> NoReturn:
    """Raise UnsupportedModelError for weights quantised in a way that puna does not read."""
    name = QUANTISATIONS.get(method)
    by = shown(method) if name is None else f"{name}{'' if name == method else f' (quant_method {shown(method)})'}"
    raise UnsupportedModelError(f"{file}: the weights are quantised by {by}; puna reads: {', '.join(readable)}", hint=FETCH)


def quantisation_of(config: JsonObject, tensors: Mapping[str, Any]) -> str | None:
    """The name in QUANTISATIONS of a quantisation without a quant_method: MLX has its own key, old EXL2 files have none."""
    own = config.object("quantization")
    if own is not None and own.values.keys() & {"bits", "group_size", "mode"}:
        return "mlx"
    parts = {name.rpartition(".")[2] for name in tensors}
    return "exl2" if {"q_weight", "q_groups"} <= parts else "exl3" if {"trellis", "svh"} <= parts else None
