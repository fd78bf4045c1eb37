"""ONNX Runtime GenAI: a folder that its model builder wrote."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

from puna.peers.base import LoadedPeer, Seconds

MAX_GRAPH_BYTES = 64 << 20  # of a file whose weights stand beside it


def load(model: Path, threads: int, context: int) -> LoadedPeer:
    """Load a folder of the model builder."""
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(model))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    llm = onnxruntime_genai.Model(config)

    def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
        params = onnxruntime_genai.GeneratorParams(llm)
        length = len(prompt) + len(answer) + 1
        params.set_search_options(do_sample=False, max_length=length, min_length=length)
        generator = onnxruntime_genai.Generator(llm, params)
        started = time.perf_counter()
        generator.append_tokens(list(prompt))
        generator.generate_next_token()
        prompt_done = time.perf_counter()
        for _ in answer:
            generator.generate_next_token()
        return Seconds(prompt_done - started, time.perf_counter() - prompt_done)

    return LoadedPeer(onnxruntime_genai.__version__, _types(model), measure)


def _types(folder: Path) -> str:
    """The types of the matrices, which stand in the names that the builder gives them: "Q4"."""
    names = b"".join(file.read_bytes() for file in folder.glob("*.onnx") if file.stat().st_size <= MAX_GRAPH_BYTES)
    return ", ".join(sorted({found.decode() for found in re.findall(rb"weight_(Q\d)", names)})) or "the folder's types"
