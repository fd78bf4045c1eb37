"""Finds the installed PyTorch without importing it: `python -m puna.machine.installed_torch` prints one line of JSON.

It runs in a child, so the doctor's process imports no PyTorch and a test can simulate another machine.
"""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from puna.machine.child import Answer, ask
from puna.machine.host import Host

MODULE = "puna.machine.installed_torch"
LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class InstalledTorch:
    """Versions are "" if not installed. `cuda`, `hip`: what PyTorch was built for, "" for the CPU only. `remains`: a folder that
    Python takes for PyTorch, though nothing tells its version: a rest of one, or an installation that broke off."""

    torch: str = ""
    cuda: str = ""
    hip: str = ""
    triton: str = ""
    nccl: str = ""
    folders: tuple[str, ...] = ()  # folders with a torch, in the order of sys.path
    python: str = ""
    remains: str = ""

    @property
    def absence(self) -> str:
        """How to tell that there is no PyTorch of a known version."""
        return f"only a part of PyTorch is installed, in {self.remains}" if self.remains else "PyTorch is not installed"

    @property
    def needs_triton(self) -> bool:
        return bool(self.torch and self.cuda and not self.triton)


def installed_torch(host: Host) -> InstalledTorch | None:
    """What a child of this Python finds; None if the child does not answer."""
    answer = ask(host, MODULE, limit_s=LIMIT_S)
    return None if answer.problem else parsed(answer)


def parsed(answer: Answer) -> InstalledTorch:
    """
    >>> parsed(Answer({"torch": "2.13.0+cu130", "cuda": "13.0"})).cuda, parsed(Answer({"torch": 3})).torch
    ('13.0', '')
    """
    folders = answer.facts.get("folders")
    return InstalledTorch(
        torch=answer.text("torch"),
        cuda=answer.text("cuda"),
        hip=answer.text("hip"),
        triton=answer.text("triton"),
        nccl=answer.text("nccl"),
        folders=tuple(map(str, folders)) if isinstance(folders, list) else (),
        python=answer.text("python"),
        remains=answer.text("remains"),
    )


def look() -> InstalledTorch:
    """The PyTorch that this Python would import."""
    folders = tuple(str(path.parent) for path in _folders())
    built = _built_for(Path(folders[0]) / "torch" / "version.py") if folders else {}
    installed = built.get("__version__") or _version("torch")
    return InstalledTorch(
        torch=installed,
        cuda=built.get("cuda", ""),
        hip=built.get("hip", ""),
        triton=_version("triton") or _version("triton-windows"),
        nccl=next((found for cuda in (13, 12, 11) if (found := _version(f"nvidia-nccl-cu{cuda}"))), ""),
        folders=folders,
        python=".".join(map(str, sys.version_info[:3])),
        remains="" if installed else str(next(_on_path(), "")),
    )


def _folders() -> Iterator[Path]:
    """Each whole `torch` on sys.path, once."""
    seen = set()
    for folder in _on_path():
        if (folder / "version.py").is_file() and (real := folder.resolve()) not in seen:
            seen.add(real)
            yield folder


def _on_path() -> Iterator[Path]:
    """Each folder `torch` on sys.path; Python imports even an empty one."""
    folders = (Path(entry or ".") / "torch" for entry in sys.path)
    return (folder for folder in folders if folder.is_dir())


def _built_for(path: Path) -> dict[str, str]:
    """The strings that torch/version.py assigns; the file is parsed, not run."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return {}
    return {
        ast.unparse(target): node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(node.value.value, str)
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(look())) + "\n")
