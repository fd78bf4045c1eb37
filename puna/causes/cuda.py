"""CUDA, cuDNN and the code that wheels hold for cards."""

from __future__ import annotations

import re

from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.codes import CUDA, cuda_start_failed

ON_THE_CPU = 'Meanwhile puna runs on the CPU and says why: puna run MODEL "..." --device cpu'
DEVICES = 'Choose the card in puna: puna run MODEL "..." --device cuda:0; with --require-gpu puna fails without one.'

TURING, BLACKWELL = 7.5, 10.0  # compute capabilities: the oldest of builds for CUDA 13, the first that needs CUDA 12.8


def explain_range(numbers: Captures) -> Explanation:
    """A card outside PyTorch's range: below it PyTorch has no code; above it, code for the previous card often runs."""
    capability, lowest, highest = (numbers.get(name, "") for name in ("capability", "lowest", "highest"))
    has = f"The card has compute capability {capability}" if capability else "The card's compute capability"
    if not lowest:
        told, kind = f"{has}{', which' if capability else ''} is not in the list that this PyTorch was built for.", ""
    elif float(capability) < float(lowest):
        told, kind = f"{has}, but this PyTorch starts at {lowest}: it has no code for this older card.", "too-old"
    elif float(capability) > float(highest) and capability.partition(".")[0] == highest.partition(".")[0]:
        told = f"{has}, and this PyTorch goes up to {highest}. Within one generation the code usually runs anyway."
        kind = "newer-of-a-generation"
    else:
        told, kind = f"{has}, and this PyTorch goes from {lowest} to {highest}: it is older than the card.", "too-new"
    cure = {
        "too-old": ("Install a PyTorch built for CUDA 12.6: it supports cards from 5.0 on. CUDA 12.8 and 13 start at 7.5.",),
        "newer-of-a-generation": (
            "If nothing fails, ignore it. If a kernel is missing: a PyTorch for CUDA 13 supports the card.",
        ),
        "too-new": ("Install a newer PyTorch; RTX 50 (12.0) needs 2.7 or later built for CUDA 12.8 or later.",),
        "": (
            "For a card before Turing (7.5), install a PyTorch built for CUDA 12.6; for a newer card, the newest PyTorch.",
            "python -m pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
        ),
    }[kind]
    see = 'See what it was built for: python -c "import torch; print(torch.cuda.get_arch_list())"'
    remedy = "replace-torch" if kind in ("too-new", "") else ""  # which puts in the newest, not one for an older card
    return Explanation(told, (see, *cure), remedy, ON_THE_CPU, numbers, kind)


def capability_of(name: str) -> float | None:
    """What "sm_120", "compute_86a" or "8.6" says; None where it says nothing.

    >>> capability_of("sm_120"), capability_of("8.6"), capability_of("sm_90a"), capability_of("this")
    (12.0, 8.6, 9.0, None)
    """
    digits = "".join(letter for letter in name if letter.isdigit() or letter == ".").strip(".")
    if not digits or digits.count(".") > 1:
        return None
    return float(digits) if "." in digits else int(digits) / 10


def explain_no_kernel(numbers: Captures) -> Explanation:
    """No code for the card: an older card needs an older build, a newer one a newer; where the text names no card, both."""
    name = numbers.get("capability", "")
    found = capability_of(name)
    if found is None:
        told = "The program contains no code for this card: it was built for other ones, older or newer."
    else:
        told = f"The program contains no code for this card: the card is {name}, and the wheel was built for others."
    kind = "" if found is None else "too-old" if found < TURING else "too-new" if found >= BLACKWELL else ""
    see = 'See what it was built for: python -c "import torch; print(torch.cuda.get_arch_list())"'
    old = (
        "A card before Turing (7.5: GTX 10, P40, P100, V100) needs a PyTorch built for CUDA 12.6; those for 12.8 and 13 dropped "
        "it: python -m pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
    )
    new = "An RTX 50 (sm_120) needs PyTorch 2.7 or later built for CUDA 12.8 or later."
    cure = {"too-old": (old, see), "too-new": (see, new), "": (see, new, old)}[kind]
    older = " It is older than what newer builds still have." if kind == "too-old" else ""
    return Explanation(
        f"{told}{older} CUDA still starts, but the first kernel fails.",
        cure,
        "" if kind == "too-old" else "replace-torch",
        "puna compares the card with the wheel before it loads anything; its own kernels are compiled for the card that is "
        "there.",
        numbers,
        kind,
    )


# CUDAs for which bitsandbytes 0.50 brings a library; it loads with any PyTorch of the same first number.
BITSANDBYTES = ("118", "121", "124", "126", "128", "130", "132")


def nearest_library(wanted: str) -> str:
    """The library of bitsandbytes that can stand for a missing one: of the same first number, the newest that is older.

    >>> nearest_library("131"), nearest_library("129"), nearest_library("118")
    ('130', '128', '')
    """
    return max((known for known in BITSANDBYTES if known[:2] == wanted[:2] and known < wanted), default="")


OWN_BITS = "puna needs no bitsandbytes: --weights int8 or int4 are its own."
ROCM_PUT_WRONG = 80  # bitsandbytes takes ROCm 7.10 for 7 * 10 + 10


def _on_rocm(version: int, numbers: Captures) -> Explanation:
    """A library for ROCm that is not there; versions like 7.12 are put together wrongly."""
    is_wrong = ROCM_PUT_WRONG <= version < 100
    told = f"bitsandbytes looks for its library of ROCm {version // 10}.{version % 10}, which is not in its folder."
    if is_wrong:
        told += f" PyTorch's ROCm is 7.{version - 70}: older versions of bitsandbytes put its two numbers together wrongly."
    return Explanation(
        told,
        (
            "Update it: python -m pip install -U bitsandbytes",
            "See which it has, in the folder that the text names: ls FOLDER/libbitsandbytes_rocm*.so",
            "Then name one of them, the nearest below yours, such as 7.2; older versions call it BNB_CUDA_VERSION: "
            "export BNB_ROCM_VERSION=72",
            "Built from source: build it with -DROCM_VERSION and the number that it looks for.",
        ),
        instead=OWN_BITS,
        numbers=numbers,
    )


def explain_bitsandbytes(numbers: Captures) -> Explanation:
    """A library that bitsandbytes lacks for this CUDA or ROCm, with the one that can stand for it."""
    file = numbers.get("file", "")
    if (rocm := re.search(r"rocm(\d{2})\b", file)) is not None:
        return _on_rocm(int(rocm[1]), numbers)
    wanted = re.search(r"cuda(\d{3})", file)
    near = nearest_library(wanted[1]) if wanted else ""
    if file:
        told = f"bitsandbytes brings a library for each CUDA, and the one for the CUDA of this PyTorch is not among them: {file}."
    else:
        told = "bitsandbytes found no library of its own that works here, for the CUDA of this PyTorch or for this device at all."
    if near:
        stand_in = f"Or let it take the one for CUDA {near[:2]}.{near[2]}, if its folder has it: export BNB_CUDA_VERSION={near}"
    else:
        alike = "Or let it take another of its folder (libbitsandbytes_cudaNNN) that begins with the same two digits"
        stand_in = f"{alike}: export BNB_CUDA_VERSION=NNN"
    return Explanation(
        told,
        (
            "Update it; new versions bring more, and none before 0.43 supports Windows: python -m pip install -U bitsandbytes",
            stand_in,
            "See what it finds: python -m bitsandbytes",
            "See whether a variable asks for another CUDA than PyTorch's: echo $BNB_CUDA_VERSION",
            "If it does: unset BNB_CUDA_VERSION",
        ),
        instead=OWN_BITS,
        numbers=numbers,
    )


SGL_INDEX = "https://docs.sglang.ai/whl/cu130/"


def explain_sgl_kernel(numbers: Captures) -> Explanation:
    """SGLang's compiled kernels: for another CUDA, for another PyTorch, or none for the card."""
    found = _NUMBERED.search(numbers.get("library", ""))
    if found is not None:
        told = f"SGLang's kernels (sgl-kernel) were built for CUDA {found[1]}, and the installed PyTorch brings another CUDA."
    elif numbers.get("symbol"):
        told = "SGLang's kernels (sgl-kernel) were built for another PyTorch than the installed one."
    else:
        told = "SGLang's kernels (sgl-kernel) do not load: they are for another CUDA or PyTorch, or hold none for this card."
    return Explanation(
        told,
        (
            "See the CUDA of PyTorch: python -c 'import torch; print(torch.__version__, torch.version.cuda)'",
            f"CUDA 13 (RTX 50, DGX Spark): python -m pip install --force-reinstall --no-deps sgl-kernel --index-url {SGL_INDEX}",
            "CUDA 12: the usual wheel, with the PyTorch that SGLang names: python -m pip install --force-reinstall sglang",
            "Cards before the RTX 30, and GB10 in older versions, are not in the wheel: take SGLang's Docker image for the card.",
        ),
        instead="puna uses no compiled extension: Numba and Triton compile its kernels on your machine.",
        numbers=numbers,
    )


# Libraries whose number is CUDA's.
_NUMBERED = re.compile(r"lib(?:cudart|cublas|cublaslt|nvrtc|nvjitlink|cupti)\.so\.(1[1-9])", re.IGNORECASE)
WHEELS = {"11": "cu118", "12": "cu128", "13": "cu130"}  # CUDA's first number -> PyTorch's index of it


def explain_library(numbers: Captures) -> Explanation:
    """A library of CUDA that a program was linked to, and that is not there: the program is for another CUDA than PyTorch."""
    library = numbers.get("library", "")
    found = _NUMBERED.search(library)
    cuda = found[1] if found is not None else ""
    if cuda:
        told = (
            f"A package was built for CUDA {cuda}, and {library} is not here: the installed PyTorch brings another CUDA or none. "
            "Which package, the lines above name (vLLM, sgl-kernel, flash-attn, bitsandbytes ...)."
        )
    else:
        told = f"The program was linked to {library or 'a CUDA library'}, and this file is not on the machine or not on its path."
    cure = (
        "See the CUDA of PyTorch: python -c 'import torch; print(torch.version.cuda)'",
        "See which packages are there: python -m pip list | grep -iE 'vllm|sgl|flash|bits|cu1'",
        "Install the package in its build for that CUDA. vLLM, whose usual wheel is for CUDA 13 since 2026, by a wheel with "
        "+cu129 in its name from its releases, or: uv pip install vllm --torch-backend=auto",
    )
    if cuda in WHEELS:
        index = f"https://download.pytorch.org/whl/{WHEELS[cuda]}"
        last = f"Or take the PyTorch of CUDA {cuda}: python -m pip install --force-reinstall torch --index-url {index}"
    else:
        last = "libcuda.so itself belongs to the driver: then the driver is missing."
    if found is None:
        cure = (
            "See which there are: python -m pip list | grep nvidia; ldconfig -p | grep -E 'libcud|libnccl'",
            "PyTorch's wheel for a GPU brings cuDNN, NCCL and their like: write import torch before the program's own import.",
            "Without PyTorch (-cu13 for CUDA 13): python -m pip install nvidia-cudnn-cu12, and name the folder with the file in "
            "LD_LIBRARY_PATH.",
        )
    return Explanation(
        told, (*cure, last), instead="puna needs no CUDA toolkit: PyTorch's wheel brings what it uses.", numbers=numbers
    )


def explain_start(numbers: Captures) -> Explanation:
    """A start of CUDA that returned a code of no cause of its own."""
    code = numbers.get("code", "")
    meaning = CUDA.get(code, "")
    told = f" with the code {code}{f': {meaning}' if meaning else ''}" if code else ""
    return Explanation(
        f"CUDA's library is there, and its start failed{told}. The driver, or the container's access to it, is what failed.",
        (
            "See whether any program reaches the card: nvidia-smi, on the machine and then in the container",
            "Read the driver's log: sudo dmesg | grep -iE 'nvrm|xid|nvidia' | tail",
            "Load the driver's memory module anew, or restart the machine: sudo modprobe -r nvidia_uvm && sudo modprobe "
            "nvidia_uvm",
            "If it stays: another version of the driver, newer or older.",
        ),
        "reload-uvm",
        DEVICES,
        numbers,
    )


CAUSES = (
    Cause(
        "torch-without-cuda",
        "cuda",
        (
            "torch not compiled with cuda enabled",
            "torch is not able to use gpu",
            "pytorch was built without cuda",
            "was built without cuda",
        ),
        says(
            "The installed PyTorch was built without CUDA: pip or conda installed the CPU wheel.",
            'See which it is (None: without CUDA): python -c "import torch; print(torch.__version__, torch.version.cuda)"',
            "Install one that was built with CUDA; https://pytorch.org/get-started names the index for your CUDA.",
            remedy="replace-torch",
            instead=ON_THE_CPU,
        ),
        (
            "+torch",
            "+cuda|gpu",
            "+not compiled|without cuda|cpu-only|cpu only|cpu version|no cuda support",
            "install|enabled|wheel",
        ),
    ),
    Cause(
        "no-kernel-image",
        "cuda",
        (
            "{card:word} with cuda capability {capability:word} is not compatible with the current pytorch installation",
            "with cuda capability {capability:word} is not compatible with the current pytorch",
            "current pytorch install supports cuda capabilities {built_for:word}",
            "no kernel image is available for execution on the device",
            "no kernel image is avail",
            "nvrtc: error: invalid value for --gpu-architecture",
            "which is of compute capability (cc) {capability:number} ~~~ not compatible",
            "ggml was not compiled with any cuda arch <= {capability:int}",
            "cudaerrornokernelimagefordevice",
            "the provided ptx was compiled with an unsupported toolchain",
        ),
        explain_no_kernel,
        (
            "+sm_|compute capability|cuda capability|5090|5080|5070|blackwell",
            "+torch|wheel|vllm|llama.cpp",
            "support|compatible|kernel image",
            "gpu|card|install",
        ),
    ),
    Cause(
        "torch-capability-range",
        "cuda",
        (
            "which is of cuda capability {capability:number}. minimum and maximum cuda capability supported by this version of "
            "pytorch is ({lowest:number}) - ({highest:number})",
            "which is of cuda capability {capability:number}. minimum and maximum cuda capability",
            "minimum and maximum cuda capability supported by this version of pytorch",
            "which is of compute capability (cc) {capability:number}. the following list shows the ccs this version of "
            "pytorch was built for",
            "the following list shows the ccs this version of pytorch was built for",
        ),
        explain_range,
        ("+cuda capability|compute capability", "+minimum|maximum|range", "+torch"),
        role="symptom",
    ),
    Cause(
        "cublas-not-supported",
        "cuda",
        (
            "cublas_status_not_supported",
            "cublas_status_arch_mismatch",
            "cublas_status_execution_failed",
            "cublas_status_internal_error",
            "cublas_status_invalid_value",
            "cublaslt ... an unsupported value",
            "cudnn_status_execution_failed",
            "cudnn_status_not_supported",
            "cudnn_status_internal_error",
            "no execution plans support the graph",
            "cudnn error: cudnn_status_{status:name}",
        ),
        says(
            "cuBLAS failed at a matrix product. Known reasons: a cuBLAS older than the card (RTX 50 needs "
            "CUDA 12.8), a type that the card or this cuBLAS does not have (bf16, int8, FP8), two versions of cuBLAS in one "
            "process, and a wrong token id or full memory just before.",
            'See which CUDA PyTorch brings: python -c "import torch; print(torch.__version__, torch.version.cuda)"',
            "Start without another CUDA in the way: env -u LD_LIBRARY_PATH PROGRAM",
            'Use float16 or float32 instead of bf16 or int8 (CTranslate2, faster-whisper: compute_type="float16").',
            "Run once with CUDA_LAUNCH_BLOCKING=1, and look at the first error.",
            instead=DEVICES,
        ),
        ("+cublas", "+not_supported|not supported|execution_failed|mismatch|failed"),
    ),
    Cause(
        "cuda-in-forked-process",
        "cuda",
        (
            "cannot re-initialize cuda in forked subprocess",
            "cuda failed with error initialization error",
            "cuda error: initialization error",
            "cuda_error_not_initialized",
        ),
        says(
            "A process used CUDA and then made a copy of itself (fork); CUDA does not work in the copy.",
            "In your own code: torch.multiprocessing.set_start_method('spawn') first of all, under if __name__ == '__main__':",
            "In vLLM: export VLLM_WORKER_MULTIPROC_METHOD=spawn",
            "Use no GPU before the processes start, not even torch.cuda.is_available().",
            instead=DEVICES,
        ),
        ("+fork|forked|spawn", "+cuda", "+initializ|subprocess|multiprocessing"),
    ),
    Cause(
        "cuda-device-busy",
        "cuda",
        (
            "cuda-capable device(s) is/are busy or unavailable",
            "all cuda-capable devices are busy or unavailable",
            "cudaerrordevicesunavailable",
            "cuda_error_device_unavailable",
        ),
        says(
            "The card is in exclusive mode and another process uses it, or the driver is in a bad state after a crash.",
            "See the mode and who uses it: nvidia-smi -q -d COMPUTE; nvidia-smi",
            "Allow several processes: sudo nvidia-smi -c DEFAULT. End leftover processes.",
            "If nobody uses it: restart the machine; in WSL: wsl --shutdown",
            remedy="see-gpu-memory",
            instead=DEVICES,
        ),
        ("+cuda", "+busy or unavailable|exclusive|unavailable"),
    ),
    Cause(
        "cuda-not-ready",
        "cuda",
        (
            "error 802: system not yet initialized",
            "cuda error: system not yet initialized",
            "cuda_error_system_not_ready",
            "system not yet initialized",
            "unable to load ... libcuda.so.{driver:word}: cuda driver library init failure: 802",
            *cuda_start_failed("802"),
        ),
        says(
            "CUDA says that the system is not ready (802). The cards are joined by NVSwitch (A100, H100, H200, B200 servers), "
            "and the service that sets it up, Fabric Manager, does not run, or is of another version than the driver.",
            "See it, on the machine itself and not in a container: systemctl status nvidia-fabricmanager; nvidia-smi -q | grep "
            "-A3 Fabric",
            "Install the one with exactly the driver's version, then: sudo systemctl enable --now nvidia-fabricmanager",
            "Compare: the driver is {driver}; Fabric Manager must be of the same version.",
            instead=DEVICES,
        ),
        ("+fabric|802|nvswitch", "+initialized|manager|cuda"),
    ),
    Cause(
        "named-symbol-not-found",
        "cuda",
        (
            "cuda error: named symbol not found",
            "cuda error 500: named symbol not found",
            "error 500: named symbol not found",
            "cuda_error_not_found",
            "cuda failure 500",
        ),
        says(
            "CUDA looked for a function in a program or library and did not find it (error 500). Likeliest: in Docker on "
            "Windows or WSL, the driver is newer than what Docker Desktop or the container's toolkit knows; otherwise a "
            "kernel was built for another driver or card.",
            "See whether it works outside the container: nvidia-smi, and a small program.",
            "Update Docker Desktop, the NVIDIA Container Toolkit and WSL: wsl --update; then restart.",
            "If it began with a driver update: install the previous driver.",
            instead=DEVICES,
        ),
        ("+named symbol", "+cuda|500|docker|wsl"),
    ),
    Cause(
        "launch-timeout",
        "cuda",
        ("the launch timed out and was terminated", "cuda_error_launch_timeout"),
        says(
            "A kernel ran longer than the system allows for a card that also drives a screen (2 s on Windows).",
            "Use a smaller batch or prompt, or a card without a screen.",
            "Windows: raise TdrDelay in the registry (HKLM\\SYSTEM\\CurrentControlSet\\Control\\GraphicsDrivers), then restart.",
            instead=DEVICES,
        ),
        ("+launch timed out|tdr", "+cuda|gpu|driver"),
    ),
    Cause(
        "no-cuda-gpus",
        "cuda",
        (
            "no cuda gpus are available",
            "no cuda-capable device is detected",
            "no cuda devices found",
            "cuda_error_no_device",
            "^no devices were found$",
            "no nvidia gpu detected",
            "no nvidia/amd gpu detected",
            "no gpu detected. ollama will run in cpu-only mode",
            "gpu support may not be enabled, check that you have installed gpu drivers",
            "no gpu found. a gpu is needed",
            "unsloth cannot find any torch accelerator",
            "no cuda runtime is found",
            "no gpu or tpu found",
            *cuda_start_failed("100"),
        ),
        says(
            "CUDA finds no card.",
            "See whether the driver lists it: nvidia-smi",
            "See whether a variable hides it: echo $CUDA_VISIBLE_DEVICES",
            remedy="show-all-cards",
            instead=ON_THE_CPU,
        ),
        ("+cuda", "+no gpu|no device|no cuda|not detected|finds no|not found", "+torch|nvidia|card|gpu"),
    ),
    Cause(
        "cuda-unknown-error",
        "cuda",
        (
            "cuda unknown error",
            "cudasetdevice err: 999",
            *cuda_start_failed("999"),
            "cuda driver library failed to get device context {code:int}",
            "cuda error 999: unknown error",
            "error 999: unknown error",
            "cuda error: unknown error",
            "cuda_error_unknown",
        ),
        says(
            "CUDA does not start and gives no reason (999). Often the driver was lost while the machine slept, or it was "
            "updated and not reloaded.",
            "Reload the lost module: sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm",
            "If that module is in use, end the programs that use the card, or restart the machine.",
            remedy="reload-uvm",
            instead=DEVICES,
        ),
        (
            "+gpu|cuda",
            "+suspend|sleep|hibernat|wake|error 999|err 999",
            "+lost|unknown|cpu|not found|fail|gone|no longer",
            "ollama|driver|after",
        ),
    ),
    Cause(
        "device-side-assert",
        "cuda",
        (
            "device-side assert triggered",
            "side assert triggered",
            "assertion `srcindex < srcselectdimsize` failed",
            "assertion `index out of bounds",
            "assertion `t >= 0 && t < n_classes` failed",
            "indexselectlargeindex",
        ),
        says(
            "A kernel got an index outside its table: nearly always a token id without a row in the embedding. The "
            "tokenizer is another model's, or tokens were added and the embedding was not enlarged.",
            "Compare the two numbers: len(tokenizer), and the rows of the embedding (vocab_size in config.json).",
            "After adding tokens: model.resize_token_embeddings(len(tokenizer))",
            "The named line may be wrong, because kernels run later: run once with CUDA_LAUNCH_BLOCKING=1, or on the CPU.",
            instead="puna refuses an id outside of the vocabulary before anything runs.",
        ),
        ("+device-side assert|device side assert|srcindex", "+cuda|index|token"),
        concept="tokenizer",
    ),
    Cause(
        "illegal-memory-access",
        "cuda",
        (
            "an illegal memory access was encountered",
            "cuda_error_illegal_address",
            "cuda error: misaligned address",
            "cuda error: unspecified launch failure",
        ),
        says(
            "A kernel accessed memory it does not own: a defect of a kernel, or of an extension built for another "
            "PyTorch, less often of the hardware (overclocked memory, power). The line that the traceback names may not be "
            "the place.",
            "Find the place: CUDA_LAUNCH_BLOCKING=1 PROGRAM",
            "Read the driver's log: sudo dmesg | grep -i xid",
            "Update the extension (flash-attn, xformers, bitsandbytes, vLLM) together with PyTorch.",
            instead=DEVICES,
        ),
        ("+illegal memory access|illegal address", "+cuda|gpu|kernel"),
    ),
    Cause(
        "invalid-device-ordinal",
        "cuda",
        ("invalid device ordinal", "cuda_error_invalid_device"),
        says(
            "The program asked for a GPU number that does not exist: there are more processes than cards, or "
            "CUDA_VISIBLE_DEVICES hides some. Numbers begin at 0, and count the visible ones only.",
            "See how many there are: nvidia-smi -L; echo $CUDA_VISIBLE_DEVICES",
            "Start as many processes as there are cards: torchrun --nproc_per_node N",
            remedy="show-all-cards",
            instead=DEVICES,
        ),
        ("+device ordinal|device number|device index", "+invalid|no such|out of range", "+cuda|gpu"),
    ),
    Cause(
        "cudnn-mismatch",
        "cuda",
        (
            "cudnn version incompatibility: pytorch was compiled against {built:path}",
            "cudnn version incompatibility",
            "could not load library libcudnn",
            "unable to find an engine to execute this computation",
            "cudnn_status_version_mismatch",
            "cudnn_status_sublibrary_version_mismatch",
        ),
        says(
            "Two versions of cuDNN clash: PyTorch's wheel brings its own, but another one, from LD_LIBRARY_PATH, was "
            "loaded first.",
            "See what leads there: echo $LD_LIBRARY_PATH",
            "Start without it: env -u LD_LIBRARY_PATH PROGRAM",
            instead="puna calls no cuDNN: its kernels are its own and cuBLAS's.",
        ),
        ("+cudnn", "+version|mismatch|incompatib|load", "torch|library|compiled"),
    ),
    Cause(
        "bitsandbytes-setup",
        "cuda",
        (
            "cuda setup failed despite gpu being available",
            "cuda_setup: warning! libcudart.so not found in any environmental path",
            "requires the latest version of bitsandbytes",
            "the installed version of bitsandbytes was compiled without gpu support",
            "bitsandbytes was compiled without gpu support",
            "libbitsandbytes_cpu.so: undefined symbol",
            "could not find the bitsandbytes cuda binary at posixpath('{file:path}",
            "could not find the bitsandbytes cuda binary",
            "required library version not found: {file:path}",
            "configured cuda binary not found at {file:path}",
            "configured rocm binary not found at {file:path}",
            "could not find the bitsandbytes rocm binary at posixpath('{file:path}",
            "could not find the bitsandbytes rocm binary",
            "bitsandbytes library load error",
            "configured {kind:name} binary not found at",
            "attempted to use bitsandbytes native library functionality but it's not available",
            "bitsandbytes multi-backend ... not available",
            "none of the available devices `available_devices = {devices:word}` are supported by the bitsandbytes version",
            "are supported by the bitsandbytes version you have installed",
            "could not load bitsandbytes native library",
            "libbitsandbytes_cpu.so: cannot open shared object file",
            "libbitsandbytes_cuda{version:int}.so: cannot open shared object file",
            "'nonetype' object has no attribute 'cquantize",
            "'nonetype' object has no attribute 'cget_",
            "'nonetype' object has no attribute 'cdequantize",
            "'nonetype' object has no attribute 'split' ... bitsandbytes",
        ),
        explain_bitsandbytes,
        ("+bitsandbytes|bnb", "+cuda|gpu|libcudart", "fail|not found|without|setup"),
    ),
    Cause(
        "cuda-start-failed",
        "cuda",
        (
            "unable to load ... init failure: {code:int}",
            "init failure: {code:int}",
            "cuinit err: {code:int}",
            "[{code:int}] call to cuinit",
            "cudart initialization failure: {code:int}",
        ),
        explain_start,
        ("+cuinit|init failure", "+cuda|nvidia|gpu", "fail|error|code"),
    ),
    Cause(
        "sgl-kernel-library",
        "cuda",
        (
            "could not load any common_ops library ~~~ {library:cudalib}: cannot open shared object file",
            "could not load any common_ops library ~~~ undefined symbol: {symbol:torch}",
            "could not load any common_ops library",
        ),
        explain_sgl_kernel,
        ("+sgl_kernel|sgl-kernel|sglang", "+common_ops|could not load"),
    ),
    Cause(
        "cuda-library-missing",
        "cuda",
        (
            "{library:cudalib}: cannot open shared object file",
            "could not load dynamic library 'libcu",
            "unable to load cudart library: {library:cudalib}: cannot open shared object file",
            "library to query for nvidia gpus: {library:cudalib}: cannot open shared object file",
            "cublas64_{version:int}.dll",
        ),
        explain_library,
        (
            "+libcudart|libcublas|libcuda|libcudnn|libnvrtc|cuda library",
            "+not found|missing|cannot open|no such file",
            "+error|import|load|torch|vllm",
        ),
    ),
    Cause(
        "card-too-old",
        "cuda",
        (
            "gpus with compute capability below {needed:number} are not supported",
            "too old to be supported by the triton gpu compiler",
            "triton only supports devices of cuda capability >= {needed:number}, but your device is of cuda capability "
            "{capability:number}",
            "triton only supports devices of cuda capability",
            "pytorch no longer supports this gpu because it is too old",
        ),
        says(
            (
                "The program needs compute capability {needed}, and the card has {capability}: it is older than that.",
                "The program needs compute capability {needed} or later, and the card is older.",
                "The card is older than the program supports.",
            ),
            "See what it has: nvidia-smi --query-gpu=name,compute_cap --format=csv. GTX 10, P40 and P100 have 6.x, V100 7.0, "
            "T4 and RTX 20 7.5.",
            "llama.cpp and Ollama still run on cards from 5.0 (GTX 900), in builds for CUDA 12.",
            "If torch.compile fails, run without it: TORCH_COMPILE_DISABLE=1; in vLLM --enforce-eager",
            instead=ON_THE_CPU,
        ),
        (
            "+compute capability|cuda capability|pascal|p100|p40|gtx 10|1080",
            "+too old|not supported|below|refus",
            "vllm|triton|torch|gpu",
        ),
    ),
    Cause(
        "bf16-unsupported",
        "cuda",
        (
            "bfloat16 is only supported on gpus with compute capability of at least 8.0. your {card:path}",
            "bfloat16 is only supported on gpus with compute capability of at least",
            "your gpu has compute capability {capability:number}",
            "flashattention only supports ampere gpus or newer",
            "your setup doesn't support bf16/gpu",
            "feature '.bf16' requires .target sm_80 or higher",
        ),
        says(
            "The card is too old for the program: bfloat16 and FlashAttention 2 need compute capability 8.0 "
            "(Ampere: RTX 30, A100) or later. A T4 or RTX 20 is 7.5, a V100 7.0.",
            "Use float16: --dtype half in vLLM, torch_dtype=torch.float16 in transformers.",
            'Do without FlashAttention: attn_implementation="sdpa".',
            instead='puna runs bf16 checkpoints on the CPU as they are: puna run MODEL "..." --device cpu',
        ),
        ("+bfloat16|bf16|flashattention|flash attention", "+gpu|card|t4|v100|compute capability", "support|ampere|old"),
        concept="quantisation",
    ),
    Cause(
        "ecc-error",
        "cuda",
        ("uncorrectable ecc error encountered", "double bit ecc error"),
        says(
            "The card's memory returned a wrong value that it could not correct: a hardware fault. The driver retires bad "
            "pages at the next start.",
            "See the counts: nvidia-smi -q -d ECC,ROW_REMAPPER",
            "Restart the machine; if the error comes back, replace the card.",
            remedy="restart",
            instead=DEVICES,
        ),
        ("+ecc", "+uncorrect|double bit", "gpu|memory"),
    ),
)
