"""puna models: lists the models that are here, the best ones for this machine, and all that can be fetched."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from puna.cli.options import json_option
from puna.cli.terminal import TerminalReporter, print_json, printable, shown_path
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.install import extra_command
from puna.units import gb, two_digits

if TYPE_CHECKING:
    from puna.config import EngineConfig
    from puna.hub import CachedModel
    from puna.machine.planning.choices import ModelChoice
    from puna.machine.planning.devices import PlannedDevice
    from puna.progress import Reporter

SHOWN = 20  # of the models that fit
NAME_WIDTH = 29  # the longest short name
INDENT, BELOW = "  ", "      "


@click.command()
@click.option("--all", "show_all", is_flag=True, help="List every model that has a short name.")
@click.option("--next", "show_next", is_flag=True, help="Show only the commands to type next.")
@json_option
def command(show_all: bool, show_next: bool, as_json: bool) -> None:
    """List the models that are here, and those that would be best for this machine, with the command that fetches each."""
    if show_next:
        with TerminalReporter() as report:
            _print(list(_next_lines(report)))
        return
    if show_all:
        _show_all(as_json)
        return
    _show_here(as_json)


def show_choices(gpu: str | None, ram: int | None, engine: EngineConfig, report: Reporter, as_json: bool) -> None:
    """Print the published models that fit a device: `gpu` names a card, `ram` is main memory in bytes."""
    from puna.machine.planning.choices import choices

    device = _device(engine, report, gpu, ram)
    found = choices(engine, device)
    if as_json:
        print_json({"device": device.name, "kernels": device.kernels, "models": [_facts(one) for one in found]})
    else:
        _print(_choice_lines(found, device))


# ---- what is here, and what would be best ----------------------------------------------------------------------------------


def _show_here(as_json: bool) -> None:
    from puna import hub

    here = hub.cached_models()
    with TerminalReporter() as report:
        device, found = best_here(report)
    if as_json:
        models = [{"name": one.name, "path": shown_path(one.path), "bytes": one.num_bytes} for one in here]
        print_json({"here": models, "device": device.name, "best": [_facts(one) for one in found]})
    else:
        _print(_here_lines(here, found, device))


def _here_lines(here: list[CachedModel], found: list[ModelChoice], device: PlannedDevice) -> Iterator[str]:
    yield "Here:"
    for model in here:
        yield from _prose(f"{gb(model.num_bytes):>8}  {_short_name(model)}", INDENT, BELOW)
    if not here:
        yield from _prose("nothing yet; puna run fetches a small model (98 MB) when it first needs one", INDENT)
    yield ""
    heading = "Best for {}, of those that puna knows:" if found else "No larger model that puna knows is fast on {}."
    yield from _prose(heading.format(device.name))
    for one in found:
        yield from _row(one)
        yield f"{BELOW}puna pull {one.name}"
    yield from _speed_lines(found, device)
    if device.is_gpu and find_spec("torch") is None:
        yield f"The GPU needs PyTorch, which is not installed: {extra_command('gpu')}"
    yield ""
    removing = "; puna rm NAME removes one that is here" if here else ""
    yield from _prose(f"puna models --all lists every name; puna plan NAME shows more about one{removing}.")


def _short_name(model: CachedModel) -> str:
    """The short name of a model in the cache, if it has one, and its full name."""
    from puna.hub.published import PUBLISHED, source_of

    for source in filter(None, map(source_of, PUBLISHED)):
        if model.name in (str(source.name), source.wheel and source.wheel.name):
            return f"{source.short_name}  ({model.name})"
    return model.name


# ---- tables ------------------------------------------------------------------------------------------------------------------


def _row(one: ModelChoice) -> Iterator[str]:
    """Name, size, speed and licence; on a narrow terminal below the name."""
    speed = f"~{two_digits(one.fit.speed.decode_per_s)} tok/s" if one.fit.speed else ""
    yield from _columns(one.name, f"{one.source.size:>8} {speed:>11}", one.source.model.licence)


def _columns(name: str, *facts: str) -> Iterator[str]:
    line = f"{INDENT}{name:<{NAME_WIDTH}} {'  '.join(facts)}"
    if len(line) <= report_width(sys.stdout):
        yield line
        return
    yield f"{INDENT}{name}"
    yield from _prose(" ".join(" ".join(facts).split()), BELOW)


def _prose(text: str, first: str = "", rest: str | None = None) -> list[str]:
    return wrapped(text, report_width(sys.stdout), first, rest)


def _speed_lines(found: Sequence[ModelChoice], device: PlannedDevice) -> Iterator[str]:
    if device.kernels:
        yield from _prose(f"Speeds are not known: {device.kernels}.")
    elif device.roofline is not None and any(one.fit.speed for one in found):
        yield from _prose(f"Speeds are expected for one conversation ({device.roofline.source}).")


def _choice_lines(found: list[ModelChoice], device: PlannedDevice) -> Iterator[str]:
    whole = [one for one in found if one.is_whole]
    yield from _prose(
        f"Models that fit {device.count} x {device.name}:" if device.count > 1 else f"Models that fit {device.name}:"
    )
    for one in whole[:SHOWN]:
        yield from _row(one)
    if not whole:
        yield f"{INDENT}none that puna knows by name"
    if len(whole) > SHOWN:
        yield f"{INDENT}... and {len(whole) - SHOWN} smaller ones (--json lists all)"
    if more := len(found) - len(whole):
        yield from _prose(f"{more} larger ones fit with fewer bits, or with layers in main memory: slower.")
    yield from _speed_lines(found, device)
    yield from _prose("puna plan NAME shows more about one; puna pull NAME fetches it.")


def _show_all(as_json: bool) -> None:
    from puna.hub.published import PUBLISHED, source_of

    sources = [source for source in map(source_of, PUBLISHED) if source is not None]
    if as_json:
        print_json({"models": [_source_facts(source) for source in sources]})
        return
    lines = [*_columns("name", f"{'size':>8}", "licence")]
    lines += [line for one in sources for line in _columns(one.model.name, f"{one.size:>8}", one.model.licence)]
    _print([*lines, *_prose("puna plan NAME shows whether it fits; puna pull NAME fetches it.")])


def _next_lines(report: Reporter) -> Iterator[str]:
    """The commands to type next: a chat, a better model for this machine, help."""
    _, found = best_here(report)
    rows = [("puna chat", "a conversation with the small model")]
    rows += [(f"puna chat {one.name}", f"a better model for this machine ({one.source.size})") for one in found[:1]]
    rows += [("puna --help", "all commands")]
    width = max(len(typed) for typed, _ in rows)
    yield from (f"{INDENT}{typed:<{width}}   {words}" for typed, words in rows)


def best_here(report: Reporter) -> tuple[PlannedDevice, list[ModelChoice]]:
    """This machine, and the models that are best for it, the best one first. All commands that name one ask here."""
    from puna.config import EngineConfig
    from puna.machine.planning.choices import best

    engine = EngineConfig.from_env()
    device = _device(engine, report)
    return device, best(engine, device)


def _device(engine: EngineConfig, report: Reporter, gpu: str | None = None, ram: int | None = None) -> PlannedDevice:
    from puna.machine.host import ThisHost
    from puna.machine.planning.cpu_roofline import cpu_roofline
    from puna.machine.planning.devices import device_for

    return device_for(engine, ThisHost(), cpu_roofline(report) if gpu is None else None, gpu, ram)


def _facts(one: ModelChoice) -> dict[str, Any]:
    expected = None if one.fit.speed is None else one.fit.speed._asdict()
    return {**_source_facts(one.source), "weights": one.fit.plan.weights, "expected": expected}


def _source_facts(source: Any) -> dict[str, Any]:
    return {
        "name": source.model.name,
        "source": str(source.name) if source.wheel is None else source.wheel.name,
        "bytes": source.num_bytes,
        "licence": source.model.licence,
        "page": source.model.page,
        "command": f"puna pull {source.model.name}",
    }


def _print(lines: Iterable[str]) -> None:
    print("\n".join(map(printable, lines)))
