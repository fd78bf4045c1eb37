"""What people type who come from llama.cpp, Ollama or vLLM: commands and flags of theirs, and what puna has in their place.

The flags of a command line are looked at before click parses it, because click takes `-ngl 99` for `-n gl`, and `-hf` for `-h`.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import click

from puna.errors import UsageError

# Commands of other programs -> what does it in puna.
COMMANDS = {
    "help": "puna --help lists the commands, and each command has --help.",
    **dict.fromkeys(("list", "ls"), "puna models lists the models that are here."),
    **dict.fromkeys(("show", "info"), "puna inspect MODEL shows what is in a model."),
    **dict.fromkeys(("ps", "stop", "unload"), "puna keeps no model loaded after a command; Ctrl-C ends puna serve."),
    **dict.fromkeys(("remove", "delete", "uninstall"), "puna rm MODEL removes a model from this machine."),
    **dict.fromkeys(("download", "fetch", "get", "install"), "puna pull NAME fetches a model."),
    **dict.fromkeys(("search", "find"), "puna models --all lists every model that has a short name."),
    **dict.fromkeys(("ask", "generate", "complete", "prompt"), 'puna run "..." answers a question.'),
    **dict.fromkeys(("create", "quantize", "quantise"), "puna convert SRC DST --to gguf --quantize q4_k writes such a file."),
    **dict.fromkeys(("cp", "copy", "push"), "puna has no copies of models; a path is a MODEL too, wherever the file is."),
    **dict.fromkeys(("server", "api", "start", "up"), "puna serve MODEL answers the APIs of OpenAI, Anthropic and Ollama."),
    **dict.fromkeys(("load", "talk", "interactive"), "puna chat MODEL loads a model and talks with it."),
    **dict.fromkeys(("signin", "login"), "puna has no accounts; for models that need an agreement: hf auth login"),
    **dict.fromkeys(("benchmark", "perf"), "puna bench measures the speed."),
    **dict.fromkeys(("check", "status", "env"), "puna doctor checks this machine."),
    "version": "puna --version prints it.",
}  # fmt: skip

# Words that stand without a flag; STDIN is a prompt that is read from a file.
MODEL, REPOSITORY, PROMPT, FILE, STDIN = "MODEL", "hf:MODEL", "PROMPT", "FILE", "< FILE"
PROMPTS = (PROMPT, "TEXT", "QUERY")  # what commands call it
# Our flag, or such a word -> flags of others that have the same value.
RENAMED = {
    MODEL: "-m --model",
    REPOSITORY: "-hf -hfr --hf-repo",
    PROMPT: "-p --prompt",
    FILE: "-f --file",
    "--max-tokens": "--n-predict --predict --num-predict --max-new-tokens --max-length",
    "--max-context": "-c --ctx-size --n-ctx --num-ctx --context-length --max-model-len --max-seq-len",
    "--threads": "-t --num-thread --num-threads",
    "--temperature": "--temp",
    "--repetition-penalty": "--repeat-penalty",
    "--penalty-last-n": "--repeat-last-n",
    "--typical-p": "--typical",
    "--top-n-sigma": "--top-nsigma",
    "--mirostat-tau": "--mirostat-ent",
    "--mirostat-eta": "--mirostat-lr",
    "--seed": "-s",
    "--stop": "-r --reverse-prompt",
    "--grammar": "--grammar-file --guided-grammar",
    "--json-schema": "-j --json-schema-file --guided-json",
    "--regex": "--guided-regex",
    "--system": "-sys --system-prompt",
    "--template": "--chat-template",
    "--kv-type": "-ctk -ctv --cache-type-k --cache-type-v --kv-cache-dtype",
    "--device": "-dev",
    "--draft-model": "-md --model-draft --speculative-model",
    "--alias": "-a --served-model-name",
}
SWITCHES = {"--raw": "-no-cnv --no-conversation", "--no-thinking": "--nothink", "--context-shift": "--ctx-shift"}
# What puna needs no flag for -> flags of others with a value, and switches.
NEEDLESS_VALUES = {
    "puna puts as many layers on the GPU as fit (--vram SIZE and --device cpu limit that)": "-ngl --gpu-layers --n-gpu-layers",
    "puna takes what is free (--vram SIZE limits it)": "--gpu-memory-utilization",
    "several GPUs share a model by torchrun --nproc_per_node N -m puna ...": "-tp --tensor-parallel-size -ts --tensor-split",
    "puna keeps the file's types (--weights int8 or int4 takes fewer bits)": "--dtype",
    "puna sees how a file is quantised": "--quantization",
    "PUNA_CHUNK_TOKENS=N limits the tokens of a step": "-b --batch-size -ub --ubatch-size --max-num-batched-tokens",
    "PUNA_MAX_BATCH=N limits how many requests run at once": "-np --parallel --max-num-seqs",
}
NEEDLESS_SWITCHES = {
    "puna's attention needs no switch": "-fa --flash-attn",  # may be followed by on, off or auto
    "puna maps the file into memory by itself": "--mlock --no-mmap",
    "puna uses the model's own template": "--jinja",
    "puna never runs code of a checkpoint": "--trust-remote-code",
    "puna keeps prompts for later ones by itself": "--enable-prefix-caching",
    "puna chat is a conversation": "-i --interactive -cnv --conversation",
    "timing is always on stderr": "-v --verbose",
}
ON_OR_OFF = ("on", "off", "auto")


class Foreign(NamedTuple):
    """A flag of another program."""

    own: str  # our flag or word; "": puna needs none
    why: str  # where it needs none
    has_value: bool


def _by_flag() -> Iterator[tuple[str, Foreign]]:
    for own, theirs in RENAMED.items():
        yield from ((flag, Foreign(own, "", True)) for flag in theirs.split())
    for own, theirs in SWITCHES.items():
        yield from ((flag, Foreign(own, "", False)) for flag in theirs.split())
    for why, theirs in NEEDLESS_VALUES.items():
        yield from ((flag, Foreign("", why, True)) for flag in theirs.split())
    for why, theirs in NEEDLESS_SWITCHES.items():
        yield from ((flag, Foreign("", why, False)) for flag in theirs.split())


FLAGS: Mapping[str, Foreign] = dict(_by_flag())


class TypedWord(NamedTuple):
    """A part of a command line: a flag with its value, or a word, whose flag is ""."""

    flag: str
    value: str | None


def refused(command: click.Command, name: str, words: Sequence[str]) -> UsageError | None:
    """The error for the flags of other programs in `puna NAME WORDS`, with what to type; None if there are none."""
    theirs = Theirs(command)
    pieces = list(theirs.pieces(words))
    found = [piece.flag for piece in pieces if theirs.meant(piece.flag) is not None]
    if not found:
        return None
    what = f"there is no option {found[0]}" if len(found) == 1 else f"there are no options {', '.join(found)}"
    return UsageError(what, hint=f"{'; '.join(theirs.reasons(found))}: {theirs.line(pieces, name)}")


def stands_for(words: Sequence[str], *own: str) -> bool:
    """Whether one of the words is a flag of others for one of these words of ours; for any, if none is given.

    >>> stands_for(["-m", "x.gguf", "-p", "hi"], PROMPT), stands_for(["-m", "x.gguf"], PROMPT), stands_for(["-v"])
    (True, False, False)
    """
    found = [FLAGS[flag].own for word in words if (flag := word.partition("=")[0]) in FLAGS]
    return any(one in own if own else one for one in found)


class Theirs:
    """What the flags of other programs mean in the command line of one command."""

    def __init__(self, command: click.Command) -> None:
        context = click.Context(command)
        params = command.get_params(context)
        self._own = {flag: one for one in params if isinstance(one, click.Option) for flag in (*one.opts, *one.secondary_opts)}
        self._words = " ".join(one.make_metavar(context) for one in params if isinstance(one, click.Argument))

    def pieces(self, words: Sequence[str]) -> Iterator[TypedWord]:
        """The parts of a command line, in order. What follows "--" is words."""
        rest = deque(words)
        while rest:
            word = rest.popleft()
            flag, equals, value = word.partition("=")
            if word == "--":
                yield from (TypedWord("", one) for one in (word, *rest))
                return
            if not word.startswith("-") or word == "-":
                yield TypedWord("", word)
            elif self._has_value(flag) is None and self._has_value(word[:2]):
                yield TypedWord(word[:2], word[2:])  # -n5
            else:
                takes = bool(self._has_value(flag)) or (flag in FLAGS and rest and rest[0] in ON_OR_OFF)
                yield TypedWord(flag, value if equals else rest.popleft() if takes and rest else None)

    def _has_value(self, flag: str) -> bool | None:
        """Whether a flag, ours or theirs, has a value; None for one that nobody knows."""
        if flag in self._own:
            return not self._own[flag].is_flag
        return FLAGS[flag].has_value if flag in FLAGS else None

    def meant(self, flag: str) -> Foreign | None:
        """A foreign flag as this command has it; None for any other flag, and for one that means nothing here."""
        if flag in self._own or flag not in FLAGS:
            return None
        found = FLAGS[flag]
        has_prompt = any(word in self._words for word in PROMPTS)
        if found.own == PROMPT and not has_prompt:
            found = found._replace(own="--system")  # as in a conversation of llama-cli
        if found.own == FILE and FILE not in self._words and has_prompt:
            return found._replace(own=STDIN)
        stands = found.own in (PROMPT, *self._own) or found.own.removeprefix("hf:") in self._words
        return found if found.why or stands else None

    def reasons(self, flags: Sequence[str]) -> Iterator[str]:
        meant = [one for one in map(self.meant, flags) if one is not None]
        words = {one.own for one in meant}
        for what, alike in (("model", {MODEL, REPOSITORY}), ("prompt", {PROMPT, STDIN}), ("file", {FILE})):
            if words & alike:
                yield f"The {what} stands without a flag"
        if own := list(dict.fromkeys(one.own for one in meant if one.own in self._own)):
            yield f"puna says {', '.join(own)}"
        yield from dict.fromkeys(one.why for one in meant if one.why)

    def line(self, pieces: Sequence[TypedWord], name: str) -> str:
        """The command line in puna's words: the model first, the prompt last."""
        model, middle, last, redirected = list[str](), list[str](), list[str](), ""
        for flag, value in pieces:
            meant = self.meant(flag)
            if meant is None:
                middle += [one for one in (flag, value) if one is not None and one != ""] or [""]
            elif meant.own == MODEL:
                model = [value or MODEL]
            elif meant.own == REPOSITORY:
                model = ["hf:" + (value or "OWNER/REPO").partition(":")[0]]
            elif meant.own in (PROMPT, FILE):
                last = [value or "..."]
            elif meant.own == STDIN:
                last, redirected = ["-"], f" < {shlex.quote(value or 'FILE')}"
            elif meant.own:
                option = self._own[meant.own]
                middle += [meant.own] if option.is_flag else [meant.own, value or option.metavar or "VALUE"]
        return shlex.join(["puna", name, *model, *middle, *last]) + redirected
