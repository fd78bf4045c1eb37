"""transformers with PyTorch: a folder, or a GGUF file, whose weights it dequantises."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from puna.peers.base import LoadedPeer, Seconds


def load(model: Path, threads: int, context: int) -> LoadedPeer:
    """Load a folder or a GGUF file. The forward passes are timed alone, without the parts of `generate` that choose a token."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    folder, file = (model.parent, {"gguf_file": model.name}) if model.is_file() else (model, {})
    llm = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **file).eval()

    def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
        started = time.perf_counter()
        cache = llm(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1).past_key_values
        prompt_done = time.perf_counter()
        for token_id in answer:
            cache = llm(input_ids=torch.tensor([[token_id]]), past_key_values=cache, logits_to_keep=1).past_key_values
        return Seconds(prompt_done - started, time.perf_counter() - prompt_done)

    kind = str(llm.dtype).removeprefix("torch.")
    return LoadedPeer(f"{transformers.__version__}, PyTorch {torch.__version__}", kind + " (dequantised)" * bool(file), measure)
