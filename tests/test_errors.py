"""The kinds of problems in files: a notice, a refusal with its reason, damage. Only damage says "damaged, fetch it again".

Which error is raised where is read from the sources: a DamagedFileError (or `damaged`, its short form) only where bytes are
missing, an offset or a length leads nowhere, a checksum differs, or the bytes are none that the format knows.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from puna import LLM, errors, keywords
from puna.config import EngineSettings
from puna.convert import convert
from puna.errors import (
    MAX_LINE,
    DamagedFileError,
    ModelFormatError,
    ModelNotFoundError,
    PunaError,
    UnsupportedModelError,
    first_line,
)
from puna.request import SamplingSettings

PACKAGE = Path(errors.__file__).parent
SOURCES = sorted([*(PACKAGE / "formats").rglob("*.py"), *(PACKAGE / "tokenizers").rglob("*.py"), PACKAGE / "convert.py"])
DAMAGE, REFUSAL = ("DamagedFileError", "damaged"), ("ModelFormatError", "UnsupportedModelError", "fail", "_fail", "fail_at")

# All that is called damage: file -> the fixed words of each error ("" where another line makes them).
DAMAGES: dict[str, set[str]] = {
    "convert.py": {"does not have the checksum that was saved with it entry"},
    "formats/__init__.py": {"file is empty The download is not complete; fetch it again."},
    "formats/gguf_file.py": {
        "",
        "begins bytes into the data and : is expected",
        "data bytes follow the last tensor",
        "has type , which GGUF does not know",
        "is , but only bytes remain",
        "is a bool of value",
        "is not UTF-8",
        "version is 0; puna reads 2 and 3",
    },
    "formats/json_file.py": {"", "file is not JSON: it ends too early ( )"},
    "formats/llama2c.py": {"file is bytes long; its header needs"},
    "formats/llama2c_tokenizer.py": {"has the score and bytes; a finite score and 0 to bytes are possible"},
    "formats/mapped.py": {
        "",
        "ends after of strings",
        "file is empty The download is not complete; fetch it again.",
        "needs bytes, but remain",
        "string is bytes long, but remain",
    },
    "formats/protobuf.py": {
        "has a field of bytes, but remain",
        "has a field of number 0, which protobuf does not have",
        "has a field of wire type ; 0, 1, 2 and 5 are known",
        "has a number that does not end",
    },
    "formats/safetensors.py": {
        "begins at byte of the data; byte comes next",
        "data_offsets are ; two ascending ones are needed",
        "data_offsets end at byte of the data, but it is bytes long",
        "data_offsets hold bytes; needs",
        "describes bytes of data, but follow",
        "header begins with ; an object is needed",
    },
    "formats/sentencepiece_model.py": {
        "normalizer charsmap does not hold a trie and texts of the sizes that it names",
        "normalizer charsmap leads outside itself",
    },
    "formats/tiktoken_file.py": {"line is ; a token in base64 and the rank are needed"},
    "formats/torch_file.py": {"", "lies in , which the archive does not hold", "pickle"},
    "formats/zip_file.py": {
        "begins at byte , which is not before the directory at byte",
        "does not have the checksum that the directory gives entry",
        "has another name, or none, where it begins",
        "of bytes at byte reaches into the directory at byte",
        "overlaps another one zip entry",
        "zip directory is missing: the archive was cut short",
        "zip directory is not at the end of the file",
        "zip directory is not readable:",
        "zip directory of entries holds",
        "zip directory of entries, bytes at byte , does not end at byte",
        "zip64 directory has the sizes , but the record at the file's end says",
        "zip64 directory is not where the file says, at byte",
    },
}
OF_DAMAGE_ALONE = ("remain", "ends after", "checksum", "cut short", "file ends", "overlaps", "leads outside", "fetch it again")


def raised(path: Path, names: tuple[str, ...]) -> Iterator[str]:
    """The fixed words of each error that a file makes by one of these names."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))
            if name in names:
                yield " ".join(" ".join(texts).split())


def test_damage_is_said_of_just_these_errors() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): set(raised(path, DAMAGE)) for path in SOURCES}
    assert {file: texts for file, texts in found.items() if texts} == DAMAGES


def test_no_other_error_of_a_reader_speaks_of_damage() -> None:
    refusals = [(path.name, words) for path in SOURCES for words in raised(path, REFUSAL)]
    assert len(refusals) > 150
    assert [refusal for refusal in refusals if any(words in refusal[1] for words in OF_DAMAGE_ALONE)] == []


@pytest.mark.parametrize("kind", [ModelFormatError, UnsupportedModelError, ModelNotFoundError])
def test_only_damage_is_to_be_fetched_again(kind: type[PunaError]) -> None:
    assert "fetch it again" not in kind.default_hint and "damaged" not in kind.default_hint and kind.default_hint
    assert "damaged" in DamagedFileError.default_hint and "fetch it again" in DamagedFileError.default_hint


def test_damage_is_a_refusal_too() -> None:
    error = DamagedFileError("m.gguf", "kv_count", 16, "is 9, but 4 bytes remain")
    assert isinstance(error, ModelFormatError) and str(error) == "m.gguf: kv_count at byte 16: is 9, but 4 bytes remain"
    assert error.http_status == ModelFormatError.http_status == 422


# ---- settings, in the words of who reads


@pytest.mark.parametrize(
    ("typed", "python"),
    [
        ("Use --device cpu.", 'Use device="cpu".'),
        ("Use --device torch or --device cuda:1.", 'Use device="torch" or device="cuda:1".'),
        ("Use --device cuda or drop --require-gpu.", 'Use device="cuda" or drop `require_gpu=True`.'),
        ("Choose one of them with --device; with torchrun", "Choose one of them with `device`; with torchrun"),
        ("--max-context may be up to 64", "`max_context` may be up to 64"),
        ("Take --max-context 2048, or close", "Take max_context=2048, or close"),
        ("Take --vram 512MiB, with", "Take vram=512 << 20, with"),
        ("leave --tokenizer out", "leave `tokenizer` out"),
        ("--tokenizer FILE adds one", "tokenizer=FILE adds one"),
        ("Give it with --tokenizer: tokenizer.json", "Give it with `tokenizer`: tokenizer.json"),
        ("Name one with --template (llama2), or use --raw", "Name one with `chat_template` (llama2), or use `generate()`"),
        ("take a smaller type with --quantize, or --to gguf", 'take a smaller type with `quantize`, or to="gguf"'),
        ("Leave --draft-model out, or add --lora PATH.", 'Leave `draft_model` out, or add lora=["PATH"].'),
        ("Limit it: thinking_budget=0 (--thinking-budget 0).", "Limit it: thinking_budget=0."),
        ('Load it with lora_modules=["sql=PATH"] (--lora-modules sql=PATH).', 'Load it with lora_modules=["sql=PATH"].'),
        ("it was cut (--max-tokens, or the context, is too small)", "it was cut (`max_tokens`, or the context, is too small)"),
        ("`puna doctor --device cuda` says it; pip install --force-reinstall torch", None),
        ("torchrun's --master_port, or --standalone; --total 7", None),
    ],
)
def test_python_gets_keywords_and_the_command_line_flags(typed: str, python: str | None) -> None:
    error = PunaError("no", hint=typed)
    assert error.typed.hint == typed and error.line == f"no. {typed}"
    assert error.hint == (python or typed) and error.__notes__ == [error.hint]
    refused = PunaError(typed)
    assert refused.typed.message == typed and str(refused) == refused.message == (python or typed)


def test_every_keyword_that_python_gets_is_one() -> None:
    taken = {*inspect.signature(LLM.__init__).parameters, *inspect.signature(convert).parameters, *EngineSettings.__annotations__}
    taken |= {*SamplingSettings.__annotations__, "chat_template", "generate()"}
    names = {name.replace("-", "_") for name in keywords._SAME.split("|")} | {
        word.partition("=")[0] for word in keywords._KEYWORDS.values()
    }
    assert names <= taken and {"device", "overwrite", "max_tokens"} <= names


@pytest.mark.parametrize(
    ("text", "told"), [("\n cut short\nmore", "cut short"), ("", "OSError"), ("x" * 999, "x" * MAX_LINE + " ...")]
)
def test_of_a_foreign_error_one_short_line_is_told(text: str, told: str) -> None:
    assert first_line(OSError(text)) == told
