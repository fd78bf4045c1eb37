"""What temperature 0 does, as the last stage of a step. It draws nothing and runs no filter, so a trace has no stage of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from puna.glassbox.trace import Stage

if TYPE_CHECKING:
    from puna.glassbox.trace import TracedStep

GREEDY = "temperature 0"  # the name of the stage


def with_greedy_stage(step: TracedStep, temperature: float) -> TracedStep:
    """The step with a last stage in which the likeliest token has 100% and all others are gone, if it was sampled greedily.

    `temperature`: that of the run; only of a given token, whose step tells of no draw, is it needed.
    """
    is_greedy = step.draw is None and (temperature == 0 or not step.is_given)
    if not is_greedy or not step.stages:
        return step
    last = step.stages[-1]
    taken = last.top[0] if step.is_given or last.chosen is None else last.chosen
    only = replace(taken, probability=1.0, logprob=0.0)
    chosen = only if step.token.id == only.id else None
    return replace(step, stages=(*step.stages, Stage(GREEDY, 1, 0.0, (only,), chosen, None)))
