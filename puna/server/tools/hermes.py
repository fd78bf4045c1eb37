"""Hermes 2 Pro's way, which Qwen2.5, Qwen3, SmolLM3 and many others share: each call a JSON object between two tags.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Lima"}}
    </tool_call>

Small ones leave the tags out, or write a code fence (Qwen2.5-Coder), where a call is the whole answer.
"""

from __future__ import annotations

from puna.server.tools.layout import CallLayout
from puna.server.tools.layout_calls import LayoutCalls

TAGGED = CallLayout(
    begin="<tool_call>",
    opens=("\n",),
    heads=('{"name": "NAME", "arguments": ',),
    tail="}\n</tool_call>",
    between="\n<tool_call>\n",
    close="",
)
UNTAGGED = CallLayout(
    begin="",
    opens=("", "```json ", "``` "),
    heads=('{ "name" : "NAME" , "arguments" : ',),
    tail=" }",
    between=" ",
    close=" ```",
)
HERMES = LayoutCalls(TAGGED, UNTAGGED)
DESCRIBED = LayoutCalls(TAGGED, UNTAGGED, is_native=False)  # for templates that know no tools, or calls that puna does not know
