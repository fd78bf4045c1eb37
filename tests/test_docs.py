"""The documents say what the program says. In docs/from-bare-metal.md a comment before a block tells where the block is from:

    doctor: MACHINE    a part of the doctor's report on a machine of `MACHINES`; "..." stands for what is left out
    remedy: NAME       commands of a remedy, as they are for Ubuntu
    output: COMMAND    a part of what a command of puna's prints
    why: TEXT          a part of what `puna why` says of a text

Of tables with a column "The doctor says" each row holds a finding's name, the words with which it begins, and what its remedy has
one type. The machines are Ubuntu's, but for WSL.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from puna.cli.doctor import MARGINS, report_lines
from puna.cli.main import app
from puna.install import extra_command
from puna.machine import self_test
from puna.machine.distribution import Distribution
from puna.machine.doctor import MachineDiagnosis, diagnose
from puna.machine.finding import Finding
from puna.machine.probes.base import Patient
from puna.machine.probes.nvidia_log import XIDS
from puna.machine.remedies import REMEDIES
from puna.request import SamplingParams
from tests.cli.conftest import Puna
from tests.cli.conftest import puna as puna  # a fixture
from tests.machine.fake_host import DOCKER, WSL2, Overlay, build
from tests.machine.nvidia_machines import (
    NO_TORCH,
    NOT_BUILT,
    NOUVEAU,
    RTX_4070,
    built,
    card,
    child,
    command,
    loaded,
    secure_boot,
    smi,
    smi_fails,
    torch,
    tried,
)
from tests.machine.situations import python_facts, storage

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "from-bare-metal.md"
TEXT = GUIDE.read_text("utf-8")

SLEPT = "CUDA does not start; often the driver was lost while the machine slept, or was updated and not loaded anew"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
NO_COMPILER = (
    "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
)
NEW_PC: tuple[Overlay, ...] = (card(driver="nouveau"), NOUVEAU, NOT_BUILT, NO_TORCH)

MACHINES: dict[str, tuple[Overlay, ...]] = {
    "a new PC": NEW_PC,
    "the Python of Ubuntu": (*NEW_PC, python_facts(in_venv=False, externally_managed=True)),
    "no card": (),
    "a switched-off card": ({"commands": [command("prime-select", "query", stdout="intel\n")]},),
    "no headers": (card(driver=""), NOT_BUILT, {"files": {"/lib/modules/6.8.0-85-generic/kernel/": ""},
                   "commands": [command("dkms", "status", stdout="nvidia/580.82.07: added\n")]}),
    "a new kernel": (card(driver=""), built("6.8.0-79-generic", answer=False), {
                     "commands": [command("dkms", "status", stdout="nvidia/580.82.07, 6.8.0-79-generic, x86_64: installed\n")]}),
    "a key that waits": (card(driver=""), built(), secure_boot("is already in the enrollment request", waiting=True)),
    "a blue screen missed": (card(driver=""), built(), secure_boot()),
    "nouveau was faster": (card(driver="nouveau"), NOUVEAU, built()),
    "not loaded": (card(driver=""), built()),
    "a key that is known": (*RTX_4070, secure_boot("is already enrolled"), NO_TORCH),
    "no devices": (card(), loaded(), smi_fails("No devices were found\n", 6)),
    "no rights": (*RTX_4070, {"unwritable": ["/dev/nvidiactl", "/dev/nvidia0"], "files": {"/etc/group": "video:x:44:\n"}}),
    "no device files": (*RTX_4070, {"files": {"/dev/nvidia-uvm": None}}),
    "a container": (card(), loaded(), DOCKER, {"files": {f"/dev/nvidia{name}": None for name in ("0", "ctl", "-uvm")}}),
    "a PyTorch for the CPU": (*RTX_4070, torch("2.13.0+cpu", cuda="")),
    "an old driver": (*RTX_4070, loaded("550.120"), smi({"driver_version": "550.120"})),
    "no compiler": (*RTX_4070, tried({"kernel": NO_COMPILER})),
    "a hidden card": (*RTX_4070, {"environ": {"CUDA_VISIBLE_DEVICES": ""}}),
    "a full card": (*RTX_4070, smi({"memory.free": "2703"}, users="GPU-5d0a1bb1, 4242, /opt/ollama/bin/ollama, 8120\n")),
    "a full disk": (*RTX_4070, storage(free=3 << 30)),
    "updated": (card(), loaded(), built(), smi_fails(MISMATCH, 18), torch()),
    "slept": (*RTX_4070, {"commands": [child(self_test.MODULE, stdout=f'{{"devices": [], "problem": "{SLEPT}"}}')]}),
    "healthy": (*RTX_4070, secure_boot("is already enrolled")),
    "WSL": (WSL2, {"files": {"/usr/lib/wsl/lib/libcuda.so.1": ""}}, smi(), torch(), tried()),
}  # fmt: skip
SYSTEMS: dict[str, Distribution] = {"Debian": "debian", "Fedora": "fedora", "Arch": "arch", "WSL": "wsl", "Windows": "windows"}


# ---- reading the document


class Block(NamedTuple):
    """A fenced block, and what the comment before it says."""

    kind: str  # "doctor", "remedy" ...; "" without a comment
    source: str
    language: str
    text: str


BLOCK = re.compile(r"(?:<!-- (\w+): ([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [Block(*(part or "" for part in found.groups())) for found in BLOCK.finditer(TEXT)]
PROSE = BLOCK.sub("", TEXT)
CODES = re.findall(r"`([^`\n]+)`", PROSE)
ROWS = [
    [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PROSE.splitlines()
    if line.startswith("| ")
]


def blocks(kind: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind == kind]


def words(text: str) -> str:
    return " ".join(text.split())


def assert_within(part: str, whole: str) -> None:
    """Every piece of `part` between "..." stands in `whole`, in order, however its lines are broken."""
    rest = words(whole)
    for piece in filter(None, map(words, re.split(r"(?<!\S)\.\.\.(?!\S)", part))):
        assert piece in rest, f"nobody says: {piece}"
        rest = rest.partition(piece)[2]


# ---- findings


@pytest.fixture(scope="session")
def diagnoses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MachineDiagnosis]:
    return {name: diagnose(Patient(build(tmp_path_factory.mktemp("machine"), *overlays))) for name, overlays in MACHINES.items()}


def report(diagnosis: MachineDiagnosis) -> str:
    return "\n".join(f"{MARGINS.get(line.mark, line.mark)} {line.text}" for line in report_lines(diagnosis))


def known_checks() -> set[str]:
    """The names that stand in the sources of the probes, and those of the numbers of Xid."""
    sources = (ROOT / "puna" / "machine" / "probes").glob("*.py")
    texts = [
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return (
        {text for text in texts if re.fullmatch(r"[a-z]+\.[a-z-]+", text)}
        | {f"nvidia.xid-{number}" for number in XIDS}
        | {"nccl"}
    )


KNOWN_CHECKS = known_checks()


def checks_in(text: str) -> set[str]:
    heads = {name.partition(".")[0] for name in KNOWN_CHECKS}
    return {code for code in re.findall(r"`([a-z]+\.[a-z0-9-]+|nccl)`", text) if code.partition(".")[0] in heads}


def test_every_finding_that_is_named_is_one_of_the_probes() -> None:
    assert checks_in(PROSE) and checks_in(PROSE) <= KNOWN_CHECKS


def test_every_step_names_the_finding_that_proves_it() -> None:
    steps = re.split(r"^## (?=\d+\.)", TEXT, flags=re.MULTILINE)[1:]
    assert len(steps) > 8 and not [step.partition("\n")[0] for step in steps if not checks_in(step)]


def test_every_report_is_what_the_doctor_says(diagnoses: Mapping[str, MachineDiagnosis]) -> None:
    assert blocks("doctor")
    for block in blocks("doctor"):
        assert_within(block.text, report(diagnoses[block.source]))


def test_every_row_of_a_table_is_a_finding_and_its_commands(diagnoses: Mapping[str, MachineDiagnosis]) -> None:
    rows = [row for row in ROWS if checks_in(row[1])]
    assert len(rows) > 20
    for seen, said, typed in rows:
        check, _, text = said.partition(": ")
        findings = [
            finding for diagnosis in diagnoses.values() for finding in diagnosis.findings if f"`{finding.check}`" == check
        ]
        fitting = [finding for finding in findings if words(finding.found).startswith(words(text))]
        assert fitting, f"no machine has it: {said}"
        assert any(is_row_of(finding, seen, typed) for finding in fitting), f"{said}: {typed}"


def is_row_of(finding: Finding, seen: str, typed: str) -> bool:
    """Whether a row's first cell tells well from ill, and its last holds no command but those of the remedy."""
    commands, advice = (finding.remedy.commands, finding.remedy.words) if finding.remedy else ((), "")
    is_offered = all(code in commands or code in advice for code in codes(typed))
    return is_offered and (finding.state == "ok") == ("all is well" in seen)


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- commands


def test_every_remedy_is_the_one_for_ubuntu(diagnoses: Mapping[str, MachineDiagnosis]) -> None:
    remedies = [finding.remedy for name in diagnoses for finding in diagnoses[name].findings if finding.remedy and name != "WSL"]
    assert blocks("remedy")
    for block in blocks("remedy"):
        recipe = REMEDIES[block.source]
        known = {line for remedy in remedies if remedy.name == block.source for line in remedy.commands}
        known |= set(recipe.commands.get("ubuntu", recipe.anywhere))
        known |= {"make gpu"} if {extra_command("gpu"), "{install_gpu}"} & known else set()  # as the guide installs puna
        assert set(block.text.splitlines()) <= known


def test_the_commands_for_other_systems_are_the_remedies_there() -> None:
    rows = {system: row for row in ROWS for system in SYSTEMS if row[0].startswith(system)}
    assert rows.keys() == SYSTEMS.keys()
    for system, row in rows.items():
        known = [line for recipe in REMEDIES.values() for line in recipe.commands.get(SYSTEMS[system], recipe.anywhere)]
        forms = [re.compile(re.sub(r"\\{\w+\\}", r"\\S+", re.escape(line))) for line in known]
        unknown = [code for code in codes(" ".join(row)) if not any(form.fullmatch(code) for form in forms)]
        assert not unknown, f"{system}: {unknown}"


def commands() -> Iterator[list[str]]:
    """The words of every command line of the document that calls puna, torchrun's arguments left out."""
    lines = [line for block in BLOCKS if block.language == "sh" for line in block.text.replace("\\\n", " ").splitlines()]
    for line in (*lines, *CODES):
        for part in re.split(r" \| | && |; ", line):
            found = re.match(r"(?:\$ )?(?:\S*/)?(?:torchrun [^\n]*?-m )?puna(?= |$)(.*)", part)
            if found:
                yield shlex.split(found[1], comments=True)


@pytest.mark.parametrize("line", list(commands()), ids=" ".join)
def test_every_command_and_option_exists(line: list[str]) -> None:
    context = click.Context(app)
    name = line[0] if line else "--help"
    if name.startswith("-"):
        assert name in {option for parameter in app.get_params(context) for option in parameter.opts}
        return
    called = app.get_command(context, name)
    assert called is not None, f"no command {name}"
    known = {
        option
        for parameter in called.get_params(click.Context(called))
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word.partition("=")[0] for word in line[1:] if re.match(r"--?[a-z]", word)} <= known


def test_every_example_takes_the_flags_that_it_is_given() -> None:
    calls = re.findall(r"(examples/\w+\.py)((?:[^\n]|(?<=\\)\n)*)", TEXT)
    assert calls
    for file, arguments in calls:
        functions = [node for node in ast.parse((ROOT / file).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
        parameters = {argument.arg for function in functions if function.name == "main" for argument in function.args.args}
        assert set(re.findall(r"--(\w+)", arguments)) <= parameters, file


# ---- what puna prints


def test_every_output_is_what_the_command_prints(puna: Puna, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    assert blocks("output")
    for block in blocks("output"):
        done = puna(*shlex.split(block.source)[1:], "--ram", "32GiB")  # as much as the PC of the document has
        assert_within(block.text, done.err + done.out)


def test_every_explanation_is_what_puna_why_says(puna: Puna) -> None:
    for block in blocks("why"):
        assert_within(block.text, puna("why", "-", stdin=block.source).out.replace("\n> ", "\n"))


# ---- the prose


def test_the_guide_is_calm_and_short() -> None:
    assert "!" not in TEXT.replace("<!--", "") and len(TEXT.splitlines()) <= 270


def test_the_readme_links_the_guide() -> None:
    assert "(docs/from-bare-metal.md)" in (ROOT / "README.md").read_text("utf-8")


# ---- docs/sampling.md


SAMPLING = (ROOT / "docs" / "sampling.md").read_text("utf-8")


def flags_by_field(name: str) -> dict[str, str]:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    return {str(one.name): max(one.opts, key=len) for one in command.params if isinstance(one, click.Option)}


@pytest.mark.parametrize("command", ["run", "chat"])
def test_the_page_on_sampling_names_the_flags_as_they_are(command: str) -> None:
    """A field with hyphens is the flag; what has another flag, or none, is named above."""
    flags = flags_by_field(command)
    rows = [line.split("|")[1] for line in SAMPLING.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    beginning = SAMPLING.partition("## ")[0]
    assert len(named) > 25 and named <= {*SamplingParams.__dataclass_fields__, "logits_processors"}
    for name in named:
        if name not in flags:
            assert f"`{name}`" in beginning.partition("singular")[2], f"{name} has no flag, which the page does not say"
        elif flags[name] != f"--{name.replace('_', '-')}":
            assert f"`{flags[name]}`" in beginning, f"the flag of {name} is {flags[name]}, which the page does not say"
    assert set(re.findall(r"`(--[a-z-]+)", SAMPLING)) <= set(flags.values())
