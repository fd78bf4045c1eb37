"""Finds what is wrong with a model. Each finding says what it does to the output, and how to fix it.

    for finding in examine(open_checkpoint(path)):
        print(finding.severity, finding.found)

CHECKS is the table of checks, each a small function. A fault that only harms other programs is a note.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from puna.chat import Message, RenderedChat, render
from puna.errors import PunaError
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.mapped import shown, shown_name
from puna.formats.notices import Doubt
from puna.formats.token_types import NORMAL
from puna.formats.torch_file import altered_entries
from puna.progress import SILENT, Reporter
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from puna.units import megabytes

Severity = Literal["error", "warning", "note"]
QUESTION, ANSWER, MORE = "What is a puna?", "A high plain.", "Where?"
CONTROL = re.compile(r"<\|[^<>|\s]{1,48}\|>")  # looks like a control token of a template
CLASSIC_BOS = ("<s>", "<|begin_of_text|>")  # a model with it in its vocabulary was trained with it first
LLAMA3_THETA, LLAMA3_CONTEXT = 500000.0, 8192
STRETCHED_NAME = re.compile(r"llama[-_ .]?3[._][123]", re.IGNORECASE)
CHUNK_BYTES = 1 << 25
HALF_RANGE = 65504.0


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """One fault: what it is, its effect, and how to fix it."""

    severity: Severity
    check: str  # the name of the check
    found: str
    effect: str
    cure: str


@dataclass
class Subject:
    """A checkpoint, and facts that several checks need."""

    checkpoint: Checkpoint

    @cached_property
    def made(self) -> Tokenizer | PunaError | None:
        """The tokenizer; the error if it cannot be built; None if the model has none."""
        try:
            return None if self.checkpoint.tokenizer is None else build_tokenizer(self.checkpoint.tokenizer)
        except PunaError as error:
            return error

    @property
    def tokenizer(self) -> Tokenizer | None:
        return None if isinstance(self.made, PunaError) else self.made

    @cached_property
    def prompt(self) -> RenderedChat | PunaError | None:
        """The template's text for a question, an answer and a question; the error if it fails; None without a template."""
        template, tokenizer = self.checkpoint.chat_template, self.tokenizer
        if template is None or tokenizer is None:
            return None
        messages: list[Message] = [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": MORE},
        ]
        try:
            return render(
                messages, template, bos_token=self.text_of(tokenizer.bos_id), eos_token=self.text_of(tokenizer.eos_id),
                control_tokens=tokenizer.special_tokens,
            )  # fmt: skip
        except PunaError as error:
            return error

    def text_of(self, token_id: int | None) -> str:
        return "" if token_id is None or self.tokenizer is None else self.tokenizer.piece(token_id)


HealthCheck = Callable[[Subject], Iterator[HealthFinding]]


def examine(checkpoint: Checkpoint, *, weights: bool = True, report: Reporter = SILENT) -> list[HealthFinding]:
    """All findings, the worst first. `weights`: also run the checks that read every byte of the weights."""
    subject = Subject(checkpoint)
    found = [finding for check in CHECKS for finding in check(subject)]
    if weights:
        found += _weights(checkpoint, report)
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


# ---- text -----------------------------------------------------------------------------------------------------------


def _no_tokenizer(subject: Subject) -> Iterator[HealthFinding]:
    if isinstance(subject.made, PunaError):
        yield HealthFinding(
            "error",
            "tokenizer",
            f"puna cannot use the tokenizer: {subject.made.typed.message}",
            "puna reads and writes token ids only, no text.",
            subject.made.typed.hint,
        )
    elif subject.made is None:
        yield HealthFinding(
            "warning",
            "tokenizer",
            "there is no tokenizer in the model, nor beside it",
            "puna reads and writes token ids only, no text.",
            "Fetch the tokenizer's file from where the model came, into the same folder, or name it with --tokenizer.",
        )


def _duplicate_tokens(subject: Subject) -> Iterator[HealthFinding]:
    spec = subject.checkpoint.tokenizer
    if spec is None:
        return
    kinds = [NORMAL] * len(spec.tokens) if spec.token_types is None else spec.token_types.tolist()
    counts = Counter(token for token, kind in zip(spec.tokens, kinds) if kind == NORMAL)
    twice = [token for token, count in counts.items() if count > 1]
    if twice:
        yield HealthFinding(
            "warning",
            "duplicate-tokens",
            f"{len(twice)} tokens occur more than once in the vocabulary, e.g. {twice[0].decode('utf-8', 'replace')!r}",
            "A text is encoded with one of them; the model was perhaps trained with the other.",
            "Take another conversion of the model.",
        )


def _no_end(subject: Subject) -> Iterator[HealthFinding]:
    if subject.tokenizer is not None and not subject.tokenizer.stop_ids:
        yield HealthFinding(
            "warning",
            "end-of-text",
            "no token ends a text: there is neither eos nor an end of turn",
            "Every answer runs on until --max-tokens.",
            "Take another conversion, or end answers with --stop.",
        )


def _bos(subject: Subject) -> Iterator[HealthFinding]:
    tokenizer, prompt = subject.tokenizer, subject.prompt
    if tokenizer is None or tokenizer.bos_id is None or isinstance(prompt, PunaError):
        return
    bos = subject.text_of(tokenizer.bos_id)
    if prompt is None:
        if not tokenizer.add_bos and bos in CLASSIC_BOS:
            yield _missing_bos(bos)
        return
    written = prompt.text.lstrip().startswith(bos)
    ids = tokenizer.encode(prompt.text, eos=False, special=True, guard=prompt.guard)
    if ids[:2] == [tokenizer.bos_id] * 2:
        yield HealthFinding(
            "warning",
            "double-bos",
            f"a prompt begins with {bos} twice, because the template writes it twice",
            "The model never saw that in training; answers get worse, often unnoticed.",
            "Take a corrected chat template, or name a built-in one: --template llama2, llama3 or chatml.",
        )
    elif written and tokenizer.add_bos:
        yield HealthFinding(
            "note",
            "double-bos",
            f"the template writes {bos}, and the file asks the tokenizer to add it too",
            "puna sends it once. Programs that add BOS to a rendered template send it twice.",
            "With puna, do nothing.",
        )
    elif ids[:1] != [tokenizer.bos_id] and bos in CLASSIC_BOS:
        yield _missing_bos(bos)


def _missing_bos(bos: str) -> HealthFinding:
    return HealthFinding(
        "warning",
        "missing-bos",
        f"no prompt begins with {bos}: neither the tokenizer nor a template adds it",
        "Models with this vocabulary were trained with it in front; without it answers drift or repeat themselves.",
        "Take another conversion of the model, one whose tokenizer has add_bos.",
    )


def _template(subject: Subject) -> Iterator[HealthFinding]:
    prompt, tokenizer = subject.prompt, subject.tokenizer
    if isinstance(prompt, PunaError):
        yield HealthFinding(
            "error",
            "template",
            f"the chat template fails on a plain conversation: {prompt.typed.message}",
            "puna run and puna chat cannot ask the model with it.",
            "Take a corrected template, or name a built-in one: --template llama2, llama3 or chatml; or use --raw.",
        )
        return
    if prompt is None or tokenizer is None:
        return
    unknown = sorted(set(CONTROL.findall(prompt.text)) - tokenizer.special_tokens.keys())
    if unknown:
        ids = tokenizer.encode(unknown[0], bos=False, eos=False, special=True)
        if len(ids) > 1:
            yield HealthFinding(
                "error",
                "template-tokens",
                f"the template writes {unknown[0]}, which the vocabulary lacks: it becomes {len(ids)} pieces of text",
                "The model was trained with one token there; it sees letters, and does not know whose turn it is.",
                "The template or the tokenizer belongs to another model: take both from where the weights came.",
            )


def _end_of_turn(subject: Subject) -> Iterator[HealthFinding]:
    """The first control token after an answer is the one that the model writes to end an answer."""
    prompt, tokenizer = subject.prompt, subject.tokenizer
    if not isinstance(prompt, RenderedChat) or tokenizer is None or ANSWER not in prompt.text:
        return
    rest = prompt.text.partition(ANSWER)[2].partition(MORE)[0]
    ids = tokenizer.encode(rest, bos=False, eos=False, special=True, guard=prompt.guard)
    controls = set(tokenizer.special_tokens.values())
    end = next((token_id for token_id in ids if token_id in controls), None)
    if end is not None and end not in tokenizer.stop_ids and end != tokenizer.bos_id:
        stops = ", ".join(sorted(subject.text_of(token_id) for token_id in tokenizer.stop_ids))
        yield HealthFinding(
            "error",
            "end-of-turn",
            f"the template ends an answer with {subject.text_of(end)}, but generation ends at {stops or 'no token'}",
            "Answers do not end: the model continues with a next question.",
            f"Take another conversion of the model, one whose end of turn is {subject.text_of(end)}.",
        )


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _rope(subject: Subject) -> Iterator[HealthFinding]:
    config = subject.checkpoint.config
    rope, plain = config.rope, config.rope.scaling == "none" and config.rope.factors is None
    stretched = rope.theta == LLAMA3_THETA and config.max_context > 2 * LLAMA3_CONTEXT
    named = STRETCHED_NAME.search(config.name) is not None and rope.theta == LLAMA3_THETA
    if config.architecture == "llama" and plain and (stretched or named):
        yield HealthFinding(
            "warning",
            "rope-scaling",
            f"a Llama 3 (theta 500000) with a context of {config.max_context} has no rope scaling: Llama 3.1 and later have one",
            f"Short texts are nearly right; beyond {LLAMA3_CONTEXT} tokens the output gets incoherent.",
            "The conversion dropped rope_scaling: take another, or convert the original again.",
        )


def _notices(subject: Subject) -> Iterator[HealthFinding]:
    for notice in subject.checkpoint.notices:
        if isinstance(notice, Doubt):
            effect, cure = "Another program may read the file in another way.", "Correct the file, or take another conversion."
            yield HealthFinding("warning", "reader", notice, effect, cure)
        else:
            yield HealthFinding("note", "reader", notice, "As stated.", "If you expected this, do nothing.")


CHECKS: tuple[HealthCheck, ...] = (_no_tokenizer, _duplicate_tokens, _no_end, _bos, _template, _end_of_turn, _rope, _notices)


# ---- weights --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TensorScan:
    """What one pass over a tensor finds."""

    not_finite: int = 0
    largest: float = 0.0
    checksum: int = 0


def _weights(checkpoint: Checkpoint, report: Reporter) -> Iterator[HealthFinding]:
    """Findings about the weights. Reads each tensor once, in pieces."""
    total, done = sum(tensor.num_bytes for tensor in checkpoint.tensors.values()), 0
    read: dict[str, TensorScan] = {}
    for name, tensor in checkpoint.tensors.items():
        read[name] = _read(tensor)
        done += tensor.num_bytes
        report.progress("checking weights", done, total, "bytes")
    yield from _altered(checkpoint, report)
    yield from _broken(read, checkpoint)
    yield from _copies(read, checkpoint)


def _read(tensor: Tensor) -> TensorScan:
    numbers = TensorScan()
    step = max(1, CHUNK_BYTES // max(1, tensor.data.shape[1]))
    for first in range(0, len(tensor.data), step):
        rows = np.ascontiguousarray(tensor.data[first : first + step])
        numbers.checksum = zlib.crc32(rows.data, numbers.checksum)
        for values in _scales_of(tensor, rows, first):
            wide = values.astype(np.float32)
            finite = np.isfinite(wide)
            numbers.not_finite += int(wide.size - np.count_nonzero(finite))
            numbers.largest = max(numbers.largest, float(np.max(np.abs(wide), where=finite, initial=0.0)))
    return numbers


def _scales_of(tensor: Tensor, rows: npt.NDArray[np.uint8], first: int) -> Iterator[npt.NDArray[np.floating]]:
    """The numbers that decide whether weights are finite: the scales of blocks, or else the weights."""
    if tensor.scales is not None:
        yield tensor.scales[first : first + len(rows)]
        return
    layout = tensor.type.layout
    if layout.names is None:
        yield BLOCK_TYPES[tensor.type.name].dequantize(rows)
        return
    blocks = rows.reshape(-1).view(layout)
    scales = [name for name in layout.names if layout[name].kind == "f" and layout[name].shape == ()]
    if scales:
        yield from (blocks[name] for name in scales)
    else:  # a scale that is an exponent
        yield tensor.type.dequantize(rows)


AGAIN = "Fetch the file again and compare its sha256; else take another conversion."


def _altered(checkpoint: Checkpoint, report: Reporter) -> Iterator[HealthFinding]:
    altered = [f"{shown(name)} of {shown_name(path)}" for path, name in altered_entries(checkpoint.files, report)]
    if altered:
        yield HealthFinding(
            "error",
            "checksum",
            f"the bytes of {_some(altered)} do not have the checksum that was saved with them",
            "The weights have changed since they were saved; the text is nonsense, or worse than it should be.",
            AGAIN,
        )


def _broken(read: dict[str, TensorScan], checkpoint: Checkpoint) -> Iterator[HealthFinding]:
    not_finite = [name for name, numbers in read.items() if numbers.not_finite]
    if not_finite:
        count = sum(read[name].not_finite for name in not_finite)
        yield HealthFinding(
            "error",
            "not-finite",
            f"{count} numbers (weights, or scales of blocks) in {_some(not_finite)} are NaN or infinite",
            "An answer that uses them ends with an error, because its logits are not finite.",
            AGAIN,
        )
    zero = [
        name for name, numbers in read.items() if numbers.largest == 0 and not numbers.not_finite and not name.endswith("_bias")
    ]
    if zero:
        yield HealthFinding(
            "error",
            "all-zero",
            f"all numbers of {_some(zero)} are zero",
            "That part of the model does nothing; the text is nonsense, or worse than it should be.",
            "A save was interrupted, or wrote over a mapped file. " + AGAIN,
        )
    large = [name for name, numbers in read.items() if numbers.largest > HALF_RANGE]
    if large:
        yield HealthFinding(
            "note",
            "beyond-half",
            f"{_some(large)} hold numbers beyond {HALF_RANGE:g}",
            "Half precision (f16) cannot hold them; bf16 and f32 can.",
            "Do not convert this model to f16, nor to block types, whose scales are f16.",
        )


def _copies(read: dict[str, TensorScan], checkpoint: Checkpoint) -> Iterator[HealthFinding]:
    """Layers, or an output matrix and an embedding, with the same bytes."""
    layers: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for layer in range(checkpoint.config.num_layers):
        names = (f"layers.{layer}.{part}" for part in ("q_proj", "down_proj", "down_experts", "attn_norm"))
        layers[tuple(read[name].checksum for name in names if name in read)].append(layer)
    same = [numbers for numbers in layers.values() if len(numbers) > 1]
    if same:
        yield HealthFinding(
            "warning",
            "same-layers",
            f"layers {', '.join(map(str, same[0]))} hold the same weights",
            "A merge of models may intend this; else shards overwrote each other, and the text is worse than it should be.",
            AGAIN,
        )
    embed, head = (checkpoint.tensors.get(name) for name in ("embed", "lm_head"))
    if embed is not None and head is not None and read["embed"].checksum == read["lm_head"].checksum:
        yield HealthFinding(
            "note",
            "untied",
            f"the output matrix is the embedding, stored twice: {megabytes(head.num_bytes, 1)}",
            "The output is right; the memory is wasted.",
            "If the format allows it, set tie_word_embeddings to true and leave lm_head out.",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
