"""llama.cpp, its Python package, and its converter."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.server import PLANS


def explain_assert(numbers: Captures) -> Explanation:
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
        concept="kv-cache",
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
        concept="kv-cache",
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
        "llama-cpp-without-tls",
        "server",
        ("https is not supported. please rebuild with", "https is not supported", "built without ssl support"),
        says(
            "This llama.cpp was built without TLS, because the headers of OpenSSL were not there: it runs models, and cannot "
            "fetch them (-hf, --model-url).",
            "Fetch the file with another program, and give it by -m: hf download OWNER/REPO FILE.gguf --local-dir .",
            "Or build it again with the headers: sudo apt install libssl-dev",
            "Then: cmake -B build -DLLAMA_OPENSSL=ON && cmake --build build --config Release -j",
            "Or take a prebuilt release: https://github.com/ggml-org/llama.cpp/releases",
            instead="puna pull hf:OWNER/REPO/FILE.gguf fetches it and checks its sha256.",
        ),
        ("+llama.cpp|llama-server|llama-cli", "+https|ssl|tls|openssl", "+not supported|without|rebuild"),
    ),
    Cause(
        "tool-call-unparsed",
        "server",
        ("failed to parse input at pos {position:int}", "failed to parse input at pos"),
        says(
            "llama-server could not read the model's answer as a tool call: the answer has another form than the chat template "
            "says. Known reasons: a defect of this llama.cpp (its reader of answers was rewritten in 2026), a template of "
            "another version, an answer that was cut short, or a model that makes mistakes.",
            "Update llama.cpp; if it began with an update, take the build before.",
            "Use the newest template of the model: its newest GGUF, or llama-server --jinja --chat-template-file FILE",
            "Let it finish its answer (a larger max_tokens), with a lower temperature, or more bits per weight.",
            instead="puna hands out the model's text as it is.",
        ),
        ("+parse", "+tool call|tool_call|tool-call", "+llama-server|llama.cpp"),
    ),
    Cause(
        "tool-arguments-broken",
        "server",
        ("failed to parse tool call arguments as json", "failed to parse arguments: [json.exception.parse_error"),
        says(
            "The conversation that was sent to llama-server holds an earlier tool call whose arguments are no valid JSON: the "
            "model wrote them wrongly or was cut short, and the client sends them back every time. So a new try fails the same "
            "way.",
            "Begin a new conversation, or delete the message with that call.",
            "Let answers end: a larger max_tokens and context (-c); long files in one call are cut first.",
            "Update the client (the agent) and llama.cpp. A model with more bits per weight, at a lower temperature, makes fewer "
            "such mistakes.",
            instead="puna hands such arguments to the chat template as the text that they are.",
        ),
        ("+tool call|tool_call", "+arguments|json", "+parse|invalid", "+llama-server|llama.cpp"),
    ),
    Cause(
        "imatrix-missing",
        "server",
        (
            "missing importance matrix for tensor {tensor:word} in a very low-bit quantization",
            "missing importance matrix for tensor",
        ),
        says(
            (
                "Types of about two bits need an importance matrix (imatrix) for each tensor, and there is none for {tensor}: "
                "no matrix was given, or the texts that it was made with never used this tensor (an expert, or a layer for "
                "drafts, MTP).",
                "Types of about two bits need an importance matrix (imatrix) for each tensor: none was given, or the texts that "
                "it was made with never used this tensor (an expert, or a layer for drafts, MTP).",
            ),
            "Make one from the unquantised GGUF: llama-imatrix -m f16.gguf -f text.txt -o imatrix.gguf",
            "Then: llama-quantize --imatrix imatrix.gguf f16.gguf out.gguf IQ2_M",
            "If one was given, keep this tensor in more bits, such as: --tensor-type 'blk\\.64\\.=q5_k'; or use more and other "
            "texts.",
            "Or take a type that needs none: Q3_K_S and all larger ones.",
            instead="puna convert makes types from four bits on, which need none.",
        ),
        ("+imatrix|importance matrix", "+missing|quantiz"),
        concept="quantisation",
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
            "failed to load llm engine from path",
        ),
        says(
            "The program's own library (libllama, ggml) or one that it needs (CUDA's, Visual C++'s) is missing.",
            "Linux: the folder of the program must be known: export LD_LIBRARY_PATH=FOLDER, or unpack the whole release into one "
            "folder.",
            "Windows: install the Visual C++ Redistributable (x64); for CUDA the archive cudart of the same release.",
            "llama-cpp-python: python -m pip install --force-reinstall --no-cache-dir llama-cpp-python",
            "LM Studio: update its runtime, or choose another one, in the settings under Runtime.",
            instead='puna runs the same file: puna run model.gguf "..."',
        ),
        ("+libllama|libggml|llama.dll", "+cannot open|not found|missing|load"),
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
        concept="kv-cache",
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
        concept="generate",
    ),
)
