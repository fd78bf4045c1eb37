"""Loops are told by their syntax trees, whatever their files and names; those of many styles run to their ends as data."""

from __future__ import annotations

import ast

import pytest

from puna.explain.source.explained import Dissection
from puna.explain.source.loops import LoopKind, Purpose
from puna.explain.source.reading import source_of
from puna.explain.source.tracing import run_both_ways
from tests.explain.source.tracer.toy import ToyModel, run

HEAD = "import torch\nfrom torch.nn import functional as F\n"
# Name of a style -> a function f in it, and the shape of what it returns.
STYLES: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "a method that appends to a row": (
        """
class Net:
    def f(self, idx, count: int, temperature=1.0, top_k=None):
        for _ in range(count):
            seen = idx if idx.size(1) <= self.config.block_size else idx[:, -self.config.block_size:]
            logits, _ = self(seen)
            logits = logits[:, -1, :] / temperature
            if top_k is not None:
                best, _ = torch.topk(logits, min(top_k, logits.size(-1)))
                logits[logits < best[:, [-1]]] = -float("inf")
            idx = torch.cat((idx, torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)), dim=1)
        return idx
""",
        (2, 16),
    ),
    "a function with a cache": (
        """
def f(model, tokenizer, text, count: int):
    ids, past = torch.tensor([tokenizer.encode(text)]), None
    while count > 0:
        out = model(ids if past is None else ids[:, -1:], past_key_values=past, use_cache=True)
        past, count = out.past_key_values, count - 1
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
        if ids[0, -1].item() == tokenizer.eos_token_id:
            break
    return ids
""",
        None,
    ),
    "helpers that get the model": (
        """
def one(model, x, position, temperature=1.0):
    probs = torch.softmax(model(x, position)[:, -1] / temperature, dim=-1)
    return torch.argmax(probs / torch.empty_like(probs).exponential_(1), dim=-1, keepdim=True).to(dtype=torch.int)
def several(model, x, position, count):
    made = []
    for _ in range(count):
        x = one(model, x, position)
        position += 1
        made.append(x.clone())
    return made
def f(model, prompt, max_new_tokens):
    size = prompt.size(-1)
    out = torch.empty(1, size + max_new_tokens, dtype=prompt.dtype)
    out[:, :size] = prompt.view(1, -1)
    first = one(model, prompt.view(1, -1), torch.arange(0, size))
    out[:, size] = first.squeeze()
    out[:, size + 1:] = torch.cat(several(model, first, torch.tensor([size]), max_new_tokens - 1), dim=-1)
    return out
""",
        (1, 16),
    ),
    "a generator of a list": (
        """
class Net:
    def f(self, tokens, count: int, seed=1):
        assert isinstance(tokens, list)
        rng = torch.Generator(device=self.get_device())
        rng.manual_seed(seed)
        ids = torch.tensor([tokens])
        for _ in range(count):
            probs = F.softmax(self.forward(ids)[:, -1, :], dim=-1)
            ids = torch.cat((ids, torch.multinomial(probs, num_samples=1, generator=rng)), dim=1)
            yield ids[0, -1].item()
""",
        (6,),
    ),
    "a tokenizer that is called": (
        """
def f(model, tokenizer, prompt, max_new_tokens, device):
    ids = tokenizer(prompt, return_tensors="pt").input_ids.to(device)
    with torch.no_grad():
        for _ in range(max_new_tokens):
            best = torch.argmax(model(input_ids=ids).logits[0, -1]).unsqueeze(0).unsqueeze(0)
            ids = torch.cat([ids, best], dim=1)
    return ids
""",
        None,
    ),
    "a filter of one row": (
        """
def f(logits, top_k=0, top_p=0.0):
    assert logits.dim() == 1
    logits[logits < torch.topk(logits, min(top_k, logits.size(-1)))[0][..., -1, None]] = -float("Inf")
    ordered, ids = torch.sort(logits, descending=True)
    gone = torch.cumsum(F.softmax(ordered, dim=-1), dim=-1) > top_p
    gone[..., 1:] = gone[..., :-1].clone()
    gone[..., 0] = 0
    logits[ids[gone]] = -float("Inf")
    return logits
""",
        (40,),
    ),
    "an object with settings": (
        """
class TopP(Base):
    def __init__(self, top_p: float, floor: int = 2, unknown=None):
        super().__init__()
        if not isinstance(floor, int):
            raise ValueError("no")
        self.top_p, self.floor = float(top_p), max(floor, 1)
        self.other = unknown_function(unknown)
    @undefined_decorator("x")
    def f(self, input_ids, scores):
        ordered, ids = torch.sort(scores, descending=False)
        gone = ordered.softmax(dim=-1).cumsum(dim=-1) <= (1 - self.top_p)
        gone[..., -self.floor * self.min_tokens_to_keep:] = 0
        return scores.masked_fill(gone.scatter(1, ids, gone), self.filter_value)
""",
        (2, 40),
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_recognised_and_runs_to_its_end(style: str) -> None:
    source, shape = STYLES[style]
    if style in ("helpers that get the model", "a filter of one row"):
        source = source.replace("top_k=0", "top_k=5")
    done = run(HEAD + source)
    assert done.stop is None, done.stop
    assert done.result is not None and (shape is None or done.result.shape == shape), done.result
    assert (done.kind is LoopKind.GENERATION) == (done.num_model_calls > 0)


OTHERS = {
    "training": "def f(model, data):\n    for x, y in data:\n        loss = model(x, y)[1]\n        loss.backward()\n",
    "attention": "def f(q, k, v):\n    return F.softmax(q @ k.transpose(1, 2), dim=-1) @ v\n",
    "no model": "def f(items):\n    for one in items:\n        print(max(one))\n",
    "a wrapper": "def f(self, prompts):\n    return [self.generate(self.tokenizer.encode(x)) for x in prompts]\n",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_functions_are_not_taken_for_loops(kind: str) -> None:
    file = Dissection(source_of(HEAD + OTHERS[kind], "t.py"))
    assert file.loop_of(file.definitions[0]) is None


def test_what_a_parameter_is_for_is_told_by_its_use() -> None:
    source = (
        "def f(net, a, b, c, d: bool, e: int):\n    for row in a:\n        len(row)\n    for _ in range(e):\n"
        "        torch.multinomial(torch.softmax(b / c, -1), 1)\n        net(a)\n"
    )
    file = Dissection(source_of(HEAD + source, "t.py"))
    loop = file.loop_of(file.definitions[0])
    assert loop is not None
    assert list(loop.purposes.values()) == [
        Purpose.MODEL, Purpose.PROMPTS, Purpose.LOGITS, Purpose.TEMPERATURE, Purpose.SWITCH, Purpose.COUNT,
    ]  # fmt: skip


def test_lines_for_temperature_0_are_shown_from_a_second_run() -> None:
    source = (
        "def f(logits, temperature):\n    if temperature > 0:\n"
        "        x = torch.multinomial(F.softmax(logits / temperature, -1), 1)\n"
        "    else:\n        x = logits.argmax(-1)\n    return x\n"
    )
    file = Dissection(source_of(HEAD + source, "t.py"))
    (definition,) = file.definitions
    loop = file.loop_of(definition)
    assert loop is not None and isinstance(definition.node, ast.FunctionDef)
    done = run_both_ways("f", definition.node, loop, file.scope(definition), ToyModel())
    names = [(one.line, one.name, one.is_cold) for block in file.part(definition, done).blocks for one in block.names]
    assert names == [(5, "x", False), (7, "x", True), (8, "return", False)]
