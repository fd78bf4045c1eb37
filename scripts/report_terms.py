"""Writes puna/glassbox/report/terms.js, the words that the report of a trace explains: `python -m scripts.report_terms`.

docs/glossary.md owns the definitions; the report is one file and must hold its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = ROOT / "puna" / "glassbox" / "report" / "terms.js"
GLOSSARY = ROOT / "docs" / "glossary.md"
WORDS = (
    *("token", "vocabulary", "tokenizer", "control token", "prompt", "chat template", "finish reason", "context"),
    *("layer", "attention", "KV", "logits", "logit lens", "weights"),
    *("prefill", "decode", "batch", "padding", "prefix cache", "speculation", "backend"),
    *("sampling", "probability", "candidate", "filter", "draw", "surprise", "entropy", "rank of a token", "logprob", "seed"),
    *("greedy", "temperature", "top-k", "top-p", "min-p", "typical-p", "top-n-sigma", "XTC", "dynamic temperature"),
    *("mirostat", "adaptive-p", "DRY", "banned string", "bad words", "repetition penalty", "logit bias"),
    *("logits processor", "constraint"),
)
HEADER = "// Written by scripts/report_terms.py from docs/glossary.md, which owns these words.\n\n"
ENTRY = re.compile(r"^- (.*?)(?=^- |^#|\Z)", re.MULTILINE | re.DOTALL)


def definitions() -> dict[str, str]:
    """What the glossary says of each word, as plain text."""
    found = {}
    for entry in ENTRY.findall(GLOSSARY.read_text("utf-8")):
        head, _, text = " ".join(entry.split()).partition(": ")
        for name in re.findall(r"\*\*([^*]+)\*\*", head):
            found[name] = re.sub(r"\*\*|`", "", text)
    return found


def terms_script() -> str:
    """The module, with the words in the order of `WORDS`."""
    found = definitions()
    rows = "".join(f"  {json.dumps(word)}: {json.dumps(found[word], ensure_ascii=False)},\n" for word in WORDS)
    return f"{HEADER}export const TERMS = {{\n{rows}}};\n"


def main() -> None:
    PATH.write_text(terms_script(), "utf-8")


if __name__ == "__main__":
    main()
