"""Settings in the words of who reads: texts name flags, as a command line has them; Python gets the keywords.

in_python("Use --device cpu, or a smaller --max-context.")        'Use device="cpu", or a smaller `max_context`.'
"""

from __future__ import annotations

import re

# Flags whose keyword is not the same word, or whose value is True.
_KEYWORDS = {
    "force": "overwrite=True",
    "require-gpu": "require_gpu=True",
    "raw": "generate()",  # it continues a text without a chat template
    "template": "chat_template",
}
_LISTS = ("lora",)  # keywords that take a list of what the flag takes one of
_SAME = (
    "cache-dir|cache-size|device|draft-model|kv-type|lora|max-context|max-tokens|quantize|sampling-defaults|shards|stop|threads|to|"
    "tokenizer|vram|"
    "weights"
)
# What may be the value of a flag: a number, a size, a word of a table, a placeholder.
_VALUE = (
    r"(?P<number>\d+)(?P<unit>[KMGT]iB)?\b(?![.\d])|(?P<word>auto|cpu|torch|reference|cuda(?::\d+)?|as-is|int[48]|q\d\w*|bf16|f16|"
    r"f32|model|puna|gguf|safetensors|meta|llama2c)\b|(?P<metavar>[A-Z]{2,}\b)"
)
_SHIFTS = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
# A flag in brackets behind its keyword: "context_shift=True (--context-shift)".
_TWIN = re.compile(r"(?<=[\w\]\"']) \(--[a-z][\w-]*(?: [^\s,;)]+)?\)")
# Commands stay as they are typed.
_FLAG = re.compile(rf"`[^`]*`|(?<![\w-])--(?P<flag>{_SAME}|{'|'.join(_KEYWORDS)})(?![\w-])(?: (?:{_VALUE}))?")


def in_python(text: str) -> str:
    """The text with keywords in place of flags.

    >>> in_python("Take --vram 512MiB, or --weights int8; --max-context may be up to 64. `puna doctor --device cuda` tests it.")
    'Take vram=512 << 20, or weights="int8"; `max_context` may be up to 64. `puna doctor --device cuda` tests it.'
    >>> in_python("Add context_shift=True (--context-shift), or a stride (--stride).")
    'Add context_shift=True, or a stride.'
    """
    return _FLAG.sub(_keyword, _TWIN.sub("", text)) if "--" in text else text


def _keyword(found: re.Match[str]) -> str:
    flag = found["flag"]
    if flag is None:  # a command
        return found[0]
    name = _KEYWORDS.get(flag, flag.replace("-", "_"))
    if found["number"]:
        return f"{name}={found['number']}" + (f" << {_SHIFTS[found['unit']]}" if found["unit"] else "")
    if found["metavar"] and name in _LISTS:
        return f'{name}=["{found["metavar"]}"]'
    if found["word"] or found["metavar"]:
        return f'{name}="{found["word"]}"' if found["word"] else f"{name}={found['metavar']}"
    return f"`{name}`"
