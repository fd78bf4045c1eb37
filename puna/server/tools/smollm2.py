"""SmolLM2's way: all calls as one JSON list between two tags. Its template knows no tools, so a system message describes them.

<tool_call>[{"name": "get_weather", "arguments": {"city": "Lima"}}]</tool_call>
"""

from __future__ import annotations

from puna.server.tools.layout import CallLayout
from puna.server.tools.layout_calls import LayoutCalls

LAYOUT = CallLayout(
    begin="<tool_call>",
    opens=("[",),
    heads=('{"name": "NAME", "arguments": ',),
    tail="}",
    between=", ",
    close="]</tool_call>",
)
SMOLLM2 = LayoutCalls(LAYOUT, is_native=False)
