"""The Checkpoint, which every model format becomes. Foreign names, layouts and orders end here.

Tensors have the names and shapes of `model/weights.py`. Rows of q_proj and k_proj, and numbers of q_bias, k_bias, q_norm and
k_norm, are in the interleaved rotary order (x[2i], x[2i+1]). The weights of norms are those that they multiply by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.errors import ModelFormatError
from puna.formats.blocks import BLOCK_TYPES, BlockType
from puna.formats.rows import ComputedRows, Rows
from puna.model.spec import ModelConfig
from puna.pooling import Pooling


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight. `data` is a read-only view of the mapped bytes where the layout allows, else rows that are assembled on
    demand (`rows.py`): `data[first:last]` gives an array of either.

    `scales` is set only for types whose scales are separate from the numbers (llama2.c v2).
    """

    name: str
    shape: tuple[int, ...]  # (rows, columns) or (columns,)
    type: BlockType
    data: Rows  # (rows, bytes of a row); a vector is one row
    scales: npt.NDArray[np.float32] | None = None  # (rows, columns / group size)
    file: str = ""  # for error messages

    @property
    def num_bytes(self) -> int:
        return int(self.data.nbytes) + (0 if self.scales is None else int(self.scales.nbytes))

    def adjusted(self, factor: float = 1.0, offset: float = 0.0) -> Tensor:
        """This vector times a factor, plus an offset; in single precision."""

        def compute(first: int, last: int) -> npt.NDArray[np.uint8]:
            values = self.dequantize() * np.float32(factor) + np.float32(offset)
            return values.view(np.uint8)[None][first:last]

        return Tensor(self.name, self.shape, BLOCK_TYPES["F32"], ComputedRows((1, 4 * self.shape[0]), compute), file=self.file)

    def blocks(self, first: int = 0, last: int | None = None) -> npt.NDArray[np.uint8]:
        """Rows first..last-1 as they are stored. ModelFormatError if the scale of a block is infinite or NaN.

        Single weights are not looked at, also not those of F32, F16 and BF16: that would cost more than to load them.
        """
        rows = self.data[first:last]
        if rows.size and (bad := self.type.bad_scale(rows)) is not None:
            byte, field = bad
            row = first + byte // rows.shape[1]
            raise self._bad_scale(f"{field} of the block at byte {byte % rows.shape[1]} of row {row}")
        return rows

    def _bad_scale(self, which: str) -> ModelFormatError:
        return ModelFormatError(self.file or "the model", f"tensor {self.name!r}", None, f"{which} is infinite or not a number")

    def dequantize(self, first: int = 0, last: int | None = None) -> npt.NDArray[np.float32]:
        """Rows first..last-1 as float32 (a vector is one row), checked as `blocks`.  # (rows, columns), or (columns,)"""
        rows = self.blocks(first, last)
        scales = None if self.scales is None else self.scales[first:last]
        if scales is not None and not np.isfinite(scales).all():
            raise self._bad_scale(f"a scale of row {first + int(np.isfinite(scales).all(axis=1).argmin())}")
        values = self.type.dequantize(rows, scales)
        return values.reshape(self.shape) if len(self.shape) == 1 else values


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """A tokenizer as a file describes it; `tokenizers.build_tokenizer` makes the object.

    `kind`: "bpe" (byte-level BPE, tokens in GPT-2's byte alphabet, `pre` names the splitter), "spm" (SentencePiece BPE, merged
    by `scores`, or, without them, by `merges`: a `tokenizer.json` made from one), "unigram" (SentencePiece's other model:
    `scores` are log probabilities).
    `pipeline`: the parts of a `tokenizer.json` that the other fields do not say exactly, as JSON (`library_parts.py`); the
    `tokenizers` library then splits by them. "" if the other fields say it all.
    `token_types` follow GGUF: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    `normalizer`: "" leaves a text as it is; "bpe" knows "NFC"; for "spm" it is the name of the rule that `charsmap` holds,
    SentencePiece's compiled map of characters.
    """

    kind: str
    tokens: Sequence[bytes]
    scores: npt.NDArray[np.floating[Any]] | None = None  # float32; float64 where a tokenizer.json has a Unigram model
    token_types: npt.NDArray[np.int32] | None = None
    merges: Sequence[bytes] = ()
    pre: str = "default"
    bos_id: int | None = None
    eos_id: int | None = None
    eot_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    stop_ids: tuple[int, ...] = ()  # more ids that end a text (a list of eos_token_id in generation_config.json)
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = True
    prefix_first_only: bool = False  # "spm": add that space at the beginning only, not after each control token too
    # "spm": add that space to no text, nor part of one, that begins with a space or U+2581 (the Metaspace of `tokenizers`);
    # SentencePiece, and the normalizer Prepend, add it there too
    prefix_unless_space: bool = False
    normalizer: str = ""
    charsmap: bytes = b""
    remove_extra_spaces: bool = False  # "spm": join runs of spaces into one, and strip both ends (OpenLLaMA v1)
    whole_words: bool | None = None  # "bpe": a word that is a token is not merged; None: as for `pre`
    pipeline: str = ""
    only_json: str = ""  # why the fields cannot replace the pipeline, so that no other format can hold it; "" if they can
    added_flags: tuple[tuple[int, str], ...] = ()  # of added tokens, by id: letters of "lrsn", see `added_tokens.py`
    # "spm", "unigram": user-defined tokens that match in the text as it is, before a space is added, as in llama.cpp and
    # `tokenizers`; the others match after that, as in SentencePiece.
    found_first: tuple[int, ...] = ()
    source: str = ""  # the file, for error messages

    def __repr__(self) -> str:
        return f"<TokenizerSpec {self.kind}: {len(self.tokens)} tokens, {len(self.merges)} merges, from {self.source!r}>"


@dataclass(frozen=True, slots=True)
class RankingHead:
    """The head of a model that scores texts: logits = matrix x hidden state of the last token."""

    matrix: Tensor  # (labels, hidden_size); one label or two
    labels: tuple[str, ...] = ()  # their names, if the file has any


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one matrix: B A, with the adapter's scale in B."""

    a: npt.NDArray[np.float32]  # (rank, columns)
    b: npt.NDArray[np.float32]  # (rows, rank)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, in the names and the row orders of our tensors."""

    path: Path
    parts: Mapping[str, LowRank]  # by the matrix that it changes
    name: str = ""  # by which requests choose it

    @property
    def num_bytes(self) -> int:
        return sum(part.a.nbytes + part.b.nbytes for part in self.parts.values())

    @property
    def digest(self) -> str:
        """Of all its numbers."""
        found = hashlib.sha256()
        for name, part in sorted(self.parts.items()):
            found.update(f"{name} {part.a.shape} {part.b.shape}\n".encode())
            found.update(part.a.tobytes() + part.b.tobytes())
        return found.hexdigest()

    def scaled(self, scale: float) -> Adapter:
        parts = {name: replace(part, b=part.b * np.float32(scale)) for name, part in self.parts.items()}
        return replace(self, parts=parts) if scale != 1.0 else self


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that was opened and checked; its weights are not read yet."""

    path: Path
    format: str  # "gguf", "llama2c", "meta", "huggingface"
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    tokenizer: TokenizerSpec | None = None
    chat_template: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # as in the file, for `puna inspect`
    unused_keys: tuple[str, ...] = ()  # metadata keys that puna does not use
    files: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()  # for the user when the model is loaded; one line each
    generation: Mapping[str, Any] = field(default_factory=dict)  # the makers' sampling defaults (`puna/suggested.py`)
    pooling: Pooling | None = None  # how hidden states become an embedding; None: the file does not say
    head: RankingHead | None = None  # of a model that scores texts
    adapters: Sequence[Adapter] = ()  # LoRA adapters that a request may name, by their numbers

    def __repr__(self) -> str:
        config = self.config
        sizes = f"{config.architecture}, {config.num_layers} layers, {len(self.tensors)} tensors"
        return f"<Checkpoint {str(self.path)!r} ({self.format}): {sizes}>"
