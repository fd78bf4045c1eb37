"""The --against of `puna trace`: what another run is, and how runs are compared one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.checks import shown
from puna.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from puna.calls import PromptJob
    from puna.glassbox.diff import OtherRun, RunDiff
    from puna.llm import LLM

ALIASES = {"backend": "device"}  # what people call a setting -> its name
DEVICE = re.compile(r"cpu|torch|reference|cuda(:\d{1,2})?")
EXAMPLES = "another model, or a setting such as backend=reference, kv-type=int8 or temperature=0.7"
NEXT_SETTING = re.compile(r",(?=[A-Za-z][\w-]*=)")


@dataclass(frozen=True, slots=True)
class OtherSide:
    """What --against names: a run with another model, other engine settings, other sampling parameters, or several of these."""

    text: str
    model: str | None
    engine: Mapping[str, Any]  # fields of EngineConfig
    sampling: Mapping[str, Any]  # fields of SamplingParams

    @property
    def needs_loading(self) -> bool:
        return self.model is not None or bool(self.engine)

    @classmethod
    def read(cls, text: str, adapters: Sequence[str] = ()) -> OtherSide:
        """A model, NAME=VALUE, or several of these with commas between. `adapters`: the names of --lora-modules.

        >>> OtherSide.read("m.gguf,kv-type=int8,top-k=5")
        OtherSide(text='m.gguf,kv-type=int8,top-k=5', model='m.gguf', engine={'kv_type': 'int8'}, sampling={'top_k': 5})
        """
        model, engine, sampling = None, dict[str, Any](), dict[str, Any]()
        for part in NEXT_SETTING.split(text):
            name, equals, value = part.partition("=")
            name = name.strip().lstrip("-").replace("-", "_")
            name = ALIASES.get(name, name)
            if name == "lora" and value in adapters:
                name = "lora_name"
            if equals and name in _engine_kinds():
                engine[name] = _engine_value(name, value)
            elif equals and name in _sampling_names():
                sampling[name] = _json_or_text(value)
            elif DEVICE.fullmatch(part):
                engine["device"] = part
            elif equals and not Path(part).expanduser().exists():
                raise _unknown(part, name)
            elif model is None and part.strip():
                model = part
            else:
                raise UsageError(f"--against is {shown(text)}; it names one model, and settings", hint=f"Give {EXAMPLES}.")
        return cls(text, model, engine, sampling)


def _unknown(part: str, name: str) -> UsageError:
    known = [*_engine_kinds(), *_sampling_names()]
    hint = did_you_mean(name, known).replace("_", "-") or f"Give {EXAMPLES}."
    return UsageError(f"--against is {shown(part)}, and there is no setting {name.replace('_', '-')}", hint=hint)


def _engine_kinds() -> dict[str, str]:
    from puna.config import EngineConfig

    return {field.name: str(field.type) for field in fields(EngineConfig)}


def _engine_value(name: str, text: str) -> Any:
    from puna.config import read_setting

    return read_setting(f"--against {name.replace('_', '-')}", _engine_kinds()[name], text)


def _sampling_names() -> list[str]:
    from puna.request import SamplingParams

    return [field.name for field in fields(SamplingParams)]


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def compare(llm: LLM, job: PromptJob, others: Sequence[OtherSide], load: Callable[[OtherSide], LLM]) -> RunDiff:
    """Run a prompt, and compare the others with it. One model is in memory at a time: `llm` is closed before the next."""
    from puna.glassbox.against import compared

    first = llm.first_run(job)
    found: dict[int, OtherRun] = {}
    for number, other in sorted(enumerate(others), key=lambda numbered: numbered[1].needs_loading):
        if other.needs_loading:
            llm.close()
            with load(other) as second:
                found[number] = second.run_against(first, other.text, other.sampling)
        else:
            found[number] = llm.run_against(first, other.text, other.sampling)
    return compared(first, [found[number] for number in range(len(others))])
