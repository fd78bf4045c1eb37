"""Recognises architectures that puna does not run by model name, and suggests similar names of models that it runs.

For a name of another architecture, even a mistyped one, puna never suggests a similar Llama.
"""

from __future__ import annotations

import difflib
import re

from puna.hub.published import PUBLISHED, find_published, spelled

_EXPERTS = "a mixture of experts"
_VISION = "a model of images and text"
_STATE = "a hybrid of attention and state-space or recurrent layers"
_OWN = "an architecture of its own"

# Part of a name (in `spelled` form) -> its architecture. The first match counts.
_ANYWHERE: tuple[tuple[str, str], ...] = (
    (r"llama-4|llama4|scout|maverick", f"{_EXPERTS} (Llama 4)"),
    (r"llama-3\.2-(11b|90b)|llama-3\.2.*vision", f"{_VISION} (Llama 3.2 Vision)"),
    (r"nemotron-(h|super|ultra|[34]|mini)(?![a-z])|minitron", f"{_OWN} (Nemotron)"),
    (r"falcon-?h1", f"{_STATE} (Falcon-H1)"),
    (r"falcon-?(mamba|e\b|\d+b|rw|edge)|falcon2", f"{_OWN} (Falcon before version 3)"),
    (r"qwen-?3-next|qwen-?3\.[5-9]|qwen-?[4-9](?![\db.])", f"{_STATE} (Qwen3-Next, Qwen3.5)"),
    (r"qwen.*-vl|qwen-?vl|qvq|qwen.*-(omni|audio)|qwen2-audio", f"{_VISION} (Qwen-VL)"),
    (r"qwen-?(1\.5|2)(?!\.).*(-a\d+(\.\d+)?b|moe)|qwen-?2-57b", f"{_EXPERTS} (Qwen1.5-MoE, Qwen2-MoE)"),
    (r"^qwen-?(1\.8b|7b|14b|72b)(-chat)?$", f"{_OWN} (the first Qwen)"),
    (r"deepseek-?r1(-0528|-zero)?(-671b)?$|deepseek-?v\d|deepseek-?coder-?v2|deepseek-?moe|deepseek-?(chat|reasoner)$",
     f"{_EXPERTS} (DeepSeek V2, V3, R1)"),
    (r"deepseek-?(vl|ocr)|janus", f"{_VISION} (DeepSeek-VL)"),
    (r"mistral-small-?4|mistral-large-?3|mistral-?medium", f"{_OWN} (Mistral 4)"),
    (r"pixtral|voxtral|llava|bakllava|smolvlm|idefics|internvl|minicpm-?v|moondream|cogvlm|paligemma|molmo", _VISION),
    (r"codestral-?mamba|mamba", f"{_STATE} (Mamba)"),
    (r"gemma(?!-?[23](?![\db.n]))", f"{_OWN} (Gemma 1, 3n and 4)"),
    (r"granite.*(-a\d+(\.\d+)?[bm]|moe|-h-|-h$|tiny|small|vision|speech)", f"{_OWN} (Granite with experts or states)"),
    (r"phi-?[34].*(small|moe|vision|multimodal|flash)", f"{_OWN} (Phi with experts, images or states)"),
    (r"gpt-?oss", f"{_EXPERTS} (gpt-oss)"),
)  # fmt: skip
# Start of a name -> its architecture. Matches whole words, up to a digit.
_AT_THE_BEGINNING: tuple[tuple[str, str], ...] = (
    (r"phi-?[12]|phi$|phixtral", f"{_OWN} (Phi 1 and 2)"),
    (r"distilgpt|gpt-?2|gpt-?j|gpt-?neox?|gptneo|gpt-?bigcode|gpt-?[345]|dialogpt|pythia|dolly", "an older decoder (GPT)"),
    (r"glm|chatglm", f"{_OWN} (GLM)"),
    (r"kimi|moonlight|minimax|dbrx|grok|arctic|olmoe|hunyuan|ling|ring|longcat|step-?3|dots", _EXPERTS),
    (r"olmo(?!-?[23])", f"{_OWN} (the first OLMo)"),
    (r"command|aya|cohere|tiny-?aya", f"{_OWN} (Cohere)"),
    (r"internlm|baichuan|minicpm|exaone(?!-?4)|orion|xverse|bitnet|apertus|arcee|afm|seed-?oss|ernie|jais|plamo|nemotron", _OWN),
    (r"stablelm|stable-?(code|lm|beluga)|starcoder|starchat|santacoder|codegen|replit|refact|persimmon|fuyu", _OWN),
    (r"bloomz?|opt|mpt|xglm|galactica|codeshell", "an older decoder"),
    (r"jamba|zamba|rwkv|lfm|recurrent|griffin|hymba|bamba", _STATE),
    (r"t5|flan|mt5|ul2|bart|pegasus|whisper", "an encoder with a decoder"),
    (r"bert|roberta|deberta|e5|bge|gte|nomic|minilm|jina|mxbai|embed|rerank", "an encoder for embeddings"),
    (r"stable-?diffusion|sdxl|flux|sd-?[1-9]|wan|hidream", "a model of images"),
)  # fmt: skip
_OTHERS = (
    *((re.compile(pattern), words) for pattern, words in _ANYWHERE),
    *((re.compile(rf"^(?:{pattern})(?![a-z])"), words) for pattern, words in _AT_THE_BEGINNING),
)

# First words of their names, to recognise mistyped ones.
_OTHER_WORDS = (
    "codegemma", "glm", "chatglm", "kimi", "command", "starcoder",
    "stablelm", "jamba", "mamba", "internlm", "baichuan", "minicpm", "pythia", "bloom", "gpt", "dbrx",
    "grok", "pixtral", "llava", "whisper", "bert", "hunyuan", "ernie", "apertus", "minimax", "smolvlm", "rwkv",
    "nemotron", "arcee",
)  # fmt: skip
_WORD = re.compile(r"[a-z]+")
_PARTS = re.compile(r"\d+(?:\.\d+)?[bm]?|[a-z]+")


def other_family(name: str) -> str | None:
    """The architecture of a model that puna does not run, from its (perhaps mistyped) name; None if the name does not say.

    >>> other_family("gemma-7b"), other_family("gpt-oss:20b"), other_family("llama-2-7b"), other_family("starcodr2:7b")
    ('an architecture of its own (Gemma 1, 3n and 4)', 'a mixture of experts (gpt-oss)', None, 'an architecture of its own')
    """
    if find_published(name) is not None:
        return None
    return next((words for text in (spelled(name), *_meant(name)) for words in [_other(text)] if words), None)


def refusal(name: str) -> str | None:
    """The same as a sentence.

    >>> refusal("Qwen/Qwen1.5-MoE-A2.7B")
    'puna does not run this architecture: it is a mixture of experts (Qwen1.5-MoE, Qwen2-MoE)'
    """
    what = other_family(name)
    return what and f"puna does not run this architecture: it is {what}"


def near_names(name: str, count: int = 4) -> list[str]:
    """Published models with a similar name: same family, known version. Empty for another architecture.

    >>> near_names("lama-2-7b")[0], near_names("gemma-7b"), near_names("llama-5-8b")
    ('llama-2-7b', [], [])
    """
    if other_family(name):
        return []
    alike = [known for text in _meant(name) for known in PUBLISHED if _is_relative(known, text)]
    return difflib.get_close_matches(spelled(name), alike, n=count, cutoff=0.5)


def _is_relative(known: str, text: str) -> bool:
    """Whether a name has the same family, and the same version if it has one."""
    version = _version(text).replace(".", "")
    return _first_word(known) == _first_word(text) and (not version or _version(known).replace(".", "") == version)


def _other(text: str) -> str | None:
    return next((words for pattern, words in _OTHERS if pattern.search(text)), None)


def _first_word(text: str) -> str:
    found = _WORD.match(text)
    return found[0] if found else ""


def _version(text: str) -> str:
    """The version number after the family; "" if the number is a size.

    >>> _version("llama-3.1-8b"), _version("qwen2.5-7b"), _version("llama-7b"), _version("deepseek-r1-distill-qwen-7b")
    ('3.1', '2.5', '', '')
    """
    parts = _PARTS.findall(text)
    return parts[1] if len(parts) > 1 and parts[1][0].isdigit() and parts[1][-1] not in "bm" else ""


def _meant(name: str) -> list[str]:
    """The name with its first word corrected: unchanged if it is a family, else replaced by each family one typing error away.
    Empty if puna runs some of these families but not all, because the intended one is unknown.
    """
    text = spelled(name)
    word = _first_word(text)
    known = {_first_word(model) for model in PUBLISHED}
    if word in known or word in _OTHER_WORDS:
        return [text]
    near = {family for family in {*known, *_OTHER_WORDS} if len(word) > 2 and is_one_error(word, family)}
    if near & known and near - known:
        return []
    return [family + text[len(word) :] for family in sorted(near)]


def is_one_error(wrong: str, right: str) -> bool:
    """Whether two words differ by one added, missing, changed or swapped letter.

    >>> [is_one_error(wrong, "llama") for wrong in ("lama", "llamma", "llema", "lalma", "lema")]
    [True, True, True, True, False]
    """
    if abs(len(wrong) - len(right)) > 1 or wrong == right:
        return False
    start = next((i for i, (a, b) in enumerate(zip(wrong, right)) if a != b), min(len(wrong), len(right)))
    first, second = wrong[start:], right[start:]
    is_swapped = len(first) > 1 and first[:2] == second[1::-1] and first[2:] == second[2:]
    return is_swapped or first[1:] == second[1:] or first[1:] == second or first == second[1:]
