"""puna models: lists the models that are here, the best ones for this machine, and all that can be fetched."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from puna.cli.options import json_option
from puna.cli.terminal import TerminalReporter, print_json, printable, shown_path
from puna.install import extra_command
from puna.units import gb, two_digits

if TYPE_CHECKING:
    from puna.config import EngineConfig
    from puna.hub import CachedModel
    from puna.machine.choices import Choice
    from puna.machine.places import Place
    from puna.progress import Reporter

WIDTH = 80  # characters of a line
SHOWN = 20  # of the models that fit
NAME_WIDTH = 29  # the longest short name
INDENT = "  "


@click.command()
@click.option("--all", "show_all", is_flag=True, help="List every model that has a short name.")
@click.option("--next", "show_next", is_flag=True, help="Show only the commands to type next.")
@json_option
def command(show_all: bool, show_next: bool, as_json: bool) -> None:
    """List the models that are here, and those that would be best for this machine, with the command that fetches each."""
    if show_next:
        print("\n".join(_next_lines()))
        return
    if show_all:
        _show_all(as_json)
        return
    _show_here(as_json)


def show_choices(gpu: str | None, ram: int | None, engine: EngineConfig, report: Reporter, as_json: bool) -> None:
    """Print the published models that fit a device: `gpu` names a card, `ram` is main memory in bytes."""
    from puna.machine.choices import choices

    place = _place(engine, report, gpu, ram)
    found = choices(engine, place)
    if as_json:
        print_json({"device": place.name, "kernels": place.kernels, "models": [_facts(one) for one in found]})
    else:
        _print(_choice_lines(found, place))


# ---- what is here, and what would be best ----------------------------------------------------------------------------------


def _show_here(as_json: bool) -> None:
    from puna import hub
    from puna.config import EngineConfig
    from puna.machine.choices import best

    here = hub.cached_models()
    with TerminalReporter() as report:
        engine = EngineConfig.from_env()
        place = _place(engine, report)
        found = best(engine, place)
    if as_json:
        models = [{"name": one.name, "path": shown_path(one.path), "bytes": one.num_bytes} for one in here]
        print_json({"here": models, "device": place.name, "best": [_facts(one) for one in found]})
    else:
        _print(_here_lines(here, found, place))


def _here_lines(here: list[CachedModel], found: list[Choice], place: Place) -> Iterator[str]:
    yield "Here:"
    for model in here:
        yield f"{INDENT}{gb(model.num_bytes):>8}  {_short_name(model)}"
    if not here:
        yield f"{INDENT}nothing yet; puna run fetches a small model (98 MB) when it first needs one"
    yield ""
    yield f"Best for {place.name}, of those that puna knows:" if found else f"No larger model that puna knows fits {place.name}."
    yield from _table(found)
    if place.kernels:
        yield from textwrap.wrap(f"Speeds are not known: {place.kernels}.", WIDTH)
    if place.is_gpu and find_spec("torch") is None:
        yield f"The GPU needs PyTorch, which is not installed: {extra_command('gpu')}"
    yield ""
    yield "puna models --all lists every name; puna plan NAME shows more about one."


def _short_name(model: CachedModel) -> str:
    """The short name of a model in the cache, if it has one, and its full name."""
    from puna.hub.published import PUBLISHED, source_of

    for name in PUBLISHED:
        source = source_of(name)
        if source is not None and str(source.name) == model.name:
            return f"{name}  ({model.name})"
    return model.name


# ---- tables ------------------------------------------------------------------------------------------------------------------


def _table(found: Iterable[Choice]) -> Iterator[str]:
    """Name, size, speed and licence of each; below it the command."""
    for one in found:
        yield _row(one)
        yield f"{INDENT}    puna pull {one.name}"


def _row(one: Choice) -> str:
    speed = f"~{two_digits(one.fit.speed.decode_per_s)} tok/s" if one.fit.speed else ""
    return f"{INDENT}{one.name:<{NAME_WIDTH}} {one.source.size:>8} {speed:>11}  {one.source.model.licence}"


def _choice_lines(found: list[Choice], place: Place) -> Iterator[str]:
    whole = [one for one in found if one.is_whole]
    yield f"Models that fit {place.count} x {place.name}:" if place.count > 1 else f"Models that fit {place.name}:"
    yield from map(_row, whole[:SHOWN])
    if not whole:
        yield f"{INDENT}none that puna knows by name"
    if len(whole) > SHOWN:
        yield f"{INDENT}... and {len(whole) - SHOWN} smaller ones (--json lists all)"
    if more := len(found) - len(whole):
        yield f"{more} larger ones fit with fewer bits, or with layers in main memory: slower."
    if place.kernels:
        yield from textwrap.wrap(f"Speeds are not known: {place.kernels}.", WIDTH)
    elif any(one.fit.speed for one in found):
        yield f"Speeds are expected for one conversation ({place.rates.source if place.rates else ''})."
    yield "puna plan NAME shows more about one; puna pull NAME fetches it."


def _show_all(as_json: bool) -> None:
    from puna.hub.published import PUBLISHED, source_of

    sources = [source for source in map(source_of, PUBLISHED) if source is not None]
    if as_json:
        print_json({"models": [_source_facts(source) for source in sources]})
        return
    lines = (f"{INDENT}{one.model.name:<{NAME_WIDTH}} {one.size:>8}  {one.model.licence}" for one in sources)
    _print([*lines, "puna plan NAME shows whether it fits; puna pull NAME fetches it."])


def _next_lines() -> Iterator[str]:
    """The commands to type next: a chat, a better model for this machine, help. Measures nothing."""
    from puna.config import EngineConfig
    from puna.machine.choices import best
    from puna.machine.host import ThisHost
    from puna.machine.limits import remembered
    from puna.machine.places import place_for

    engine = EngineConfig.from_env()
    found = best(engine, place_for(engine, ThisHost(), remembered("cpu"), None, None), 1)
    rows = [("puna chat", "a conversation with the small model")]
    rows += [(f"puna chat {one.name}", f"a better model for this machine ({one.source.size})") for one in found]
    rows += [("puna --help", "all commands")]
    width = max(len(typed) for typed, _ in rows)
    yield from (f"{INDENT}{typed:<{width}}   {words}" for typed, words in rows)


def _place(engine: EngineConfig, report: Reporter, gpu: str | None = None, ram: int | None = None) -> Place:
    from puna.machine.host import ThisHost
    from puna.machine.places import place_for
    from puna.machine.rates import cpu_limits

    return place_for(engine, ThisHost(), cpu_limits(report) if gpu is None else None, gpu, ram)


def _facts(one: Choice) -> dict[str, Any]:
    expected = None if one.fit.speed is None else one.fit.speed._asdict()
    return {**_source_facts(one.source), "weights": one.fit.plan.weights, "expected": expected}


def _source_facts(source: Any) -> dict[str, Any]:
    return {
        "name": source.model.name,
        "source": str(source.name),
        "bytes": source.num_bytes,
        "licence": source.model.licence,
        "page": source.model.page,
        "command": f"puna pull {source.model.name}",
    }


def _print(lines: Iterable[str]) -> None:
    print("\n".join(map(printable, lines)))
