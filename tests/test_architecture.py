"""The project's rules, checked on the sources: allowed imports, and forbidden code."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from puna.peers import PEERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "puna"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From the bottom to the top. A room imports only rooms of lower rows, or its own. A room is a file or a folder directly in puna/.
ROWS = [
    ["keywords", "version"],
    ["errors", "files", "units"],
    ["checks", "deadlines", "install", "resources", "philox"],
    ["cores"],
    ["model"],
    ["progress", "config", "paths", "causes", "pooling", "schemas", "gbnf"],
    ["request", "messages", "report", "variables"],
    ["lora", "pages", "page_store", "formats", "history", "suggested", "ngrams"],
    ["tokenizers", "template", "writers", "hub", "processors"],
    ["chat", "infill", "detokenize", "spelling"],
    ["bans", "dry"],
    ["filters"],
    ["sampling"],
    ["constraints", "opening"],
    ["scheduler", "plan", "convert", "health", "logprobs", "context_shift"],
    ["batch"],
    ["backends"],
    ["speculation", "stored_pages", "thinking"],
    ["draft_model", "thinking_first"],
    ["admission"],
    ["engine"],
    ["runner", "loading", "calls"],
    ["completion", "embedding", "samples"],
    ["beam_search", "rerank", "score", "glassbox"],
    ["traceable"],
    ["llm"],
    ["async_llm", "perplexity"],
    ["machine", "compat"],
    ["peers"],
    ["explain"],
    ["server"],
    ["cli"],
]
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
HOMES = {
    **dict.fromkeys(("torch", "triton"), "backends/torch"),
    **dict.fromkeys(("numba", "llvmlite"), "backends/cpu"),
    **dict.fromkeys(("starlette", "uvicorn", "h11", "pydantic", "prometheus_client"), "server"),
}
# What a child of `puna bench --vs` runs in the Python of another program, which may lack all that puna needs.
IN_A_PEERS_PYTHON = {path for path in SOURCES if path.parent.name == "peers"} - {
    PACKAGE / "peers" / name for name in ("comparison.py", "pairs.py", "process.py")
}
# tests/x/test_y.py tests puna/x/y.py. What the other test files test:
TESTED = {
    "backends/cpu/test_thread_policy.py": "puna/backends/cpu/threads.py",
    "backends/test_table.py": "puna/backends/__init__.py",
    "backends/torch/kernels/test_graph.py": "puna/backends/torch/graph.py",  # with kernels, so in Triton's interpreter
    "backends/torch/kernels/test_model.py": "puna/backends/torch/model.py",
    "backends/torch/test_compiled.py": "puna/backends/torch/kernels",
    "backends/torch/test_cuda.py": "puna/backends/torch",
    "backends/torch/test_interpreted.py": "tests/backends/torch/kernels",
    "backends/torch/test_ranks.py": "puna/backends/torch/model.py puna/backends/torch/parallel.py",
    "backends/torch/test_two_nodes.py": "puna/backends/torch/parallel.py",
    "causes/test_answers.py": "puna/causes",
    "causes/test_causes.py": "puna/causes",
    "causes/test_kinds.py": "puna/causes",
    "cli/test_chat_terminal.py": "puna/cli/chat.py",
    "cli/test_columns.py": "puna/cli",
    "cli/test_end_to_end.py": "puna/cli",
    "cli/test_told.py": "puna/cli",
    "clients/test_anthropic.py": "puna/server/wires/anthropic.py",
    "clients/test_editors.py": "puna/server/wires/ollama_generate.py puna/server/wires/ollama_models.py",
    "clients/test_instructor.py": "puna/server",
    "clients/test_langchain.py": "puna/server",
    "clients/test_litellm.py": "puna/server",
    "clients/test_lm_eval.py": "puna/server/wires/openai_completions.py puna/server/wires/llama_server.py",
    "clients/test_npm.py": "puna/server/wires",
    "clients/test_llm_command.py": "puna/server",
    "clients/test_openai_agents.py": "puna/server",
    "clients/test_schemathesis.py": "puna/server puna/server/openapi.py",
    "clients/test_ollama.py": "puna/server/wires/ollama_generate.py puna/server/wires/ollama_models.py",
    "clients/test_openai.py": "puna/server/wires/openai_chat.py puna/server/wires/openai_completions.py",
    "clients/test_parameters.py": "puna/server/wires",
    "clients/test_same_text.py": "puna/server/wires",
    "compat/test_examples.py": "examples puna/compat/flags.py",
    "conformance/test_backends.py": "puna/backends",
    "conformance/test_families.py": "puna/backends",
    "conformance/test_formats.py": "puna/formats puna/writers",
    "conformance/test_generation.py": "puna/llm.py puna/engine.py puna/backends",
    "conformance/test_llama_cpp.py": "puna/writers/gguf.py puna/backends/reference.py",
    "conformance/test_llama_cpp_samplers.py": "puna/filters.py puna/dry.py",
    "conformance/test_real_models.py": "puna/formats puna/tokenizers puna/backends",
    "conformance/test_tokenizers.py": "puna/tokenizers",
    "explain/test_tours.py": "puna/explain/tours",
    "formats/test_hostile_gguf.py": "puna/formats/gguf.py puna/formats/gguf_file.py",
    "formats/test_hostile_tokenizers.py": "puna/formats/tokenizer_files.py",
    "formats/test_open_checkpoint.py": "puna/formats/__init__.py",
    "glassbox/report/test_report_in_browser.py": "puna/glassbox/report",
    "glassbox/report/test_views.py": "puna/glassbox/report",
    "hub/test_hostile_hub.py": "puna/hub/web.py puna/hub/listing.py puna/hub/ranges.py",
    "hub/test_resolve.py": "puna/hub/__init__.py",
    "machine/test_actual.py": "puna/plan.py",
    "machine/test_nvidia.py": "puna/machine/probes",
    "server/test_page.py": "puna/server/page",
    "server/test_page_documents.py": "puna/server/page/documents",
    "server/test_page_documents_of_programs.py": "puna/server/page/documents",
    "server/test_page_mathematics.py": "puna/server/page/mathematics",
    "server/test_page_glassbox_in_browser.py": "puna/server/page/glassbox",
    "server/test_page_in_browser.py": "puna/server/page",
    "server/test_serving_page.py": "docs/serving.md docs/puna.service docs/Dockerfile",
    "server/test_soak.py": "puna/server",
    "server/tools/test_formats.py": "puna/server/tools",
    "server/test_hostile_bodies.py": "puna/server",
    "test_architecture.py": "puna tests",
    "test_commands.py": "puna README.md docs Makefile",
    "test_contributing.py": "CONTRIBUTING.md",
    "test_docs.py": "docs README.md",
    "test_faults.py": "puna/engine.py puna/runner.py puna/backends",
    "test_glossary.py": "docs/glossary.md",
    "test_how_generate_works.py": "docs/how-generate-works.md",
    "test_isolation.py": "puna/engine.py puna/runner.py puna/pages.py puna/llm.py",
    "test_pip_install.py": "scripts/pip_install.py",
    "test_without_server.py": "puna tests",
    "tokenizers/test_library_cases.py": "puna/tokenizers/library.py",
    "tokenizers/test_oracles.py": "puna/tokenizers",
    "tokenizers/test_unigram.py": "puna/tokenizers/sentencepiece.py",
}
# Class names that another module defines too, and why.
SHARED_CLASS_NAMES = {
    "Role": "compat/dialogs.py: programs import the names of Meta's package",
    "Tokenizer": "compat/meta.py: programs import the names of Meta's package",
}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc", "core", "manager"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of a file, the module first; each file is parsed once."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def top_level(path: Path) -> list[ast.stmt]:
    module = nodes(path)[0]
    assert isinstance(module, ast.Module)
    return module.body


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    for module, line in imports(path):
        head, _, rest = module.partition(".")
        home = HOMES.get(head)
        is_at_home = home is None or path.is_relative_to(PACKAGE / home) or path in IN_A_PEERS_PYTHON
        assert is_at_home, f"{path}:{line}: {head} belongs to {home}"
        if head != "puna" or not rest:
            continue
        there = rest.split(".")[0]
        assert there == here or RANK[there] < RANK[here], f"{path}:{line}: {here} must not import {there}"


def test_what_runs_in_a_peers_python_needs_nothing_else_of_puna_and_is_imported_by_nothing_else() -> None:
    names = {f"puna.peers.{path.stem}" for path in IN_A_PEERS_PYTHON} - {"puna.peers.__init__", "puna.peers.base"}
    assert names == {"puna.peers.child", *(peer.runner for peer in PEERS.values())}
    for path in SOURCES:
        of_puna = {module for module, _ in imports(path) if module.partition(".")[0] == "puna"}
        assert not of_puna & names, f"{path} must not import {of_puna & names}"
        assert path not in IN_A_PEERS_PYTHON or of_puna <= {"puna.peers.base"}, f"{path} must not import {of_puna}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Within a room too, and also by imports inside functions."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
    TopologicalSorter({name: set(modules_of(path, names)) - {name} for name, path in names.items()}).prepare()


def modules_of(path: Path, names: Collection[str]) -> Iterator[str]:
    """The modules that a file imports: `from puna import install` imports puna.install."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module in names:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (part if part in names else node.module for part in parts)


# From the walk of a checkpoint through the plan: each imports those before it only.
PLANNING = ["plan", "machine.planning.speed", "machine.planning.devices", "machine.planning.fit", "machine.planning.choices"]


def test_plan_speed_and_fit_call_each_other_one_way() -> None:
    for rank, name in enumerate(PLANNING):
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        later = {f"puna.{other}" for other in PLANNING[rank + 1 :]}
        assert not later & {module for module, _ in imports(path)}, f"{path} must not import {later}"


def test_backends_never_import_each_other() -> None:
    for path in (PACKAGE / "backends").rglob("*.py"):
        mine = path.relative_to(PACKAGE / "backends").parts[0].removesuffix(".py")
        for module, line in imports(path):
            if module.startswith("puna.backends."):
                assert module.split(".")[2] in (mine, "base"), f"{path}:{line}: imports {module}"


def test_no_room_is_named_after_nothing() -> None:
    assert not {p.stem for p in SOURCES} & FORBIDDEN_NAMES


def classes_of(path: Path) -> set[str]:
    return {node.name for node in top_level(path) if isinstance(node, ast.ClassDef)}


def types_of(path: Path) -> set[str]:
    """The classes of a module, and its aliases of types: assigned names such as `Batch`, not `ROWS` or `T`."""
    assigned = [node for node in top_level(path) if isinstance(node, ast.Assign)]
    names = {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}
    return classes_of(path) | {name for name in names if name[:1].isupper() and not name.isupper()}


def test_a_class_name_has_one_meaning() -> None:
    """No other module defines a class or a type of that name."""
    types = {path.relative_to(PACKAGE).as_posix(): types_of(path) for path in SOURCES}
    names = set[str]().union(*map(classes_of, SOURCES))
    shared = {name: files for name in names if len(files := [file for file in types if name in types[file]]) > 1}
    assert shared.keys() == SHARED_CLASS_NAMES.keys(), shared


def test_every_test_file_says_what_it_tests() -> None:
    files = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    mirrors = {file for file in files if (PACKAGE / file.with_name(file.name.removeprefix("test_"))).is_file()}
    assert {file.as_posix() for file in files - mirrors} == TESTED.keys()
    assert [name for names in TESTED.values() for name in names.split() if not (ROOT / name).exists()] == []


def test_import_puna_is_light() -> None:
    heavy = [
        "numba",
        "llvmlite",
        "torch",
        "triton",
        "jinja2",
        "tokenizers",
        "sentencepiece",
        "rich",
        "typer",
        "huggingface_hub",
        "llguidance",
        "starlette",
        "uvicorn",
        "pydantic",
    ]
    code = f"import sys, puna; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in nodes(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_dangerous_calls_are_absent(path: Path) -> None:
    for name, line in calls(path):
        assert name not in {"eval", "exec", "__import__", "pickle.load", "pickle.loads", "torch.load"}, f"{path}:{line}: {name}"
        assert name.split(".")[-1] not in {"Environment", "SandboxedEnvironment", "Template"}, f"{path}:{line}: {name}"
        if name == "print":
            assert room(path) == "cli", f"{path}:{line}: print outside the command line"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_parsers_do_not_validate_with_assert(path: Path) -> None:
    if room(path) in ("formats", "tokenizers", "chat", "messages", "hub", "paths", "request", "config"):
        asserts = [node.lineno for node in nodes(path) if isinstance(node, ast.Assert)]
        assert not asserts, f"{path}: assert at lines {asserts}"


def test_total_lines_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    total = sum(len(p.read_text("utf-8").splitlines()) for p in SOURCES)
    with capsys.disabled():
        print(f" puna is {total} lines in {len(SOURCES)} files ", end="")
