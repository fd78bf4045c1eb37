"""The flags of `puna bench --vs`, and its table."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna import __version__
from puna.cli.terminal import TerminalReporter, shown_path
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.errors import PunaError, UsageError, did_you_mean
from puna.peers import PEERS
from puna.peers.comparison import AFTER_TOKENS, PeerComparison, Rival, Workload
from puna.peers.process import PeerError, require_installed
from puna.units import counted

if TYPE_CHECKING:
    from puna.config import EngineConfig
    from puna.llm import LLM

ALL = "all"  # every program of PEERS
LEAST_SHARE = 0.01  # of the bytes of the weights
EXPLANATION = (
    "tokens per second. The programs took turns, with the same threads; a ratio is of two runs that followed each other: "
    "above 1, puna is faster. They do not all compute in the same type: fewer bits are faster, and less exact."
)


def rivals(names: str, pythons: Sequence[str], models: Sequence[str]) -> list[Rival]:
    """The peers of `--vs`, with their Pythons and models. UsageError for a name that is none of PEERS, nor ALL.

    >>> [(rival.name, rival.python) for rival in rivals("llama.cpp,vllm", ["/a/python", "vllm=/b/python"], [])]
    [('llama.cpp', '/a/python'), ('vllm', '/b/python')]
    """
    chosen = list(PEERS) if names == ALL else list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in chosen:
        _require_known("--vs", name)
    python_of = _by_name("--peer-python", pythons, chosen)
    model_of = {name: Path(path) for name, path in _by_name("--peer-model", models, chosen).items()}
    if "" in model_of:
        raise UsageError(f"--peer-model is {model_of['']}; write NAME=PATH", hint=f"For example: {chosen[0]}={model_of['']}")
    for path in model_of.values():
        if not path.exists():
            raise UsageError(f"--peer-model names {path}; there is no such file or folder", hint="Check the path.")
    python = python_of.get("", sys.executable)
    return [Rival(name, PEERS[name], python_of.get(name, python), model_of.get(name)) for name in chosen]


def _require_known(flag: str, name: str) -> None:
    if name not in PEERS:
        known = f"it takes {', '.join([*PEERS, ALL])}"
        raise UsageError(f"{flag} names {name!r}; {known}", hint=did_you_mean(name, PEERS))


def _by_name(flag: str, texts: Sequence[str], chosen: Sequence[str]) -> dict[str, str]:
    """Name -> path of texts NAME=PATH; a path alone has the name ""."""
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = "", text
        elif name not in chosen:
            _require_known(flag, name)
            raise UsageError(f"{flag} names {name}, which --vs does not", hint=f"Add it: --vs {','.join([*chosen, name])}")
        found[name] = str(Path(path).expanduser()) if path.startswith("~") else path  # no shell expands it behind a sign
    return found


@dataclass(frozen=True, slots=True)
class Versus:
    """The programs that puna is compared with, and why others are left out; a notice says that too."""

    rivals: Sequence[Rival]
    problems: Mapping[str, str]  # name -> what to do

    @classmethod
    def of_installed(cls, asked: Sequence[Rival], report: TerminalReporter) -> Versus:
        """Those that are installed. PunaError if none is."""
        found, problems = [], {}
        for rival in asked:
            try:
                require_installed(rival.peer, rival.python)
                found.append(rival)
            except PeerError as error:
                problems[rival.name] = _told(rival, error, report)
        if not found:
            raise PunaError("none of the programs of --vs is installed", hint="The lines above say how to install them.")
        return cls(found, problems)

    def facts(self, comparison: PeerComparison, report: TerminalReporter) -> dict[str, Any]:
        """Compare with each program that can run the model. PunaError if none can."""
        found, problems, llm = [], dict(self.problems), comparison.llm
        for rival in self.rivals:
            try:
                facts = comparison.against(rival)
                found.append(facts | {"model": shown_path(facts["model"])})
            except PeerError as error:
                problems[rival.name] = _told(rival, error, report)
        if not found:
            raise PunaError(f"none of the programs of --vs could run {llm.path}", hint="The lines above say why.")
        own = {"device": dataclasses.asdict(llm.backend.info), "version": __version__, "computes": _types(llm)}
        return own | {"peers": found, "problems": problems, "pairs": comparison.num_pairs}


def _told(rival: Rival, error: PeerError, report: TerminalReporter) -> str:
    """The problem of a peer in one line, which a person reads at once."""
    report.close()
    report.notice(f"{rival.name}: {error.line}")
    return error.line


def _types(llm: LLM) -> str:
    """The types of puna's weights; those of norms and biases, some thousandths of the bytes, are left out."""
    from puna.plan import read_by_type

    sizes = read_by_type(llm.model, llm.plan)
    return ", ".join(name for name, size in sizes.most_common() if size >= LEAST_SHARE * sizes.total())


def require_cpu(config: EngineConfig) -> None:
    """UsageError if puna would not run on the CPU, as the other programs do."""
    from puna.backends import choose_device

    if (device := choose_device(config).device).startswith("cuda"):
        raise UsageError(f"--vs compares on the CPU, and the device is {device}", hint="Add --device cpu.")


def workloads(prompt_tokens: int, decode_tokens: int, depth: int, fitting: Callable[[int], int]) -> list[Workload]:
    """What is timed; `fitting` limits a number of tokens to the model's context.

    >>> [test.test for test in workloads(512, 128, 1000, lambda count: min(count, 300))]
    ['pp300', 'tg128', 'tg64 @ d236']
    """
    after = max(2, fitting(depth + AFTER_TOKENS) - AFTER_TOKENS)
    return [
        Workload.prompt(fitting(prompt_tokens)),
        Workload.decode(fitting(decode_tokens)),
        Workload.decode(AFTER_TOKENS, after),
    ]


def comparison_table(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts as text of at most 80 columns, but for the path of the model."""
    width = report_width(sys.stdout)
    yield facts["model"]
    yield f"on {facts['device']['description']}"
    yield from wrapped(f"puna {facts['version']}, weights: {facts['computes']}", width)
    for peer in facts["peers"]:
        yield ""
        yield from wrapped(f"{peer['name']} {peer['version']}, weights: {peer['computes']}", width)
        yield f"{'':24}{'puna':>8}{peer['name']:>19}{'ratio':>8} (lowest..highest)"
        yield from map(_line, peer["tests"])
        yield _limits(peer["limits_before"], peer["limits_after"])
    yield ""
    for name, problem in facts["problems"].items():
        yield from wrapped(f"{name}: {problem}", width)
    yield from wrapped(f"Medians of {counted(facts['pairs'], 'pair')}, in {EXPLANATION}", width)


def _line(row: Mapping[str, Any]) -> str:
    """
    >>> _line({"prompt": 512, "answer": 0, "puna": 583.1, "peer": 170.2, "ratio": 3.42, "min": 3.31, "max": 3.5})
    'prompt   512 tokens        583.1              170.2    3.42 (3.31..3.50)'
    >>> _line({"prompt": 1, "answer": 128, "puna": 150.24, "peer": 92.0, "ratio": 1.63, "min": 1.6, "max": 1.7})
    'answer   128 tokens        150.2               92.0    1.63 (1.60..1.70)'
    >>> _line({"prompt": 1000, "answer": 64, "puna": 12345.0, "peer": 9.96, "ratio": 1234.5, "min": 999.0, "max": 1300.0})
    'answer    64 after 1000  12345.0               10.0 1234.50 (999.00..1300.00)'
    """
    name, count = ("answer", row["answer"]) if row["answer"] else ("prompt", row["prompt"])
    what = f"after {row['prompt']}" if row["answer"] and row["prompt"] > 1 else "tokens"
    ratios = f"{row['ratio']:>8.2f} ({row['min']:.2f}..{row['max']:.2f})"
    return f"{f'{name} {count:>5} {what}':<24}{row['puna']:>8.1f}{row['peer']:>19.1f}{ratios}"


def _limits(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What the machine reached before the runs and after them.

    >>> _limits({"read_bytes_per_s": 22e9, "int8_ops_per_s": 19e10}, {"read_bytes_per_s": 21e9, "int8_ops_per_s": 2e11})
    'the machine, before and after: 22.0, 21.0 GB/s; int8 190, 200 GOP/s'
    """
    memory = ", ".join(f"{one['read_bytes_per_s'] / 1e9:.1f}" for one in (before, after))
    matrix = ", ".join(f"{one['int8_ops_per_s'] / 1e9:.0f}" for one in (before, after))
    return f"the machine, before and after: {memory} GB/s; int8 {matrix} GOP/s"
