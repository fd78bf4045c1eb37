"""The doctor's probes and its remedies see the same containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna.machine.environment import container_kind, environment
from tests.machine.fake_host import Overlay, build

CONTAINERS: list[tuple[Overlay, str]] = [
    ({"files": {"/proc/1/cgroup": "0::/system.slice/docker-1f.scope\n"}}, "Docker"),
    ({"files": {"/proc/1/cgroup": "0::/kubepods.slice/cri-containerd-1f.scope\n"}}, "Kubernetes"),
    ({"files": {"/proc/1/cgroup": "0::/machine.slice/libpod-1f.scope\n"}}, "Podman"),
    ({"files": {"/proc/1/cgroup": "0::/lxc/mine\n"}}, "LXC"),
    ({"files": {"/.dockerenv": ""}}, "Docker"),
    ({"environ": {"container": "systemd-nspawn"}}, "systemd-nspawn"),
    ({"environ": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}}, "Kubernetes"),
    ({"files": {"/proc/1/cgroup": "0::/init.scope\n"}}, ""),
]


@pytest.mark.parametrize(("overlay", "kind"), CONTAINERS)
def test_a_container_is_told_by_its_groups_its_files_or_its_variables(overlay: Overlay, kind: str, tmp_path: Path) -> None:
    host = build(tmp_path, overlay)
    assert container_kind(host) == kind and environment(host) == ("container" if kind else "bare")
