"""What a person looks at in a tree of answers, and what they do there: which branch, which token, which settings are tried.

Knows no terminal: `trace_stepper.py` turns keys into calls of it, `stepper_view.py` draws it. What may take steps of the model
goes through `run`, which may do it in another thread; meanwhile the person waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from puna.cli.chat_settings import OPTIONAL, READ, SETTINGS, name_in, range_of
from puna.cli.options import typed_range
from puna.cli.stepper_bars import CandidateRow, candidate_rows
from puna.cli.stepper_save import save_branch, shown_number
from puna.errors import PunaError, UsageError, did_you_mean
from puna.glassbox.greedy import with_greedy_stage
from puna.glassbox.own_text import options_in_place_of, text_in_place_of
from puna.request import FinishReason
from puna.units import counted

if TYPE_CHECKING:
    from puna.glassbox.explorer import Branch, Explorer, Growth, OptionRank
    from puna.glassbox.trace import TracedStep, TracedToken
    from puna.llm import LLM
    from puna.request import SamplingParams

# Takes work, what to do with its result, and what to do if it fails.
Worker = Callable[[Callable[[], Any], Callable[[Any], None], Callable[[], None]], None]
Panel = Literal["step", "help", "tree", "ranks"]
STEPS = {"temperature": 0.1, "top_p": 0.05, "top_k": 1, "min_p": 0.01}  # of a press of Up or Down
CUT = (FinishReason.LENGTH, FinishReason.ABORT, FinishReason.TIMEOUT)  # the model would have gone on
MAX_SHOWN_ERROR = 300  # characters
MAX_UNDO = 200


def run_now(work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[], None]) -> None:
    """Do the work at once."""
    try:
        result = work()
    except BaseException:
        failed()
        raise
    then(result)


@dataclass(frozen=True, slots=True)
class Question:
    """A line that the person types.

    Fields:
        prompt: what is asked
        answered: takes the line
        changed: hears the line while it is typed
        left: called if it is left without an answer
        moved: the line after Up (1) or Down (-1)
    """

    prompt: str
    answered: Callable[[str], None]
    changed: Callable[[str], None] = lambda text: None
    left: Callable[[], None] = lambda: None
    moved: Callable[[str, int], str] = lambda text, by: text


class Moment(NamedTuple):
    """What `undo` comes back to."""

    current: int
    at: int
    tried: SamplingParams | None
    made: int | None = None  # the branch that came of it


class Stepping:
    """A person's way through a tree of answers."""

    def __init__(self, llm: LLM, explorer: Explorer, run: Worker = run_now) -> None:
        self.llm, self.explorer, self._run = llm, explorer, run
        self.current = self.at = self.selected = 0
        self.tried: SamplingParams | None = None  # settings that are tried on the step
        self.step: TracedStep | None = None  # how the token came to be, or would with the tried settings; None: there is none
        self.rows: list[CandidateRow] = []
        self.tokens: list[TracedToken] = []  # of the branch
        self.panel: Panel = "step"
        self.in_tree = 0  # the row of the tree that is marked
        self.ranks: list[OptionRank] = []
        self.message = ""
        self.question: Question | None = None
        self.growth: Growth | None = None  # the branch on its way
        self.is_working = False  # whether the model computes something for the person
        self.scrolled = 0  # lines of the help
        self._undo: list[Moment] = []

    # ---- what there is ------------------------------------------------------------------------------------------------------

    @property
    def branch(self) -> Branch | None:
        return self.explorer.branches.get(self.current)

    @property
    def params(self) -> SamplingParams:
        """The settings of what is shown."""
        return self.tried or (self.explorer.params if self.branch is None else self.branch.params)

    @property
    def is_at_end(self) -> bool:
        """Whether the place after the last token is looked at."""
        return self.at >= len(self.tokens)

    @property
    def goes_beyond(self) -> bool:
        """Whether what is looked at is a token that would follow, if the answer did not end before it."""
        return self.is_at_end and self.branch is not None and self.branch.completion.finish_reason in CUT

    @property
    def params_here(self) -> SamplingParams | None:
        """The settings with which a branch goes on from here; None: its own. Beyond its end it gets as many tokens again."""
        room = self.explorer.params.max_tokens
        if not self.goes_beyond or room is None or (self.params.max_tokens or room) > self.at:
            return self.tried
        return replace(self.params, max_tokens=self.at + room)

    def tree(self) -> list[tuple[int, Branch]]:
        """The branches as a tree: (depth, branch), each after its parent."""
        return list(self._below(0, 0)) if self.explorer.branches else []

    def _below(self, depth: int, number: int) -> list[tuple[int, Branch]]:
        rows = [(depth, self.explorer.branches[number])]
        for child in self.explorer.children(number):
            rows += self._below(depth + 1, child.number)
        return rows

    # ---- moving -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the first answer."""
        self._grow(self.explorer.start)

    def move(self, by: int) -> None:
        """To the token `by` places on."""
        self.go_to(self.at + by)

    def go_to(self, at: int) -> None:
        """To a token; the last place is the end of the answer."""
        self.message, self.panel = "", "step"
        self.at = max(0, min(at, len(self.tokens)))
        self._look()

    def last(self) -> None:
        self.go_to(len(self.tokens) - 1)

    def mark(self, by: int) -> None:
        """Mark the candidate, or the branch in the tree, `by` rows down."""
        if self.panel == "help":
            self.scrolled = max(0, self.scrolled + by)
        elif self.panel == "tree":
            self.in_tree = max(0, min(self.in_tree + by, len(self.explorer.branches) - 1))
        elif self.panel == "step":
            self.selected = max(0, min(self.selected + by, len(self.rows) - 1))

    def back(self) -> None:
        """Leave the panel, or else the tried settings."""
        self.message = ""
        if self.panel != "step":
            self.panel = "step"
        elif self.tried is not None:
            self._remember()
            self.tried = None
            self._look()

    def show(self, panel: Panel) -> None:
        """Show a panel, or leave it."""
        self.message = ""
        self.panel = "step" if self.panel == panel else panel
        self.scrolled = 0
        self.in_tree = next((row for row, (_, one) in enumerate(self.tree()) if one.number == self.current), 0)

    def visit(self, by: int) -> None:
        """To the branch `by` rows down the tree."""
        tree = self.tree()
        row = next(row for row, (_, one) in enumerate(tree) if one.number == self.current) + by
        if 0 <= row < len(tree):
            self._enter(tree[row][1])

    def _enter(self, branch: Branch) -> None:
        self._remember()
        self.message, self.panel, self.current, self.tried = "", "step", branch.number, None
        self._arrive(branch.at)

    def undo(self) -> None:
        """Take back the last step: a branch that it made is removed, unless others leave it."""
        if not self._undo:
            self.message = "There is nothing to take back."
            return
        moment = self._undo.pop()
        made = moment.made
        if made is not None and made in self.explorer.branches and not self.explorer.children(made):
            self.explorer.remove(made)
        self.message, self.panel, self.current, self.tried = "", "step", moment.current, moment.tried
        self._arrive(moment.at)

    # ---- other tokens -------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """What Enter does: go on from the marked candidate, or to the marked branch."""
        if self.panel == "tree":
            self._enter(self.tree()[self.in_tree][1])
        elif self.panel != "step":
            self.panel = "step"
        else:
            self.choose(self.selected + 1)

    def choose(self, number: int) -> None:
        """Go on from the candidate of this number, counted from 1."""
        if not 1 <= number <= len(self.rows):
            self.message = f"There is no candidate {number}." if self.rows else "There are no candidates here."
            return
        token_id = self.rows[number - 1].id
        if self.tried is None and not self.is_at_end and token_id == self.tokens[self.at].id:
            self.message = "That is the token that was taken. Mark another one, or change a setting."
            return
        self._grow(partial(self.explorer.branch, self.current, self.at, token_id, self.params_here))

    def ask_choice(self) -> None:
        self._ask(f"Which candidate: its number, or a text? {self._spaces('it')}", self._chosen)

    def _chosen(self, typed: str) -> None:
        if typed.strip().isdecimal() and len(typed) < 5:
            self.choose(int(typed))
        else:
            self._force(typed)

    def ask_text(self) -> None:
        self._ask(f"Which text, in the place of this token? {self._spaces('it')}", self._force)

    def _force(self, typed: str) -> None:
        text = text_in_place_of(self._text_here, typed)
        self._grow(partial(self.explorer.force, self.current, self.at, text, self.params_here))

    @property
    def _text_here(self) -> str:
        """The text of the token that is looked at; "" if there is none."""
        if self.step is not None:
            return self.step.token.text
        return "" if self.is_at_end else self.tokens[self.at].text

    def _spaces(self, whom: str) -> str:
        """What is said of the space before a text that is typed."""
        if text_in_place_of(self._text_here, "a") == "a":
            return f"No space is put before {whom}."
        return f'A space is put before {whom}, as the token here has one; not in "quotes".'

    def redraw(self) -> None:
        """Go on from this token with another seed."""
        if self.params.temperature == 0:
            self.message = "The likeliest token is always taken: no seed changes that. Raise the temperature first (t)."
            return
        params = self.params_here or self.params
        self._grow(partial(self.explorer.go_on, self.current, self.at, replace(params, seed=(params.seed or 0) + 1)))

    def stop(self) -> None:
        """End the branch that is on its way."""
        if self.growth is not None:
            self.growth.cancel()

    # ---- other settings -----------------------------------------------------------------------------------------------------

    def ask_setting(self, name: str) -> None:
        """Ask for the value of a setting, and try it while it is typed."""
        before, tried = self.params, self.tried

        def changed(text: str) -> None:
            if (value := _value(name, text)) is not None and (params := _with(before, name, value)) is not None:
                self._try(params, is_final=False)

        def left() -> None:
            self.tried = tried
            self._look()

        def answered(text: str) -> None:
            left()
            if text.strip():
                params = replace(before, **{name: _required(name, text)})
                self._remember()
                self._try(params)

        now = f"{getattr(before, name):g}"
        asked = f"{name} is {now}. Type {range_of(name)}; Up and Down change it."
        self._ask(asked, answered, changed=changed, left=left, moved=lambda text, by: _moved(name, text or now, by))

    def ask_any_setting(self) -> None:
        self._ask("Which setting, and which value? For example: seed 7", self._set)

    def _set(self, typed: str) -> None:
        name = name_in(typed)
        if name not in SETTINGS:
            raise UsageError(
                f"there is no setting {name[:40]!r}", hint=did_you_mean(name, SETTINGS) or f"Settings: {', '.join(SETTINGS)}."
            )
        params = replace(self.params, **{name: _required(name, typed.replace("=", " ").split()[-1])})
        self._remember()
        self._try(params)

    def _try(self, params: SamplingParams, is_final: bool = True) -> None:
        """Show the step with other settings. While a value is typed, only if it needs no step of the model."""
        if self.branch is None:
            return
        if is_final or self.explorer.is_at_hand(self.current, self.at, params):
            self.tried = params
            self._look()

    # ---- options ------------------------------------------------------------------------------------------------------------

    def ask_options(self) -> None:
        self._ask(f"Which of these is likelier here? Type options with | between them. {self._spaces('each')}", self._rank)

    def _rank(self, typed: str) -> None:
        options = options_in_place_of(self._text_here, typed)
        if self.branch is None:
            raise UsageError("there is no answer yet")
        self._do(partial(self.explorer.rank, self.current, self.at, options), self._ranked)

    def _ranked(self, ranks: list[OptionRank]) -> None:
        self.ranks = sorted(ranks, key=lambda one: -one.logprob)
        self.panel = "ranks"

    # ---- files --------------------------------------------------------------------------------------------------------------

    def ask_file(self) -> None:
        self._ask("Save this branch where? FILE.json, FILE.html or FILE.receipt", self._save)

    def _save(self, typed: str) -> None:
        path, number = Path(typed.strip()).expanduser(), self.current
        self._do(partial(save_branch, self.llm, self.explorer, number, path), self._saved)

    def _saved(self, what: str) -> None:
        self.message = what

    def ask_place(self) -> None:
        self._ask(f"Which token, 1 to {len(self.tokens)}?", self._jump)

    def _jump(self, typed: str) -> None:
        if not typed.strip().isdecimal() or len(typed) > 9:
            raise UsageError(f"a number from 1 to {len(self.tokens)} is needed")
        self.go_to(int(typed) - 1)

    # ---- its parts ----------------------------------------------------------------------------------------------------------

    def answer(self, text: str) -> None:
        """The person has typed the line that was asked for."""
        question, self.question = self.question, None
        if question is not None:
            self._told(partial(question.answered, text))

    def leave_question(self) -> None:
        """The person types no line."""
        question, self.question = self.question, None
        if question is not None:
            self._told(question.left)

    def tell(self, error: BaseException) -> None:
        """Show why something was not done."""
        hint = getattr(error, "hint", "")
        message = error.message if isinstance(error, PunaError) else f"{type(error).__name__}: {error}"
        self.message = f"{message}. {hint}".rstrip(". ")[:MAX_SHOWN_ERROR] + "."

    def _ask(self, prompt: str, answered: Callable[[str], None], **more: Any) -> None:
        self.message, self.panel = "", "step"
        self.question = Question(prompt, answered, **more)

    def _told(self, act: Callable[[], None]) -> None:
        try:
            act()
        except PunaError as error:
            self.tell(error)

    def _remember(self, made: int | None = None) -> None:
        self._undo.append(Moment(self.current, self.at, self.tried, made))
        del self._undo[:-MAX_UNDO]

    def _grow(self, begin: Callable[[], Growth]) -> None:
        """Let a branch grow; then look at the token where it leaves."""
        self.message, self.panel = "", "step"

        def begun() -> None:
            self.growth = begin()
            self._do(self.growth.finish, self._grown, self._not_grown)

        self._told(begun)

    def _grown(self, branch: Branch) -> None:
        self.growth = None
        if branch.parent is not None:
            self._remember(branch.number)
            self.message = f"Branch {shown_number(branch.number)}: {counted(len(branch.token_ids) - branch.at, 'new token')}."
        self.current, self.tried = branch.number, None
        self._arrive(branch.at)

    def _not_grown(self) -> None:
        self.growth = None

    def _arrive(self, at: int) -> None:
        """Look at a token of the current branch, which may be another one now."""
        self.tokens = self.explorer.tokens(self.current) if self.branch is not None else []
        self.at = max(0, min(at, len(self.tokens)))
        self._look()

    def _look(self) -> None:
        """Find how the token came to be, or would with the tried settings."""
        self.step, self.rows, self.selected = None, [], 0
        if self.branch is None:
            return
        at, tried = self.at, self.tried
        if tried is None and at < len(self.branch.steps):
            self._seen(self.branch.steps[at])
        elif tried is None and self.is_at_end and not self.goes_beyond:
            return
        elif self.explorer.is_at_hand(self.current, at, self.params):
            self._seen(self._sampled(self.current, at, tried))
        else:
            self._do(partial(self._sampled, self.current, at, tried), self._seen)

    def _sampled(self, number: int, at: int, tried: SamplingParams | None) -> TracedStep:
        if tried is None and at < len(self.explorer.branches[number].token_ids):
            return self.explorer.step(number, at)
        return self.explorer.resample(number, at, tried or self.explorer.branches[number].params)

    def _seen(self, step: TracedStep) -> None:
        self.step = step = with_greedy_stage(step, self.params.temperature)
        self.rows = candidate_rows(step, self.explorer.token)
        self.selected = next((row for row, one in enumerate(self.rows) if one.id == step.token.id), 0)

    def _do(self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[], None] = lambda: None) -> None:
        """Let the worker do something. `is_working` until then."""

        def ended(act: Callable[[], None]) -> None:
            self.is_working = False
            act()

        self.is_working = True
        self._run(work, lambda result: ended(partial(then, result)), partial(ended, failed))


def _value(name: str, text: str) -> Any:
    """The value that a text means; None for one that is not allowed."""
    value = READ[SETTINGS[name][0]](text.strip())
    low, high = typed_range(name)
    return None if value is None or not low <= value <= high else value


def _required(name: str, text: str) -> Any:
    """The same; UsageError for one that is not allowed."""
    if name in OPTIONAL and text.strip().lower() == "none":
        return None
    if (value := _value(name, text)) is None:
        raise UsageError(f"{name} must be {range_of(name)}")
    return value


def _with(params: SamplingParams, name: str, value: Any) -> SamplingParams | None:
    try:
        return replace(params, **{name: value})
    except UsageError:
        return None


def _moved(name: str, text: str, by: int) -> str:
    """The value one step up or down, within what is allowed.

    >>> _moved("temperature", "0.3", -1), _moved("top_p", "1", 1), _moved("top_k", "x", 1)
    ('0.2', '1', 'x')
    """
    value = _value(name, text)
    if value is None:
        return text
    low, high = typed_range(name)
    return f"{min(max(round(value + by * STEPS[name], 6), low), high):g}"
