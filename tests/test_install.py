"""The command that installs an extra of puna, for each way in which puna can have been installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from puna import install


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a clone"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "puna"\n')
    (folder / "Makefile").touch()
    monkeypatch.setattr(install, "HERE", folder)
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    return folder


def test_where_make_made_the_environment_make_installs_more(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(clone / ".venv"))
    monkeypatch.chdir(clone)
    assert install.extra_command("gpu") == "make gpu"
    monkeypatch.chdir(clone.parent)
    assert install.extra_command("gpu") == f"make -C '{clone}' gpu"
    assert install.extra_command("cluster") == f"/env/bin/python -m pip install -e '{clone}[cluster]'"
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert install.extra_command("gpu") == f"/env/bin/python -m pip install -e '{clone}[gpu]'"


def test_in_another_environment_pip_installs_more_from_the_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/env")
    assert install.extra_command("gpu") == f"/env/bin/python -m pip install -e '{clone}[gpu]'"
    assert install.source() == f"'{clone}'"


def test_from_a_wheel_the_packages_of_the_extra_are_named(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone / "pyproject.toml").unlink()
    assert install.clone() is None
    told = install.extra_command("gpu")
    assert told.startswith("/env/bin/python -m pip install ") and "'torch>=2.11'" in told and "'triton>=3.6'" in told
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "triton" not in install.extra_command("gpu") and "puna" not in install.extra_command("gpu")


def test_on_windows_words_are_quoted_for_powershell(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "prefix", "C:\\env")
    monkeypatch.setattr(sys, "executable", "C:\\it's\\python.exe")
    assert install.extra_command("gpu") == f"& 'C:\\it''s\\python.exe' -m pip install -e '{clone}[gpu]'"


def test_pip_is_called_by_its_name_only_where_its_environment_is_active(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert install.pip() == "pip"
    for value in ("", "/another"):
        monkeypatch.setenv("VIRTUAL_ENV", value)
        assert install.pip() == "/env/bin/python -m pip"
