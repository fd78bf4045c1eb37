"""Remedies of NVIDIA cards: driver, Secure Boot, rights, containers, PyTorch, NCCL, heat."""

from __future__ import annotations

from puna.machine.remedies.base import Recipe

_BLUE_SCREEN = (
    'The next start shows a blue screen, "Perform MOK management", for ten seconds: press a key, then Enroll MOK, Continue, Yes, '
    'type that password, Reboot. "Continue boot" leaves the driver blocked. (Or turn Secure Boot off in the firmware.)'
)
_LOAD = ("sudo modprobe nvidia", "sudo dmesg | grep -i -e nvidia -e nvrm | tail -20")
_DKMS = ("sudo dkms autoinstall", "sudo modprobe nvidia")
_AKMODS = ("sudo akmods --force", "sudo modprobe nvidia")
_BLACKLIST = "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' | sudo tee /etc/modprobe.d/blacklist-nouveau.conf"
_RPM_FUSION = (
    "sudo dnf install https://mirrors.rpmfusion.org/free/fedora/rpmfusion-free-release-$(rpm -E %fedora).noarch.rpm "
    "https://mirrors.rpmfusion.org/nonfree/fedora/rpmfusion-nonfree-release-$(rpm -E %fedora).noarch.rpm",
)
_DEBIAN_DRIVER = (  # Debian's own is 535 (12) or 550 (13): too old for PyTorch's CUDA 13 and for RTX 50
    "sudo apt install linux-headers-amd64",
    "curl -fsSLO https://developer.download.nvidia.com/compute/cuda/repos/debian$(. /etc/os-release; echo $VERSION_ID)/x86_64/"
    "cuda-keyring_1.1-1_all.deb",
    "sudo dpkg -i cuda-keyring_1.1-1_all.deb",
    "sudo apt update",
    "sudo apt install nvidia-open",
)
_WINDOWS_DRIVER = ("# In Windows: install the driver from https://www.nvidia.com/drivers",)
_TOOLKIT_APT = (
    "curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey "
    "| sudo gpg --dearmor -o /usr/share/keyrings/nvidia-container-toolkit-keyring.gpg",
    "curl -s -L https://nvidia.github.io/libnvidia-container/stable/deb/nvidia-container-toolkit.list "
    "| sed 's#deb https://#deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg] https://#g' "
    "| sudo tee /etc/apt/sources.list.d/nvidia-container-toolkit.list",
    "sudo apt update",
    "sudo apt install nvidia-container-toolkit",
)
_TOOLKIT_DOCKER = ("sudo nvidia-ctk runtime configure --runtime=docker", "sudo systemctl restart docker")

NVIDIA: dict[str, Recipe] = {
    "install-puna-gpu": Recipe("Install PyTorch and Triton for puna.", anywhere=("{install_gpu}",)),
    "install-nvidia-driver": Recipe(
        "Install NVIDIA's driver. If Secure Boot is on, the installer may ask for a password: make one up. The next start "
        "then shows a blue screen: choose Enroll MOK, Continue, Yes, type the password again, Reboot.",
        {
            "ubuntu": ("sudo apt update", "sudo ubuntu-drivers install"),
            "debian": _DEBIAN_DRIVER,
            "fedora": (*_RPM_FUSION, "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda", "sudo akmods --force"),
            "arch": ("sudo pacman -S --needed linux-headers nvidia-open-dkms nvidia-utils",),
            "wsl": _WINDOWS_DRIVER,
            "windows": _WINDOWS_DRIVER,
            "macos": ("# macOS has no driver for NVIDIA cards; use --device cpu",),
        },
        anywhere=("# Get the driver from your distribution, or from https://www.nvidia.com/drivers",),
        needs_reboot=True,
    ),
    "install-cuda-library": Recipe(
        "Install the driver's computing package: libcuda.so.1 and nvidia-smi, in the module's version, {version}.",
        {
            "ubuntu": ("sudo apt install libnvidia-compute-{branch} nvidia-utils-{branch}",),
            "debian": ("sudo apt install libcuda1 nvidia-smi",),
            "fedora": ("sudo dnf install xorg-x11-drv-nvidia-cuda",),
            "arch": ("sudo pacman -S nvidia-utils",),
        },
        anywhere=("# Install the package of your distribution that holds nvidia-smi and libcuda.so.1",),
    ),
    "enroll-mok-key": Recipe(
        "Let Secure Boot trust the key of the module. mokutil asks for a password: make one up. " + _BLUE_SCREEN,
        anywhere=("sudo mokutil --import {key}",),
        needs_reboot=True,
    ),
    "sign-nvidia-module": Recipe(
        "Rebuild and sign the module, and let Secure Boot trust the key. mokutil asks for a password: make one up. "
        + _BLUE_SCREEN,
        {
            "ubuntu": ("sudo update-secureboot-policy --new-key", "sudo dkms autoinstall --force", "sudo mokutil --import {key}"),
            "fedora": ("sudo kmodgenca -a", "sudo akmods --force --rebuild", "sudo mokutil --import {key}"),
        },
        anywhere=("sudo dkms autoinstall --force", "sudo mokutil --import {key}"),
        needs_reboot=True,
    ),
    "confirm-mok-key": Recipe(
        'Restart, and confirm the key: on the blue screen, "Perform MOK management", press a key within ten seconds, then Enroll '
        "MOK, Continue, Yes, the password from the driver's installation, Reboot. If you forgot it: "
        "sudo mokutil --revoke-import, and import the key again.",
        anywhere=("sudo reboot",),
        needs_reboot=True,
    ),
    "blacklist-nouveau": Recipe(
        "Stop the free driver nouveau, which cannot compute, from using the card.",
        {
            "ubuntu": (_BLACKLIST, "sudo update-initramfs -u"),
            "debian": (_BLACKLIST, "sudo update-initramfs -u"),
            "fedora": (
                "sudo grubby --update-kernel=ALL "
                "--args='rd.driver.blacklist=nouveau,nova_core modprobe.blacklist=nouveau,nova_core'",
            ),
            "arch": (_BLACKLIST, "sudo mkinitcpio -P"),
        },
        anywhere=(_BLACKLIST,),
        needs_reboot=True,
    ),
    "install-kernel-headers": Recipe(
        "Install the headers of the running kernel, {release}, and build the module for it. The second package keeps the "
        "headers up to date with new kernels.",
        {
            "ubuntu": ("sudo apt install linux-headers-$(uname -r) linux-headers-{flavour}", *_DKMS),
            "debian": ("sudo apt install linux-headers-$(uname -r) linux-headers-amd64", *_DKMS),
            "fedora": ("sudo dnf install kernel-devel-$(uname -r) kernel-devel-matched", *_AKMODS),
            "arch": ("sudo pacman -S --needed linux-headers", *_DKMS),
        },
        anywhere=("# Install the headers of kernel {release}", *_DKMS),
    ),
    "rebuild-nvidia-module": Recipe(
        "Build the module for the running kernel, {release}.",
        {"fedora": _AKMODS},
        anywhere=_DKMS,
    ),
    "load-nvidia-module": Recipe("Load the module; if it fails, the kernel's log says why.", anywhere=_LOAD),
    "update-nvidia-driver": Recipe(
        "Install a newer driver: {wanted} or later.",
        {
            "ubuntu": ("sudo apt update", "sudo apt install nvidia-driver-{package}"),
            "debian": _DEBIAN_DRIVER,
            "fedora": ("sudo dnf upgrade --refresh", "sudo akmods --force"),
            "arch": ("sudo pacman -Syu",),
            "wsl": _WINDOWS_DRIVER,
            "windows": _WINDOWS_DRIVER,
        },
        anywhere=("# Get the driver from your distribution, or from https://www.nvidia.com/drivers",),
        needs_reboot=True,
    ),
    "open-kernel-module": Recipe(
        "Install the open kernel module: {generation} cards need it.",
        {
            "ubuntu": ("sudo apt install nvidia-driver-{package}",),
            "debian": _DEBIAN_DRIVER,
            "fedora": (
                "echo '%_with_kmod_nvidia_open 1' | sudo tee /etc/rpm/macros.nvidia-kmod",
                "sudo akmods --force --rebuild",
            ),
            "arch": ("sudo pacman -S nvidia-open-dkms linux-headers",),
        },
        anywhere=("# Install the driver's open kernel module (nvidia-open), 570 or later",),
        needs_reboot=True,
    ),
    "proprietary-kernel-module": Recipe(
        "Install the proprietary kernel module of branch 580: {generation} cards need it and support no later driver.",
        {
            "ubuntu": ("sudo apt install nvidia-driver-580",),
            "debian": ("sudo apt install nvidia-driver nvidia-kernel-dkms",),
            "fedora": ("sudo dnf install akmod-nvidia-580xx xorg-x11-drv-nvidia-580xx-cuda --allowerasing",),
            "arch": ("# Build nvidia-580xx-dkms and nvidia-580xx-utils from the AUR instead of nvidia-open-dkms",),
        },
        anywhere=("# Install the proprietary driver of branch 580 from https://www.nvidia.com/drivers",),
        needs_reboot=True,
    ),
    "restart": Recipe(
        "Restart: {why}.", {"windows": ("shutdown /r /t 0",), "wsl": ("wsl.exe --shutdown",)}, ("sudo reboot",), True
    ),
    "restart-into-kernel": Recipe(
        "Restart into the installed kernel, {installed}.", anywhere=("sudo reboot",), needs_reboot=True
    ),
    "reload-uvm": Recipe(
        "End programs that use the GPU, then reload the driver's memory module. If that does not help, restart. The services "
        "nvidia-suspend and nvidia-resume, if enabled, keep the card working after sleep.",
        {"wsl": ("wsl.exe --shutdown",), "windows": ("shutdown /r /t 0",)},
        anywhere=("sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm",),
    ),
    "switch-card-on": Recipe(
        "Let programs switch the card on when they need it.",
        {"ubuntu": ("sudo prime-select on-demand",)},
        anywhere=("# Choose hybrid graphics in the firmware, or in the tool that switched the card off",),
        needs_reboot=True,
    ),
    "give-card-back": Recipe(
        "Remove the card's id from the options of vfio-pci, in /etc/modprobe.d and in the kernel's command line.",
        anywhere=("grep -rn vfio /etc/modprobe.d /proc/cmdline | tail -20",),
        needs_reboot=True,
    ),
    "check-card": Recipe(
        "Switch the machine off. Seat the card firmly and push all its power plugs in fully; try without "
        "overclocking and, on a laptop, with its own power supply.",
        anywhere=("sudo dmesg | grep -i -e nvrm -e xid | tail -20",),
        needs_reboot=True,
    ),
    "make-device-files": Recipe(
        "Create the device files.",
        anywhere=("sudo nvidia-modprobe -u -c 0",),
    ),
    "join-device-group": Recipe(
        "Let this user open the card's device files, then log in again.",
        anywhere=("sudo usermod -aG {group} $USER",),
    ),
    "container-toolkit": Recipe(
        "On the host, not in the container: install NVIDIA's container toolkit, and start the container with its GPUs "
        "(docker run --gpus all, podman run --device nvidia.com/gpu=all).",
        {
            "ubuntu": (*_TOOLKIT_APT, *_TOOLKIT_DOCKER),
            "debian": (*_TOOLKIT_APT, *_TOOLKIT_DOCKER),
            "fedora": (
                "curl -s -L https://nvidia.github.io/libnvidia-container/stable/rpm/nvidia-container-toolkit.repo "
                "| sudo tee /etc/yum.repos.d/nvidia-container-toolkit.repo",
                "sudo dnf install nvidia-container-toolkit",
                *_TOOLKIT_DOCKER,
            ),
            "arch": ("sudo pacman -S nvidia-container-toolkit", *_TOOLKIT_DOCKER),
        },
        anywhere=_TOOLKIT_DOCKER,
    ),
    "restart-container": Recipe(
        "On the host: restart the container. A systemd reload removed its right to the card; a container "
        "that gets its GPUs through CDI keeps them (docker run --device nvidia.com/gpu=all).",
        anywhere=("docker restart {container}",),
    ),
    "update-wsl": Recipe("In Windows: update WSL.", anywhere=("wsl.exe --update", "wsl.exe --shutdown")),
    "remove-linux-driver": Recipe(
        "Remove the Linux driver from WSL: it hides the libcuda of Windows's driver in /usr/lib/wsl/lib.",
        anywhere=(
            "sudo apt purge 'nvidia-driver-*' 'libnvidia-compute-*' 'nvidia-dkms-*'",
            "sudo ldconfig",
            "wsl.exe --shutdown",
        ),
    ),
    "install-gpu-torch": Recipe(
        "Install PyTorch for this card and driver (CUDA {cuda}) and Triton.",
        anywhere=("{pip} install torch --index-url {index}", "{install_gpu}"),
    ),
    "replace-torch": Recipe(
        "Replace it with a PyTorch built for CUDA {cuda}.",
        anywhere=("{pip} uninstall -y torch", "{pip} install torch --index-url {index}"),
    ),
    "reinstall-torch": Recipe("", anywhere=("{pip} install torch --index-url {index}",)).again(),
    "no-gpu-torch": Recipe(
        "No PyTorch wheel supports this card with this driver: update the driver, or use the CPU.",
        anywhere=('puna run --device cpu "What is gravity?"',),
    ),
    "install-triton": Recipe(
        "Install Triton, the compiler of puna's kernels.",
        {"windows": ("{pip} install triton-windows",)},
        anywhere=("{pip} install triton",),
    ),
    "install-compiler": Recipe(
        "Install a C compiler and Python's headers: Triton compiles a launcher for each kernel.",
        {
            "ubuntu": ("sudo apt install gcc python3-dev",),
            "debian": ("sudo apt install gcc python3-dev",),
            "wsl": ("sudo apt install gcc python3-dev",),
            "fedora": ("sudo dnf install gcc python3-devel",),
            "arch": ("sudo pacman -S --needed gcc",),
        },
        anywhere=("# Install gcc, and the headers of this Python",),
    ),
    "see-gpu-memory": Recipe("See which programs use the card's memory.", anywhere=("nvidia-smi",)),
    "remove-second-torch": Recipe("Keep one PyTorch; Python uses the first in this list.", anywhere=("pip uninstall -y torch",)),
    "show-all-cards": Recipe(
        "Let programs see the cards; ~/.profile, ~/.bashrc or the service's unit may set the variable.",
        {"windows": ("set CUDA_VISIBLE_DEVICES=",)},
        anywhere=("unset CUDA_VISIBLE_DEVICES",),
    ),
    "unset-library-path": Recipe(
        "Let PyTorch find its own CUDA libraries.",
        anywhere=("unset LD_LIBRARY_PATH",),
    ),
    "free-gpu-memory": Recipe(
        "End programs that use the card's memory, if you may: {programs}.",
        {"windows": ("# if it may end: taskkill /PID {pid}",)},
        anywhere=("ps -o pid,user,args -p {pid}", "# if it may end: kill {pid}"),
    ),
    "cool-card": Recipe(
        "Cool the card: remove dust, check fans and airflow. Less power means less heat and hardly slows generation.",
        anywhere=("sudo nvidia-smi -i {number} -pl {watts}",),
    ),
    "default-power-limit": Recipe(
        "Reset the card's power limit to its default.", anywhere=("sudo nvidia-smi -i {number} -pl {watts}",)
    ),
    "keep-driver-loaded": Recipe("Keep the driver loaded between programs.", anywhere=("sudo nvidia-smi -pm 1",)),
    "reset-card": Recipe(
        "End all programs on the card and reset it; with a screen on the card, restart the machine.",
        {"windows": ("shutdown /r /t 0",), "wsl": ("wsl.exe --shutdown",)},
        anywhere=("sudo nvidia-smi --gpu-reset -i {number}",),
    ),
    "replace-card": Recipe(
        "The card's memory is faulty. If the error returns after a restart, replace the card.",
        anywhere=("nvidia-smi -q -d ECC,ROW_REMAPPER,PAGE_RETIREMENT", "sudo reboot"),
        needs_reboot=True,
    ),
    "turn-mig-off": Recipe(
        "Turn MIG off, or name one of its parts in CUDA_VISIBLE_DEVICES (nvidia-smi -L lists them).",
        anywhere=("sudo nvidia-smi -i {number} -mig 0",),
        needs_reboot=False,
    ),
    "make-mig-instance": Recipe(
        "Turn MIG off, or divide the card: nvidia-smi mig -lgip lists the sizes.",
        anywhere=("sudo nvidia-smi -i {number} -mig 0",),
    ),
    "no-peer-to-peer": Recipe("Make NCCL use main memory.", anywhere=("export NCCL_P2P_DISABLE=1",)),
    "show-nccl": Recipe(
        "Let NCCL print where it stops.", anywhere=("NCCL_DEBUG=INFO {python} -m puna.backends.torch.self_test all-reduce",)
    ),
}
