"""puna plan: shows whether a model fits, how, and how fast it would be. Reads only headers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from puna.cli.models import show_choices
from puna.cli.options import Size, Whole, engine_config, engine_options, json_option, refuse_vram_without_gpu
from puna.cli.terminal import TerminalReporter, print_json, printable, shown_path, tell
from puna.cli.width import report_width
from puna.cli.word_wrap import KEPT, wrapped
from puna.errors import DownloadError, ModelNotFoundError, UnsupportedModelError, UsageError
from puna.hub import absent_source
from puna.hub.fetch import free_space
from puna.hub.published import PUBLISHED_AS, split_type
from puna.units import MIB, gb, gib, megabytes, short_count, two_digits

if TYPE_CHECKING:
    from puna.config import EngineConfig
    from puna.formats.base import Checkpoint
    from puna.machine.planning.fit import Fit, Item, Setting
    from puna.machine.planning.history import LoadRecord
    from puna.machine.planning.speed import Speed
    from puna.progress import Reporter

BAR_WIDTH = 48
LABEL, SIZE = 9, 12  # columns of a row
MARKS = {"weights": "█", "KV": "▓", "scratch": "▒", "overhead": "░"}
SHOWN_ENTRIES = 20  # of the history
SHOWN_FILES = 20  # of a repository
LEAST_RAM = 1 << 20  # fewer bytes are a number without its unit
TELLING_BYTES = 64 << 20  # below this, the process's own few MiB are a large share


@click.command()
@click.argument("model", required=False)
@click.option("--gpu", metavar="NAME", help='For a card you do not have: "RTX 4070", "2 x RTX 3090".')
@click.option("--ram", type=Size(), metavar="SIZE", help="For this much main memory, such as 32GiB.")
@click.option("--max-batch", "--batch", type=Whole(), metavar="N", help="Sequences that run at once.")
@click.option("--context", type=Whole(), metavar="N", help="The same as --max-context.")
@click.option("--tensor-parallel", type=Whole(1), metavar="N", help="Share MODEL among N devices [all of --gpu].")
@click.option("--history", is_flag=True, help="Show predicted and actual bytes of the models loaded here.")
@engine_options
@json_option
def command(
    model: str | None,
    gpu: str | None,
    ram: int | None,
    context: int | None,
    tensor_parallel: int | None,
    history: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Show how much device memory MODEL takes, whether it fits, and how fast it would be. puna loads nothing.

    MODEL may also be the name of a published model (llama-2-7b, llama-3.1-8b:q4_k_m), which needs no file. Without MODEL,
    --gpu, --vram and --ram list the published models that fit there. Exit code 1 if it does not fit.
    """
    if history:
        _show_history(as_json)
        return 0
    if ram is not None and ram < LEAST_RAM:
        meant = f"Did you mean {ram}GiB?" if ram else ""
        raise UsageError(f"--ram is {ram} bytes; it must be a size such as 32GiB", hint=meant)
    flags["max_context"] = flags["max_context"] if context is None else context
    if model is None and not (gpu is None and ram is None and flags["vram"] is None):
        with TerminalReporter() as report:
            show_choices(gpu, ram, _engine(flags, report), report, as_json)
        return 0
    with TerminalReporter() as report, ExitStack() as stack:
        planned = _planned(model, gpu, ram, tensor_parallel, _engine(flags, report), report, stack)
        planned = replace(planned, batch=flags["max_batch"] or 0)
    if as_json:
        print_json(_json_of(planned))
    else:
        print("\n".join(map(printable, _lines_of(planned))))
    return 0 if planned.fit.fits else 1


def _engine(flags: dict[str, Any], report: Reporter) -> EngineConfig:
    engine = engine_config(flags, report)
    if engine.device != "auto":  # with "auto", --vram without a card plans for a GPU of that size
        refuse_vram_without_gpu(engine)
    return engine


@dataclass(frozen=True, slots=True)
class Planned:
    """The facts to show."""

    model: str
    checkpoint: Checkpoint
    engine: EngineConfig
    fit: Fit
    settings: list[Setting]  # settings that fit, if the first choice does not
    on_cpu: Fit | None  # if a GPU is too small
    batch: int  # requested number of sequences at once; 0: not given


def _planned(
    model: str | None,
    gpu: str | None,
    ram: int | None,
    parts: int | None,
    engine: EngineConfig,
    report: Reporter,
    stack: ExitStack,
) -> Planned:
    from puna.backends.base import ProcessRank
    from puna.loading import with_adapters
    from puna.machine.host import ThisHost
    from puna.machine.planning.cpu_roofline import cpu_roofline
    from puna.machine.planning.devices import device_for
    from puna.machine.planning.fit import fit, nearest

    checkpoint, name = _checkpoint(model, report, stack)
    checkpoint = with_adapters(checkpoint, engine)
    roofline = cpu_roofline(report) if gpu is None else None
    device = device_for(engine, ThisHost(), roofline, gpu, ram)
    parts = parts or (ProcessRank.from_env().size if gpu is None else device.count)
    made = fit(checkpoint, engine, device, parts)
    settings = nearest(checkpoint, engine, device, parts) if not made.fits or made.notices else []
    on_cpu = None
    if device.is_gpu and (not made.fits or made.plan.num_offloaded):
        asked = replace(engine, device="cpu", weights="auto", kv_type="auto", vram=0, require_gpu=False)
        on_cpu = fit(checkpoint, asked, device_for(asked, ThisHost(), roofline, None, ram))
    return Planned(name, checkpoint, engine, made, settings, on_cpu, 0)


def _checkpoint(model: str | None, report: Reporter, stack: ExitStack) -> tuple[Checkpoint, str]:
    """The checkpoint of a file, of a repository (from its headers), or of a name whose sizes are known."""
    from puna import formats
    from puna.hub import CATALOGUE, DEFAULT_MODEL
    from puna.hub.headers import header_checkpoint
    from puna.hub.other_families import refusal
    from puna.machine.planning.known_models import known_checkpoint

    text = model or DEFAULT_MODEL
    named = _as_fetched(text)
    try:
        headers = stack.enter_context(header_checkpoint(text, report))
    except (ModelNotFoundError, DownloadError) as error:
        if text in CATALOGUE or (known := known_checkpoint(named.removeprefix("hf:"))) is None:
            if isinstance(error, ModelNotFoundError):
                _tell_files(text)
            if (reason := refusal(text)) is not None:
                raise UnsupportedModelError(f"{text}: {reason}", hint="`puna models --all` lists models that it runs.") from error
            raise
        report.notice(f"{text} is not downloaded: planning from its published sizes")
        return known, named
    if not headers.is_local:
        fetched, total = megabytes(headers.fetched_bytes, 1), gb(headers.total_bytes)
        report.notice(f"not downloaded: planning from {fetched} of headers of {total}")
    return formats.open_checkpoint(headers.path), shown_path(headers.path) if headers.is_local else headers.name


def _as_fetched(name: str) -> str:
    """A short name with the type of the file that puna would fetch for it: what is planned is what would run."""
    source = None if split_type(name)[1] else absent_source(name)
    return name if source is None or source.kind == PUBLISHED_AS.lower() else f"{name}:{source.kind}"


def _tell_files(model: str) -> None:
    """Print the files of a repository with several models, so that a person can choose one."""
    from puna.hub.headers import gguf_files
    from puna.hub.names import parse_hub_name

    if (name := parse_hub_name(model)) is None or name.file:
        return
    files = gguf_files(model)
    shown, more = files[:SHOWN_FILES], len(files) - SHOWN_FILES
    width = max((len(file) for file, _ in shown), default=0)
    for file, size in shown:
        print(printable(f"  {file:<{width}}  {gib(size)}"))
    if more > 0:
        print(f"  ... and {more} more")


# ---- for people -----------------------------------------------------------------------------------------------------------


def _lines_of(planned: Planned) -> Iterator[str]:
    """The verdict, the numbers behind it, and other settings that fit."""
    fit = planned.fit
    yield from _prose(f"{planned.model}: {_weights(planned.checkpoint)}", "", "  ")
    yield from _prose(_device(fit))
    yield ""
    yield from _verdict_lines(planned)
    yield ""
    yield from _item_lines(fit, fit.items)
    yield ""
    yield from _bar_lines(fit)
    if fit.main_items:
        yield ""
        yield "in main memory" if fit.parts == 1 else f"in main memory, {fit.parts} times"
        yield from _item_lines(fit, fit.main_items)
    if fit.fits and not planned.settings:
        return
    yield ""
    if planned.settings:
        yield "Settings that fit, best quality first:"
        yield from _setting_lines(planned)
    elif not fit.fits:
        yield from _prose(_no_setting(planned.on_cpu))
    if fit.fits and planned.on_cpu is not None and planned.on_cpu.fits:
        yield from _prose(f"It also fits on the CPU: {_on_cpu(planned.on_cpu)}")


def _prose(text: str, first: str = "", rest: str | None = None) -> list[str]:
    return wrapped(text, report_width(sys.stdout), first, rest)


def _device(fit: Fit) -> str:
    device, each = fit.device, " each" if fit.parts > 1 else ""
    count = f"{fit.parts} x " if fit.parts > 1 else ""
    return f"on {count}{device.name}: {gib(device.total_bytes)}{each}, {gib(device.free_bytes)} of it free for a model"


def _weights(checkpoint: Checkpoint) -> str:
    from math import prod

    from puna.model.weights import active_share

    types = dict.fromkeys(t.type.name for t in checkpoint.tensors.values() if len(t.shape) > 1)
    count = sum(prod(t.shape) for t in checkpoint.tensors.values())
    size = sum(t.num_bytes for t in checkpoint.tensors.values())
    active = sum(prod(t.shape) * active_share(checkpoint.config, name) for name, t in checkpoint.tensors.items())
    used = "" if active == count else f", {short_count(round(active))} of them for each token"
    return f"{short_count(count)} weights{used}, {', '.join(types)}, {gib(size)}; context {checkpoint.config.max_context}"


def _item_lines(fit: Fit, items: tuple[Item, ...]) -> Iterator[str]:
    """A table of bytes. A terminal too narrow for the details gets them below their row."""
    names, details = (max(map(len, column)) for column in zip(*((one.name, one.detail) for one in (*fit.items, *fit.main_items))))
    is_narrow = LABEL + names + details + SIZE + 6 > report_width(sys.stdout)
    part = ""
    for item in items:
        label = item.part if item.part != part else ""
        part = item.part
        row = f"  {label:<{LABEL}} {item.name:<{names}}"
        if not is_narrow:
            yield f"{row}  {item.detail:<{details}} {gib(item.bytes):>{SIZE}}"
            continue
        yield f"{row} {gib(item.bytes):>{SIZE}}"
        yield from _prose(item.detail, " " * (LABEL + 5)) if item.detail else ()
    total = f"  {'total':<{LABEL}} {'of each' if fit.parts > 1 else '':<{names}}"
    yield f"{total} {'' if is_narrow else ' ' * (details + 2)}{gib(sum(item.bytes for item in items)):>{SIZE}}"


def _bar_lines(fit: Fit) -> Iterator[str]:
    """A bar with the share of each part; if the device is too small, an arrow shows its end."""
    sizes = {part: sum(item.bytes for item in fit.items if item.part == part) for part in MARKS}
    total, device = sum(sizes.values()), fit.device.total_bytes
    measure = f"{gib(total)} of {gib(device)}"
    width = min(BAR_WIDTH, report_width(sys.stdout) - len(measure) - len("  || "))
    bar, so_far = "", 0
    for part, size in sizes.items():
        so_far += size
        bar += MARKS[part] * (round(width * so_far / max(device, total)) - len(bar))
    yield f"  |{bar:<{width}}| {measure}"
    if total > device:
        yield "   " + " " * round(width * device / total) + "^ the device ends here"
    legend = [f"{MARKS[part]} {part} {gib(size)}" for part, size in sizes.items() if size]
    yield from _prose("  ".join(one.replace(" ", KEPT) for one in legend), "   ")


def _verdict_lines(planned: Planned) -> Iterator[str]:
    fit = planned.fit
    yield from _prose(_acceptance(fit) if fit.fits else _refusal(planned))
    for notice in fit.notices:
        yield from _prose(notice, "  ")
    if fit.fits:
        yield from _prose(_room_line(planned), "  ")
    if fit.fits or planned.settings:
        yield from (line for told in _to_fetch(planned.model) for line in _prose(told, "  "))


def _acceptance(fit: Fit) -> str:
    """That it fits: what the model needs of what is free, and what the device then holds of its whole memory."""
    unknown = f" Its speed is not known: {fit.device.kernels}." if fit.device.kernels else " Its speed is not known."
    speed = f" Expected: {_speed(fit.speed)} ({fit.speed.source})." if fit.speed is not None else unknown
    return f"It fits: {gib(fit.needed_bytes)} of the {gib(fit.device.free_bytes)} that are free ({_with_overhead(fit)}).{speed}"


def _with_overhead(fit: Fit) -> str:
    return f"with overhead {gib(fit.device_bytes)} of {gib(fit.device.total_bytes)}"


def _to_fetch(model: str) -> Iterator[str]:
    """How to fetch a published model, and which plan shows its original weights; nothing if it is here, or a name of the Hub."""
    if (source := absent_source(model)) is None:
        return
    told = f"To fetch it, about {source.size}: puna pull {model}"
    if source.kind.startswith("q"):  # it is quantised
        told += f". The plan of the original weights: puna plan {split_type(model)[0]}:{PUBLISHED_AS.lower()}"
    yield told
    if (free := free_space()) < source.num_bytes:
        yield f"The disk of the cache has only {gb(free)} free; PUNA_CACHE may name a folder on another one."


def _refusal(planned: Planned) -> str:
    """Why it does not fit, and if a card is too small, whether it runs on the CPU: one sentence."""
    fit, cpu = planned.fit, planned.on_cpu
    if cpu is None:
        overhead = f" ({_with_overhead(fit)})" if fit.needed_bytes > fit.device.free_bytes else ""
        return f"It does not fit: {fit.problem}{overhead}."
    other = f"it needs {gib(cpu.needed_bytes)}, and {gib(cpu.device.free_bytes)} are free"
    on_cpu = f"it fits ({_on_cpu(cpu)})" if cpu.fits else f"it does not fit either: {other}"
    return f"It does not fit on the {'card' if fit.parts == 1 else 'cards'}: {fit.problem}; on the CPU {on_cpu}."


def _no_setting(on_cpu: Fit | None) -> str:
    where = "on this card" if on_cpu else "here"
    cpu = "--device cpu, " if on_cpu and on_cpu.fits else ""
    another = "plan for another machine with --gpu, --vram or --ram"
    return f"No setting makes it fit {where}. Take {cpu}a smaller model (see `puna models`), or {another}."


def _on_cpu(fit: Fit) -> str:
    return ", ".join(filter(None, ("--device cpu", gib(fit.device_bytes), _speed(fit.speed))))


def _room_line(planned: Planned) -> str:
    fit, plan, batch = planned.fit, planned.fit.plan, planned.batch
    tokens = plan.num_pages * plan.page_size
    line = f"K/V space for {tokens} tokens ({plan.kv_type}); a sequence can use up to {plan.max_context}"
    if batch:
        wanted = plan.kv_bytes * batch * plan.max_context // tokens
        if batch == 1:
            return f"{line}. One of {plan.max_context} tokens takes {gib(wanted)}"
        each = f"{batch} sequences of {plan.max_context} tokens take {gib(wanted)}"
        return f"{line}. {each}: {'all run at once' if wanted <= plan.kv_bytes else 'shorter ones share the space, others wait'}"
    alone = fit.alone_bytes
    return (
        line if alone == fit.device_bytes else f"{line}. With space for one sequence only (--batch 1) the total is {gib(alone)}"
    )


def _setting_lines(planned: Planned) -> Iterator[str]:
    """Each setting in two lines: the flags, then its memory, speed and quality."""
    from puna.machine.planning.fit import MODEL

    for one in planned.settings:
        yield f"  {' '.join(one.flags).replace(MODEL, shlex.quote(planned.model))}"
        facts = ", ".join(filter(None, (gib(one.fit.device_bytes), _speed(one.fit.speed), one.loss)))
        yield from _prose(facts, "      ")


def _speed(speed: Speed | None) -> str:
    return (
        "" if speed is None else f"about {two_digits(speed.decode_per_s)} tok/s, prompts {two_digits(speed.prefill_per_s)} tok/s"
    )


# ---- for programs -----------------------------------------------------------------------------------------------------------


def _json_of(planned: Planned) -> dict[str, Any]:
    fit = planned.fit
    return {
        "model": planned.model,
        "fits": fit.fits,
        "problem": fit.problem,
        "notices": list(fit.notices),
        **_fit_facts(fit),
        "device_bytes": fit.device_bytes,
        "free_bytes": fit.device.free_bytes,
        "device": {"kind": fit.device.kind, "name": fit.device.name, "total_bytes": fit.device.total_bytes, "count": fit.parts},
        "items": [item._asdict() for item in fit.items],
        "main_memory": [item._asdict() for item in fit.main_items],
        "settings": [{"flags": list(one.flags), "loss": one.loss, **_fit_facts(one.fit)} for one in planned.settings],
    }


def _fit_facts(fit: Fit) -> dict[str, Any]:
    plan = fit.plan
    return {
        "needed_bytes": fit.needed_bytes,
        "weights": plan.weights,
        "weights_bytes": plan.weights_bytes,
        "kv_type": plan.kv_type,
        "kv_bytes": plan.kv_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "logits_bytes": plan.logits_bytes,
        "max_context": plan.max_context,
        "num_offloaded": plan.num_offloaded,
        "expected": None if fit.speed is None else fit.speed._asdict(),
    }


# ---- the history ------------------------------------------------------------------------------------------------------------


def _show_history(as_json: bool) -> None:
    from puna.machine.planning.history import entries

    found = entries()
    if as_json:
        print_json({"loads": [asdict(entry) | {"difference": round(entry.difference, 5)} for entry in found]})
    elif not found:
        tell("puna: no model was loaded here yet", "puna run and puna chat record what loading takes.")
    else:
        print("\n".join(map(printable, _history_lines(found))))


def _history_lines(found: list[LoadRecord]) -> Iterator[str]:
    yield from _whole_or_wrapped(f"  {'when':<20}  {'device':<8}  {'weights':<7}  {'predicted':>10}  {'actual':>10}  difference")
    for one in found[-SHOWN_ENTRIES:]:
        off = f"{(one.actual_bytes - one.predicted_bytes) / MIB:+.1f} MiB"
        share = f" ({100 * one.difference:+.1f} %)" if one.predicted_bytes >= TELLING_BYTES else ""
        sizes = f"{gib(one.predicted_bytes):>10}  {gib(one.actual_bytes):>10}  {off}"
        yield from _whole_or_wrapped(f"  {one.time:<20}  {one.device:<8}  {one.weights:<7}  {sizes}")
        yield f"      {one.model}{share}"


def _whole_or_wrapped(row: str) -> list[str]:
    """A row of a table; on a terminal too narrow for it, its words."""
    return [row] if len(row) <= report_width(sys.stdout) else _prose(" ".join(row.split()), "  ", "      ")
