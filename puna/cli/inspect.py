"""puna inspect: shows what is in a model, and what is wrong with it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli.options import guessed_template_of, json_option, tokenizer_option
from puna.cli.terminal import TerminalReporter, print_json, printable, shown_path
from puna.cli.width import cut, pad, report_width
from puna.cli.word_wrap import wrapped
from puna.model.spec import Experts, ModelConfig
from puna.model.weights import active_share
from puna.units import counted, gb, megabytes, short_count

if TYPE_CHECKING:
    from puna.formats.base import Checkpoint, TokenizerSpec
    from puna.health import HealthFinding

TEMPLATE_LINES = 6
READ_UP_TO = 2 << 30  # bytes of weights that are checked by default: some seconds
# Tokens with a use of their own -> what it is.
USES = {
    "bos": "(begins a text)",
    "eos": "(ends a text)",
    "eot": "(ends a turn)",
    "unk": "(stands for unknown text)",
    "pad": "(fills a batch)",
}
KIND_NAMES = {"bpe": "byte-level BPE", "spm": "SentencePiece", "unigram": "SentencePiece Unigram"}


@click.command()
@click.argument("model", required=False)
@click.option("--tensors", "list_tensors", is_flag=True, help="List every tensor.")
@click.option("--weights/--no-weights", default=None, help="Check all weights [if they are 2 GiB or less].")
@tokenizer_option
@json_option
def command(model: str | None, list_tensors: bool, weights: bool | None, tokenizer: Path | None, as_json: bool) -> None:
    """Show what is in a model, and what is wrong with it: the effect on the output, and how to fix it.

    Exit code 1 if a finding is an error.
    """
    from puna import hub
    from puna.formats import open_checkpoint
    from puna.health import examine

    with TerminalReporter() as report:
        path = hub.resolve(model, report)
        checkpoint = open_checkpoint(path, tokenizer)
        size = sum(tensor.num_bytes for tensor in checkpoint.tensors.values())
        read = size <= READ_UP_TO if weights is None else weights
        findings = examine(checkpoint, weights=read, report=report)
    facts = describe(checkpoint, list_tensors) | {"health": [asdict(finding) for finding in findings], "weights_read": read}
    if as_json:
        print_json(facts)
    else:
        print("\n".join(_fitted([*lines_of(facts), *_section("health", _health_lines(findings, read, size))])))
    if any(finding.severity == "error" for finding in findings):
        raise click.exceptions.Exit(1)


def _fitted(lines: Iterable[str]) -> Iterator[str]:
    """Lines wrapped at words to the width of the report; continuation lines keep the indentation."""
    width = report_width(sys.stdout)
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        yield from wrapped(line.strip(), width, indent, f"{indent}  ")


def _health_lines(findings: list[HealthFinding], read: bool, size: int) -> Iterator[str]:
    if not any(finding.severity != "note" for finding in findings):
        yield "no problem found"
    if not read:
        yield f"puna did not check the weights ({gb(size)}); --weights checks them"
    for finding in findings:
        yield f"{finding.severity}: {printable(finding.found)}"
        yield f"  {printable(finding.effect)}"
        yield f"  {printable(finding.cure)}"


SIZES = ("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "ffn_size", "vocab_size", "max_context")
SAID = ("norm_eps", "tie_embeddings", "architecture", "name", "sliding_window", "windowed_layers")
FLAGS = ("qkv_bias", "o_bias", "ffn_bias", "qk_norm")  # of the extras; they are always told, the others where they are


def config_facts(config: ModelConfig) -> dict[str, Any]:
    """A model's sizes and features, as JSON types."""
    facts = {name: getattr(config, name) for name in (*SIZES, *SAID)} | {name: name in config.extras for name in FLAGS}
    experts = next((layer.ffn for layer in config.layers if isinstance(layer.ffn, Experts)), None)
    if experts is not None:
        facts |= {"num_experts": experts.count, "experts_per_token": experts.top_k}
    facts["more"] = tuple(name for name in config.extras if name not in (*FLAGS, *SAID))
    ropes = [asdict(rope) for rope in config.ropes]
    return facts | {"rope": ropes[0]} | ({"local_rope": ropes[1]} if len(ropes) > 1 else {})


def describe(checkpoint: Checkpoint, list_tensors: bool = False) -> dict[str, Any]:
    """The facts of a checkpoint, as JSON types."""
    tensors = checkpoint.tensors.values()
    facts: dict[str, Any] = {
        "path": shown_path(checkpoint.path),
        "format": checkpoint.format,
        "files": [{"path": shown_path(path), "bytes": path.stat().st_size} for path in checkpoint.files or (checkpoint.path,)],
        "parameters": sum(prod(tensor.shape) for tensor in tensors),
        "active_parameters": _active_parameters(checkpoint),
        "config": config_facts(checkpoint.config),
        "tensor_types": _by_type(checkpoint),
        "tokenizer": _tokenizer_facts(checkpoint.tokenizer),
        "chat_template": checkpoint.chat_template,
        "guessed_template": None if checkpoint.chat_template else guessed_template_of(checkpoint),
        "unused_keys": list(checkpoint.unused_keys),
    }
    if list_tensors:
        facts["tensors"] = [{"name": t.name, "type": t.type.name, "shape": list(t.shape), "bytes": t.num_bytes} for t in tensors]
    return facts


def _active_parameters(checkpoint: Checkpoint) -> int:
    """Those that a token uses: of experts, the ones that the router chooses."""
    return sum(round(prod(tensor.shape) * active_share(checkpoint.config, name)) for name, tensor in checkpoint.tensors.items())


def _by_type(checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
    """Type -> how many tensors, weights and bytes, the largest first."""
    counts: dict[str, Counter[str]] = {}
    for tensor in checkpoint.tensors.values():
        new = {"tensors": 1, "weights": prod(tensor.shape), "bytes": tensor.num_bytes}
        counts.setdefault(tensor.type.name, Counter()).update(new)
    return {name: dict(c) for name, c in sorted(counts.items(), key=lambda item: -item[1]["bytes"])}


def _tokenizer_facts(spec: TokenizerSpec | None) -> dict[str, Any] | None:
    if spec is None:
        return None
    facts: dict[str, Any] = {"kind": spec.kind, "pre": spec.pre, "tokens": len(spec.tokens), "merges": len(spec.merges)}
    facts["cut_by"] = "tokenizers" if spec.pipeline else "puna"
    for name in ("bos_id", "eos_id", "eot_id", "unk_id", "pad_id"):
        token_id = getattr(spec, name)
        facts[name] = token_id
        if token_id is not None:
            facts[name.replace("_id", "_token")] = spec.tokens[token_id].decode("utf-8", errors="replace")
    return facts | {"add_bos": spec.add_bos, "add_eos": spec.add_eos, "add_space_prefix": spec.add_space_prefix}


def lines_of(facts: dict[str, Any]) -> Iterator[str]:
    """The facts as text. Texts of the file are escaped."""
    total, active = facts["parameters"], facts["active_parameters"]
    used = "" if active == total else f", {short_count(active)} active"
    yield f"{printable(facts['path'])}: {facts['format']}, {short_count(total)} parameters{used}"
    if len(facts["files"]) > 1:
        yield from (f"  {printable(file['path'])}  {megabytes(file['bytes'], 1)}" for file in facts["files"])
    yield from _section("config", _config_lines(facts["config"]))
    yield from _section("tensors", _type_lines(facts["tensor_types"]))
    yield from _section("tokenizer", _tokenizer_lines(facts["tokenizer"]))
    yield from _section("chat template", _template_lines(facts["chat_template"], facts["guessed_template"]))
    yield from _section("keys that puna does not use", map(printable, facts["unused_keys"] or ["none"]))
    if "tensors" in facts:
        yield from _section("all tensors", (_tensor_line(tensor) for tensor in facts["tensors"]))


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield ""
    yield title
    yield from (f"  {line}" for line in lines)


def _config_lines(config: dict[str, Any]) -> Iterator[str]:
    window = config["sliding_window"]
    said = config | {"sliding_window": f"{window} tokens" if window else "none"}
    said |= {name: _rope_line(config[name]) for name in ("rope", "local_rope") if name in config}
    shown = {name: value for name, value in said.items() if value not in (None, "", ())}
    yield from (f"{name:<17}{printable(_plain(value))}" for name, value in shown.items())


def _rope_line(rope: dict[str, Any]) -> str:
    """The scaling, with only the numbers that its kind uses."""
    used = {"none": ("theta",), "linear": ("theta", "factor")}.get(rope["scaling"], tuple(rope))
    shown = ", ".join(f"{name} {_plain(rope[name])}" for name in used if name not in ("factors", "scaling"))
    factors = f", {len(rope['factors'])} frequency factors" if rope["factors"] else ""
    return f"{shown}, scaling {rope['scaling']}{factors}"


def _plain(value: Any) -> str:
    """
    >>> _plain(1e-5), _plain(True), _plain((0, 2)), _plain("llama")
    ('1e-05', 'yes', '0, 2', 'llama')
    """
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value))
    return str(value)


def _type_lines(types: dict[str, dict[str, int]]) -> Iterator[str]:
    for name, count in types.items():
        bits = 8 * count["bytes"] / max(1, count["weights"])
        number, noun = counted(count["tensors"], "tensor").split()
        yield f"{name:<8}{number:>5} {noun:<7}  {megabytes(count['bytes'], 1):>13}  {bits:>5.2f} bits per weight"


def _tokenizer_lines(facts: dict[str, Any] | None) -> Iterator[str]:
    if facts is None:
        yield "none in the file"
        return
    kind = KIND_NAMES.get(facts["kind"], facts["kind"])
    splitter = printable(facts["pre"]) or "of its own"
    yield f"{printable(kind)}, {counted(facts['tokens'], 'token')}, {counted(facts['merges'], 'merge')}, splitter {splitter}"
    if facts["cut_by"] == "tokenizers":
        yield "cut by the tokenizers library, as its tokenizer.json says"
    for name, use in USES.items():
        if facts[f"{name}_id"] is not None:
            yield f"{name}  {facts[f'{name}_id']}  {printable(facts[f'{name}_token'])}  {use}"
    yield ", ".join(f"{name} {_plain(facts[name])}" for name in ("add_bos", "add_eos", "add_space_prefix"))


def _template_lines(template: str | None, guessed: str | None) -> Iterator[str]:
    if template is None and guessed is not None:
        yield f"none in the model; puna uses {guessed}, which fits its control tokens"
        return
    lines = (template or "none in the model, and no built-in fits its vocabulary").splitlines()
    yield from (cut(printable(line), report_width(sys.stdout) - 2) for line in lines[:TEMPLATE_LINES])
    if len(lines) > TEMPLATE_LINES:
        yield f"... {len(lines)} lines, {len(template or '')} characters in all"


def _tensor_line(tensor: dict[str, Any]) -> str:
    shape = " x ".join(map(str, tensor["shape"]))
    return f"{pad(printable(tensor['name']), 36)} {tensor['type']:<8}{shape:>14} {tensor['bytes']:>12} B"
