"""An answer of a running `puna serve`, piece by piece, as `puna.llm.Stream` gives it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from puna.cli.server_link import EventStream, ServerError, error_of
from puna.completion import Completion, Timing
from puna.errors import PunaError, UsageError
from puna.glassbox.receipt import Receipt
from puna.request import FinishReason, StepOutput, TokenLogprob

LEAST_LOGPROB = -9999.0  # stands for minus infinity, which JSON does not have


@dataclass(slots=True)
class _Sample:
    """One answer, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stop_reason: int | str | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # what the server tells at the end
    error: str = ""

    @property
    def finish_reason(self) -> FinishReason:
        return FinishReason.ERROR if self.error else FinishReason(self.facts.get("finish_reason", FinishReason.ABORT))


class RemoteStream(Iterator[StepOutput]):
    """As `puna.llm.Stream`: the pieces of an answer; afterwards `completion` is the whole."""

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self._samples: dict[int, _Sample] = {}
        self._prompt_ids: tuple[int, ...] = ()
        self._ahead: StepOutput | None = None  # read already
        self._receipts: list[Any] = []

    def __next__(self) -> StepOutput:
        """The next piece. One that may end in half a character is told with the end of the answer, if that is next."""
        output, self._ahead = self._ahead or self._read(), None
        if output.finish_reason is not None or not output.text.endswith("\ufffd"):
            return output
        following = self._read()
        if following.index == output.index and following.finish_reason is not None and not following.text:
            return replace(output, finish_reason=following.finish_reason)
        self._ahead = following
        return output

    def _read(self) -> StepOutput:
        while True:
            try:
                event = next(self._events)
            except ServerError as error:
                return self._broken(error)
            if "error" in event:
                return self._broken(error_of(event["error"]))
            self._prompt_ids = tuple(event.get("prompt_token_ids", self._prompt_ids))
            self._receipts += event.get("puna_receipts", ())
            for choice in event["choices"]:
                if (output := self._output(choice)) is not None:
                    return output

    def _output(self, choice: Mapping[str, Any]) -> StepOutput | None:
        """The step that a choice of a chunk tells of; None for one that tells of none."""
        self._prompt_ids = tuple(choice.get("prompt_token_ids", self._prompt_ids))
        sample, delta = self._samples.setdefault(choice["index"], _Sample()), choice.get("delta", choice)
        text, thoughts = delta.get("content") or delta.get("text") or "", delta.get("reasoning_content") or ""
        ids, entries = tuple(choice.get("token_ids", ())), (choice.get("logprobs") or {}).get("content", ())
        logprobs = tuple(map(_logprob, entries))
        sample.texts.append(text)
        sample.thoughts.append(thoughts)
        sample.token_ids += ids
        sample.logprobs += logprobs
        if "puna" in choice:
            sample.facts, sample.stop_reason, sample.error = choice["puna"], choice["stop_reason"], choice["puna"]["error"]
        elif not (text or thoughts or ids):
            return None
        reason = sample.finish_reason if sample.facts else None
        return StepOutput(0, text, ids, logprobs, reason, thoughts, choice["index"])

    def _broken(self, error: PunaError) -> StepOutput:
        """The last step of an answer that the server broke off."""
        self.close()
        sample = self._samples.setdefault(0, _Sample())
        if sample.error:
            raise StopIteration
        sample.error = error.line
        return StepOutput(0, "", (), finish_reason=FinishReason.ERROR)

    @property
    def completion(self) -> Completion:
        """The answer so far; the whole one after the last piece."""
        samples = [sample for _, sample in sorted(self._samples.items())] or [_Sample()]
        first, *others = map(self._completion, samples)
        return replace(first, others=tuple(others))

    def _completion(self, sample: _Sample) -> Completion:
        text, facts = "".join(sample.texts), sample.facts
        return Completion(
            text=text,
            token_ids=tuple(sample.token_ids),
            finish_reason=sample.finish_reason,
            stop_reason=sample.stop_reason,
            logprobs=tuple(sample.logprobs),
            prompt_logprobs=(),
            prompt_ids=self._prompt_ids,
            num_cached=facts.get("num_cached", 0),
            seed=facts.get("seed"),
            error=sample.error,
            timing=Timing(**facts["timing"]) if facts else Timing(0.0, 0.0, 0, len(sample.token_ids)),
            num_dropped=facts.get("num_dropped", 0),
            reasoning="".join(sample.thoughts) if facts.get("has_reasoning") else None,
            raw_text=text,
            num_reasoning_tokens=facts.get("num_reasoning_tokens", 0),
            is_reasoning_cut=facts.get("is_reasoning_cut", False),
        )

    def receipts(self) -> list[Receipt]:
        """The receipts that were asked for, one for each sample. UsageError if the answer was broken off, or has none."""
        told = [one["problem"] for one in self._receipts if isinstance(one, dict) and "problem" in one]
        if told or not self._receipts:
            raise UsageError(told[0] if told else "the server told no receipt: the answer was broken off before its end")
        return [Receipt.read(json.dumps(one), "what the server told") for one in self._receipts]

    def close(self) -> None:
        """End the request if it still runs. Idempotent."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    top = entry["top_logprobs"]
    return TokenLogprob(
        entry["id"],
        _finite_or_not(entry["logprob"]),
        tuple((one["id"], _finite_or_not(one["logprob"])) for one in top),
        entry["token"],
        tuple(one["token"] for one in top),
        bytes(entry["bytes"]),
        tuple(bytes(one["bytes"]) for one in top),
    )


def _finite_or_not(logprob: float) -> float:
    return logprob if logprob > LEAST_LOGPROB else -math.inf
