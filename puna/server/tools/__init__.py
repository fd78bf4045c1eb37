"""Tool calls: how each family of models writes them, which grammar holds it to that, and how they are read back.

A format is chosen by what the chat template itself contains: it tells the model how to call, and writes earlier calls. A model
whose template knows no tools, or writes calls in a way that is not listed, gets them in a system message, in Hermes' form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from puna.server.tools.base import Tool, ToolFormat
from puna.server.tools.conversation import variable_of
from puna.server.tools.gemma import FUNCTION_GEMMA, GEMMA4
from puna.server.tools.hermes import DESCRIBED, HERMES
from puna.server.tools.llama import LLAMA
from puna.server.tools.mistral import MISTRAL_LIST, MISTRAL_NAMED
from puna.server.tools.qwen_coder import QWEN_CODER
from puna.server.tools.smollm2 import SMOLLM2

# A text of templates that take tools -> their format. The first that occurs counts.
NATIVE: Mapping[str, ToolFormat | None] = {
    "[ARGS]": MISTRAL_NAMED,
    "[TOOL_CALLS]": MISTRAL_LIST,
    "<seed:tool_call>": None,
    "<parameter=": QWEN_CODER,
    "<function=": None,  # as the texts of Functionary and others have it
    "<arg_key>": None,  # GLM's
    "<tool_call>": HERMES,
    "<start_function_call>call:": FUNCTION_GEMMA,
    "<|tool_call>call:": GEMMA4,
    '{"name": function name, "parameters"': LLAMA,
    "<|python_tag|>": LLAMA,
}


def format_of(template: str | None, tools: Sequence[Tool] = ()) -> ToolFormat:
    """How the model of a chat template writes calls; in Hermes' form, where its own cannot say all of a tool's schema."""
    text = template or ""
    if variable_of(template) is None:
        return SMOLLM2 if "named SmolLM" in text else DESCRIBED
    known = next((known for sign, known in NATIVE.items() if sign in text), None)
    return known if known is not None and known.takes(tools) else DESCRIBED
