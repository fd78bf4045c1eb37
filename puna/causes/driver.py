"""The NVIDIA driver: absent, refused, lost, of another version, or not in the container."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says
from puna.causes.codes import cuda_start_failed, nvml_start_failed

DOCTOR = "puna doctor tries the driver part by part and names what is missing."


def explain_old_driver(numbers: Captures) -> Explanation:
    """A driver that is too old, with the newest CUDA that it supports: 11040 is 11.4."""
    found = numbers.get("found", "")
    newest = f" The newest CUDA that it supports is {int(found) // 1000}.{int(found) % 1000 // 10}." if found else ""
    needed = numbers.get("needed", "")
    wanted = f" The program wants CUDA {needed}." if needed else ""
    than = "the installed PyTorch needs" if found else "what the program was built for"  # PyTorch's text has the number
    return Explanation(
        f"The NVIDIA driver is older than {than}.{newest}{wanted}",
        (
            "See which CUDA the driver supports: nvidia-smi, at the top right",
            "Install a newer driver, or a program (PyTorch, container) built for an older CUDA.",
        ),
        "update-nvidia-driver",
        DOCTOR,
        numbers,
    )


CAUSES = (
    Cause(
        "secure-boot-key",
        "driver",
        (
            "could not insert 'nvidia{part:word}': key was rejected by service",
            "key was rejected by service",
            "loading of unsigned module is rejected",
            "required key not available",
            "perform mok management",
            "module verification failed: signature and/or required key missing - module not loaded",
        ),
        says(
            "Secure Boot is on, and the kernel does not trust the signing key of the driver's module, so the module "
            "is not loaded.",
            "See it: mokutil --sb-state; mokutil --list-enrolled",
            'Enrol the key, restart, and choose "Enroll MOK" on the blue screen "Perform MOK management", with the password '
            "given here.",
            "Or switch Secure Boot off in the firmware's settings.",
            remedy="enroll-mok-key",
            instead=DOCTOR,
        ),
        (
            "+secure boot|mok|key was rejected|key is rejected|rejects the key|unsigned",
            "+nvidia|modprobe|kernel module",
            "+reject|refus|sign|signed|key|enrol|blue screen",
            "driver|module|boot|load",
        ),
    ),
    Cause(
        "nouveau-in-the-way",
        "driver",
        (
            "the nouveau kernel driver is currently in use by your system",
            "nouveau kernel driver is currently in use",
            "nvidia kernel module from obtaining ownership",
        ),
        says(
            "The free driver nouveau uses the card, so NVIDIA's driver cannot.",
            "See it: lsmod | grep nouveau",
            "Keep it from loading, renew the initial ramdisk, and restart.",
            remedy="blacklist-nouveau",
            instead=DOCTOR,
        ),
        ("+nouveau", "+nvidia", "+in use|blacklist|disable|conflict|incompatible|instead"),
    ),
    Cause(
        "kernel-headers-missing",
        "driver",
        (
            "your kernel headers for kernel {kernel:word} cannot be found",
            "missing {kernel:word} kernel headers for module nvidia",
            "unable to find the kernel source tree for the currently running kernel",
            "/lib/modules/{kernel:word}/build: no such file or directory",
        ),
        says(
            (
                "The driver's module must be built for the kernel {kernel}, and that kernel's headers are not installed or "
                "do not fit.",
                "The driver's module must be built for the running kernel, and that kernel's headers are not installed or do "
                "not fit.",
            ),
            "See the kernel and the builds: uname -r; dkms status",
            "Install the headers of exactly this kernel; DKMS then builds the module.",
            remedy="install-kernel-headers",
            instead=DOCTOR,
        ),
        ("+kernel headers|linux-headers|kernel-devel", "+nvidia|driver|module|dkms", "missing|not found|cannot|fail|build"),
    ),
    Cause(
        "dkms-build-failed",
        "driver",
        (
            "bad return status for module build on kernel: {kernel:word} ... /dkms/nvidia/{driver:word}/build",
            "bad return status for module build on kernel: {kernel:word} ... /dkms/nvidia",
            "building module: ... dkms/nvidia ... bad exit status",
            "failed for nvidia({code:int})",
            "dkms: install ... nvidia ... failed",
        ),
        says(
            (
                "DKMS began to build the driver's module {driver} for the kernel {kernel}, and the build failed. Usually the "
                "kernel is newer than this driver supports; otherwise the compiler differs from the kernel's, or headers are "
                "missing.",
                "DKMS began to build the driver's module, and the build failed. Usually the kernel is newer than this driver "
                "supports; otherwise the compiler differs from the kernel's, or headers are missing.",
            ),
            "See the first error: grep -m3 -iE 'error|no such file' /var/lib/dkms/nvidia/*/build/make.log",
            "Install a newer driver; until then choose the previous kernel in the boot menu.",
            "If a header is not found: install the headers of exactly this kernel (uname -r).",
            remedy="update-nvidia-driver",
            instead=DOCTOR,
        ),
        (
            "+dkms",
            "+nvidia",
            "+build fails|build failed|not build|bad return|failed to build|fails to build",
            "kernel|module",
        ),
    ),
    Cause(
        "open-kernel-module-needed",
        "driver",
        (
            "requires use of the nvidia open kernel modules",
            "rminitadapter failed",
            "none of the nvidia devices were initialized",
            "is not supported by open nvidia.ko because it does not include the required gpu",
        ),
        says(
            "The kernel module does not fit the card. Cards since Blackwell (RTX 50) run with NVIDIA's open kernel modules "
            "only; cards before Turing (GTX 10 and older) with the proprietary ones only.",
            "See which module is loaded: cat /proc/driver/nvidia/version",
            "Install the other one: the package's name ends in -open for the open modules.",
            remedy="open-kernel-module",
            instead=DOCTOR,
        ),
        ("+open kernel module|open nvidia|nvidia-open|nvidia open", "+driver|module|5090|card|gpu", "require|need|not supported"),
    ),
    Cause(
        "gpu-fell-off-the-bus",
        "driver",
        (
            "gpu has fallen off the bus",
            "gpu is lost. reboot the system to recover this gpu",
            *nvml_start_failed("15"),
            "unable to determine the device handle for gpu",
        ),
        says(
            "The card no longer answers on the PCI bus (Xid 79): heat, too little power, a loose riser or slot, less often "
            "the driver.",
            "Read the kernel's log: sudo dmesg | grep -iE 'xid|pcie'",
            "Restart; if it happens again, check the power cables and the slot, and lower the limit: sudo nvidia-smi -pl WATTS",
            remedy="restart",
            instead=DOCTOR,
        ),
        ("+fallen off|off the bus|gpu is lost|xid 79", "+gpu|pci|nvidia|nvrm"),
    ),
    Cause(
        "driver-library-mismatch",
        "driver",
        (
            "driver/library version mismatch",
            "system has unsupported display driver / cuda driver combination",
            "nvml library version: {library:word}",
            "api mismatch: the client has the version {library:word}",
            *cuda_start_failed("803"),
            *nvml_start_failed("18"),
        ),
        says(
            "The driver was updated while the old kernel module stayed loaded: the libraries are of one version, the module "
            "of another.",
            "See the module's version: cat /proc/driver/nvidia/version",
            "Restart to load the new module.",
            "If the error stays: two versions are installed, from packages and from NVIDIA's .run file; remove one, and "
            "install again.",
            remedy="restart",
            instead=DOCTOR,
        ),
        ("+nvml|nvidia-smi|driver", "+library", "+version|mismatch", "match|update|kernel"),
    ),
    Cause(
        "driver-too-old",
        "driver",
        (
            "nvidia driver on your system is too old (found version {found:int})",
            "driver on your system is too old",
            "cuda driver version is insufficient for cuda runtime version",
            "unsupported cuda version: driver",
            "unsatisfied condition: cuda>={needed:word}",
            "forward compatibility was attempted on non supported hw",
            "cudaerrorinsufficientdriver",
            "cuda_error_compat_not_supported_on_device",
            "the nvidia driver on your system is too old",
            "cuda driver version {found:int} is older than",
            *cuda_start_failed("35"),
            *cuda_start_failed("804"),
        ),
        explain_old_driver,
        ("+driver", "+too old|outdated|insufficient|older|newer driver", "+cuda|nvidia", "version|update|torch"),
    ),
    Cause(
        "wsl-gpu",
        "driver",
        (
            "gpu access blocked by the operating system",
            "libcuda.so.1 is not a symbolic link",
            "dxgkio_query_adapter_info",
            "wsl environment detected but no adapters were found",
        ),
        says(
            "WSL cannot use the GPU. WSL uses the Windows driver through /usr/lib/wsl/lib: either that driver is too old, or "
            "a Linux driver that was installed inside WSL hides it.",
            "In Windows: install the current driver, then wsl --update and wsl --shutdown.",
            "In WSL: remove packages named nvidia-driver-* and nvidia-utils-*; nvidia-smi must be /usr/lib/wsl/lib/nvidia-smi.",
            "Windows does not pass a data-centre card in TCC mode to WSL: set it to WDDM or MCDM (nvidia-smi in Windows shows "
            "the mode).",
            remedy="update-wsl",
            instead=DOCTOR,
        ),
        ("+wsl", "+gpu|nvidia|cuda", "+blocked|not found|driver|fail|detect"),
    ),
    Cause(
        "container-host-driver",
        "driver",
        (
            "nvidia-container-cli: initialization error: load library failed: {library:cudalib}",
            "nvidia-container-cli: initialization error: load library failed",
            "nvidia-container-cli: initialization error: nvml error: driver not loaded",
            "nvidia-container-cli: initialization error: driver error",
        ),
        says(
            (
                "The NVIDIA Container Toolkit is installed, but finds no driver: {library} is not on the machine that runs "
                "the containers.",
                "The NVIDIA Container Toolkit is installed, but finds no working driver on the machine that runs the containers.",
            ),
            "See whether the driver works outside: nvidia-smi. If not, install it first; the containers use it.",
            "Docker Desktop for Linux runs its containers in a virtual machine without the GPU: use Docker Engine, "
            "docker context use default",
            "After installing: sudo systemctl restart docker; docker run --rm --gpus all ubuntu nvidia-smi",
            remedy="install-nvidia-driver",
            instead=DOCTOR,
        ),
        ("+nvidia-container-cli|container toolkit", "+libnvidia-ml|load library|driver not loaded|libcuda"),
    ),
    Cause(
        "no-nvidia-driver",
        "driver",
        (
            "found no nvidia driver on your system",
            "no nvidia driver",
            "libcuda.so.1: cannot open shared object file",
            "libcuda.so: cannot open shared object file",
            "libcuda.so not found! do you have a cuda driver installed",
            "nvidia-smi: command not found",
            "'nvidia-smi' is not recognized as an internal or external command",
        ),
        says(
            "There is no NVIDIA driver.",
            "See whether there is a card: lspci | grep -i nvidia",
            "Install the driver, restart, and check that nvidia-smi lists the card.",
            remedy="install-nvidia-driver",
            instead='Meanwhile puna runs on the CPU: puna run MODEL "..." --device cpu',
        ),
        (
            "+nvidia",
            "+driver",
            "+no driver|not installed|missing|found no|command not found|not recognized",
            "install|system|smi",
        ),
    ),
    Cause(
        "container-lost-gpu",
        "driver",
        (
            "failed to initialize nvml: unknown error",
            "can't initialize nvml: unknown error",
            "nvml: unknown error",
            "nvmlinit failed: unknown error",
            "nvmlerror_unknown: unknown error",
            *nvml_start_failed("999"),
        ),
        says(
            "The card's files in /dev may not be opened any more. In a container that had the GPU and lost it after a while, "
            "systemd did that: it set the container's rights anew (systemctl daemon-reload, an update) and knows nothing of the "
            "GPU.",
            "See whether it works outside of the container: nvidia-smi. If so, docker restart CONTAINER fixes it for a while.",
            'For good: "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json, then sudo systemctl restart '
            "docker",
            "Or name the files: docker run --gpus all --device /dev/nvidia0 --device /dev/nvidiactl --device /dev/nvidia-uvm "
            "--device /dev/nvidia-uvm-tools ...",
            "Or give the GPU by CDI: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, then docker run --device "
            "nvidia.com/gpu=all ...",
            "Outside of a container: see the rights with ls -l /dev/nvidia*; id; restart the machine after a driver's update.",
            instead=DOCTOR,
        ),
        (
            "+docker|container|podman|lxc",
            "+nvml|lost the gpu|loses the gpu|loses its gpu|gpu disappears|lose gpu",
            "+unknown error|hours|a while|daemon-reload|some time|days|lost|loses",
        ),
    ),
    Cause(
        "device-rights",
        "driver",
        (
            "failed to initialize nvml: insufficient permissions",
            "/dev/nvidia{device:word}: permission denied",
            "open /dev/nvidia{device:word}: operation not permitted",
        ),
        says(
            "This user may not open the card's files in /dev, or the container was not given them.",
            "See them: ls -l /dev/nvidia*; id",
            "In a container: start it with the GPU: docker run --gpus all ...",
            remedy="join-device-group",
            instead=DOCTOR,
        ),
        ("+/dev/nvidia|nvml", "+permission|permitted|rights"),
    ),
    Cause(
        "container-without-gpu",
        "driver",
        (
            "could not select device driver {quotes:path} with capabilities: [[gpu]]",
            "could not select device driver ... capabilities: [[gpu]]",
            "nvidia-container-cli: initialization error",
            "unknown or invalid runtime name: nvidia",
            "failed to inject cdi devices",
            "unresolvable cdi devices",
            "failed to discover gpu vendor from cdi",
            "no known gpu vendor found",
            "cdi device injection failed",
            "libnvidia-ml.so.1: file exists",
        ),
        says(
            "Docker cannot give a GPU to a container: the NVIDIA Container Toolkit is not installed, Docker is not configured "
            "for it, or there is no NVIDIA card. New versions of Docker and Podman look for a description of the card (CDI), "
            "which the toolkit writes.",
            "Without an NVIDIA card, leave --gpus out. An Intel or AMD GPU: docker run --device /dev/dri ...",
            "Install it, on the machine that runs the containers: NVIDIA's package source as in "
            "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html, then sudo apt install "
            "nvidia-container-toolkit, or sudo dnf install nvidia-container-toolkit",
            "Then: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
            "If the text speaks of CDI, write the description anew: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
            "A Docker that was installed as a snap does not find it: use Docker's own packages.",
            "Check it: docker run --rm --gpus all ubuntu nvidia-smi",
            remedy="container-toolkit",
            instead=DOCTOR,
        ),
        (
            "+docker|container|podman",
            "+gpu|nvidia",
            "+select|unknown runtime|container toolkit|capabilit|no gpu|not see|not visible",
        ),
    ),
    Cause(
        "driver-not-loaded",
        "driver",
        (
            "nvidia-smi has failed because it couldn't communicate with the nvidia driver",
            "failed to initialize nvml: driver not loaded",
            "nvidia driver is not loaded",
            "modprobe: fatal: module nvidia not found in directory",
            "unable to load the kernel module 'nvidia.ko'",
            "no compatible gpus were discovered",
            *nvml_start_failed("9"),
        ),
        says(
            "The driver's programs are there, but its kernel module is not loaded: it was not built for the running kernel, "
            "Secure Boot refuses it, nouveau uses the card, or the machine was not restarted after the installation.",
            "Load it, and read the errors: sudo modprobe nvidia; sudo dmesg | tail -20",
            "See whether it was built for this kernel: uname -r; dkms status",
            "See whether Secure Boot is on: mokutil --sb-state",
            instead=DOCTOR,
        ),
        ("+nvidia-smi|nvidia smi|nvidia driver", "+fail|communicate|not loaded|not running", "driver|module|kernel"),
        role="effect",
    ),
)
