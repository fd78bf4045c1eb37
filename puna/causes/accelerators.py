"""Other GPUs than NVIDIA's: AMD (HIP, ROCm), Intel (XPU), Apple (MPS), and GPUs used through Vulkan."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says

CPU = 'Meanwhile puna runs on the CPU: puna run MODEL "..." --device cpu'
MAC = 'puna runs on the Mac\'s CPU: puna run MODEL "..."'

# AMD chip -> the HSA_OVERRIDE_GFX_VERSION with which it runs code for the most similar chip.
NEAREST = {
    **dict.fromkeys(("gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035", "gfx1036"), "10.3.0"),
    **dict.fromkeys(("gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152"), "11.0.0"),
}


# Chips that are part of a processor: often a card is beside them.
BESIDE_A_CARD = frozenset(("gfx902", "gfx90c", "gfx1033", "gfx1035", "gfx1036", "gfx1037", "gfx1103"))


def explain_hip(numbers: Captures) -> Explanation:
    """ROCm code not compiled for this chip, with the override that helps, if one is known."""
    chip = numbers.get("chip", "").lower()
    told = f"ROCm's libraries hold no code for this GPU, {chip}." if chip else "The program holds no code for this AMD GPU."
    if "drive" in numbers:
        return _on_windows(chip, numbers)
    override = NEAREST.get(chip)
    if override:
        trick = f"Or run code for the most similar chip: export HSA_OVERRIDE_GFX_VERSION={override}"
    else:
        trick = (
            "Or run code for the most similar chip of the same generation: export HSA_OVERRIDE_GFX_VERSION=10.3.0 for "
            "RX 6000, 11.0.0 for RX 7000 and Ryzen 7000 to AI 300. It may crash."
        )
    is_beside = chip in BESIDE_A_CARD
    told += " It is the small GPU inside the processor: programs take it, too, where a card is beside it." if is_beside else ""
    hide = (
        "If there is a card, hide the small one, by the numbers of rocminfo: export HIP_VISIBLE_DEVICES=0 ROCR_VISIBLE_DEVICES=0"
    )
    return Explanation(
        f"{told} ROCm and each wheel support a fixed list of chips; new and small chips come late.",
        (
            *((hide,) if is_beside else ()),
            "See which chip it is: rocminfo | grep -m1 gfx. See the wheel's list: python -c \"import torch; "
            'print(torch.cuda.get_arch_list())"',
            "Install a PyTorch for a newer ROCm: https://pytorch.org/get-started; for the newest chips AMD's own wheels.",
            trick,
            "llama.cpp and Ollama with Vulkan run on nearly all AMD GPUs without ROCm.",
        ),
        instead=CPU,
        numbers=numbers,
    )


def _on_windows(chip: str, numbers: Captures) -> Explanation:
    """The same in AMD's HIP SDK for Windows, which knows no HSA_OVERRIDE_GFX_VERSION."""
    sdk = f"The HIP SDK {numbers['rocm']}" if numbers.get("rocm") else "The HIP SDK"
    return Explanation(
        f"{sdk} for Windows holds no rocBLAS code for this GPU{f', {chip}' if chip else ''}: new and small chips come late.",
        (
            "Install the newest HIP SDK, or the program's newest version, and see that its path names that one: "
            "https://www.amd.com/en/developer/resources/rocm-hub/hip-sdk.html",
            "Or take a program that uses Vulkan (llama.cpp, Ollama, LM Studio): it runs on nearly all AMD GPUs without ROCm.",
            "Others build rocBLAS for chips that AMD left out; such files are put into the folder that the text names. Keep "
            "the old ones.",
        ),
        instead=CPU,
        numbers=numbers,
    )


# Types that MPS lacks -> why, and what to take instead.
MPS_TYPES = {
    "float64": ("no version has it", "Take float32: dtype=torch.float32, or tensor.float() before it is moved"),
    "bfloat16": (
        "it needs macOS 14 or later",
        "Take float16: from_pretrained(..., dtype=torch.float16); or update macOS and PyTorch.",
    ),
}
FLOAT8 = (
    "it computes nothing in 8-bit floating point",
    "Take the same model in bf16 or float16, a GGUF, or one made for MLX, instead of FP8.",
)
OTHER_TYPE = ("it lacks some types", "Take float16 or float32: from_pretrained(..., dtype=torch.float16)")


def explain_mps(numbers: Captures) -> Explanation:
    """A type or an operation that the Mac's GPU lacks. The fallback to the CPU is for operations: it fixes no type."""
    name = numbers.get("type", "").lower()
    if name:
        why, other = FLOAT8 if name.startswith("float8") else MPS_TYPES.get(name, OTHER_TYPE)
        told = f"PyTorch's MPS (the Mac's GPU) has no {name} here: {why}."
        return Explanation(told, (other, "Or keep that part on the CPU: device='cpu'"), instead=MAC, numbers=numbers)
    missing = f"the operation {numbers['operation']}" if numbers.get("operation") else "this operation, or this type for it"
    return Explanation(
        f"PyTorch's MPS (the Mac's GPU) lacks {missing}.",
        (
            "Run missing operations on the CPU: export PYTORCH_ENABLE_MPS_FALLBACK=1",
            "If a type is missing: load the model in float16 or float32: from_pretrained(..., dtype=torch.float16)",
            "Update PyTorch and macOS; each release adds operations. PyTorch 2.2 was the last for Intel Macs.",
        ),
        instead=MAC,
        numbers=numbers,
    )


CAUSES = (
    Cause(
        "metal-shader",
        "accelerators",
        (
            "input types must match cooperative tensor types",
            "ggml_metal_library_init: error: error domain=mtllibraryerrordomain",
            "ggml_metal_init: error: failed to initialize the metal library",
            "error domain=mtllibraryerrordomain",
        ),
        says(
            "llama.cpp's code for the Mac's GPU (a Metal shader) did not compile here; memory has nothing to do with it. Known "
            "since macOS 26.2, above all on an M5: the part for its tensor units mixes two types, bfloat and half.",
            "Update the program (Ollama, LM Studio and its runtime, llama.cpp, whisper.cpp): newer versions have that part "
            "fixed.",
            "Until then switch that part off, and start the program in the same terminal: export GGML_METAL_TENSOR_DISABLE=1",
            "For Ollama's app instead, then start it again: launchctl setenv GGML_METAL_TENSOR_DISABLE 1",
            "Or run on the CPU: llama.cpp -ngl 0",
            instead=MAC,
        ),
        ("+metal", "+static_assert|compile|shader|bfloat", "+m5|macos|mac|ollama|llama.cpp"),
    ),
    Cause(
        "rocblas-library",
        "accelerators",
        (
            "rocblas error: cannot read {drive:name}:\\ ... rocm\\{rocm:number}\\ ... for gpu arch : {chip:name}",
            "rocblas error: cannot read {drive:name}:\\ ... for gpu arch : {chip:name}",
            "rocblas error: cannot read ... tensilelibrary ... for gpu arch : {chip:name}",
            "rocblas error: cannot read ... tensilelibrary",
            "rocblas error: could not initialize tensile host",
            "tensilelibrary.dat: {reason:word} ... for gpu arch : {chip:name}",
        ),
        explain_hip,
        ("+rocblas|tensile", "+cannot read|gfx|not found|no such file"),
    ),
    Cause(
        "hip-no-kernel",
        "accelerators",
        (
            "hip error: invalid device function",
            "hip error: no kernel image is available",
            "hip error: the operation cannot be performed in the present state",
            "hiperrornobinaryforgpu",
            "hiperrorinvaliddevicefunction",
            "hip error: device kernel image is invalid",
            "unable to find code object for all current devices",
            "hsa_status_error_invalid_isa",
            "hipblaslt on an unsupported architecture",
            "cuda error: invalid device function",
            "rocm error: invalid device function",
        ),
        explain_hip,
        ("+hip|rocm|gfx1151|gfx1201|gfx1103|radeon|amd", "+invalid device function|no binary|not supported|unsupported"),
    ),
    Cause(
        "kfd-rights",
        "accelerators",
        (
            "unable to open /dev/kfd read-write: permission denied",
            "/dev/kfd: permission denied",
            "permission denied: '/dev/kfd'",
            'is not member of "{group:name}" group, the default dri access group',
        ),
        says(
            "This user may not open /dev/kfd, ROCm's door to the AMD GPU. The driver is loaded. In a container the groups of the "
            "machine have other names: what counts is their number.",
            "See who may: ls -ln /dev/kfd /dev/dri",
            "On the machine itself, then sign in again: sudo usermod -aG render,video $USER",
            "A container: docker run --device /dev/kfd --device /dev/dri --group-add $(stat -c %g /dev/kfd) --group-add "
            "$(stat -c %g /dev/dri/renderD128) ...",
            instead=CPU,
        ),
        ("+/dev/kfd|kfd", "+permission|denied|may not|rights", "rocm|amd|docker|group"),
    ),
    Cause(
        "hip-no-device",
        "accelerators",
        (
            "no hip gpus are available",
            "no rocm-capable device is detected",
            "hiperrornodevice",
            "hip error: no rocm",
            "unable to open /dev/kfd",
            "rock module is not loaded",
            "hsa_status_error_out_of_resources",
            "failed to initialize rocm",
            "amdgpu driver ... not found",
            "hsa error: incompatible kernel and userspace",
        ),
        says(
            "ROCm sees no AMD GPU: this user may not open /dev/kfd and /dev/dri, the container lacks them, the driver "
            "amdgpu is not loaded, or a variable hides the card.",
            "See what ROCm sees: rocminfo | head -20; ls -l /dev/kfd /dev/dri",
            "Give this user the right, then sign in again: sudo usermod -aG render,video $USER",
            "In a container: docker run --device /dev/kfd --device /dev/dri --group-add video --group-add render ...",
            "See whether a variable hides it: echo $HIP_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES",
            instead=CPU,
        ),
        ("+hip|rocm|/dev/kfd", "+no gpu|not detected|no device|permission|not found|none available"),
    ),
    Cause(
        "hip-memory-fault",
        "accelerators",
        (
            "memory access fault by gpu node-{node:int}",
            "hw exception by gpu node-{node:int}",
            "hip error: an illegal memory access was encountered",
            "hip error: unspecified launch failure",
            "gpu hang ... amdgpu",
            "amdgpu: ring {ring:word} timeout",
            "hsa_status_error_exception",
            "hsa_status_error_memory_aperture_violation",
        ),
        says(
            "A kernel on the AMD GPU accessed memory it does not own. Usually this ROCm has a defect with this chip, or the code "
            "was built for another chip (HSA_OVERRIDE_GFX_VERSION); sometimes the memory was full.",
            "See whether the override is set: echo $HSA_OVERRIDE_GFX_VERSION. If the chip is supported: unset it.",
            "Read the driver's log: sudo dmesg | grep -i amdgpu | tail",
            "Try another pair of ROCm and kernel; AMD's release notes list the pairs. Try a smaller model or context.",
            "llama.cpp and Ollama with Vulkan need no ROCm.",
            instead=CPU,
        ),
        ("+rocm|hip|amdgpu|radeon", "+memory access fault|gpu hang|illegal memory"),
    ),
    Cause(
        "amdgpu-crash",
        "accelerators",
        (
            "{chip:gfx} ~~~ segmentation fault",
            "segmentation fault ~~~ libamdhip64",
            "libamdhip64 ~~~ segmentation fault",
            "segfault at ... libamdhip64",
            "segfault at ... libhsa-runtime64",
            "segmentation fault ~~~ libhsa-runtime64",
            "libhsa-runtime64 ~~~ segmentation fault",
            "sigsegv ~~~ libamdhip64",
            "sigsegv ~~~ libhsa-runtime64",
            "found {count:int} rocm devices ~~~ segmentation fault",
            "rocm ... segmentation fault",
            "{chip:gfx} ... sigsegv",
            "{chip:gfx} ... exit code 139",
            "amdgpu ... segmentation fault",
        ),
        says(
            (
                "The program crashed (segmentation fault) while it used the AMD GPU, {chip}. Likeliest the kernel of this "
                "machine, with its driver amdgpu and firmware, or the installed ROCm is older than the ROCm that the program was "
                "built with; new chips need new ones.",
                "The program crashed (segmentation fault) while it used the AMD GPU. Likeliest the kernel of this machine, with "
                "its driver amdgpu and firmware, or the installed ROCm is older than the ROCm that the program was built with; "
                "new chips need new ones.",
            ),
            "See both: uname -r; ls -d /opt/rocm*; rocminfo | grep -m1 gfx. AMD's release notes name the kernels of each ROCm.",
            "Update the kernel and the package linux-firmware, and restart. A container uses the kernel of the host: update "
            "that.",
            "Update the program's ROCm, or take a build for the ROCm that is installed.",
            "If it then ends with a page fault: export HSA_ENABLE_SDMA=0",
            "llama.cpp and Ollama with Vulkan do without ROCm.",
            instead=CPU,
        ),
        ("+rocm|hip|amdgpu|radeon|gfx1151|strix halo|libamdhip64", "+segfault|segmentation fault|sigsegv"),
        role="effect",
    ),
    Cause(
        "hip-library-missing",
        "accelerators",
        (
            "libamdhip64.so{version:word}: cannot open shared object file",
            "libhipblas.so{version:word}: cannot open shared object file",
            "librocblas.so{version:word}: cannot open shared object file",
            "libroctx64.so{version:word}: cannot open shared object file",
            "libhsa-runtime64.so{version:word}: cannot open shared object file",
            "libmiopen.so{version:word}: cannot open shared object file",
            "libroc{name:word}: cannot open shared object file",
            "libhip{name:word}: cannot open shared object file",
            "amdhip64_{version:word}.dll",
        ),
        says(
            "A ROCm library is missing, or has another version than the program needs: the program was built for "
            "another ROCm, or ROCm is not installed.",
            "See which there are: ls -d /opt/rocm*; ldconfig -p | grep -i hip",
            "Install the ROCm that the program names, or a PyTorch wheel for ROCm, which brings its libraries: "
            "https://pytorch.org/get-started",
            "With an NVIDIA card, install the CUDA build instead.",
            instead=CPU,
        ),
        ("+libamdhip64|librocblas|libhipblas|rocm", "+cannot open|missing|not found"),
    ),
    Cause(
        "mps-unsupported",
        "accelerators",
        (
            "mps framework doesn't support {type:name}",
            "cannot convert a mps tensor to {type:name}",
            "{type:name} is not supported on mps",
            "trying to convert {type:name} to the mps backend but it does not have support for that dtype",
            "the operator '{operation:word}' is not current implemented for the mps device",
            "the operator '{operation:word}' is not currently implemented for the mps device",
            "not current implemented for the mps device",
            "not currently implemented for the mps device",
            "is not currently supported on the mps backend",
            "not implemented for 'mps'",
            "mps device does not support",
            "not supported on mps",
            "not supported at the mps device",
            "placeholder storage has not been allocated on mps device",
            "mps backend doesn't support",
            "mpsndarray ... total bytes of ndarray",
            "mpsgraph ... int_max",
        ),
        explain_mps,
        ("+mps|metal", "+not implemented|not support|bfloat16|float64|unsupported", "+torch|mac|apple|operator|model"),
    ),
    Cause(
        "torch-without-xpu",
        "accelerators",
        (
            "pytorch is not linked with support for xpu devices",
            "torch not compiled with xpu enabled",
        ),
        says(
            "The installed PyTorch was built without Intel's GPUs (XPU).",
            'See which it is: python -c "import torch; print(torch.__version__)"; it should end in +xpu.',
            "python -m pip uninstall -y torch; python -m pip install torch --index-url https://download.pytorch.org/whl/xpu",
            "intel_extension_for_pytorch is no longer needed since PyTorch 2.5.",
            instead=CPU,
        ),
        ("+xpu", "+not compiled|not linked|without"),
    ),
    Cause(
        "no-xpu",
        "accelerators",
        (
            "no xpu devices are available",
            "no sycl devices found",
            "level-zero ... no devices",
            "can't find any available device",
            "sycl::exception ... no device of requested type available",
            "no device of requested type available",
        ),
        says(
            "PyTorch or SYCL sees no Intel GPU: its compute driver (Level Zero) is missing or older than the card, or this user "
            "may not open /dev/dri.",
            "See what there is: ls -l /dev/dri; clinfo -l, or sycl-ls",
            "Ubuntu: sudo apt install libze-intel-gpu1 libze1 intel-opencl-icd; Windows: install Intel's newest graphics driver.",
            "Give this user the right, then sign in again: sudo usermod -aG render $USER",
            instead=CPU,
        ),
        ("+xpu|sycl|intel arc|level zero|level-zero", "+no device|not found|not detected|none"),
    ),
    Cause(
        "xpu-driver-error",
        "accelerators",
        (
            "level_zero backend failed with error: {code:int} ({status:name})",
            "ur_result_error_out_of_device_memory",
            "ur_result_error_out_of_resources",
            "ur_result_error_device_lost",
            "ur_result_error_{status:name}",
            "native api failed. native api returns: {code:word}",
            "ze_result_error_{status:name}",
        ),
        says(
            "Intel's driver (Level Zero) failed. OUT_OF_DEVICE_MEMORY and OUT_OF_RESOURCES: the GPU's memory is full. "
            "DEVICE_LOST: a kernel ran too long or the driver failed.",
            "Use fewer bits per weight, a smaller context, or a smaller batch.",
            "Install Intel's newest driver; on Linux also a newer kernel.",
            "For one huge buffer: export UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS=1",
            instead=CPU,
        ),
        ("+level_zero|level zero|ur_result|xpu|sycl", "+error|lost|out of|fail"),
    ),
    Cause(
        "intel-library-missing",
        "accelerators",
        (
            "libze_loader.so{version:word}: cannot open shared object file",
            "libsycl.so{version:word}: cannot open shared object file",
            "libmkl{name:word}: cannot open shared object file",
            "libur_loader.so{version:word}: cannot open shared object file",
        ),
        says(
            "A library of Intel's oneAPI is missing: it is not installed, or this terminal does not know its folder.",
            "If oneAPI is installed: source /opt/intel/oneapi/setvars.sh",
            "Otherwise install a PyTorch that brings it: python -m pip install torch --index-url "
            "https://download.pytorch.org/whl/xpu",
            instead=CPU,
        ),
        ("+libsycl|libze|libmkl|oneapi", "+cannot open|missing|not found"),
    ),
    Cause(
        "vulkan-buffer-limit",
        "accelerators",
        (
            "requested buffer size exceeds device buffer size limit",
            "requested buffer size exceeds device memory allocation limit",
            "exceeds device buffer size limit",
            "exceeds maxbuffersize",
        ),
        says(
            "One buffer of llama.cpp is larger than Vulkan's driver gives in one piece (maxBufferSize, often 2 or 4 GiB): "
            "mostly the compute buffer of a long context. The memory as a whole may be enough.",
            "Make the compute buffer smaller: a smaller step, -ub 256 -b 512, and flash attention, -fa on",
            "Or a smaller context: -c 16384; K and V in 8 bits: --cache-type-k q8_0 --cache-type-v q8_0",
            "See the driver's limit: vulkaninfo | grep -iE 'maxBufferSize|maxMemoryAllocationSize'. Another driver (RADV, "
            "AMDVLK) or another backend (ROCm, CUDA) has other limits.",
            instead=CPU,
        ),
        ("+vulkan", "+buffer size|maxbuffersize", "+exceed|limit"),
    ),
    Cause(
        "vulkan-device-lost",
        "accelerators",
        (
            "vk::devicelosterror",
            "vk::queue::submit: errordevicelost",
            "vk_error_device_lost",
            "errordevicelost",
            "ggml_vulkan: device lost",
            "vulkan: device lost",
        ),
        says(
            "The Vulkan driver lost the GPU: a step took longer than the driver allows, the memory was full, or the driver or "
            "this version of the program has a defect with the chip. It is most common on integrated GPUs.",
            "Shorter steps: -ub 128 or -ub 64 in llama.cpp; a smaller context, -c; fewer layers on the GPU, -ngl",
            "Update the GPU's driver (Linux: Mesa), then the program; if it began with an update, use the previous version.",
            "Read the driver's log: sudo dmesg | tail -30",
            instead=CPU,
        ),
        ("+vulkan", "+device lost|devicelost|lost"),
    ),
    Cause(
        "vulkan-absent",
        "accelerators",
        (
            "ggml_vulkan: no devices found",
            "vk::createinstance: errorincompatibledriver",
            "libvulkan.so.1: cannot open shared object file",
            "vk_error_incompatible_driver",
            "vulkan-1.dll",
        ),
        says(
            "The program needs Vulkan, but Vulkan's loader or driver is missing.",
            "Linux: sudo apt install libvulkan1 mesa-vulkan-drivers vulkan-tools, then vulkaninfo --summary; Windows: install "
            "the card's driver.",
            "In a container: docker run --device /dev/dri ...",
            instead=CPU,
        ),
        ("+vulkan", "+no devices|not found|missing|incompatible"),
    ),
)
