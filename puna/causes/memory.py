"""Exhausted memory: of a GPU (several kinds, distinguished by the numbers), of the machine, and of the disk."""

from __future__ import annotations

from dataclasses import dataclass

from puna.causes.base import Captures, Cause, Explanation, filled, says
from puna.units import GIB, foreign_bytes, mib_or_gib

CONTEXT_BYTES = GIB // 2  # memory of a process's CUDA context and libraries, without PyTorch's blocks
FEWER_BITS = 'puna keeps weights that do not fit in fewer bits and says so: puna run MODEL "..." --weights int8, or int4.'


@dataclass(frozen=True, slots=True)
class Allocation:
    """A failed allocation, in bytes; None: the text does not say."""

    wanted: int | None = None
    capacity: int | None = None  # of the device
    free: int | None = None
    allocated: int | None = None  # by tensors of this process
    unallocated: int | None = None  # reserved by this process and not in use
    others: int | None = None  # used by other processes

    @classmethod
    def of(cls, numbers: Captures) -> Allocation:
        """From PyTorch's wording, of versions up to 2.0 and later."""
        size = {name: foreign_bytes(text) for name, text in numbers.items()}
        wanted, capacity, free, allocated = (size.get(name) for name in ("wanted", "capacity", "free", "allocated"))
        reserved, unallocated, in_use, other = (size.get(name) for name in ("reserved", "unallocated", "in_use", "other"))
        if unallocated is None and reserved is not None and allocated is not None:
            unallocated = max(0, reserved - allocated)
        if other is not None and capacity is not None and allocated is not None and allocated + other > capacity:
            other = None  # this process: in a container its PID differs
        mine = in_use if in_use is not None or reserved is None else reserved + CONTEXT_BYTES
        if other is None and None not in (capacity, free, mine):
            other = max(0, capacity - free - mine)  # type: ignore[operator]
        return cls(wanted, capacity, free, allocated, unallocated, other)


def kind_of(a: Allocation) -> str:
    """The kind of failure that the numbers alone show; "" if none.

    >>> kind_of(Allocation(wanted=56 * GIB, capacity=12 * GIB))
    'larger-than-card'
    """
    if a.wanted is None or a.capacity is None:
        return ""
    if a.wanted > a.capacity:
        return "larger-than-card"
    if a.free is not None and a.wanted < a.free:
        return "free-but-refused"
    if a.unallocated is not None and a.unallocated * 10 > a.capacity and a.wanted <= (a.free or 0) + a.unallocated:
        return "fragmentation"
    if a.others is not None and a.others * 20 > a.capacity and a.wanted <= a.others:
        return "other-process"
    return "one-large-tensor" if a.wanted * 2 > a.capacity else ""


# kind -> (the fact, remedy, steps)
KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "larger-than-card": (
        "One single allocation of {wanted} is larger than the whole GPU ({capacity}): attention scores or activations of a long "
        "prompt or a large batch, or a cache that is reserved for the whole context at once.",
        "",
        (
            "Lower the length of the prompt or the context first, then the batch.",
            "Use an attention that never holds all scores at once (FlashAttention, torch's scaled_dot_product_attention).",
        ),
    ),
    "free-but-refused": (
        "{wanted} were refused although {free} of the GPU's memory are free: the system refused, not the card. On Windows "
        "the main memory or the page file is full; elsewhere another process took the memory in between, or a limit is set.",
        "close-programs",
        ("Close other programs, or enlarge Windows's page file.", "See which other programs use the card: nvidia-smi"),
    ),
    "fragmentation": (
        "The memory is fragmented: PyTorch holds {unallocated} unused, more than the requested {wanted}, but no "
        "piece is large enough.",
        "",
        (
            "Let the pieces grow: export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
            "With a PyTorch before 2.1: export PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:128",
        ),
    ),
    "other-process": (
        "Other processes use about {others} of the GPU's {capacity}; without them the {wanted} would fit.",
        "see-gpu-memory",
        (
            "See which they are: nvidia-smi",
            "End leftovers of earlier runs, or let the desktop use another card.",
        ),
    ),
    "one-large-tensor": (
        "One allocation of {wanted} takes more than half of the GPU ({capacity}): activations, scores or logits of a long "
        "prompt or a large batch, not weights.",
        "",
        ("Halve the batch, or the length of the prompts: this allocation shrinks with them.",),
    ),
    "": (
        "The GPU's memory is full: the program asked for {wanted} more.",
        "see-gpu-memory",
        (
            "See what else uses the card: nvidia-smi",
            "If it fails while the model is loaded, only fewer bits per weight, a smaller model or a second GPU help; a "
            "smaller batch does not. If it fails during generation, lower the batch or the context.",
        ),
    ),
}


def explain_cuda(numbers: Captures) -> Explanation:
    """An exhausted GPU, explained by its numbers."""
    allocation = Allocation.of(numbers)
    kind = kind_of(allocation)
    lifted = dict(numbers)
    for name in ("unallocated", "others"):
        size = getattr(allocation, name)
        if size is not None:
            lifted[name] = mib_or_gib(size)
    cause, remedy, cure = KINDS[kind]
    told = filled(cause, lifted) or "The GPU's memory is full."
    return Explanation(told, cure, remedy, FEWER_BITS, lifted, kind)


CAUSES = (
    Cause(
        "shared-memory-too-small",
        "memory",
        (
            "system memory request exceeds memory available in /dev/shm. the request is for {wanted:int} bytes, and the amount "
            "available is {free:int} bytes",
            "system memory request exceeds memory available in /dev/shm",
            "/dev/shm/{file:path} ... no space left on device",
            "no space left on device: '/dev/shm",
            "unable to write to file </torch_{pid:name}>: no space left on device",
            "_multiprocessing.semlock( ~~~ no space left on device",
            "killed by signal: bus error",
            "insufficient shared memory (shm)",
            "dataloader's workers are out of shared memory",
            "please try to raise your shared memory limit",
            "unable to open shared memory object",
            "unable to write to file </torch_{pid:name}",
            "unable to write to file </torch",
            "bus error (core dumped)",
            "^bus error$",
            "signal 7 (sigbus)",
            "exited with code 135",
            "exit code 135",
            "exitcode: -7",
        ),
        says(
            (
                "Shared memory (/dev/shm) has {free} bytes left, and {wanted} are asked for: a container has little of it "
                "unless more is given. No disk is full.",
                "Processes that share tensors found no space in shared memory (/dev/shm): a container has 64 MB of it unless "
                "more is given. A bus error outside of a container: a mapped file was cut short, or the disk under it is full.",
            ),
            "See how much there is: df -h /dev/shm",
            "Give the container more: docker run --ipc=host, or --shm-size=8g. In Kubernetes: an emptyDir of medium Memory at "
            "/dev/shm.",
            "Outside a container: delete leftovers of killed runs in /dev/shm.",
            "Or use fewer processes: num_workers=0",
            instead="puna uses threads of one process; it needs no shared memory.",
        ),
        ("+shared memory|/dev/shm|bus error|shm", "+dataloader|docker|container|worker|torch"),
    ),
    Cause(
        "no-disk-space",
        "memory",
        (
            "no space left on device: '{place:path}",
            "no space left on device",
            "not enough free disk space to download",
            "oserror: [errno 28]",
            "disk quota exceeded",
            "os error 28",
            "winerror 112",
            "there is not enough space on the disk",
        ),
        says(
            (
                "The disk that holds {place} is full, or the quota on it is used up. Models are stored in the user's cache "
                "folder, which may be on a small disk.",
                "The disk is full, or the quota is used up. Models are stored in the user's cache folder, which may be on a "
                "small disk.",
            ),
            "See what is full: df -h ~ /tmp",
            "Put the Hugging Face cache elsewhere: export HF_HOME=/path/with/space",
            remedy="free-disk",
            instead="puna keeps models in the folder that PUNA_CACHE names.",
        ),
        ("+disk", "+full|no space|space left|quota", "+model|checkpoint|weights|hugging|cache folder"),
    ),
    Cause(
        "cublas-out-of-memory",
        "memory",
        (
            "cublas_status_not_initialized",
            "cublas_status_alloc_failed",
            "failed to create cublas handle",
            "cudnn_status_alloc_failed",
            "cudnn_status_not_initialized",
        ),
        says(
            "cuBLAS or cuDNN could not get its initial memory: nearly always the GPU is full. The other known "
            "reason is a token id outside of the vocabulary, which broke the context before.",
            "See how full the card is: nvidia-smi",
            "Lower the batch or the context, or leave some of the memory free.",
            "If much is free, run once with CUDA_LAUNCH_BLOCKING=1 and look at the first error.",
            remedy="see-gpu-memory",
            instead=FEWER_BITS,
        ),
        ("+cublas|cudnn", "+initial|alloc|handle|memory", "fail|error|not"),
    ),
    Cause(
        "ggml-out-of-memory",
        "memory",
        (
            "allocating {wanted:size} on device {gpu:int}: cudamalloc failed: out of memory",
            "failed to allocate cuda{gpu:int} buffer of size {bytes:int}",
            "failed to allocate rocm{gpu:int} buffer of size {bytes:int}",
            "unable to allocate cuda{gpu:int} buffer",
            "unable to allocate {buffer:name} buffer",
            "failed to allocate {buffer:name} buffer of size {bytes:int}",
            "ggml_vulkan: device memory allocation of size {bytes:int} failed",
            "allocatememory: erroroutofdevicememory",
            "erroroutofdevicememory",
            "vk_error_out_of_device_memory",
            "failed to fit params to free device memory",
            "ggml_gallocr_reserve_n: failed to allocate",
            "alloc_tensor_range: failed to allocate",
            "unable to allocate backend buffer",
            "ggml_backend_cuda_buffer_type_alloc_buffer",
            "cudamalloc failed: out of memory",
            "failed to allocate compute buffers",
            "failed to allocate compute pp buffers",
            "failed to allocate buffer for kv cache",
            "failed to allocate buffer for {what:word}",
            "llama_kv_cache: failed to allocate",
        ),
        says(
            (
                "llama.cpp asked for {wanted} in one piece on GPU {gpu} and did not get it: a buffer for weights, for K and V, "
                "or for one step does not fit.",
                "llama.cpp did not get a buffer on the GPU.",
            ),
            "A buffer for weights (alloc_tensor_range): fewer layers on the GPU, --n-gpu-layers, or fewer bits per weight.",
            "A buffer for K and V: a smaller context, -c, or K and V in 8 bits, --cache-type-k q8_0 --cache-type-v q8_0.",
            "A compute buffer (gallocr, graph_reserve): a smaller step, -ub 256, and -fa on.",
            remedy="see-gpu-memory",
            instead="puna plans these before it allocates, lowers the context to what fits, and says so.",
        ),
        ("+llama.cpp|ggml|llama-server", "+out of memory|oom|allocate", "gpu|vram|cuda"),
        unless=("requested buffer size exceeds device",),
        concept="quantisation",
    ),
    Cause(
        "metal-resource-limit",
        "memory",
        ("[metal::malloc] resource limit ({limit:int}) exceeded", "[metal::malloc] resource limit", "metal resource limit"),
        says(
            (
                "MLX holds more than {limit} buffers at once. Their number is full, not the memory: long prompts, kept prompts "
                "and long runs of a server collect small buffers.",
                "MLX holds more buffers at once than Metal allows. Their number is full, not the memory: long prompts, kept "
                "prompts and long runs of a server collect small buffers.",
            ),
            "Update, for several models were fixed in 2026: python -m pip install -U mlx mlx-lm",
            "Start the server again; in a program of yours free them between requests: mx.clear_cache()",
            "Send shorter prompts and fewer at once, and keep fewer prompts: mlx_lm.server --prompt-cache-size 1",
            instead="puna runs on the Mac's CPU, and its K and V are one block.",
        ),
        ("+metal|mlx", "+resource limit|499000", "exceed|server|prompt"),
        concept="kv-cache",
    ),
    Cause(
        "mps-buffer-too-large",
        "memory",
        ("invalid buffer size: {wanted:size}", "invalid buffer size"),
        says(
            (
                "PyTorch asked the Mac's GPU for {wanted} in one piece; Metal gives half to two thirds of the memory at "
                "most. Where transformers asks (caching_allocator_warmup), it reserves all weights as one buffer.",
                "PyTorch asked the Mac's GPU for more in one piece than Metal gives: half to two thirds of the memory. Where "
                "transformers asks (caching_allocator_warmup), it reserves all weights as one buffer.",
            ),
            "If it is more than the Mac's memory, the model is too large: take one of fewer weights or bits, such as a GGUF.",
            "Else update transformers, which no longer does that on mps: python -m pip install -U transformers",
            "Or load on the CPU and move then: from_pretrained(...) without device_map, then model.to('mps')",
            'If attention asked (long texts, no warmup in the traceback): attn_implementation="sdpa", or shorter texts.',
            instead="puna runs on the Mac's CPU; before it allocates, it refuses what does not fit, with both numbers.",
        ),
        ("+mps|mac", "+invalid buffer size|buffer size"),
    ),
    Cause(
        "metal-out-of-memory",
        "memory",
        (
            "kiogpucommandbuffercallbackerroroutofmemory",
            "command buffer execution failed: insufficient memory",
            "[metal::malloc] attempting to allocate {wanted:int} bytes which is greater than the maximum allowed buffer size of "
            "{limit:int} bytes",
            "[metal::malloc] attempting to allocate",
            "[malloc_or_wait] unable to allocate {wanted:int} bytes",
            "[metal] command buffer execution failed",
            "kiogpucommandbuffercallbackerror{reason:name}",
        ),
        says(
            "The Mac's memory is exhausted: the GPU uses the machine's own memory, and macOS lets it use only two thirds to "
            "three quarters of it.",
            "Close other programs; take fewer bits per weight or a smaller context.",
            "Allow the GPU more until the next restart: sudo sysctl iogpu.wired_limit_mb=N",
            remedy="close-programs",
            instead="puna runs on the Mac's CPU; before it allocates, it refuses what does not fit, with both numbers.",
        ),
        ("+metal|mlx", "+out of memory|insufficient memory", "+gpu|model|apple|command buffer"),
        concept="quantisation",
    ),
    Cause(
        "jax-out-of-memory",
        "memory",
        (
            "resource_exhausted: out of memory while trying to allocate {wanted:size}",
            "resource_exhausted: out of memory",
            "oom when allocating tensor with shape",
        ),
        says(
            (
                "XLA asked for {wanted} in one piece, but no piece was that large.",
                "XLA or TensorFlow found no memory for a tensor.",
            ),
            "Lower the batch or the length of the texts.",
            "JAX reserves three quarters of the card at start; for another share: export XLA_PYTHON_CLIENT_MEM_FRACTION=.90",
            "TensorFlow reserves the whole card; let it grow instead: export TF_FORCE_GPU_ALLOW_GROWTH=true",
            remedy="see-gpu-memory",
            instead=FEWER_BITS,
        ),
        concept="quantisation",
    ),
    Cause(
        "sglang-share-too-small",
        "memory",
        (
            "not enough memory. please try to increase --mem-fraction-static. current value: ... "
            "mem_fraction_static={share:number}",
            "not enough memory. please try to increase --mem-fraction-static",
            "please try increasing --mem-fraction-static",
        ),
        says(
            (
                "SGLang keeps weights, K and V in a share of the card's free memory, here {share}, and after the weights "
                "nothing of it is left for K and V: the share is too small. The card need not be full.",
                "SGLang keeps weights, K and V in a share of the card's free memory, and after the weights nothing of it is "
                "left for K and V: the share is too small. The card need not be full.",
            ),
            "Give it more: --mem-fraction-static 0.85",
            "If it has that already: fewer bits per weight, or more cards: --tp 2",
            "Only what is free at the start counts. See what else uses the card: nvidia-smi",
            instead=FEWER_BITS,
        ),
        ("+sglang|mem-fraction-static", "+not enough memory|increase", "memory|fraction"),
        concept="kv-cache",
    ),
    Cause(
        "sglang-share-too-large",
        "memory",
        (
            "capture cuda graph failed: cuda out of memory",
            "capture cuda graph failed: hip out of memory",
            "set --mem-fraction-static to a smaller value",
            "decode out of memory. try to lower your batch size",
            "prefill out of memory. try to lower your batch size",
        ),
        says(
            "SGLang keeps weights, K and V in a share of the card's free memory, and what the share leaves does not hold the "
            "CUDA graphs and the scratch memory of a step: the share is too large.",
            "Give it less: --mem-fraction-static 0.8, then a few hundredths less each time.",
            "Record fewer CUDA graphs: --cuda-graph-max-bs 16; or none, which is slower: --disable-cuda-graph",
            "Or smaller steps: --chunked-prefill-size 2048 --max-running-requests 16",
            instead=FEWER_BITS,
        ),
        ("+sglang", "+out of memory|oom", "+cuda graph|capture|smaller"),
    ),
    Cause(
        "cuda-out-of-memory",
        "memory",
        (
            "to allocate {wanted:size} (gpu {gpu:int}; {capacity:size} total capacity",
            "tried to allocate {wanted:gib}",
            "gpu {gpu:int} has a total capacity of {capacity:size} of which {free:size} is free",
            "gpu {gpu:int} has a total capacty of {capacity:size} of which {free:size} is free",
            "{allocated:size} already allocated; {free:size} free; {reserved:size} reserved",
            "{allocated:size} already allocated",
            "process {pid:int} has {other:size} memory in use",
            "this process has {in_use:size} memory in use",
            "of the allocated memory {allocated:size} is allocated by pytorch, and {unallocated:size} is reserved",
            "cuda out of memory",
            "torch.outofmemoryerror",
            "torch.cuda.outofmemoryerror",
            "cuda error: out of memory",
            "hip out of memory",
            "xpu out of memory",
            "cuda_error_out_of_memory",
            "cudaerrormemoryallocation",
            "nvmapmemallocinternaltagged: {code:int} error 12",
            "cuda error 2 at ... out of memory",
            "allocation on device {gpu:int} would exceed allowed memory",
            "allocation on device would exceed",
            "cuda error: the resource allocation failed",
            "torch.outofmemoryerror: allocation on device",
        ),
        explain_cuda,
        (
            "+out of memory|outofmemory|oom|out of vram|enough vram|vram is full|vram full",
            "+cuda|gpu|vram|nvidia|torch",
            "allocate|mib|gib|full|batch|error|model",
        ),
        concept="quantisation",
    ),
    Cause(
        "mps-out-of-memory",
        "memory",
        ("mps backend out of memory (mps allocated: {allocated:size}", "mps backend out of memory"),
        says(
            "The memory that macOS lets PyTorch's MPS use is full. It is the machine's main memory: macOS gives a GPU about two "
            "thirds of it.",
            "Fewer bits per weight, or a smaller model.",
            "End other programs, and free what is cached between runs: torch.mps.empty_cache()",
            "The limit can be lifted, at the risk that the machine stalls: PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0",
            instead="puna runs on the Mac's CPU, with weights of 4 or 8 bits.",
        ),
        concept="quantisation",
    ),
    Cause(
        "process-killed",
        "memory",
        (
            "exitcode: -9",
            "signal 9 (sigkill) received by pid",
            "terminated with signal sigkill",
            "signal: killed",
            "^killed$",
            "exit code 137",
            "exited with code 137",
            "exits with code 137",
            "exit code: 137",
            "oom-kill",
            "out of memory: killed process {pid:int}",
            "oomkilled",
            "returned non-zero exit status 137",
            "died with <signals.sigkill: 9>",
            "a worker process managed by the executor was unexpectedly terminated",
            "^getötet$",
            "^已杀死$",
            "^zsh: killed",
            "zsh: killed",
        ),
        says(
            "The system ended the process (signal 9): its main memory was full, not the GPU's. Meta's loader reads a whole "
            "consolidated.NN.pth into main memory first, so a 13 GB file needs more than 13 GB free. In WSL the default "
            "limit is half of the machine's memory; a container has a limit of its own.",
            "Check it: sudo dmesg | grep -i 'killed process'",
            "See how much there is: free -g",
            remedy="close-programs",
            instead=(
                "puna maps checkpoints from the disk, and refuses with the bytes needed and free before it allocates anything."
            ),
        ),
        (
            "+sigkill|signal 9|exitcode -9|was killed|is killed|got killed|prints killed|says killed|just killed|only killed",
            "+torchrun|checkpoint|python|llama|model load|loading",
            "process|signal|nothing|memory",
        ),
        concept="quantisation",
    ),
    Cause(
        "page-file-too-small",
        "memory",
        ("the paging file is too small for this operation to complete", "winerror 1455", "os error 1455"),
        says(
            "Windows could not reserve the memory: main memory and page file together are used up. Windows counts all memory "
            "that a program reserves, even what it does not use, such as CUDA's libraries in each process.",
            "Enlarge the page file: Settings, System, About, Advanced system settings, Performance, Virtual memory; system "
            "managed, on a disk with room for the model.",
            "Fewer processes at once (num_workers=0), and no other large programs.",
            "Load with fewer copies: safetensors instead of .pth or .bin.",
            instead=(
                "puna maps checkpoints from the disk, and refuses with the bytes needed and free before it allocates anything."
            ),
        ),
        ("+paging file|page file|pagefile|1455", "+too small|error|windows|enlarge"),
    ),
    Cause(
        "no-locked-memory",
        "memory",
        ("failed to mlock {bytes:int}-byte buffer", "failed to mlock", "warning: failed to virtuallock"),
        says(
            "llama.cpp was told to keep the model in main memory (--mlock), and the system allows less locked memory than "
            "that. It continues unlocked: slower if memory is short, not broken.",
            "Omit --mlock, or raise the limit for this terminal: ulimit -l unlimited",
            instead="puna maps checkpoints from the disk and locks nothing.",
        ),
        ("+mlock", "+fail|limit|memory"),
        role="symptom",
    ),
    Cause(
        "no-pinned-memory",
        "memory",
        (
            "failed to allocate {wanted:size} of pinned memory",
            "of pinned memory: out of memory",
            "of pinned memory: invalid argument",
        ),
        says(
            (
                "llama.cpp asked for {wanted} of pinned main memory, for faster copies to the GPU, and did not get it. It "
                "continues with ordinary memory: prompts are read more slowly, nothing is broken.",
                "llama.cpp asked for pinned main memory and did not get it. It continues with ordinary memory.",
            ),
            "If the program failed, the reason is below this line.",
            "See how much is free: free -g; without trying: GGML_CUDA_NO_PINNED=1",
            instead="puna says which weights stay in main memory: puna plan MODEL",
        ),
        role="symptom",
    ),
    Cause(
        "host-out-of-memory",
        "memory",
        (
            "unable to mmap {wanted:int} bytes from file <{file:path}>",
            "unable to mmap ... cannot allocate memory",
            "defaultcpuallocator: can't allocate memory: you tried to allocate {wanted:int} bytes",
            "defaultcpuallocator: not enough memory: you tried to allocate {wanted:int} bytes",
            "defaultcpuallocator",
            "std::bad_alloc",
            "oserror: [errno 12] cannot allocate memory",
            "numpy.core._exceptions._arraymemoryerror",
            "numpy._core._exceptions._arraymemoryerror",
        ),
        says(
            (
                "The machine has no {wanted} bytes of free main memory for this file or array.",
                "The machine's main memory is exhausted, not the GPU's.",
            ),
            "See how much is free: free -g",
            "Load with fewer copies: safetensors instead of .pth or .bin; in transformers low_cpu_mem_usage=True.",
            remedy="close-programs",
            instead=(
                "puna maps checkpoints from the disk, and refuses with the bytes needed and free before it allocates anything."
            ),
        ),
        (
            "+main memory|system memory|ram|mmap|cpu memory",
            "+allocate|exhausted|full|not enough|out of",
            "+model|checkpoint|weights",
        ),
        concept="quantisation",
    ),
)
