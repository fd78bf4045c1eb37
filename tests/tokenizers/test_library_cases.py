"""Cases of a `tokenizer.json` as models have them, each named: `tokenizers` itself has the word on its ids and its text."""

from __future__ import annotations

import base64
import json
import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from puna.chat import encode_chat
from puna.errors import ContextLengthError, ModelFormatError, UnsupportedModelError, UsageError
from puna.formats.gguf_tokenizer import read_tokenizer
from puna.formats.sentencepiece_model import read_sentencepiece_model
from puna.formats.tokenizer_files import means_the_same, read_tokenizer_file, read_tokenizer_folder
from puna.tokenizers import build_tokenizer
from puna.writers.tokenizers import (
    gguf_tokenizer_metadata,
    write_llama2c_tokenizer,
    write_sentencepiece,
    write_tokenizer_json,
)
from tests.tokenizers.folders import sentencepiece_bytes
from tests.tokenizers.libraries import FAMILIES, FLAGS, SPACE, TOKENS, byte_level, ours, pieces, random_normalizer, texts, unigram
from tests.tokenizers.test_library import assert_alike
from tests.writers.test_tokenizers import gguf_values

SEED = 31
TURN = (
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_start|>b",
    "<|im_start|>",
    "hi there",
    " <|im_end|> ",
    "",
)
SOME = ["the <x> the", "<x>", "<x><x>", " <x> ", "a <x>b", "tokens <x>", "\n\t <x> \n", "the", "", " ", "İ<X>ß", "日本<x>日本"]


def with_tokens(library: Tokenizer, *tokens: str, **flags: bool) -> Tokenizer:
    library.add_tokens([AddedToken(text, **flags) for text in tokens])
    return library


def with_parts(library: Tokenizer, **parts: Any) -> Tokenizer:
    for name, part in parts.items():
        setattr(library, name, part)
    return library


def framed(library: Tokenizer, *steps: Any) -> Tokenizer:
    return with_parts(library, post_processor=processors.Sequence(list(steps)) if len(steps) > 1 else steps[0])


def template(*pairs: tuple[str, int], single: str) -> Any:
    return processors.TemplateProcessing(single, None, list(pairs))


def of_charsmap() -> Any:
    """The normalizer of T5: SentencePiece's nmt_nfkc."""
    content = sentencepiece_bytes(normalization_rule_name="nmt_nfkc")
    spec = read_sentencepiece_model(Path("x"), content)
    text = json.dumps({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(spec.charsmap).decode()})
    document = json.loads(byte_level().to_str()) | {"normalizer": json.loads(text)}
    return Tokenizer.from_str(json.dumps(document)).normalizer


def several_ids() -> Any:
    part = {"SpecialToken": {"id": "head", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"head": {"id": "head", "ids": [5, 6, 5], "tokens": ["a", "b", "a"]}}
    kind = {"type": "TemplateProcessing", "single": [part, text, part], "pair": [part, text, part], "special_tokens": special}
    document = json.loads(byte_level().to_str()) | {"post_processor": kind}
    return Tokenizer.from_str(json.dumps(document)).post_processor


def words_whole() -> Tokenizer:
    library = byte_level()
    vocabulary = library.get_vocab() | {"zq": 300, "Ġzq": 301}
    made = Tokenizer(models.BPE(vocabulary, [("Ġ", "t")], ignore_merges=True))
    return with_parts(made, pre_tokenizer=library.pre_tokenizer, decoder=library.decoder)


def no_bytes(fuse: bool) -> Tokenizer:
    library = Tokenizer(models.BPE({"<unk>": 0, SPACE: 1, "a": 2, "b": 3}, [], unk_token="<unk>", fuse_unk=fuse))
    library.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "never", False)
    library.add_special_tokens(["<unk>"])
    return with_parts(library, decoder=decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()]))


def bert() -> Tokenizer:
    library = byte_level()
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    return library


def words(*steps: Any) -> Any:
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


BERT = processors.BertProcessing(("[SEP]", 9), ("[CLS]", 8))
ROBERTA = processors.RobertaProcessing(("</s>", 7), ("<s>", 6))
CASES: dict[str, tuple[Callable[[], Tokenizer], tuple[str, ...] | list[str]]] = {
    "ChatML on Llama 2, turn markers not special": (
        lambda: with_tokens(pieces("prepend"), "<|im_start|>", "<|im_end|>", normalized=False),
        TURN,
    ),
    "ChatML on a later Llama, Metaspace first": (
        lambda: with_tokens(pieces("first"), "<|im_start|>", "<|im_end|>", normalized=False),
        TURN,
    ),
    "phi-4's markers, which take the spaces on both sides": (
        lambda: with_tokens(byte_level(), "<|im_start|>", "<|im_end|>", special=True, lstrip=True, rstrip=True),
        (*TURN, "<|im_start|>user\n Hi <|im_end|>\n"),
    ),
    "Llama 1's BOS and EOS, looked for in the normalized text": (
        lambda: with_tokens(pieces("prepend"), "<s>", "</s>", special=True, normalized=True),
        ("[INST] a [/INST] b </s><s>[INST] c", "<s>the", " </s>", "the</s> the"),
    ),
    "RoBERTa's mask, which takes the space before it": (
        lambda: with_tokens(byte_level(), "<mask>", special=True, lstrip=True),
        ("the <mask> the", "the\n\t<mask>", "<mask>", "  <mask><mask>"),
    ),
    "a token that counts as a whole word only": (
        lambda: with_tokens(pieces("always"), "the", single_word=True, normalized=False),
        ("the", "other", "the!", "éthe", "the1", "the_", "日the", "the the", "(the)"),
    ),
    "a token of spaces": (
        lambda: with_tokens(pieces("always"), "  ", "    ", normalized=False),
        ("a  b", "     ", "   a", "a b"),
    ),
    "a token of two newlines": (lambda: with_tokens(byte_level(), "\n\n", normalized=False), ("a\n\nb", "\n\n\n", "a \n\n b")),
    "tokens that begin alike": (
        lambda: with_tokens(byte_level(), "<|im", "<|im_start|>", "<|", normalized=False),
        ("<|im_start|>", "<|im_stop", "<|i", "<|im<|"),
    ),
    "a control token and another one that overlap": (
        lambda: with_tokens(with_tokens(byte_level(), "<a", special=True), "a>b", normalized=False),
        ("<a>b", "a>b<a", "<a<a>b"),
    ),
    "a token in capitals under a normalizer of small letters": (
        lambda: with_tokens(with_parts(byte_level(), normalizer=normalizers.Lowercase()), "<X>", "THE"),
        (*SOME, "THE the tHe"),
    ),
    "the same, looked for as it is": (
        lambda: with_tokens(with_parts(byte_level(), normalizer=normalizers.Lowercase()), "<X>", "THE", normalized=False),
        (*SOME, "THE the tHe"),
    ),
    "a composed token and a decomposed text": (
        lambda: with_tokens(with_parts(byte_level(), normalizer=normalizers.NFC()), "x\u03ce", normalized=True),
        ("a\u03c9\u0301 x\u03c9\u0301", "x\u03ce", "\u03c9\u0301"),
    ),
    "a space before every text of byte-level BPE": (
        lambda: with_tokens(with_parts(byte_level(), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "<x>"),
        SOME,
    ),
    "byte-level BPE whose bytes are the normalizer's": (
        lambda: with_parts(byte_level(), normalizer=normalizers.ByteLevel(), pre_tokenizer=None),
        SOME,
    ),
    "spaces that an expression joins": (
        lambda: with_tokens(with_parts(byte_level(), normalizer=normalizers.Replace(Regex(r"\s+"), " ")), "<x>"),
        SOME,
    ),
    "a text of spaces that are all stripped": (
        lambda: with_parts(pieces("always"), normalizer=normalizers.Strip()),
        ("   ", " a ", ""),
    ),
    "BERT's normalizer and words": (bert, ("日本 Ｔhe İ", "a\u0301b!!c", "the\u0000the", "\ufffd")),
    "accents taken away": (
        lambda: with_parts(byte_level(), normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        ("é e\u0301 ǅ ü", "한국"),
    ),
    "T5's map of characters before a Unigram model": (
        lambda: with_tokens(with_parts(unigram("always"), normalizer=of_charsmap()), "<x>"),
        (*SOME, "ﬁ①Ａ\u00a0b", "\u200d"),
    ),
    "words between letters x": (
        lambda: with_parts(byte_level(), pre_tokenizer=words(pre_tokenizers.CharDelimiterSplit("x"))),
        ("axb", "xx", "x", "a"),
    ),
    "digits, punctuation and Metaspace one after another": (
        lambda: with_parts(
            pieces("always"),
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(True), pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace(SPACE, "always", True)]
            ),
        ),
        ("a 12!b", "the, the", "1 2"),
    ),
    "what an expression leaves, taken away": (
        lambda: with_parts(byte_level(), pre_tokenizer=words(pre_tokenizers.Split(Regex(r"\w+|\s"), "removed", True))),
        ("a, b!", "!!", "日本。x"),
    ),
    "words of five letters": (
        lambda: with_parts(byte_level(), pre_tokenizer=words(pre_tokenizers.FixedLength(5))),
        ("the the the", "日本日本日本", ""),
    ),
    "scripts apart": (
        lambda: with_parts(byte_level(), pre_tokenizer=words(pre_tokenizers.UnicodeScripts())),
        ("aпривет日本 b", "αa"),
    ),
    "digits in threes from the right": (
        lambda: with_parts(byte_level(), pre_tokenizer=words(pre_tokenizers.Split(Regex(r"(?=(\d{3})+(?!\d))"), "isolated"))),
        ("1234567", "12 1234", "a1b"),
    ),
    "a word that is a token, whole": (words_whole, ("zq zq", "a zq", "zqa")),
    "unknown characters joined": (lambda: no_bytes(True), ("a日本b", "日 本", "ab")),
    "unknown characters one by one": (lambda: no_bytes(False), ("a日本b", "日 本", "ab")),
    "Metaspace as the decoder": (
        lambda: with_parts(pieces("always"), decoder=decoders.Metaspace(SPACE, "always")),
        (" the  the", "a b", "  "),
    ),
    "RoBERTa's post-processor": (
        lambda: framed(byte_level(), ROBERTA),
        ("the", "", " a "),
    ),
    "BERT's post-processor": (lambda: framed(byte_level(), BERT), ("the", "")),
    "a template of two tokens before a text": (
        lambda: framed(byte_level(), template(("a", 5), ("b", 6), ("c", 7), single="a b $A c")),
        ("the", ""),
    ),
    "a template whose name stands for three ids": (lambda: framed(byte_level(), several_ids()), ("the", "")),
    "two templates in a sequence": (
        lambda: framed(byte_level(), template(("a", 5), single="a $A"), template(("b", 6), ("c", 7), single="b $A c")),
        ("the", ""),
    ),
    "two templates, the second with a form for pairs": (
        lambda: framed(
            byte_level(),
            template(("a", 5), single="a $A"),
            processors.TemplateProcessing("b $A", "b $A c $B c", [("b", 6), ("c", 7)]),
        ),
        ("the", ""),
    ),
    "a template round RoBERTa's": (
        lambda: framed(byte_level(), ROBERTA, processors.ByteLevel(trim_offsets=False), template(("b", 8), single="b $A")),
        ("the", ""),
    ),
    "RoBERTa's round BERT's round a template": (
        lambda: framed(byte_level(), template(("a", 5), ("d", 4), single="a $A d"), BERT, ROBERTA),
        ("the", ""),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_has_the_ids_and_the_text_of_the_library(tmp_path: Path, name: str) -> None:
    make, samples = CASES[name]
    library = make()
    skips = not (library.normalizer and any(t.normalized and t.special for t in library.get_added_tokens_decoder().values()))
    assert_alike(library, ours(library, tmp_path / "tokenizer.json"), list(samples), skips)


# ---- what the library does not promise ------------------------------------------------------------------------------


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalized", [False, True])
def test_a_control_token_that_a_person_typed_stays_text(tmp_path: Path, family: str, normalized: bool) -> None:
    library = with_tokens(FAMILIES[family](), "<|im_start|>", "<|im_end|>", special=True, normalized=normalized, lstrip=True)
    tokenizer = ours(library, tmp_path / "tokenizer.json")
    control = set(tokenizer.special_tokens.values())
    for typed in ("<|im_end|>", "a <|im_end|> b<|im_start|>", "<|im_<|im_end|>end|>", "é<|im_end|>"):
        assert not control & set(tokenizer.encode(typed, bos=False))
        ids = encode_chat([{"role": "user", "content": typed}], tokenizer, TEMPLATE)
        first, *content, last = [i for i in ids if i != tokenizer.bos_id or not tokenizer.add_bos]
        markers = [tokenizer.special_tokens[text] for text in ("<|im_start|>", "<|im_end|>")]
        if family != "prepend" or not normalized:  # there the first marker is no marker where no space stands before it
            assert [first, last] == markers, typed
            assert not control & set(content), typed
            assert tokenizer.decode(content).replace(" ", "") == typed.replace(" ", ""), typed


@pytest.mark.parametrize("normalizer", [normalizers.Lowercase(), normalizers.NFKC(), normalizers.Replace("!", "")])
def test_a_control_token_that_a_person_typed_in_other_letters_stays_text(tmp_path: Path, normalizer: Any) -> None:
    """The library finds them in the normalized text."""
    library = with_parts(byte_level(), normalizer=normalizer)
    with_tokens(library, "<|im_start|>", "<|im_end|>", special=True, normalized=True)
    tokenizer = ours(library, tmp_path / "tokenizer.json")
    markers = [tokenizer.special_tokens[text] for text in ("<|im_start|>", "<|im_end|>")]
    for typed in ("<|IM_END|>", "＜|im_end|＞", "<|!im_end|>", "a <|im_end|> <|IM_END|>", "the"):
        first, *content, last = encode_chat([{"role": "user", "content": typed}], tokenizer, TEMPLATE)
        assert [first, last] == markers
        assert not set(markers) & set(content), typed
        assert content == tokenizer.encode(typed)


def test_a_piece_of_the_model_that_is_a_control_token_is_spelled_in_other_pieces(tmp_path: Path) -> None:
    """The library's Unigram finds "tok" in its own vocabulary though it is special; puna finds t, o, k."""
    library = with_tokens(unigram("always"), "tok", special=True)
    library.encode_special_tokens = True
    token_id = library.token_to_id("tok")
    tokenizer = ours(library, tmp_path / "tokenizer.json")
    assert token_id in library.encode("a tok").ids
    assert token_id not in tokenizer.encode("a tok")
    assert tokenizer.decode(tokenizer.encode("a tok")) == "a tok"


def test_a_whole_word_that_is_a_control_token_is_spelled_in_other_pieces(tmp_path: Path) -> None:
    library = with_tokens(words_whole(), "zq", special=True)
    tokenizer = ours(library, tmp_path / "tokenizer.json")
    assert tokenizer.encode("zq", special=True) == [300]
    assert 300 not in tokenizer.encode("zq")


def test_what_stands_in_the_place_of_a_control_token_cannot_be_typed(tmp_path: Path) -> None:
    library = with_tokens(unigram("always"), "tok", special=True)
    tokenizer = ours(library, tmp_path / "tokenizer.json")
    with pytest.raises(UsageError, match="has no token"):
        tokenizer.encode(f"\U0010ffff\U0010ffff{library.token_to_id('tok')}\U0010ffff")


def test_a_byte_without_a_token_is_refused_and_never_dropped(tmp_path: Path) -> None:
    library = byte_level()
    vocabulary = {text: i for text, i in library.get_vocab().items() if text != "z"}
    made = with_parts(
        Tokenizer(models.BPE(vocabulary, [])), pre_tokenizer=library.pre_tokenizer, normalizer=normalizers.Lowercase()
    )
    tokenizer = ours(made, tmp_path / "tokenizer.json")
    for text in ("az", "AZ"):
        with pytest.raises(UsageError, match="0x7A"):
            tokenizer.encode(text)


def test_an_added_token_in_letters_of_the_byte_alphabet_comes_back_as_it_is_spelled(tmp_path: Path) -> None:
    """The library takes such letters for bytes."""
    library = with_tokens(byte_level(), "<\u00e9>", normalized=False, lstrip=True)
    tokenizer = ours(library, tmp_path / "tokenizer.json")
    ids = tokenizer.encode("a<\u00e9>")
    assert ids == library.encode("a<\u00e9>").ids
    assert (tokenizer.decode(ids), library.decode(ids)) == ("a<\u00e9>", "a<\ufffd>")


def test_a_unigram_model_without_an_unknown_token_is_refused(tmp_path: Path) -> None:
    made = with_parts(Tokenizer(models.Unigram([("a", 0.0)], None, False)), pre_tokenizer=pre_tokenizers.Metaspace())
    with pytest.raises(ModelFormatError, match="no unknown token"):
        ours(made, tmp_path / "tokenizer.json")


def test_a_model_that_would_drop_characters_is_refused(tmp_path: Path) -> None:
    made = with_parts(Tokenizer(models.BPE({"a": 0}, [])), pre_tokenizer=pre_tokenizers.Whitespace())
    with pytest.raises(ModelFormatError, match="would be dropped"):
        ours(made, tmp_path / "tokenizer.json")


def test_a_text_that_cannot_fit_is_refused_before_it_is_cut(tmp_path: Path) -> None:
    tokenizer = ours(with_tokens(pieces("prepend"), "<|im_end|>", normalized=False), tmp_path / "tokenizer.json")
    with pytest.raises(ContextLengthError, match="at least 10000"):
        tokenizer.encode("the llama " * 10_000, limit=100)
    assert len(tokenizer.encode("the" * 10, limit=100)) < 100


def test_sixteen_threads_share_one_tokenizer_of_the_library(tmp_path: Path) -> None:
    library = with_tokens(pieces("first"), *TOKENS)
    tokenizer = ours(library, tmp_path / "tokenizer.json")
    samples = texts(random.Random(SEED), 50)
    expected = [library.encode(text).ids for text in samples]
    with ThreadPoolExecutor(16) as pool:
        for got in pool.map(lambda _: [tokenizer.encode(text, special=True) for text in samples], range(32)):
            assert got == expected


# ---- other files, other formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_library_reads_is_written_and_read_again(tmp_path: Path, family: str) -> None:
    """As a tokenizer.json, and, where GGUF has a name for the rest, in GGUF beside it."""
    rng = random.Random(f"{SEED} {family}")
    samples = texts(rng, 40)
    for number in range(6):
        library = FAMILIES[family]()
        for text in rng.sample(TOKENS, 4):
            library.add_tokens([AddedToken(text, **{flag: rng.random() < 0.4 for flag in FLAGS})])
        if number % 2:
            library.normalizer = random_normalizer(rng)
        print(family, number, library.normalizer)
        library.save(str(tmp_path / "tokenizer.json"))
        spec = read_tokenizer_file(tmp_path / "tokenizer.json", None)
        expected = [build_tokenizer(spec).encode(text, special=True) for text in samples]
        write_tokenizer_json(spec, tmp_path / "again.json")
        again = read_tokenizer_file(tmp_path / "again.json", None)
        assert means_the_same(again, spec)
        assert [build_tokenizer(again).encode(text, special=True) for text in samples] == expected
        if spec.only_json:
            with pytest.raises(UnsupportedModelError, match="GGUF cannot hold this tokenizer: it"):
                gguf_tokenizer_metadata(spec)
            continue
        kept = read_tokenizer(gguf_values(tmp_path / "x.gguf", gguf_tokenizer_metadata(spec)), len(spec.tokens))
        assert kept is not None
        assert means_the_same(kept, replace(spec, eos_id=kept.eos_id))  # GGUF has a default where this file names none
        assert [build_tokenizer(kept).encode(text, special=True) for text in samples] == expected


def test_forms_that_cannot_say_how_added_tokens_are_found_refuse(tmp_path: Path) -> None:
    library = with_tokens(pieces("prepend"), "<x>", normalized=False)
    library.save(str(tmp_path / "tokenizer.json"))
    spec = read_tokenizer_file(tmp_path / "tokenizer.json", None)
    assert spec.pipeline
    for write in (write_sentencepiece, write_llama2c_tokenizer):
        with pytest.raises(UnsupportedModelError, match="added tokens match in another way"):
            write(spec, tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": None}, "a BPE or Unigram model is needed"),
        ({"model": {"type": "BPE", "size": 10**6}}, "size: is 1000000"),
        ({"model": {"type": "BPE", "size": 3, "unk_token": 5}}, "unk_token: is 5"),
        ({"first": [10**6]}, "none of the"),
        ({"first": "x"}, "a list is needed"),
        ({"added_flags": [[1]]}, "an id and letters are needed"),
        ({"normalizer": [{"type": "Mystery"}]}, "holds 'Mystery'"),
        ({"pre_tokenizer": [{"type": "Split", "pattern": {"Regex": "(a*)*b"}}]}, r"\(a\*\)\*b"),
    ],
)
def test_what_a_gguf_file_holds_of_the_library_is_checked(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with_tokens(pieces("prepend"), "<x>", normalized=False).save(str(tmp_path / "tokenizer.json"))
    keys = gguf_tokenizer_metadata(read_tokenizer_file(tmp_path / "tokenizer.json", None))
    kept = json.loads(str(keys["puna.tokenizer.pipeline"]))
    values = gguf_values(tmp_path / "x.gguf", keys | {"puna.tokenizer.pipeline": json.dumps(kept | changes)})
    tokens = keys["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=problem):
        read_tokenizer(values, len(tokens))


def test_tokens_that_other_files_of_a_folder_add_are_found_first_too(tmp_path: Path) -> None:
    """Their flags are those of `added_tokens_decoder`."""
    library = pieces("prepend")
    library.save(str(tmp_path / "tokenizer.json"))
    count = library.get_vocab_size()
    entry = {"content": "<x>", "special": False, "normalized": False, "lstrip": True, "rstrip": False, "single_word": False}
    config = {"added_tokens_decoder": {str(count): entry}, "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with_tokens(library, "<x>", normalized=False, lstrip=True)
    spec, _ = read_tokenizer_folder(tmp_path, count + 1)
    assert spec is not None
    for text in SOME:
        assert build_tokenizer(spec).encode(text, bos=False) == library.encode(text, add_special_tokens=False).ids, text


def test_flags_that_two_files_tell_otherwise_are_those_of_transformers(tmp_path: Path) -> None:
    """tokenizer_config.json's. A token that either of them calls special is special."""
    with_tokens(byte_level(), "<x>", "<y>", normalized=False).save(str(tmp_path / "tokenizer.json"))
    library = with_tokens(with_tokens(byte_level(), "<x>", normalized=False, lstrip=True, rstrip=True), "<y>", special=True)
    count = library.get_vocab_size()
    flags = {"normalized": False, "single_word": False}
    config = {
        str(count - 2): {"content": "<x>", "special": False, "lstrip": True, "rstrip": True} | flags,
        str(count - 1): {"content": "<y>", "special": True, "lstrip": False, "rstrip": False} | flags,
    }
    settings = {
        "added_tokens_decoder": config,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    spec, _ = read_tokenizer_folder(tmp_path, count)
    assert spec is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        oracle = AutoTokenizer.from_pretrained(str(tmp_path))
    tokenizer = build_tokenizer(spec)
    assert tokenizer.special_tokens == {"<y>": count - 1}
    for text in (*SOME, " <y> <x> ", "a <x> <y>"):
        assert tokenizer.encode(text, special=True) == library.encode(text).ids == oracle(text).input_ids, text
