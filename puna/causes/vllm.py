"""vLLM."""

from __future__ import annotations

import re

from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.server import PLANS

LEAST_SHARE = 5  # hundredths of a card: below it nothing is worth a start


def explain_memory_taken(numbers: Captures) -> Explanation:
    """vLLM's share of a card of which others hold a part, with the share that would start."""
    free, capacity = numbers.get("free", ""), numbers.get("capacity", "")
    if free and capacity and numbers.get("share"):
        told = (
            f"vLLM reserves {numbers['share']} of the card ({numbers.get('wanted', '')}) when it starts, and only {free} of "
            f"{capacity} are free: other processes hold the rest."
        )
    else:
        told = "vLLM reserves a share of the card when it starts, and other processes hold too much of it."
    share = share_that_starts(free, capacity)
    ask = (
        f"Only if what is free holds the model too: ask for what is free, --gpu-memory-utilization {share}"
        if share
        else "Only if what is free holds the model too: ask for less, --gpu-memory-utilization N, with N below free/total"
    )
    return Explanation(
        told,
        (
            "See who: nvidia-smi",
            "End those that are left over from earlier runs, or take another card: CUDA_VISIBLE_DEVICES=1",
            ask,
        ),
        "see-gpu-memory",
        "puna takes what is free, or what --vram allows.",
        numbers,
    )


def share_that_starts(free: str, capacity: str) -> str:
    """The part of a card that is free, a hundredth less; "" where it is not known, or hardly any.

    >>> share_that_starts("31.44", "47.38 GiB"), share_that_starts("", ""), share_that_starts("0.3", "24.0 GiB")
    ('0.65', '', '')
    """
    found = [
        float(number.group().replace(",", ".")) for number in (re.match(r"[\d.,]+", text) for text in (free, capacity)) if number
    ]
    if len(found) < 2 or not found[1]:
        return ""
    hundredths = int(100 * found[0] / found[1]) - 1
    return f"{hundredths / 100:.2f}" if hundredths >= LEAST_SHARE else ""


CAUSES = (
    Cause(
        "vllm-no-cache-blocks",
        "server",
        ("no available memory for the cache blocks",),
        says(
            "After loading the weights vLLM has no memory left for K and V: weights and the scratch memory of its largest "
            "step fill its share of the card (90 % by default).",
            "A larger share: --gpu-memory-utilization 0.95; a smaller largest step: --max-num-batched-tokens 2048 "
            "--max-num-seqs 16",
            "No graphs, which take some 1 to 3 GiB: --enforce-eager",
            "Fewer bits per weight: a model in AWQ, GPTQ or FP8.",
            remedy="see-gpu-memory",
            instead="puna itemises weights, K and V and scratch before loading: puna plan MODEL",
        ),
        ("+vllm|cache blocks", "+no available memory|no memory|memory left", "cache|kv|block"),
        concept="kv-cache",
    ),
    Cause(
        "vllm-cache-too-small",
        "server",
        (
            "max seq len ({wanted_tokens:int}) is larger than the maximum number of tokens that can be stored in kv cache "
            "({cache_tokens:int})",
            "max seq len ({wanted_tokens:int}), ({needed:size} kv cache is needed, which is larger than the available kv "
            "cache memory ({available:size})",
            "max seq len ({wanted_tokens:int}) is larger than the maximum number of tokens",
            "{needed:size} kv cache is needed, which is larger than the available kv cache memory ({available:size})",
            "kv cache is needed, which is larger than the available",
            "the estimated maximum model length is {fits:int}",
        ),
        says(
            (
                "One request of {wanted_tokens} tokens would need {needed} for K and V, but only {available} remain beside the "
                "weights.",
                "The memory left beside the weights holds K and V of {cache_tokens} tokens, but the model's context is "
                "{wanted_tokens}.",
                "The memory left beside the weights does not hold K and V of the model's whole context.",
            ),
            "Ask for a shorter context, such as this: --max-model-len {fits}",
            "Ask for a shorter context, such as this: --max-model-len {cache_tokens}",
            "Or a larger share of the card: --gpu-memory-utilization 0.95; or K and V in 8 bits: --kv-cache-dtype fp8",
            instead="puna lowers the context to what fits and says so; --kv-type int8 halves the memory of K and V.",
        ),
        ("+kv cache", "+max seq len|max_model_len|max-model-len|context", "larger|fit|small|vllm"),
        concept="kv-cache",
    ),
    Cause(
        "context-beyond-model",
        "server",
        (
            "user-specified max_model_len ({wanted:int}) is greater than the derived max_model_len ({name:word}={limit:number}",
            "max_model_len ({wanted:int}) is greater than the derived max_model_len",
            "is greater than the derived max_model_len",
        ),
        says(
            (
                "You asked for a context of {wanted} tokens, but the model supports {limit}.",
                "You asked for a longer context than the model supports.",
            ),
            "Ask for at most that: --max-model-len {limit}",
            "A longer one needs a model made for it, or the RoPE scaling that the model's card describes.",
            instead="puna stays within the model's own limit, and names it.",
        ),
        ("+max_model_len|max-model-len", "+greater|longer|derived|beyond"),
        concept="rope",
    ),
    Cause(
        "vllm-architecture-not-loaded",
        "server",
        (
            "model architectures ['{architecture:name}'] are not supported for now",
            "model architectures ['{architecture:name}'] failed to be inspected",
            "model architectures ... are not supported for now",
            "model architectures ... failed to be inspected",
            "has no vllm implementation and the transformers implementation is not compatible with vllm",
        ),
        says(
            (
                "vLLM could not load its code for {architecture}: this version does not have it, or importing it failed. If "
                "it is a common one (Llama, Qwen), importing failed, and the reason stands above.",
                "vLLM could not load its code for this model: this version does not have it, or importing it failed. The reason "
                "stands above.",
            ),
            "Look above for 'Error in inspecting model architecture' and what follows it; give puna why the whole log.",
            "Update both: python -m pip install -U vllm transformers",
            "A package that does not fit is often flash-attn, torchvision or xformers: python -m pip check",
            instead="puna has its own code for the LLaMA family, and refuses others by name.",
        ),
        ("+vllm|architectures", "+not supported|inspected", "+model"),
    ),
    Cause(
        "vllm-no-device",
        "server",
        (
            "failed to infer device type",
            "no platform detected, vllm is running on unspecifiedplatform",
            "device string must not be empty",
        ),
        says(
            "vLLM found no usable device: PyTorch sees no GPU, or this wheel is for another kind of device (CUDA, ROCm, CPU).",
            'See what PyTorch finds: python -c "import torch; print(torch.version.cuda, torch.cuda.is_available())"; nvidia-smi',
            "In a container: docker run --gpus all ... The CPU needs its own vLLM build.",
            instead='puna runs on the CPU as it is: puna run MODEL "..." --device cpu',
        ),
        ("+vllm", "+device type|unspecifiedplatform|no platform"),
    ),
    Cause(
        "vllm-extension-broken",
        "server",
        (
            "'_opnamespace' '_c' object has no attribute '{operation:name}'",
            "'_opnamespace' '_moe_c' object has no attribute '{operation:name}'",
            "no module named 'vllm._c'",
            "failed to import from vllm._c",
            "'_opnamespace' '{library:name}' object has no attribute '{operation:name}'",
        ),
        says(
            "vLLM's compiled part (vllm._C) was not loaded: it was built for another PyTorch or CUDA, or the program runs in "
            "vLLM's source folder, which hides the installed one.",
            "Start from another folder.",
            "Install vLLM into a new environment and let it bring its PyTorch: python -m venv NEW && NEW/bin/pip install vllm",
            instead="puna uses no compiled extension.",
        ),
        ("+vllm._c|_opnamespace", "+no attribute|no module|import"),
    ),
    Cause(
        "vllm-tools-off",
        "server",
        (
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            "requires --enable-auto-tool-choice and --tool-call-parser",
            "tool choice requires --enable-auto-tool-choice",
        ),
        says(
            "The request asks for tools, but this vLLM server was started without them.",
            "Use both flags: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser hermes (the model's page names "
            "its parser; Llama 3: llama3_json)",
            instead="puna hands tools to the model's own template.",
        ),
        ("+tool", "+enable-auto-tool-choice|tool-call-parser"),
    ),
    Cause(
        "vllm-worker-silent",
        "server",
        (
            "no available shared memory broadcast block found in {seconds:int} seconds",
            "rpc call to {call:name} timed out",
            "workerproc hit an exception",
            "worker proc {worker:name} died unexpectedly",
            "timed out waiting for engines to send initial message",
        ),
        says(
            "vLLM's engine waits for a worker process that does not answer: it compiles, loads slowly, hangs in NCCL, or "
            "died. This line only reports that.",
            "Look for the first error or the last line of the worker (VllmWorker, Worker_TP0) above; give puna why the whole "
            "log.",
            "If none failed: give it time at the first start; several cards: try NCCL_P2P_DISABLE=1, then --enforce-eager",
            instead="puna starts no worker processes on one card.",
        ),
        ("+vllm|worker", "+timed out|broadcast block|died"),
        role="effect",
    ),
    Cause(
        "vllm-quantised-names",
        "server",
        (
            "keyerror: 'model.layers.{layer:int}.{tensor:word}",
            "keyerror: 'layers.{layer:int}.{tensor:word}",
            "keyerror: 'language_model.{tensor:word}",
            "there is no module or parameter named '{tensor:word}' in {model:name}",
            "no module or parameter named",
        ),
        says(
            (
                "The file has a tensor (…{tensor}) that the program's model does not have: quantised weights that are loaded "
                "as if they were plain, an adapter, or a model that is newer than the program.",
                "The file has a tensor that the program's model does not have: quantised weights that are loaded as if they "
                "were plain, an adapter, or a model that is newer than the program.",
            ),
            "Update the program: python -m pip install -U vllm transformers",
            "See quantization_config in config.json; if it is missing there, name the method: --quantization awq, gptq, "
            "bitsandbytes",
            "An adapter is loaded beside its base model: --enable-lora --lora-modules NAME=PATH",
            instead="puna compares every tensor with the configuration before it loads any, and names what does not fit.",
        ),
        ("+keyerror|parameter named", "+layers|qweight|scale", "vllm|weight"),
        concept="quantisation",
    ),
    Cause(
        "vllm-memory-taken",
        "server",
        (
            "free memory on device ({free:number}/{capacity:size}) on startup is less than desired gpu memory utilization "
            "({share:number}, {wanted:size})",
            "free memory on device {device:word} ({free:number}/{capacity:size}) on startup is less than desired gpu memory "
            "utilization ({share:number}, {wanted:size})",
            "on startup is less than desired gpu memory utilization",
            "error in memory profiling. initial free memory {before:size}, current free memory {after:size}",
            "error in memory profiling",
        ),
        explain_memory_taken,
        ("+vllm|gpu memory utilization|gpu_memory_utilization", "+less than|free memory|not enough"),
    ),
    Cause(
        "wsl-no-pinned-memory",
        "server",
        ("uva is not available",),
        says(
            "vLLM's newer model runner (V2) needs pinned main memory, which vLLM leaves off in WSL. Some models still use the "
            "older runner: hence some start, and others do not.",
            "Switch it on: export VLLM_WSL2_ENABLE_PIN_MEMORY=1",
            "Or take the older runner: export VLLM_USE_V2_MODEL_RUNNER=0",
            "Or update vLLM: since September 2026 the new runner works without pinned memory.",
            instead=PLANS,
        ),
        ("+uva|pinned memory|pin_memory", "+wsl|vllm", "+not available|unavailable"),
    ),
    Cause(
        "slow-start",
        "server",
        ("torch.compile takes {seconds:number} s in total",),
        says(
            (
                "vLLM spent {seconds} s on compiling or recording graphs when it started: slow, not broken.",
                "vLLM compiles and records graphs when it starts: slow, not broken.",
            ),
            "Without both: --enforce-eager (slower afterwards). The compiled code is kept in ~/.cache/vllm: keep that folder "
            "between runs.",
            instead="puna compiles its kernels once per machine, and says so.",
        ),
        ("+vllm", "+slow|minutes|long", "+start|startup|compile|load"),
        role="symptom",
    ),
    Cause(
        "engine-failed",
        "server",
        (
            "engine core initialization failed. see root cause above",
            "enginecore failed to start",
            "enginedeaderror",
            "asyncenginedeaderror",
            "background loop has errored already",
            "engine process failed to start. see stack trace for the root cause",
            "enginecore encountered an issue. see stack trace (above) for the root cause",
            "please check the stack trace above for the root cause",
            "failed core proc(s)",
            "enginecore encountered a fatal error",
            "validation error for modelconfig",
            "validation error for vllmconfig",
            "validation error for engineargs",
        ),
        says(
            "This is vLLM's report only: its engine did not start or died. The error itself is above, in the lines of "
            "EngineCore or Worker.",
            "Give puna why the whole log, from the start.",
            instead=PLANS,
        ),
        role="effect",
    ),
)
