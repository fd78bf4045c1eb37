"""Hermes 2 Pro's way, which Qwen2.5, Qwen3, SmolLM3 and many others share: each call a JSON object between two tags.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Lima"}}
</tool_call>
"""

from __future__ import annotations

from puna.server.tools.json_calls import JsonCalls
from puna.server.tools.layout import CallLayout

HERMES = JsonCalls(
    CallLayout(
        begin="<tool_call>",
        open="\n",
        head='{"name": "NAME", "arguments": ',
        tail="}",
        between="\n</tool_call>\n<tool_call>\n",
        close="\n</tool_call>",
        marks=("<tool_call>", "</tool_call>"),
    )
)
