"""Installation: wheels, compilers, incompatible libraries."""

from __future__ import annotations

import re

from puna import install
from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.names import KERNELS, MODULES, OTHER_RUNTIMES, PACKAGES

_FOR_A_GPU = install.extra_command("gpu").replace("{", "{{").replace("}", "}}")  # it stands in a template
NOTHING_TO_BUILD = f"puna has nothing to compile. What it needs for a GPU: {_FOR_A_GPU}"

FLASH_WHEELS = "https://github.com/Dao-AILab/flash-attention/releases"
LLAMA_WHEELS = "https://abetlen.github.io/llama-cpp-python/whl/cu124"
# What of a file's name is not what pip calls the package; apex is not on the index at all.
PIP_NAMES = {"selective_scan": "mamba-ssm", "awq": "autoawq", "gptq": "gptqmodel", "exllama": "exllamav2", "apex": "PACKAGE"}
TORCH_CUDAS = ("11.8", "12.1", "12.4", "12.6", "12.8", "12.9", "13.0")  # for which PyTorch has, or had, wheels


def plain_name(symbol: str) -> str:
    """What a C++ compiler's name of a function is called in the source; as it stands, where it is written in no way known here.

    >>> plain_name("_Z20cutlass_moe_mm_sm100RN2at6TensorE"), plain_name("_ZN4vllm3fooEv"), plain_name("nccl")
    ('cutlass_moe_mm_sm100', 'vllm::foo', 'nccl')
    """
    found = re.match(r"_Z(?:T[ISV])?(N?)K?(?=\d)", symbol, re.IGNORECASE)
    if found is None:
        return symbol
    parts, at = [], found.end()
    while (length := re.compile(r"[1-9]\d{0,2}").match(symbol, at)) is not None:
        at = length.end() + int(length[0])
        parts.append(symbol[length.end() : at])
        if not found[1]:
            break
    return "::".join(part for part in parts if part) or symbol


def explain_left_out(numbers: Captures) -> Explanation:
    """A library that misses a function of its own package: left out when it was built, or of another version."""
    name = plain_name(numbers.get("symbol", ""))
    library = numbers.get("library", "")
    package = next((known for known in KERNELS if known in library.lower()), "")
    package = PIP_NAMES.get(package, package).replace("_", "-") or "PACKAGE"
    card = re.search(r"sm_?(\d{2,3})", name)
    listed = f"{card[1][:-1]}.{card[1][-1]}" if card else "10.0;12.0"
    what = f"{name}, which is" if name else "something that is"
    for_card = f" It is code for cards of compute capability {listed}." if card else ""
    return Explanation(
        f"The library looks for {what} its own package's, not PyTorch's: this build left it out, or files of two versions of the "
        f"package are mixed.{for_card} Another PyTorch does not fix it.",
        (
            "Take a ready-made wheel, newer or older, into a new environment: python -m venv NEW && NEW/bin/pip install "
            f"{package}",
            "Built from source: in an empty folder, from a release that fixes it, with these cards in the list, too: export "
            f"TORCH_CUDA_ARCH_LIST='{listed}'",
            f"If it was updated in place: python -m pip uninstall -y {package}, until it says that nothing is there; then "
            "install.",
        ),
        instead="puna uses no compiled extension: its kernels are compiled on your machine, by Numba and Triton.",
        numbers=numbers,
    )


def explain_toolkit(numbers: Captures) -> Explanation:
    """A toolkit and a PyTorch of two CUDAs, with both numbers where the text has them."""
    found, built = numbers.get("found", ""), numbers.get("built", "")
    if found and built:
        told = f"The CUDA toolkit (nvcc) that was found is {found}, and PyTorch was built with CUDA {built}."
    elif built:
        told = f"PyTorch was built with CUDA {built}, and the CUDA toolkit (nvcc) that was found is another."
    else:
        told = "The CUDA toolkit (nvcc) that was found is of another CUDA than PyTorch was built with."
    toolkit = f"/usr/local/cuda-{built}" if built else "/usr/local/cuda-X.Y"
    index = f"cu{found.replace('.', '')}"
    if found in TORCH_CUDAS:
        torch = f"python -m pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index}"
        torch = f"Or take a PyTorch for the toolkit: {torch}"
    else:
        torch = "Or take a PyTorch that was built for the toolkit's CUDA; https://pytorch.org/get-started names those there are."
    return Explanation(
        f"{told} To compile an extension both must be of one CUDA, at least of one major version.",
        (
            "See both: nvcc --version; ls -d /usr/local/cuda*; python -c 'import torch; print(torch.version.cuda)'",
            f"Use PyTorch's CUDA: install that toolkit, then export CUDA_HOME={toolkit} PATH={toolkit}/bin:$PATH",
            torch,
            f"Or take a wheel that is built already, whose name has your PyTorch, CUDA and Python; flash-attn: {FLASH_WHEELS}",
        ),
        instead="puna needs no CUDA toolkit: PyTorch's wheel brings what it uses.",
        numbers=numbers,
    )


VC_RUNTIME = "Install the newest Visual C++ Redistributable (x64): winget install Microsoft.VCRedist.2015+.x64"


def explain_dll(numbers: Captures) -> Explanation:
    """A DLL that Windows did not load: found but not started (1114), or not found, it or one that it needs (126, 127)."""
    code, library = numbers.get("code", ""), numbers.get("library", "")
    if code == "1114":
        found = f"Windows found PyTorch's {library or 'DLL'}, and its start failed (1114)"
        told = f"{found}: mostly the Visual C++ runtime is too old for it."
        cure: tuple[str, ...] = (
            VC_RUNTIME,
            "In a program with windows of its own (PyQt and others): import torch first, before those.",
            "If it stays, a PyTorch before 2.9: python -m pip install 'torch<2.9'",
        )
    elif library:
        openmp = " fbgemm.dll needs libomp140.x86_64.dll, too." if "fbgemm" in library else ""
        told = f"Windows does not find PyTorch's {library}, or a DLL that it needs: usually the Visual C++ runtime.{openmp}"
        cure = (VC_RUNTIME, "Then PyTorch anew: python -m pip install --force-reinstall --no-cache-dir torch")
    else:
        told = (
            "Windows does not find a DLL that the program, or PyTorch, needs: usually the Visual C++ runtime (of PyTorch's "
            "fbgemm.dll also libomp140), the Vulkan runtime, or CUDA's (cudart64, cublas64)."
        )
        cure = (
            VC_RUNTIME,
            "A program that is no Python: start it in a terminal, where Windows names the DLL.",
            "Install the current driver of the card, which brings Vulkan.",
            "CUDA's DLLs: unpack the cudart archive of the same release into the program's folder.",
        )
    return Explanation(told, cure, instead=NOTHING_TO_BUILD, numbers=numbers)


CAUSES = (
    Cause(
        "kernel-left-out",
        "install",
        (
            "{library:kernels}: undefined symbol: {symbol:own}",
            "symbol not found in flat namespace '_{symbol:own}' ... {library:kernels}",
            "{library:kernels} ... symbol not found in flat namespace '_{symbol:own}'",
            "{library:kernels}, 0x{flags:int}): symbol not found: _{symbol:own}",
        ),
        explain_left_out,
        ("+undefined symbol", "+cutlass|sm100|sm120|sm90|own kernel", "vllm|sgl|xformers|flash"),
    ),
    Cause(
        "undefined-symbol",
        "install",
        (
            "{library:path}: undefined symbol: {symbol:torch}",
            "undefined symbol: {symbol:torch}",
            "undefined symbol: nccl{symbol:word}",
            "dll load failed while importing {library:name}: the specified procedure could not be found",
            "symbol not found: _torch{symbol:name}",
            "symbol not found: __zn{symbol:name}",
            "symbol not found in flat namespace",
            "exllamav2_ext",
            "'exllamav2_ext'",
        ),
        says(
            (
                "{library} was compiled for another PyTorch than the installed one: it looks for {symbol}, which "
                "this one does not have.",
                "An extension was compiled for another PyTorch than the installed one.",
            ),
            'See the versions: python -c "import torch; print(torch.__version__, torch.version.cuda)"; pip list',
            "Install the wheel for exactly this PyTorch, CUDA and Python, or the PyTorch that the wheel names.",
            "Built from source: delete ~/.cache/torch_extensions, and build it again.",
            instead="puna uses no compiled extension: Numba and Triton compile its kernels on your machine.",
        ),
        ("+undefined symbol", "+torch|cuda|flash|xformers|vllm|exllama|extension"),
    ),
    Cause(
        "no-compiler",
        "install",
        (
            "cmake_c_compiler not set, after enablelanguage",
            "cmake_cxx_compiler not set",
            "no cmake_c_compiler could be found",
            "no cmake_cxx_compiler could be found",
            "no cmake_cuda_compiler could be found",
            "running 'nmake' '-?' failed",
            "microsoft visual c++ 14.0 or greater is required",
            "unable to find vcvarsall.bat",
            "unable to execute 'gcc': no such file or directory",
            "error: command 'gcc' failed: no such file or directory",
            "error: command 'x86_64-linux-gnu-gcc' failed",
            "error: command 'cl.exe' failed",
            "c++ compiler not found",
            "the cxx compiler identification is unknown",
            "command '['where', 'cl']' returned non-zero exit status",
            "x86_64-linux-gnu-gcc' failed with exit code",
            "/usr/bin/gcc' failed with exit code",
            "/usr/bin/g++' failed with exit code",
        ),
        says(
            "The installation compiles the package, but there is no C++ compiler.",
            "Linux: sudo apt install build-essential cmake, or sudo dnf install gcc-c++ cmake",
            'Windows: Visual Studio Build Tools with "Desktop development with C++"; then the prompt that is named x64 '
            "Native Tools.",
            "Or use a ready-made wheel: https://abetlen.github.io/llama-cpp-python/whl/cpu",
            instead=NOTHING_TO_BUILD,
        ),
        ("+compiler|gcc|cmake|nmake|visual c++", "+not found|not set|missing|no c", "+llama-cpp|llama_cpp|pip install|wheel"),
    ),
    Cause(
        "python-headers-windows",
        "install",
        (
            "include file 'python.h' not found",
            "cannot open include file: 'python.h'",
            "runtime\\tcc\\tcc.exe ... cuda_utils.c",
            "runtime\\\\tcc\\\\tcc.exe ... cuda_utils.c",
            "tcc: error: library 'python3{version:name}' not found",
            "tcc: error: library '{library:name}' not found",
            "cannot open input file 'python3{version:name}.lib'",
            "cannot open file 'python3{version:name}.lib'",
        ),
        says(
            "Triton compiles a small program in C the first time. On Windows it brings a compiler; what it lacks are Python's "
            "own headers and libraries (Python.h, python3.lib): a Python that is embedded in a program, as ComfyUI's portable, "
            "comes without them.",
            "See which Python it is, the first two numbers must agree: python --version",
            "Install that Python from python.org, and copy its folders include and libs beside python.exe of the embedded one.",
            "Delete what was half made, in PowerShell: Remove-Item -Recurse $HOME\\.triton\\cache",
            "Or use a Python that is installed, in an environment of its own: py -m venv NAME; or switch compiling off in the "
            "program.",
            instead="puna goes on without Triton, in plain PyTorch, and says so; puna doctor tries a kernel.",
        ),
        ("+python.h|include and libs|python headers", "+windows|embed|portable|comfyui|tcc", "triton|sageattention|compile"),
    ),
    Cause(
        "python-headers-missing",
        "install",
        (
            "cuda_utils.c:{line:int}:{column:int}: fatal error: python.h: no such file or directory",
            "fatal error: python.h: no such file or directory",
            "fatal error: 'python.h' file not found",
            "could not find python.h",
        ),
        says(
            "A small program in C that uses Python is compiled (Triton and torch.compile do so the first time), and Python's "
            "headers (Python.h) are not installed. The compiler is there.",
            "Install them for the Python that runs: sudo apt install python3-dev, or sudo dnf install python3-devel",
            "For a Python of its own version the package is named after it: sudo apt install python3.12-dev",
            "A Python of uv or conda brings its headers: if one of these runs, make the environment anew with it.",
            remedy="install-compiler",
            instead="puna goes on without Triton, in plain PyTorch, and says so; puna doctor tries a kernel.",
        ),
        (
            "+python.h|python3-dev|python3-devel|python headers",
            "+not found|missing|no such file|fail|cannot find|complain",
            "triton|torch|compile|vllm",
        ),
    ),
    Cause(
        "triton-compiler",
        "install",
        (
            "failed to find c compiler",
            "failed to find c++ compiler",
            "triton/backends/nvidia ... returned non-zero exit status 1",
            "compiler: cl is not found",
            "no working c++ compiler found in torch._inductor",
            "invalidcxxcompiler",
            "gcc ... cuda_utils.c ... returned non-zero exit status 1",
            "cuda_utils.c ... returned non-zero exit status 1",
        ),
        says(
            "Triton and torch.compile compile a small program in C the first time, and that failed: there is no C compiler, or "
            "(where the text names Python.h) Python's headers are not installed.",
            "sudo apt install gcc python3-dev, or sudo dnf install gcc python3-devel",
            "For a Python of its own version the package is named after it: sudo apt install python3.12-dev",
            remedy="install-compiler",
            instead="puna uses plain PyTorch instead of Triton and says so; puna doctor tests a kernel.",
        ),
        ("+triton|torch.compile", "+compiler|gcc|python.h|python3-dev", "+not found|missing|no c|fail|cannot find"),
    ),
    Cause(
        "triton-newer-than-driver",
        "install",
        ("triton error [cuda]: device kernel image is invalid", "triton error [cuda]: the provided ptx was compiled with"),
        says(
            "Triton compiled a kernel, but the driver cannot load it: Triton's CUDA assembler is newer than "
            "what the driver knows.",
            "Install a newer driver, or the Triton that belongs to your PyTorch: pip check names it.",
            "See which CUDA the driver supports: nvidia-smi, at the top right",
            remedy="update-nvidia-driver",
            instead="puna goes on without Triton, in plain PyTorch, and says so.",
        ),
        ("+triton", "+kernel image", "+invalid|driver"),
    ),
    Cause(
        "triton-cache",
        "install",
        (
            "permission denied: '{folder:path}.triton",
            "read-only file system: '{folder:path}.triton",
            "could not create or locate cache dir",
        ),
        says(
            "Triton cannot write to its folder of compiled kernels: the folder belongs to another user, or cannot be written to.",
            "Name another folder: export TRITON_CACHE_DIR=/tmp/triton-$USER",
            "Or make the old one yours: sudo chown -R $USER ~/.triton",
            instead="puna goes on without Triton, in plain PyTorch, and says so.",
        ),
        ("+triton", "+cache|.triton", "+permission|read-only|not writable|cannot write|denied"),
    ),
    Cause(
        "cuda-toolkit-mismatch",
        "install",
        (
            "the detected cuda version ({found:number}) mismatches the version that was used to compile pytorch ({built:number})",
            "the detected cuda version ({found:number}) mismatches the version that was used to compile pytorch",
            "installed cuda version {found:number} does not match the version torch was compiled with {built:number}",
            "does not match the version torch was compiled with",
            "does not match the version used to compile pytorch binaries. pytorch binaries were compiled with cuda "
            "{built:number}",
            "does not match the version used to compile pytorch binaries",
            "please make sure to use the same cuda versions",
        ),
        explain_toolkit,
        (
            "+cuda toolkit|nvcc|cuda version|cuda_home|system cuda",
            "+mismatch|does not match|differs|different",
            "+torch",
            "compil|build|wheel",
        ),
    ),
    Cause(
        "cuda-toolkit-missing",
        "install",
        (
            "couldn't find cuda library root",
            "cuda toolkit not found",
            "could not find nvcc",
            "cuda_home environment variable is not set",
            "nvcc was not found",
            "nvcc: command not found",
            "unable to find cudart library",
            "the target was not found ... cuda::cublas",
            "links to: cuda::cublas but the target was not found",
            "no cuda toolset found",
            "failed to find nvcc",
            "flash_attn was requested, but nvcc was not found",
            "flashattention is only supported on cuda",
            "cuda_runtime.h: no such file or directory",
            "failed to detect a default cuda architecture",
            "cannot find -lcuda",
            "compiling the cuda compiler identification source file",
            'could not find a package configuration file provided by "cudatoolkit"',
            "nvcc: no such file or directory",
        ),
        says(
            "The installation compiles the package for CUDA, and CUDA's toolkit (compiler and libraries) is missing, or not on "
            "the path. The driver does not include it.",
            "See whether there is one: nvcc --version; ls -d /usr/local/cuda*",
            "Say where it is: export CUDA_HOME=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH",
            f"Or use a ready-made wheel. llama-cpp-python: {LLAMA_WHEELS}; flash-attn: {FLASH_WHEELS}",
            instead="puna needs no CUDA toolkit: PyTorch's wheel brings what it uses.",
        ),
        (
            "+nvcc|cuda toolkit|cuda_home|cudatoolkit",
            "+not found|missing|not set|not find|cannot find",
            "+install|build|compile|wheel",
        ),
    ),
    Cause(
        "nvcc-unknown-card",
        "install",
        (
            "nvcc fatal : unsupported gpu architecture '{architecture:word}'",
            "unsupported gpu architecture 'compute_",
            "nvcc fatal : value '{architecture:word}' is not defined for option 'gpu-architecture'",
            "unknown cuda arch ({architecture:number}) or gpu not supported",
        ),
        says(
            (
                "CUDA's compiler does not know {architecture}, its target card: the toolkit is older than the "
                "card, or so new that it dropped it.",
                "CUDA's compiler does not know its target card: the toolkit is older than the card, or so new "
                "that it dropped it.",
            ),
            "See which compiler is found: which nvcc; nvcc --version. The distribution's own package is often years old.",
            "compute_120 (RTX 50) needs CUDA 12.8, compute_89 (RTX 40) 11.8, compute_86 (RTX 30) 11.1; CUDA 13 has nothing below "
            "compute_75.",
            "Put the right compiler first in PATH, and build in an empty folder: export PATH=/usr/local/cuda-12.8/bin:$PATH",
            "An older toolkit can compile for an earlier card, whose code the driver adapts: "
            "-DCMAKE_CUDA_ARCHITECTURES=86-virtual",
            instead="puna needs no CUDA toolkit: PyTorch's wheel brings what it uses.",
        ),
        ("+nvcc|cuda toolkit", "+architecture|compute_120|sm_120", "+unsupported|not support|unknown"),
    ),
    Cause(
        "nvcc-host-compiler",
        "install",
        (
            "unsupported gnu version! gcc versions later than {gcc:int} are not supported",
            "unsupported gnu version",
            "unsupported clang version",
            "unsupported microsoft visual studio version",
            'exception specification is incompatible with that of previous function "{function:name}"',
            "exception specification is incompatible with that of previous function",
            'identifier "__builtin_ia32',
            "parameter packs not expanded with '...'",
        ),
        says(
            (
                "This CUDA toolkit works with GCC up to {gcc}, but the system's compiler is newer.",
                "CUDA's compiler and the system's compiler or C library do not fit: the system (Fedora, Arch, Ubuntu 25) is "
                "newer than the toolkit, or the toolkit is much older.",
            ),
            "Install an older compiler beside it, and name it: sudo apt install g++-13, then -DCMAKE_CUDA_HOST_COMPILER=g++-13, "
            "or export NVCC_PREPEND_FLAGS='-ccbin g++-13'",
            "Or a newer CUDA toolkit: 12.8 takes GCC 14, 13 takes GCC 15.",
            "Or use a prebuilt release or wheel.",
            instead="puna needs no CUDA toolkit: PyTorch's wheel brings what it uses.",
        ),
        ("+nvcc|cuda", "+gcc|gnu version|visual studio|host compiler", "+unsupported|not supported|newer"),
    ),
    Cause(
        "other-processor",
        "install",
        (
            "incompatible architecture (have '{have:word}', need '{need:word}')",
            "mach-o file, but is an incompatible architecture",
            "is not a valid win32 application",
            "cannot execute binary file: exec format error",
            "exec format error",
            "wrong elf class",
        ),
        says(
            (
                "The library was built for {have}, but this Python runs as {need}.",
                "The program or library was built for another processor than this one (Intel or Arm, 32 or 64 bit).",
            ),
            'See what Python is: python -c "import platform; print(platform.machine())"; on a Mac with Apple\'s chip it '
            "should say arm64.",
            "Install a Python for this processor, and make a new environment with it.",
            "In Docker: take an image for this processor: docker pull --platform linux/arm64, or linux/amd64",
            instead=NOTHING_TO_BUILD,
        ),
        ("+architecture|arm64|x86_64", "+incompatible|wrong|exec format", "python|library|import|mac"),
    ),
    Cause(
        "linux-only",
        "install",
        (
            "no module named 'fcntl'",
            "no module named 'resource'",
            "no module named 'uvloop'",
            "vllm only supports linux platform",
            "no module named 'pwd'",
            "no module named 'grp'",
        ),
        says(
            "The program is written for Linux; Windows does not have this module.",
            "Run it in WSL: wsl --install, then install it there.",
            "Or take a program that runs on Windows: llama.cpp, Ollama, LM Studio.",
            instead='puna runs on Windows, on the CPU: puna run MODEL "..."',
        ),
        ("+windows", "+linux|fcntl|uvloop|resource", "+vllm|module|only"),
    ),
    Cause(
        "text-encoding",
        "install",
        (
            "'gbk' codec can't decode byte",
            "'gbk' codec can't encode character",
            "'charmap' codec can't decode byte",
            "'charmap' codec can't encode character",
            "'cp949' codec can't decode byte",
            "'cp932' codec can't decode byte",
        ),
        says(
            "Python on Windows uses the system's old code page, but the text is UTF-8.",
            "Use UTF-8: set PYTHONUTF8=1; in PowerShell: $env:PYTHONUTF8=1",
            "If the error stays: Settings, Language, Administrative language settings, Change system locale, Beta: UTF-8.",
            instead="puna reads and writes UTF-8 everywhere.",
        ),
        ("+codec", "+decode|encode", "+gbk|charmap|cp1252|cp949"),
    ),
    Cause(
        "externally-managed",
        "install",
        ("externally-managed-environment", "this environment is externally managed"),
        says(
            "The system's own Python does not let pip install into it (Debian 12, Ubuntu 23.04 and later).",
            "Make an environment: python3 -m venv ~/ai && ~/ai/bin/pip install PACKAGE",
            instead="puna installs into an environment of its own: make demo, in its folder.",
        ),
        ("+externally managed|externally-managed", "+pip", "+error|refus|not|install"),
    ),
    Cause(
        "illegal-instruction",
        "install",
        (
            "trap invalid opcode ip:{at:name} sp:{stack:name} error:{error:int} in {library:word}[",
            "^illegal instruction (core dumped)$",
            "illegal instruction (core dumped)",
            "traps: ... trap invalid opcode",
            "trap invalid opcode",
            "signal: illegal instruction",
            "exit status 132",
            "exited with code 132",
            "exitcode: -4",
            "0xc000001d",
            "zsh: illegal hardware instruction",
            "illegal hardware instruction",
        ),
        says(
            (
                "{library} uses instructions that this CPU lacks (AVX, AVX2, AVX-512, AMX): it was compiled on or for a newer "
                "one. In a virtual machine the host may hide them.",
                "The program, or a library in it, uses instructions that this CPU lacks (AVX, AVX2, AVX-512, AMX): it was "
                "compiled on or for a newer one. In a virtual machine the host may hide them.",
            ),
            "See what there is: grep -o -m1 -wE 'avx|avx2|avx512f|fma' /proc/cpuinfo | sort -u; lscpu",
            "See which library it was: sudo dmesg | grep -i 'invalid opcode'",
            "Take the program's build for older processors (often called noavx), or compile it on this machine.",
            'llama-cpp-python: CMAKE_ARGS="-DGGML_NATIVE=on" pip install --force-reinstall --no-cache-dir '
            "--no-binary llama-cpp-python llama-cpp-python",
            "In a virtual machine: choose the host's CPU type.",
            instead="puna compiles its kernels for the processor that is there.",
        ),
        ("+illegal instruction|invalid opcode", "+core|crash|avx|cpu|llama|torch|ollama"),
        unless=OTHER_RUNTIMES,
    ),
    Cause(
        "glibc-too-old",
        "install",
        (
            "version `glibc_{version:number}' not found",
            "version `glibcxx_{version:word}' not found",
            "version `cxxabi_{version:word}' not found",
        ),
        says(
            (
                "The program was built on a newer system: it needs {version} of the C or C++ library.",
                "The program was built on a newer system.",
            ),
            "In conda the library is conda's own: conda install -c conda-forge libstdcxx-ng",
            "Otherwise build it here, take an older version, or run it in a container.",
            instead=NOTHING_TO_BUILD,
        ),
        ("+glibc|glibcxx|libstdc++", "+not found|too old|requires", "+torch|wheel|install|import|vllm|llama"),
    ),
    Cause(
        "accelerate-missing",
        "install",
        (
            "requires `accelerate`",
            "requires accelerate: `pip install",
            "or a `device_map` requires accelerate",
            "no module named 'accelerate'",
        ),
        says(
            "transformers uses the package accelerate to place a model (device_map, low_cpu_mem_usage, quantised weights), "
            "and accelerate is not installed or too old.",
            "Install it into the Python that runs: python -m pip install -U accelerate; then start that Python again.",
            "Or load without device_map, and move the model: model.to('cuda')",
            instead="puna places models itself: puna plan MODEL shows where.",
        ),
        ("+accelerate", "+device_map|low_cpu_mem_usage|transformers", "+install|require|missing|needs"),
    ),
    Cause(
        "windows-dll-missing",
        "install",
        (
            "exited with code 3221225781",
            "0xc0000135",
            "exit code: 3221225781",
            "exit code -1073741515",
            "winerror {code:int}] ... torch\\lib\\{library:word}",
            "winerror 127] ... torch\\lib",
            "error loading ... torch\\lib\\c10.dll",
            "torch\\lib\\fbgemm.dll",
            "torch\\lib\\shm.dll",
            "dll load failed while importing _c",
            "dll load failed while importing {module:name}: the specified module could not be found",
            "microsoft visual c++ redistributable is not installed",
            "vcruntime140_1.dll",
            "msvcp140.dll",
            "winerror 126] ... torch\\lib",
            "winerror 1114] ... torch\\lib",
        ),
        explain_dll,
    ),
    Cause(
        "tls-certificate",
        "install",
        ("certificate_verify_failed", "certificate verify failed"),
        says(
            "Python does not trust the server's certificate: a company or school proxy uses its own, the system's list of "
            "authorities is old, or the clock is wrong.",
            "See the date: date",
            "Python of python.org on macOS: run Install Certificates.command in its folder.",
            "Behind a proxy, name its certificate: export SSL_CERT_FILE=/path/of/ca.pem REQUESTS_CA_BUNDLE=/path/of/ca.pem",
            instead="puna pull checks the sha256 of what comes; a file that was fetched elsewhere runs by its path.",
        ),
    ),
    Cause(
        "module-missing",
        "install",
        (
            "no module named 'torch{part:word}'",
            "no module named 'torch'",
            "no module named 'llama_cpp{part:word}'",
            "no module named 'transformers{part:word}'",
            "no module named 'fairscale{part:word}'",
            "no module named 'fire'",
            "no module named 'llama'",
            "no module named 'vllm{part:word}'",
            "no module named 'flash_attn{part:word}'",
            "no module named 'triton{part:word}'",
            *(f"no module named '{package}'" for package in PACKAGES if package not in ("torch", "accelerate", "bitsandbytes")),
            *(f"no module named '{module}'" for module in MODULES),
            "{package:package} package not found. please install with: pip install",
            "no module named 'bitsandbytes'",
            "no module named 'torch",
            "no module named 'auto_gptq'",
            "no module named 'gptqmodel'",
            "no module named 'awq'",
            "no module named 'exllamav2'",
            "no module named 'gguf'",
            "no module named 'ollama'",
            "no module named 'openai'",
            "no module named 'gradio'",
            "no module named 'einops'",
            "no module named 'hf_transfer'",
            "no module named 'xformers",
            "no package metadata was found for {package:word}",
        ),
        says(
            "The package is not installed in the Python that runs: another environment has it, or none.",
            "See which Python runs: which python; python -m pip list",
            "Install into this one: python -m pip install PACKAGE. For Meta's llama: pip install -e . in its folder.",
            remedy="install-puna-gpu",
            instead=NOTHING_TO_BUILD,
        ),
    ),
    Cause(
        "wheel-build-failed",
        "install",
        (
            "failed building wheel for {package:word}",
            "metadata-generation-failed",
            "getting requirements to build wheel did not run successfully",
            "preparing metadata (pyproject.toml) did not run successfully",
            "failed to build `{package:word}`",
            "the build backend returned an error",
            "subprocess-exited-with-error",
            "ninja: build stopped: subcommand failed",
            "cmake build failed",
            "cmake configuration failed",
            "configuring incomplete, errors occurred",
            "gmake: *** [makefile",
            "could not build wheels for {package:word}",
            "failed to build installable wheels for some pyproject.toml based projects",
            "building wheel for {package:word} (pyproject.toml) did not run successfully",
            "error: command '{compiler:path}' failed with exit code {code:int}",
            "nvcc' failed with exit code {code:int}",
        ),
        says(
            (
                "{package} could not be compiled; this line only reports it. The first error above says why.",
                "A package could not be compiled; this line only reports it. The first error above it says why.",
            ),
            "Give puna why the whole output: pip install --verbose {package} 2>&1 | puna why -",
            "Usually the compiler or CUDA's toolkit is missing. A ready-made wheel needs neither.",
            instead=NOTHING_TO_BUILD,
        ),
        (
            "+wheel",
            "+failed build|build failed|does not build|not build|cannot build|failed",
            "+llama-cpp|llama_cpp|flash-attn|vllm|bitsandbytes",
        ),
        role="effect",
    ),
)
