"""Ranges of versions are read whole, and what is told to be installed is what the text wants."""

from __future__ import annotations

import pytest

from puna.causes import find
from puna.causes.ranges import split

REQUIRED = "{} is required for a normal functioning of this module, but found {}"


@pytest.mark.parametrize(
    ("text", "told", "install"),
    [
        (
            REQUIRED.format("huggingface-hub>=0.34.0,<1.0", "huggingface-hub==1.2.3."),
            "wants huggingface-hub from 0.34.0 on, below 1.0, and 1.2.3 is installed",
            '"huggingface-hub>=0.34.0,<1.0"',
        ),
        (
            REQUIRED.format("tokenizers>=0.22.0,<=0.23.0", "tokenizers==0.21.4"),
            "wants tokenizers from 0.22.0 on, up to 0.23.0, and 0.21.4 is installed",
            '"tokenizers>=0.22.0,<=0.23.0"',
        ),
        (
            "vllm 0.9 requires torch==2.7.0, but you have torch 2.11.0+cu130 which is incompatible.",
            "wants torch exactly 2.7.0, and 2.11.0+cu130 is installed",
            '"torch==2.7.0"',
        ),
        (
            "VersionConflict: (numpy 2.3.1 (/env/site-packages), Requirement.parse('numpy<2,>=1.17'))",
            "wants numpy from 1.17 on, below 2, and 2.3.1 is installed",
            '"numpy>=1.17,<2"',
        ),
    ],
)
def test_a_range_is_told_whole_and_can_be_installed(text: str, told: str, install: str) -> None:
    explanation = find(text)[0].explain()
    assert told in explanation.cause and install in explanation.cure[0]


def test_what_is_asked_for_and_what_another_wants_are_both_told() -> None:
    text = (
        "Because transformers==4.55.0 depends on huggingface-hub>=0.34.0,<1.0 and you require huggingface-hub==1.2.3, we can "
        "conclude that your requirements are unsatisfiable."
    )
    told = find(text)[0].explain().cause
    assert "wants huggingface-hub from 0.34.0 on, below 1.0, and huggingface-hub exactly 1.2.3 is asked for" in told


@pytest.mark.parametrize("text", ["", ",", "<", "==", "a==", "<1", "[x]", "a[b", "a>=1,<", "=" * 100])
def test_odd_ranges_do_no_harm(text: str) -> None:
    split(text)


@pytest.mark.parametrize(
    ("text", "narrow"),
    [
        (
            "hint: While the active Python version is 3.13, the resolution failed for other Python versions "
            "supported by your project.",
            "==3.13.*",
        ),
        (
            "The `requires-python` value (>=3.8) includes Python versions that are not supported by your dependencies (e.g., "
            "vllm==0.9.0 only supports >=3.9, <3.13). Consider using a more restrictive `requires-python` "
            "value (like >=3.9, <3.13).",
            ">=3.9, <3.13",
        ),
    ],
)
def test_the_pythons_of_a_project_are_narrowed_to_what_the_text_names(text: str, narrow: str) -> None:
    assert f'requires-python = "{narrow}"' in find(text)[0].explain().cure[0]
