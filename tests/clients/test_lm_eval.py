"""lm-eval by `/v1/completions` has the score that it has in process. `make clients` has it, in an environment of its own."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from puna.llm import LLM
from tests.server.serving import RunningServer

NUM_QUESTIONS = 20
TASK = """\
task: llamas
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def write_task(folder: Path) -> None:
    """Questions of random words, with three answers each."""
    draw, words = random.Random(16), ("llama", "alpaca", "puna", "grass", "wool", "path", "lake", "sun")
    rows = [
        {"question": " ".join(draw.choices(words, k=4)), "choices": draw.sample(words, 3), "answer": draw.randrange(3)}
        for _ in range(NUM_QUESTIONS)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "llamas.yaml").write_text(TASK.format(path=folder / "questions.jsonl"))


def in_process(llm: LLM) -> Any:
    """lm-eval's own interface on the library."""
    interface: Any = importlib.import_module("lm_eval.api.model").LM

    def ids_of(text: str) -> list[int]:
        """Without a token before the text: lm-eval puts none there unless it is told to."""
        assert llm.tokenizer is not None
        return llm.tokenizer.encode(text, bos=False)

    class Puna(interface):  # type: ignore[misc]
        def loglikelihood(self, requests: list[Any], **more: Any) -> list[tuple[float, bool]]:
            return [self._scored(*request.args) for request in requests]

        def _scored(self, context: str, continuation: str) -> tuple[float, bool]:
            whole = llm.generate(ids_of(context + continuation), max_tokens=1, prompt_logprobs=1)
            entries = [entry for entry in whole.prompt_logprobs[len(ids_of(context)) :] if entry is not None]
            return sum(entry.logprob for entry in entries), all(entry.top[0][0] == entry.token_id for entry in entries)

        def loglikelihood_rolling(self, requests: list[Any], **more: Any) -> Any:
            raise NotImplementedError

        def generate_until(self, requests: list[Any], **more: Any) -> Any:
            raise NotImplementedError

    return Puna()


def by_http(port: int) -> dict[str, Any]:
    address = f"base_url=http://127.0.0.1:{port}/v1/completions"
    return {
        "model": "local-completions",
        "model_args": f"model=tiny,{address},tokenizer_backend=remote,max_length=128,max_retries=1",
    }


@pytest.mark.filterwarnings("ignore")  # its own
def test_the_score_is_that_of_the_library(server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path / "data")}.items():
        monkeypatch.setenv(name, value)
    lm_eval: Any = pytest.importorskip("lm_eval")
    write_task(tmp_path)
    asked = {"tasks": ["llamas"], "bootstrap_iters": 0, "log_samples": True}
    tasks = importlib.import_module("lm_eval.tasks").TaskManager(include_path=str(tmp_path), include_defaults=False)
    here = lm_eval.simple_evaluate(model=in_process(server.llm), task_manager=tasks, **asked)
    there = lm_eval.simple_evaluate(**by_http(server.port), task_manager=tasks, **asked)
    scores = [{name: one["results"]["llamas"][name] for name in ("acc,none", "acc_norm,none")} for one in (here, there)]
    assert scores[0] == scores[1]
    sums = [[answer[0] for sample in one["samples"]["llamas"] for answer in sample["filtered_resps"]] for one in (here, there)]
    assert len(sums[0]) == 3 * NUM_QUESTIONS and sums[0] == sums[1]
