"""Pages that outlive memory and process: no bit of a result depends on them, and no step waits for the disk."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.backends.base import Backend, PageBytes, moved
from puna.batch import Batch, Logits
from puna.completion import Completion
from puna.config import EngineConfig
from puna.engine import Engine
from puna.errors import ConfigError
from puna.llm import LLM
from puna.page_store import PageStore, key_of, open_folder
from puna.plan import Plan
from puna.progress import KeepingReporter
from puna.request import FinishReason, Request, SamplingParams
from puna.speculation import Drafter, NGramDrafter
from puna.stored_pages import LoadOrCompute, StoredPages, open_stored_pages, sources_digest
from tests.conformance.test_backends import loaded, plan_of
from tests.fakes import VOCAB_SIZE, ByteTokenizer, FakeBackend, SamplingBackend, make_plan, random_checkpoint, tiny_config

PAGE = 16  # tokens
MODEL = tiny_config(vocab_size=VOCAB_SIZE)


def store_in(folder: Path, backend: FakeBackend, plan: Plan, kind: type[StoredPages] = StoredPages) -> StoredPages:
    open_folder(folder)
    store = PageStore(folder, key_of({}), backend.read_pages([0]).nbytes, 1 << 30)
    return kind(backend, plan, lambda is_needed: store)


class Start:
    """One start of a program: an engine on arithmetic, with the pages of a folder."""

    def __init__(
        self, folder: Path | None, backend: FakeBackend | None = None, drafter: Drafter | None = None, **sizes: int
    ) -> None:
        plan = make_plan(**sizes)
        self.backend = backend or FakeBackend(plan)
        self.stored = None if folder is None else store_in(folder, self.backend, plan)
        self.engine = Engine(self.backend, ByteTokenizer(), plan, EngineConfig(), MODEL, drafter, self.stored)

    def __enter__(self) -> Start:
        return self

    def __exit__(self, *error: object) -> None:
        if self.stored is not None:
            self.stored.close()

    def add(self, prompt: Sequence[int], **params: Any) -> Request:
        return self.engine.add(list(prompt), SamplingParams(**({"max_tokens": 4} | params)))

    def finish(self) -> None:
        for _ in range(10_000):
            if not self.engine.has_work:
                return
            self.engine.step()
        raise AssertionError("the engine does not end")

    def wait(self) -> None:
        """Until all that was published is on disk."""
        assert self.stored is not None
        done = threading.Event()
        self.stored._do(self.stored._save_all)
        self.stored._do(lambda store: done.set())
        wait_for(done)

    def run(self, prompt: Sequence[int], **params: Any) -> Request:
        request = self.add(prompt, **params)
        self.finish()
        return request


def prompt_of(number: int, length: int = 100) -> list[int]:
    ids: list[int] = np.random.default_rng(number).integers(0, 256, length).tolist()
    return ids


@pytest.fixture(params=[FakeBackend, SamplingBackend], ids=["plain steps", "overlapped steps"])
def kind(request: pytest.FixtureRequest) -> Callable[..., FakeBackend]:
    found: Callable[..., FakeBackend] = request.param
    return found


def test_a_second_start_computes_only_what_it_must(tmp_path: Path, kind: Callable[..., FakeBackend]) -> None:
    with Start(tmp_path, kind(make_plan())) as first:
        answer = first.run(prompt_of(1)).output_ids
        assert sum(len(batch.token_ids) for batch in first.backend.batches) == 100 + 3
    with Start(tmp_path, kind(make_plan())) as second:
        request = second.run(prompt_of(1))
        assert request.output_ids == answer and request.num_cached == 96
        assert sum(len(batch.token_ids) for batch in second.backend.batches) == 4 + 3
    with Start(tmp_path, kind(make_plan())) as third:
        request = third.run(prompt_of(1)[:70] + prompt_of(2, 20))
        assert request.num_cached == 64
    with Start(None) as without:
        assert request.output_ids == without.run(prompt_of(1)[:70] + prompt_of(2, 20)).output_ids


def test_an_answer_is_found_as_the_beginning_of_the_next_prompt(tmp_path: Path) -> None:
    with Start(tmp_path) as first:
        request = first.run(prompt_of(1, 20), max_tokens=30)
    with Start(tmp_path) as second:
        assert second.run(prompt_of(1, 20) + request.output_ids + [1, 2]).num_cached == 48


def test_pages_that_memory_evicted_are_found_again(tmp_path: Path) -> None:
    with Start(tmp_path, num_pages=10) as it:
        answers = {}
        for number in range(5):
            answers[number] = it.run(prompt_of(number)).output_ids
            it.wait()
        for number in range(5):
            request = it.run(prompt_of(number))
            assert request.output_ids == answers[number] and request.num_cached == 96


def test_another_salt_shares_nothing(tmp_path: Path) -> None:
    for salt in ("", "a", "b"):
        with Start(tmp_path) as it:
            assert it.run(prompt_of(1), cache_salt=salt).num_cached == 0
            assert it.run(prompt_of(1), cache_salt=salt).num_cached == 96
            assert it.run(prompt_of(1), cache_salt="c" + salt).num_cached == 0  # in memory too
    with Start(tmp_path) as it:
        assert [it.run(prompt_of(1), cache_salt=salt).num_cached for salt in ("", "b", "d")] == [96, 96, 0]


def test_several_engines_share_a_folder_while_they_run(tmp_path: Path) -> None:
    with Start(tmp_path) as one, Start(tmp_path) as other:
        one.run(prompt_of(1))
        one.wait()
        assert other.run(prompt_of(1)).num_cached == 96


class Poisoned(FakeBackend):
    """Its pages are numbers in float32; one token's are infinite."""

    poison_id = 77

    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        ids = self.pages[list(page_ids)]
        return moved(np.where(ids == self.poison_id, np.float32(np.inf), ids.astype(np.float32)).view(np.uint8), out)

    def write_pages(self, page_ids: Sequence[int], pages: PageBytes) -> None:
        self.pages[list(page_ids)] = pages.view(np.float32).astype(np.int64)


def test_a_page_with_an_infinite_number_is_not_saved(tmp_path: Path) -> None:
    prompt = [1] * 40 + [77] + [1] * 59
    with Start(tmp_path, Poisoned(make_plan())) as it:
        it.run(prompt)
    with Start(tmp_path, Poisoned(make_plan())) as it:
        assert it.run(prompt).num_cached == 32


def test_the_pages_of_a_request_that_fails_are_forgotten(tmp_path: Path) -> None:
    prompt = prompt_of(1)
    with Start(tmp_path) as it:
        it.backend.poison = lambda ids: float("nan") if len(ids) == 100 else 0.0
        with Start(tmp_path) as other:  # its pages are on disk when the request fails
            other.run(prompt[:90])
        gate = threading.Event()
        assert it.stored is not None
        it.stored._do(lambda store: wait_for(gate))
        assert it.run(prompt).finish_reason is FinishReason.ERROR
        assert it.run(prompt[:90]).num_cached == 0, "not even before the files are removed"
        gate.set()
    with Start(tmp_path) as it:
        assert it.run(prompt).num_cached == 80  # of the second request, which did not fail
    failing = prompt_of(2)
    with Start(tmp_path) as it:
        it.backend.poison = lambda ids: float("nan") if len(ids) == 100 else 0.0
        it.run(failing)
    with Start(tmp_path) as it:
        assert it.run(failing).num_cached == 0


def test_a_page_that_is_overwritten_while_it_is_copied_is_not_saved(tmp_path: Path) -> None:
    """The thread that saves reads a page while the engine evicts and overwrites it."""

    class Slow(FakeBackend):
        def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
            if threading.current_thread().name == "puna-page-store":
                reading.set()
                assert overwritten.wait(60)
            return super().read_pages(page_ids, out)

    reading, overwritten = threading.Event(), threading.Event()
    with Start(tmp_path, Slow(make_plan(num_pages=7)), num_pages=7) as it:
        it.run(prompt_of(1))
        assert reading.wait(60)
        it.run(prompt_of(2))
        overwritten.set()
    with Start(tmp_path) as it:
        assert it.run(prompt_of(1)).num_cached == 0
        assert it.run(prompt_of(2)).num_cached == 96


def test_a_page_of_an_engine_that_was_reset_is_not_saved(tmp_path: Path) -> None:
    """After abort_all the same memory holds other pages, with the same identities."""
    with Start(tmp_path) as it:
        assert it.stored is not None
        gate = threading.Event()
        it.stored._do(lambda store: wait_for(gate))
        it.run(prompt_of(1))
        it.engine.abort_all()
        it.run(prompt_of(2))
        gate.set()
    with Start(tmp_path) as it:
        assert it.run(prompt_of(1)).num_cached == 0
        assert it.run(prompt_of(2)).num_cached == 96


def wait_for(gate: threading.Event) -> None:
    assert gate.wait(60)


class Apart(FakeBackend):
    """A device that computes generated tokens otherwise than prompts: what is in a page tells which."""

    prompts_apart = True

    def _forward(self, batch: Batch) -> Logits:
        logits = super()._forward(batch)
        for row in np.flatnonzero(~batch.is_prompt):
            page = batch.page_tables[batch.sequences[row], batch.positions[row] // self.page_size]
            self.pages[page, batch.positions[row] % self.page_size] += 1000
        return logits

    def _logits(self, ids: list[int]) -> Logits:
        self.seen = list(ids)
        return super()._logits(ids)


@pytest.mark.parametrize("on_disk", [False, True])
def test_generated_tokens_are_no_prompt_where_the_device_computes_them_otherwise(tmp_path: Path, on_disk: bool) -> None:
    with Start(tmp_path if on_disk else None, Apart(make_plan())) as first:
        answer = first.run(prompt_of(1, 40), max_tokens=40).output_ids
        if not on_disk:
            request = first.run(prompt_of(1, 40) + answer, max_tokens=1)
    if on_disk:
        with Start(tmp_path, Apart(make_plan())) as second:
            request = second.run(prompt_of(1, 40) + answer, max_tokens=1)
    assert request.num_cached == 32
    with Start(None, Apart(make_plan())) as fresh:
        assert fresh.run(prompt_of(1, 40) + answer, max_tokens=1).output_ids == request.output_ids


@pytest.mark.parametrize("load_s", [0.0, 1e9], ids=["loading is cheap", "loading is dear"])
def test_what_was_preempted_is_loaded_or_computed_by_what_costs_less(
    tmp_path: Path, load_s: float, kind: Callable[..., FakeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests that do not fit into the pages together, one of which must give way. The texts are the same."""
    monkeypatch.setattr(LoadOrCompute, "loaded", lambda costs, seconds: None)
    expected, rows, loaded = None, {}, {}
    for folder in (None, tmp_path):
        with Start(folder, kind(make_plan(num_pages=12)), num_pages=12) as it:
            if it.stored is not None:
                it.stored._costs.load_s = load_s
            requests = [it.add(prompt_of(number, 70), max_tokens=50, ignore_eos=True) for number in (1, 2)]
            while it.engine.has_work:
                it.engine.step()
                if it.stored is not None:
                    it.wait()
            rows[folder] = sum(len(batch.token_ids) for batch in it.backend.batches)
            loaded[folder] = it.backend.num_written
            expected = expected or [request.output_ids for request in requests]
            assert [request.output_ids for request in requests] == expected
    is_cheap = load_s == 0.0
    assert rows[None] > 2 * (70 + 49), "one was preempted"
    assert (loaded[tmp_path] > 0) == is_cheap and (rows[tmp_path] < rows[None]) == is_cheap


def test_one_slow_read_does_not_end_loading() -> None:
    costs = LoadOrCompute(load_s=0.001)
    for seconds in (0.01, 0.01, 9.0, 0.01):
        costs.computed(seconds)
    costs.loaded(100.0)
    assert costs.loads and costs.compute_s < 0.02 and costs.load_s < 0.002
    for _ in range(40):
        costs.loaded(100.0)
    assert not costs.loads


def test_loading_goes_in_pieces_beside_other_requests(tmp_path: Path) -> None:
    with Start(tmp_path) as it:
        expected = it.run(prompt_of(1)).output_ids
    with Start(tmp_path) as it:
        assert it.stored is not None
        other = it.add(prompt_of(2, 5), max_tokens=60)
        it.engine.step()
        it.stored._page_s = 1.0  # so slow that a step loads one page
        loading = it.add(prompt_of(1))
        for step in range(1, 6):
            before = len(other.output_ids)
            it.engine.step()
            assert len(other.output_ids) == before + 1, "another request waited"
            it.stored._page_s = 1.0
            assert loading.num_computed == step * PAGE
        it.finish()
        assert loading.output_ids == expected and loading.num_cached == 96


@pytest.mark.parametrize("seed", range(6))
def test_results_do_not_depend_on_the_store(tmp_path: Path, seed: int, kind: Callable[..., FakeBackend]) -> None:
    """Random requests that share beginnings, many starts, few pages, so that requests are preempted, chunks of any size, aborts,
    speculation; files are damaged, removed and swapped in between."""
    print("seed", seed)
    rng = random.Random(seed)
    with Start(None) as plain:
        expected: dict[tuple[int, ...], list[int]] = {}
        for _ in range(6):
            sizes = {"num_pages": rng.randint(10, 30), "max_tokens": rng.randint(9, 40), "max_sequences": rng.randint(1, 8)}
            drafter = rng.choice([None, NGramDrafter()])
            with Start(tmp_path, kind(make_plan(**sizes)), drafter, **sizes) as it:
                requests = []
                for _ in range(rng.randint(1, 12)):
                    prompt = prompt_of(rng.randint(1, 3), 64)[: rng.randint(1, 64)] + prompt_of(
                        rng.randint(4, 9), rng.randint(1, 30)
                    )
                    requests.append(it.add(prompt, cache_salt=rng.choice(["", "", "salt"])))
                    for _ in range(rng.randint(0, 4)):
                        it.engine.step()
                    if rng.random() < 0.1:
                        it.engine.abort(rng.choice(requests).id)
                it.finish()
                it.engine._scheduler.pages.check()
            for request in requests:
                if request.finish_reason is not FinishReason.ABORT:
                    key = tuple(request.prompt_ids)
                    expected[key] = expected.get(key) or plain.run(key).output_ids
                    assert request.output_ids == expected[key]
            damage(tmp_path, rng)


def damage(folder: Path, rng: random.Random) -> None:
    """Flip a bit of some files, cut, remove or swap others."""
    files = sorted(folder.rglob("*.kv"))
    whole = {path: path.read_bytes() for path in files}
    for path in rng.sample(files, len(files) // 4):
        content = bytearray(whole[path] or b"cut to nothing before")
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        others = bytes(content), whole[path][: rng.randrange(len(content))], whole[rng.choice(files)], None
        changed = rng.choice(others)
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)


def test_a_full_disk_is_told_once_and_answers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PageStore, "write", full)
    with Start(tmp_path) as it:
        assert it.stored is not None
        it.stored._report = report = KeepingReporter()
        for number in range(3):
            it.run(prompt_of(number))
    assert len(report.texts) == 1 and "No space left" in report.texts[0]


def test_pages_wait_until_no_request_runs_unless_they_wait_long_or_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def saved(it: Start) -> int:
        assert it.stored is not None
        it.stored._do(lambda store: seen.set())
        wait_for(seen)
        seen.clear()
        return len(list(tmp_path.rglob("*.kv")))

    seen = threading.Event()
    with Start(tmp_path, num_pages=100) as it:
        it.add(prompt_of(1), max_tokens=40, ignore_eos=True)
        for _ in range(20):
            it.engine.step()
        assert saved(it) == 0
        it.finish()
        it.wait()
        assert saved(it) == 7, "of the 128 tokens of the context, the last is not computed"
    monkeypatch.setattr("puna.stored_pages.SAVE_AFTER_S", 0.0)
    with Start(tmp_path, num_pages=100) as it:
        it.add(prompt_of(2), max_tokens=10_000, ignore_eos=True)
        for _ in range(20):
            it.engine.step()
        while saved(it) < 7 + 6:
            pass
    before = len(list(tmp_path.rglob("*.kv")))
    monkeypatch.setattr("puna.stored_pages.SAVE_AFTER_S", 1e9)
    with Start(tmp_path, num_pages=16) as it:
        it.add(prompt_of(3), max_tokens=40, ignore_eos=True)
        for _ in range(20):
            it.engine.step()
        while saved(it) < before + 2:  # more than a quarter waited
            pass


def test_a_prompt_that_was_cut_off_with_the_process_goes_on_where_it_was(tmp_path: Path) -> None:
    """Chunks of 20 tokens; what a killed process had computed is found, though the prompt never had its end."""
    with Start(tmp_path, max_tokens=20) as it:
        it.add(prompt_of(1))
        for _ in range(4):
            it.engine.step()
        it.wait()
        with Start(tmp_path, max_tokens=20) as other:
            assert other.run(prompt_of(1)).num_cached == 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_saves_pages_too(tmp_path: Path) -> None:
    with Start(tmp_path) as it:
        child = os.fork()
        if child == 0:
            it.run(prompt_of(1))
            it.__exit__()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert it.run(prompt_of(1)).num_cached == 96


# ---- real backends ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["reference", "cpu", "torch"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    found: str = request.param
    yield found


def answers(device: str, folder: Path | None, prompts: list[list[int]], **settings: Any) -> list[Completion]:
    checkpoint = random_checkpoint(replace(MODEL, max_context=256), "Q8_0", seed=5)
    config = EngineConfig(device=device, page_size=PAGE, cache_dir=folder or "", threads=1, **settings)
    with (
        loaded(device, checkpoint, threads=1) as backend,
        LLM.from_parts(checkpoint, None, backend, plan_of(checkpoint, config, backend), config) as llm,
    ):
        return llm.generate(prompts, max_tokens=12, logprobs=2, ignore_eos=True)


def bits(completions: list[Completion]) -> list[Any]:
    return [(one.token_ids, one.logprobs) for one in completions]


def test_bits_are_the_same_with_the_store_off_cold_warm_and_damaged(tmp_path: Path, device: str) -> None:
    rng = random.Random(11)
    prompts = [prompt_of(1, 70) + prompt_of(number, number) for number in range(2, 5)] + [prompt_of(9, 33)]
    off = bits(answers(device, None, prompts))
    assert bits(answers(device, tmp_path, prompts)) == off
    warm = answers(device, tmp_path, prompts)
    assert bits(warm) == off and [one.num_cached for one in warm] == [64, 64, 64, 32]
    for _ in range(2):
        damage(tmp_path, rng)
        assert bits(answers(device, tmp_path, prompts)) == off
    assert bits(answers(device, tmp_path, [prompts[0] + list(off[0][0])])) == bits(
        answers(device, None, [prompts[0] + list(off[0][0])])
    )


def test_another_model_or_device_finds_nothing(tmp_path: Path) -> None:
    plan = make_plan()
    backend: Backend = FakeBackend(plan)
    config = EngineConfig(cache_dir=tmp_path)
    names = []
    for seed, arithmetic, kv_type in ((1, "a", "f32"), (1, "a", "f32"), (2, "a", "f32"), (1, "b", "f32"), (1, "a", "f16")):
        backend.kv_arithmetic = arithmetic
        stored = open_stored_pages(random_checkpoint(MODEL, seed=seed), backend, replace(plan, kv_type=kv_type), config)
        assert stored is not None and stored._store is not None
        names.append(stored._store._key)
        stored.close()
    assert names[0] == names[1] and len(set(names)) == 4
    assert len(sources_digest()) == 64


class BigPages(FakeBackend):
    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        return np.zeros((len(page_ids), 1 << 20), np.uint8)


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    plan, report = make_plan(), KeepingReporter()
    backend: Backend = FakeBackend(plan)
    checkpoint = random_checkpoint(MODEL)
    assert open_stored_pages(checkpoint, backend, plan, EngineConfig(), report) is None and not report.texts
    backend.kv_arithmetic = ""
    assert open_stored_pages(checkpoint, backend, plan, EngineConfig(cache_dir=tmp_path), report) is None
    assert "several processes" in report.texts[0]
    config = EngineConfig(cache_dir=tmp_path, prefix_cache=False)
    assert open_stored_pages(checkpoint, backend, plan, config, report) is None and "is off" in report.texts[1]
    backend.kv_arithmetic = "exact"
    with pytest.raises(ConfigError, match="a page of this model takes"):
        open_stored_pages(checkpoint, BigPages(plan), plan, EngineConfig(cache_dir=tmp_path, cache_size=1 << 20))
    for wrong in (3, "a\0b"):
        with pytest.raises(ConfigError, match="cache_dir"):
            EngineConfig(cache_dir=wrong)  # type: ignore[arg-type]


def test_a_large_model_is_read_beside_the_first_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its digest is known nothing is found; closing does not wait for it."""
    monkeypatch.setattr("puna.stored_pages.SMALL_MODEL_BYTES", 0)
    plan, started = make_plan(), threading.Event()
    is_needed: list[Callable[[], bool]] = []

    def digest(checkpoint: object, needed: Callable[[], bool]) -> str:
        from puna.formats.digest import StoppedError

        is_needed.append(needed)
        started.set()
        while needed():
            threading.Event().wait(0.001)
        raise StoppedError

    monkeypatch.setattr("puna.stored_pages.content_digest", digest)
    stored = open_stored_pages(random_checkpoint(MODEL), FakeBackend(plan), plan, EngineConfig(cache_dir=tmp_path))
    assert stored is not None and started.wait(60) and stored._store is None
    engine = Engine(FakeBackend(plan), ByteTokenizer(), plan, EngineConfig(), MODEL, source=stored)
    engine.add(prompt_of(1), SamplingParams(max_tokens=2))
    while engine.has_work:
        engine.step()
    stored.close()


def test_a_folder_that_cannot_be_used_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cache_dir"):
        LLM(tmp_path / "no model", cache_dir=tmp_path / "file")
    for name in ("a\ud800", "x" * 100_000):
        with pytest.raises(ConfigError, match=r"cache_dir is .*: ") as caught:
            LLM(tmp_path / "no model", cache_dir=tmp_path / name)
        assert len(str(caught.value).encode()) < 300
