"""LM Studio."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says

# How a process ended, as the system says it -> what it did.
EXITS = {
    3221225477: "it touched memory that is not its own (0xC0000005)",
    3221225501: "it used an instruction that this processor does not have (0xC000001D)",
    3221225781: "Windows found a DLL missing (0xC0000135)",
    3221226505: "it stopped itself (0xC0000409)",
    3765269347: "an error in its C++ was caught by nothing (0xE06D7363)",
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


def explain_worker(numbers: Captures) -> Explanation:
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


def explain_no_runtime(numbers: Captures) -> Explanation:
    """LM Studio has no engine for the format: it is not installed, or there is none."""
    kind = numbers.get("format", "")
    has_engine = kind.lower() in ("", "gguf", "mlx")
    if has_engine:
        told = (
            f"LM Studio has no engine (runtime) for {kind.upper() or 'this'} files. Since 0.4 the engines are separate parts: "
            "after an update, or for another user of the machine, none may be installed. A processor without AVX2 has none."
        )
    else:
        told = f"LM Studio has no engine for {kind}: it runs GGUF files, and on a Mac models in MLX's format."
    cure = (
        "Press Ctrl+Shift+R (or Settings, Runtime), download llama.cpp there (CUDA, Vulkan or CPU), and start LM Studio again."
        if has_engine
        else "Take a GGUF of the same model: search for its name with GGUF in LM Studio."
    )
    return Explanation(
        told,
        (cure, "If the list is empty, see what the processor has: on Linux grep -o -m1 avx2 /proc/cpuinfo"),
        instead='puna needs no runtime of its own: puna run model.gguf "..."',
        numbers=numbers,
    )


CAUSES = (
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
        concept="kv-cache",
    ),
    Cause(
        "lmstudio-no-runtime",
        "server",
        (
            "no lm runtime found for model format '{format:word}'",
            "no lm runtime found for model format",
            "no lm runtime found",
        ),
        explain_no_runtime,
        ("+lm studio|lmstudio|lm runtime", "+no runtime|no lm runtime|runtime not found"),
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
            "Update or reinstall the runtime: Settings, Runtime (LM Studio brings its own Python; pip does not fix it).",
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
)
