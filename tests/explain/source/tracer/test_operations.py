"""Each operation that a trace carries out gives what PyTorch gives: values, shape and type."""

from __future__ import annotations

from typing import Any

import pytest

from tests.explain.source.tracer.toy import run, sampling

# Lines that make x, and an expression of it. The names are torch, F and math.
FLOATS = "x = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.25, -0.5]])"
IDS = "x = torch.tensor([[3, 1, 2], [0, 5, 4]])"
EXPRESSIONS = {
    FLOATS: [
        "torch.softmax(x, dim=-1)",
        "F.softmax(x / 0.7, -1)",
        "F.log_softmax(x, dim=0)",
        "x.logsumexp(-1)",
        "torch.cumsum(x, dim=1)",
        "torch.sort(x, dim=-1, descending=True)[0]",
        "torch.sort(x, dim=-1, descending=True)[1]",
        "x.sort(-1).values",
        "torch.topk(x, 2)[0]",
        "torch.topk(x, 2, dim=-1).indices",
        "x.argmax(-1, keepdim=True)",
        "torch.argmax(x)",
        "x.argmin(dim=0)",
        "x.max()",
        "x.max(dim=1).values",
        "x.max(1)[1]",
        "x.min(-1, keepdim=True)[0]",
        "x.sum()",
        "x.sum(dim=-1, keepdim=True)",
        "x.mean(0)",
        "torch.mean(x)",
        "x > 0",
        "(x > 0).any()",
        "(x > 0).all(dim=1)",
        "~(x > 0)",
        "(x > 0) & (x < 3)",
        "(x > 2) | (x < 0)",
        "x.gather(1, torch.tensor([[0, 2], [1, 1]]))",
        "torch.where(x > 0, x, -float('inf'))",
        "x.masked_fill(x < 0, 9)",
        "x.scatter(1, torch.tensor([[0], [2]]), torch.tensor([[7.0], [8.0]]))",
        "x.transpose(0, 1)",
        "x.t()",
        "x.T",
        "x.view(3, 2)",
        "x.reshape(-1)",
        "x.unsqueeze(1)",
        "x.unsqueeze(-1).squeeze(-1)",
        "x.flatten()",
        "x.permute(1, 0)",
        "x.expand(2, 2, 3)",
        "x.repeat(2, 1)",
        "x.repeat_interleave(2, dim=0)",
        "x.split(2, dim=1)[1]",
        "x[:, -1]",
        "x[:, [-1]]",
        "x[0]",
        "x[x > 0]",
        "x[..., :2]",
        "x[None]",
        "x[:, None, :]",
        "x[torch.tensor([1, 0])]",
        "x.select(-1, -1)",
        "x.narrow(1, 0, 2)",
        "x + 1",
        "x * 2.5",
        "2 - x",
        "x / 4",
        "x ** 2",
        "-x",
        "x.abs()",
        "torch.exp(x)",
        "x.clamp(min=0)",
        "torch.clamp(x, -1, 1)",
        "x @ x.t()",
        "torch.matmul(x, x.transpose(0, 1))",
        "torch.cat((x, x), dim=1)",
        "torch.stack([x, x], dim=1)",
        "x.to(torch.long)",
        "x.long()",
        "(x > 0).float()",
        "x.half()",
        "x.double()",
        "torch.zeros_like(x)",
        "torch.ones_like(x, dtype=torch.long)",
        "torch.full_like(x, 3)",
        "x.clone()",
        "torch.tril(torch.ones(3, 3))",
        "torch.maximum(x, torch.zeros(3))",
        "torch.isin(x, torch.tensor([0.5, 2.0]))",
        "x.eq(2.0)",
        "x.size(0)",
        "x.shape",
        "x.numel()",
        "x.dim()",
        "x.tolist()",
        "x[0, 0].item()",
        "F.cross_entropy(x, torch.tensor([0, 2]))",
        "F.cross_entropy(x, torch.tensor([0, 2]), reduction='none')",
        "F.cross_entropy(input=x[None].transpose(1, 2), target=torch.tensor([[0, -1]]), reduction='none', ignore_index=-1)",
        "F.cross_entropy(x, torch.tensor([1, 1]), reduction='sum')",
        "F.pad(x, (0, 1))",
        "F.pad(x, (1, 0, 0, 2), value=-1)",
        "torch.nonzero(x > 0)",
        "x.index_select(1, torch.tensor([2, 0]))",
    ],
    IDS: [
        "x / 2",
        "x // 2",
        "x % 2",
        "x + 0.5",
        "x * True",
        "x.float().mean()",
        "x.sum()",
        "x.cumsum(-1)",
        "x == 3",
        "x != 1",
        "torch.where(x > 2, x, -1)",
        "x.max()",
        "x.tolist()",
        "x[0].tolist().index(1)",
        "3 in x[0].tolist()",
        "torch.zeros_like(x, dtype=torch.float)",
        "x[:, 1:3]",
        "x[1, :2]",
        "x.argsort(-1)",
        "torch.cat([x, x[:, :1]], dim=-1)",
        "torch.arange(5)",
        "torch.arange(1, 7, 2)",
        "torch.arange(0, 1, 0.25)",
        "torch.full((2, 3), -1, dtype=torch.long)",
        "torch.full((2,), 0.5)",
        "torch.zeros(2, 3)",
        "torch.ones((2, 1), dtype=torch.bool)",
        "torch.tensor([False] * 2)",
        "torch.tensor([1, 2.5])",
        "torch.tensor(3)",
        "x.bool()",
        "x ** 2",
        "min(x[0].tolist())",
        "len(x)",
        "~x",
        "all(x[0] > 0)",
    ],
}
# Lines that change a tensor in place, and leave it in x.
CHANGES = [
    "x[:, 1] = 5",
    "x[x > 1] = 0.0",
    "x[0, :2] = torch.tensor([8, 9])",
    "x.div_(x.sum(dim=-1, keepdim=True))",
    "x += 1",
    "x *= x",
    "x.mul_(2)",
    "x.masked_fill_(x < 0, 0)",
    "y = x[0]\ny[1] = 7",
    "x.fill_(3)",
    "y = x.clone()\ny[0] = 1",
    "x[:, 0] = x[:, 1]",
    "x.scatter_(1, torch.tensor([[1], [0]]), 4.0)",
    "x.clamp_(0, 1)",
    "y = x.view(-1)\ny[2] = 11",
    "x -= x.mean()",
    "x /= 2",
]


def python_of(value: Any) -> Any:
    """A value of PyTorch, or of a snapshot, as plain values."""
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value


def really(lines: str) -> Any:
    """What PyTorch makes of the lines: the value of x at their end."""
    torch = pytest.importorskip("torch")
    import math

    names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "math": math}
    exec(lines, names)  # noqa: S102  # lines of this file
    return names["x"]


@pytest.mark.parametrize("expression", [f"{setup}\nx = {one}" for setup, several in EXPRESSIONS.items() for one in several])
def test_an_expression_has_the_value_shape_and_type_of_pytorch(expression: str) -> None:
    require_same(expression)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_reaches_the_tensor_that_pytorch_changes(change: str) -> None:
    require_same(f"{FLOATS}\n{change}")


def require_same(lines: str) -> None:
    real, done = really(lines), run(sampling(lines + "\nreturn x"))
    assert done.stop is None, done.stop
    shown = done.result
    assert shown is not None
    if hasattr(real, "dtype"):
        assert (shown.shape, shown.dtype) == (tuple(real.shape), str(real.dtype).removeprefix("torch."))
    if hasattr(real, "dtype") and real.ndim > 1:
        real = real[tuple([slice(2)] * (real.ndim - 1))]
    assert _plain(shown.values) == pytest.approx(_plain(python_of(real)), rel=1e-5, abs=1e-6)


def _plain(values: Any) -> Any:
    """Nested lists as one; infinities are told as texts."""
    if isinstance(values, list):
        return [one for inner in values for one in (_plain(inner) if isinstance(inner, list) else [_plain(inner)])]
    return float(values) if isinstance(values, str) else values


def test_a_draw_falls_where_its_number_says() -> None:
    done = run("import torch\ndef f(probs):\n    return torch.multinomial(probs, num_samples=1)")
    assert done.stop is None and done.result is not None
    (first, second) = done.draws
    assert [[first.position], [second.position]] == done.result.values and 0 <= first.uniform < 1
    (argument,) = done.arguments
    assert argument.value.shape == (2, 40) and argument.value.dtype == "float32"
