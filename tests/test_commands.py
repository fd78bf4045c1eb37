"""Every command that puna tells people to type: run here where a machine allows it, else checked for what can be checked.

They stand in README.md, CONTRIBUTING.md and docs/, in what `make demo` prints, in every text of the package
(hints of errors, notices, the cures of `puna why`), and in the doctor's remedies. A program that no table here knows fails.
"""

from __future__ import annotations

import ast
import functools
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest

from puna import hub, install
from puna.backends.base import Roofline
from puna.cli.main import COMMANDS, app
from puna.machine.remedies import REMEDIES
from puna.machine.rooflines import remember
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, tokenizer_bin_bytes, write_gguf, write_peft

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "docs/from-bare-metal.md", "docs/how-generate-works.md", "docs/glossary.md"),
    *("docs/serving.md",),
    *(f"docs/tours/{path.name}" for path in sorted((ROOT / "docs" / "tours").iterdir())),
)

# Programs whose commands are not run here -> why. What they are given belongs to the reader's machine.
SYSTEM, SHELL, GPU, NETWORK, LOOKS = (
    "changes the system",
    "changes a shell",
    "needs a GPU",
    "needs the network",
    "only looks at the machine",
)
NOT_RUN = {
    program: reason
    for reason, programs in (
        (
            SYSTEM,
            ("apt", "arch", "brew", "dnf", "docker", "echo", "icacls", "kill", "mkdir", "pacman", "powercfg", "powerprofilesctl"),
        ),
        (SYSTEM, ("printf", "shutdown", "sudoedit", "winget", "wsl", "wsl.exe", "xcode-select")),
        (SHELL, ("$env:MASTER_ADDR", "$env:MASTER_PORT", "$env:PUNA_CACHE", "NCCL_DEBUG=INFO", "Remove-Item")),
        (SHELL, ("export", "set", "source", "ulimit", "unset")),
        (GPU, ("lspci", "modprobe", "mokutil", "nvidia-smi")),
        (NETWORK, ("curl", "git", "huggingface-cli")),
        (
            LOOKS,
            (
                "Get-ChildItem",
                "Get-NetTCPConnection",
                "Get-Process",
                "Select-Object",
                "Sort-Object",
                "cat",
                "du",
                "grep",
                "head",
                "sed",
                "true",
            ),
        ),
        (LOOKS, ("lsof", "ps", "sort", "ss", "tail")),
        ("runs what was fetched", ("sh", "NEW/bin/pip")),
        ("runs on Windows", ("&", "py")),
    )
    for program in programs
}
SUDO = {
    *("akmods", "apt", "chattr", "chmod", "chown", "dkms", "dmesg", "dnf", "dpkg", "fallocate", "firewall-cmd", "gpg", "grubby"),
    *("kmodgenca", "ldconfig", "mkinitcpio", "mkswap", "modprobe", "mokutil", "nvidia-ctk", "nvidia-modprobe", "nvidia-smi"),
    *("pacman", "prime-select", "reboot", "shutdown", "swapon", "sysctl", "systemctl", "tee", "touch", "ubuntu-drivers", "ufw"),
    *(
        "-u",
        "cp",
        "install",
        "useradd",
        "update-ca-certificates",
        "update-ca-trust",
        "update-initramfs",
        "update-secureboot-policy",
        "usermod",
    ),
}
PIP = {"install", "uninstall", "list", "check", "debug", "download", "freeze", "show", "cache", "--version"}
HF = {"auth login", "auth whoami", "download", "cache ls"}

# What follows "puna", "pip" or "make" in a sentence and is no command: one of these, or a verb of the third person that is no
# command's name with an s.
PROSE = set(
    "converts plans runs serves a is has was did may the itself cannot it never sure this one or failed asked X (rank".split()  # noqa: SIM905
)
LEFT_OUT = ("serve",)  # a command that a puna may lack (test_without_server.py); other machines have it
PROGRAMS = (
    r"puna|make|pip3?|sudo|torchrun|hf|huggingface-cli|python3?|py|winget|brew|wsl(?:\.exe)?|docker|nvidia-smi|"
    "export|unset|ulimit|git|curl"
)
IN_TEXT = re.compile(rf"`((?:{PROGRAMS})(?: [^`]*)?)`|(?:^|[:;,(] ?|\bor |\$ |\n)((?:{PROGRAMS}) [^\n;,`]*)")


class Told(NamedTuple):
    """A command, and its position."""

    where: str
    command: str


# ---- where commands stand ---------------------------------------------------------------------------------------------------


def in_documents() -> Iterator[Told]:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text("utf-8")
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if language in ("", "sh"):
                yield from (Told(document, line) for line in commands_of(block))
        inline = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`\n]+)`", inline):
            if re.match(rf"(?:{PROGRAMS}|source|xcode-select|ps|du|lspci)(?: |$)", code):
                yield Told(document, code)


def commands_of(block: str) -> list[str]:
    """The lines of a block that are typed: those behind a $, where there are any; else all that begin with a program."""
    lines = block.replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return typed or [
        line for line in lines if re.match(rf"(?:\.venv/bin/)?(?:{PROGRAMS}|source|cat|echo)(?: |$)|python3? ", line)
    ]


def in_sources() -> Iterator[Told]:
    for path in sorted((ROOT / "puna").rglob("*.py")):
        for line, text in texts_of(ast.parse(path.read_text("utf-8"))):
            for found in IN_TEXT.finditer(text):
                yield Told(f"{path.relative_to(ROOT)}:{line}", (found[1] or found[2]).strip())


def texts_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is no docstring; what is put into a text is X."""
    nodes = list(ast.walk(tree))
    bodies = [node.body[0] for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body]
    left_out = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            left_out.update(map(id, node.values))
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    texts = [
        node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out
    ]
    regular_expression = re.compile(r"\(\?|\)\?|\\[bsdw]")
    yield from ((node.lineno, str(node.value)) for node in texts if not regular_expression.search(str(node.value)))


def in_remedies() -> Iterator[Told]:
    values = {"pip": "pip", "puna": "X", "install_gpu": install.extra_command("gpu"), "python": "python"}
    for name, recipe in REMEDIES.items():
        for commands in (*recipe.commands.values(), recipe.anywhere):
            for command in commands:
                yield Told(f"remedy {name}", re.sub(r"(?<!\$)\{(\w+)\}", lambda found: values.get(found[1], "X"), command))


def in_makefile() -> Iterator[Told]:
    for line in (ROOT / "Makefile").read_text("utf-8").splitlines():
        for found in re.findall(r"(?:Try: |or once, for all terminals: |or choose a folder: |; )(make [\w ]+)", line):
            yield Told("Makefile", found)


@functools.cache
def told_anywhere() -> list[Told]:
    return [*in_documents(), *in_sources(), *in_remedies(), *in_makefile()]


def test_commands_are_found_everywhere() -> None:
    for place, least in (
        ("README.md", 40),
        ("docs/", 20),
        ("puna/causes/", 100),
        ("puna/hub/", 8),
        ("puna/cli/", 10),
        ("remedy", 150),
    ):
        assert sum(told.where.startswith(place) for told in told_anywhere()) >= least, place


# ---- what can be checked of each ---------------------------------------------------------------------------------------------


def problem_of(command: str) -> str:
    """What is wrong with a command, as far as that can be known without running it; "" where nothing is."""
    if command.startswith("#"):
        return ""
    quoted = re.sub(r"(\"[^\"]*\"|'[^']*')", lambda found: re.sub(r"[|;&#]", "_", found[1]), command)
    for part in re.split(r" \| | && | \|\| |; ", re.sub(r"\s+# .*$", "", quoted)):
        part = part.strip()
        if part and (problem := problem_of_one(part)):
            return problem
    return ""


def problem_of_one(command: str) -> str:
    program, _, rest = command.partition(" ")
    program = program.removeprefix(".venv/bin/").removeprefix("~/puna-env/bin/").removeprefix("~/ai/bin/")
    if program in CHECKS:
        return CHECKS[program](rest)
    return "" if program in NOT_RUN else f"no table of {Path(__file__).name} knows the program {program!r}"


def is_prose(word: str) -> bool:
    return word in PROSE or (re.fullmatch(r"[a-z]{3,}s", word) is not None and word.removesuffix("s") not in COMMANDS)


def puna_problem(rest: str) -> str:
    words = re.findall(r"\"[^\"]*\"|\S+", rest)
    if words and re.fullmatch(r"\".* .*\"", words[0]):
        return ""  # a question
    name = words[0].rstrip(".:") if words else ""
    if name.startswith("-"):
        return "" if name in {"--help", "-h", "--version"} else f"puna has no flag {name}"
    if name not in COMMANDS:
        if name in LEFT_OUT:
            return ""
        return "" if not name or is_prose(name) else f"puna has no command {name!r}"
    called = app.get_command(click.Context(app), name)
    assert called is not None
    known = {
        option
        for parameter in called.get_params(click.Context(called))
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = [word.partition("=")[0].rstrip(".):") for word in words[1:] if re.match(r"--?[a-z]", word)]
    return next((f"puna {name} has no flag {flag}" for flag in given if flag not in known), "")


def make_problem(rest: str) -> str:
    words = re.sub(r"-C \S+", "", rest).split()
    target = next((word.rstrip(".,:)") for word in words if "=" not in word and word.islower()), "")
    if target in MAKE_TARGETS:
        return ""
    return "" if not target or is_prose(target) else f"the Makefile has no target {target!r}"


def pip_problem(rest: str) -> str:
    verb = rest.split()[0] if rest else ""
    if verb not in PIP:
        return "" if not verb or is_prose(verb) else f"pip has no {verb!r}"
    if re.search(r"(?<![\w/.-])puna\b", rest.partition(" ")[2]):
        return "puna is on no package index"
    extras = re.findall(r"\[([a-z]+)\]", rest)
    return next((f"puna has no extra {extra}" for extra in extras if extra not in EXTRAS), "")


def python_problem(rest: str) -> str:
    if found := re.match(r"-m pip (.*)", rest):
        return pip_problem(found[1])
    if found := re.match(r"-m (puna[\w.]*)", rest):
        return (
            ""
            if (ROOT / found[1].replace(".", "/")).with_suffix(".py").exists() or (ROOT / found[1]).is_dir()
            else f"no {found[1]}"
        )
    if found := re.match(r"(examples/\S+)", rest):
        return "" if (ROOT / found[1]).is_file() else f"there is no {found[1]}"
    modules = "venv|bitsandbytes|tests|scripts"
    others = r"-X faulthandler|--version$|version |train\.py|convert_hf_to_gguf\.py|\d|X"
    is_known = re.match(rf"-c |-m ({modules})|{others}", rest)
    return "" if is_known or not rest else f"no table knows python {rest}"


def torchrun_problem(rest: str) -> str:
    if " -m puna" in rest:
        rest, _, inner = rest.partition(" -m puna")
        if problem := puna_problem(inner.strip()):
            return problem
    flags = [word.replace("-", "_").strip("_") for word in re.findall(r"(--[a-z][\w-]*)", rest.partition("examples/")[0])]
    return next((f"torchrun has no flag --{flag}" for flag in flags if flag not in torchrun_flags()), "")


@functools.cache
def torchrun_flags() -> set[str]:
    from torch.distributed.run import get_args_parser

    return {option.replace("-", "_").strip("_") for action in get_args_parser()._actions for option in action.option_strings}


def hf_problem(rest: str) -> str:
    return "" if any(rest.startswith(known) for known in HF) else f"no table knows hf {rest}"


def sudo_problem(rest: str) -> str:
    word = rest.split()[0]
    return "" if word in SUDO else f"no table knows sudo {word}"


CHECKS: dict[str, Callable[[str], str]] = {
    "puna": puna_problem,
    "make": make_problem,
    "pip": pip_problem,
    "pip3": pip_problem,
    "python": python_problem,
    "python3": python_problem,
    sys.executable: python_problem,
    "torchrun": torchrun_problem,
    "hf": hf_problem,
    "sudo": sudo_problem,
}
MAKE_TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


def test_no_command_is_wrong_or_of_an_unknown_program() -> None:
    wrong = [f"{told.where}: {told.command}: {problem}" for told in told_anywhere() if (problem := problem_of(told.command))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "command",
    ["puna pul qwen3-4b", "puna run --temprature 1", "pip install puna", "pip install 'puna[gpu]'", "make gpu-all",
     "frobnicate x", "python -m puna.nothing", "torchrun --nprocs 2 -m puna run x", "sudo frobnicate", "hf login",
     "pip install -e '.[gpus]'"],
)  # fmt: skip
def test_a_wrong_command_would_be_found(command: str) -> None:
    assert problem_of(command)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_remedies_of_linux_are_lines_of_a_shell() -> None:
    lines = [
        told.command
        for told in in_remedies()
        if not re.search(r"\$env:|\|\s*(Sort|Select)-Object|^&|Remove-Item|icacls", told.command)
    ]
    done = subprocess.run(["bash", "-n"], input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
@pytest.mark.parametrize("target", sorted(MAKE_TARGETS & {"demo", "install", "uninstall", "gpu", "test", "check"}))
def test_every_target_of_make_can_be_made(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- what is run ---------------------------------------------------------------------------------------------------------------

# Lines of the README that are not run by this test -> why, and what checks them instead.
NOT_RUN_LINES = {
    r"make ": "installs or tests; test_every_target_of_make_can_be_made",
    r"source |sudo |python3 -m venv|\.venv/bin": "makes an environment, which takes minutes",
    r"python train\.py": "a program of the reader's",
    r"puna pull |puna chat qwen3-4b|puna plan hf:": "needs the Hub; tests/hub",
    r"puna rm ": "asks first; tests/cli/test_rm.py",
    r"puna doctor|puna bench": "takes long; tests/machine/test_doctor.py, tests/cli",
    r"torchrun ": "several processes, or a GPU; tests/backends/torch, tests/compat",
    r".*--require-gpu|.*--vram": "needs a GPU",
    r"puna serve|curl |puna \w+ --server": "a server, which runs until it is ended; tests/server/test_serving_page.py",
    r"puna rerank": "needs a vocabulary with yes and no; tests/cli/test_rerank.py",
    r".*--kv-type int8": "the reference backend has none; tests/conformance/test_backends.py",
    r".*--suffix": "needs a model that was trained to fill gaps; tests/test_infill.py",
    r"echo .torch": "tests/test_docs.py has its like",
    r"puna run no-such\.gguf": "the example of an error; run below",
    r"hf |git ": "needs the network",
}


@pytest.fixture
def puna(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Puna:
    return Puna(capsys, monkeypatch)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, puna: Puna) -> Path:
    """An empty home and cache; tiny models stand in for those that the README names, and for the default model."""
    config = tiny_config(max_context=64)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PUNA_DEVICE", "reference")
    monkeypatch.chdir(tmp_path)
    remember("cpu", Roofline(40e9, 500e9, 150e9))
    write_gguf(tmp_path / "model.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer())
    models = tmp_path / "cache" / "models"
    models.mkdir(parents=True)
    default = hub.CATALOGUE[hub.DEFAULT_MODEL]
    for name in (default.target.name, "qwen3-4b.gguf", "llama-2-7b.gguf", "m.gguf"):
        shutil.copy("model.gguf", models / name)
    thinks = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    write_gguf(models / "qwen3-4b.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer(), chat_template=thinks)
    monkeypatch.setattr(hub, "is_cached", lambda model: True)
    monkeypatch.setattr("puna.hub.headers.is_cached", lambda model: True)
    assert puna("convert", "model.gguf", str(models / "open_llama_3b"), "--to", "safetensors").code == 0
    assert puna("convert", "model.gguf", str(models / "stories15m"), "--to", "llama2c").code == 0
    (models / "stories15m" / "tokenizer.json").unlink()
    Path("tokenizer.bin").write_bytes(tokenizer_bin_bytes(spm_tokenizer()))
    halves = np.ones((2, config.hidden_size), np.float32), np.ones((config.num_heads * config.head_dim, 2), np.float32)
    write_peft(tmp_path / "my-adapter", {"model.layers.0.self_attn.q_proj": halves})
    shutil.copy(ROOT / "tests" / "explain" / "source" / "listing.py", "generation.py")
    Path("README.md").write_text("The llama on the high plain sees the other llamas. " * 4, "utf-8")
    return tmp_path


def typed_in(document: str) -> list[str]:
    """What is typed in the blocks of a document, without its remarks."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", (ROOT / document).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+# .*$", "", line).strip() for block in blocks for line in commands_of(block)]


def readme_commands() -> list[str]:
    return typed_in("README.md")


def runnable() -> list[str]:
    """The lines of the README, and of the page on `generate`, that run on any machine."""
    lines = dict.fromkeys([*readme_commands(), *typed_in("docs/how-generate-works.md")])
    return [line for line in lines if not any(re.match(pattern, line) for pattern in NOT_RUN_LINES)]


# Words of a command that name a file or a folder, but not the places where puna itself is.
FILE = re.compile(r"(?<![\w./:-])(?!~|\.venv/)[\w./-]+(?:\.(?:bin|gguf|json|model|pth|py|safetensors|sh|txt)|/)(?![\w/])")
ROWS = re.compile(r"^\| (`[^|]*`) \| ([^|]+) \|$", re.MULTILINE)
WRITTEN = re.compile(r"puna convert \S+ (\S+)|--fix-script (\S+)|--receipt (\S+)")  # what a command writes


def files_of(commands: list[str]) -> set[str]:
    """The files and folders that commands name, without those that one of them has written."""
    written: set[str] = set()
    named: set[str] = set()
    for command in commands:
        written |= {name for found in WRITTEN.findall(command) for name in found if name}
        named |= set(FILE.findall(command)) - written
    return named


def said_sources(document: str) -> dict[str, str]:
    """File -> where it comes from, of the table of a document that says so."""
    table = document.partition("| where it comes from |")[2].partition("\n\n")[0]
    return {name: source for names, source in ROWS.findall(table) for name in re.findall(r"`([^`]+)`", names)}


def test_every_file_that_the_readme_names_is_here_or_written_before_or_has_its_source_said() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    sources = said_sources(text)
    inline = [told.command for told in in_documents() if told.where == "README.md" and told.command not in readme_commands()]
    named = {name for name in files_of([*readme_commands(), *inline]) if not (ROOT / name).exists()}
    assert named - sources.keys() == {"no-such.gguf"}  # the example of an error
    assert sources.keys() <= named | set(FILE.findall(text)) and len(sources) >= 5 and all(sources.values())


@pytest.mark.parametrize(
    ("command", "names"),
    [("puna run model.gguf", {"model.gguf"}), ("puna convert a-7b/ m.gguf", {"a-7b/"}), ("cat a.txt | puna run -", {"a.txt"}),
     ("puna pull hf:OWNER/REPO/FILE.gguf", set()), ("source .venv/bin/activate", set()), ("puna chat qwen3-4b", set())],
)  # fmt: skip
def test_a_file_without_a_source_would_be_found(command: str, names: set[str]) -> None:
    assert files_of([command]) == names


def test_a_file_that_an_earlier_command_writes_needs_no_source() -> None:
    assert files_of(["puna convert qwen3-4b m.gguf", "puna chat m.gguf", "puna doctor --fix-script fix.sh", "sh fix.sh"]) == set()
    assert files_of(["puna chat m.gguf", "puna convert qwen3-4b m.gguf"]) == {"m.gguf"}


def test_most_lines_of_the_readme_are_run() -> None:
    assert len(set(readme_commands()) & set(runnable())) >= 15


@pytest.mark.parametrize("line", runnable())
def test_a_line_runs_as_it_is_typed(workplace: Path, puna: Puna, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, second = line.partition(" | ")
    stdin = first.removeprefix("echo ") if second else ""
    program, *arguments = shlex.split(second or first)
    assert program == "puna"
    if "--gpu" in arguments:  # which names a card
        monkeypatch.delenv("PUNA_DEVICE")
    if "--continue" in arguments:
        puna("chat", stdin="Hi\n")
    if "--cache-dir" in arguments:  # which an earlier run has made
        puna("run", "Hi", "-n", "1", "--cache-dir", arguments[arguments.index("--cache-dir") + 1])
    if arguments[0] == "replay":
        puna("run", "Hi", "-n", "1", "--receipt", arguments[1])
    done = puna(*arguments, stdin=stdin)
    assert done.code == 0, done.err


def test_the_error_in_the_readme_is_what_puna_says(workplace: Path, puna: Puna) -> None:
    done = puna("run", "no-such.gguf", "Hi")
    assert done.code == 2 and done.err in (ROOT / "README.md").read_text("utf-8")


def test_the_python_of_the_page_on_sampling_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/sampling.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    Path("page.py").write_text(block, "utf-8")
    runpy.run_path("page.py")
    out = capsys.readouterr().out
    assert out.strip() and not any(letter.isdigit() for letter in out)


def test_the_python_of_the_readme_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE):
        Path("readme.py").write_text(block, "utf-8")
        runpy.run_path("readme.py")
        out = capsys.readouterr().out
        assert len(out) > 20 and (("length" in out and "Logprob" in out) or "AsyncLLM" in block)
