"""A generation loop that puna carries out as data has the shapes and values that PyTorch computes when it runs the same file.

`listing.py` is the loop; PyTorch runs it on transformers' model of the same weights, with its own K/V cache. Only the random
numbers are given to both, because generators differ.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from puna.explain.source.engine_model import MAX_BATCH, EngineModel
from puna.explain.source.explained import Dissection
from puna.explain.source.reading import read_source
from puna.explain.source.symbols import Definition, find
from puna.explain.source.tracer.interpreter import Position, position_of
from puna.explain.source.tracer.snapshots import MAX_ROWS, MAX_SHOWN, Snapshot
from puna.explain.source.tracing import MAX_NEW, SEED, TEMPERATURE, TOP_P, SourceRun, prompts_of, run_loop, uniforms
from puna.llm import LLM
from tests.models import spm_tokenizer, tokenizer_bin_bytes

LISTING = Path(__file__).with_name("listing.py")
ORIGINAL = "PUNA_TEST_META_GENERATION"  # the path of Meta's llama/generation.py
VOCAB_SIZE = 300
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def oracle() -> Any:
    """A tiny random model of transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(11)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCAB_SIZE, max_position_embeddings=128, initializer_range=0.4, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model(oracle: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineModel]:
    """The same weights in puna."""
    folder = tmp_path_factory.mktemp("tiny")
    oracle.save_pretrained(folder)
    (folder / "tokenizer.bin").write_bytes(tokenizer_bin_bytes(spm_tokenizer(VOCAB_SIZE)))
    with LLM.load(folder, tokenizer=folder / "tokenizer.bin", device="reference", prefix_cache=False) as llm:
        yield EngineModel(llm)


# ---- the real call ----------------------------------------------------------------------------------------------------------


class TorchModel:
    """transformers' model with the interface of Meta's: forward(tokens, start_pos), and a K/V cache of its own."""

    def __init__(self, oracle: Any, model: EngineModel) -> None:
        self.params = SimpleNamespace(max_batch_size=MAX_BATCH, max_seq_len=model.max_context)
        self._oracle, self._cache = oracle, None

    def forward(self, tokens: Any, start_pos: int) -> Any:
        cache = self._cache if start_pos else None
        assert start_pos == (0 if cache is None else cache.get_seq_length())
        done = self._oracle(tokens, past_key_values=cache, use_cache=True)
        self._cache = done.past_key_values
        return done.logits.float()


def drawing_from(numbers: Iterator[float]) -> Callable[..., Any]:
    """torch.multinomial with numbers that are given."""
    import torch

    def multinomial(input: Any, num_samples: int) -> Any:
        assert num_samples == 1
        drawn = torch.tensor([[next(numbers)] for _ in input], dtype=torch.float64)
        sums = input.double().cumsum(-1)
        return torch.searchsorted(sums, drawn * sums[:, -1:], right=True).clamp(max=input.shape[-1] - 1)

    return multinomial


class Watch:
    """The local names of a module's functions after each statement, by sys.settrace: what really happened."""

    def __init__(self, path: Path) -> None:
        self.seen: dict[Position, list[dict[str, Any]]] = {}
        self._file, tree = str(path), ast.parse(path.read_text("utf-8"))
        self._at_line: dict[int, ast.stmt] = {}
        for node in ast.walk(tree):  # inner statements come later, and win
            if isinstance(node, ast.stmt):
                body = getattr(node, "body", None)
                last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
                self._at_line |= dict.fromkeys(range(node.lineno, max(last, node.lineno) + 1), node)
        self._current: dict[int, ast.stmt] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != self._file or frame.f_code.co_name.startswith("<"):
            return None
        if event == "line":
            statement = self._at_line[frame.f_lineno]
            if self._current.get(id(frame)) is not statement:
                self._close(frame, {})
                self._current[id(frame)] = statement
        elif event == "return":
            self._close(frame, {"return": arg})
            self._current.pop(id(frame), None)
        return self

    def _close(self, frame: FrameType, more: dict[str, Any]) -> None:
        statement = self._current.get(id(frame))
        if statement is not None:
            held = {name: _copied(value) for name, value in {**frame.f_locals, **more}.items() if name != "self"}
            self.seen.setdefault(position_of(statement), []).append(held)


def _copied(value: Any) -> Any:
    return (
        value.detach().clone() if hasattr(value, "detach") else copy.deepcopy(value) if isinstance(value, list | tuple) else value
    )


def really_run(path: Path, function: str, oracle: Any, model: EngineModel, patch: pytest.MonkeyPatch, **given: Any) -> Watch:
    """Let PyTorch run a file's method, and watch it."""
    import torch

    module = _imported(path)
    owner = next(one for one in vars(module).values() if isinstance(one, type) and function in vars(one))
    tokenizer = SimpleNamespace(pad_id=-1, eos_id=model.eos_id, bos_id=model.bos_id, n_words=VOCAB_SIZE)
    patch.setattr(torch, "multinomial", drawing_from(uniforms(SEED)))
    watch = Watch(path)
    before = sys.gettrace()
    sys.settrace(watch)
    try:
        getattr(owner(TorchModel(oracle, model), tokenizer), function)(**given)
    finally:
        sys.settrace(before)
    return watch


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("listing_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- comparing --------------------------------------------------------------------------------------------------------------


def traced(path: Path, symbol: str, model: EngineModel, **chosen: Any) -> tuple[Dissection, Definition, SourceRun]:
    file = Dissection(read_source(path))
    (definition,) = find(file.definitions, symbol, path.name)
    loop = file.loop_of(definition)
    assert loop is not None and isinstance(definition.node, ast.FunctionDef)
    return file, definition, run_loop(definition.name, definition.node, loop, file.scope(definition), model, chosen)


def require_same(shown: Snapshot, real: Any, where: str) -> int:
    """Compare what is shown with the real value; returns how many numbers were compared."""
    import torch

    if isinstance(real, torch.Tensor):
        assert (shown.kind, shown.shape, shown.dtype) == ("tensor", tuple(real.shape), str(real.dtype).removeprefix("torch.")), (
            where
        )
        part = real[tuple([slice(MAX_ROWS)] * (real.ndim - 1) + [slice(MAX_SHOWN)] * min(real.ndim, 1))]
        return _require_close(shown.values, part.tolist(), where)
    if isinstance(real, list | tuple):
        assert (shown.kind, shown.shape) == (type(real).__name__, (len(real),)), where
        return _require_close(shown.values, _first(real), where)
    if isinstance(real, bool | int | float | None):
        assert shown.kind == ("None" if real is None else type(real).__name__), where
        return _require_close(shown.values, real, where)
    return 0  # an object


def _first(value: Any) -> Any:
    return [_first(one) for one in value[:MAX_SHOWN]] if isinstance(value, list | tuple) else value


def _require_close(shown: Any, real: Any, where: str) -> int:
    if isinstance(real, list):
        assert isinstance(shown, list) and len(shown) == len(real), where
        return sum(_require_close(one, other, where) for one, other in zip(shown, real, strict=True))
    if isinstance(real, float):
        assert shown == pytest.approx(real, rel=TOLERANCE, abs=TOLERANCE), where
    else:
        assert shown == real, where
    return 1


def compare(run: SourceRun, watch: Watch) -> int:
    """Each statement's executions, and what each set; returns how many numbers were compared."""
    assert run.stop is None, run.stop
    count = 0
    for position, records in run.records.items():
        real = watch.seen.get(position, [])
        assert records.count <= len(real), f"line {position[0]}: {records.count} executions, really {len(real)}"
        for number, record in enumerate(records.first):
            held = real[number]
            count += sum(require_same(value, held[name], f"line {position[0]}: {name}") for name, value in record.names.items())
    return count


def require_blocks(file: Dissection, definition: Definition, run: SourceRun, watch: Watch) -> int:
    """Each block of the function's report shows the values that its names had after it; returns how many it shows."""
    shown = 0
    for block in file.part(definition, run).blocks:
        for one in block.names:
            if one.value is not None:
                (setter,) = (at for at, done in run.records.items() if at[0] == one.line and one.name in done.first[0].names)
                require_same(one.value, watch.seen[setter][0][one.name], f"block {block.first}: {one.name}")
                shown += 1
        is_reached = any(block.first <= at[0] <= block.last for at in watch.seen)
        assert block.is_reached or not is_reached or not block.names, f"block {block.first}"
    return shown


CASES: dict[str, dict[str, Any]] = {
    "ragged, echo, logprobs": {},
    "the likeliest token": {"temperature": 0.0},
    "the new tokens alone": {"with_prompt": False, "with_logprobs": False},
    "nothing is generated": {"rows": [[1, 300 - 9, 7], [1, 5, 9]], "max_new": 0},
}


@pytest.mark.parametrize("case", CASES)
def test_each_value_of_the_listing_is_that_of_a_real_call(
    case: str, oracle: Any, model: EngineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = CASES[case]
    file, definition, run = traced(LISTING, "generate", model, **chosen)
    given = {"rows": prompts_of(model), "max_new": MAX_NEW, "temperature": TEMPERATURE, "top_p": TOP_P}
    given |= {"with_logprobs": True, "with_prompt": True} | chosen
    watch = really_run(LISTING, "generate", oracle, model, monkeypatch, **given)
    compared = compare(run, watch)
    shown = require_blocks(file, definition, run, watch)
    print(f"seed {SEED}: {compared} numbers of {len(run.records)} statements are equal, and {shown} names of blocks")
    assert compared > (60 if case == "nothing is generated" else 400) and shown > 12
    executed = {at[0] for at in watch.seen if definition.first_line < at[0] <= (definition.node.end_lineno or 0)}
    assert executed - {at[0] for at in run.records} <= LINES_WITHOUT_RECORDS


def _silent_lines() -> set[int]:
    """Lines of the listing whose execution sets nothing: its docstrings and plain expressions."""
    tree = ast.parse(LISTING.read_text("utf-8"))
    return {one.lineno for one in ast.walk(tree) if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)}


LINES_WITHOUT_RECORDS = _silent_lines()


def test_the_prompts_are_ragged(model: EngineModel) -> None:
    first, second = prompts_of(model)
    assert len(first) != len(second)


@pytest.mark.full
def test_the_original_file_has_the_values_of_a_real_call(
    oracle: Any, model: EngineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meta's own file is no part of the repository; a stub stands for the modules that it imports beside torch."""
    if not os.environ.get(ORIGINAL):
        pytest.skip(f"{ORIGINAL} names no llama/generation.py")
    path = Path(os.environ[ORIGINAL])
    for name in ("fairscale.nn.model_parallel.initialize", "llama", "llama.model", "llama.tokenizer"):
        monkeypatch.setitem(sys.modules, name, _Anything(name))
    monkeypatch.setitem(sys.modules, "fairscale", _Anything("fairscale"))
    file, definition, run = traced(_without_devices(path, monkeypatch), "generate", model)
    given = {"prompt_tokens": prompts_of(model), "max_gen_len": MAX_NEW, "temperature": TEMPERATURE, "top_p": TOP_P}
    watch = really_run(path, "generate", oracle, model, monkeypatch, **given, logprobs=True, echo=True)
    print(compare(run, watch), require_blocks(file, definition, run, watch))


class _Anything(ModuleType):
    """A module in which every name is a class."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _without_devices(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the file's tensors for "cuda" be made on the processor."""
    import torch

    for name in ("full", "tensor"):
        made = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, _made=made, device=None, **kwargs: _made(*args, **kwargs))
    return path


def test_numbers_for_a_run_are_always_the_same() -> None:
    first, second = uniforms(SEED), uniforms(SEED)
    assert [next(first) for _ in range(5)] == [next(second) for _ in range(5)]
    assert np.all(np.array([next(first) for _ in range(100)]) < 1)
