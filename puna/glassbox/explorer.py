"""Explores what a model could have said: a tree of answers to one prompt, each of which leaves another one at some token.

The tokens that a branch shares with its parent come from the prefix cache: it costs its new ones. Other settings of one step cost
no step of the model while its logits are kept. Knows no terminal and no page.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

from puna import checks
from puna.admission import Admission
from puna.completion import Completion
from puna.errors import PunaError, UsageError
from puna.glassbox.kept_rows import KeptRow, KeptRows, RowRecorder, StepPlace, nothing
from puna.glassbox.record import TracedModel, record, steps_of, trace_with, used_filters, why_it_ended
from puna.glassbox.recorder import MAX_CANDIDATES, StepRecorder, size_of
from puna.glassbox.trace import Trace, TracedStep, TracedToken
from puna.history import History
from puna.opening import Opening
from puna.processors import LogitsProcessor
from puna.request import CONSTRAINTS, FinishReason, SamplingParams
from puna.runner import Handle, Runner
from puna.sampling import SEED_BITS
from puna.tokenizers.continuation import continuation_ids
from puna.units import counted

MAX_BRANCHES = 500
MAX_OPTIONS = 100


@dataclass(frozen=True, slots=True)
class Branch:
    """An answer of the tree.

    Fields:
        number: its name; numbers are not used twice
        parent: the branch that it leaves; None: it is the first answer
        at: the tokens that it shares with its parent
        num_given: tokens after these that were given
        completion: what became of it
        steps: how its tokens came to be, the shared ones as in the parent; fewer than tokens where the tree had no more room
        num_candidates: what its own steps take of that room
    """

    number: int
    parent: int | None
    at: int
    num_given: int
    completion: Completion
    steps: tuple[TracedStep, ...]
    num_candidates: int

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.completion.token_ids

    @property
    def params(self) -> SamplingParams:
        """As they were used, with the seed."""
        assert self.completion.params is not None
        return self.completion.params


@dataclass(frozen=True, slots=True)
class OptionRank:
    """How likely a text, or a row of ids, is at some place of an answer, under the model's own logits.

    Fields:
        text: the text, or that of the ids
        tokens: its tokens
        logprobs: the natural logarithm of each one's probability after those before it
        ranks: the place of each among all tokens, 1 for the most likely
    """

    text: str
    tokens: tuple[TracedToken, ...]
    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]

    @property
    def logprob(self) -> float:
        """Of the option as a whole."""
        return math.fsum(self.logprobs)

    @property
    def mean_logprob(self) -> float:
        """Per token, which does not favour short options."""
        return self.logprob / len(self.logprobs)


class Growth:
    """A branch on its way. `text` and `num_tokens` are what there is so far; `cancel` ends it; `finish` waits for its end."""

    def __init__(self, handle: Handle, add: Callable[[Completion], Branch]) -> None:
        self._handle, self._add = handle, add

    def __iter__(self) -> Iterator[Growth]:
        """Itself, after each piece of the answer."""
        try:
            for _ in self._handle:
                yield self
        finally:
            self._handle.close()

    @property
    def text(self) -> str:
        """The whole answer so far."""
        return "".join(output.text for output in self._handle.outputs)

    @property
    def num_tokens(self) -> int:
        return sum(len(output.token_ids) for output in self._handle.outputs)

    def cancel(self) -> None:
        """End the answer before its next step; what there is becomes the branch. Never waits."""
        self._handle.cancel()

    def finish(self) -> Branch:
        """Run it to its end, and add it to the tree. Raises what the engine refuses, and PunaError if it fails."""
        for _ in self:
            pass
        completion = Completion.of(self._handle)
        if completion.finish_reason is FinishReason.ERROR:
            raise PunaError(completion.error)
        return self._add(completion)


class Explorer:
    """The answers to one prompt. `start` makes the first one; then each method takes the number of a branch and `at`, a token of
    it, counted from 0. `LLM.explore` makes one.

    >>> explorer = llm.explore("The capital of Peru is", max_tokens=8)                             # doctest: +SKIP
    >>> first = explorer.start().finish()                                                         # doctest: +SKIP
    >>> explorer.force(first.number, 2, " not").finish().completion.text                          # doctest: +SKIP
    ' a not ...'
    """

    def __init__(
        self,
        runner: Runner,
        admission: Admission,
        model: TracedModel,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        processors: Sequence[LogitsProcessor] = (),
        *,
        given: str | None = None,
        tokenizer_s: float = 0.0,
        top: int = 10,
        max_candidates: int = MAX_CANDIDATES,
        rows: KeptRows | None = None,
    ) -> None:
        if params.num_samples > 1:
            raise UsageError("an answer is explored one sample at a time", hint="Leave n and best_of out.")
        self._runner, self._admission, self._model = runner, admission, model
        self._prompt_ids, self._processors, self._top = list(prompt_ids), tuple(processors), top
        self._given, self.tokenizer_s = given, tokenizer_s
        self._max_candidates = max_candidates
        self._rows = KeptRows() if rows is None else rows
        self.token: Callable[[int], TracedToken] = cache(model.token)
        self._seed = secrets.randbits(SEED_BITS)
        self._next_number = 0
        self.params = self._seeded(params)  # of the first answer
        self.branches: dict[int, Branch] = {}

    # ---- the tree -----------------------------------------------------------------------------------------------------------

    def start(self) -> Growth:
        """The first answer."""
        if self.branches:
            raise UsageError("the first answer is there already")
        return self._grow(None, 0, (), self.params)

    def branch(self, number: int, at: int, token_id: int, params: SamplingParams | None = None) -> Growth:
        """The answer goes on from another token in the place of token `at`. `params`: settings from there on [the branch's]."""
        return self._grow(self._branch(number), at, checks.token_ids("the token", [token_id]), params)

    def force(self, number: int, at: int, text: str, params: SamplingParams | None = None) -> Growth:
        """The answer goes on from a text in the place of token `at` and all that follows it."""
        return self._grow(self._branch(number), at, self._ids_of("the text", text), params)

    def go_on(self, number: int, at: int, params: SamplingParams) -> Growth:
        """The answer goes on from token `at` with other settings; that token too is sampled with them."""
        return self._grow(self._branch(number), at, (), params)

    def remove(self, number: int) -> None:
        """Forget a branch. UsageError if others leave it, or if it is the first answer."""
        branch = self._branch(number)
        if branch.parent is None or self.children(number):
            raise UsageError(f"branch {number} cannot be removed: others grow from it", hint="Remove those first.")
        del self.branches[number]

    def children(self, number: int) -> list[Branch]:
        """The branches that leave this one, by the token at which they do."""
        found = [branch for branch in self.branches.values() if branch.parent == number]
        return sorted(found, key=lambda branch: (branch.at, branch.number))

    def lineage(self, number: int) -> list[Branch]:
        """The branch, its parent, and so on to the first answer."""
        branch = self._branch(number)
        rows = [branch]
        while branch.parent is not None:
            branch = self.branches[branch.parent]
            rows.append(branch)
        return rows

    def why(self, number: int) -> str:
        """Why a branch ended, in words."""
        branch = self._branch(number)
        return why_it_ended(branch.completion, branch.params, self._model)

    def trace(self, number: int) -> Trace:
        """The trace of a branch. If the settings changed on the way to it, or the tree had no room for all steps, the text passes
        through the model once more under those that it ended with, and tokens that they would not have taken are given ones."""
        branch = self._branch(number)
        changed = {dataclasses.replace(one.params, max_tokens=None) for one in self.lineage(number)}
        if len(changed) > 1 or len(branch.steps) < len(branch.token_ids):
            return self._traced_again(branch)
        filters = tuple(used_filters(branch.params, has_processors=bool(self._processors)))
        return trace_with(
            branch.steps, branch.completion, branch.params, self._model, filters, given=self._given, tokenizer_s=self.tokenizer_s
        )

    def _traced_again(self, branch: Branch) -> Trace:
        is_cut = branch.completion.finish_reason in (FinishReason.ABORT, FinishReason.TIMEOUT)
        params = dataclasses.replace(branch.params, max_tokens=len(branch.token_ids)) if is_cut else branch.params
        return record(
            self._runner, self._model, self._prompt_ids, params, None, self._processors, Opening(branch.token_ids, 0),
            given=self._given, tokenizer_s=self.tokenizer_s, top=self._top,
        )  # fmt: skip

    # ---- one step -----------------------------------------------------------------------------------------------------------

    def tokens(self, number: int) -> list[TracedToken]:
        """The tokens of a branch."""
        return list(map(self.token, self._branch(number).token_ids))

    def step(self, number: int, at: int) -> TracedStep:
        """How token `at` came to be. Computed again if the tree had no room for it."""
        branch = self._branch(number)
        if self._place(branch, at, is_end_allowed=False) < len(branch.steps):
            return branch.steps[at]
        return self._sampled(branch, at, branch.params, branch.token_ids[at])

    def resample(self, number: int, at: int, params: SamplingParams) -> TracedStep:
        """Token `at`, sampled with other settings after the tokens before it: the step of a run with these settings to which they
        were given. Where a filter has a state (mirostat, adaptive-p), it is that of a run with these settings from its beginning,
        and all tokens before are computed again."""
        branch = self._branch(number)
        return self._sampled(branch, self._place(branch, at), self._seeded(params), None)

    def is_at_hand(self, number: int, at: int, params: SamplingParams) -> bool:
        """Whether `resample` needs no step of the model."""
        branch = self._branch(number)
        return not self._needs_model(branch, params) and self._owner(branch, at) in self._rows

    def has_state(self, params: SamplingParams) -> bool:
        """Whether a filter of these settings depends on how the tokens before were sampled."""
        return self._admission.sampler(self._seeded(params)).has_state

    def rank(self, number: int, at: int, options: Sequence[str | Sequence[int]]) -> list[OptionRank]:
        """How likely each option is in the place of token `at`, in the order given: texts as they stand, or rows of token ids."""
        branch = self._branch(number)
        given = checks.row("the options", options, "a list of texts, or of rows of token ids,")
        if not 0 < len(given) <= MAX_OPTIONS:
            raise UsageError(f"{counted(len(given), 'option')}; 1 to {MAX_OPTIONS} are ranked at once")
        start = branch.token_ids[: self._place(branch, at)]
        rows = [self._ids_of(f"option {index + 1}", option) for index, option in enumerate(given)]
        return [self._ranked(option, start, ids, branch.params) for option, ids in zip(given, rows, strict=True)]

    def _ranked(
        self, option: str | Sequence[int], start: Sequence[int], ids: Sequence[int], params: SamplingParams
    ) -> OptionRank:
        """Steps of an answer that opens with the option, whatever would be sampled: only the logits count."""
        plain = SamplingParams(
            max_tokens=len(start) + len(ids), ignore_eos=True, lora_name=params.lora_name, cache_salt=params.cache_salt
        )
        recorder = StepRecorder(self.token, self._model.kv_bytes_per_token, top=0)
        handle = self._runner.submit(self._prompt_ids, plain, opening=Opening((*start, *ids), len(start)), watcher=recorder)
        try:
            for _ in handle:
                pass
        finally:
            handle.close()
        if error := Completion.of(handle).error:
            raise PunaError(f"an option could not be ranked: {error}")
        steps = [recorder.steps[index] for index in range(len(start), len(start) + len(ids))]
        return OptionRank(
            text=option if isinstance(option, str) else self._model.text(ids),
            tokens=tuple(step.token for step in steps),
            logprobs=tuple(step.logprob for step in steps if step.logprob is not None),
            ranks=tuple(step.rank for step in steps if step.rank is not None),
        )

    # ---- its parts ----------------------------------------------------------------------------------------------------------

    def _branch(self, number: int) -> Branch:
        if not isinstance(number, int) or number not in self.branches:
            raise UsageError(f"there is no branch {checks.shown(number)}")
        return self.branches[number]

    def _place(self, branch: Branch, at: int, is_end_allowed: bool = True) -> int:
        return checks.whole("the token's place", at, 0, len(branch.token_ids) - (0 if is_end_allowed else 1))

    def _seeded(self, params: SamplingParams) -> SamplingParams:
        """The parameters; without a seed of their own, all branches draw the same numbers."""
        if params.temperature == 0 or params.seed is not None:
            return params
        return dataclasses.replace(params, seed=self._seed)

    def _ids_of(self, what: str, given: str | Sequence[int]) -> list[int]:
        """The ids of a text that goes on after other tokens, or given ids. UsageError if there are none."""
        if isinstance(given, str):
            if self._model.tokenizer is None:
                raise UsageError("a text needs a tokenizer, and the model has none", hint="Give token ids.")
            ids = continuation_ids(checks.unicode(what, given), self._model.tokenizer, self._model.max_context)
        else:
            ids = checks.token_ids(what, checks.row(what, given, "a text, or a row of token ids,"))
        if not ids:
            raise UsageError(f"{what} is empty")
        return ids

    def _grow(self, parent: Branch | None, at: int, given: Sequence[int], params: SamplingParams | None) -> Growth:
        if len(self.branches) >= MAX_BRANCHES:
            raise UsageError(f"the tree has {MAX_BRANCHES} branches, and holds no more", hint="Remove some.")
        own = self._seeded(params or (self.params if parent is None else parent.params))
        shared = () if parent is None else parent.token_ids[: self._place(parent, at)]
        number, self._next_number = self._next_number, self._next_number + 1
        recorder = self._recorder(number, len(shared), self._num_left)
        opening = Opening((*shared, *given), len(shared))
        handle = self._runner.submit(self._prompt_ids, own, None, self._processors, opening, watcher=recorder)
        return Growth(handle, partial(self._add, number, parent, len(shared), len(given), recorder))

    def _add(
        self, number: int, parent: Branch | None, at: int, num_given: int, recorder: StepRecorder, completion: Completion
    ) -> Branch:
        known = () if parent is None else parent.steps[:at]
        steps = (*known, *steps_of(recorder, completion, self._model)[at:]) if len(known) == at else known
        own = sum(map(size_of, steps[at:]))
        branch = Branch(number, None if parent is None else parent.number, at, num_given, completion, steps, own)
        self.branches[number] = branch
        return branch

    @property
    def _num_left(self) -> int:
        """Candidates for which the tree has room."""
        return max(0, self._max_candidates - sum(branch.num_candidates for branch in self.branches.values()))

    def _recorder(self, number: int, first: int, max_candidates: int, keeps: bool = True) -> RowRecorder:
        """Records steps from `first` on, and keeps the rows that they sample from as those of a branch."""
        keep = partial(self._keep, number) if keeps else nothing
        return RowRecorder(self.token, self._model.kv_bytes_per_token, self._top, max_candidates, first=first, keep=keep)

    def _keep(self, number: int, index: int, row: KeptRow) -> None:
        self._rows.put((number, index), row)

    def _owner(self, branch: Branch, at: int) -> StepPlace:
        """The branch that step `at` belongs to, and the step."""
        return next(one.number for one in self.lineage(branch.number) if at >= one.at), at

    def _sampled(self, branch: Branch, at: int, params: SamplingParams, given: int | None) -> TracedStep:
        """Token `at`, sampled with these settings; `given` takes its place."""
        place = self._owner(branch, at)
        if self._needs_model(branch, params):
            return self._run_to(branch, at, params, place, keeps=False)
        if (row := self._rows.get(place)) is None:
            step = self._run_to(branch, at, branch.params, place)
            if not step.stages or (row := self._rows.get(place)) is None:
                return step
        recorder = StepRecorder(self.token, self._model.kv_bytes_per_token, self._top)
        sampler = self._admission.sampler(params, self._processors, recorder)
        history = History(self._prompt_ids, branch.token_ids[:at])
        recorder.begin(row.logits, history)
        recorder.end(sampler.sample(row.allowed, history, given))
        return dataclasses.replace(recorder.steps[at], kv_bytes=(len(self._prompt_ids) + at) * self._model.kv_bytes_per_token)

    def _needs_model(self, branch: Branch, params: SamplingParams) -> bool:
        """Whether a row of logits does not tell what these settings would do."""
        has_other_form = any(getattr(params, name) != getattr(branch.params, name) for name in (*CONSTRAINTS, "lora_name"))
        return has_other_form or self.has_state(params)

    def _run_to(self, branch: Branch, at: int, params: SamplingParams, place: StepPlace, keeps: bool = True) -> TracedStep:
        """Step `at` of a run to which the tokens before it are given."""
        recorder = self._recorder(place[0], at, MAX_CANDIDATES, keeps)
        opening, params = Opening(branch.token_ids[:at], at), dataclasses.replace(params, max_tokens=None)
        handle = self._runner.submit(self._prompt_ids, params, None, self._processors, opening, watcher=recorder)
        try:
            for _ in handle:
                if at in recorder.steps:
                    break
        finally:
            handle.close()
        if at in recorder.steps:
            return recorder.steps[at]
        if at < len(branch.token_ids):  # a form left no choice
            return TracedStep(at, self.token(branch.token_ids[at]))
        raise UsageError("the answer has ended here: there is no next token")
