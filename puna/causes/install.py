"""Installation: wheels, compilers, libraries that do not fit each other."""

from __future__ import annotations

from puna.causes.base import Cause, says
from puna.causes.wording import PACKAGES

NOTHING_TO_BUILD = "puna has nothing to compile: its kernels are compiled on your machine, by Numba and Triton."

CAUSES = (
    Cause(
        "undefined-symbol",
        "install",
        (
            "{library:path}: undefined symbol: {symbol:torch}",
            "undefined symbol: {symbol:torch}",
            "undefined symbol: nccl{symbol:word}",
            "dll load failed while importing {library:name}: the specified procedure could not be found",
        ),
        says(
            (
                "{library} was compiled for another PyTorch than the one that is installed: it looks for {symbol}, which "
                "this one does not have.",
                "An extension was compiled for another PyTorch than the one that is installed.",
            ),
            'See the versions: python -c "import torch; print(torch.__version__, torch.version.cuda)"; pip list',
            "Install the wheel that was made for exactly this PyTorch, CUDA and Python, or the PyTorch that the wheel names.",
            "Built from source: delete ~/.cache/torch_extensions, and build it anew.",
            instead="puna uses no compiled extension: its kernels are compiled on your machine, by Numba and Triton.",
        ),
        ("+undefined symbol", "+torch|.so|import|extension"),
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
        ),
        says(
            "The package is compiled during its installation, and there is no C++ compiler.",
            "Linux: sudo apt install build-essential cmake, or sudo dnf install gcc-c++ cmake",
            'Windows: Visual Studio Build Tools with "Desktop development with C++"; then the prompt that is named x64 '
            "Native Tools.",
            "Or take a wheel that is compiled already: https://abetlen.github.io/llama-cpp-python/whl/cpu",
            instead=NOTHING_TO_BUILD,
        ),
        ("+compiler|gcc|cmake|nmake|visual c++", "+not found|not set|missing|no c", "+llama-cpp|llama_cpp|pip install|wheel"),
    ),
    Cause(
        "triton-compiler",
        "install",
        (
            "failed to find c compiler",
            "failed to find c++ compiler",
            "cuda_utils.c:{line:int}:{column:int}: fatal error: python.h: no such file or directory",
            "fatal error: python.h: no such file or directory",
            "error: include file 'python.h' not found",
            "triton/backends/nvidia ... returned non-zero exit status 1",
            "compiler: cl is not found",
            "no working c++ compiler found in torch._inductor",
            "invalidcxxcompiler",
            "gcc ... cuda_utils.c ... returned non-zero exit status 1",
            "cuda_utils.c ... returned non-zero exit status 1",
        ),
        says(
            "Triton compiles a small program in C the first time, and there is no C compiler, or Python's headers (Python.h) "
            "are not installed.",
            "sudo apt install gcc python3-dev, or sudo dnf install gcc python3-devel",
            "For a Python of its own version the package is named after it: sudo apt install python3.12-dev",
            remedy="install-compiler",
            instead="puna goes on without Triton, in plain PyTorch, and says so; puna doctor tries a kernel.",
        ),
        ("+triton|torch.compile", "+compiler|gcc|python.h|python3-dev", "+not found|missing|no c|fail|cannot find"),
    ),
    Cause(
        "triton-newer-than-driver",
        "install",
        ("triton error [cuda]: device kernel image is invalid", "triton error [cuda]: the provided ptx was compiled with"),
        says(
            "Triton compiled for the card, and the driver cannot load it: Triton brings an assembler of CUDA that is newer than "
            "what the driver knows.",
            "Install a newer driver, or the Triton that belongs to your PyTorch: pip check names it.",
            "See which CUDA the driver knows: nvidia-smi, at the top right",
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
            "Triton cannot write into the folder where it keeps compiled kernels: it belongs to another user, or cannot be "
            "written to.",
            "Name another folder: export TRITON_CACHE_DIR=/tmp/triton-$USER",
            "Or take the old one back: sudo chown -R $USER ~/.triton",
            instead="puna goes on without Triton, in plain PyTorch, and says so.",
        ),
        ("+triton", "+cache|.triton", "+permission|read-only|not writable|cannot write|denied"),
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
            "the detected cuda version ({found:number}) mismatches the version that was used to compile pytorch",
            "failed to find nvcc",
        ),
        says(
            "The package is compiled for CUDA during its installation, and CUDA's compiler and libraries (the toolkit) are "
            "not there, or not where they are looked for, or of another version. The driver alone does not bring them.",
            "See whether there is one: nvcc --version; ls -d /usr/local/cuda*",
            "Name the place: export CUDA_HOME=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH",
            "Or take a wheel that is compiled already: https://abetlen.github.io/llama-cpp-python/whl/cu124",
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
                "CUDA's compiler does not know {architecture}, the card that it is to compile for: the toolkit is older than the "
                "card, or so new that it dropped it.",
                "CUDA's compiler does not know the card that it is to compile for: the toolkit is older than the card, or so new "
                "that it dropped it.",
            ),
            "See which compiler is found: which nvcc; nvcc --version. The distribution's own package is often years old.",
            "compute_120 (RTX 50) needs CUDA 12.8, compute_89 (RTX 40) 11.8, compute_86 (RTX 30) 11.1; CUDA 13 has nothing below "
            "compute_75.",
            "Put the right one first, and build in an empty folder: export PATH=/usr/local/cuda-12.8/bin:$PATH",
            "An older toolkit can compile for an earlier card, whose code the driver adapts: "
            "-DCMAKE_CUDA_ARCHITECTURES=86-virtual",
            instead="puna needs no CUDA toolkit: PyTorch's wheel brings what it uses.",
        ),
        ("+nvcc|cuda toolkit", "+architecture|compute_120|sm_120", "+unsupported|not support|unknown"),
    ),
    Cause(
        "externally-managed",
        "install",
        ("externally-managed-environment", "this environment is externally managed"),
        says(
            "The system's own Python does not let pip install into it (Debian 12, Ubuntu 23.04 and later).",
            "Make an environment: python3 -m venv ~/ai && ~/ai/bin/pip install PACKAGE",
            instead="puna installs into one of its own: make demo, or pip in a venv.",
        ),
        ("+externally managed|externally-managed", "+pip", "+error|refus|not|install"),
    ),
    Cause(
        "illegal-instruction",
        "install",
        (
            "^illegal instruction (core dumped)$",
            "illegal instruction (core dumped)",
            "traps: ... trap invalid opcode",
            "trap invalid opcode",
            "signal: illegal instruction",
            "exit status 132",
            "exited with code 132",
            "exitcode: -4",
            "0xc000001d",
        ),
        says(
            "The program uses instructions that this processor does not have (AVX2, AVX-512): it was compiled on or for a "
            "newer one. In a virtual machine the host may hide them.",
            "See what there is: grep -o -m1 -wE 'avx|avx2|avx512f|fma' /proc/cpuinfo | sort -u; lscpu",
            'Compile it here: CMAKE_ARGS="-DGGML_NATIVE=on" pip install --force-reinstall --no-cache-dir '
            "--no-binary llama-cpp-python llama-cpp-python",
            "In a virtual machine: choose the host's CPU type.",
            instead="puna compiles its kernels for the processor that is there.",
        ),
        ("+illegal instruction|invalid opcode", "+core|crash|avx|cpu|llama|torch|ollama"),
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
                "The program was built on a newer system: it wants {version} of the C or C++ library.",
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
            "transformers leaves the placing of a model (device_map, low_cpu_mem_usage, quantised weights) to the package "
            "accelerate, which is not installed, or is too old.",
            "Install it into the Python that runs: python -m pip install -U accelerate; then start that Python anew.",
            "Or load without device_map, and move the model: model.to('cuda')",
            instead="puna places models by itself: puna plan MODEL shows where.",
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
            "winerror 127] ... torch\\lib",
            "error loading ... torch\\lib\\c10.dll",
            "torch\\lib\\fbgemm.dll",
            "torch\\lib\\shm.dll",
            "dll load failed while importing _c",
            "dll load failed while importing {library:name}: the specified module could not be found",
            "microsoft visual c++ redistributable is not installed",
            "vcruntime140_1.dll",
            "msvcp140.dll",
            "winerror 126] ... torch\\lib",
            "winerror 1114] ... torch\\lib",
        ),
        says(
            "Windows finds no DLL that the program, or a library of PyTorch's, needs: mostly the Visual C++ runtime "
            "(of PyTorch's fbgemm.dll also libomp140), the Vulkan runtime, or CUDA's (cudart64, cublas64).",
            "Start the program in a terminal of its own: Windows then names the DLL.",
            "Install the Visual C++ Redistributable (x64) and the current driver of the card, which brings Vulkan.",
            "CUDA's DLLs: take the archive that is named cudart of the same release, into the program's folder.",
            instead=NOTHING_TO_BUILD,
        ),
    ),
    Cause(
        "tls-certificate",
        "install",
        ("certificate_verify_failed", "certificate verify failed"),
        says(
            "The server's certificate was not trusted: a proxy of a company or school signs with its own, the system's list of "
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
        ),
        says(
            (
                "{package} could not be compiled; this line only reports it. Why stands some lines above: the first line "
                "with error.",
                "A package could not be compiled; this line only reports it. Why stands some lines above.",
            ),
            "Give puna why the whole output: pip install --verbose {package} 2>&1 | puna why -",
            "Mostly it is the compiler or CUDA's toolkit that is missing. Or take a wheel that is compiled already.",
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
