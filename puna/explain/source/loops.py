"""Tells sampling and generation loops by their syntax tree, and what each parameter of one is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from puna.explain.source.imports import dotted_name
from puna.explain.source.tracer.values import MODEL_NAMES, SIZES_NAMES, TOKENIZER_NAMES


class LoopKind(StrEnum):
    GENERATION = "generation loop"  # calls the model for each token
    SAMPLING = "sampling step"  # takes one token from logits or probabilities


class Purpose(StrEnum):
    """What a parameter is for."""

    PROMPTS = "the prompts, each a list of token ids"
    IDS = "the token ids so far"
    LOGITS = "the logits: a number for each token of the vocabulary"
    ALL_LOGITS = "the logits of all positions"
    PROBABILITIES = "a probability for each token of the vocabulary"
    MODEL = "the model"
    TOKENIZER = "the tokenizer"
    SIZES = "the model's sizes"
    TEXT = "a text"
    COUNT = "how many tokens to make at most"
    LENGTH = "how many tokens a sequence may have"
    TEMPERATURE = "divides the logits before the softmax"
    TOP_P = "the probability that the kept tokens reach together"
    TOP_K = "how many of the likeliest tokens are kept"
    MIN_P = "the least probability of a kept token, as a share of the largest"
    SWITCH = "switches a part of it on"
    END_ID = "the id that ends an answer"
    PAD_ID = "the id that fills up short rows"
    DEVICE = "where tensors are kept"
    SEED = "where the random numbers begin"
    FILTER_VALUE = "the logit of a removed token"
    LEAST_KEPT = "how many tokens are kept in any case"
    START = "the position of the first token"
    GENERATOR = "makes the random numbers; None: PyTorch's own"
    UNKNOWN = "puna cannot tell what it is for"


# Name of a parameter -> its purpose. What it is used for, below, comes first.
NAMES: Mapping[str, Purpose] = {
    **dict.fromkeys(("prompt_tokens", "prompts_ids", "prompt_ids_list"), Purpose.PROMPTS),
    **dict.fromkeys(("idx", "input_ids", "ids", "tokens", "token_ids", "context", "x", "inputs", "prompt"), Purpose.IDS),
    **dict.fromkeys(("logits", "scores", "next_token_logits", "last_logits"), Purpose.LOGITS),
    **dict.fromkeys(("probs", "probabilities", "p_dist"), Purpose.PROBABILITIES),
    **dict.fromkeys(MODEL_NAMES, Purpose.MODEL),
    **dict.fromkeys(TOKENIZER_NAMES, Purpose.TOKENIZER),
    **dict.fromkeys(SIZES_NAMES, Purpose.SIZES),
    **dict.fromkeys(
        ("max_gen_len", "max_new_tokens", "max_tokens", "num_tokens", "n_tokens", "steps", "n", "length", "max_length",
         "num_steps"), Purpose.COUNT),
    **dict.fromkeys(("max_seq_len", "block_size", "max_seq_length", "context_size", "context_length"), Purpose.LENGTH),
    **dict.fromkeys(("temperature", "temp", "t"), Purpose.TEMPERATURE),
    **dict.fromkeys(("top_p", "p", "nucleus", "threshold"), Purpose.TOP_P),
    **dict.fromkeys(("top_k", "k"), Purpose.TOP_K),
    "min_p": Purpose.MIN_P,
    **dict.fromkeys(("logprobs", "echo", "sample", "do_sample", "greedy", "verbose", "stream", "use_cache"), Purpose.SWITCH),
    **dict.fromkeys(("eos_id", "eos_token_id", "eot", "eos", "stop_id", "end_id"), Purpose.END_ID),
    **dict.fromkeys(("pad_id", "pad_token_id"), Purpose.PAD_ID),
    "device": Purpose.DEVICE,
    **dict.fromkeys(("seed", "random_seed"), Purpose.SEED),
    "filter_value": Purpose.FILTER_VALUE,
    "min_tokens_to_keep": Purpose.LEAST_KEPT,
    **dict.fromkeys(("start_pos", "input_pos", "start"), Purpose.START),
    **dict.fromkeys(("text", "prompt_text"), Purpose.TEXT),
    **dict.fromkeys(("rng", "generator", "gen"), Purpose.GENERATOR),
}  # fmt: skip
SAMPLERS = frozenset({"multinomial", "cumsum", "topk", "sort", "argsort"})
CHOICES = frozenset({"multinomial", "argmax", "topk", "softmax", "sort", "sample"})
MAX_REACHED = 32  # functions that one calls
EDITS = frozenset({"masked_fill", "scatter", "where"})  # what changes logits by the tokens so far


@dataclass(frozen=True, slots=True)
class Loop:
    """A function that puna can run as data. purposes: of each parameter, in their order, without `self`."""

    kind: LoopKind
    purposes: Mapping[str, Purpose]


def recognised(node: ast.FunctionDef, functions: Mapping[str, ast.FunctionDef], aliases: Mapping[str, str]) -> Loop | None:
    """What a function is; None if it is no loop that puna knows. `functions`: the others of the file, by their last names."""
    called = _called_names(node, aliases)
    reached = _reached(node, functions, aliases)
    deep = {name for one in reached for name in _called_names(one, aliases)}
    parameters = _parameters(node)
    uses = _uses_of(node, parameters, aliases)
    purposes = {name: _purpose(name, uses[name], node) for name in parameters}
    calls_in_loop = any(_calls_model(one, parameters) for loop in _loops(node) for one in ast.walk(loop))
    hands_model_on = any(_hands_on(one, functions, parameters) for one in ast.walk(node))
    if deep & CHOICES and (calls_in_loop or (hands_model_on and any(list(_loops(one)) for one in reached))):
        return Loop(LoopKind.GENERATION, purposes)
    rows = {Purpose.LOGITS, Purpose.ALL_LOGITS, Purpose.PROBABILITIES} & set(purposes.values())
    is_sampling = "multinomial" in deep or len(called & SAMPLERS) >= 1 or ("softmax" in called and "argmax" in called)
    is_processor = bool(called & EDITS) and {Purpose.IDS, Purpose.LOGITS} <= set(purposes.values())
    return Loop(LoopKind.SAMPLING, purposes) if rows and (is_sampling or is_processor) else None


def _reached(
    node: ast.FunctionDef, functions: Mapping[str, ast.FunctionDef], aliases: Mapping[str, str]
) -> list[ast.FunctionDef]:
    """A function, and those of the file that it calls, directly or through others."""
    found = [node]
    for one in found:
        called = sorted(name for name in _called_names(one, aliases) if name in functions)
        found += [functions[name] for name in called if functions[name] not in found][: MAX_REACHED - len(found)]
    return found


def _hands_on(node: ast.AST, functions: Mapping[str, ast.FunctionDef], parameters: list[str]) -> bool:
    """Whether a node gives its model to another function of the file."""
    if not isinstance(node, ast.Call) or _last(node.func) not in functions:
        return False
    return any(isinstance(one, ast.Name) and one.id in MODEL_NAMES and one.id in parameters for one in node.args)


def _parameters(node: ast.FunctionDef) -> list[str]:
    spec = node.args
    return [one.arg for one in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs) if one.arg not in ("self", "cls")]


def _loops(node: ast.FunctionDef) -> Iterator[ast.AST]:
    return (one for one in ast.walk(node) if isinstance(one, ast.For | ast.While))


def _called_names(node: ast.AST, aliases: Mapping[str, str]) -> set[str]:
    """The last names of what is called: softmax of F.softmax(...)."""
    return {
        dotted_name(one.func, aliases).rpartition(".")[2] or _last(one.func)
        for one in ast.walk(node)
        if isinstance(one, ast.Call)
    }


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _calls_model(node: ast.AST, parameters: list[str]) -> bool:
    """Whether a node calls a model: self(...), model(...), self.model.forward(...), or a helper that gets the model."""
    if not isinstance(node, ast.Call):
        return False
    last = _last(node.func)
    if last in ("self", "forward") or last in MODEL_NAMES:
        return True
    given = {one.id for one in node.args if isinstance(one, ast.Name)}
    return bool(given & MODEL_NAMES & set(parameters))


# ---- what a parameter is for ------------------------------------------------------------------------------------------------


def _uses_of(node: ast.FunctionDef, parameters: list[str], aliases: Mapping[str, str]) -> dict[str, set[Purpose]]:
    """What a function does with each of its parameters. One walk for all: a hostile function has thousands."""
    found: dict[str, set[Purpose]] = {name: set() for name in parameters}
    for one in ast.walk(node):
        for name in found.keys() & _names_in(one):
            found[name].update(_uses(name, one, aliases))
    return found


def _names_in(node: ast.AST) -> set[str]:
    """The names that are the parts of a node themselves, or the first argument or the object of a call."""
    parts: list[ast.AST | None] = []
    match node:
        case ast.comprehension(iter=first) | ast.For(iter=first):
            parts = [first]
        case ast.Call(func=func, args=args):
            parts = [*args[:1], func.value if isinstance(func, ast.Attribute) else None]
        case ast.BinOp(left=left, right=right):
            parts = [left, right]
        case ast.Subscript(value=first):
            parts = [first]
    return {one.id for one in parts if isinstance(one, ast.Name)}


def _purpose(name: str, uses: set[Purpose], node: ast.FunctionDef) -> Purpose:
    """By what the function does with it; else by its name."""
    for purpose in (Purpose.TEXT, Purpose.PROMPTS, Purpose.ALL_LOGITS, Purpose.LOGITS, Purpose.PROBABILITIES, Purpose.IDS):
        if purpose in uses and not (purpose is Purpose.LOGITS and NAMES.get(name) is Purpose.IDS):
            return purpose
    return NAMES.get(name) or (min(uses) if uses else purpose_of(name, node))


def purpose_of(name: str, node: ast.FunctionDef) -> Purpose:
    """What a parameter is for, by its name and annotation alone."""
    return NAMES.get(name) or _by_annotation(name, node)


def _by_annotation(name: str, node: ast.FunctionDef) -> Purpose:
    """A truth is a switch; of whole numbers, one without a default is a count."""
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    required = positional[: len(positional) - len(spec.defaults)]
    kinds = {one.arg: ast.unparse(one.annotation) for one in (*positional, *spec.kwonlyargs) if one.annotation is not None}
    if kinds.get(name) == "bool":
        return Purpose.SWITCH
    return Purpose.COUNT if kinds.get(name) == "int" and name in [one.arg for one in required] else Purpose.UNKNOWN


def _uses(name: str, node: ast.AST, aliases: Mapping[str, str]) -> Iterator[Purpose]:
    match node:
        case ast.comprehension(iter=ast.Name(id=used), target=ast.Name(id=each)) if used == name:
            yield from (Purpose.PROMPTS,) if each not in ("_",) and _holds_rows(name, NAMES.get(name)) else ()
        case ast.For(iter=ast.Name(id=used), target=ast.Name(id=each)) if used == name and _is_measured(each, node):
            yield Purpose.PROMPTS
        case ast.Call(func=ast.Name(id=called), args=[ast.Name(id=used), *_]) if used == name and called in TOKENIZER_NAMES:
            yield Purpose.TEXT
        case ast.Call(func=ast.Attribute(attr="encode"), args=[ast.Name(id=used), *_]) if used == name:
            yield Purpose.TEXT
        case ast.Call(func=func, args=[ast.Name(id=used), *_]) if used == name:
            yield from _as_first_argument(dotted_name(func, aliases).rpartition(".")[2] or _last(func))
        case ast.BinOp(left=ast.Name(id=used), op=ast.Div()) if used == name:
            yield Purpose.LOGITS
        case ast.BinOp(right=ast.Name(id=used), op=ast.Div()) if used == name:
            yield Purpose.TEMPERATURE
        case ast.Call(func=ast.Attribute(value=ast.Name(id=used), attr=method)) if used == name:
            yield from _as_first_argument(method)
        case ast.Subscript(value=ast.Name(id=used), slice=ast.Tuple(elts=[_, ast.UnaryOp(), *_])) if used == name:
            yield from (Purpose.ALL_LOGITS,) if name == "logits" else ()  # scores are the last position's already


def _is_measured(each: str, loop: ast.For) -> bool:
    """Whether a loop asks for the length of what it takes: then that is a list."""
    calls = (one for one in ast.walk(loop) if isinstance(one, ast.Call) and _last(one.func) == "len")
    return any(isinstance(one.args[0], ast.Name) and one.args[0].id == each for one in calls if one.args)


def _holds_rows(name: str, usual: Purpose | None) -> bool:
    return usual in (None, Purpose.PROMPTS, Purpose.IDS)


def _as_first_argument(function: str) -> Iterator[Purpose]:
    """What the first argument of a function is for, by the function's name."""
    if function in FIRST_ARGUMENTS:
        yield FIRST_ARGUMENTS[function]


FIRST_ARGUMENTS: Mapping[str, Purpose] = {
    **dict.fromkeys(("softmax", "log_softmax"), Purpose.LOGITS),
    **dict.fromkeys(("multinomial", "cumsum"), Purpose.PROBABILITIES),
}
