"""The tokens by which model families mark turns, and how puna corrects them if a file types them as ordinary text.

A marker that is no control token does not end an answer, is shown to people, and can be typed by them. llama.cpp gives the ends
of turns the type "control" whatever the file says; its converter also does so for each added token of the shape <|...|>. puna
does both, the latter only for tokens that the chat template writes: others may be part of an answer (Qwen's infill tokens).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown
from puna.formats.notices import Doubt
from puna.formats.token_types import CONTROL, NORMAL, USER_DEFINED
from puna.formats.vocabulary import piece_types

# Tokens that end a turn or a text, by family.
ENDS: dict[str, tuple[str, ...]] = {
    "many": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|endofturn|>", "<|end_of_turn|>", "<|eos|>"),
    "ChatML: Qwen, SmolLM, Yi": ("<|im_end|>",),
    "Llama 3": ("<|eot_id|>", "<|eom_id|>"),
    "Llama 4": ("<|eot|>", "<|eom|>"),
    "Phi 3 and 4": ("<|end|>",),
    "Gemma": ("<end_of_turn>", "<turn|>"),
    "DeepSeek": ("<｜end▁of▁sentence｜>",),
    "gpt-oss": ("<|return|>", "<|call|>"),
    "Solar Open": ("<|flush|>", "<|calls|>"),
    "Command": ("<|END_OF_TURN_TOKEN|>",),
    "EXAONE": ("[|endofturn|]",),
    "Apertus": ("<|assistant_end|>",),
    "Ling": ("<|role_end|>",),
    "Kimi": ("[EOT]", "[EOS]"),
    "SmolVLM": ("<end_of_utterance>",),
    "CodeLlama": ("<EOT>", "_<EOT>", "▁<EOT>"),
}
STOP_TEXTS: tuple[str, ...] = tuple(text for texts in ENDS.values() for text in texts)
# In a vocabulary with one of these pairs, <|end|> ends a message inside an answer, not the answer.
NOT_THE_LAST = {"<|end|>": (frozenset({"<|return|>", "<|call|>"}), frozenset({"<|calls|>", "<|flush|>"}))}

# Tokens that begin a turn, or come between its role and its text.
STARTS: dict[str, tuple[str, ...]] = {
    "ChatML": ("<|im_start|>", "<|im_sep|>"),
    "Llama 3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    "Llama 4": ("<|header_start|>", "<|header_end|>"),
    "Phi, GLM, Zephyr": ("<|system|>", "<|user|>", "<|assistant|>", "<|developer|>", "<|tool|>", "<|observation|>"),
    "Gemma": ("<start_of_turn>", "<|turn>"),
    "DeepSeek": ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    "gpt-oss": ("<|start|>", "<|message|>", "<|channel|>", "<|constrain|>"),
    "Command": ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    "Granite": ("<|start_of_role|>", "<|end_of_role|>"),
    "Mistral": ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
                "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    "EXAONE": ("[|system|]", "[|user|]", "[|assistant|]"),
    "Kimi": ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"),
    "Apertus": ("<|system_start|>", "<|system_end|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>"),
    "Ling": ("<|role_start|>",),
}  # fmt: skip
MARKERS = frozenset((*STOP_TEXTS, *(text for texts in STARTS.values() for text in texts)))
TAG = re.compile(r"<\|[^<>|\s]{1,48}\|?>|<[^<>|\s]{1,48}\|>|<｜[^<>｜\s]{1,48}｜>|\[\|[^\[\]|\s]{1,48}\|\]")
BEGINNINGS = tuple(text.encode() for text in ("<", "[", "_<", "▁<"))  # of all markers and tags
MAX_TOLD = 6


def end_ids(control_tokens: dict[str, int]) -> frozenset[int]:
    """The ids of the control tokens (text -> id) that end a turn or a text in every model that has them."""
    found = {text for text in STOP_TEXTS if text in control_tokens}
    inner = {text for text, pairs in NOT_THE_LAST.items() if any(pair <= found for pair in pairs)}
    return frozenset(control_tokens[text] for text in found - inner)


def with_markers(spec: TokenizerSpec, template: str | None) -> tuple[TokenizerSpec, tuple[Doubt, ...]]:
    """`spec` with each turn marker a control token, and a notice of those that the file types as ordinary text."""
    types = piece_types(spec)
    likely = (token_id for token_id, token in enumerate(spec.tokens) if token.startswith(BEGINNINGS))
    wrong = [i for i in likely if types[i] in (0, NORMAL, USER_DEFINED) and _is_marker(spec.tokens[i], template)]
    if not wrong:
        return spec, ()
    for token_id in wrong:
        types[token_id] = CONTROL
    texts = {spec.tokens[token_id] for token_id in wrong}
    changed = replace(spec, token_types=np.array(types, np.int32), merges=_without(spec.merges, texts))
    return changed, (_told([spec.tokens[token_id] for token_id in wrong]),)


def _is_marker(token: bytes, template: str | None) -> bool:
    text = token.decode("utf-8", "replace")
    return text in MARKERS or (template is not None and TAG.fullmatch(text) is not None and text in template)


def _without(merges: Sequence[bytes], texts: set[bytes]) -> Sequence[bytes]:
    """The merges that neither make nor use one of these texts: no text merges into a control token."""
    making = {b"%b %b" % (text[:cut], text[cut:]) for text in texts for cut in range(len(text) + 1)}
    first, last = tuple(text + b" " for text in texts), tuple(b" " + text for text in texts)
    return [merge for merge in merges if not (merge in making or merge.startswith(first) or merge.endswith(last))]


def _told(tokens: list[bytes]) -> Doubt:
    names = ", ".join(shown(token.decode("utf-8", "replace")).strip("'") for token in tokens[:MAX_TOLD])
    more = f" and {len(tokens) - MAX_TOLD} more" if len(tokens) > MAX_TOLD else ""
    one = len(tokens) == 1
    return Doubt(
        f"the vocabulary types {names}{more} as ordinary text; puna treats {'it' if one else 'them'} as "
        f"{'a control token' if one else 'control tokens'}, as llama.cpp does"
    )
