"""puna bench: measures prefill and decode speed, and the limits of the machine in the same run."""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from puna.cli.interrupts import ending_soon
from puna.cli.options import (
    OUTPUT,
    HeadedCommand,
    Utf8,
    Whole,
    engine_config,
    engine_options,
    json_option,
    option,
    refuse_vram_without_gpu,
    under,
)
from puna.cli.terminal import TerminalReporter, print_json, shown_path, tell
from puna.cli.versus import Versus, comparison_table, require_cpu, rivals, workloads
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.model.weights import active_share, layer_of, tensor_shapes
from puna.peers.comparison import PeerComparison
from puna.units import counted

if TYPE_CHECKING:
    from puna.backends.base import Roofline
    from puna.completion import Timing
    from puna.llm import LLM
    from puna.model.spec import ModelConfig
    from puna.plan import TensorHeader

SEED = 20261122
TTFT_PROMPT = 32  # tokens
SHARES = "The shares are of what this machine reached just now: arithmetic limits prompts, memory limits answers."


@click.command(cls=HeadedCommand)
@click.argument("model", required=False)
@under(
    "What to time",
    option("--prompt-tokens", type=Whole(1), default=512, metavar="N", help="Reading a prompt of N tokens [512]."),
    option("--decode-tokens", type=Whole(2), default=128, metavar="N", help="Writing an answer of N tokens [128]."),
    option("--repeat", type=Whole(1), default=3, metavar="N", help="Run each N times, report the median [3]."),
)
@under(
    "Other programs",
    option("--vs", metavar="NAME,NAME", help="Take turns with llama.cpp, transformers ... or all."),
    option("--depth", type=Whole(2), default=1000, metavar="N", help="Writing after N tokens, too [1000]."),
    option(
        "--peer-python", "pythons", multiple=True, type=Utf8(), metavar="[NAME=]PATH", help="Their Python; repeatable [puna's]."
    ),
    option(
        "--peer-model",
        "models",
        multiple=True,
        type=Utf8(),
        metavar="NAME=PATH",
        help="The model in a format of theirs; repeatable.",
    ),
)
@engine_options
@under(OUTPUT, json_option)
def command(
    model: str | None,
    prompt_tokens: int,
    decode_tokens: int,
    repeat: int,
    vs: str | None,
    depth: int,
    pythons: tuple[str, ...],
    models: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure how fast the model reads a prompt and writes an answer (of random tokens), and the share of what the machine can
    reach.

    With --vs it compares puna with other programs instead: both run the same model in turns, in the same minutes.
    """
    from puna.llm import LLM

    report = TerminalReporter()
    versus = None if vs is None else Versus.of_installed(rivals(vs, pythons, models), report)
    config = dataclasses.replace(engine_config(flags, report), prefix_cache=False, cache_dir="", speculation="off")
    refuse_vram_without_gpu(config)
    if versus is not None:
        require_cpu(config)
    started = time.perf_counter()
    with report, LLM.load(model, config, report=report) as llm, ending_soon():
        load_s = time.perf_counter() - started
        facts = {"model": shown_path(llm.path), "load_s": round(load_s, 4)}
        if versus is None:
            facts |= measure(llm, prompt_tokens, decode_tokens, repeat, report)
        else:
            fitting = partial(_fitting, max_context=llm.plan.max_context, report=report)
            tests = workloads(prompt_tokens, decode_tokens, depth, fitting)
            facts |= versus.facts(PeerComparison(llm, tests, repeat, report), report) | {"threads": _threads(llm)}
    lines = list(table(facts) if versus is None else comparison_table(facts))
    if as_json:
        print_json(facts)
        tell(*lines)
    else:
        print("\n".join(lines))


def measure(llm: LLM, prompt_tokens: int, decode_tokens: int, repeat: int, report: TerminalReporter) -> dict[str, Any]:
    """Run everything once to warm up, then `repeat` times; each time measure the limits first."""
    from puna.machine.rooflines import remember
    from puna.request import SamplingParams

    random = np.random.default_rng(SEED)
    prompt_tokens, decode_tokens = (_fitting(n, llm.plan.max_context, report) for n in (prompt_tokens, decode_tokens))

    def timing(length: int, new: int) -> Timing:
        ids = [int(i) for i in random.integers(0, llm.model.vocab_size, length)]
        return llm.generate(ids, SamplingParams(max_tokens=new, ignore_eos=True)).timing

    timing(min(prompt_tokens, TTFT_PROMPT), 2)
    prefill, decode, first, measured = [], [], [], []
    for i in range(repeat):
        report.progress("measuring", i, repeat)
        measured.append(llm.backend.roofline())
        prefill.append(timing(prompt_tokens, 1).prefill_per_s)
        decode.append(timing(1, decode_tokens).decode_per_s)
        first.append(timing(TTFT_PROMPT, 1).first_token_s)
    report.progress("measuring", repeat, repeat)
    roofline = _median(measured)
    if llm.backend.info.name == "cpu" and llm.config.threads == 0:
        remember("cpu", roofline)  # for `puna plan`
    return _facts(llm, roofline, prompt_tokens, decode_tokens, prefill, decode, first)


def _median(measured: list[Roofline]) -> Roofline:
    """The median of each limit, because a machine's speed drifts."""
    rates = {field.name: [getattr(one, field.name) for one in measured] for field in dataclasses.fields(measured[0])}
    return dataclasses.replace(measured[0], **{name: statistics.median(values) for name, values in rates.items()})


def _fitting(num_tokens: int, max_context: int, report: TerminalReporter) -> int:
    """The length to measure. It leaves one token of the context for the token before or after."""
    if num_tokens >= max_context:
        report.notice(f"a context of {max_context} cannot hold {num_tokens} tokens; measuring {max_context - 1}")
    return min(num_tokens, max_context - 1)


def _facts(
    llm: LLM,
    roofline: Roofline,
    prompt_tokens: int,
    decode_tokens: int,
    prefill: list[float],
    decode: list[float],
    first: list[float],
) -> dict[str, Any]:
    from puna.formats import open_checkpoint
    from puna.plan import read_by_type

    pp, tg = statistics.median(prefill), statistics.median(decode)
    tensors = open_checkpoint(llm.path).tensors
    read_bytes, operations = sum(read_by_type(llm.model, llm.plan).values()), 2 * matrix_weights(llm.model)
    return {
        "device": dataclasses.asdict(llm.backend.info),
        "threads": _threads(llm),
        "prefill": _row(f"pp{prompt_tokens}", prompt_tokens, prefill)
        | {"int8_share": round(pp * operations / roofline.int8_ops_per_s, 4), "ops_per_token": operations},
        "decode": _row(f"tg{decode_tokens}", decode_tokens, decode)
        | {"bandwidth_share": round(tg * read_bytes / roofline.read_bytes_per_s, 4), "bytes_per_token": read_bytes},
        "time_to_first_token_s": round(statistics.median(first), 4),
        "limits": dataclasses.asdict(roofline),
        "expected": _expected(llm, tensors, roofline),
        "repeat": len(prefill),
    }


def _threads(llm: LLM) -> dict[str, Any] | None:
    """The numbers of threads that were found best, if the device looks for them."""
    if llm.backend.info.name != "cpu":
        return None
    from puna.backends.cpu.model import CPUBackend

    assert isinstance(llm.backend, CPUBackend)
    choice, best = llm.backend.thread_choice, llm.backend.best_threads()
    return {"prompt": best[max(best)], "answer": best[min(best)], "of": choice.counts, "first": choice.start, "why": choice.why}


def _expected(llm: LLM, tensors: Mapping[str, TensorHeader], roofline: Roofline) -> dict[str, Any] | None:
    """The speed that `puna plan` expects of this model, with the limits just measured."""
    from puna.machine.planning.devices import planned_roofline
    from puna.machine.planning.speed import expected

    kind = llm.backend.info.name.partition(":")[0]
    return None if kind != "cpu" else expected(llm.model, tensors, llm.plan, planned_roofline(roofline), kind)._asdict()


def _row(name: str, num_tokens: int, rates: list[float]) -> dict[str, Any]:
    """Median, least and most of some rates; `name` is what other benchmarks call such a test."""
    rate = {"tokens_per_s": statistics.median(rates), "min": min(rates), "max": max(rates)}
    return {"test": name, "tokens": num_tokens} | {key: round(value, 2) for key, value in rate.items()}


def matrix_weights(config: ModelConfig) -> int:
    """Weights that multiply each prompt token; the output matrix multiplies only the last one."""
    shapes = tensor_shapes(config).items()
    return sum(
        round(math.prod(shape) * active_share(config, name))
        for name, shape in shapes
        if layer_of(name) is not None and len(shape) > 1
    )


def table(facts: dict[str, Any]) -> Iterator[str]:
    """The facts as text."""
    limits, first_ms = facts["limits"], 1e3 * facts["time_to_first_token_s"]
    yield facts["model"]
    yield f"on {facts['device']['description']}"
    if (threads := facts["threads"]) is not None:
        tried = " or ".join(map(str, threads["of"]))
        words = f"threads: {threads['prompt']} for the prompt and {threads['answer']} for the answer were found best of {tried}"
        yield from wrapped(f"{words}; begun with {threads['first']}, {threads['why']}", report_width(sys.stdout))
    yield ""
    yield _line("prompt", facts["prefill"], "int8_share", f"{limits['int8_ops_per_s'] / 1e9:.0f} GOP/s (int8)")
    yield _line("answer", facts["decode"], "bandwidth_share", f"{limits['read_bytes_per_s'] / 1e9:.1f} GB/s (memory)")
    if (plan := facts["expected"]) is not None:
        prompt, answer = _rate(plan["prefill_per_s"]), _rate(plan["decode_per_s"])
        yield f"puna plan expected {prompt} tok/s for the prompt, {answer} for the answer"
    yield f"the first token comes {first_ms:.0f} ms after a prompt of {TTFT_PROMPT} tokens; loading took {facts['load_s']:.2f} s"
    yield ""
    runs = f"Medians (slowest..fastest) of {counted(facts['repeat'], 'run')}"
    words = f"{runs}, in tokens per second; a token is a word or a part of one. {SHARES}"
    yield from wrapped(words, report_width(sys.stdout))


def _line(name: str, row: dict[str, Any], share: str, limit: str) -> str:
    """
    >>> row = {"tokens": 512, "tokens_per_s": 99.0, "min": 98.5, "max": 99.5, "int8_share": 0.31}
    >>> _line("prompt", row, "int8_share", "68 GOP/s (int8)")
    'prompt   512 tokens   99.0 tok/s (98.5..99.5), 31 % of 68 GOP/s (int8)'
    """
    rates = f"{_rate(row['tokens_per_s']):>6} tok/s ({_rate(row['min'])}..{_rate(row['max'])})"
    return f"{name} {row['tokens']:>5} tokens {rates}, {100 * row[share]:.0f} % of {limit}"


def _rate(per_s: float) -> str:
    """Three digits or more, so that a line of a fast machine fits 80 columns, too.

    >>> _rate(9.04), _rate(99.96), _rate(845.4), _rate(12345.6)
    ('9.0', '100', '845', '12346')
    """
    return f"{per_s:.1f}" if round(per_s, 1) < 100 else f"{per_s:.0f}"
