"""The table of backends: a PyTorch that is missing or damaged is told in words, and never blamed for a bug of puna's."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from puna import install
from puna.backends import BACKENDS, create_backend
from puna.config import EngineConfig

ROOT = Path(__file__).parents[2]
# Opens a backend, with the device and the files of the driver to fill in.
OPEN = """
import sys
from pathlib import Path
from puna import backends
from puna.config import EngineConfig
from puna.errors import DeviceError
backends.NVIDIA_DRIVER = [Path({driver!r})]
if {without_torch}:
    sys.modules["torch"] = None
try:
    backends.create_backend(EngineConfig(device={device!r}))
except DeviceError as error:
    print(*error.typed, sep="\\n")
"""
MISSING = "libcudart.so.12: cannot open shared object file: No such file or directory"
# The file torch/__init__.py -> what is told.
DAMAGED = {
    f"raise ImportError({MISSING!r})": f"ImportError: {MISSING}",
    f"raise OSError({MISSING!r} + chr(10) + 'more')": f"OSError: {MISSING}",
    "from torch._C import *": "ModuleNotFoundError: No module named 'torch._C'",
    "": "ModuleNotFoundError: No module named 'torch.",
    "raise SystemExit(0)": "SystemExit: 0",
    "raise BaseException('b')": "BaseException: b",
    f"raise ImportError({'long' * 5000!r})": "ImportError: " + ("long" * 72)[:287] + " ...",
    "x = (": "SyntaxError: '(' was never closed (__init__.py, line 1)",
}


HERE, NOWHERE = str(ROOT), str(ROOT / "no-such-driver")


def told(device: str, driver: str, *path: Path) -> list[str]:
    """Message and hint of a backend that cannot be opened: with the torch in `path`, or without any."""
    return output(opening(device, driver, without_torch=not path), *path)


def opening(device: str = "torch", driver: str = NOWHERE, without_torch: bool = False) -> str:
    return OPEN.format(device=device, driver=driver, without_torch=without_torch)


def output(code: str, *path: Path) -> list[str]:
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True, timeout=60
    ).stdout.splitlines()


@pytest.mark.parametrize("source", DAMAGED)
def test_a_torch_that_does_not_start_is_told_with_what_to_type(tmp_path: Path, source: str) -> None:
    write_torch(tmp_path, source)
    message, hint = told("cuda", HERE, tmp_path)
    assert message.startswith(f"PyTorch is installed but does not start: {DAMAGED[source]}")
    assert " install --force-reinstall torch, or use --device cpu. `puna doctor --device cuda` tests it all." in hint
    (line,) = output("from puna.backends.torch import start; print(start.look()['problem'])", tmp_path)
    assert source == "" or line == DAMAGED[source]


def write_torch(folder: Path, source: str) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(source)


@pytest.mark.parametrize("source", ["", "__version__ = '2.13.0'"])
def test_half_a_torch_is_told_before_a_model_is_read(tmp_path: Path, source: str) -> None:
    write_torch(tmp_path, source)
    message, hint = told("torch", NOWHERE, tmp_path)
    assert message.startswith("PyTorch is installed but does not start: ModuleNotFoundError: No module named 'torch.")
    assert hint == "Use --device cpu, or install it: `puna doctor --device torch` shows the command."
    (line,) = output("from puna.backends.torch import start; print(start.look()['problem'])", tmp_path)
    assert line.startswith("ModuleNotFoundError: No module named 'torch.")


def test_without_torch_a_gpu_needs_the_packages_for_gpus() -> None:
    message, hint = told("cuda:1", HERE)
    assert message == "GPUs need torch, which is not installed"
    assert hint.startswith(f"Install it: {install.extra_command('gpu')}, or use --device cpu.")


def test_without_torch_the_cpu_by_torch_needs_no_packages_for_gpus() -> None:
    message, hint = told("torch", HERE)
    assert message == "PyTorch on the CPU needs torch, which is not installed"
    assert hint == "Use --device cpu, or install it: `puna doctor --device torch` shows the command."


@pytest.mark.parametrize("source", ["", "without torch"])
def test_without_a_card_nobody_is_sent_for_packages(tmp_path: Path, source: str) -> None:
    if source == "":
        write_torch(tmp_path, source)
    message, hint = told("cuda", NOWHERE, *([tmp_path] if source == "" else []))
    assert message == "there is no NVIDIA card here, or its driver is not loaded"
    assert hint == "Use --device cpu. `puna doctor --device cuda` says which of the two it is."


def test_a_bug_beside_a_whole_torch_stays_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with_a_bug.py").write_text("import sys; sys.no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("puna.backends.BACKENDS", {"torch": replace(BACKENDS["torch"], module="with_a_bug")})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.13.0"))
    with pytest.raises(AttributeError, match="no_such_thing"):
        create_backend(EngineConfig(device="torch"))


@pytest.mark.parametrize("error", ["KeyboardInterrupt()", "Terminated(143)"])
def test_who_ends_puna_while_torch_starts_is_not_told_of_a_damaged_torch(tmp_path: Path, error: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"from puna.errors import Terminated; raise {error}")
    ended = f"except {error.partition('(')[0]}: print('ended')\nexcept"
    code = "from puna.errors import Terminated" + opening().replace("except", ended, 1)
    assert output(code, tmp_path) == ["ended"]


NOISY = "import os; print('greeting'); os.write(1, b'from C\\n'); 1 / 0"


def test_what_a_package_prints_when_it_starts_is_not_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(NOISY)
    told, _, after = output(f"print('before'){opening()}\nprint('after')", tmp_path)[1:]
    assert told.endswith("does not start: ZeroDivisionError: division by zero") and after == "after"
    assert len(output(f"import os; os.close(1); import sys; sys.stdout = None{opening()}", tmp_path)) == 0
