"""Wordings: error texts as programs print them, in lower case, with placeholders for varying parts.

  out of memory            these words, with a space, the end of a line or nothing between them
  tried to allocate {wanted:size}   a value to extract; FIELDS lists the kinds
  gpu ... is free          at most MAX_GAP characters between
  error ~~~ no module      at most MAX_FAR characters between: the lines of a traceback
  ^killed$                 a line that begins or ends here

They become regular expressions without nested repetition, so no text can make them slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from puna.causes.names import ARGUMENTS, KERNELS, KNOWN_ALONE, OF_A_CACHE, OF_A_TOKENIZER, OWNERS, PACKAGES, TOOLS

MAX_GAP = 160
MAX_FAR = 2400
MAX_FIELD = 256  # characters of an extracted value: see FIELDS
FIELDS = {
    "int": r"\d{1,12}",
    "number": r"\d{1,12}(?:[.,]\d{1,6})?",
    "size": r"\d{1,12}(?:[.,]\d{1,6})?\s?(?:[kmgt]i?b|bytes)",
    "gib": r"\d{1,9}\.\d\d\s?[kmgt]ib",  # PyTorch's form of sizes, rare elsewhere
    "word": r"[^\s'\"`,;()<>\[\]{}]{1,120}",
    "path": r"[^\s'\"`,;()<>]{1,200}",
    "device": r"(?:cuda|cpu|mps|xpu|npu|hip|meta)(?::\d{1,3})?",
    "shape": r"\d[\d, ]{0,60}",
    "cudalib": r"lib(?:cu|nv|nccl|caffe2_nvrtc)[\w.-]{1,60}",  # CUDA's and the driver's
    "torch": r"(?:_z(?:t[isv])?n?k?(?:3c10|2at|5torch|\d{1,2}thp)|aoti_torch_)\w{1,160}",  # PyTorch's, as compilers write them
    "own": r"_z(?:t[isv])?n?k?(?!3c10|2at|5torch|\d{1,2}thp)\d\w{1,200}",  # names of anybody else's, but for C++'s own
    "kernels": rf"[^\s'\"`,;()<>]{{0,150}}(?:{'|'.join(KERNELS)})[^\s'\"`,;()<>]{{0,80}}",  # a package of compiled kernels
    "range": r"[^\s'\"`;()]{1,120}",  # a package with its versions: torch<2.11,>=2.4
    "pin": r"[\w.-]{1,80}==\w(?:[\w.+!-]{0,40}\w)?",  # a package with its one version, without the full stop of a sentence
    "bounds": r"[<>=!~^][\d.,<>=!~^* ]{1,60}",  # versions without a package: >=3.9, <3.13
    "sign": r"[<>=!~]{1,3}",
    "code": r"-?\d{1,20}",  # how a process ended: 20 digits, where a negative number was taken for a positive one
    "gfx": r"gfx\d{2,3}[0-9a-f]",  # AMD's names of chips
    "name": r"\w{1,80}",
    "package": rf"(?:{'|'.join(PACKAGES)})(?:\.[\w.]{{1,120}})?",
    "alone": "|".join(KNOWN_ALONE),
    "cachepart": "|".join(sorted(OF_A_CACHE, key=len, reverse=True)),
    "argument": "|".join(ARGUMENTS),
    "tokenizerpart": "|".join(OF_A_TOKENIZER),
    "owner": "|".join(OWNERS),
    "part": rf"(?:{'|'.join(PACKAGES)})\.[\w.]{{1,120}}",  # a module in a package
    "tool": "|".join(map(re.escape, TOOLS)),
}
# A wording that begins with one of these starts at a word, so a search need not try each letter.
BEGINNINGS = {
    "word": r"(?<![^\s'\"`,;()<>\[\]{}])",
    "path": r"(?<![^\s'\"`,;()<>])",
    "name": r"(?<!\w)",
    "tool": r"(?<![\w+-])",
    "int": r"(?<!\d)",
    "cudalib": r"(?<![\w.-])",
    "kernels": r"(?<![^\s'\"`,;()<>])",
    "range": r"(?<![^\s'\"`;()])",
    "gfx": r"(?<!\w)",
}
_PLACEHOLDER = re.compile(r"\{(?P<name>[a-z_]+):(?P<kind>[a-z]+)\}|(?P<gap> ?\.\.\. ?)|(?P<far> ~~~ )|(?P<space> )")
WORD = re.compile(r"[a-z0-9_']+")
SHINGLE = 3  # consecutive words: fewer occur in any text, more are cut too often
# Technical words: a part of a wording without any of them may come from any text.
TRADE = frozenset(
    (
        *(
            "allocate",
            "allocated",
            "allocation",
            "attention",
            "backend",
            "bfloat16",
            "bitsandbytes",
            "bos",
            "cache",
            "checkpoint",
        ),
        *(
            "cublas",
            "cuda",
            "cudamalloc",
            "cudnn",
            "dkms",
            "docker",
            "driver",
            "drivers",
            "dtype",
            "embedding",
            "ggml",
            "gguf",
            "gpu",
            "gpus",
            "half",
        ),
        *(
            "header",
            "headers",
            "heads",
            "kernel",
            "kv",
            "llama",
            "logits",
            "logprobs",
            "magic",
            "mat1",
            "memory",
            "metal",
            "mmap",
        ),
        *("model", "mok", "nccl", "nouveau", "nvidia", "nvml", "nvrm", "ollama", "pad", "padding", "prompt", "pytorch", "rank"),
        *(
            "rope_scaling",
            "safetensors",
            "smi",
            "state_dict",
            "tensor",
            "tensors",
            "tokenizer",
            "tokens",
            "torch",
            "transformers",
        ),
        *("vllm", "watchdog", "weights", "wheel", "wheels"),
    )
)
# Phrases of all kinds of programs: these alone identify no wording.
GENERIC = (
    *(
        "got an unexpected keyword argument",
        "no such file or directory",
        "cannot open shared object file",
        "address already in use",
    ),
    *("no module named", "no matching distribution found for", "could not find a version that satisfies the requirement"),
    *(
        "is not recognized as an internal or external command",
        "failed to connect to",
        "could not connect to",
        "error while loading",
    ),
    *("is invalid for input of size", "not found in directory", "is out of memory", "failed to load model", "connection refused"),
    *("the requested address is not valid in its context", "version is insufficient for", "please update your", "is not a valid"),
    *(
        "error response from daemon",
        "is not set and no",
        "is greater than the",
        "is larger than the",
        "is less than",
        "not found on your",
    ),
    *(
        "environment variable is not set",
        "expected but not set",
        "bind only one usage of each socket address",
        "does not exist or is",
        "bad return status for module build on kernel",
    ),
)


@dataclass(frozen=True, slots=True)
class Wording:
    """A wording, compiled for searching."""

    text: str
    pattern: re.Pattern[str]
    anchor: str  # its longest word without a placeholder: a text without it is skipped
    shingles: frozenset[tuple[str, ...]]  # runs of SHINGLE words that identify a part of it
    reach: int  # characters: its farthest extent from the anchor on either side


def compile_wording(text: str) -> Wording:
    """
    >>> found = compile_wording("mp={shards:int} but world size is {world:word}").pattern.search("mp=2 but world\\nsize is none")
    >>> found.groupdict()
    {'shards': '2', 'world': 'none'}
    """
    inner = text.removeprefix("^").removesuffix("$")
    pattern = ("^" if text.startswith("^") else "") + _expression(inner) + ("$" if text.endswith("$") else "")
    literals = _PLACEHOLDER.sub(" \0 ", inner.replace(" ", "\1")).replace("\1", " ")
    words = max(literals.replace("\0", " ").split(), key=len)
    reach = sum(_longest(placeholder) for placeholder in _PLACEHOLDER.finditer(inner)) + len(inner)
    return Wording(text, re.compile(pattern, re.MULTILINE), words, frozenset(_shingles(literals)), reach)


def shingles(words: list[str]) -> list[tuple[str, ...]]:
    """Each run of SHINGLE words.

    >>> shingles("a b c d".split())
    [('a', 'b', 'c'), ('b', 'c', 'd')]
    """
    return [tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)]


def _expression(text: str) -> str:
    parts, end = [], 0
    for placeholder in _PLACEHOLDER.finditer(text):
        parts += [re.escape(text[end : placeholder.start()]), _placeholder_pattern(placeholder)]
        end = placeholder.end()
    first = _PLACEHOLDER.match(text)
    beginning = BEGINNINGS.get(first["kind"] or "", "") if first is not None else ""
    return "".join([beginning, *parts, re.escape(text[end:])])


def _placeholder_pattern(placeholder: re.Match[str]) -> str:
    if placeholder["gap"]:
        return f"(?s:.{{0,{MAX_GAP}}}?)"
    if placeholder["far"]:
        return f"(?s:.{{0,{MAX_FAR}}}?)"
    return r"\s?" if placeholder["space"] else f"(?P<{placeholder['name']}>{FIELDS[placeholder['kind']]})"


def _longest(placeholder: re.Match[str]) -> int:
    """The maximum number of characters of a placeholder."""
    return MAX_FAR if placeholder["far"] else MAX_GAP if placeholder["gap"] else 1 if placeholder["space"] else MAX_FIELD


def _shingles(literals: str) -> list[tuple[str, ...]]:
    """The shingles of each part between two placeholders: words around a value are not consecutive."""
    runs = [run for part in literals.split("\0") for run in shingles(WORD.findall(part))]
    return [run for run in runs if run not in _generic()]


@cache
def _generic() -> frozenset[tuple[str, ...]]:
    return frozenset(run for phrase in GENERIC for run in shingles(phrase.split()))
