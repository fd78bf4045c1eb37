"""Rerank: transformers' classification heads; yes against no; what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna import rerank
from puna.errors import UnsupportedModelError, UsageError
from puna.formats import open_checkpoint
from puna.llm import LLM
from puna.progress import SILENT
from tests.conformance.test_backends import BACKENDS_UNDER_TEST
from tests.fakes import ByteTokenizer, random_checkpoint, tiny_config
from tests.families import SIZES
from tests.models import Draft, DraftTensor, DraftValue, bpe_tokenizer, draft_gguf, random_tensors
from tests.models import tiny_config as file_config
from tests.test_embedding import loaded

TOLERANCE = 1e-4
KINDS = ("Llama", "Qwen2", "Qwen3")
ids = np.random.default_rng(6)
PROMPTS: list[list[int]] = [ids.integers(3, SIZES["vocab_size"], length).tolist() for length in (2, 19, 70)]


def saved(kind: str, folder: Path, labels: int) -> list[np.ndarray[Any, Any]]:
    """A random model that scores, in a folder, and transformers' logits of each prompt."""
    import torch
    import transformers

    torch.manual_seed(7)
    config = getattr(transformers, f"{kind}Config")(**SIZES, num_labels=labels, head_dim=16)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).float().eval()
    model.save_pretrained(folder)
    with torch.no_grad():
        return [model(torch.tensor([prompt])).logits[0].double().numpy() for prompt in PROMPTS]


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_scores_as_transformers_does(kind: str, labels: int, tmp_path: Path) -> None:
    expected = saved(kind, tmp_path, labels)
    for device in BACKENDS_UNDER_TEST:
        with LLM(tmp_path, device=device, kv_type="f32", report=SILENT) as llm:
            found = rerank.run(llm._scoring(PROMPTS), llm.runner)
            assert any("it embeds or scores texts" in notice for notice in llm.notices)
        wanted = [row[0] if labels == 1 else 1 / (1 + np.exp(row[0] - row[1])) for row in expected]
        error = np.abs(np.subtract(found, wanted)).max()
        print(f"{kind}, {labels} labels, on {device}: largest error {error:.2e}")
        assert error < TOLERANCE


def test_a_folder_of_the_layers_alone_embeds(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(8)
    model = transformers.Qwen3Model(transformers.Qwen3Config(**SIZES, head_dim=16)).float().eval()
    model.save_pretrained(tmp_path)
    pooling = tmp_path / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text('{"word_embedding_dimension": 64, "pooling_mode_mean_tokens": true}')
    with torch.no_grad():
        states = model(torch.tensor([PROMPTS[1]])).last_hidden_state[0].numpy()
    with LLM(tmp_path, device="reference", report=SILENT) as llm:
        assert llm.pooling == "mean"
        assert np.abs(llm.embed(PROMPTS[1], normalize=False) - states.mean(axis=0)).max() < TOLERANCE
    (pooling / "config.json").write_text('{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}')
    with pytest.raises(UnsupportedModelError, match="sets pooling_mode_mean_tokens, pooling_mode_max_tokens; puna knows one of"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("labels", "problem"), [(3, "has 3 labels"), (0, "no tensor 'score.weight'")])
def test_a_head_that_cannot_rank_is_refused(labels: int, problem: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    saved("Llama", tmp_path, max(labels, 1))
    if not labels:
        weights = load_file(tmp_path / "model.safetensors")
        del weights["score.weight"]
        save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=problem):
        open_checkpoint(tmp_path)


def gguf_that_ranks(path: Path, *labels: str) -> Path:
    config = file_config()
    draft: Draft = draft_gguf(config, random_tensors(config, 1), tokenizer=bpe_tokenizer(config.vocab_size))
    head = np.random.default_rng(9).standard_normal((len(labels), config.hidden_size)).astype(np.float32)
    draft.tensors.append(DraftTensor(b"cls.output.weight", [config.hidden_size, len(labels)], 0, head.tobytes()))
    draft.values.append(DraftValue(b"llama.classifier.output_labels", "array of string", [label.encode() for label in labels]))
    draft.values.append(DraftValue(b"llama.pooling_type", "uint32", 4))
    path.write_bytes(draft.to_bytes())
    return path


def test_a_gguf_head_ranks_texts_the_same_alone_and_together(tmp_path: Path) -> None:
    documents = ["the day", "he said it was big", "lily", "a"]
    with LLM(gguf_that_ranks(tmp_path / "m.gguf", "yes", "no"), device="reference", report=SILENT) as llm:
        found = llm.rerank("the big day", documents)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert {one.index for one in found} == {0, 1, 2, 3} and all(0 < one.score < 1 for one in found)
        assert llm.rerank("the big day", documents, top_n=2) == found[:2]
        for one in found:
            assert llm.rerank("the big day", [documents[one.index]])[0].score == one.score
        assert llm.rerank("the big day", []) == []
    with LLM(gguf_that_ranks(tmp_path / "n.gguf", "no", "yes"), device="reference", report=SILENT) as other:
        for one in other.rerank("the big day", documents):
            assert np.isclose(one.score, 1 - next(each.score for each in found if each.index == one.index))


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with loaded(random_checkpoint(tiny_config(), seed=1), "reference") as it:
        yield it


def test_without_a_head_the_score_is_the_probability_of_yes_against_no(llm: LLM) -> None:
    prompts = [[1, 2, 3], [9] * 40]
    found = rerank.answer_scores(llm.runner, prompts, yes_id=7, no_id=8)
    for prompt, score in zip(prompts, found, strict=True):
        top = [
            llm.generate(prompt, max_tokens=1, logprobs=0, suppress_ids=[i for i in range(258) if i != kept]) for kept in (7, 8)
        ]
        yes, no = (one.logprobs[0].logprob for one in top)
        assert np.isclose(score, np.exp(yes) / (np.exp(yes) + np.exp(no)))


def test_the_question_is_qwen3_rerankers() -> None:
    system, user = rerank.question("q?", "d.", rerank.INSTRUCTION)
    assert user["content"] == f"<Instruct>: {rerank.INSTRUCTION}\n<Query>: q?\n<Document>: d."
    assert str(system["content"]).startswith("Judge whether the Document meets the requirements")
    assert rerank.pair(ByteTokenizer(), "a", "b") == [256, 97, 257, 98, 257]


@pytest.mark.parametrize(
    ("query", "documents", "settings", "problem"),
    [
        ("q", "one", {}, "documents is one text; a list of texts is needed"),
        ("q", ["a", 3], {}, "document 1 is 3; a str is needed"),
        (5, ["a"], {}, "the query is 5; a str is needed"),
        (" ", ["a"], {}, "the query is empty"),
        ("q", ["a", "\n"], {}, "document 1 is empty"),
        ("q", ["a"], {"top_n": 0}, "top_n is 0; a whole number of at least 1 is needed"),
        ("q", ["a"], {}, '"yes" and "no" are not single tokens'),
    ],
)
def test_what_cannot_be_ranked_is_refused(llm: LLM, query: Any, documents: Any, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        llm.rerank(query, documents, **settings)
