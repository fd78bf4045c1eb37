"""Remedies of the machine itself: CPU, memory, disk, Python, containers, WSL, network, power."""

from __future__ import annotations

from puna.machine.distribution import Distribution
from puna.machine.remedies.base import Recipe


def on_apt(*commands: str) -> dict[Distribution, tuple[str, ...]]:
    """The same commands for the systems that have apt."""
    return {"ubuntu": commands, "debian": commands, "wsl": commands}


_SWAP_ON = ("sudo chmod 600 /swapfile", "sudo mkswap /swapfile", "sudo swapon /swapfile")
_OWN_ENVIRONMENT = ("python3 -m venv ~/puna-env", "~/puna-env/bin/pip install {puna}")

HOST: dict[str, Recipe] = {
    "show-cpu-to-guest": Recipe(
        "If this is a virtual machine, let it see the CPU as it is: CPU type `host` in QEMU, libvirt and Proxmox."
    ),
    "use-all-cores": Recipe("Start puna without taskset, or give the job more CPUs: {pinned} of {present} may be used."),
    "close-programs": Recipe(
        "See which programs hold the memory, and end those that you do not need.",
        {
            "windows": ("Get-Process | Sort-Object WorkingSet64 -Descending | Select-Object -First 12",),
            "macos": ("ps -axo pid,rss,comm -m | head -n 12",),
        },
        anywhere=("ps -eo pid,rss,comm --sort=-rss | head -n 12",),
    ),
    "raise-memory-limit": Recipe(
        "Give the container more memory, on the host: docker run --memory {wanted}, or docker update --memory {wanted} "
        "--memory-swap {wanted} NAME; in Kubernetes resources.limits.memory. A smaller model or fewer bits per weight do as well."
    ),
    "raise-ulimit": Recipe(
        "In the shell that starts puna, type `{limit} unlimited` (the hard limit must allow it); of a systemd service, set "
        "LimitAS= and LimitDATA= to infinity."
    ),
    "add-swap": Recipe(
        "A swap file makes a machine slow where it would otherwise end programs.",
        on_apt("sudo fallocate -l 8G /swapfile", *_SWAP_ON)
        | {
            "arch": ("sudo mkswap -U clear --size 8G --file /swapfile", "sudo swapon /swapfile"),
            "fedora": ("sudo touch /swapfile", "sudo chattr +C /swapfile || true", "sudo fallocate -l 8G /swapfile", *_SWAP_ON),
        },
    ),
    "free-disk": Recipe(
        "See which models are large, and remove those that you no longer need.",
        {"windows": ("Get-ChildItem -Recurse {folder} | Sort-Object Length -Descending | Select-Object -First 15",)},
        anywhere=("du -a -h {folder} | sort -h | tail -n 15",),
    ),
    "own-cache": Recipe(
        "Make the folder yours, or choose another one with PUNA_CACHE.",
        {"windows": ('icacls {folder} /grant "$($env:USERNAME):(OI)(CI)F"',)},
        anywhere=('sudo chown -R "$(id -un)" {folder}',),
    ),
    "cache-elsewhere": Recipe(
        "Choose a folder that can be written, on a disk with room.",
        {"windows": ('$env:PUNA_CACHE = "$env:LOCALAPPDATA\\puna-cache"',)},
        anywhere=('mkdir -p -m 700 "$HOME/puna-cache"', 'export PUNA_CACHE="$HOME/puna-cache"'),
    ),
    "cache-beside-home": Recipe(
        "Choose a folder that can be written, on a disk with room, and name it in PUNA_CACHE; later starts need its name, too.",
        {"windows": ()},
        anywhere=('export PUNA_CACHE="$(mktemp -d /var/tmp/puna-XXXXXXXX)"; echo "$PUNA_CACHE"',),  # nobody else's, mode 700
    ),
    "cache-at-home": Recipe(
        "Keep models on this system's own disk; the next start fetches them anew.",
        anywhere=('export PUNA_CACHE="$HOME/.cache/puna"',),
    ),
    "newer-python": Recipe(
        "Install a CPython of 64 bits, 3.11 or newer, and puna into an environment of its own.",
        on_apt("sudo apt update", "sudo apt install -y python3 python3-venv")
        | {
            "fedora": ("sudo dnf install -y python3",),
            "arch": ("sudo pacman -S --needed python",),
            "windows": ("winget install --id Python.Python.3.12",),
            "macos": ("brew install python@3.12",),
        },
    ),
    "make-venv": Recipe(
        "Install into an environment of its own; the system's Python belongs to its package manager.",
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
    "system-with-glibc": Recipe(
        "Take a system with glibc; for containers an image that is not Alpine's, such as python:3.12-slim."
    ),
    "native-python": Recipe("Install a Python for Apple silicon.", {"macos": ("arch -arm64 brew install python@3.12",)}),
    "raise-cpu-quota": Recipe(
        "Give the container whole cores, on the host: docker run --cpus {wanted}; in Kubernetes resources.limits.cpu."
    ),
    "raise-shm": Recipe(
        "Needed by several GPUs only. Start the container with more: docker run --shm-size=1g, or --ipc=host; in Kubernetes an "
        "emptyDir of medium Memory, mounted at /dev/shm."
    ),
    "wsl-memory": Recipe(
        "Under Windows, put the lines [wsl2] and memory={wanted} into the file .wslconfig of your user folder "
        "(notepad $env:USERPROFILE\\.wslconfig), then end WSL; it starts again with the next terminal.",
        anywhere=("wsl.exe --shutdown",),
        needs_reboot=True,
    ),
    "wsl-version-2": Recipe(
        "Under Windows, in PowerShell, make this a WSL 2 system. It is converted, which takes some minutes.",
        anywhere=("wsl.exe --set-version {system_name} 2",),
        needs_reboot=True,
    ),
    "unset-torchrun": Recipe(
        "If they are left over from another program, take them away; to share a model, start with torchrun, which sets them all.",
        {"windows": ("Remove-Item Env:{powershell} -ErrorAction SilentlyContinue",)},
        anywhere=("unset {variables}",),
    ),
    "set-master": Recipe(
        "Start with torchrun, which sets them, or name the machine of rank 0.",
        {"windows": ("$env:MASTER_ADDR = '127.0.0.1'; $env:MASTER_PORT = '29500'",)},
        anywhere=("export MASTER_ADDR=127.0.0.1 MASTER_PORT=29500",),
    ),
    "another-port": Recipe(
        "See who listens there, or take another port (torchrun --master_port {other}).",
        {
            "windows": ("Get-NetTCPConnection -LocalPort {port} -State Listen", "$env:MASTER_PORT = '{other}'"),
            "macos": ("lsof -nP -iTCP:{port} -sTCP:LISTEN", "export MASTER_PORT={other}"),
        },
        anywhere=("ss -ltnp 'sport = :{port}'", "export MASTER_PORT={other}"),
    ),
    "name-the-host": Recipe(
        "Give this machine's name an address. For models over several machines it must be the one that the others reach.",
        anywhere=("echo 127.0.1.1 {host_name} | sudo tee -a /etc/hosts",),
    ),
    "real-address": Recipe(
        "Put the address that the other machines reach before the name in /etc/hosts, in place of the loopback's.",
        anywhere=("sudoedit /etc/hosts",),
    ),
    "choose-interface": Recipe(
        "Name the interface through which the machines reach each other.",
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
        "Install the package that speaks to such proxies.",
        {"windows": ("& {python} -m pip install socksio",)},
        anywhere=("{python} -m pip install socksio",),
    ),
    "go-online": Recipe(
        "To fetch models, take the variable away.",
        {"windows": ("Remove-Item Env:{variable}",)},
        anywhere=("unset {variable}",),
    ),
    "set-governor": Recipe(
        "Let the clock rise, until the next start.",
        anywhere=("echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",),
    ),
    "power-profile": Recipe(
        "Choose another power profile.",
        {"windows": ("powercfg /setactive SCHEME_BALANCED",)},
        anywhere=("powerprofilesctl set performance",),
    ),
    "cool-down": Recipe("Free the air's way, clean the fans, and measure again."),
    "plug-in": Recipe("Plug in the power supply."),
}
