"""llama.cpp, by way of llama-cpp-python: GGUF files as they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from puna.peers.base import LoadedPeer, Seconds


def load(model: Path, threads: int, context: int) -> LoadedPeer:
    """Load a GGUF file. Its evaluation is timed alone, without llama.cpp's sampling."""
    import llama_cpp

    llm = llama_cpp.Llama(str(model), n_ctx=context, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
        llm.reset()
        started = time.perf_counter()
        llm.eval(prompt)
        prompt_done = time.perf_counter()
        for token_id in answer:
            llm.eval([token_id])
        return Seconds(prompt_done - started, time.perf_counter() - prompt_done)

    return LoadedPeer(llama_cpp.__version__, "the file's types", measure)
