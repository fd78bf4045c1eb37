"""CUDA, cuDNN and the code that wheels hold for cards."""

from __future__ import annotations

from puna.causes.base import Cause, says

ON_THE_CPU = 'puna runs on the CPU meanwhile, and says why it does: puna run MODEL "..." --device cpu'
DEVICES = 'puna names the card: puna run MODEL "..." --device cuda:0; --require-gpu makes it an error to go on without one.'

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
            "The installed PyTorch was built without CUDA: pip or conda took the wheel for the CPU.",
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
            "ptxas fatal : value 'sm_{sm:int}' is not defined for option 'gpu-name'",
            "'sm_{sm:int}' is not a recognized processor for this target",
            "the provided ptx was compiled with an unsupported toolchain",
        ),
        says(
            (
                "The program holds no code for this card: the card is {capability}, and the wheel was built for others. CUDA "
                "starts all the same, and the first kernel fails.",
                "The program holds no code for this card: it was built for other ones, older or newer. CUDA starts all the same, "
                "and the first kernel fails.",
            ),
            'See what it was built for: python -c "import torch; print(torch.cuda.get_arch_list())"',
            "An RTX 50 (sm_120) needs PyTorch 2.7 or later built for CUDA 12.8 or later.",
            "A card before Turing (GTX 10, P40, V100): builds for CUDA 13 hold nothing for it; take one for CUDA 12.6.",
            remedy="replace-torch",
            instead=(
                "puna compares the card with the wheel before it loads anything; its own kernels are compiled for the card "
                "that is there."
            ),
        ),
        (
            "+sm_|compute capability|cuda capability|5090|5080|5070|blackwell",
            "+torch|wheel|vllm|llama.cpp",
            "support|compatible|kernel image",
            "gpu|card|install",
        ),
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
            "cudart init failure: 999",
            "cuda driver library failed to get device context {code:int}",
            "cuda error 999: unknown error",
            "error 999: unknown error",
            "cuda error: unknown error",
            "cuinit err: 999",
            "cuda_error_unknown",
        ),
        says(
            "CUDA does not start, for no reason that it names (999): often the driver was lost while the machine slept, or "
            "was updated and not loaded anew.",
            "Load the part anew that is lost: sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm",
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
            "A kernel found an index outside of its table: nearly always a token id that the embedding has no row for. The "
            "tokenizer is another model's, or tokens were added and the embedding was not enlarged.",
            "Compare the two numbers: len(tokenizer), and the rows of the embedding (vocab_size in config.json).",
            "After adding tokens: model.resize_token_embeddings(len(tokenizer))",
            "The line that is named may be wrong, since kernels run later: run once with CUDA_LAUNCH_BLOCKING=1, or on the CPU.",
            instead="puna refuses an id outside of the vocabulary before anything runs.",
        ),
        ("+device-side assert|device side assert|srcindex", "+cuda|index|token"),
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
            "A kernel touched memory that is not its own: a defect of a kernel or of an extension that was built for another "
            "PyTorch, more seldom of the hardware (overclocked memory, power). What is named beside it need not be the place.",
            "Find the place: CUDA_LAUNCH_BLOCKING=1 PROGRAM",
            "See what the driver noted: sudo dmesg | grep -i xid",
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
            "A GPU was asked for by a number that there is not: more processes than cards, or CUDA_VISIBLE_DEVICES shows fewer. "
            "Numbers begin at 0, and count the visible ones only.",
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
            "Two versions of cuDNN meet: PyTorch's wheel brings its own, and another one, found by LD_LIBRARY_PATH, was "
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
            "could not find the bitsandbytes cuda binary",
            "could not load bitsandbytes native library",
            "libbitsandbytes_cpu.so: cannot open shared object file",
            "libbitsandbytes_cuda{version:int}.so: cannot open shared object file",
        ),
        says(
            "bitsandbytes does not find the CUDA library that it was built for, and took its version for the CPU.",
            "See what it finds: python -m bitsandbytes",
            "See whether a variable asks for another CUDA than PyTorch's: echo $BNB_CUDA_VERSION",
            "Update it: pip install -U bitsandbytes; versions before 0.43 have nothing for Windows.",
            instead="puna needs no bitsandbytes: --weights int8 or int4 are its own.",
        ),
        ("+bitsandbytes|bnb", "+cuda|gpu|libcudart", "fail|not found|without|setup"),
    ),
    Cause(
        "cuda-library-missing",
        "cuda",
        (
            "{library:cudalib}: cannot open shared object file",
            "could not load dynamic library 'libcu",
            "unable to load cudart",
            "cublas64_{version:int}.dll",
        ),
        says(
            (
                "The program was linked to {library}, and this file is not on the machine, or not where libraries are looked "
                "for: it was built for another version of CUDA.",
                "The program was linked to a CUDA library that is not on the machine: it was built for another version of CUDA.",
            ),
            "See which there are: ldconfig -p | grep -E 'libcuda|libcudart|libcublas'",
            "Install the version of the program that was built for the CUDA that your PyTorch brings (torch.version.cuda).",
            "libcuda.so itself belongs to the driver: then the driver is missing.",
            instead="puna needs no CUDA toolkit: PyTorch's wheel brings what it uses.",
        ),
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
                "The card is older than what the program was written for.",
            ),
            "See what it has: nvidia-smi --query-gpu=name,compute_cap --format=csv. GTX 10, P40 and P100 have 6.x, V100 7.0, "
            "T4 and RTX 20 7.5.",
            "llama.cpp and Ollama still run on cards from 5.0 (GTX 900), in builds for CUDA 12.",
            "Where it is torch.compile that fails: run without it, TORCH_COMPILE_DISABLE=1; in vLLM --enforce-eager",
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
            "The card is older than what the program uses: bfloat16 and FlashAttention 2 need compute capability 8.0 "
            "(Ampere: RTX 30, A100) or later. A T4 or RTX 20 is 7.5, a V100 7.0.",
            "Use float16: --dtype half in vLLM, torch_dtype=torch.float16 in transformers.",
            'Leave FlashAttention out: attn_implementation="sdpa".',
            instead='puna runs bf16 checkpoints on the CPU as they are: puna run MODEL "..." --device cpu',
        ),
        ("+bfloat16|bf16|flashattention|flash attention", "+gpu|card|t4|v100|compute capability", "support|ampere|old"),
    ),
    Cause(
        "ecc-error",
        "cuda",
        ("uncorrectable ecc error encountered", "double bit ecc error"),
        says(
            "The card's memory returned a wrong value that it could not mend: hardware. Pages that are bad are retired at "
            "the next start.",
            "See the counts: nvidia-smi -q -d ECC,ROW_REMAPPER",
            "Restart the machine; if it comes again, the card is to be replaced.",
            remedy="restart",
            instead=DEVICES,
        ),
        ("+ecc", "+uncorrect|double bit", "gpu|memory"),
    ),
)
