"""Texts about the machine, as clients beyond it may read them: no path, on any machine that the doctor is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna.server.private import HIDDEN, has_other_clients, without_paths
from puna.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/.cache/puna: 611 GiB free of 982 GiB", "[path]: 611 GiB free of 982 GiB"),
        ("cannot read '/home/ann/m.gguf': it is empty", "cannot read '[path]': it is empty"),
        ('File "/opt/x/run.py", line 3', 'File "[path]", line 3'),
        ("the folder is /srv/models.", "the folder is [path]."),
        ("PUNA_CACHE=/mnt/big/cache", "PUNA_CACHE=[path]"),
        (r"C:\Users\ann\puna is on a network", "[path] is on a network"),
        (r"\\server\share\puna is slow", "[path] is slow"),
        ("/home/Ann Lee/.cache/puna cannot be written", "[path] cannot be written"),
        ("/home/Ann Lee/models: 1 file", "[path]: 1 file"),
        ("sudo chmod a+rw /dev/nvidia0 /etc/x.conf", "sudo chmod a+rw /dev/nvidia0 /etc/x.conf"),
        ("curl -O https://example.org/a/b.deb", "curl -O https://example.org/a/b.deb"),
        ("memory reads 32.6 GB/s; 293 GOP/s", "memory reads 32.6 GB/s; 293 GOP/s"),
        ("puna pull hf:owner/repo", "puna pull hf:owner/repo"),
        ("", ""),
    ],
)
def test_a_path_is_hidden_and_nothing_else(text: str, shown: str) -> None:
    folders = (Path("/home/Ann Lee"), Path("/home/Ann Lee/.cache/puna"), Path("/"))
    assert without_paths(text, folders) == shown


def test_texts_are_hidden_wherever_they_stand() -> None:
    found = without_paths({"a": ["/home/x", ("/srv/y", 3, None, True)], "b": {"c": "/mnt/z"}})
    assert found == {"a": [HIDDEN, [HIDDEN, 3, None, True]], "b": {"c": HIDDEN}}


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        (ServerSettings(), False),
        (ServerSettings(host="localhost"), False),
        (ServerSettings(host="::1"), False),
        (ServerSettings(host="0.0.0.0", api_keys=("k",)), True),
        (ServerSettings(api_keys=("k",)), True),
        (ServerSettings(allowed_hosts=("example.org",)), True),
        (ServerSettings(allowed_origins=("https://example.org",)), True),
    ],
)
def test_who_may_ask_is_told_by_the_settings(settings: ServerSettings, others: bool) -> None:
    assert has_other_clients(settings) is others
