"""OpenVINO GenAI: a folder that its exporter wrote, or a GGUF file, which it converts in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from puna.peers.base import LoadedPeer, Seconds


def load(model: Path, threads: int, context: int) -> LoadedPeer:
    """Load a folder or a GGUF file, without a cache of prompts: it would find them again."""
    import numpy as np
    import openvino
    import openvino_genai

    pages = openvino_genai.SchedulerConfig()
    pages.enable_prefix_caching = False
    llm = openvino_genai.LLMPipeline(str(model), "CPU", INFERENCE_NUM_THREADS=threads, scheduler_config=pages)

    def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
        ids = np.array([prompt], np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        done = llm.generate(inputs, max_new_tokens=len(answer) + 1, ignore_eos=True, do_sample=False)
        raw = done.perf_metrics.raw_metrics
        return Seconds(raw.m_times_to_first_token[0] / 1e6, sum(raw.m_durations) / 1e6)

    computes = "the file's blocks, as OpenVINO's types" if model.is_file() else "the folder's types"
    return LoadedPeer(openvino_genai.__version__, computes, measure)
