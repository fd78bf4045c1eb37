"""What several programs that serve models have in common; each program has a file of its own."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says

PLANS = "puna lowers the context to what the memory holds, says so, and names both numbers when a prompt does not fit."


def explain_context(numbers: Captures) -> Explanation:
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
            f"LM Studio: load the model anew with Context Length {longer} (`lms load MODEL --context-length {longer}`).",
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


CAUSES = (
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
        concept="kv-cache",
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
)
