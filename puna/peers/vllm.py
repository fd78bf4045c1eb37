"""vLLM on a CPU: a folder of safetensors."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from puna.peers.base import LoadedPeer, Seconds

MEMORY_SHARE = 0.5  # of the machine's memory, which vLLM wants free before it loads anything; its default is 0.92


def load(model: Path, threads: int, context: int) -> LoadedPeer:
    """Load a folder, without a cache of prompts: it would find them again. Its engine runs in this process, bound to cores."""
    cores = sorted(os.sched_getaffinity(0))[:threads] if sys.platform == "linux" else range(threads)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import vllm

    llm = vllm.LLM(
        str(model),
        max_model_len=context,
        max_num_seqs=1,
        enable_prefix_caching=False,
        gpu_memory_utilization=MEMORY_SHARE,
        disable_log_stats=True,
    )

    def run(prompt: Sequence[int], length: int) -> float:
        params = vllm.SamplingParams(temperature=0.0, max_tokens=length, min_tokens=length, ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        llm.generate({"prompt_token_ids": list(prompt)}, params, use_tqdm=False)
        return time.perf_counter() - started

    def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
        """What the answer takes is the difference of two runs: vLLM tells no time of a first token here."""
        prompt_s = run(prompt, 1)
        return Seconds(prompt_s, max(run(prompt, len(answer) + 1) - prompt_s, 1e-9) if answer else 0.0)

    kind = str(llm.llm_engine.model_config.dtype).removeprefix("torch.")
    return LoadedPeer(vllm.__version__, kind, measure)
