"""Lines of a text: what a program says, and what only stands around it.

error   names an error: ValueError: ..., error: ..., level=ERROR
said    anything else that a program or a person says
info    a report without trouble: level INFO or DEBUG
code    a frame of a traceback, and the source line below it
typed   a command, as somebody typed it or a script echoes it

Commands, code and reports hold the names, files and numbers of many causes. They are asides: a cause that is found nowhere else
is a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

LineKind = Literal["error", "said", "info", "code", "typed"]
ASIDES: frozenset[LineKind] = frozenset({"info", "code", "typed"})
MAX_READ = 400  # characters: enough to see what a line is
LEVEL_WITHIN = 120  # characters before a level; further right it is a word of a message

_ERROR = re.compile(
    r"""^(?:\w{1,80}\.){0,8}\w{0,80}(?:Error|Exception|Failure|Interrupt|Fault)(?::|\(|$)    # Python's last line
      | \b(?:error|fatal|panic)(?:\[\w{1,16}\])?:                                            # compilers, Go, most others
      | ^fatal\b | \[(?:error|fatal)\] | \blevel=(?:error|fatal)\b""",
    re.VERBOSE | re.IGNORECASE,
)
_FRAME = re.compile(
    r"""^(?:
        File\ ["'~/<]                                 # Python
      | \S{1,200}\.py:\d{1,6}\ in\ \w                 # rich
      | \S{1,200}\.py\(\d{1,6}\):\ \w                 # LM Studio
      | -{2,}>\ ?\d{1,6}\ | \d{1,6}\ frames$          # IPython: its arrow
      | at\ .{1,200}[:(]\d{1,6}\)?                    # JavaScript, Java
      | \#\d{1,3}\ +0x | frame\ \#\d{1,3}: | \d{1,3}:\ 0x[0-9a-f]{4}   # C++
      )""",
    re.VERBOSE,
)
_NAMED = re.compile(r"^[\w.]{1,160}(?:: |:?$)")  # Python's last line, of exceptions of any name
_NUMBERED = re.compile(r"^(?:-+> ?)?\d{1,6} ")  # source lines in IPython's and rich's tracebacks
_AROUND = re.compile(
    r"^(?:Traceback \(most recent call last|During handling of the above|The above exception was|[~^ ]+$|raise \w)"
)
_INFO = re.compile(
    r"""(?:^|[\s\[(|-])(?:INFO|DEBUG|TRACE|VERBOSE)(?=[\s\]:)|-]|$)
      | \blevel=["']?(?i:info|debug|trace)\b | "level":\ ?"(?i:info|debug|trace)" | \[(?:info|debug|trace)\]
      | ^(?:\[\d{1,9}\]\ )?(?:\d{1,9}\.){3}\d{1,9}\ [ID]\      # llama.cpp
      | ^[ID]\d{4}\ \d\d:                                      # glog""",
    re.VERBOSE,
)
_TROUBLE = re.compile(
    r"\b\w*(?:error|exception)\b ?[:\]]|\b(?:fail(?:ed|ure|s)?|unable|cannot|can't|could not|killed|fatal|aborted)\b",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"""^(?:\([\w.-]{1,40}\)\ ?)?(?:
        \[?[\w.-]{1,40}@[\w.-]{1,60}[^$\#>]{0,80}[$\#%]\    # me@box:~$, [me@box ~]#
      | [$%]\ (?=\S) | !(?=\w)                              # $ ls; in a notebook !ls
      | PS\ [A-Z]:[^>]{0,120}>\ ? | [A-Z]:\\[^>]{0,120}>
      | (?:RUN|CMD|ENTRYPOINT)\ | (?:Repro|Running)\ command\b
      )""",
    re.VERBOSE,
)
_LAUNCHERS = (
    "python3?|pip3?|uvx?|conda|torchrun|accelerate|deepspeed|vllm|sglang|ollama|lms|hf|huggingface-cli|docker|podman|kubectl|git|"
    r"cmake|make|ninja|nvcc|cc|clang|[\w-]{0,40}gcc|[\w-]{0,40}g\+\+|llama-\w{1,20}|curl|wget|bash|sh|srun|mpirun|ray|npx|node|"
    "dotnet|cargo|apt|apt-get|export|set"
)
_VERBS = "run|serve|install|pull|build|launch|clone|start|exec|compose|update|download|up"
_SETTINGS = r"""(?:\+ )?(?:sudo )?(?:[A-Z_]{1,60}=(?:"[^"]{0,200}"|'[^']{0,200}'|\S{0,200}) ){0,8}"""
_PROGRAM = (
    rf"(?:{_LAUNCHERS})(?:\.exe)?(?: (?:{_VERBS})\b| [\w./\\~-]{{1,200}}\.(?:py|sh|gguf|c|cu|cpp)\b| \w{{1,60}}=|(?=.* --?\w))"
)
_FILE = r"""(?:[\w~.]{0,40}/[\w./+~-]{0,200}\w|[A-Za-z]:\\[\w\\. +-]{0,200}\w|"[^"]{1,200}")(?= (?:.* )?--?\w)"""
_COMMAND = re.compile(f"^{_SETTINGS}(?:{_PROGRAM}|{_FILE})")
_QUOTED = re.compile(r"\"[^\"]{0,400}\"|'[^']{0,400}'")
# Words of sentences; a command has them in quotes at most.
_SENTENCE = re.compile(
    r"(?<![-\w/.=])(?:the|an?|is|are|was|with|when|but|and|it|i|my|that|this|because|after|does|gives|says|breaks|crash(?:es|ed)?|"
    r"fail(?:s|ed)?|not|cannot|\w+n't|no|on|for|to|of|from|error)(?![-\w/.=])",
    re.IGNORECASE,
)


def kinds(rows: Sequence[tuple[str, str]]) -> Iterator[LineKind]:
    """What each line is. A row is a line with its date and level, and the same without.

    >>> list(kinds([(line, line) for line in ("$ python x.py", 'File "x.py", line 1, in <module>', "f(1)", "KeyError: 'x'")]))
    ['typed', 'code', 'code', 'error']
    """
    before: Literal["", "frame", "numbered"] = ""  # whose source lines may follow
    for whole, bare in rows:
        text = bare[:MAX_READ]
        is_source = before == "frame" or (before == "numbered" and _NUMBERED.match(text) is not None)
        if _FRAME.match(text):
            before = "numbered" if not text.startswith("File ") else "frame"
            yield "code"
        elif _AROUND.match(text) or (is_source and _NAMED.match(text) is None):
            before = before if before == "numbered" else ""
            yield "code"
        else:
            before = ""
            yield _of_one(whole[:MAX_READ], text)


def _of_one(whole: str, bare: str) -> LineKind:
    """What a line is that belongs to no traceback."""
    if is_command(bare):
        return "typed"
    if _INFO.search(whole, 0, LEVEL_WITHIN) and not _TROUBLE.search(bare):
        return "info"
    return "error" if _ERROR.search(bare) else "said"


def is_command(line: str) -> bool:
    """Whether somebody typed the line: it has a prompt, or a program with its options, and is no sentence.

    >>> [is_command(line) for line in ("./llama-cli -m m.gguf -p 'who is it'", "/usr/bin/ld: cannot find -lcuda")]
    [True, False]
    >>> is_command("ollama run llama3 says that it is not found")
    False
    """
    if _PROMPT.match(line):
        return True
    return _COMMAND.match(line) is not None and _SENTENCE.search(_QUOTED.sub("", line)) is None
