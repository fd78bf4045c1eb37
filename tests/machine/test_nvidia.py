"""The NVIDIA probes on machines with real faults: the finding, its state, and the command."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from puna.machine import cuda_versions, nvidia_smi, pci
from puna.machine.doctor import diagnose, fix_script
from puna.machine.finding import Finding
from puna.machine.installed_torch import installed_torch
from puna.machine.installed_torch import look as look_at_torch
from puna.machine.kernel_module import kernel_log, kernel_module, parsed_dkms
from puna.machine.probes.base import Patient, Probe
from puna.machine.probes.cuda_wheel import cuda_wheel
from puna.machine.probes.gpu_self_test import gpu_self_test
from puna.machine.probes.nccl import nccl
from puna.machine.probes.nvidia_card import nvidia_card
from puna.machine.probes.nvidia_log import XIDS, nvidia_log
from puna.machine.probes.nvidia_module import nvidia_module
from puna.machine.probes.nvidia_rights import nvidia_rights
from puna.machine.probes.nvidia_smi import nvidia_smi as nvidia_smi_probe
from puna.machine.remedies import REMEDIES
from puna.machine.self_test import self_test
from tests.machine import nvidia_machines as machines
from tests.machine.fake_host import DOCKER, WSL2, Overlay, build, distribution
from tests.machine.nvidia_machines import (
    NO_TORCH,
    NOT_BUILT,
    NOUVEAU,
    RTX_4070,
    SMI_HANGS,
    built,
    card,
    command,
    dmesg,
    loaded,
    secure_boot,
    smi,
    smi_fails,
    torch,
    tried,
)

PROBES: tuple[Probe, ...] = (
    nvidia_card,
    nvidia_module,
    nvidia_log,
    nvidia_rights,
    nvidia_smi_probe,
    cuda_wheel,
    gpu_self_test,
    nccl,
)
MIB = 1 << 20


class Found:
    """The findings of a machine."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)

    def one(self, check: str) -> Finding:
        """The one of this name."""
        (finding,) = [finding for finding in self.findings if finding.check == check]
        return finding

    def of_state(self, *states: str) -> list[str]:
        return [finding.check for finding in self.findings if finding.state in states]

    @property
    def bad(self) -> list[str]:
        return self.of_state("error", "warning")

    @property
    def text(self) -> str:
        return "\n".join(finding.found for finding in self.findings)


def examine(folder: Path, *overlays: Overlay, device: str = "auto") -> Found:
    patient = Patient(build(folder, *overlays), device)
    return Found(finding for probe in PROBES for finding in probe(patient))


def commands(finding: Finding) -> str:
    assert finding.remedy is not None, finding
    return "\n".join(finding.remedy.commands)


# ---- the card


def test_a_healthy_rtx_4070_has_nothing_to_be_mended(tmp_path: Path) -> None:
    found = examine(tmp_path, *RTX_4070)
    assert set(found.of_state("ok")) == {
        "nvidia.card", "nvidia.module", "nvidia.devices", "nvidia.smi", "torch.build", "gpu.trial", "nccl"
    }  # fmt: skip
    assert not found.of_state("note", "warning", "error") or found.of_state("note") == ["nvidia.log"]
    assert "RTX 4070" in found.one("nvidia.card").found
    assert "11.6 of 12.0 GiB free, driver 580.82.07, CUDA up to 13.0" in found.one("nvidia.smi").found
    assert "452 GB/s (its data sheet: 504)" in found.one("gpu.trial").found
    assert "not needed" in found.one("nccl").found


def test_a_machine_without_a_card_has_a_note_and_is_asked_no_more(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert [(finding.check, finding.state) for finding in found.findings] == [("nvidia.card", "note")]
    assert found.findings[0].found == "no NVIDIA card" and found.findings[0].effect == "models run on the CPU"


def test_no_card_is_an_error_where_cuda_is_wanted(tmp_path: Path) -> None:
    assert examine(tmp_path, device="cuda").one("nvidia.card").state == "error"


def test_cards_of_amd_and_intel_are_noted(tmp_path: Path) -> None:
    found = examine(tmp_path, machines.other_card("1002", "744c"), machines.other_card("8086", "a780", "0000:00:03.0"))
    assert "AMD" in found.one("gpu.other").found and "Intel" in found.one("gpu.other").found
    assert "NVIDIA's GPUs only" in found.one("gpu.other").effect


def test_a_card_that_answers_with_ones_has_fallen_off_the_bus(tmp_path: Path) -> None:
    words = "Unable to determine the device handle for GPU0: 0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU\n"
    log = dmesg("NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    found = examine(tmp_path, card(config=b"\xff" * 64), loaded(), built(), smi_fails(words, 15), torch(), log)
    assert found.one("nvidia.card").state == "error" and "fallen off the bus" in found.one("nvidia.card").found
    xid = found.one("nvidia.xid-79")
    assert xid.state == "error" and "0000:01:00" in xid.found and "dmesg" in commands(xid)
    assert found.one("nvidia.smi").state == "error"


def test_a_card_that_is_switched_off_on_a_laptop(tmp_path: Path) -> None:
    overlays = (
        card("2820", driver="", power_state="D3cold\n"),
        {"commands": [command("prime-select", "query", stdout="intel\n")]},
    )
    finding = examine(tmp_path, *overlays).one("nvidia.card")  # type: ignore[arg-type]
    assert finding.state == "error" and "switched off (D3cold)" in finding.found
    assert commands(finding) == "sudo prime-select on-demand" and finding.remedy and finding.remedy.needs_reboot


def test_a_card_that_prime_select_took_off_the_bus(tmp_path: Path) -> None:
    finding = examine(tmp_path, {"commands": [command("prime-select", "query", stdout="intel\n")]}).one("nvidia.card")
    assert finding.state == "error" and "prime-select" in finding.found


def test_a_card_that_sleeps_while_its_driver_has_it_is_fine(tmp_path: Path) -> None:
    found = examine(tmp_path, *RTX_4070, card("2820", power_state="D3cold\n", config=b"\xff" * 64))
    assert "asleep (D3cold)" in found.one("nvidia.card").found and not found.bad


def test_a_card_for_virtual_machines(tmp_path: Path) -> None:
    assert "vfio" in commands(examine(tmp_path, card(driver="vfio-pci")).one("nvidia.card"))


def test_names_of_cards_come_from_the_list_of_the_system(tmp_path: Path) -> None:
    names = "1002  AMD\n\t2786  Wrong\n10de  NVIDIA Corporation\n\t2757  AD103M [GeForce RTX 4090 Laptop GPU]\n\t\t1043 1  Sub\n"
    host = build(tmp_path, card("2757"), {"files": {"/usr/share/misc/pci.ids": names}})
    (found,) = pci.nvidia_cards(host)
    assert found.name == "GeForce RTX 4090 Laptop GPU" and found.generation.name == "Ada"


# ---- the module


def test_no_driver_with_nouveau_on_the_card(tmp_path: Path) -> None:
    finding = examine(tmp_path, card(driver="nouveau"), NOUVEAU, NOT_BUILT, NO_TORCH).one("nvidia.module")
    assert finding.state == "error" and "not installed" in finding.found and "nouveau" in finding.found
    assert "sudo ubuntu-drivers install" in commands(finding) and finding.remedy and finding.remedy.needs_reboot


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("debian-13", "sudo apt install nvidia-open"),
        ("fedora-42", "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda"),
        ("arch", "nvidia-open-dkms"),
        ("alpine", "nvidia.com/drivers"),
    ],
)
def test_the_driver_is_installed_as_each_distribution_does(tmp_path: Path, name: str, words: str) -> None:
    finding = examine(tmp_path, distribution(name), card(driver=""), NOT_BUILT).one("nvidia.module")
    assert words in commands(finding)


def test_secure_boot_with_a_key_that_is_not_enrolled(tmp_path: Path) -> None:
    log = dmesg("nvidia: module verification failed: signature and/or required key missing - tainting kernel",
                "Loading of module with unavailable key is rejected")  # fmt: skip
    finding = examine(tmp_path, card(driver=""), built(), secure_boot(), log).one("nvidia.secure-boot")
    assert finding.state == "error" and "Secure Boot is on" in finding.found and "MOK.der is not enrolled" in finding.found
    assert "sudo mokutil --import /var/lib/shim-signed/mok/MOK.der" in commands(finding)
    assert finding.remedy and "Perform MOK management" in finding.remedy.words and finding.remedy.needs_reboot


def test_secure_boot_with_a_module_that_is_not_signed(tmp_path: Path) -> None:
    finding = examine(tmp_path, card(driver=""), built(signer=""), secure_boot()).one("nvidia.secure-boot")
    assert "the module nvidia is not signed" in finding.found and "sudo dkms autoinstall --force" in commands(finding)


def test_a_module_that_ubuntu_signed_needs_no_key_of_the_owner(tmp_path: Path) -> None:
    found = examine(tmp_path, card(driver=""), built(signer="Canonical Ltd. Kernel Module Signing"), secure_boot())
    assert found.of_state("error") == ["nvidia.module"] and "sudo modprobe nvidia" in commands(found.one("nvidia.module"))


def test_a_module_that_the_kernel_refuses_though_the_key_is_enrolled(tmp_path: Path) -> None:
    log = dmesg("Loading of module with unavailable key is rejected")
    finding = examine(tmp_path, card(driver=""), built(), secure_boot("is already enrolled"), log).one("nvidia.secure-boot")
    assert "by a key that it trusts" in finding.found and "sudo dkms autoinstall --force" in commands(finding)


def test_secure_boot_with_a_key_that_waits_for_the_blue_screen(tmp_path: Path) -> None:
    overlays = (card(driver=""), built(), secure_boot("is already in the enrollment request", waiting=True))
    finding = examine(tmp_path, *overlays).one("nvidia.secure-boot")
    assert "confirm the key" in finding.found and commands(finding) == "sudo reboot"
    assert finding.remedy and "Enroll MOK" in finding.remedy.words


def test_secure_boot_that_trusts_the_module(tmp_path: Path) -> None:
    found = examine(tmp_path, *RTX_4070, secure_boot("is already enrolled"))
    assert found.one("nvidia.secure-boot").state == "ok" and not found.bad


def test_fedora_enrolls_the_key_of_akmods(tmp_path: Path) -> None:
    key = "/etc/pki/akmods/certs/public_key.der"
    overlay: Overlay = {
        "files": {"/var/lib/shim-signed/mok/MOK.der": None, key: b"\x30"},
        "commands": [command("mokutil", "--test-key", key, stdout=f"{key} is not enrolled\n")],
    }
    finding = examine(tmp_path, card(driver=""), built(), secure_boot(), distribution("fedora-42"), overlay).one(
        "nvidia.secure-boot"
    )
    assert f"sudo mokutil --import {key}" in commands(finding)


def test_nouveau_that_keeps_an_installed_driver_away(tmp_path: Path) -> None:
    finding = examine(tmp_path, card(driver="nouveau"), NOUVEAU, built()).one("nvidia.nouveau")
    assert finding.state == "error" and "blacklist nouveau" in commands(finding) and "update-initramfs -u" in commands(finding)


def test_a_kernel_without_headers(tmp_path: Path) -> None:
    status = command("dkms", "status", stdout="nvidia/580.82.07: added\n")
    overlay: Overlay = {"files": {"/lib/modules/6.8.0-85-generic/kernel/": ""}, "commands": [status]}
    finding = examine(tmp_path, card(driver=""), NOT_BUILT, overlay).one("nvidia.headers")
    assert finding.state == "error" and "6.8.0-85-generic" in finding.found and "nor its headers" in finding.found
    assert "sudo apt install linux-headers-$(uname -r) linux-headers-generic" in commands(finding)
    assert "sudo dkms autoinstall" in commands(finding)


def test_a_module_built_for_an_older_kernel(tmp_path: Path) -> None:
    status = command("dkms", "status", stdout="nvidia/580.82.07, 6.8.0-79-generic, x86_64: installed\n")
    finding = examine(tmp_path, card(driver=""), built("6.8.0-79-generic", answer=False), {"commands": [status]}).one(
        "nvidia.module"
    )
    assert "no module nvidia for the running kernel, 6.8.0-85-generic" in finding.found and "6.8.0-79-generic" in finding.found
    assert "sudo dkms autoinstall" in commands(finding)


def test_a_kernel_whose_modules_are_gone_after_an_update(tmp_path: Path) -> None:
    overlay: Overlay = {"files": {"/lib/modules/6.17.5-arch1-1/extramodules/nvidia.ko.zst": ""}}
    finding = examine(tmp_path, distribution("arch"), card(driver=""), NOT_BUILT, overlay).one("nvidia.module")
    assert "updated to 6.17.5-arch1-1" in finding.found and commands(finding) == "sudo reboot"


def test_a_module_that_is_built_and_not_loaded(tmp_path: Path) -> None:
    assert "sudo modprobe nvidia" in commands(examine(tmp_path, card(driver=""), built()).one("nvidia.module"))


def test_an_rtx_50_with_the_proprietary_module(tmp_path: Path) -> None:
    log = dmesg("NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:2f04)",
                "NVRM: installed in this system requires use of the NVIDIA open kernel modules.")  # fmt: skip
    found = examine(tmp_path, card("2f04"), loaded(kind="proprietary"), smi_fails("No devices were found\n", 6), log)
    first = next(finding for finding in found.findings if finding.check == "nvidia.module-kind")
    assert first.state == "error" and "RTX 5070" in first.found and "open one" in first.found
    assert commands(first) == "sudo apt install nvidia-driver-580-open"


def test_a_pascal_card_with_the_open_module(tmp_path: Path) -> None:
    found = examine(tmp_path, card("1b06"), loaded(kind="open"), smi_fails("No devices were found\n", 6))
    assert commands(found.one("nvidia.module-kind")) == "sudo apt install nvidia-driver-580"


# ---- nvidia-smi


def test_a_driver_and_a_library_of_different_versions(tmp_path: Path) -> None:
    words = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
    finding = examine(tmp_path, card(), loaded("580.82.07"), built(), smi_fails(words, 18)).one("nvidia.smi")
    assert finding.state == "error" and "580.82.07 is still loaded" in finding.found and "580.95" in finding.found
    assert commands(finding) == "sudo reboot"


def test_a_hung_nvidia_smi_is_a_finding(tmp_path: Path) -> None:
    finding = examine(tmp_path, card(), loaded(), SMI_HANGS, torch()).one("nvidia.smi")
    assert finding.state == "error" and "did not answer within" in finding.found and commands(finding) == "sudo reboot"


def test_no_devices_were_found(tmp_path: Path) -> None:
    finding = examine(tmp_path, card(), loaded(), smi_fails("No devices were found\n", 6)).one("nvidia.smi")
    assert finding.state == "error" and "No devices were found" in finding.found


def test_a_loaded_module_without_nvidia_smi_lacks_the_part_that_computes(tmp_path: Path) -> None:
    finding = examine(tmp_path, distribution("fedora-42"), card(), loaded()).one("nvidia.smi")
    assert finding.state == "error" and commands(finding) == "sudo dnf install xorg-x11-drv-nvidia-cuda"


def test_memory_held_by_another_process(tmp_path: Path) -> None:
    users = "GPU-5d0a1bb1, 4242, /opt/ollama/bin/ollama, 8120\nGPU-5d0a1bb1, 991, /usr/bin/python3.12, 1034\n"
    row = {"memory.used": "9190", "memory.free": "2703"}
    finding = examine(tmp_path, *RTX_4070, smi(row, users=users)).one("nvidia.memory")
    assert finding.state == "warning" and "ollama (7.9 GiB, pid 4242)" in finding.found and "2.6 GiB remain" in finding.effect
    assert commands(finding).splitlines()[-1] == "# if it may end: kill 4242"


def test_memory_held_by_nobody_that_is_seen(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, smi({"memory.free": "9000"})).one("nvidia.memory")
    assert finding.state == "note" and finding.remedy is None and "not visible" in finding.found


def test_a_card_that_is_too_hot(tmp_path: Path) -> None:
    row = {"clocks_event_reasons.active": "0x0000000000000060", "temperature.gpu": "91"}
    finding = examine(tmp_path, *RTX_4070, smi(row)).one("nvidia.heat")
    assert finding.state == "warning" and "91 C" in finding.found and commands(finding) == "sudo nvidia-smi -i 0 -pl 140"


def test_a_power_plug_that_is_not_in(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, smi({"clocks_event_reasons.active": "0x0000000000000088"})).one("nvidia.power")
    assert finding.state == "warning" and "power supply" in finding.found


def test_a_busy_card_at_its_power_limit_and_a_lowered_limit_are_notes(tmp_path: Path) -> None:
    busy = examine(tmp_path / "a", *RTX_4070, smi({"clocks_event_reasons.active": "0x0000000000000004"})).one("nvidia.power")
    lowered = examine(tmp_path / "b", *RTX_4070, smi({"power.limit": "120.00"})).one("nvidia.power")
    assert busy.state == lowered.state == "note" and commands(lowered) == "sudo nvidia-smi -i 0 -pl 200"


def test_errors_of_memory_that_ecc_could_not_correct(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, smi({"ecc.errors.uncorrected.volatile.total": "3"})).one("nvidia.ecc")
    assert finding.state == "warning" and "3 memory errors" in finding.found and "nvidia-smi -q -d ECC" in commands(finding)


def test_a_card_in_a_narrow_slot(tmp_path: Path) -> None:
    found = examine(tmp_path, *RTX_4070, smi({"pcie.link.width.current": "4"}))
    assert found.one("nvidia.link").state == "note" and "4 of 16 PCI Express lanes" in found.one("nvidia.link").found


def test_a_link_that_idles_at_a_lower_speed_is_fine(tmp_path: Path) -> None:
    assert "nvidia.link" not in examine(tmp_path, *RTX_4070).of_state("note", "warning")


def test_mig(tmp_path: Path) -> None:
    row = {"mig.mode.current": "Enabled", "name": "NVIDIA A100-SXM4-40GB"}
    parts = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d0a1bb1)\n  MIG 3g.20gb     Device  0: (UUID: MIG-7d6f)\n"
    divided = examine(tmp_path / "a", *RTX_4070, smi(row, parts=parts)).one("nvidia.mig")
    empty = examine(tmp_path / "b", *RTX_4070, smi(row)).one("nvidia.mig")
    assert divided.state == "note" and empty.state == "error" and "nvidia-smi -i 0 -mig 0" in commands(empty)


def test_a_server_without_persistence(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, smi({"display_active": "Disabled"})).one("nvidia.persistence")
    assert finding.state == "note" and commands(finding) == "sudo nvidia-smi -pm 1"


def test_an_old_driver_is_asked_for_fewer_columns(tmp_path: Path) -> None:
    columns = list(machines.COLUMNS)
    answers = []
    for unknown, instead in (("compute_cap", []), ("clocks_event_reasons.active", ["clocks_throttle_reasons.active"])):
        answers.append(command(*machines.query(columns), stdout=f'Field "{unknown}" is not a valid field to query.\n\n', code=2))
        place = columns.index(unknown)
        columns[place : place + 1] = instead
    row = machines.HEALTHY | {"clocks_throttle_reasons.active": "0x0000000000000040", "driver_version": "465.19.01"}
    answers.append(command(*machines.query(columns), stdout=", ".join(row[column] for column in columns) + "\n"))
    (gpu,) = nvidia_smi.gpus(build(tmp_path, {"commands": answers}))
    assert gpu.driver == "465.19.01" and gpu.capability is None and gpu.clock_reasons == 0x40 and gpu.free_bytes == 11881 * MIB


def test_one_card_of_two_that_is_lost_leaves_the_other(tmp_path: Path) -> None:
    answer = smi({}, {"index": "1", "uuid": "GPU-b"})
    found = nvidia_smi.query(build(tmp_path, answer))
    assert [gpu.number for gpu in found.gpus] == [0, 1] and found.trouble is None


def test_a_card_that_tells_no_memory_has_zero_bytes(tmp_path: Path) -> None:
    cells = {"memory.total": "[N/A]", "memory.used": "[N/A]", "memory.free": "[Not Supported]", "name": "NVIDIA GB10"}
    found = examine(tmp_path, *RTX_4070, smi(cells))
    assert "memory unknown" in found.one("nvidia.smi").found and "nvidia.memory" not in found.of_state("note", "warning")


# ---- rights, containers, WSL


def test_device_files_that_this_user_may_not_open(tmp_path: Path) -> None:
    overlay: Overlay = {"unwritable": ["/dev/nvidiactl", "/dev/nvidia0"], "files": {"/etc/group": "root:x:0:\nvideo:x:44:\n"}}
    finding = examine(tmp_path, *RTX_4070, overlay).one("nvidia.devices")
    assert finding.state == "error" and "/dev/nvidiactl, /dev/nvidia0" in finding.found
    assert commands(finding) == "sudo usermod -aG video $USER"


def test_device_files_that_are_not_there(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, {"files": {"/dev/nvidia-uvm": None}}).one("nvidia.devices")
    assert finding.state == "error" and "/dev/nvidia-uvm" in finding.found and commands(finding) == "sudo nvidia-modprobe -u -c 0"


def test_a_container_without_the_gpu(tmp_path: Path) -> None:
    gone = {"/dev/nvidia0": None, "/dev/nvidiactl": None, "/dev/nvidia-uvm": None}
    found = examine(tmp_path, card(), loaded(), DOCKER, {"files": gone})
    finding = found.one("nvidia.devices")
    assert finding.state == "error" and "container was started without the GPU" in finding.found
    assert "nvidia-ctk runtime configure" in commands(finding) and finding.remedy and "--gpus all" in finding.remedy.words
    assert found.of_state("error") == ["nvidia.devices"]


def test_a_container_that_lost_its_right_to_the_card(tmp_path: Path) -> None:
    words = "Failed to initialize NVML: Unknown Error\n"
    finding = examine(tmp_path, card(), loaded(), DOCKER, smi_fails(words, 255)).one("nvidia.smi")
    assert "lost its right" in finding.found and "docker restart" in commands(finding)


def test_wsl_1_has_no_gpu_and_is_asked_for_none(tmp_path: Path) -> None:
    """The probe `wsl` says so."""
    assert not examine(tmp_path, {"files": {"/proc/sys/kernel/osrelease": "4.4.0-19041-Microsoft\n"}}).findings


def test_wsl_2_whose_windows_has_no_driver(tmp_path: Path) -> None:
    finding = examine(tmp_path, WSL2, device="cuda").one("nvidia.wsl")
    assert finding.state == "error" and "libcuda.so.1" in finding.found and "In Windows" in commands(finding)


def test_wsl_2_without_a_gpu_is_a_note_where_none_is_wanted(tmp_path: Path) -> None:
    found = examine(tmp_path, WSL2, {"files": {"/dev/dxg": None}})
    assert found.one("nvidia.wsl").state == "note" and "wsl.exe --update" in commands(found.one("nvidia.wsl")) and not found.bad


def test_wsl_2_with_a_linux_driver_inside(tmp_path: Path) -> None:
    files = {"/usr/lib/wsl/lib/libcuda.so.1": "", "/usr/lib/x86_64-linux-gnu/libcuda.so.1": ""}
    finding = examine(tmp_path, WSL2, {"files": files}, smi_fails("Failed to initialize NVML: N/A\n")).one("nvidia.wsl")
    assert finding.state == "error" and "sudo apt purge 'nvidia-driver-*'" in commands(finding)


def test_a_healthy_wsl_2(tmp_path: Path) -> None:
    found = examine(tmp_path, WSL2, {"files": {"/usr/lib/wsl/lib/libcuda.so.1": ""}}, smi(), torch(), tried())
    assert found.one("nvidia.wsl").state == "ok" and found.one("gpu.trial").state == "ok" and not found.bad


def test_windows_without_a_driver_and_macos(tmp_path: Path) -> None:
    assert "In Windows" in commands(examine(tmp_path / "a", {"system": "Windows"}, device="cuda").one("nvidia.driver"))
    assert "macOS" in examine(tmp_path / "b", {"system": "Darwin"}).one("nvidia.driver").found


# ---- PyTorch


def test_no_pytorch(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, NO_TORCH).one("torch.build")
    assert finding.state == "error" and "pip install torch --index-url https://download.pytorch.org/whl/cu130" in commands(
        finding
    )


def test_a_pytorch_for_the_cpu(tmp_path: Path) -> None:
    found = examine(tmp_path, *RTX_4070, torch("2.13.0+cpu", cuda=""))
    finding = found.one("torch.build")
    assert finding.state == "error" and "built without CUDA" in finding.found
    assert commands(finding) == "pip uninstall -y torch\npip install torch --index-url https://download.pytorch.org/whl/cu130"
    assert "gpu.trial" not in found.of_state("ok", "error")


def test_a_pytorch_for_amd(tmp_path: Path) -> None:
    assert "ROCm 6.4" in examine(tmp_path, *RTX_4070, torch("2.13.0+rocm6.4", cuda="", hip="6.4")).one("torch.build").found


def test_a_driver_too_old_for_the_cuda_of_pytorch(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, loaded("550.120"), smi({"driver_version": "550.120"})).one("torch.driver")
    assert finding.state == "error" and "needs driver 580 or later" in finding.found and "550.120 (CUDA 12.4)" in finding.found
    assert "whl/cu126" in commands(finding)


def test_a_driver_too_old_for_every_pytorch(tmp_path: Path) -> None:
    old = "470.256.02"
    finding = examine(tmp_path, *RTX_4070, loaded(old), smi({"driver_version": old})).one("torch.driver")
    assert finding.state == "error" and "nvidia-driver-580-open" in commands(finding)


def test_a_later_minor_version_of_cuda_is_a_note(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, torch("2.13.0+cu132", cuda="13.2")).one("torch.driver")
    assert finding.state == "note" and "minor version compatibility" in finding.found


def test_a_wheel_without_code_for_an_rtx_50(tmp_path: Path) -> None:
    problem = "the installed PyTorch (2.11.0+cu126, sm_50, sm_90) has no code for NVIDIA GeForce RTX 5070, which is sm_120"
    gpu = {"name": "NVIDIA GeForce RTX 5070", "capability": [12, 0], "has_code": False, "problem": problem}
    overlays = (*RTX_4070, card("2f04"), smi({"name": "NVIDIA GeForce RTX 5070", "compute_cap": "12.0"}))
    finding = examine(tmp_path, *overlays, torch("2.11.0+cu126", "12.6"), tried(gpu)).one("torch.capability")
    assert finding.state == "error" and "sm_120" in finding.found and "whl/cu130" in commands(finding)


def test_a_pascal_card_with_a_new_pytorch(tmp_path: Path) -> None:
    problem = "the installed PyTorch (2.13.0+cu130, sm_75, sm_120) has no code for NVIDIA GeForce GTX 1080 Ti, which is sm_61"
    gpu = {"name": "NVIDIA GeForce GTX 1080 Ti", "capability": [6, 1], "has_code": False, "problem": problem}
    overlays = (
        card("1b06"),
        loaded(kind="proprietary"),
        built(),
        smi({"name": "NVIDIA GeForce GTX 1080 Ti", "compute_cap": "6.1"}),
    )
    finding = examine(tmp_path, *overlays, torch(), tried(gpu)).one("torch.capability")
    assert finding.state == "error" and "whl/cu126" in commands(finding)


@pytest.mark.parametrize("value", ["", "-1", "GPU-of-another-machine", "7"])
def test_variables_that_hide_the_card(tmp_path: Path, value: str) -> None:
    found = examine(tmp_path, *RTX_4070, {"environ": {"CUDA_VISIBLE_DEVICES": value}})
    finding = found.one("cuda.visible")
    assert finding.state == "error" and repr(value) in finding.found and commands(finding) == "unset CUDA_VISIBLE_DEVICES"
    assert "gpu.trial" not in found.of_state("ok", "error")


def test_a_variable_that_shows_one_card_of_two(tmp_path: Path) -> None:
    overlays = (*RTX_4070, smi({}, {"index": "1", "uuid": "GPU-b"}), {"environ": {"CUDA_VISIBLE_DEVICES": "GPU-b"}})
    assert "1 of 2 cards" in examine(tmp_path, *overlays).one("cuda.visible").found  # type: ignore[arg-type]


def test_libraries_of_another_cuda(tmp_path: Path) -> None:
    overlay: Overlay = {"environ": {"LD_LIBRARY_PATH": "/usr/local/cuda-11.8/lib64:/opt/lib"}}
    finding = examine(tmp_path, *RTX_4070, overlay).one("cuda.libraries")
    assert finding.state == "note" and "/usr/local/cuda-11.8/lib64" in finding.found and "/opt/lib" not in finding.found


def test_two_pytorches_and_no_triton(tmp_path: Path) -> None:
    two = ["/venv/site-packages", "/home/user/.local/lib"]
    found = examine(tmp_path, *RTX_4070, torch(triton="", folders=two), tried({"kernel": "ModuleNotFoundError: ..."}, triton=""))
    assert found.one("gpu.trial").state == "ok"
    assert found.one("torch.several").state == "warning" and found.one("torch.triton").state == "warning"
    assert "pip install triton" in commands(found.one("torch.triton"))


# ---- the self test


def test_a_card_that_was_lost_while_the_machine_slept(tmp_path: Path) -> None:
    problem = "CUDA does not start; often the driver was lost while the machine slept, or was updated and not loaded anew"
    told = {"commands": [machines.child("puna.backends.torch.self_test", stdout='{"devices": [], "problem": "' + problem + '"}')]}
    finding = examine(tmp_path, *RTX_4070, told).one("gpu.trial")  # type: ignore[arg-type]
    assert finding.state == "error" and "slept" in finding.found
    assert commands(finding) == "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm"


def test_a_trial_that_hangs(tmp_path: Path) -> None:
    told: Overlay = {"commands": [machines.child("puna.backends.torch.self_test", hangs=True)]}
    finding = examine(tmp_path, *RTX_4070, told).one("gpu.trial")
    assert finding.state == "error" and "did not end within 60 s" in finding.found


def test_a_pytorch_that_cannot_be_imported(tmp_path: Path) -> None:
    words = "Traceback (most recent call last):\nImportError: libcudnn.so.9: cannot open shared object file: No such file\n"
    told: Overlay = {"commands": [machines.child("puna.backends.torch.self_test", stderr=words, code=1)]}
    finding = examine(tmp_path, *RTX_4070, told).one("gpu.trial")
    assert "libcudnn.so.9" in finding.found and "whl/cu130" in commands(finding)


def test_a_card_that_computes_wrongly(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, tried({"product": "a matrix product is wrong by up to 512"})).one("gpu.trial")
    assert finding.state == "error" and "wrong by up to 512" in finding.found and "may be wrong" in finding.effect


def test_a_machine_without_a_compiler_for_triton(tmp_path: Path) -> None:
    words = "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
    finding = examine(tmp_path, *RTX_4070, tried({"kernel": words})).one("gpu.trial")
    assert "sudo apt install gcc python3-dev" in commands(finding)


def test_memory_far_slower_than_its_data_sheet(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, tried({"memory_gb_per_s": 120.0})).one("gpu.bandwidth")
    assert finding.state == "warning" and "24%" in finding.found


def test_the_trial_leaves_rates_for_the_plan(tmp_path: Path) -> None:
    patient = Patient(build(tmp_path, *RTX_4070))
    list(gpu_self_test(patient))
    assert patient.facts["gpus"][0]["memory_gb_per_s"] == 452.1


def test_no_card_means_no_trial(tmp_path: Path) -> None:
    host = build(tmp_path)
    for probe in PROBES:
        list(probe(Patient(host)))
    assert not any("puna.backends.torch.self_test" in asked for asked in host.asked)


def test_a_fact_is_found_out_once(tmp_path: Path) -> None:
    host = build(tmp_path, *RTX_4070)
    patient = Patient(host)
    for probe in PROBES:
        list(probe(patient))
    assert len(host.asked) == len(set(host.asked))


# ---- several cards

TWO = smi({}, {"index": "1", "uuid": "GPU-b", "pci.bus_id": "00000000:02:00.0"})


def test_two_gpus_without_peer_to_peer(tmp_path: Path) -> None:
    found = examine(tmp_path, *RTX_4070, TWO, tried({}, {"number": 1}, all_reduce="ok"))
    assert found.one("nccl").state == "ok" and "NCCL 2.28.9 sums over 2 GPUs" in found.one("nccl").found
    assert found.one("nccl.peers").state == "note" and "RTX 40 and 50" in found.one("nccl.peers").found


def test_two_gpus_that_reach_each_other(tmp_path: Path) -> None:
    found = examine(tmp_path, *RTX_4070, TWO, tried({}, {"number": 1}, all_reduce="ok", peers=[[0, 1], [1, 0]]))
    assert "nccl.peers" not in found.of_state("note")


def test_nccl_that_hangs(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, TWO, tried({}, {"number": 1}, all_reduce="hangs")).one("nccl")
    assert finding.state == "warning" and finding.device == "cuda" and commands(finding) == "export NCCL_P2P_DISABLE=1"
    assert "did not end within" in finding.found


def test_a_pytorch_without_nccl_for_two_gpus(tmp_path: Path) -> None:
    finding = examine(tmp_path, *RTX_4070, TWO, tried({}, {"number": 1}, nccl="")).one("nccl")
    assert finding.state == "warning" and "has no NCCL" in finding.found and "one card alone can run one" in finding.effect


# ---- the kernel's log


def test_xids_are_told_with_their_meaning_and_their_number(tmp_path: Path) -> None:
    line = "NVRM: Xid (PCI:0000:01:00): 31, pid=4242, name=python3, Ch 00000008, intr 10000000. MMU Fault"
    finding = examine(tmp_path, *RTX_4070, dmesg(line, line)).one("nvidia.xid-31")
    assert finding.state == "note" and "2 times" in finding.found and "does not own" in finding.found


@pytest.mark.parametrize("number", sorted(XIDS))
def test_every_known_xid_has_a_finding(tmp_path: Path, number: int) -> None:
    found = examine(tmp_path, *RTX_4070, dmesg(f"NVRM: Xid (PCI:0000:01:00): {number}, pid='<unknown>'")).one(
        f"nvidia.xid-{number}"
    )
    assert found.state != "error" and XIDS[number].meaning in found.found, "the card answers: what was an error is past"


@pytest.mark.parametrize("number", [48, 62, 79, 119])
def test_an_xid_of_a_card_that_answers_no_more_is_an_error(tmp_path: Path, number: int) -> None:
    log = dmesg(f"NVRM: Xid (PCI:0000:01:00): {number}, pid='<unknown>'")
    assert examine(tmp_path, card(), loaded(), SMI_HANGS, log).one(f"nvidia.xid-{number}").state == "error"


def test_an_unknown_xid_is_a_warning(tmp_path: Path) -> None:
    assert examine(tmp_path, *RTX_4070, dmesg("NVRM: Xid (PCI:0000:01:00): 777, new")).one("nvidia.xid-777").state == "warning"


def test_a_log_that_may_not_be_read_is_a_note_where_it_could_tell(tmp_path: Path) -> None:
    refused: Overlay = {
        "commands": [command("dmesg", stderr="dmesg: read kernel buffer failed: Operation not permitted", code=1)]
    }
    found = examine(tmp_path, card(driver=""), built(), refused)
    assert found.one("nvidia.log").state == "note" and "sudo dmesg" in found.one("nvidia.log").found


# ---- the remedies


class Anything(dict[str, object]):
    """A value for every name of a recipe."""

    def __missing__(self, name: str) -> str:
        return "580"


def test_the_commands_of_every_recipe_are_understood_by_a_shell() -> None:
    lines = [
        line.format_map(Anything())
        for recipe in REMEDIES.values()
        for system, commands in [*recipe.commands.items(), ("anywhere", recipe.anywhere)]
        for line in commands
        if system != "windows"
    ]
    script = "\n".join(lines)
    assert subprocess.run(["sh", "-n"], input=script.encode(), capture_output=True, check=False).stderr == b""
    assert "{" not in script.replace("nvidia-{", "")


def test_the_doctor_says_that_a_healthy_card_runs_models(tmp_path: Path) -> None:
    diagnosis = diagnose(Patient(build(tmp_path, *RTX_4070), "cuda"))
    assert diagnosis.verdict.runs and diagnosis.verdict.devices == ("cpu", "cuda")
    assert diagnosis.facts["gpus"][0]["name"] == "NVIDIA GeForce RTX 4070"


def test_the_doctor_says_that_a_blocked_driver_runs_none(tmp_path: Path) -> None:
    diagnosis = diagnose(Patient(build(tmp_path, card(driver=""), built(), secure_boot(), NO_TORCH), "cuda"))
    assert not diagnosis.verdict.runs and "nvidia.secure-boot" in diagnosis.verdict.hindrances
    script = fix_script(diagnosis.findings, "ubuntu")
    assert "\nsudo mokutil --import /var/lib/shim-signed/mok/MOK.der\n" in script


# ---- garbage

NOISE = (
    "",
    "\x00",
    "\ufffd" * 9,
    "ü" * 300,
    "0, , , ,",
    "[" * 50,
    "{}",
    "[N/A]",
    "9" * 400,
    'Field "" is not',
    "a=b\n" * 40,
    ",\n" * 99,
)


@pytest.mark.parametrize("seed", range(25))
def test_garbage_in_every_answer_and_file_is_survived(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    noise = ["".join(chance.choices([*NOISE, *map(chr, range(1, 500))], k=40)) for _ in range(12)] + list(NOISE)
    files = {
        path: chance.choice(noise)
        for path in (
            "/proc/modules", "/proc/driver/nvidia/version", "/proc/mounts", "/proc/sys/kernel/osrelease", "/etc/os-release",
            "/sys/bus/pci/devices/0000:01:00.0/uevent", "/sys/bus/pci/devices/0000:01:00.0/power_state",
            "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "/etc/group", "/usr/share/misc/pci.ids",
        )
    }  # fmt: skip
    programs = ("nvidia-smi", "modinfo", "dkms", "mokutil", "dmesg", "journalctl", "prime-select", "{python}")
    answers = [command(name, stdout=chance.choice(noise), code=chance.choice((0, 0, 1)), prefix=True) for name in programs]
    overlay: Overlay = {"files": files, "commands": answers, "environ": {"CUDA_VISIBLE_DEVICES": chance.choice(["0", "x,1"])}}
    for device in ("auto", "cuda"):
        examine(tmp_path / device, card(), loaded(), overlay, device=device)


@pytest.mark.parametrize("text", NOISE)
def test_parsers_take_any_text(tmp_path: Path, text: str) -> None:
    host = build(
        tmp_path,
        {
            "commands": [
                command("nvidia-smi", stdout=text, prefix=True),
                command("dmesg", stdout=text),
                command("{python}", stdout=text, prefix=True),
            ]
        },
    )
    assert nvidia_smi.gpus(host) == () and nvidia_smi.memory_users(host) == () and parsed_dkms(text) == ()
    assert self_test(host).gpus == () and cuda_versions.branch(text) == 0
    assert kernel_log(host) in (None, ()) and kernel_module(host).version == ""


def test_this_machine_tells_its_pytorch_without_importing_it() -> None:
    found = look_at_torch()
    assert found.python and bool(found.folders) == bool(found.torch)


def test_a_rest_of_pytorch_is_seen_only_where_nothing_tells_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = tmp_path / "torch"
    rest.mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    found = look_at_torch()
    assert (found.torch, found.remains) == ("", str(rest))
    assert found.absence == f"only a part of PyTorch is installed, in {rest}"
    (rest / "version.py").write_text("__version__ = '2.13.0'")
    assert look_at_torch().remains == ""


def test_a_machine_whose_python_does_not_answer(tmp_path: Path) -> None:
    assert installed_torch(build(tmp_path)) is None
    assert "does not say" in examine(tmp_path / "b", card(), loaded(), smi()).one("torch.build").found
