"""CTranslate2: a folder that its converter wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from puna.peers.base import LoadedPeer, Seconds


def load(model: Path, threads: int, context: int) -> LoadedPeer:
    """Load a converted folder. It takes tokens as texts, from the vocabulary beside the model."""
    import ctranslate2

    llm = ctranslate2.Generator(str(model), device="cpu", inter_threads=1, intra_threads=threads)
    tokens = json.loads((model / "vocabulary.json").read_text("utf-8"))

    def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
        times = [time.perf_counter()]
        length = len(answer) + 1
        llm.generate_batch(
            [[tokens[token_id] for token_id in prompt]],
            max_length=length,
            min_length=length,
            include_prompt_in_result=False,
            callback=lambda _: times.append(time.perf_counter()),
        )
        return Seconds(times[1] - times[0], times[-1] - times[1])

    return LoadedPeer(ctranslate2.__version__, llm.compute_type, measure)
