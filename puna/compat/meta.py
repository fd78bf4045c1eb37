"""Meta's `llama` package for programs that were written for it: `from puna.compat.meta import Llama`.

It has the same arguments, defaults and returned shapes. It loads any model that puna reads, in one process, whatever the number
of its shards. It fixes these defects, and reports them in additional keys:

* An answer cut by `max_gen_len` or `max_seq_len` has the finish_reason "length".
* A prompt's samples do not depend on the prompts beside it: each has its own random numbers, from the seed and its index in the
  order of all prompts since `build`.
* Log-probabilities of a prompt without an answer belong to its own tokens.
* A dialog with one of Llama 2's tags is refused without running the model.
* Beside `tokens`, which have lost their spaces, there are `pieces`, whose concatenation continues the prompt, and `text_offset`,
  the offset at which each begins.

`Llama.build(..., strict_compat=True)` gives the original's behaviour in all of these.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import TypedDict, Unpack

from puna import checks
from puna.backends.base import ProcessRank
from puna.chat import Message
from puna.compat.dialogs import Dialog, Role, dialog_encoder, has_tags
from puna.compat.errors import MetaAssertionError, NoCheckpointError
from puna.compat.strict import BatchRandom, unshifted_logprobs
from puna.completion import Completion
from puna.config import EngineSettings
from puna.detokenize import Detokenizer
from puna.errors import ModelNotFoundError, NumericalError, UsageError
from puna.llm import LLM
from puna.progress import StderrReporter
from puna.request import FinishReason, SamplingParams
from puna.tokenizers.base import Tokenizer as AnyTokenizer

__all__ = ["ChatPrediction", "CompletionPrediction", "Dialog", "Llama", "Message", "Role", "Tokenizer"]

MAX_GEN_LEN = 1 << 27
REFUSAL = "Error: special tags are not allowed as part of the prompt."


class Prediction(TypedDict, total=False):
    tokens: list[str]  # with logprobs=True
    logprobs: list[float]  # with logprobs=True
    finish_reason: str  # "stop", "length", "error"; strict_compat omits this and the next two
    pieces: list[str]  # with logprobs=True
    text_offset: list[int]  # with logprobs=True; characters


class CompletionPrediction(Prediction):
    generation: str


class ChatPrediction(Prediction):
    generation: Message


class Tokenizer:
    """Meta's tokenizer interface over a puna tokenizer."""

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self._tokenizer = tokenizer
        self.n_words = tokenizer.vocab_size
        self.bos_id = -1 if tokenizer.bos_id is None else tokenizer.bos_id
        self.eos_id = -1 if tokenizer.eos_id is None else tokenizer.eos_id
        self.pad_id = -1
        self.special_tokens = dict(tokenizer.special_tokens)
        self.stop_tokens = sorted(tokenizer.stop_ids)

    def encode(
        self, s: str, bos: bool, eos: bool, *, allowed_special: str | Sequence[str] = (), disallowed_special: Sequence[str] = ()
    ) -> list[int]:
        """Ids of `s`. Control tokens in it are text, unless `allowed_special` is "all"."""
        if not isinstance(s, str):
            raise MetaAssertionError(f"the text is of type {type(s).__name__}", hint="Give a str.")
        if allowed_special and allowed_special != "all":
            raise UsageError(f"allowed_special is {allowed_special!r}; puna allows 'all', or none")
        return self._tokenizer.encode(s, bos=bos, eos=eos, special=bool(allowed_special))

    def decode(self, t: Sequence[int]) -> str:
        """Text of ids, as at the beginning of a text: without SentencePiece's first space."""
        return self._tokenizer.decode(_row_of_ids("the tokens", t))


@dataclass(frozen=True, slots=True)
class ModelArgs:
    """The sizes, in Meta's spelling."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    norm_eps: float
    max_batch_size: int
    max_seq_len: int


@dataclass(frozen=True, slots=True)
class Model:
    """The attributes that programs read from the model: `generator.model.params`."""

    params: ModelArgs


class Generated(tuple[list[list[int]], list[list[float]] | None]):
    """(ids, log-probabilities or None), as in the original; and why each row ended."""

    finish_reasons: list[str]


@dataclass(slots=True)
class _Row:
    """One prompt and its answer; log-probabilities if requested, 0.0 for the first token."""

    prompt_ids: list[int]
    output_ids: Sequence[int]
    prompt_logprobs: list[float]
    logprobs: list[float]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of one `generate`."""

    max_gen_len: int
    total_len: int
    temperature: float
    top_p: float
    logprobs: bool
    echo: bool


class Llama:
    """A model, and Meta's three functions on it. `build` loads one."""

    def __init__(self, llm: LLM, max_batch_size: int, seed: int = 1, *, strict_compat: bool = False) -> None:
        """Wrap a model that is already loaded; `strict_compat` needs one without a prefix cache."""
        if llm.tokenizer is None:
            raise UsageError(f"{llm.path} has no tokenizer", hint="Give its file as tokenizer_path.")
        if strict_compat and llm.config.prefix_cache:
            raise UsageError("strict_compat needs a model that was loaded with prefix_cache=False", hint="Llama.build does that.")
        self.llm = llm
        self.tokenizer = Tokenizer(llm.tokenizer)
        self.model = Model(_model_args(llm, max_batch_size))
        self._spoken = llm.tokenizer
        self._seed, self._num_prompts = seed, 0
        self._is_strict, self._random = strict_compat, BatchRandom(seed)
        self._encode_dialog, self._forbids_tags = dialog_encoder(llm, llm.tokenizer)

    @staticmethod
    def build(
        ckpt_dir: str | Path,
        tokenizer_path: str | Path | None,
        max_seq_len: int,
        max_batch_size: int,
        model_parallel_size: int | None = None,
        seed: int = 1,
        *,
        strict_compat: bool = False,
        **settings: Unpack[EngineSettings],
    ) -> Llama:
        """Load a model: a Meta folder, or anything else that puna reads. `tokenizer_path` None: the model's own.

        `settings` are further fields of EngineConfig, such as device. No GPU is needed. Each process that torchrun started takes
        its part of the model, and this returns only in the first: the others follow it and end. Like the original, raises
        AssertionError for a folder without a checkpoint, and for a model_parallel_size other than the world size.
        """
        _require_world(model_parallel_size)
        if tokenizer_path and not Path(tokenizer_path).expanduser().exists():
            raise MetaAssertionError(f"there is no tokenizer {tokenizer_path}", hint="Give the path of tokenizer.model.")
        seed = checks.whole("seed", seed)
        started = time.perf_counter()
        own: EngineSettings = {"max_context": max_seq_len, "max_batch": max_batch_size, "prefix_cache": not strict_compat}
        own.update(settings)
        try:
            llm = LLM.load(ckpt_dir, tokenizer=tokenizer_path or None, report=StderrReporter(), **own)
        except ModelNotFoundError as error:
            message, hint = error.typed
            raise NoCheckpointError(f"no checkpoint files found in {ckpt_dir}: {message}", hint=hint) from error
        except UsageError as error:
            raise _in_metas_words(error) from error
        sys.stdout.write(f"Loaded in {time.perf_counter() - started:.2f} seconds\n")
        return Llama(llm, max_batch_size, seed, strict_compat=strict_compat)

    def generate(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        max_gen_len: int,
        temperature: float = 0.6,
        top_p: float = 0.9,
        logprobs: bool = False,
        echo: bool = False,
    ) -> Generated:
        """Continue rows of ids. Temperature 0, or below: always the most likely token.

        A row's ids end before its first stop id: with `echo`, also before one within the prompt.
        """
        rows_of_ids = checks.row("prompt_tokens", prompt_tokens, "a list of rows of token ids")
        prompts = [_row_of_ids(f"prompt {number}", ids) for number, ids in enumerate(rows_of_ids)]
        self._require_fits(prompts)
        max_gen_len = checks.whole("max_gen_len", max_gen_len, 0, MAX_GEN_LEN)
        total_len = min(self.model.params.max_seq_len, max_gen_len + max(map(len, prompts), default=0))
        limited = max(0.0, checks.real("temperature", temperature)), min(1.0, checks.real("top_p", top_p))
        asked = _Asked(max_gen_len, total_len, *limited, logprobs, echo)
        rows = self._rows(prompts, asked) if prompts else []
        cut = [self._cut(row, asked) for row in rows]
        result = Generated(([ids for ids, _ in cut], [values for _, values in cut] if logprobs else None))
        result.finish_reasons = [row.finish_reason.value for row in rows]
        return result

    def text_completion(
        self,
        prompts: Sequence[str],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
        echo: bool = False,
    ) -> list[CompletionPrediction]:
        """Continue texts. `max_gen_len` None: up to max_seq_len."""
        texts = checks.row("prompts", prompts, "a list of texts")
        ids = [self.tokenizer.encode(prompt, bos=True, eos=False) for prompt in texts]
        done = self.generate(ids, self._max_gen_len(max_gen_len), temperature, top_p, logprobs, echo)
        return [{"generation": self.tokenizer.decode(made), **rest} for made, rest in self._predictions(done)]

    def chat_completion(
        self,
        dialogs: Sequence[Dialog],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
    ) -> list[ChatPrediction]:
        """Answer dialogs, in the model's chat format."""
        dialogs = checks.row("dialogs", dialogs, "a list of dialogs, each a list of messages,")
        ids = [self._encode_dialog(dialog) for dialog in dialogs]
        refused = [self._forbids_tags and has_tags(dialog) for dialog in dialogs]
        asked = [prompt for prompt, no in zip(ids, refused) if self._is_strict or not no]
        self._require_fits(ids)
        done = self._predictions(self.generate(asked, self._max_gen_len(max_gen_len), temperature, top_p, logprobs))
        return [self._answer(done, no, logprobs) for no in refused]

    def close(self) -> None:
        """Free the memory. Idempotent."""
        self.llm.close()

    # ---- rows -------------------------------------------------------------------------------------------------------

    def _rows(self, prompts: list[list[int]], asked: _Asked) -> list[_Row]:
        params = [self._params(ids, asked) for ids in prompts]
        if not self._is_strict:
            return list(map(_row, self.llm.generate(prompts, params)))
        return self._strict_rows(prompts, params, asked)

    def _params(self, ids: list[int], asked: _Asked) -> SamplingParams:
        self._num_prompts += 1
        room = asked.total_len - len(ids)
        return SamplingParams(
            max_tokens=room if self._is_strict else min(asked.max_gen_len, room),
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=_seed_of(self._seed, self._num_prompts),
            logprobs=0 if asked.logprobs else None,
            prompt_logprobs=0 if asked.logprobs and asked.echo else None,
        )

    def _strict_rows(self, prompts: list[list[int]], params: list[SamplingParams], asked: _Asked) -> list[_Row]:
        """As in the original: all rows run to the end of the longest, and draw from one stream."""
        shortest, count, is_drawn = min(map(len, prompts)), len(prompts), asked.temperature > 0
        samplers = [
            self._random.sampler(number, count, len(ids) - shortest, asked.temperature, asked.top_p)
            for number, ids in enumerate(prompts)
        ]
        rows = list(map(_row, self.llm.generate(prompts, params, sampler=samplers if is_drawn else None)))
        if is_drawn:
            self._random.advance(max(len(row.prompt_ids) + len(row.output_ids) for row in rows) - shortest, count)
        if asked.logprobs and shortest == asked.total_len:
            for row in rows:
                row.prompt_logprobs = unshifted_logprobs(self.llm, row.prompt_ids)
        return rows

    def _cut(self, row: _Row, asked: _Asked) -> tuple[list[int], list[float]]:
        """The ids to return, and their log-probabilities if requested."""
        ids = [*row.prompt_ids, *row.output_ids][: len(row.prompt_ids) + asked.max_gen_len]
        ids = ids if asked.echo else ids[len(row.prompt_ids) :]
        logprobs = [*row.prompt_logprobs, *row.logprobs] if asked.echo else row.logprobs
        end = next((i for i, token_id in enumerate(ids) if token_id in self._spoken.stop_ids), len(ids))
        return ids[:end], logprobs[:end]

    # ---- predictions ------------------------------------------------------------------------------------------------

    def _predictions(self, done: Generated) -> Iterator[tuple[list[int], Prediction]]:
        """Each row's ids, and its prediction without the generation."""
        tokens, logprobs = done
        for number, ids in enumerate(tokens):
            rest: Prediction = {}
            if not self._is_strict:
                rest["finish_reason"] = done.finish_reasons[number]
            if logprobs is not None:
                rest |= self._token_keys(ids, logprobs[number])
            yield ids, rest

    def _token_keys(self, ids: list[int], logprobs: list[float]) -> Prediction:
        told: Prediction = {"tokens": [self.tokenizer.decode([i]) for i in ids], "logprobs": logprobs}
        if self._is_strict:
            return told
        pieces = self._pieces(ids)
        return told | {"pieces": pieces, "text_offset": list(accumulate(map(len, pieces[:-1]), initial=0))[: len(pieces)]}

    def _pieces(self, ids: list[int]) -> list[str]:
        """The text that each id completes: one that only begins a character has none, the next has all of it."""
        if not ids:
            return []
        detokenizer = Detokenizer(self._spoken)
        pieces = [detokenizer.push(i) for i in ids]
        return [*pieces[:-1], pieces[-1] + detokenizer.flush()]

    def _answer(self, done: Iterator[tuple[list[int], Prediction]], is_refused: bool, logprobs: bool) -> ChatPrediction:
        if is_refused and not self._is_strict:
            nothing = self._token_keys([], []) if logprobs else {}
            return {"generation": {"role": "assistant", "content": REFUSAL}, "finish_reason": "error", **nothing}
        ids, rest = next(done)
        return {"generation": {"role": "assistant", "content": REFUSAL if is_refused else self.tokenizer.decode(ids)}, **rest}

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _max_gen_len(self, given: int | None) -> int:
        return self.model.params.max_seq_len - 1 if given is None else given

    def _require_fits(self, prompts: Sequence[Sequence[int]]) -> None:
        limits = self.model.params
        if len(prompts) > limits.max_batch_size:
            raise MetaAssertionError(
                f"there are {len(prompts)} prompts; max_batch_size is {limits.max_batch_size}",
                hint="Give fewer at a time, or build with a larger max_batch_size.",
            )
        for number, ids in enumerate(prompts):
            if len(ids) > limits.max_seq_len:
                raise MetaAssertionError(
                    f"prompt {number} has {len(ids)} tokens; max_seq_len is {limits.max_seq_len}",
                    hint="Shorten it, or build with a larger max_seq_len if the model allows it.",
                )


def _row(done: Completion) -> _Row:
    if done.finish_reason is FinishReason.ERROR:
        raise NumericalError(f"the answer broke off: {done.error}")
    known = [0.0 if entry is None else entry.logprob for entry in done.prompt_logprobs]
    logprobs = [entry.logprob for entry in done.logprobs]
    return _Row(list(done.prompt_ids), done.token_ids, known, logprobs, done.finish_reason)


def _model_args(llm: LLM, max_batch_size: int) -> ModelArgs:
    config = llm.model
    return ModelArgs(
        dim=config.hidden_size,
        n_layers=config.num_layers,
        n_heads=config.num_heads,
        n_kv_heads=config.num_kv_heads,
        vocab_size=config.vocab_size,
        norm_eps=config.norm_eps,
        max_batch_size=max_batch_size,
        max_seq_len=llm.plan.max_context,
    )


def _seed_of(seed: int, number: int) -> int:
    """The seed of the `number`th prompt since `build`: 64 bits, independent of the next one's."""
    return int.from_bytes(blake2b(f"{seed}:{number}".encode(), digest_size=8).digest(), "little")


def _row_of_ids(name: str, ids: Sequence[int]) -> list[int]:
    return checks.token_ids(name, checks.row(name, ids, "a list of token ids"))


# Our name of a setting -> the argument that set it.
ARGUMENTS = {"max_context": "max_seq_len", "--max-context": "max_seq_len", "max_batch": "max_batch_size"}


def _in_metas_words(error: UsageError) -> UsageError:
    def said(text: str) -> str:
        return re.sub(r"--max-context|\bmax_context\b|\bmax_batch\b", lambda found: ARGUMENTS[found[0]], text)

    message, hint = map(said, error.typed)
    return UsageError(message, hint=hint)


def _require_world(model_parallel_size: int | None) -> None:
    """Torchrun sets how many processes share the model; any checkpoint can be split for any number."""
    world_size = ProcessRank.from_env().size
    if model_parallel_size not in (None, world_size):
        raise MetaAssertionError(
            f"Loading a checkpoint for MP={model_parallel_size} but world size is {world_size}",
            hint="Leave model_parallel_size out: a checkpoint of any number of shards loads into any number of processes.",
        )
