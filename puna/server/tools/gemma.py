"""The ways of FunctionGemma and Gemma 4: each call between two control tokens.

    <start_function_call>call:get_weather{"city": "Lima"}<end_function_call>

They are trained on arguments without quotes, {city:<escape>Lima<escape>}, and their templates write earlier calls so. Answers
have JSON in its place, in which puna enforces schemas. Gemma 2 and 3 know no tools.
"""

from __future__ import annotations

from puna.server.tools.json_calls import JsonCalls
from puna.server.tools.layout import CallLayout


def between_tokens(begin: str, close: str, after: str) -> JsonCalls:
    """Calls between two control tokens. `after` begins the results, and models write it behind their calls."""
    return JsonCalls(CallLayout(begin, ("",), ("call:NAME",), tail=close, between=begin, close="", after=after))


FUNCTION_GEMMA = between_tokens("<start_function_call>", "<end_function_call>", "<start_function_response>")
GEMMA4 = between_tokens("<|tool_call>", "<tool_call|>", "<|tool_response>")
