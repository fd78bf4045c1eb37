"""Folders of models that score or embed texts instead of writing them: `...ForSequenceClassification`, or the layers alone.

Both lack the output matrix. The first has `score.weight`; the second's names lack the beginning "model.".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from puna.errors import UnsupportedModelError
from puna.formats.arrays import FileArray, PackedTensor
from puna.formats.base import RankingHead, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown
from puna.formats.notices import ConversionLoss

SCORE, BEGINNING, FIRST = "score.weight", "model.", "embed_tokens.weight"
WRITES, SCORES = "ForCausalLM", "ForSequenceClassification"
MAX_LABELS = 2
NO_TEXT = "the model has no output matrix: it embeds or scores texts, and what it writes means nothing"
LOST_HEAD = ConversionLoss(f"conversions leave out the model's head for ranking ({SCORE})")
READABLE = ("F32", "F16", "BF16")
Weight = TypeVar("Weight", FileArray, PackedTensor, FileArray | PackedTensor)


def classes_of(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of `architectures` that a family's models may have, besides those that write text.

    >>> classes_of(("Qwen3ForCausalLM",))
    ('Qwen3ForCausalLM', 'Qwen3ForSequenceClassification', 'Qwen3Model')
    """
    stems = [name.removesuffix(WRITES) for name in classes]
    return (*classes, *(f"{stem}{SCORES}" for stem in stems), *(f"{stem}Model" for stem in stems))


def writes_text(config: JsonObject) -> bool:
    """Whether the model is of a class with an output matrix, as far as config.json says."""
    return not any(isinstance(name, str) and name.endswith((SCORES, "Model")) for name in config.array("architectures"))


def with_beginnings(stored: Mapping[str, Weight]) -> dict[str, Weight]:
    """The arrays under the names that they have in a model that writes text."""
    if FIRST not in stored:
        return dict(stored)
    return {
        name if name.startswith((BEGINNING, "score.", "lm_head.")) else BEGINNING + name: found for name, found in stored.items()
    }


def taken_out(stored: dict[str, FileArray], config: JsonObject, hidden_size: int) -> RankingHead | None:
    """The head, which leaves `stored`. UnsupportedModelError for one of more than two labels."""
    score = stored.pop(SCORE, None)
    kind = next((name for name in config.array("architectures") if isinstance(name, str) and name.endswith(SCORES)), None)
    if score is None and kind is not None:
        raise UnsupportedModelError(f"{config.file}: the architecture is {shown(kind)}, and the folder has no tensor '{SCORE}'")
    if score is None:
        return None
    if len(score.shape) != 2 or score.shape[1] != hidden_size or not score.shape[0]:
        score.fail(f"has shape {score.shape}; (labels, {hidden_size}) is needed")
    if score.shape[0] > MAX_LABELS or score.dtype not in READABLE:
        raise UnsupportedModelError(
            f"{score.file}: '{SCORE}' has {score.shape[0]} labels in {score.dtype}; puna ranks with one or two labels "
            f"in {', '.join(READABLE)}"
        )
    tensor = Tensor(SCORE, score.shape, BLOCK_TYPES[score.dtype], score.rows())
    return RankingHead(tensor, _labels(config, score.shape[0]))


def _labels(config: JsonObject, count: int) -> tuple[str, ...]:
    names = config.object("id2label")
    found = () if names is None else tuple(names.values.get(str(number)) for number in range(count))
    if any(not isinstance(name, str) for name in found):
        config.fail(
            "id2label", f"is {shown(None if names is None else names.values)}; a text for each of {count} labels is needed"
        )
    return tuple(map(str, found))
