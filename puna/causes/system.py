"""The system around a program: missing tools, crash reports, shared memory, networks of installers."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.names import OTHER_RUNTIMES

RUNS = "puna needs no build step: Numba and Triton compile its kernels on your machine."

# Command -> its package on Debian, Fedora, Arch, Homebrew and winget.
PACKAGES = {
    "git": ("git", "git", "git", "git", "Git.Git"),
    "git-lfs": ("git-lfs", "git-lfs", "git-lfs", "git-lfs", "GitHub.GitLFS"),
    "make": ("make", "make", "make", "make", "GnuWin32.Make"),
    "cmake": ("cmake", "cmake", "cmake", "cmake", "Kitware.CMake"),
    "ninja": ("ninja-build", "ninja-build", "ninja", "ninja", "Ninja-build.Ninja"),
    "curl": ("curl", "curl", "curl", "curl", "cURL.cURL"),
    "wget": ("wget", "wget2-wget", "wget", "wget", "JernejSimoncic.Wget"),
    "pip": ("python3-pip", "python3-pip", "python-pip", "python", "Python.Python.3.13"),
    "python": ("python3", "python3", "python", "python", "Python.Python.3.13"),
    "cargo": ("cargo", "cargo", "rust", "rust", "Rustlang.Rustup"),
    "docker": ("docker.io", "docker-cli", "docker", "docker", "Docker.DockerDesktop"),
    "compiler": ("build-essential", "gcc-c++", "base-devel", "llvm", "Microsoft.VisualStudio.2022.BuildTools"),
}
# Commands of programs with their own installers: how to install them.
OWN_WAY = {
    "ollama": "Linux and WSL: curl -fsSL https://ollama.com/install.sh | sh; macOS and Windows: https://ollama.com/download",
    "vllm": "It is in the environment where vLLM was installed: activate that, or python -m pip install vllm (Linux only).",
    "conda": "Open a new terminal after the installation, or: source ~/miniconda3/bin/activate; then conda init",
    "uv": "Linux and macOS: curl -LsSf https://astral.sh/uv/install.sh | sh; Windows: winget install astral-sh.uv; then a new "
    "terminal.",
    "llama-server": "macOS: brew install llama.cpp; Windows: winget install llama.cpp; else "
    "https://github.com/ggml-org/llama.cpp/releases",
    "llama-cli": "macOS: brew install llama.cpp; Windows: winget install llama.cpp; else "
    "https://github.com/ggml-org/llama.cpp/releases",
}
SAME = {"gmake": "make", "pip3": "pip", "python3": "python", "rustc": "cargo"}
SAME |= dict.fromkeys(("gcc", "g++", "cc", "c++", "clang"), "compiler")


def explain_tool(numbers: Captures) -> Explanation:
    """A command that is not installed, with its package."""
    tool = numbers.get("tool", "").lower()
    package = PACKAGES.get(SAME.get(tool, tool))
    if package is None and tool not in OWN_WAY:
        told = "A command that the installation needs (git, make, cmake or a compiler) is not installed, or not in PATH."
        package = ("build-essential cmake git", "gcc-c++ make cmake git", "base-devel cmake git", "cmake git", "Git.Git")
    else:
        told = f"The command {tool} is not installed, or its folder is not in PATH."
    debian, fedora, arch, brew, winget = package or ("",) * 5
    mac = "xcode-select --install" if SAME.get(tool, tool) in ("git", "make", "compiler") else f"brew install {brew}"
    cure = [
        f"Debian, Ubuntu, WSL: sudo apt install {debian}",
        f"Fedora: sudo dnf install {fedora}; Arch: sudo pacman -S {arch}",
        f"macOS: {mac}; Windows: winget install {winget}",
    ]
    if tool in OWN_WAY:
        cure = [OWN_WAY[tool]]
    elif tool in ("pip", "pip3"):
        cure.insert(0, "It may have another name: python3 -m pip --version")
    elif tool == "python":
        cure.insert(0, "On Linux and macOS it is called python3.")
    else:
        cure += ["Then open a new terminal, and start the installation again."]
    return Explanation(told, tuple(cure), instead=RUNS, numbers=numbers)


CAUSES = (
    Cause(
        "tool-missing",
        "install",
        (
            "{tool:tool}: command not found",
            "command not found: {tool:tool}",
            "{tool:tool}: not found",
            "command '{tool:tool}' not found",
            "'{tool:tool}' is not recognized as an internal or external command",
            "the term '{tool:tool}' is not recognized",
            "no such file or directory: '{tool:tool}'",
            "cannot find command '{tool:tool}'",
            "{tool:tool}: no such file or directory",
            "executable file not found in $path: {tool:tool}",
            'exec: "{tool:tool}": executable file not found in $path',
            "{tool:tool} is not installed or not in your path",
            "git executable not found",
            "could not find git_exe using the following names",
            "bad git executable",
            "cmake was unable to find a build program corresponding to",
            "cmake must be installed to build",
            "ninja is required to load c++ extensions",
            "can't find rust compiler",
            "cargo, the rust package manager, is not installed or is not on path",
            "no module named pip",
            "xcrun: error: invalid active developer path",
            "no developer tools were found",
            "git: 'lfs' is not a git command",
            "glslc not found",
            "could not find vulkan (missing:",
        ),
        explain_tool,
        ("+make|git|cmake|ninja|cargo", "+command not found|not installed|not recognized|not found", "install|build|clone|llama"),
    ),
    Cause(
        "venv-missing",
        "install",
        (
            "the virtual environment was not created successfully because ensurepip is not available",
            "ensurepip is not available",
            "no module named 'ensurepip'",
            "no module named venv",
            "no module named 'distutils",
            "no module named 'pkg_resources'",
            "no module named 'setuptools'",
            "error: invalid command 'bdist_wheel'",
        ),
        says(
            "This Python lacks parts that installations need: Debian and Ubuntu package venv separately, and Python 3.12 and "
            "later bring no distutils and setuptools.",
            "Debian, Ubuntu, WSL: sudo apt install python3-venv; for a Python of its own version: sudo apt install "
            "python3.12-venv",
            "distutils, pkg_resources or setuptools: python -m pip install 'setuptools<81' wheel",
            instead=RUNS,
        ),
        ("+venv|ensurepip|distutils|setuptools", "+not available|missing|no module|not created"),
    ),
    Cause(
        "scripts-disabled",
        "install",
        (
            "running scripts is disabled on this system",
            "cannot be loaded because running scripts is disabled",
            "run 'conda init' before 'conda activate'",
        ),
        says(
            "The terminal does not let the environment be activated: PowerShell refuses scripts by default, and conda must be "
            "set up once for each shell.",
            "PowerShell: Set-ExecutionPolicy -Scope CurrentUser RemoteSigned",
            "conda: conda init, then open a new terminal.",
            "Or without activating: .venv\\Scripts\\python.exe, .venv/bin/python",
            instead="puna starts without activating: .venv/bin/puna, or .venv\\Scripts\\puna.exe",
        ),
    ),
    Cause(
        "build-path-too-long",
        "install",
        (
            "does not have windows long path support enabled",
            "the filename or extension is too long",
            "filename too long",
            "[winerror 206]",
        ),
        says(
            "A path is longer than the 260 characters that Windows allows by default.",
            "In PowerShell as administrator: New-ItemProperty -Path HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem -Name "
            "LongPathsEnabled -Value 1 -PropertyType DWORD -Force; then restart.",
            "git: git config --global core.longpaths true. Or install into a short folder: C:\\ai",
            instead=RUNS,
        ),
        ("+long path|too long", "+windows|path|filename"),
    ),
    Cause(
        "pip-not-allowed",
        "install",
        (
            "could not install packages due to an oserror: [errno 13]",
            "could not install packages due to an oserror: [winerror 5]",
            "could not install packages due to an environmenterror: [errno 13]",
            "consider using the `--user` option or check the permissions",
            "could not install packages due to an oserror: [winerror 32]",
        ),
        says(
            "pip may not write to this Python's folder: it belongs to the system, or another program has a file there open.",
            "Use an environment of your own: python3 -m venv ~/ai && ~/ai/bin/pip install PACKAGE",
            "Windows: close programs that use this Python, then try again. Do not use sudo pip.",
            instead=RUNS,
        ),
        ("+pip", "+permission denied|access is denied|errno 13|winerror 5"),
    ),
    Cause(
        "pip-hashes",
        "install",
        (
            "these packages do not match the hashes from the requirements file",
            "hash mismatch for",
            "expected sha256 {expected:word} ... got {got:word}",
        ),
        says(
            "The download is not the expected file: it broke off, a proxy or mirror changed it, or the cache holds a "
            "broken copy.",
            "Clean the cache and try again: python -m pip cache purge; uv cache clean",
            "On a bad connection: python -m pip install --no-cache-dir --timeout 100 PACKAGE",
            "If it continues, do not bypass the check: tell the mirror's operator.",
            instead="puna pull checks the sha256 of what it fetches.",
        ),
        ("+hash|hashes|sha256", "+mismatch|not match", "+pip|uv|package|wheel"),
    ),
    Cause(
        "installer-network",
        "install",
        (
            "host='download.pytorch.org', port=443",
            "retrying (retry(total={left:int}, connect=none, read=none, redirect=none, status=none)) after connection broken by",
            "failed to fetch: `https://download.pytorch.org",
            "failed to download distribution due to network timeout",
            "cannot connect to proxy",
            "tunnel connection failed: {code:int}",
            "407 proxy authentication required",
            "condahttperror: http",
            "unable to access 'https://github.com",
            "failed to connect to github.com port 443",
            "error: rpc failed; curl",
            "fetch-pack: unexpected disconnect while reading sideband packet",
            "operation timed out ... uv",
            "httpx.connecterror",
            "httpx.connecttimeout",
            "httpx.readtimeout",
        ),
        says(
            "pip, uv or conda did not reach its server: no network, a proxy that is not set or refuses, or a line too slow for "
            "the large wheels of PyTorch.",
            "Check that the package index answers: python -m pip download --no-deps pip",
            "Behind a proxy: export HTTPS_PROXY=http://HOST:PORT",
            "On a slow connection: python -m pip install --timeout 300 --retries 20 PACKAGE; uv: export UV_HTTP_TIMEOUT=300",
            instead="Once installed, puna runs files on the disk without any network.",
        ),
        ("+pip|pypi|uv|conda", "+timeout|timed out|proxy|connection|network", "+install|download|fetch"),
    ),
    Cause(
        "docker-daemon",
        "install",
        (
            "permission denied while trying to connect to the docker daemon socket",
            "permission denied while trying to connect to the docker api",
            "cannot connect to the docker daemon at",
            "docker daemon is not running",
            "no matching manifest for {platform:word}",
            "bind for {address:path} failed: port is already allocated",
            "image with reference ... was found but does not match the specified platform",
            "the requested image's platform ({wanted:word}) does not match the detected host platform ({host:word}",
        ),
        says(
            "Docker itself fails: it does not run, this user may not use it, the image does not exist for this processor, "
            "or the port is taken. The model has nothing to do with it.",
            "Start it: sudo systemctl start docker; on Windows and macOS start Docker Desktop.",
            "Give this user the right, then sign in again: sudo usermod -aG docker $USER",
            "A used port: docker ps shows its container; use another with -p 8001:8000",
            instead="puna needs no Docker.",
        ),
        ("+docker", "+daemon|socket|manifest|port is already", "permission|connect|running|allocated"),
    ),
    Cause(
        "open-files-limit",
        "memory",
        ("[errno 24] too many open files", "too many open files in system", "received 0 items of ancdata"),
        says(
            "The process may not open more files: the limit (often 1024) is used up, in PyTorch by tensors that are passed "
            "between processes.",
            "Raise it in this terminal: ulimit -n 65536",
            "In Python: torch.multiprocessing.set_sharing_strategy('file_system')",
            instead="puna opens a model's files once.",
        ),
        ("+too many open files|errno 24|ancdata", "+torch|dataloader|vllm|model|python"),
    ),
    Cause(
        "openmp-twice",
        "install",
        (
            "omp: error #15: initializing {first:word}, but found {second:word} already initialized",
            "omp: error #15",
            "multiple copies of the openmp runtime have been linked into the program",
        ),
        says(
            "One process loaded two packages' OpenMP libraries: often a mixture of conda and "
            "pip, or an old numpy or opencv beside PyTorch.",
            "Best: a new environment with packages from pip only: python -m venv NEW",
            "In conda: conda install nomkl, or remove the second libiomp5 from the environment's folder.",
            "To continue at your own risk (results may be wrong): export KMP_DUPLICATE_LIB_OK=TRUE",
            instead="Keep puna in an environment of its own.",
        ),
        ("+openmp|libiomp5|libomp|omp: error", "+already initialized|multiple copies|duplicate"),
    ),
    Cause(
        "static-tls",
        "install",
        ("cannot allocate memory in static tls block",),
        says(
            "A library (mostly libgomp) was loaded too late to get thread-local memory: a known problem of "
            "64-bit Arm machines (Jetson, Raspberry Pi) with an older glibc.",
            "Import torch first in the program, before cv2, sklearn and others.",
            "Or load the library at the start: export LD_PRELOAD=PATH, with the path that stands in the text",
            instead="puna imports torch only for a GPU.",
        ),
        ("+static tls", "+libgomp|torch|import"),
    ),
    Cause(
        "segmentation-fault",
        "install",
        (
            "windows fatal exception: access violation",
            "fatal python error: segmentation fault",
            "segmentation fault (core dumped)",
            "^segmentation fault$",
            "^segmentation fault: 11$",
            "segfault encountered",
            "sigsegv received at time",
            "signal 11 (sigsegv)",
            "sigsegv: segmentation violation",
            "signal: segmentation fault",
            "exited with code 139",
            "exit code 139",
            "exit code: 139",
            "exit status 139",
            "exitcode: -11",
            "exit code -11",
            "exit code -1073741819",
            "0xc0000005",
            "exited with code 3221225477",
            "zsh: segmentation fault",
            "access violation reading 0x{address:name}",
            "exception: access violation",
        ),
        says(
            "Compiled code accessed memory it does not own, and the system ended the program. This text does not say which "
            "code. Known reasons: two packages built for different versions of PyTorch or CUDA, a driver or runtime that does "
            "not fit the card, a damaged model file; less often bad memory or overclocking.",
            "Find the place: python -X faulthandler PROGRAM; the last lines name the package.",
            'See whether PyTorch alone starts: python -c "import torch; print(torch.zeros(1).cuda())"',
            "Update that package together with PyTorch, or make a new environment: python -m venv NEW",
            "With llama.cpp, Ollama or LM Studio: update it, try -ngl 0, and compare the model's sha256 with its source.",
            instead='puna runs the same file with its own kernels: puna run PATH "..." --device cpu',
        ),
        ("+segfault|segmentation fault|sigsegv|access violation", "+torch|python|llama|vllm|ollama|model|import"),
        role="effect",
        unless=OTHER_RUNTIMES,
    ),
    Cause(
        "library-not-mapped",
        "memory",
        ("failed to map segment from shared object", "cannot apply additional memory protection after relocation"),
        says(
            "The system found the library but could not map it into memory: the memory or address space that this process may "
            "use is used up (ulimit -v, a login node, a container), or the folder is mounted noexec.",
            "See the limits: ulimit -v; free -g",
            "See whether the folder may hold programs: findmnt -T FOLDER; noexec forbids it. For /tmp: export TMPDIR=$HOME/tmp",
            "On a cluster run it in a job, not on the login node.",
            instead="puna doctor tells the limits that hold here.",
        ),
        ("+map segment|shared object", "+failed|memory|noexec"),
    ),
    Cause(
        "process-aborted",
        "install",
        (
            "fatal python error: aborted",
            "signal 6 (sigabrt)",
            "exitcode: -6",
            "exited with code 134",
            "exit code 134",
            "exit code: 134",
            "exit code 3221226505",
            "0xc0000409",
            "exit code -1073740791",
            "zsh: abort",
        ),
        says(
            "The program ended itself (abort): a check in compiled code failed. What failed is above this line.",
            "Give puna why the whole output, from the start of the program: PROGRAM 2>&1 | puna why -",
            "If there is nothing above: python -X faulthandler PROGRAM",
            instead='puna runs the same file with its own kernels: puna run PATH "..." --device cpu',
        ),
        ("+abort|sigabrt|exit code 134", "+torch|python|llama|vllm|ollama"),
        role="effect",
        unless=OTHER_RUNTIMES,
    ),
    Cause(
        "harmless-notice",
        "install",
        (
            "`torch_dtype` is deprecated! use `dtype` instead",
            "setting `pad_token_id` to `eos_token_id`",
            "the attention mask and the pad token id were not set",
            "the attention mask is not set and cannot be inferred from input",
            "generation flags are not valid and may be ignored",
            "the current process just got forked, after parallelism has already been used",
            "special tokens have been added in the vocabulary",
            "some weights of the model checkpoint at {model:path} were not used",
            "sliding window attention is enabled but not implemented for",
            "pkg_resources is deprecated as an api",
            "destroy_process_group() was not called before program exit",
            "unable to register cudnn factory",
            "onednn custom operations are on",
            "is_causal ... deprecated",
            "`resume_download` is deprecated",
            "`local_dir_use_symlinks` ... deprecated",
            "redirects are currently not supported in windows or macos",
        ),
        says(
            "This is a notice: nothing changes, or only the syntax in future versions.",
            "If the program failed, look for another error, mostly the last one of the text.",
            instead="puna says only what changes an answer or its speed.",
        ),
        role="symptom",
    ),
    Cause(
        "cuda-error-other",
        "cuda",
        (
            "cuda error: {reason:word}",
            "failed: cuda error {file:path}:{line:int} '{reason:word}'",
            "failed: cuda error {file:path}",
            "cuda error {code:int}: {reason:word}",
            "torch.acceleratorerror: cuda error",
            "runtimeerror: cuda driver error: {reason:word}",
            "hip error: {reason:word}",
            "rocm error: {reason:word}",
            "triton error [cuda]: {reason:word}",
            "cuda runtime error ({code:int})",
            "unexpected error from cudagetdevicecount()",
        ),
        says(
            "The GPU's runtime reported an error of which puna knows only the name.",
            "Find the place: CUDA_LAUNCH_BLOCKING=1 PROGRAM; the first error counts, later ones follow from it.",
            "Read the driver's log: sudo dmesg | grep -iE 'nvrm|xid|amdgpu' | tail",
            "See whether a small program runs: python -c \"import torch; print(torch.ones(2, device='cuda') + 1)\"",
            instead="puna doctor tests the driver, PyTorch and a kernel one by one.",
        ),
        role="effect",
    ),
)
