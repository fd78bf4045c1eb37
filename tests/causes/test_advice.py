"""What an error text advises itself, where the answer does not say it."""

from __future__ import annotations

import pytest

from puna.causes.advice import advice
from puna.causes.reading import read


def advised(text: str, known: str = "") -> tuple[str, ...]:
    reading = read(text)
    return advice(reading, reading.error_at, known)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "RuntimeError: Not enough memory. Try to increase --pool-fraction. Current value: 0.2",
            "Try to increase --pool-fraction.",
        ),
        ("ValueError: too long. Consider decreasing `max_model_len`.", "Consider decreasing `max_model_len`."),
        ("error: it took too long; set LOAD_TIMEOUT=30m to wait longer", "set LOAD_TIMEOUT=30m to wait longer"),
    ],
)
def test_a_setting_that_the_text_names_is_quoted_with_its_sentence(text: str, sentence: str) -> None:
    assert advised(text) == (sentence,)


def test_what_the_answer_names_already_is_not_said_twice() -> None:
    text = "ValueError: No memory. Try increasing `gpu_memory_utilization` when initializing the engine."
    assert advised(text) and not advised(text, "A larger share: --gpu-memory-utilization 0.95")


@pytest.mark.parametrize(
    "text",
    [
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
        "RuntimeError: NCCL error, invalid usage (run with NCCL_DEBUG=WARN for details)",
        "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "help: provide the `--frozen` flag to skip locking",
        "CMake Error: CMAKE_C_COMPILER not set, after EnableLanguage",
        "error: unexpected argument --colour",
        "$ python -m serve --mem-fraction-static 0.2 --please",
        "ValueError: seven",
        "",
    ],
)
def test_advice_that_mends_nothing_is_none(text: str) -> None:
    assert advised(text) == ()


def test_advice_far_from_the_error_is_another_errors() -> None:
    far = "\n".join(["Please set --colour red.", *("nothing happens here" for _ in range(200)), "ValueError: seven"])
    assert advised(far) == () and advised("Please set --colour red.\nValueError: seven") == ("Please set --colour red.",)
