"""Steps that are watched give the same answers, and count the tokens that passed through the model."""

from __future__ import annotations

from pathlib import Path

from puna.explain.steps import fresh_salt, run_steps
from puna.request import SamplingParams
from tests.explain.live_models import live_model, tiny_file


def test_each_token_is_computed_once_and_the_answer_is_that_of_generate(tmp_path: Path) -> None:
    live = live_model(tiny_file(tmp_path), device="reference")
    params = SamplingParams(max_tokens=5, ignore_eos=True)
    prompts = [live.ids("the big"), live.ids("a small one")]
    run = run_steps(live.llm, prompts, params)
    assert run.num_tokens == sum(map(len, prompts)) + 2 * 4  # the last token of each is never read
    assert len(run.steps) == 5 and run.seconds > 0 and run.steps[0].num_tokens == sum(map(len, prompts))
    assert [tuple(one.output_ids) for one in run.requests] == [one.token_ids for one in live.llm.generate(prompts, params)]
    live.close()


def test_a_fresh_salt_finds_nothing_in_the_cache(tmp_path: Path) -> None:
    live = live_model(tiny_file(tmp_path), device="reference")
    ids = live.ids("the big tiger " * 8)
    first, again = (run_steps(live.llm, [ids], SamplingParams(max_tokens=1)) for _ in range(2))
    fresh = run_steps(live.llm, [ids], SamplingParams(max_tokens=1, cache_salt=fresh_salt()))
    assert first.requests[0].num_cached == 0 < again.requests[0].num_cached and fresh.requests[0].num_cached == 0
    assert fresh.num_tokens == len(ids) > again.num_tokens
    live.close()
