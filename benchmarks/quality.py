"""How far puna and llama.cpp are from the float32 truth, side by side: greedy text, and KL divergence of the next token.

    python benchmarks/quality.py [MODEL.gguf] [--positions 2056]

The truth is our reference backend: the file's weights as float32, float32 arithmetic. All three get the same token ids. The KL
divergence is KL(truth || other) in nats over the whole vocabulary, at every position of windows of 257 tokens of the
repository's own English text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from puna import hub
from puna.batch import Batch
from puna.config import EngineConfig
from puna.llm import LLM
from puna.progress import SILENT
from puna.request import Request, SamplingParams
from puna.scheduler import ScheduledChunk

Floats = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[1]
TEXTS = ("LICENSE", "README.md", "SECURITY.md", "docs/LOG.md")
WINDOW, GENERATED = 257, 64


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    """Natural-log probabilities of each row."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def all_logits(llm: LLM, ids: list[int]) -> npt.NDArray[np.float32]:
    """Logits at every position of one sequence, in chunks that the plan allows; asked of the backend itself."""
    sequence = Request(0, ids, SamplingParams(), page_ids=list(range(-(-len(ids) // llm.plan.page_size))))
    step = min(llm.plan.max_tokens, llm.plan.max_sequences)
    rows = []
    for first in range(0, len(ids), step):
        last = min(first + step, len(ids))
        chunk = ScheduledChunk(sequence, first, last, num_logits=last - first, is_last=False)
        rows.append(llm.backend.step(Batch.of([chunk])).logits())
    return np.concatenate(rows)


def windows(llm: LLM, positions: int) -> list[list[int]]:
    """Windows of token ids, taken from the texts in turn, so that no text dominates the sample."""
    assert llm.tokenizer is not None
    texts = [llm.tokenizer.encode((ROOT / name).read_text("utf-8")) for name in TEXTS if (ROOT / name).exists()]
    found = []
    for i in range(max(len(ids) for ids in texts) // WINDOW):
        found += [ids[i * WINDOW : (i + 1) * WINDOW] for ids in texts if len(ids) >= (i + 1) * WINDOW]
    return found[: -(-positions // WINDOW)]


class LlamaCpp:
    """The peer: logits of every position, and greedy ids."""

    def __init__(self, model: Path, threads: int) -> None:
        self.llm = llama_cpp.Llama(str(model), n_ctx=1024, n_batch=512, n_threads=threads, logits_all=True, verbose=False)

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        self.llm.reset()
        self.llm.eval(ids)
        return np.array(self.llm.scores[: len(ids)], np.float32)

    def greedy(self, ids: list[int], stops: frozenset[int]) -> list[int]:
        self.llm.reset()
        self.llm.eval(ids)
        out: list[int] = []
        while len(out) < GENERATED:
            out.append(int(np.argmax(self.llm.scores[self.llm.n_tokens - 1])))
            if out[-1] in stops:
                break
            self.llm.eval(out[-1:])
        return out


def divergence(name: str, truth: list[Floats], other: list[Floats]) -> dict[str, Any]:
    kl = np.concatenate([(np.exp(t) * (t - o)).sum(axis=-1) for t, o in zip(truth, other, strict=True)])
    same = np.concatenate([t.argmax(axis=-1) == o.argmax(axis=-1) for t, o in zip(truth, other, strict=True)])
    return {
        "who": name,
        "positions": len(kl),
        "mean": float(kl.mean()),
        "p99": float(np.quantile(kl, 0.99)),
        "max": float(kl.max()),
        "top1": float(same.mean()),
    }


def agreement(name: str, truth: list[list[int]], other: list[list[int]]) -> dict[str, Any]:
    """The number of equal texts, and the average number of tokens before the first difference."""
    before = [next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b))) for a, b in zip(truth, other)]
    return {"who": name, "equal": sum(a == b for a, b in zip(truth, other)), "mean_equal_tokens": float(np.mean(before))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--positions", type=int, default=2056)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    model = given.model or hub.resolve(None, SILENT)
    settings = EngineConfig(max_context=1024, max_batch=256, threads=given.threads)
    peer = LlamaCpp(model, given.threads)
    ours = LLM.load(model, settings)
    truth = LLM.load(model, settings, device="reference")

    sample = windows(ours, given.positions)
    kl_truth = [log_softmax(all_logits(truth, ids)) for ids in sample]
    kl_rows = [
        divergence("puna", kl_truth, [log_softmax(all_logits(ours, ids)) for ids in sample]),
        divergence("llama.cpp", kl_truth, [log_softmax(peer.logits(ids)) for ids in sample]),
    ]
    prompts = [ours.encode(line) for line in (Path(__file__).parent / "prompts.txt").read_text("utf-8").splitlines()]
    stops = ours.tokenizer.stop_ids if ours.tokenizer else frozenset()
    greedy = {
        "puna": [list(c.token_ids) for c in ours.generate(prompts, SamplingParams(max_tokens=GENERATED))],
        "reference": [list(c.token_ids) for c in truth.generate(prompts, SamplingParams(max_tokens=GENERATED))],
        "llama.cpp": [peer.greedy(ids, stops) for ids in prompts],
    }
    text_rows = [
        agreement(f"{a} / {b}", greedy[a], greedy[b])
        for a, b in (("reference", "puna"), ("reference", "llama.cpp"), ("llama.cpp", "puna"))
    ]
    report(model, kl_rows, text_rows, len(prompts))


def report(model: Path, kl_rows: list[dict[str, Any]], text_rows: list[dict[str, Any]], num_prompts: int) -> None:
    print(f"\n{model.name}: KL divergence from the float32 reference, {kl_rows[0]['positions']} positions")
    print(f"{'':12}{'mean':>10}{'p99':>10}{'max':>10}{'top-1':>8}")
    for row in kl_rows:
        print(f"{row['who']:12}{row['mean']:10.5f}{row['p99']:10.4f}{row['max']:10.4f}{row['top1']:8.1%}")
    print(f"\ngreedy text, {num_prompts} prompts x {GENERATED} tokens")
    for row in text_rows:
        print(f"{row['who']:24}{row['equal']:3} equal, {row['mean_equal_tokens']:.1f} tokens before the first difference")
    print(json.dumps({"model": model.name, "kl": kl_rows, "greedy": text_rows}))


if __name__ == "__main__":
    main()
