"""What a running job tells its wire, in this order: any number of Progress; pieces and calls; one Ended for each sample."""

from __future__ import annotations

from dataclasses import dataclass

from puna.request import TokenLogprob


@dataclass(frozen=True, slots=True)
class Progress:
    """The prompt is still being computed, or waits. Tokens done, of which `cached` needed no computation, and in all."""

    done: int
    cached: int
    total: int


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of a sample: of its answer, or of its reasoning."""

    index: int
    text: str = ""
    reasoning: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of a tool call. `id` and `name` come with its first part; `arguments` is JSON text, to be joined."""

    index: int
    call: int  # which call of the sample
    arguments: str = ""
    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """A sample has ended. `reason`: stop, length, tool_calls, timeout, abort."""

    index: int
    reason: str
    stop_reason: int | str | None = None  # the stop id or stop text that ended it


Event = Progress | Piece | CallPiece | Ended


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a job: of the prompt, of those from the cache, of all answers, and of those of reasoning."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
