"""A tokenizer in files of its own: one file, or a Hugging Face folder's -> TokenizerSpec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from puna.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from puna.formats import llama2c_tokenizer, sentencepiece_model, tiktoken_file, tokenizer_json
from puna.formats.added_tokens import (
    AddedToken,
    decoder_tokens,
    listed_tokens,
    mapped_tokens,
    roles,
    settled,
    special_texts,
    with_added,
    with_roles,
    with_special,
)
from puna.formats.base import TokenizerSpec
from puna.formats.json_file import JsonObject, read_json
from puna.formats.mapped import file_size, is_there, map_file, read_head, shown
from puna.formats.notices import Doubt
from puna.formats.piece_order import agree, same_prefix
from puna.formats.tiktoken_file import same_but_reserved
from puna.formats.tokenizer_json import tokenizer_of
from puna.formats.vocabulary_size import fits, fitted, without_excess

MAX_FILE_BYTES = 64 << 20  # Llama 3's tokenizer.json takes 17 MB
HEAD_BYTES = 8192
Read = tuple[TokenizerSpec, tuple[str, ...]]  # with notices


class Form(NamedTuple):
    """A kind of tokenizer file, recognised by its first bytes."""

    matches: Callable[[bytes], bool]
    read: Callable[[Path], Read]


FORMS = (
    Form(tokenizer_json.matches, lambda path: tokenizer_of(read_json(path))),
    Form(tiktoken_file.matches, lambda path: (tiktoken_file.read_tiktoken_file(path, map_file(path)[:]), ())),
    Form(sentencepiece_model.matches, lambda path: (sentencepiece_model.read_sentencepiece_model(path, map_file(path)[:]), ())),
    Form(llama2c_tokenizer.matches_tokenizer, lambda path: (llama2c_tokenizer.read_tokenizer(path), ())),
)


def is_tokenizer(head: bytes) -> bool:
    """Whether a file that begins so is a tokenizer. llama2.c's has no mark of its own; other code recognises it."""
    return any(form.matches(head) for form in FORMS[:-1])


def read_tokenizer_file(path: Path, vocab_size: int | None) -> TokenizerSpec:
    """Read a tokenizer file of any kind; its content tells the kind. `vocab_size`: rows of the embedding, if a model is known.

    Uses `tokenizer_config.json` and `generation_config.json` beside it (BOS, EOS, the ends of a text).
    Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError.
    """
    return read_tokenizer_file_told(path, vocab_size)[0]


def read_tokenizer_file_told(path: Path, vocab_size: int | None) -> Read:
    """Like `read_tokenizer_file`, with notices."""
    spec, told = _read(path)
    spec, more = _set_up(spec, path)
    return settled(spec if vocab_size is None else fitted(spec, vocab_size)), (*told, *more)


def read_given_tokenizer(path: Path, vocab_size: int) -> Read:
    """The tokenizer that a user gave instead of a model's own: a file of any kind, or a folder, read like a model's."""
    if not path.is_dir():
        return read_tokenizer_file_told(path, vocab_size)
    spec, notices = read_tokenizer_folder(path, vocab_size)
    if spec is not None:
        generation = path / "generation_config.json"
        spec, ends = with_ends(spec, read_json(generation)) if generation.is_file() else (spec, ())
        return spec, (*notices, *ends)
    file = next((file for name in (f"tok{vocab_size}.bin", "tokenizer.bin") if (file := path / name).is_file()), None)
    if file is None:
        raise ModelNotFoundError(f"{path} is a folder that holds no tokenizer", hint=what_to_give(notices))
    return read_tokenizer_file_told(file, vocab_size)


def read_tokenizer_alone(path: Path) -> Read:
    """The tokenizer in a file or a folder, without a model that gives its number of tokens.

    A folder's `config.json` gives it if there is one; else the largest id does.
    """
    if not path.is_dir():
        return read_tokenizer_file_told(path, None)
    return read_given_tokenizer(path, _vocab_size_in(path))


def _vocab_size_in(folder: Path) -> int:
    """Rows of the embedding by the folder's `config.json`, else the greatest number of tokens that one of its files names."""
    config = folder / "config.json"
    size = read_json(config).values.get("vocab_size") if is_there(config) else None
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    names = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")
    sizes = [len(_read(folder / name)[0].tokens) for name in names if is_there(folder / name)]
    added = _added({name: read_json(folder / name) for name in JSON_FILES if is_there(folder / name)})
    return max([0, *sizes, *(token.id + 1 for token in added)])


def what_to_give(notices: Sequence[str]) -> str:
    """What to do about a tokenizer that was not found; `notices` come from the search."""
    if any(notice.startswith(NO_FAST_FILE) for notice in notices):
        return f"{NO_FAST_FILE}. {SAVE_FAST}"
    return "Give the file with --tokenizer: tokenizer.json, tokenizer.model or tokenizer.bin; or token ids instead of text."


def _set_up(spec: TokenizerSpec, path: Path) -> Read:
    """Apply the files beside a `tokenizer.json`, which does not say which tokens begin and end a text."""
    settings, generation = path.with_name("tokenizer_config.json"), path.with_name("generation_config.json")
    if not tokenizer_json.matches(read_head(path, HEAD_BYTES)):
        return spec, ()
    missing: tuple[str, ...] = ()
    framing: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    if is_there(settings):
        config = read_json(settings)
        spec, missing = with_roles(spec, roles(config))
        spec, framing = _framed(with_special(spec, special_texts(config)), config, is_fast=True)
    if is_there(generation):
        spec, ends = with_ends(spec, read_json(generation))
    return spec, (*missing, *framing, *ends)


def with_ends(spec: TokenizerSpec, source: JsonObject) -> Read:
    """`spec` with the ids that end a text, from `eos_token_id` in a config: a number or a list of them.

    The tokenizer's own EOS ends it too. An id outside the vocabulary ends nothing; a notice says so.
    """
    given = source.values.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            source.fail("eos_token_id", f"is {shown(given)}; a token id or a list of them is needed")
    known = [token_id for token_id in ids if 0 <= token_id < len(spec.tokens)]
    others = tuple(token_id for token_id in known if token_id not in (spec.eos_id, spec.eot_id))
    told = tuple(map(Doubt, _end_notices(spec, source.file.name, ids, known)))
    return replace(spec, stop_ids=tuple(dict.fromkeys((*spec.stop_ids, *others)))), told


def _end_notices(spec: TokenizerSpec, file: str, ids: Sequence[int], known: Sequence[int]) -> Iterator[str]:
    if len(known) < len(ids):
        beyond = [token_id for token_id in ids if token_id not in known]
        yield f"{file}: eos_token_id names {shown(beyond)}, but the vocabulary has {len(spec.tokens)} tokens; puna ignores that"
    if known and spec.eos_id is not None and spec.eos_id not in known:
        names = ", ".join(shown(spec.tokens[token_id].decode("utf-8", "replace"))[1:-1] for token_id in known)
        own = shown(spec.tokens[spec.eos_id].decode("utf-8", "replace"))[1:-1]
        yield f"a text ends with {names} by {file}, but with {own} by the tokenizer; puna ends it at each of them"


def means_the_same(one: TokenizerSpec, other: TokenizerSpec) -> bool:
    """Whether `one`, read again, has the tokens of `other`, treats spaces alike, begins a text with the same token, and ends it
    with the same ones.
    """

    def ends(spec: TokenizerSpec) -> set[int | None]:
        return {spec.eos_id, spec.eot_id, *spec.stop_ids} - {None}

    same_tokens = same_but_reserved(one.tokens, other.tokens) and ends(one) == ends(other)
    return (
        same_tokens
        and _spacing(one) == _spacing(other)
        and (not other.pipeline or one.pipeline == other.pipeline)
        and (one.bos_id, one.add_bos, one.add_eos) == (other.bos_id, other.add_bos, other.add_eos)
    )


def _spacing(spec: TokenizerSpec) -> tuple[object, ...]:
    """All that decides which spaces and characters SentencePiece sees; nothing for other kinds."""
    if spec.kind == "bpe" or spec.pipeline:
        return ()
    adds = spec.add_space_prefix
    where = (adds, adds and spec.prefix_first_only, adds and spec.prefix_unless_space)
    return (*where, spec.remove_extra_spaces, spec.charsmap, spec.kind)


def _read(path: Path) -> Read:
    size = file_size(path)
    if size > MAX_FILE_BYTES:
        raise ModelFormatError(path, "file", None, f"is {size} bytes long; a tokenizer has at most {MAX_FILE_BYTES}")
    head = read_head(path, HEAD_BYTES)
    for form in FORMS:
        if form.matches(head):
            return form.read(path)
    raise UnsupportedModelError(
        f"{path}: puna does not know this kind of tokenizer",
        hint="Known: SentencePiece's or Llama 3's tokenizer.model, tokenizer.json, and llama2.c's tokenizer.bin.",
    )


# ---- a folder -------------------------------------------------------------------------------------------------------


SLOW_FILES = ("vocab.json", "merges.txt")  # GPT-2's
NO_FAST_FILE = "vocab.json and merges.txt do not say how to split a text into words, so puna does not read them"
SAVE_FAST = "Save a tokenizer.json beside them: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"


def read_tokenizer_folder(folder: Path, vocab_size: int) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """The tokenizer of a Hugging Face folder, or None, and notices about it.

    If `tokenizer.json` and SentencePiece's `tokenizer.model` differ, the latter splits the text: the former is made from it, and
    sometimes wrongly (OpenLLaMA, transformers#24233). Tokens that were added later come from all files. This does not read the
    ids of `generation_config.json`.
    """
    files = {name: read_json(path) for name in JSON_FILES if is_there(path := folder / name)}
    model = _read(path)[0] if is_there(path := folder / "tokenizer.model") else None
    chosen = _chosen(model, files, vocab_size)
    if chosen is None:
        slow = all((folder / name).is_file() for name in SLOW_FILES)
        return None, (f"{NO_FAST_FILE}. {SAVE_FAST}",) if slow else ()
    spec, notices, is_fast = chosen
    spec, dropped = without_excess(spec, vocab_size)
    config = files.get("tokenizer_config.json", JsonObject(folder, {}))
    old_map = files.get("special_tokens_map.json", JsonObject(folder, {}))
    parts, told = _parts(config, old_map)
    spec, missing = with_roles(spec, parts)
    spec = with_special(spec, [*special_texts(old_map), *special_texts(config)])
    spec, framing = _framed(spec, config, is_fast)
    return settled(fitted(spec, vocab_size)), (*notices, *special_notices(files), *dropped, *told, *missing, *framing)


JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


ADDED = {"added_tokens.json": mapped_tokens, "tokenizer_config.json": decoder_tokens, "tokenizer.json": listed_tokens}


def _added(files: Mapping[str, JsonObject]) -> list[AddedToken]:
    """One token for each id: tokenizer.json's if it has that id. Its flags are those of tokenizer_config.json for the same
    token, as in transformers; it is special if any file says so.
    """
    read = {name: {token.id: token for token in reader(files[name])} for name, reader in ADDED.items() if name in files}
    by_id = {token_id: token for tokens in read.values() for token_id, token in tokens.items()}
    for token_id, told in read.get("tokenizer_config.json", {}).items():
        token = by_id[token_id]
        if token.text == told.text:
            by_id[token_id] = replace(token, flags=told.flags, special=token.special or told.special)
    return list(by_id.values())


def special_notices(files: Mapping[str, JsonObject]) -> tuple[Doubt, ...]:
    """Notices for tokens that only one of two files calls special. (added_tokens.json does not say.)"""
    said: dict[str, dict[bool, str]] = {}
    for name in ("tokenizer_config.json", "tokenizer.json"):
        for token in ADDED[name](files[name]) if name in files else ():
            said.setdefault(token.text, {})[token.special] = name
    both = {text: names for text, names in said.items() if len(names) > 1}
    if not both:
        return ()
    text, names = next(iter(both.items()))
    more = f" and {len(both) - 1} more" if len(both) > 1 else ""
    return (Doubt(f"{shown(text)[1:-1]}{more} is special by {names[True]}, not by {names[False]}; puna treats it as special"),)


def _parts(config: JsonObject, old_map: JsonObject) -> tuple[dict[str, str], tuple[str, ...]]:
    """BOS, EOS and so on, as texts. As in transformers 5, tokenizer_config.json wins over special_tokens_map.json if it lists
    the added tokens too; otherwise it loses.
    """
    first, last = (config, old_map) if config.values.get("added_tokens_decoder") is not None else (old_map, config)
    mine, others = roles(first), roles(last)
    told = tuple(
        Doubt(
            f"{part} is {shown(text)[1:-1]} by {first.file.name}, {shown(others[part])[1:-1]} by {last.file.name}; puna uses the "
            "former, as transformers does"
        )
        for part, text in mine.items()
        if others.get(part, text) != text
    )
    return others | mine, told


class Chosen(NamedTuple):
    """The tokenizer of a folder, and whether a tokenizer.json says what frames a text."""

    spec: TokenizerSpec
    notices: tuple[str, ...]
    is_fast: bool


def _chosen(model: TokenizerSpec | None, files: Mapping[str, JsonObject], vocab_size: int) -> Chosen | None:
    """Choose the tokenizer of `tokenizer.model`, of `tokenizer.json`, or of both."""
    added = _added(files)
    fast, notices = _fast(files, added, is_needed=model is None)
    if model is None:
        return None if fast is None else Chosen(fast, notices, True)
    if fast is None:
        return Chosen(with_added(_spaced(model, files.get("tokenizer_config.json")), added), notices, False)
    if model.kind == "bpe":  # Llama 3's tokenizer.model holds no special tokens
        return Chosen(fast, notices, True)
    return Chosen(*_of_both(with_added(_spaced_as(model, fast), added), fast, notices, vocab_size), True)


def _fast(
    files: Mapping[str, JsonObject], added: Sequence[AddedToken], is_needed: bool
) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """Read `tokenizer.json`."""
    if "tokenizer.json" not in files:
        return None, ()
    try:
        fast, notices = tokenizer_of(files["tokenizer.json"])
    except UnsupportedModelError as error:
        if is_needed:
            raise
        return None, (f"tokenizer.model is used instead of tokenizer.json: {error.typed.message}",)
    return with_added(fast, added), notices


def _of_both(model: TokenizerSpec, fast: TokenizerSpec, notices: tuple[str, ...], vocab_size: int) -> Read:
    if len(model.tokens) < len(fast.tokens) or (fits(fast, vocab_size) and not fits(model, vocab_size)):
        why = f"tokenizer.json has {len(fast.tokens)} tokens, tokenizer.model {len(model.tokens)}: puna uses tokenizer.json"
        return fast, (*notices, why)
    if fast.only_json and fast.kind != "unigram":
        return model, (*notices, f"tokenizer.model is used instead of tokenizer.json: {fast.only_json}")
    if agree(model, fast) or (model.kind == fast.kind == "unigram" and same_but_reserved(model.tokens, fast.tokens)):
        # The fields are tokenizer.model's, which every format can hold; the library splits if they do not say the same.
        return replace(model, pipeline=fast.pipeline, merges=fast.merges, added_flags=fast.added_flags), notices
    return model, (*notices, DIFFERENT if same_prefix(model, fast) else DIFFERENT_SPACES)


DIFFERENT = Doubt("tokenizer.json and tokenizer.model split text differently: puna uses tokenizer.model")
DIFFERENT_SPACES = Doubt(
    "tokenizer.json and tokenizer.model do not add a space to the same texts (they may differ if a text begins with one): "
    "puna uses tokenizer.model"
)


def _spaced(model: TokenizerSpec, config: JsonObject | None) -> TokenizerSpec:
    """`model` with the config's spaces: not legacy means that only the beginning of a text gets one."""
    if config is None or model.kind == "bpe":
        return model
    adds = model.add_space_prefix and config.flag("add_prefix_space", True)
    return replace(model, add_space_prefix=adds, prefix_first_only=adds and not config.flag("legacy", True))


def _spaced_as(model: TokenizerSpec, fast: TokenizerSpec) -> TokenizerSpec:
    """`model` with what frames a text in `fast`; SentencePiece's file does not say it."""
    bos_id = model.bos_id if fast.bos_id is None else fast.bos_id
    eos_id = model.eos_id if fast.eos_id is None else fast.eos_id
    first_only = model.add_space_prefix and fast.prefix_first_only
    return replace(model, bos_id=bos_id, eos_id=eos_id, add_bos=fast.add_bos, add_eos=fast.add_eos, prefix_first_only=first_only)


def _framed(spec: TokenizerSpec, config: JsonObject, is_fast: bool) -> Read:
    """`spec` with BOS and EOS around a text if the config says so.

    `is_fast`: there is a tokenizer.json. Then only its post-processor counts, as in transformers 5; a notice names flags that
    contradict it.
    """
    flags = {name: config.flag(f"add_{name}_token", adds) for name, adds in (("bos", spec.add_bos), ("eos", spec.add_eos))}
    if is_fast:
        told = (_framing_notice(name, adds, flags[name]) for name, adds in (("bos", spec.add_bos), ("eos", spec.add_eos)))
        return spec, tuple(notice for notice in told if notice)
    adds_bos, adds_eos = flags["bos"] and spec.bos_id is not None, flags["eos"] and spec.eos_id is not None
    return replace(spec, add_bos=adds_bos, add_eos=adds_eos), ()


def _framing_notice(name: str, adds: bool, flag: bool) -> str:
    if adds == flag:
        return ""
    does = "adds" if adds else "does not add"
    return Doubt(
        f"tokenizer_config.json says add_{name}_token {str(flag).lower()}, but the post-processor of tokenizer.json {does} "
        f"{name.upper()}; puna follows the latter, as transformers 5 does"
    )
