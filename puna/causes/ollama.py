"""Ollama."""

from __future__ import annotations

import re

from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.lm_studio import how_it_ended
from puna.causes.server import PLANS

LOG = (
    "See Ollama's log: journalctl -u ollama --no-pager -n 200; macOS: ~/.ollama/logs/server.log; Windows: %LOCALAPPDATA%\\Ollama"
)


def explain_runner(numbers: Captures) -> Explanation:
    """The report that the process with the model ended, with what Windows's status says."""
    status = numbers.get("status", "").lower()
    how = how_it_ended(str(int(status, 16))) if re.fullmatch(r"[0-9a-f]{8}", status) else ""
    began = "If every model fails since an update: install Ollama and the card's driver again, or take the Ollama before."
    return Explanation(
        f"The program that runs the model did not start or died{f': {how}' if how else ''}. Why, this line does not say: the "
        "error itself is above it, or in Ollama's log.",
        (LOG, "Give puna why that log.", *((began,) if status else ())),
        instead=PLANS,
        numbers=numbers,
    )


CAUSES = (
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
        concept="kv-cache",
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
        ("+ollama", "+not running|refused|unreachable|not connect|cannot connect|connect to|connecting"),
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
        concept="kv-cache",
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
            "The model is newer than this Ollama: than its server, which may be older than the command that you type.",
            "Linux: curl -fsSL https://ollama.com/install.sh | sh; Windows and macOS: the icon's menu, Restart to update; "
            "Docker: docker pull ollama/ollama",
            "Then restart the service: sudo systemctl restart ollama",
            "See both versions; two different ones mean that an old server still runs: ollama --version",
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
        "unknown-authority",
        "server",
        (
            "x509: certificate signed by unknown authority",
            "x509: certificate has expired or is not yet valid",
            "x509: certificate is valid for",
            "tls: failed to verify certificate: x509: {reason:word}",
            "tls: failed to verify certificate",
        ),
        says(
            "The program (Ollama, Docker and others in Go) does not trust the server's certificate: a company's or school's "
            "proxy shows its own, the machine's list of authorities is missing (small containers), or the clock is wrong.",
            "Give the system the proxy's certificate (Debian, Ubuntu): sudo cp ca.crt /usr/local/share/ca-certificates/ && sudo "
            "update-ca-certificates",
            "Fedora: sudo cp ca.crt /etc/pki/ca-trust/source/anchors/ && sudo update-ca-trust",
            "Then restart the service, which read the list when it started: sudo systemctl restart ollama",
            "A container: mount the file, and name it with -e SSL_CERT_FILE=/path/in/the/container/ca.crt",
            "If the text says which names the certificate is valid for: look for the server's name in /etc/hosts; see the date: "
            "date",
            instead='puna takes a file that was fetched elsewhere: puna run model.gguf "..."',
        ),
        ("+x509|unknown authority", "+certificate|tls", "ollama|docker|pull|proxy"),
    ),
    Cause(
        "ollama-no-mlx",
        "server",
        ("mlx runner not available", "build with mlx tag", "mlx runner failed: {reason:word}"),
        says(
            "This Ollama was built without the engine (MLX) that the model needs: its image models (x/...) and models in MLX's "
            "form run on Macs with Apple silicon, and elsewhere only where the release notes say so.",
            "Update Ollama, and see the notes of the release: https://github.com/ollama/ollama/releases",
            "Otherwise take another model: a GGUF for texts; for images a program such as ComfyUI.",
            instead="puna runs GGUF and safetensors of the LLaMA family, on any processor.",
        ),
        ("+mlx", "+ollama", "+not available|runner|failed"),
    ),
    Cause(
        "ollama-no-token",
        "server",
        ("panic: failed to sample token", "failed to sample token"),
        says(
            "Ollama's engine got numbers from the GPU with which no token can be chosen (NaN): a defect of this version with "
            "this model, card or driver, memory of the card that is unstable, or a damaged model file.",
            "Try without what is most often at fault: OLLAMA_FLASH_ATTENTION=0 ollama serve, and OLLAMA_KV_CACHE_TYPE unset",
            "Update Ollama and the card's driver; if it began with an update, take the Ollama before.",
            "Fetch the model again, for its file may be damaged: ollama rm NAME && ollama pull NAME",
            "See whether the CPU alone answers well: CUDA_VISIBLE_DEVICES=-1 ollama serve. If it writes nonsense too, it is the "
            "file.",
            instead="puna ends only the request with such numbers, says so, and puna inspect MODEL --weights checks the file.",
        ),
        ("+ollama", "+sample token|failed to sample"),
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
        unless=("x509", "failed to verify certificate"),
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
        "runner-died",
        "server",
        (
            "llama-server process has terminated: exit status 0x{status:name}",
            "llama runner process has terminated: exit status 0x{status:name}",
            "llama-server process has terminated",
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
        explain_runner,
        ("+ollama|llama runner", "+terminated|died|crash|exit status"),
        role="effect",
    ),
)
