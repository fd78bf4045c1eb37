"""llama.cpp, Ollama, vLLM, LM Studio: programs that serve models."""

from __future__ import annotations

import re

from puna.causes.base import Cause, Explanation, Numbers, says

PLANS = "puna lowers the context to what the memory holds, says so, and names both numbers when a prompt does not fit."
LEAST_SHARE = 5  # hundredths of a card: below it nothing is worth a start

# How a process ended, as the system says it -> what it did.
EXITS = {
    3221225477: "it touched memory that is not its own (0xC0000005)",
    3221225501: "it used an instruction that this processor does not have (0xC000001D)",
    3221225781: "Windows found a DLL missing (0xC0000135)",
    3221226505: "it stopped itself (0xC0000409)",
    6: "it stopped itself (SIGABRT)",
    134: "it stopped itself (SIGABRT)",
    9: "it was killed (SIGKILL), as for want of memory",
    137: "it was killed (SIGKILL), as for want of memory",
    11: "it touched memory that is not its own (SIGSEGV)",
    139: "it touched memory that is not its own (SIGSEGV)",
}
BITS_64, BITS_32 = 1 << 64, 1 << 32
ROUNDED = 1024  # JavaScript rounds a number of 20 digits by so much


def how_it_ended(code: str) -> str:
    """What an exit code says, also Windows's where it was taken for a negative number of 32 bits and printed as one of 64.

    >>> how_it_ended("18446744072635812000"), how_it_ended("-1073740791"), how_it_ended("1")
    ('it stopped itself (0xC0000409)', 'it stopped itself (0xC0000409)', '')
    >>> how_it_ended("18446744072635810000").split(", ")[0]
    'it touched memory that is not its own (0xC0000005)'
    """
    number = int(code or 0)
    if number < BITS_32:
        return EXITS.get(number + BITS_32 if number < 0 else number, "")
    printed = {status: int(float(BITS_64 - BITS_32 + status)) for status in EXITS if status >= BITS_32 >> 1}
    return ", or ".join(EXITS[status] for status, shown in printed.items() if abs(shown - number) <= ROUNDED)


def explain_worker(numbers: Numbers) -> Explanation:
    """LM Studio's report of a crash, with what the code says."""
    how = how_it_ended(numbers.get("code", ""))
    told = f": {how}" if how else ""
    return Explanation(
        f"This is LM Studio's report: the process that loads the model ended{told}. Likeliest is a defect of the chosen "
        "runtime (the engine: llama.cpp for Vulkan, CUDA, CPU ...), above all after an update; otherwise memory that is full, "
        "or a model that is newer than the runtime.",
        (
            "Choose another runtime in the settings, under Runtime: the version before, or another kind (CPU, Vulkan, an earlier "
            "CUDA). If the model loads, it was the runtime.",
            "Then update LM Studio, and its runtimes on the same page.",
            "Load it with no layers on the GPU and a context of 2048: if it loads, the GPU's memory was full.",
            "See the log while loading: lms log stream, and the app's Developer page; give puna why what is before the exit.",
        ),
        instead='puna runs the same file and says what fails: puna run model.gguf "..."',
        numbers=numbers,
    )


def explain_memory_taken(numbers: Numbers) -> Explanation:
    """vLLM's share of a card of which others hold a part, with the share that would start."""
    free, capacity = numbers.get("free", ""), numbers.get("capacity", "")
    if free and capacity and numbers.get("share"):
        told = (
            f"vLLM reserves {numbers['share']} of the card ({numbers.get('wanted', '')}) when it starts, and only {free} of "
            f"{capacity} "
            "are free: other processes hold the rest."
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


def explain_context(numbers: Numbers) -> Explanation:
    """A prompt beyond the server's context, with a context that holds it."""
    tokens, limit = (int(numbers.get(name, "0")) for name in ("tokens", "limit"))
    longer = longer_context(max(tokens, limit))
    if tokens and limit:
        told = f"The prompt has {tokens} tokens, but the server was started with a context of {limit}."
    else:
        told = "The prompt is longer than the server's context."
    return Explanation(
        told,
        (
            f"Start it with a longer one (K and V take memory): llama-server -c {longer}; llama-cpp-python: n_ctx={longer}",
            "llama-server shares -c among its slots: --parallel 1 gives one request all of it.",
            "Or ask for less: an agent that sends its whole history every time can be told to shorten it.",
        ),
        instead=PLANS,
        numbers=numbers,
    )


def longer_context(tokens: int) -> int:
    """A usual context that holds so many tokens, and an answer of a tenth of them.

    >>> longer_context(0), longer_context(9000), longer_context(25837)
    (16384, 16384, 32768)
    """
    size = 16384
    while size * 10 < tokens * 11:
        size *= 2
    return size


def explain_assert(numbers: Numbers) -> Explanation:
    """A failed check in llama.cpp; one of the checks has a known reason."""
    condition = numbers.get("condition", "")
    mixed = "ggml_op_unary" in condition.lower() or "get_type" in condition.lower()
    if mixed:
        told = (
            "llama.cpp stopped at one of its checks. This check fails if two versions of its libraries (ggml) are mixed: "
            "another llama.cpp's libraries come first in PATH or LD_LIBRARY_PATH."
        )
        cure: tuple[str, ...] = (
            "See where else they are: where.exe ggml-base.dll, or ls /usr/lib/libggml* /usr/local/lib/libggml*",
            "Remove the other llama.cpp, or take it out of PATH; then install Ollama again.",
        )
    else:
        told = (
            "llama.cpp stopped at one of its checks. Likely reasons: a defect of this version, a file that does not fit it, "
            "or memory that was short."
        )
        cure = (
            "Update the program; if it began with an update, use the previous version.",
            "Fetch the model's file again, or another quantisation of it.",
            "Try with less: -ngl 0, a context of 2048, without -fa and a draft model; this shows which part fails.",
        )
    return Explanation(
        told,
        cure,
        instead='puna runs the same file with its own kernels: puna run model.gguf "..."',
        numbers=numbers,
        kind="mixed" * mixed,
    )


CAUSES = (
    Cause(
        "llama-cpp-without-gpu",
        "server",
        (
            "not compiled with gpu offload support",
            "--n-gpu-layers option will be ignored",
            "offloaded 0/{layers:int} layers to gpu",
            "no usable gpu found",
        ),
        says(
            "llama.cpp was compiled without GPU support: n_gpu_layers has no effect, and everything runs on the CPU.",
            'llama-cpp-python: CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir llama-cpp-python',
            'In cmd.exe without quotes: set CMAKE_ARGS=-DGGML_CUDA=on; in PowerShell: $env:CMAKE_ARGS="-DGGML_CUDA=on"',
            "Or use a ready-made wheel: https://abetlen.github.io/llama-cpp-python/whl/cu124",
            instead=(
                'puna uses a GPU if there is one, else says why not: puna run model.gguf "..." --require-gpu makes that an error.'
            ),
        ),
        (
            "+n_gpu_layers|n-gpu-layers|gpu layers|llama.cpp|llama-cpp",
            "+no effect|ignore|not used|cpu only|without gpu|only cpu|runs on the cpu",
            "gpu|cpu|slow|compiled",
        ),
        role="symptom",
    ),
    Cause(
        "ollama-needs-memory",
        "server",
        (
            "model requires more system memory ({needed:size}) than is available ({available:size})",
            "model requires more system memory",
        ),
        says(
            (
                "Ollama needs {needed} of main memory for this model and its context, but only {available} are free.",
                "Ollama needs more main memory for this model and its context than is free.",
            ),
            "Use a tag with fewer bits or parameters, or unload other models: ollama ps; ollama stop NAME",
            "If little memory is missing, a smaller context is enough: OLLAMA_CONTEXT_LENGTH=4096 ollama serve",
            remedy="close-programs",
            instead="Before a download, puna says what a model needs: puna plan MODEL",
        ),
        ("+ollama", "+memory", "+requires more|needs more|not enough|more system memory|than is available|than i have"),
    ),
    Cause(
        "ollama-model-absent",
        "server",
        (
            "model '{name:word}' not found, try pulling it first",
            'model "{name:word}" not found, try pulling it first',
            "pull model manifest: file does not exist",
        ),
        says(
            ("Ollama has no model {name}: a name without a tag means :latest.", "Ollama has no such model."),
            "See its models: ollama list",
            "Fetch it: ollama pull NAME; ollama.com/library lists all names.",
            instead="puna runs the file itself: puna run model.gguf; or puna pull hf:OWNER/REPO/FILE.gguf.",
        ),
    ),
    Cause(
        "ollama-not-running",
        "server",
        (
            "could not connect to ollama app, is it running",
            "could not connect to ollama",
            "failed to connect to ollama",
            "dial tcp 127.0.0.1:11434: connect: connection refused",
            "host='localhost', port=11434",
        ),
        says(
            "Ollama's server does not answer on port 11434: it is not running, or uses another port.",
            "Start it: ollama serve, or sudo systemctl start ollama",
            "From a container, localhost is the container: OLLAMA_HOST=http://host.docker.internal:11434",
            instead='puna run needs no server: puna run model.gguf "..."',
        ),
        ("+ollama", "+connect|not running|refused|unreachable"),
    ),
    Cause(
        "ollama-port",
        "server",
        (
            "listen tcp 127.0.0.1:11434: bind: address already in use",
            "listen tcp {address:path}: bind: address already in use",
            "listen tcp 127.0.0.1:11434: bind: only one usage of each socket",
            "bind: an attempt was made to access a socket in a way forbidden by its access permissions",
        ),
        says(
            "Ollama runs already: its service uses port 11434.",
            "Use the running server: ollama list; or stop it: sudo systemctl stop ollama",
            "Or another port: OLLAMA_HOST=127.0.0.1:11435 ollama serve",
            instead='puna run needs no server: puna run model.gguf "..."',
        ),
        ("+11434|ollama", "+in use|already|bind"),
    ),
    Cause(
        "prompt-truncated",
        "server",
        (
            'truncating input prompt" limit={limit:int} prompt={tokens:int} keep={kept:int} new={new:int}',
            "truncating input prompt",
            "truncating input message which exceed context length",
        ),
        says(
            (
                "The prompt has {tokens} tokens, the context holds {limit}: Ollama dropped the beginning and answered the "
                "rest without an error. The system prompt is at the beginning.",
                "The prompt was longer than the context: Ollama dropped the beginning and answered the rest as if nothing "
                "were missing.",
            ),
            'Ask for a longer context: "options": {{"num_ctx": 16384}} in the request, or OLLAMA_CONTEXT_LENGTH=16384 ollama '
            "serve",
            "See that it fits: ollama ps shows the context and how much of the model is on the GPU.",
            instead="puna never cuts a prompt: one that does not fit is an error that names both numbers.",
        ),
        ("+truncat|cut off|throws away|dropped", "+prompt|input|message", "+ollama|num_ctx|context size|tokens"),
        role="symptom",
    ),
    Cause(
        "context-exceeded",
        "server",
        (
            "the request exceeds the available context size",
            "exceed_context_size_error",
            '"n_prompt_tokens":{tokens:int},"n_ctx":{limit:int}',
            "'n_prompt_tokens': {tokens:int}, 'n_ctx': {limit:int}",
            "request ({tokens:int} tokens) exceeds the available context size ({limit:int} tokens)",
            "requested tokens ({tokens:int}) exceed context window of {limit:int}",
            "context size has been exceeded",
            "the number of tokens to keep from the initial prompt is greater than the context length",
            "trying to keep the first {tokens:int} tokens when context the overflows. however, the model is loaded with "
            "context length of only {limit:int} tokens",
            "does not currently support mid-generation context overflow",
            "cannot truncate prompt with n_keep ({tokens:int}) >= n_ctx ({limit:int})",
            "reached context length of {limit:int} tokens",
            "input length ({tokens:int} tokens) exceeds the maximum allowed length ({limit:int} tokens)",
            "the input ({tokens:int} tokens) is longer than the model's context length ({limit:int} tokens)",
        ),
        explain_context,
        (
            "+context",
            "+exceed|too long|too small|larger than|bigger than|longer than",
            "+llama-server|llama.cpp|llama_cpp|n_ctx|slot",
            "prompt|token|size",
        ),
    ),
    Cause(
        "cache-slots-full",
        "server",
        (
            "failed to find free space in the kv cache",
            "failed to find a memory slot for batch of size",
            "could not find a kv slot for the batch",
            "llama_decode returned {code:int}",
        ),
        says(
            "llama.cpp found no room among its cached tokens: several requests share one context, or the context is used up.",
            "A longer context: -c; fewer requests at once: --parallel 1",
            instead=PLANS,
        ),
        ("+kv cache|kv slot|memory slot", "+free space|find|full", "llama"),
        role="symptom",
    ),
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
        "ollama-no-tools",
        "server",
        (
            "library/{model:path} does not support tools",
            "does not support tools",
            "library/{model:path} does not support thinking",
            "does not support thinking",
            "does not support generate",
            "does not support insert",
            "does not support chat",
        ),
        says(
            (
                "Ollama says that {model} cannot do what was asked (tools, thinking, ...): it goes by the template that the "
                "model was made with.",
                "Ollama says that the model cannot do what was asked (tools, thinking, ...): it goes by the template that the "
                "model was made with.",
            ),
            "See what it can: ollama show NAME, under Capabilities. Take a model that lists tools: ollama.com/search?c=tools",
            "A model that you created from a GGUF: give it a TEMPLATE with tools in its Modelfile, or pull the library's one.",
            "Or switch tools off in the requesting program.",
            instead="puna hands tools to the model's own template.",
        ),
        ("+ollama", "+not support tools|support tools|thinking"),
    ),
    Cause(
        "ollama-too-old",
        "server",
        (
            "requires a newer version of ollama",
            "pull model manifest: 412",
            "the model you are attempting to pull requires a newer version",
            "ollama version ... is too old",
        ),
        says(
            "The model is newer than this Ollama.",
            "Linux: curl -fsSL https://ollama.com/install.sh | sh; Windows and macOS: the icon's menu, Restart to update; "
            "Docker: docker pull ollama/ollama",
            "Then restart the service: sudo systemctl restart ollama; ollama --version",
            instead='puna takes the file itself: puna run model.gguf "..."',
        ),
        ("+ollama", "+newer version|too old|412|update"),
    ),
    Cause(
        "ollama-load-slow",
        "server",
        (
            "timed out waiting for llama runner to start - progress {progress:number}",
            "timed out waiting for llama runner to start",
            "timed out waiting for llama-server to start",
            "unexpected server status: llm server loading model",
        ),
        says(
            (
                "Loading took longer than Ollama waits without progress (5 minutes); it stood at {progress} of 1. Slow disks and "
                "network folders do that, and so do models that do not fit in memory.",
                "Loading took longer than Ollama waits without progress (5 minutes), or the client did not wait. Slow disks and "
                "network folders do that, and so do models that do not fit in memory.",
            ),
            "See whether the disk or swap is busy while it loads: iostat -x 2; free -h",
            "Wait longer: OLLAMA_LOAD_TIMEOUT=30m, set for the service (sudo systemctl edit ollama), then restart it.",
            "Take a smaller model or context, or put the models on a local SSD (OLLAMA_MODELS).",
            remedy="close-programs",
            instead="puna maps the file, says how far it is, and waits as long as it takes.",
        ),
        ("+ollama|llama runner", "+timed out|timeout", "load|start"),
    ),
    Cause(
        "ollama-load-failed",
        "server",
        (
            "unable to load model: {blob:path}sha256",
            "unable to load model: ... blobs",
            "model failed to load, this may be due to resource limitations or an internal error",
            "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error",
            "an error was encountered while running the model",
            "do load request: post",
            "post predict: post",
            "llama-server crashed at startup",
            "server process terminated unexpectedly with exit code",
            'unsupported architecture "{architecture:word}"',
        ),
        says(
            "Ollama could not load or run the model, and this line does not say why. Likeliest: the model is newer than this "
            "Ollama, its GGUF was made for llama.cpp (a separate picture part, a type that Ollama does not know), or memory "
            "was short.",
            "Update Ollama first, and restart its service; then pull the model again: ollama pull NAME",
            "Read the reason in its log: journalctl -u ollama --no-pager -n 200; macOS: ~/.ollama/logs/server.log; Windows: "
            "%LOCALAPPDATA%\\Ollama; give puna why that log.",
            "Try with less: OLLAMA_CONTEXT_LENGTH=4096 ollama serve",
            instead='puna runs the same GGUF and says what fails: puna run model.gguf "..."',
        ),
        ("+ollama", "+unable to load|failed to load|500|unexpectedly stopped"),
        role="effect",
    ),
    Cause(
        "ollama-network",
        "server",
        (
            "lookup registry.ollama.ai",
            "https://registry.ollama.ai/v2/ ... dial tcp",
            'pull model manifest: get "https://registry.ollama.ai',
            "registry.ollama.ai ... i/o timeout",
        ),
        says(
            "Ollama did not reach its registry: no network, no answer from the name server, or a proxy that Ollama's service "
            "does not know.",
            "Check that the server answers: curl -I https://registry.ollama.ai/v2/",
            "A proxy is set for the service, not for your terminal: sudo systemctl edit ollama, then [Service] "
            "Environment=HTTPS_PROXY=http://HOST:PORT, then sudo systemctl restart ollama",
            instead='puna takes a file that was fetched elsewhere: puna run model.gguf "..."',
        ),
        ("+ollama", "+registry|pull", "+timeout|lookup|dial|network"),
    ),
    Cause(
        "ollama-digest",
        "server",
        (
            "digest mismatch, file must be downloaded again",
            "digest mismatch",
            "max retries exceeded: eof",
            "max retries exceeded: unexpected eof",
        ),
        says(
            "Ollama's download broke off or is damaged.",
            "Start it again: ollama pull NAME; finished parts are kept.",
            "If it fails each time: check the disk, df -h ~/.ollama, and try without a proxy or VPN.",
            instead="puna pull goes on where a download broke off, and checks its sha256.",
        ),
        ("+ollama", "+digest|pull|download", "+mismatch|eof|fail|retries"),
    ),
    Cause(
        "ggml-backend-lacks",
        "server",
        (
            "in a buffer ({buffer:name}) that cannot run the operation ({operation:name})",
            "that cannot run the operation ({operation:name})",
            "that cannot run the operation",
        ),
        says(
            (
                "llama.cpp put a tensor on {buffer}, and this backend has no kernel for what is done there ({operation}): "
                "usually the chosen type of K and V, or a flag.",
                "llama.cpp put a tensor on a device whose backend has no kernel for what is done there: usually the chosen type "
                "of K and V, or a flag.",
            ),
            "Leave the types of K and V as they are: without --cache-type-k and --cache-type-v.",
            "Use a newer llama.cpp: almost every release adds operations to backends.",
            "Or keep it off that device: -nkvo (K and V in main memory), or -ngl 0",
            instead=PLANS,
        ),
        ("+llama.cpp|ggml", "+cannot run the operation"),
    ),
    Cause(
        "ggml-assert",
        "server",
        (
            "ggml_assert({condition:path}) failed",
            "ggml_assert({condition:path}",
            "ggml_assert: {file:path}",
            "ggml_assert(",
            "ggml_abort(",
        ),
        explain_assert,
        ("+ggml_assert", "+fail|crash|terminated|llama"),
    ),
    Cause(
        "llama-cpp-build-options",
        "server",
        (
            "could not find curl. hint: to disable this feature, set -dllama_curl=off",
            "could not find curl",
            "could not find curl (missing: curl_library curl_include_dir)",
            "the makefile build is deprecated. use the cmake build instead",
            "llama_cublas is deprecated",
            "llama_cuda is deprecated",
            "llama_metal is deprecated",
            "https is not supported. please rebuild with",
            "built without ssl support",
            "could not find openssl",
            "the source directory ... does not appear to contain cmakelists.txt",
            "no rule to make target 'llama_",
            "no rule to make target 'ggml_",
        ),
        says(
            "llama.cpp's build changed: it needs cmake instead of make (2025), the headers of libcurl or OpenSSL for "
            "downloads, and its options are now named GGML_..., not LLAMA_...",
            "cmake -B build -DGGML_CUDA=ON && cmake --build build --config Release -j (without a GPU: leave -DGGML_CUDA=ON out)",
            "curl: sudo apt install libcurl4-openssl-dev libssl-dev; or do without downloads: -DLLAMA_CURL=OFF, "
            "-DLLAMA_OPENSSL=OFF",
            "Or use a prebuilt release: https://github.com/ggml-org/llama.cpp/releases",
            instead="puna has nothing to compile.",
        ),
        ("+llama.cpp|llama_curl|makefile", "+curl|deprecated|cmake|build"),
    ),
    Cause(
        "llama-cpp-arguments",
        "server",
        (
            "error: unknown value for --flash-attn: '{value:word}'",
            "error: invalid argument: {argument:word}",
            'error while handling argument "{argument:word}"',
            "error: unknown argument: {argument:word}",
        ),
        says(
            (
                "This version of llama.cpp does not accept {argument} in this form: options were renamed or now take a value.",
                "This version of llama.cpp does not accept an option in this form: options were renamed or now take a value.",
            ),
            "See its options: llama-server --help",
            "Since September 2025 -fa takes a value: -fa on, off or auto.",
            "A program that starts llama.cpp for you (a wrapper, a web interface) must be updated together with it.",
            instead="puna's own options: puna run --help",
        ),
        ("+llama-server|llama-cli|llama.cpp", "+argument|option", "+unknown|invalid"),
    ),
    Cause(
        "llama-cpp-library-missing",
        "server",
        (
            "shared library with base name 'llama' not found",
            "failed to load shared library '{library:path}llama",
            "libllama.so: cannot open shared object file",
            "libggml{name:word}: cannot open shared object file",
            "libmtmd.so{version:word}: cannot open shared object file",
            "could not find module '{library:path}llama.dll'",
            "no lm runtime found for model format '{format:word}'",
            "failed to load llm engine from path",
        ),
        says(
            "The program's own library (libllama, ggml) or one that it needs (CUDA's, Visual C++'s) is missing.",
            "Linux: the folder of the program must be known: export LD_LIBRARY_PATH=FOLDER, or unpack the whole release into one "
            "folder.",
            "Windows: install the Visual C++ Redistributable (x64); for CUDA the archive cudart of the same release.",
            "llama-cpp-python: python -m pip install --force-reinstall --no-cache-dir llama-cpp-python. LM Studio: Runtime, "
            "update or choose another.",
            instead='puna runs the same file: puna run model.gguf "..."',
        ),
        ("+libllama|libggml|llama.dll|lm runtime", "+cannot open|not found|missing|load"),
    ),
    Cause(
        "server-port-taken",
        "server",
        (
            "error while attempting to bind on address ('{address:word}', {port:int}): address already in use",
            "error while attempting to bind on address",
            "cannot find empty port in range: {port:int}",
            "couldn't bind http server socket, hostname: {address:word}, port: {port:int}",
            "couldn't bind http server socket",
            "zmq.error.zmqerror: address already in use",
        ),
        says(
            (
                "Port {port} is in use: an earlier server still runs, or another program uses it.",
                "The port is in use: an earlier server still runs, or another program uses it.",
            ),
            "See which program uses it: ss -ltnp | grep {port}; Windows: netstat -ano | findstr {port}",
            "End that program, or use another port: --port 8001 (Gradio: GRADIO_SERVER_PORT=7861)",
            instead='puna run needs no server: puna run model.gguf "..."',
        ),
        ("+port|address", "+already in use|taken", "+vllm|llama-server|gradio|uvicorn|8000|8080|7860"),
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
    ),
    Cause(
        "convert-unknown-model",
        "server",
        (
            "error:hf-to-gguf:model {architecture:name} is not supported",
            "architecture '{architecture:name}' not supported",
            "architecture {architecture:name} not supported",
            "can not map tensor '{tensor:word}'",
            "can not map tensor",
            "unsupported gguf architecture {architecture:name}",
            "bpe pre-tokenizer was not recognized",
            "gguf model with architecture {architecture:name} is not supported yet",
        ),
        says(
            (
                "This converter does not know the architecture {architecture}: it is older than the model, or does not "
                "convert it.",
                "The converter does not know the tensor {tensor}: the weights are quantised (bitsandbytes: absmax, "
                "quant_map), or the converter is older than the model.",
                "The converter does not know this model: it is older than the model, or does not convert it.",
            ),
            "Update llama.cpp, and use its own script: git pull; python convert_hf_to_gguf.py FOLDER",
            "Convert the unquantised weights, in bf16 or float16, not a 4-bit folder; a LoRA must be merged first.",
            "Most models exist as GGUF already: search the Hub for their name with GGUF.",
            instead="puna converts the LLaMA family: puna convert FOLDER m.gguf --to gguf --quantize q4_k",
        ),
        ("+convert|gguf", "+not supported|not map|architecture"),
    ),
    Cause(
        "llama-cpp-needs-flash",
        "server",
        ("v cache quantization requires flash_attn", "quantized v cache", "flash_attn is required"),
        says(
            "llama.cpp stores V in fewer bits only with flash attention.",
            "Give all three: -fa on --cache-type-k q8_0 --cache-type-v q8_0; CUDA builds know equal types of K and V only.",
            "If the model has no flash attention (the log says: forcing off), keep V as it is: omit --cache-type-v.",
            instead="puna: --kv-type int8 needs nothing else.",
        ),
        ("+v cache|cache-type-v", "+flash"),
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
        "lmstudio-guardrail",
        "server",
        (
            "model loading was stopped due to insufficient system resources",
            "model loading aborted due to insufficient system resources",
            "this model requires approximately {needed:size} of memory",
            "not enough resources to load the model with the current settings",
        ),
        says(
            (
                "LM Studio expects the model to need {needed} and does not load it. Its estimate counts the whole context; "
                "it may also be wrong.",
                "LM Studio expects the model to need more memory than is free and does not load it. Its estimate counts the "
                "whole context; it may also be wrong.",
            ),
            "Lower the context length in the load settings, then look at the estimate again.",
            "If the estimate is wrong: Settings, model loading guardrails.",
            remedy="close-programs",
            instead="puna plan MODEL itemises every byte; after loading, puna compares the plan with the memory used.",
        ),
        ("+lm studio|lmstudio", "+resources|guardrail|memory"),
    ),
    Cause(
        "lmstudio-runtime",
        "server",
        (
            "error when loading model: modulenotfounderror",
            "no module named 'mlx_engine",
            "error when loading model: unicodedecodeerror",
            "error when loading model: exception: expected value at line {line:int} column {column:int}",
        ),
        says(
            "A file that LM Studio reads is not what it expects. If Python's module is missing, its runtime is incomplete; if a "
            "text cannot be read, a file of the model is damaged or not downloaded.",
            "Update or reinstall the runtime: Settings, Runtime (LM Studio brings its own Python; pip does not mend it).",
            "Then delete the model in My Models, and download it again.",
            instead="puna inspect MODEL says which file of a model is damaged.",
        ),
    ),
    Cause(
        "model-unloaded",
        "server",
        ("error in rpc handler: error: model is unloaded",),
        says(
            "LM Studio unloaded the model: its time without requests was over, another model took its place, or it crashed.",
            "See the earlier lines of the log: Developer, logs.",
            "Keep it loaded longer: Developer, settings, idle time (TTL); or load it again before the request.",
            instead="puna holds one model for as long as the process lives.",
        ),
        role="effect",
    ),
    Cause(
        "lmstudio-worker-died",
        "server",
        (
            "(exit code: {code:code}). unknown error. try a different model and/or config",
            "(exit code: {code:code}). please check settings and try loading the model again",
            "unknown error. try a different model and/or config",
            "the model has crashed without additional information. (exit code: {code:code})",
            "the model has crashed without additional information",
        ),
        explain_worker,
        ("+lm studio|lmstudio", "+exit code|exited", "crash|load|error"),
        role="effect",
    ),
    Cause(
        "logprobs-need-all-logits",
        "server",
        ("logprobs is not supported for models created with logits_all=false",),
        says(
            "llama-cpp-python keeps the logits of the last position only, unless it is told at loading to keep all.",
            "Load with it: Llama(..., logits_all=True); it needs more memory for long contexts.",
            instead=(
                "puna gives log-probabilities without a flag at loading: SamplingParams(logprobs=3); puna run ... --logprobs 3"
            ),
        ),
        ("+logprobs|log probabilities", "+logits_all"),
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
    Cause(
        "runner-died",
        "server",
        (
            "llama runner process has terminated",
            "llama runner process no longer running",
            "error loading llama server",
            "failed to load model from file",
            "llama_load_model_from_file: failed to load model",
            "llama_init_from_file: failed to load model",
            "failed to create llama_context",
            "main: error: unable to load model",
            "common_init_from_params: failed to load model",
            "llama_model_load_from_file_impl: failed to load model",
            "llama_model_load: error loading model",
            "failed to initialize the context",
        ),
        says(
            "This is a report only: the program that runs the model did not start or died. The error itself is above it, or "
            "in Ollama's log.",
            "See Ollama's log: journalctl -u ollama --no-pager -n 200; macOS: ~/.ollama/logs/server.log; Windows: "
            "%LOCALAPPDATA%\\Ollama",
            "Give puna why that log.",
            instead=PLANS,
        ),
        ("+ollama|llama runner", "+terminated|died|crash|exit status"),
        role="effect",
    ),
)
