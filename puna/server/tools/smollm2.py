"""SmolLM2's way: all calls as one JSON list between two tags. Its template knows no tools, so a system message describes them.

<tool_call>[{"name": "get_weather", "arguments": {"city": "Lima"}}]</tool_call>
"""

from __future__ import annotations

from puna.server.tools.json_calls import JsonCalls
from puna.server.tools.layout import CallLayout

LAYOUT = CallLayout(
    begin="<tool_call>",
    opens=("[",),
    heads=('{"name": "NAME", "arguments": ',),
    tail="}",
    between=", ",
    close="]</tool_call>",
)
SMOLLM2 = JsonCalls(LAYOUT, is_native=False)
