"""Remedies of the machine itself: CPU, memory, disk, Python, containers, WSL, network, power."""

from __future__ import annotations

from puna.machine.distribution import Distribution
from puna.machine.remedies.base import Recipe


def on_apt(*commands: str) -> dict[Distribution, tuple[str, ...]]:
    """The same commands for all systems with apt."""
    return {"ubuntu": commands, "debian": commands, "wsl": commands}


_SWAP_ON = ("sudo chmod 600 /swapfile", "sudo mkswap /swapfile", "sudo swapon /swapfile")
_OWN_ENVIRONMENT = ("python3 -m venv ~/puna-env", "~/puna-env/bin/pip install {puna}")

HOST: dict[str, Recipe] = {
    "show-cpu-to-guest": Recipe(
        "If this is a virtual machine, let it see the CPU as it is: CPU type `host` in QEMU, libvirt and Proxmox."
    ),
    "use-all-cores": Recipe("Start puna without taskset, or give the job more CPUs: it may use {pinned} of {present}."),
    "close-programs": Recipe(
        "See which programs use the memory, and end those you do not need.",
        {
            "windows": ("Get-Process | Sort-Object WorkingSet64 -Descending | Select-Object -First 12",),
            "macos": ("ps -axo pid,rss,comm -m | head -n 12",),
        },
        anywhere=("ps -eo pid,rss,comm --sort=-rss | head -n 12",),
    ),
    "raise-memory-limit": Recipe(
        "Give the container more memory, on the host: docker run --memory {wanted}, or docker update --memory {wanted} "
        "--memory-swap {wanted} NAME; in Kubernetes resources.limits.memory. Or use a smaller model or fewer bits per weight."
    ),
    "raise-ulimit": Recipe(
        "In the shell that starts puna, type `{limit} unlimited` (the hard limit must allow it); for a systemd service, set "
        "LimitAS= and LimitDATA= to infinity."
    ),
    "add-swap": Recipe(
        "Add a swap file: the machine then slows down instead of ending programs.",
        on_apt("sudo fallocate -l 8G /swapfile", *_SWAP_ON)
        | {
            "arch": ("sudo mkswap -U clear --size 8G --file /swapfile", "sudo swapon /swapfile"),
            "fedora": ("sudo touch /swapfile", "sudo chattr +C /swapfile || true", "sudo fallocate -l 8G /swapfile", *_SWAP_ON),
        },
    ),
    "free-disk": Recipe(
        "See which models are large, and remove those you no longer need.",
        {"windows": ("Get-ChildItem -Recurse {folder} | Sort-Object Length -Descending | Select-Object -First 15",)},
        anywhere=("du -a -h {folder} | sort -h | tail -n 15",),
    ),
    "own-cache": Recipe(
        "Make the folder yours, or choose another one with PUNA_CACHE.",
        {"windows": ('icacls {folder} /grant "$($env:USERNAME):(OI)(CI)F"',)},
        anywhere=('sudo chown -R "$(id -un)" {folder}',),
    ),
    "cache-elsewhere": Recipe(
        "Choose a writable folder on a disk with free space.",
        {"windows": ('$env:PUNA_CACHE = "$env:LOCALAPPDATA\\puna-cache"',)},
        anywhere=('mkdir -p -m 700 "$HOME/puna-cache"', 'export PUNA_CACHE="$HOME/puna-cache"'),
    ),
    "cache-beside-home": Recipe(
        "Choose a writable folder on a disk with free space, and set PUNA_CACHE to it in every shell that starts puna.",
        {"windows": ()},
        anywhere=('export PUNA_CACHE="$(mktemp -d /var/tmp/puna-XXXXXXXX)"; echo "$PUNA_CACHE"',),  # private, mode 700
    ),
    "cache-at-home": Recipe(
        "Keep models on this system's own disk; the next start fetches them again.",
        anywhere=('export PUNA_CACHE="$HOME/.cache/puna"',),
    ),
    "newer-python": Recipe(
        "Install 64-bit CPython 3.11 or newer, and puna in its own environment.",
        on_apt("sudo apt update", "sudo apt install -y python3 python3-venv")
        | {
            "fedora": ("sudo dnf install -y python3",),
            "arch": ("sudo pacman -S --needed python",),
            "windows": ("winget install --id Python.Python.3.12",),
            "macos": ("brew install python@3.12",),
        },
    ),
    "make-venv": Recipe(
        "Install puna in its own environment; the package manager owns the system's Python.",
        on_apt("sudo apt install -y python3-venv", *_OWN_ENVIRONMENT)
        | {"windows": ('py -m venv "$HOME\\puna-env"', '& "$HOME\\puna-env\\Scripts\\pip" install {puna}')},
        anywhere=_OWN_ENVIRONMENT,
    ),
    "install-packages": Recipe(
        "Install what is missing or too old.",
        {"windows": ("& {python} -m pip install --upgrade {packages}",)},
        anywhere=("{python} -m pip install --upgrade {packages}",),
    ),
    "install-torch": Recipe(
        "Install PyTorch for the CPU.",
        {"windows": ("{pip} install 'torch>={least}'",), "macos": ("{pip} install 'torch>={least}'",)},
        anywhere=("{pip} install 'torch>={least}' --index-url https://download.pytorch.org/whl/cpu",),
    ),
    "system-with-glibc": Recipe("Use a system with glibc; for containers use python:3.12-slim instead of an Alpine image."),
    "native-python": Recipe("Install a Python for Apple silicon.", {"macos": ("arch -arm64 brew install python@3.12",)}),
    "raise-cpu-quota": Recipe(
        "Give the container whole cores, on the host: docker run --cpus {wanted}; in Kubernetes resources.limits.cpu."
    ),
    "raise-shm": Recipe(
        "Only several GPUs need it. Start the container with more: docker run --shm-size=1g, or --ipc=host; in Kubernetes an "
        "emptyDir of medium Memory, mounted at /dev/shm."
    ),
    "wsl-memory": Recipe(
        "In Windows, put the lines [wsl2] and memory={wanted} into the file .wslconfig of your user folder "
        "(notepad $env:USERPROFILE\\.wslconfig), then stop WSL; the next terminal starts it again.",
        anywhere=("wsl.exe --shutdown",),
        needs_reboot=True,
    ),
    "wsl-version-2": Recipe(
        "In Windows, in PowerShell, convert this system to WSL 2. It takes some minutes.",
        anywhere=("wsl.exe --set-version {system_name} 2",),
        needs_reboot=True,
    ),
    "unset-torchrun": Recipe(
        "If another program left these variables, unset them. To share a model, start puna with torchrun, which sets them all.",
        {"windows": ("Remove-Item Env:{powershell} -ErrorAction SilentlyContinue",)},
        anywhere=("unset {variables}",),
    ),
    "set-master": Recipe(
        "Start puna with torchrun, which sets them, or set the address of rank 0's machine.",
        {"windows": ("$env:MASTER_ADDR = '127.0.0.1'; $env:MASTER_PORT = '29500'",)},
        anywhere=("export MASTER_ADDR=127.0.0.1 MASTER_PORT=29500",),
    ),
    "another-port": Recipe(
        "See which program listens there, or use another port (torchrun --master_port {other}).",
        {
            "windows": ("Get-NetTCPConnection -LocalPort {port} -State Listen", "$env:MASTER_PORT = '{other}'"),
            "macos": ("lsof -nP -iTCP:{port} -sTCP:LISTEN", "export MASTER_PORT={other}"),
        },
        anywhere=("ss -ltnp 'sport = :{port}'", "export MASTER_PORT={other}"),
    ),
    "name-the-host": Recipe(
        "Give this machine's name an address. With several machines, use the address that the others reach.",
        anywhere=("echo 127.0.1.1 {host_name} | sudo tee -a /etc/hosts",),
    ),
    "real-address": Recipe(
        "In /etc/hosts, replace the loopback address of this name with the address that the other machines reach.",
        anywhere=("sudoedit /etc/hosts",),
    ),
    "choose-interface": Recipe(
        "Set the interface that connects the machines.",
        anywhere=("export NCCL_SOCKET_IFNAME={interface} GLOO_SOCKET_IFNAME={interface}",),
    ),
    "open-ufw": Recipe(
        "NCCL and gloo choose their ports: trust the interface between the machines, or the machines themselves.",
        anywhere=("sudo ufw allow in on {interface}",),
    ),
    "open-firewalld": Recipe(
        "NCCL and gloo choose their ports: trust the interface between the machines, or the machines themselves.",
        anywhere=("sudo firewall-cmd --permanent --zone=trusted --add-interface={interface}", "sudo firewall-cmd --reload"),
    ),
    "install-socks": Recipe(
        "Install the package for SOCKS proxies.",
        {"windows": ("& {python} -m pip install socksio",)},
        anywhere=("{python} -m pip install socksio",),
    ),
    "go-online": Recipe(
        "To fetch models, unset the variable.",
        {"windows": ("Remove-Item Env:{variable}",)},
        anywhere=("unset {variable}",),
    ),
    "set-governor": Recipe(
        "Raise the clock until the next start.",
        anywhere=("echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",),
    ),
    "power-profile": Recipe(
        "Choose another power profile.",
        {"windows": ("powercfg /setactive SCHEME_BALANCED",)},
        anywhere=("powerprofilesctl set performance",),
    ),
    "cool-down": Recipe("Clear the air vents, clean the fans, and measure again."),
    "plug-in": Recipe("Plug in the power supply."),
}
HOST["reinstall-torch-for-cpu"] = HOST["install-torch"].again()
