"""A tokenizer in files of its own: one file, or what lies in a Hugging Face folder -> TokenizerSpec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    padded,
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
from puna.formats.piece_order import agree, same_prefix
from puna.formats.tiktoken_file import same_but_reserved
from puna.formats.tokenizer_json import tokenizer_of

MAX_FILE_BYTES = 64 << 20  # Llama 3's tokenizer.json takes 17 MB
HEAD_BYTES = 8192
Read = tuple[TokenizerSpec, tuple[str, ...]]  # and what a person should hear about it
WRONG_TOKENIZER = "This tokenizer belongs to another model: take the one that came with the weights."


class Form(NamedTuple):
    """A kind of tokenizer file, told by its first bytes."""

    matches: Callable[[bytes], bool]
    read: Callable[[Path], TokenizerSpec]


FORMS = (
    Form(tokenizer_json.matches, lambda path: tokenizer_of(read_json(path))[0]),
    Form(tiktoken_file.matches, lambda path: tiktoken_file.read_tiktoken_file(path, map_file(path)[:])),
    Form(sentencepiece_model.matches, lambda path: sentencepiece_model.read_sentencepiece_model(path, map_file(path)[:])),
    Form(llama2c_tokenizer.matches_tokenizer, llama2c_tokenizer.read_tokenizer),
)


def is_tokenizer(head: bytes) -> bool:
    """Whether a file that begins so is a tokenizer's. One of llama2.c has no mark of its own, and is told elsewhere."""
    return any(form.matches(head) for form in FORMS[:-1])


def read_tokenizer_file(path: Path, vocab_size: int | None) -> TokenizerSpec:
    """A tokenizer file of any kind, told by its content. `vocab_size`: rows of the embedding, where a model is known.

    What stands beside it in `tokenizer_config.json` and `generation_config.json` (BOS, EOS, the ends of a text) is heeded.
    Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError.
    """
    spec = _set_up(_read(path), path)
    return settled(spec if vocab_size is None else fitted(spec, vocab_size))


def read_given_tokenizer(path: Path, vocab_size: int) -> Read:
    """The tokenizer that a person named instead of a model's own: a file of any kind, or a folder, read as a model's is."""
    if not path.is_dir():
        return read_tokenizer_file(path, vocab_size), ()
    spec, notices = read_tokenizer_folder(path, vocab_size)
    if spec is not None:
        generation = path / "generation_config.json"
        return (with_ends(spec, read_json(generation)) if generation.is_file() else spec), notices
    file = next((file for name in (f"tok{vocab_size}.bin", "tokenizer.bin") if (file := path / name).is_file()), None)
    if file is None:
        raise ModelNotFoundError(f"{path} is a folder that holds no tokenizer", hint=what_to_give(notices))
    return read_tokenizer_file(file, vocab_size), ()


def read_tokenizer_alone(path: Path) -> Read:
    """The tokenizer in a file or a folder, without a model that says how many tokens it has.

    A folder's `config.json` says it if there is one; else the tokenizer has as many as its largest id needs.
    """
    if not path.is_dir():
        return read_tokenizer_file(path, None), ()
    return read_given_tokenizer(path, _vocab_size_in(path))


def _vocab_size_in(folder: Path) -> int:
    """Rows of the embedding by the folder's `config.json`, else the greatest number of tokens that one of its files names."""
    config = folder / "config.json"
    size = read_json(config).values.get("vocab_size") if is_there(config) else None
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    names = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")
    sizes = [len(_read(folder / name).tokens) for name in names if is_there(folder / name)]
    added = _added({name: read_json(folder / name) for name in JSON_FILES if is_there(folder / name)})
    return max([0, *sizes, *(token.id + 1 for token in added)])


def what_to_give(notices: Sequence[str]) -> str:
    """What a person can do about a tokenizer that was not found, where `notices` were made of the search."""
    if any(notice.startswith(NO_FAST_FILE) for notice in notices):
        return f"{NO_FAST_FILE}. {SAVE_FAST}"
    return "Give the file with --tokenizer: tokenizer.json, tokenizer.model or tokenizer.bin; or token ids instead of text."


def _set_up(spec: TokenizerSpec, path: Path) -> TokenizerSpec:
    """A `tokenizer.json` does not say which of its tokens begin and end a text: files beside it do."""
    settings, generation = path.with_name("tokenizer_config.json"), path.with_name("generation_config.json")
    if not tokenizer_json.matches(read_head(path, HEAD_BYTES)):
        return spec
    if is_there(settings):
        config = read_json(settings)
        spec, _ = with_roles(spec, roles(config))
        spec = _framed(with_special(spec, special_texts(config)), config)
    return with_ends(spec, read_json(generation)) if is_there(generation) else spec


def with_ends(spec: TokenizerSpec, source: JsonObject) -> TokenizerSpec:
    """`spec` with the ids that end a text, of `eos_token_id` in a config: a number or a list of them."""
    given = source.values.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < len(spec.tokens):
            source.fail("eos_token_id", f"is {shown(given)}; the vocabulary has {len(spec.tokens)} tokens")
    others = tuple(token_id for token_id in ids if token_id not in (spec.eos_id, spec.eot_id))
    return replace(spec, stop_ids=tuple(dict.fromkeys((*spec.stop_ids, *others))))


def means_the_same(one: TokenizerSpec, other: TokenizerSpec) -> bool:
    """Whether `one`, read again, holds the tokens of `other`, treats spaces alike, begins a text with the same token, and ends it
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
    """All that decides which spaces and characters SentencePiece sees; nothing, for other kinds."""
    if spec.kind == "bpe" or spec.pipeline:
        return ()
    adds = spec.add_space_prefix
    where = (adds, adds and spec.prefix_first_only, adds and spec.prefix_unless_space)
    return (*where, spec.remove_extra_spaces, spec.charsmap, spec.kind)


def _read(path: Path) -> TokenizerSpec:
    size = file_size(path)
    if size > MAX_FILE_BYTES:
        raise ModelFormatError(path, "file", None, f"is {size} bytes long; a tokenizer has at most {MAX_FILE_BYTES}")
    head = read_head(path, HEAD_BYTES)
    for form in FORMS:
        if form.matches(head):
            return form.read(path)
    raise UnsupportedModelError(
        f"{path}: no tokenizer that puna knows",
        hint="Known: SentencePiece's or Llama 3's tokenizer.model, tokenizer.json, and llama2.c's tokenizer.bin.",
    )


# ---- size -----------------------------------------------------------------------------------------------------------


def fitted(spec: TokenizerSpec, vocab_size: int) -> TokenizerSpec:
    """`spec` with as many tokens as the embedding has rows. An embedding has often a few rows more, to make a round number; with
    more than an eighth, the weights are another model's.
    """
    if not fits(spec, vocab_size):
        problem = f"there are {len(spec.tokens)} tokens; the model has {vocab_size} (the rows of its embedding)"
        raise ModelFormatError(spec.source, "tokenizer", None, problem, hint=WRONG_TOKENIZER)
    return padded(spec, vocab_size)


def fits(spec: TokenizerSpec, vocab_size: int) -> bool:
    return vocab_size * 7 <= len(spec.tokens) * 8 and len(spec.tokens) <= vocab_size


# ---- a folder -------------------------------------------------------------------------------------------------------


# Whose texts begin with BOS, whatever tokenizer.json says (transformers sets it anew).
BOS_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast")
PAD_TEXTS = (b"[PAD]", b"<pad>", b"<|pad|>", b"<PAD>")

SLOW_FILES = ("vocab.json", "merges.txt")  # GPT-2's
NO_FAST_FILE = "vocab.json and merges.txt do not say how a text is cut into words, so they are not read"
SAVE_FAST = "Save a tokenizer.json beside them: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"


def read_tokenizer_folder(folder: Path, vocab_size: int) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """The tokenizer of a Hugging Face folder, None where it has none, and what a person should hear about it.

    Where `tokenizer.json` and SentencePiece's `tokenizer.model` differ, the latter cuts the text, for the former is made from it,
    and for some was made wrongly (OpenLLaMA, transformers#24233). Tokens that were added since are taken from all files. The ids
    of `generation_config.json` are not read here.
    """
    files = {name: read_json(path) for name in JSON_FILES if is_there(path := folder / name)}
    model = _read(path) if is_there(path := folder / "tokenizer.model") else None
    chosen = _chosen(model, files, vocab_size)
    if chosen is None:
        slow = all((folder / name).is_file() for name in SLOW_FILES)
        return None, (f"{NO_FAST_FILE}. {SAVE_FAST}",) if slow else ()
    spec, notices = chosen
    spec, dropped = _without_excess(spec, vocab_size)
    config = files.get("tokenizer_config.json", JsonObject(folder, {}))
    old_map = files.get("special_tokens_map.json", JsonObject(folder, {}))
    spec, missing = with_roles(spec, roles(old_map) | roles(config))
    spec = with_special(spec, [*special_texts(old_map), *special_texts(config)])
    return settled(fitted(_framed(spec, config), vocab_size)), (*notices, *dropped, *missing)


JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def _added(files: Mapping[str, JsonObject]) -> list[AddedToken]:
    """One for each id: tokenizer.json's where it has that id. Its flags are those of tokenizer_config.json for the same token,
    as in transformers; it is special where any file says so.
    """
    readers = {"added_tokens.json": mapped_tokens, "tokenizer_config.json": decoder_tokens, "tokenizer.json": listed_tokens}
    read = {name: {token.id: token for token in reader(files[name])} for name, reader in readers.items() if name in files}
    by_id = {token_id: token for tokens in read.values() for token_id, token in tokens.items()}
    for token_id, told in read.get("tokenizer_config.json", {}).items():
        token = by_id[token_id]
        if token.text == told.text:
            by_id[token_id] = replace(token, flags=told.flags, special=token.special or told.special)
    return list(by_id.values())


def _chosen(model: TokenizerSpec | None, files: Mapping[str, JsonObject], vocab_size: int) -> Read | None:
    """The tokenizer of `tokenizer.model`, of `tokenizer.json`, or of both."""
    added = _added(files)
    fast, notices = _fast(files, added, is_needed=model is None)
    if model is None:
        return None if fast is None else (fast, notices)
    if fast is None:
        return with_added(_spaced(model, files.get("tokenizer_config.json")), added), notices
    if model.kind == "bpe":  # Llama 3's tokenizer.model holds no special tokens
        return fast, notices
    return _of_both(with_added(_spaced_as(model, fast), added), fast, notices, vocab_size)


def _fast(
    files: Mapping[str, JsonObject], added: Sequence[AddedToken], is_needed: bool
) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """What `tokenizer.json` holds."""
    if "tokenizer.json" not in files:
        return None, ()
    try:
        fast, notices = tokenizer_of(files["tokenizer.json"])
    except UnsupportedModelError as error:
        if is_needed:
            raise
        return None, (f"tokenizer.model is used instead of tokenizer.json: {error.message}",)
    return with_added(fast, added), notices


def _of_both(model: TokenizerSpec, fast: TokenizerSpec, notices: tuple[str, ...], vocab_size: int) -> Read:
    if len(model.tokens) < len(fast.tokens) or (fits(fast, vocab_size) and not fits(model, vocab_size)):
        why = f"tokenizer.json has {len(fast.tokens)} tokens, tokenizer.model {len(model.tokens)}: tokenizer.json is used"
        return fast, (*notices, why)
    if fast.only_json and fast.kind != "unigram":
        return model, (*notices, f"tokenizer.model is used instead of tokenizer.json: {fast.only_json}")
    if agree(model, fast) or (model.kind == fast.kind == "unigram" and same_but_reserved(model.tokens, fast.tokens)):
        # The fields are tokenizer.model's, which every format can hold; the library cuts, where they do not say the same.
        return replace(model, pipeline=fast.pipeline, merges=fast.merges, added_flags=fast.added_flags), notices
    return model, (*notices, DIFFERENT if same_prefix(model, fast) else DIFFERENT_SPACES)


DIFFERENT = "tokenizer.json and tokenizer.model cut text differently: tokenizer.model is used"
DIFFERENT_SPACES = (
    "tokenizer.json and tokenizer.model do not add a space to the same texts (they may differ where a text begins with one): "
    "tokenizer.model is used"
)


def _spaced(model: TokenizerSpec, config: JsonObject | None) -> TokenizerSpec:
    """`model` with the spaces that the config asks for: not legacy means that only the beginning of a text gets one."""
    if config is None or model.kind == "bpe":
        return model
    adds = model.add_space_prefix and config.flag("add_prefix_space", True)
    return replace(model, add_space_prefix=adds, prefix_first_only=adds and not config.flag("legacy", True))


def _spaced_as(model: TokenizerSpec, fast: TokenizerSpec) -> TokenizerSpec:
    """`model` with what frames a text in `fast`, which SentencePiece's file does not say."""
    bos_id = model.bos_id if fast.bos_id is None else fast.bos_id
    eos_id = model.eos_id if fast.eos_id is None else fast.eos_id
    first_only = model.add_space_prefix and fast.prefix_first_only
    return replace(model, bos_id=bos_id, eos_id=eos_id, add_bos=fast.add_bos, add_eos=fast.add_eos, prefix_first_only=first_only)


def _without_excess(spec: TokenizerSpec, vocab_size: int) -> Read:
    """Padding tokens that were added without a row of the embedding are never used, and common: they are left out."""
    excess = spec.tokens[vocab_size:]
    if not excess or not set(excess) <= set(PAD_TEXTS):
        return spec, ()
    shorter = replace(
        spec,
        tokens=spec.tokens[:vocab_size],
        token_types=None if spec.token_types is None else spec.token_types[:vocab_size],
        scores=None if spec.scores is None else spec.scores[:vocab_size],
        pad_id=None if spec.pad_id is None or spec.pad_id >= vocab_size else spec.pad_id,
    )
    return shorter, (
        f"{shown(excess[0].decode())} has the id {vocab_size}, but the embedding has {vocab_size} rows: it is left out",
    )


def _framed(spec: TokenizerSpec, config: JsonObject) -> TokenizerSpec:
    """`spec` with BOS and EOS around a text where the config says so."""
    by_class = spec.add_bos or config.text("tokenizer_class") in BOS_CLASSES
    return replace(
        spec,
        add_bos=config.flag("add_bos_token", by_class) and spec.bos_id is not None,
        add_eos=config.flag("add_eos_token", spec.add_eos) and spec.eos_id is not None,
    )
