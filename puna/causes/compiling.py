"""Code compiled at run time (Triton, torch.compile, FlashInfer), and cards that this code does not support."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says

GOES_ON = "puna uses plain PyTorch instead of Triton and says so; puna doctor tests a kernel."
EAGER = "Or run without compiling: export TORCH_COMPILE_DISABLE=1; in vLLM --enforce-eager"
OLDEST = 50  # sm_: CUDA 12's assembler supports nothing older

# Compute capability -> the first CUDA whose assembler supports it. From NVIDIA's release notes.
FIRST_CUDA = {"75": "10.0", "80": "11.0", "86": "11.1", "87": "11.4", "89": "11.8", "90": "11.8", "100": "12.8", "103": "12.9"}
FIRST_CUDA |= {"110": "13.0", "120": "12.8", "121": "12.9"}


def explain_ptxas(numbers: Captures) -> Explanation:
    """An assembler that does not support the card: usually older than the card; for old cards, newer."""
    name = numbers.get("sm", "")
    digits = "".join(filter(str.isdigit, name))
    is_old = bool(digits) and int(digits) <= OLDEST
    first = FIRST_CUDA.get(digits)
    which = f"{name} (compute capability {digits[:-1]}.{digits[-1]})" if len(digits) > 1 else "this card"
    if is_old:
        cause = f"The CUDA toolkit no longer knows {which}: it is newer than the card."
        cure: tuple[str, ...] = ("Use a toolkit or a program that was built for an older CUDA (11.8 or 12).",)
    else:
        since = f"; CUDA {first} is the first that does" if first else ""
        cause = (
            f"ptxas, CUDA's assembler, does not know {which}{since}. Triton brings its own ptxas, which is older than the card."
        )
        cure = (
            "Use a newer ptxas: export TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas, if ptxas --version there names that CUDA or "
            "a later one.",
            "Or update PyTorch and the Triton that belongs to it.",
            EAGER,
        )
    return Explanation(cause, cure, instead=GOES_ON, numbers=numbers)


def explain_resources(numbers: Captures) -> Explanation:
    """A kernel that needs more of a resource than the card has, with both numbers."""
    required, limit = numbers.get("required", ""), numbers.get("limit", "")
    shared = "shared" in numbers.get("what", "shared")
    of = "shared memory per block (fast memory on the chip, not VRAM)" if shared else numbers["what"]
    if required and limit and shared:
        told = f"A Triton kernel needs {_kib(required)} KiB of {of}, and this card has {_kib(limit)} KiB."
    elif required and limit:
        told = f"A Triton kernel needs {required} of {of}, and this card allows {limit}."
    else:
        told = "A Triton kernel needs more shared memory per block (fast memory on the chip, not VRAM) than this card has."
    return Explanation(
        f"{told} The kernel's block sizes were chosen for a larger card.",
        (
            "Update the program: newer versions choose blocks by the card.",
            "In your own code: smaller BLOCK sizes, or num_stages=1 or 2.",
            "In vLLM choose another attention backend: --attention-backend FLASH_ATTN (older versions: VLLM_ATTENTION_BACKEND).",
            "With torch.compile: mode='default' instead of 'max-autotune', or TORCH_COMPILE_DISABLE=1",
        ),
        instead=GOES_ON,
        numbers=numbers,
    )


def _kib(size: str) -> str:
    """
    >>> _kib("101376"), _kib("65538")
    ('99', '64.0')
    """
    return f"{int(size) / 1024:.{1 if int(size) % 1024 else 0}f}"


def explain_small_floats(numbers: Captures) -> Explanation:
    """FP4 or FP8 kernels for another card than the one that is there; some check for one number only."""
    only = numbers.get("only", "")
    if only:
        told = (
            "The program's kernels for 4-bit or 8-bit floating point (NVFP4, FP8) check for compute capability "
            f"{only[:-1]}.{only[-1]} alone, and this card has another one: mostly it is a GB10 (12.1, DGX Spark) beside "
            "kernels for an RTX 50 (12.0). A launch failure that follows comes from that."
        )
    else:
        told = (
            "The kernels for 4-bit or 8-bit floating point (NVFP4, FP8) are not made for this card: those of a B200 (sm_100) "
            "need more shared memory than an RTX 50 (sm_120) or GB10 (sm_121, DGX Spark) has; old versions confuse the two."
        )
    return Explanation(
        told,
        (
            "See what the card has: nvidia-smi --query-gpu=name,compute_cap --format=csv",
            "Update the program and FlashInfer (vLLM: of March 2026 or later, or a build for the card): support for sm_120 and "
            "sm_121 came during 2026.",
            "Or use another backend (vLLM: VLLM_NVFP4_GEMM_BACKEND=marlin), or the model in AWQ, in bf16 or as a GGUF.",
        ),
        instead="puna's --weights int8 and int4 need neither FP4 nor FP8.",
        numbers=numbers,
    )


CAUSES = (
    Cause(
        "ptxas-unknown-card",
        "compile",
        (
            "internal triton ptx codegen error ~~~ value '{sm:name}' is not defined for option 'gpu-name'",
            "ptxas fatal : value '{sm:name}' is not defined for option 'gpu-name'",
            "ptxas fatal: value '{sm:name}' is not defined for option 'gpu-name'",
            "value '{sm:name}' is not defined for option 'gpu-name'",
            "'{sm:name}' is not a recognized processor for this target",
            "ptxas fatal : unsupported .target '{sm:name}'",
            "bin/ptxas ... --gpu-name={sm:name} ... returned non-zero exit status",
        ),
        explain_ptxas,
        ("+ptxas", "+sm_|gpu-name|compute capability", "not defined|unknown|not know|unsupported"),
    ),
    Cause(
        "triton-out-of-resources",
        "compile",
        (
            "out of resource: {what:name} memory, required: {required:int}, hardware limit: {limit:int}",
            "out of resource: {what:name} memory, required: {required:int}, hardware limitation: {limit:int}",
            "out of resource: {what:name}, required: {required:int}, hardware limit: {limit:int}",
            "required: {required:int}, hardware limit: {limit:int}",
            "required: {required:int}, , hardware limit: {limit:int}",
            "reducing block sizes or `num_stages` may help",
            "no valid triton configs. outofresources",
            "triton error [cuda]: out of resource",
            "too many resources requested for launch",
        ),
        explain_resources,
        ("+triton", "+out of resource|outofresources|shared memory", "limit|required|block|num_stages"),
    ),
    Cause(
        "fp8-unsupported",
        "compile",
        (
            "type {type:name} not supported in this architecture",
            "torch._scaled_mm is only supported on cuda devices with compute capability",
            "fp8 quantized models is only supported on gpus with compute capability >= {needed:number}",
            "fp8 is only supported on",
            "fp8e4nv data type is not supported on cuda arch",
            "the quantization method {method:word} is not supported for the current gpu. minimum capability: {needed:int}. "
            "current capability: {capability:int}",
            "is not supported for the current gpu. minimum capability",
        ),
        says(
            (
                "The quantisation {method} needs compute capability {needed} (89 means 8.9), and the card has {capability}.",
                "The program computes in 8-bit floating point (FP8), which this card cannot do: FP8 needs compute "
                "capability 8.9 (RTX 40, L4) or later.",
            ),
            "See what the card has: nvidia-smi --query-gpu=name,compute_cap --format=csv",
            "Use the same model in AWQ, GPTQ, a GGUF, or bf16 instead of FP8; and K and V in 16 bits.",
            instead="puna's --weights int8 and int4, and --kv-type int8, need no FP8 arithmetic.",
        ),
        ("+fp8|fp8e4nv|float8|e4m3", "+not support|unsupported|only supported", "card|gpu|architecture|3090|capability|a100"),
        concept="quantisation",
    ),
    Cause(
        "fp4-kernels",
        "compile",
        (
            "failed to run cutlass fp4 gemm on sm{sm:int}",
            "failed to run cutlass fp4 gemm",
            "this kernel only supports sm{only:int}",
            "flashinfer kernels unavailable for {method:word} on current platform",
            "failed to initialize cutlass tma ws grouped gemm",
            "exception raised from cutlass_gemm_caller",
        ),
        explain_small_floats,
        ("+fp4|nvfp4|mxfp4", "+cutlass|flashinfer|kernel", "fail|sm120|sm121|sm_120|sm_121|unavailable"),
        concept="quantisation",
    ),
    Cause(
        "nvcc-at-run-time",
        "compile",
        (
            "no such file or directory: 'nvcc'",
            "no such file or directory: '{folder:path}nvcc'",
            "no such file or directory: '{folder:path}nvcc.exe'",
            "could not find nvcc and default cuda_home=",
            "could not find nvcc and default cuda_home",
            "{folder:path}bin/nvcc: not found",
            "{folder:path}bin/nvcc: no such file or directory",
            "sh: 1: nvcc: not found",
            "deep_gemm ~~~ nvcc: not found",
            "flashinfer ~~~ nvcc: not found",
        ),
        says(
            "The program compiles kernels when they are first used (FlashInfer, DeepGEMM and their like do), and there is no "
            "CUDA compiler, nvcc: PyTorch's wheel and images that are named runtime come without it.",
            "Do without FlashInfer: export VLLM_USE_FLASHINFER_SAMPLER=0; for attention vllm serve MODEL --attention-backend "
            "FLASH_ATTN; or python -m pip uninstall flashinfer-python",
            "Or take its kernels ready-made: python -m pip install flashinfer-cubin, and flashinfer-jit-cache from "
            "https://flashinfer.ai/whl/cu129 (or cu128, cu130: your PyTorch's CUDA)",
            "Or install the CUDA toolkit of PyTorch's CUDA, and name it: export CUDA_HOME=/usr/local/cuda "
            "PATH=/usr/local/cuda/bin:$PATH. In Docker: an image that is named devel.",
            instead="puna uses no FlashInfer and no nvcc; Triton compiles its kernels.",
        ),
        (
            "+nvcc",
            "+not found|no such file|missing|cannot find",
            "+flashinfer|deep_gemm|deepgemm|run time|runtime|serve|vllm|sglang",
        ),
    ),
    Cause(
        "flashinfer-card",
        "compile",
        (
            "no supported cuda architectures found for major versions",
            "flashinfer requires gpus with sm75 or higher",
            "ninja build failed ... flashinfer",
            "flashinfer ... ninja: build stopped",
        ),
        says(
            "FlashInfer compiles its kernels at first use, and this failed: this version has no kernel for the card, "
            "or the CUDA toolkit (nvcc) is missing or older than the card.",
            "See which nvcc it finds: which nvcc; nvcc --version. RTX 50 needs 12.8, GB10 (DGX Spark) 12.9 or later.",
            "Delete the unfinished build, and try again: rm -rf ~/.cache/flashinfer",
            "Or do without: in vLLM --attention-backend FLASH_ATTN and VLLM_USE_FLASHINFER_SAMPLER=0",
            instead="puna uses no FlashInfer; it compiles its kernels for your card.",
        ),
        ("+flashinfer", "+fail|error|build|architecture", "nvcc|ninja|sm_|card|gpu"),
    ),
    Cause(
        "ptx-refused",
        "compile",
        (
            "ptxas fatal : ptx assembly aborted due to errors",
            "ptx assembly aborted due to errors",
            "ptx jit compilation failed",
            "a ptx jit compilation failed",
            "cuda_error_invalid_ptx",
            "the ptx version is not supported",
            "unsupported ptx version",
        ),
        says(
            "CUDA's assembler or the driver refused intermediate code (PTX): it was made by a newer or another CUDA than the "
            "one that shall take it, or it was made for another card.",
            "See the versions: nvcc --version; nvidia-smi (the newest CUDA that the driver knows)",
            "While building: use one toolkit for all, and an empty build folder: export PATH=/usr/local/cuda/bin:$PATH",
            "While running: update the driver, or take a build for an older CUDA.",
            remedy="update-nvidia-driver",
            instead=GOES_ON,
        ),
        ("+ptx", "+abort|jit|unsupported|fail|invalid"),
    ),
    Cause(
        "triton-missing",
        "compile",
        (
            "cannot find a working triton installation",
            "torch._inductor.exc.tritonmissing",
            "triton is not available",
            "triton not installed or not compatible",
            "triton is not installed",
        ),
        says(
            "torch.compile needs Triton, but finds no working one: it is not installed in this Python, or its version does not "
            "fit this PyTorch. PyTorch's wheels for Windows and macOS do not include it.",
            "See the versions: python -m pip show torch triton",
            "Linux: reinstall PyTorch, which brings its Triton. Windows: python -m pip install triton-windows",
            EAGER,
            instead=GOES_ON,
        ),
        ("+triton", "+cannot find|not found|missing|not installed|no working", "+torch|compile|inductor|windows"),
    ),
    Cause(
        "triton-driver-missing",
        "compile",
        ("{count:int} active drivers ([]). there should only be one", "active drivers ... there should only be one"),
        says(
            "Triton finds no usable GPU: there is none, the driver does not answer, or this Triton was built for "
            "cards of another maker.",
            'See whether PyTorch finds one: python -c "import torch; print(torch.cuda.is_available())"',
            "See whether a variable hides it: echo $CUDA_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES",
            instead=GOES_ON,
        ),
        ("+triton", "+active drivers|no driver"),
    ),
    Cause(
        "triton-compiler-failed",
        "compile",
        (
            "passmanager::run failed",
            "triton.compiler.errors.compilationerror",
            "internal triton ptx codegen error",
            "mlir crash reproducer",
            "llvm error: cannot select",
        ),
        says(
            "Triton's compiler failed on a kernel. This Triton is older than the card or the program, or does "
            "not fit this PyTorch.",
            "See the versions: python -m pip show torch triton; update both together.",
            "Delete the compiled kernels: rm -rf ~/.triton/cache /tmp/torchinductor_$USER",
            EAGER,
            instead=GOES_ON,
        ),
        ("+triton", "+compilationerror|passmanager|codegen"),
    ),
    Cause(
        "torch-compile-python",
        "compile",
        (
            "dynamo is not supported on python {python:number}+",
            "torch.compile is not supported on python {python:number}",
            "torch.compile is not supported on {python:word} python",
            "windows not yet supported for torch.compile",
        ),
        says(
            (
                "This PyTorch cannot compile (torch.compile) under Python {python}: the Python is newer than the PyTorch.",
                "This PyTorch cannot compile (torch.compile) here: the Python is newer than the PyTorch, or the system is not "
                "supported.",
            ),
            "Update PyTorch: python -m pip install -U torch; or use a Python that is one or two versions older.",
            EAGER,
            instead="puna uses no torch.compile.",
        ),
        ("+torch.compile|dynamo", "+python", "+not supported|unsupported"),
    ),
    Cause(
        "attention-no-kernel",
        "compile",
        (
            "cutlassf: no kernel found to launch",
            "no available kernel. aborting execution",
            "no valid attention backend found",
            "found no valid attention backend",
            "flashattention only supports head dimension at most",
            "flash attention only supports gpu architectures in the range",
            "flash_attn ... only supports head dimension",
            "invalid attention backend for",
        ),
        says(
            "No fast attention kernel of this program supports this card, type and head size together: the card is "
            "older than Ampere (RTX 30), the head is too large, or the type is float32.",
            'In transformers: attn_implementation="eager"; in vLLM: --attention-backend TRITON_ATTN, or another that the text '
            "names.",
            "Use float16 or bfloat16.",
            instead="puna's attention takes any head size, on any card that PyTorch knows, and on the CPU.",
        ),
        ("+attention|cutlass|sdpa", "+no kernel|no available kernel|no valid|backend"),
        concept="attention",
    ),
    Cause(
        "torch-recompiles",
        "compile",
        (
            "torch._dynamo hit config.{limit:name} ({count:int})",
            "recompile_limit reached with",
            "cache_size_limit reached",
        ),
        says(
            (
                "torch.compile compiled one function {count} times, for inputs of different shapes, and then gave up on it: the "
                "function runs uncompiled and slower.",
                "torch.compile compiled one function again and again, for inputs of different shapes, and then gave up on it.",
            ),
            "Compile for any shape: torch.compile(..., dynamic=True); or pad inputs to a few lengths.",
            EAGER,
            instead="puna uses no torch.compile.",
        ),
        ("+recompile_limit|cache_size_limit|recompil", "+dynamo|torch.compile"),
        role="symptom",
    ),
    Cause(
        "torch-compile-failed",
        "compile",
        (
            "torch._dynamo.exc.{error:name}",
            "torch._inductor.exc.{error:name}",
            "backendcompilerfailed: backend='inductor' raised",
            "backend='inductor' raised",
        ),
        says(
            "torch.compile could not compile a part of the model. The lines below this one name the reason; the model itself "
            "may be fine.",
            EAGER,
            "In your own code: torch._dynamo.config.suppress_errors = True goes on uncompiled.",
            "If it worked before: update PyTorch and Triton together, and delete /tmp/torchinductor_$USER",
            instead="puna uses no torch.compile.",
        ),
        ("+torch.compile|dynamo|inductor", "+fail|error|unsupported|crash"),
        role="effect",
    ),
)
