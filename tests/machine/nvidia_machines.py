"""Overlays of `fake_host`: NVIDIA cards, drivers and PyTorches, with files and answers as real machines have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from puna.machine import installed_torch, nvidia_smi, self_test
from puna.machine.child import command_of
from tests.machine.fake_host import Overlay

RELEASE = "6.8.0-85-generic"
MIB = 1 << 20


def command(*words: str, stdout: str = "", stderr: str = "", code: int = 0, **more: Any) -> dict[str, Any]:
    return {"command": list(words), "stdout": stdout, "stderr": stderr, "code": code, **more}


def card(device: str = "2786", driver: str = "nvidia", address: str = "0000:01:00.0", **files: str | bytes) -> Overlay:
    """A card on the bus; `config`, `power_state`: files of its own."""
    folder = f"/sys/bus/pci/devices/{address}"
    uevent = f"DRIVER={driver}\n" * bool(driver) + f"PCI_CLASS=30000\nPCI_ID=10DE:{device.upper()}\nPCI_SLOT_NAME={address}\n"
    config = bytes([0xDE, 0x10, int(device[2:], 16), int(device[:2], 16)])
    fixed: dict[str, str | bytes] = {
        "vendor": "0x10de\n", "device": f"0x{device}\n", "class": "0x030000\n", "uevent": uevent, "power_state": "D0\n",
        "config": config,
    }  # fmt: skip
    return {"files": {f"{folder}/{name}": content for name, content in (fixed | files).items()}}


def other_card(vendor: str, device: str, address: str = "0000:00:02.0") -> Overlay:
    folder = f"/sys/bus/pci/devices/{address}"
    return {"files": {f"{folder}/vendor": f"0x{vendor}\n", f"{folder}/device": f"0x{device}\n", f"{folder}/class": "0x030000\n"}}


def loaded(version: str = "580.82.07", kind: str = "open") -> Overlay:
    """The module in the kernel."""
    name = {"open": "NVIDIA UNIX Open Kernel Module for x86_64", "proprietary": "NVIDIA UNIX x86_64 Kernel Module"}[kind]
    return {
        "files": {
            "/proc/modules": "nvidia_uvm 2117632 0 - Live 0x0\nnvidia_drm 135168 2 - Live 0x0\nnvidia 104071168 41 nvidia_uvm,"
            "nvidia_drm, Live 0x0\n",
            "/proc/driver/nvidia/version": f"NVRM version: {name}  {version}  Release Build  (dvs-builder@U22-I3-AM02)\n"
            "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n",
            "/dev/nvidia0": "", "/dev/nvidiactl": "", "/dev/nvidia-uvm": "", "/dev/nvidia-modeset": "",
        },
        "commands": [built_answer(version, kind)],
    }  # fmt: skip


def built_answer(
    version: str = "580.82.07", kind: str = "open", signer: str = "desktop Secure Boot Module Signature key"
) -> dict[str, Any]:
    licence = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}[kind]
    about = {"filename": f"/lib/modules/{RELEASE}/updates/dkms/nvidia.ko.zst", "version": version, "license": licence}
    about |= {"sig_id": "PKCS#7", "signer": signer} if signer else {}
    return command("modinfo", "nvidia", stdout="".join(f"{name + ':':<16}{value}\n" for name, value in about.items()))


def built(release: str = RELEASE, answer: bool = True, signer: str = "desktop Secure Boot Module Signature key") -> Overlay:
    """The module on disk, for a kernel; headers of the running one."""
    return {
        "files": {
            f"/lib/modules/{release}/updates/dkms/nvidia.ko.zst": "",
            f"/lib/modules/{RELEASE}/kernel/": "",
            f"/lib/modules/{RELEASE}/build/Makefile": "",
        },
        "commands": [
            built_answer(signer=signer)
            if answer
            else command("modinfo", "nvidia", stderr="modinfo: ERROR: Module nvidia not found.", code=1)
        ],
    }


NOUVEAU: Overlay = {"files": {"/proc/modules": "nouveau 3096576 3 - Live 0x0\nmxm_wmi 12288 1 nouveau, Live 0x0\n"}}
NOT_BUILT: Overlay = {"commands": [command("modinfo", "nvidia", stderr="modinfo: ERROR: Module nvidia not found.", code=1)]}


def secure_boot(key: str = "is not enrolled", waiting: bool = False) -> Overlay:
    path = "/var/lib/shim-signed/mok/MOK.der"
    listed = "[key 1]\nSHA1 Fingerprint: 5e:6a:00\n" if waiting else ""
    return {
        "files": {
            "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\x06\x00\x00\x00\x01",
            path: b"\x30\x82",
        },
        "commands": [
            command("mokutil", "--sb-state", stdout="SecureBoot enabled\n"),
            command("mokutil", "--test-key", path, stdout=f"{path} {key}\n", code=int("already" in key)),
            command("mokutil", "--list-new", stdout=listed),
        ],
    }


def dmesg(*lines: str) -> Overlay:
    return {"commands": [command("dmesg", stdout="".join(f"[    8.{n:06}] {line}\n" for n, line in enumerate(lines)))]}


# ---- nvidia-smi

HEALTHY: dict[str, str] = {
    "index": "0", "name": "NVIDIA GeForce RTX 4070", "memory.total": "12282", "memory.used": "12", "memory.free": "11881",
    "driver_version": "580.82.07", "uuid": "GPU-5d0a1bb1", "pci.bus_id": "00000000:01:00.0", "compute_cap": "8.9", "pstate": "P8",
    "temperature.gpu": "38", "power.limit": "200.00", "power.default_limit": "200.00",
    "clocks_event_reasons.active": "0x0000000000000001", "ecc.errors.uncorrected.volatile.total": "[N/A]",
    "pcie.link.gen.current": "1", "pcie.link.gen.max": "4", "pcie.link.width.current": "16", "pcie.link.width.max": "16",
    "mig.mode.current": "[N/A]", "persistence_mode": "Disabled", "display_active": "Enabled",
}  # fmt: skip
COLUMNS = (*nvidia_smi.NEEDED, *nvidia_smi.WISHED)


def query(columns: Sequence[str] = COLUMNS) -> list[str]:
    return ["nvidia-smi", f"--query-gpu={','.join(columns)}", nvidia_smi.FORMAT]


def smi(*rows: Mapping[str, str], users: str = "", parts: str = "") -> Overlay:
    """nvidia-smi that answers; each row is what differs from a healthy RTX 4070."""
    lines = "".join(", ".join((HEALTHY | dict(row))[column] for column in COLUMNS) + "\n" for row in rows or ({},))
    return {
        "commands": [
            command(*query(), stdout=lines),
            command("nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", nvidia_smi.FORMAT, stdout=users),
            command("nvidia-smi", "-L", stdout=parts),
        ]
    }


def smi_fails(words: str, code: int = 9) -> Overlay:
    return {"commands": [command("nvidia-smi", stdout=words, code=code, prefix=True)]}


SMI_HANGS: Overlay = {"commands": [command("nvidia-smi", hangs=True, prefix=True)]}


# ---- PyTorch


def child(*words: str, **answer: Any) -> dict[str, Any]:
    """What a module of puna's prints in a child."""
    return command("{python}", *command_of(*words)[1:], **answer)


def torch(version: str = "2.13.0+cu130", cuda: str = "13.0", triton: str = "3.7.0", **more: Any) -> Overlay:
    told = {
        "torch": version,
        "cuda": cuda,
        "triton": triton,
        "nccl": "2.28.9",
        "folders": ["/venv/site-packages"],
        "python": "3.12.3",
    }
    return {"commands": [child(installed_torch.MODULE, stdout=json.dumps(told | more))]}


NO_TORCH = torch("", "", "", nccl="", folders=[])

TRIED: dict[str, Any] = {
    "number": 0, "name": "NVIDIA GeForce RTX 4070", "capability": [8, 9], "has_code": True, "memory": "ok", "product": "ok",
    "kernel": "ok", "memory_gb_per_s": 452.1, "host_gb_per_s": 24.8, "free_bytes": 11881 * MIB, "total_bytes": 11971 * MIB,
}  # fmt: skip


def tried(*gpus: Mapping[str, Any], all_reduce: str = "", **more: Any) -> Overlay:
    """The self test's answer; each GPU is what differs from a healthy RTX 4070."""
    told = {
        "torch": "2.13.0+cu130", "cuda": "13.0", "triton": "3.7.0",
        "nccl": "2.28.9",
        "devices": [TRIED | dict(gpu) for gpu in gpus or ({},)], "peers": [],
    }  # fmt: skip
    return {
        "commands": [
            child(self_test.MODULE, stdout="\n" + json.dumps(told | more) + "\n"),
            child(
                self_test.MODULE,
                "all-reduce",
                stdout=json.dumps({"all_reduce": all_reduce}),
                hangs=all_reduce == "hangs",
            ),
        ]
    }


RTX_4070: tuple[Overlay, ...] = (card(), loaded(), built(), smi(), torch(), tried())
