"""Findings about a model: each where it must be, and none where nothing is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from puna.cli.main import app
from puna.convert import convert
from puna.errors import ModelFormatError
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint, TokenizerSpec
from puna.health import HealthFinding, examine
from puna.model.rope import RopeConfig
from tests.families import FAMILIES
from tests.models import CONFIGS, TinyTokenizer, bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf

CONFIG = tiny_config()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
MODELS: dict[str, tuple[Callable[[int], TinyTokenizer], str | None]] = {
    "byte-level BPE, ChatML": (bpe_tokenizer, CHATML),
    "byte-level BPE, no template": (bpe_tokenizer, None),
    "SentencePiece, Llama 2": (spm_tokenizer, LLAMA2),
    "SentencePiece, no template": (spm_tokenizer, None),
}


def model(folder: Path, kind: str = "byte-level BPE, ChatML", **config: Any) -> Checkpoint:
    sizes = tiny_config(**config)
    make, template = MODELS[kind]
    return open_checkpoint(
        write_gguf(folder / "m.gguf", sizes, random_tensors(sizes, seed=1), "F32", make(sizes.vocab_size), template)
    )


def found(checkpoint: Checkpoint) -> dict[str, HealthFinding]:
    return {finding.check: finding for finding in examine(checkpoint)}


def spec_of(checkpoint: Checkpoint) -> TokenizerSpec:
    assert checkpoint.tokenizer is not None
    return checkpoint.tokenizer


def with_values(checkpoint: Checkpoint, name: str, change: Callable[[Any], object]) -> Checkpoint:
    tensor = checkpoint.tensors[name]
    data = np.array(tensor.data[:])
    change(data.view(tensor.type.layout))
    return replace(checkpoint, tensors={**checkpoint.tensors, name: replace(tensor, data=data)})


# ---- silence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_healthy_model_has_no_finding_but_notes(kind: str, tmp_path: Path) -> None:
    assert [finding for finding in examine(model(tmp_path, kind)) if finding.severity != "note"] == []


@pytest.mark.parametrize("quant", CONFIGS)
def test_no_block_type_is_taken_for_broken(quant: str, tmp_path: Path) -> None:
    config = CONFIGS[quant]
    assert examine(open_checkpoint(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), quant))) == []


@pytest.mark.parametrize("to", ["gguf", "safetensors", "meta", "llama2c"])
def test_a_healthy_model_is_healthy_in_every_format(to: str, tmp_path: Path) -> None:
    model(tmp_path)
    assert examine(open_checkpoint(convert(tmp_path / "m.gguf", tmp_path / "made", to=to).path)) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_healthy(name: str) -> None:
    family = FAMILIES[name]
    checks = found(family.checkpoint(family.transformers_model(seed=1)))
    assert checks.keys() <= {"tokenizer"}


def test_the_default_model_is_healthy(default_model: Path) -> None:
    assert examine(open_checkpoint(default_model)) == []


def test_the_stories_are_healthy(shared_data: Path) -> None:
    for name in ("stories260K.bin", "stories260K_v1.bin"):
        assert examine(open_checkpoint(shared_data / "stories260K" / name)) == []


# ---- text -----------------------------------------------------------------------------------------------------------


def test_a_template_that_writes_bos_twice_is_found_and_one_that_writes_what_is_added_is_noted(tmp_path: Path) -> None:
    checkpoint = model(tmp_path, "SentencePiece, Llama 2")
    assert found(checkpoint)["double-bos"].severity == "note"
    twice = replace(checkpoint, chat_template="<s>" + LLAMA2)
    assert found(twice)["double-bos"].severity == "warning"


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }} {% endfor %}"])
def test_a_missing_bos_is_found(template: str | None, tmp_path: Path) -> None:
    checkpoint = model(tmp_path, "SentencePiece, no template")
    silent = replace(checkpoint, chat_template=template, tokenizer=replace(spec_of(checkpoint), add_bos=False))
    assert found(silent)["missing-bos"].severity == "warning"
    assert "missing-bos" not in found(replace(silent, tokenizer=spec_of(checkpoint)))


def test_an_end_of_turn_that_does_not_end_is_found(tmp_path: Path) -> None:
    checkpoint = model(tmp_path)
    deaf = replace(checkpoint, tokenizer=replace(spec_of(checkpoint), eos_id=0, pad_id=0))
    assert "end-of-turn" not in found(deaf)  # the name of the token says enough: the tokenizer takes it for an end
    named = replace(spec_of(checkpoint), tokens=[b"<|sep|>", *spec_of(checkpoint).tokens[1:]])
    other = "{% for m in messages %}<|im_start|>{{ m.content }}<|sep|>{% endfor %}"
    wrong = found(replace(checkpoint, tokenizer=named, chat_template=other))["end-of-turn"]
    assert wrong.severity == "error" and "ends an answer with <|sep|>, but generation ends at <|im_end|>" in wrong.found


def test_a_template_of_another_model_is_found(tmp_path: Path) -> None:
    other = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|im_end|>{% endfor %}"
    finding = found(replace(model(tmp_path), chat_template=other))["template-tokens"]
    assert finding.severity == "error" and "<|end_header_id|>, which the vocabulary lacks" in finding.found


@pytest.mark.parametrize("template", ["{{ nothing.at.all }}", "{% for %}", "{{ raise_exception('no') }}"])
def test_a_template_that_fails_is_found(template: str, tmp_path: Path) -> None:
    assert found(replace(model(tmp_path), chat_template=template))["template"].severity == "error"


def test_a_model_without_a_tokenizer_or_an_end_says_so(tmp_path: Path) -> None:
    checkpoint = model(tmp_path, "SentencePiece, no template")
    assert "tokenizer" in found(replace(checkpoint, tokenizer=None))
    endless = replace(
        spec_of(checkpoint), eos_id=None, tokens=[token.replace(b"</s>", b"<e>") for token in spec_of(checkpoint).tokens]
    )
    assert "end-of-text" in found(replace(checkpoint, tokenizer=endless))


def test_duplicate_tokens_are_found_and_a_tokenizer_that_is_refused(tmp_path: Path) -> None:
    checkpoint = model(tmp_path, "byte-level BPE, no template")
    tokens = list(spec_of(checkpoint).tokens)
    tokens[20] = tokens[19]
    checks = found(replace(checkpoint, tokenizer=replace(spec_of(checkpoint), tokens=tokens)))
    assert checks["duplicate-tokens"].found.startswith("1 tokens")
    checkpoint = model(tmp_path, "SentencePiece, no template")
    tokens = [spec_of(checkpoint).tokens[0]] * 300
    refused = found(replace(checkpoint, tokenizer=replace(spec_of(checkpoint), tokens=tokens)))["tokenizer"]
    assert refused.severity == "error" and "puna cannot use the tokenizer" in refused.found


# ---- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({"max_context": 131072}, True),
        ({"max_context": 8192}, False),
        ({"max_context": 8192, "name": "Meta-Llama-3.1-8B-Instruct"}, True),
        ({"max_context": 8192, "name": "Meta-Llama-3-8B-Instruct"}, False),
        ({"max_context": 131072, "ropes": (RopeConfig(theta=500000.0, scaling="llama3", factor=8.0),)}, False),
        ({"max_context": 131072, "ropes": (RopeConfig(theta=10000.0),)}, False),
    ],
)
def test_a_dropped_rope_scaling_is_found(changes: dict[str, Any], is_found: bool, tmp_path: Path) -> None:
    checkpoint = model(tmp_path)
    config = replace(checkpoint.config, **({"ropes": (RopeConfig(theta=500000.0),)} | changes))
    assert ("rope-scaling" in found(replace(checkpoint, config=config))) == is_found


def test_what_a_reader_notices_is_repeated(tmp_path: Path) -> None:
    assert found(replace(model(tmp_path), notices=("a word",)))["reader"].found == "a word"


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quant", [name for name in CONFIGS if name not in ("BF16", "MXFP4")])  # MXFP4: every byte is an exponent
def test_a_number_that_is_not_finite_is_found_in_every_type(quant: str, bad: float, tmp_path: Path) -> None:
    config = CONFIGS[quant]
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), quant))
    name = "layers.1.up_proj"

    def spoil(blocks: Any) -> None:
        if blocks.dtype.names is None:
            blocks.reshape(-1)[77] = bad
        else:
            scale = next(field for field in blocks.dtype.names if blocks.dtype[field].kind == "f")
            blocks.reshape(-1)[scale][1] = bad

    finding = found(with_values(checkpoint, name, spoil))["not-finite"]
    assert finding.severity == "error" and finding.found.startswith("1 numbers") and name in finding.found


def test_a_bfloat16_that_is_not_finite_is_found(tmp_path: Path) -> None:
    config = CONFIGS["BF16"]
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), "BF16"))

    def spoil(bits: Any) -> None:
        bits.reshape(-1)[5] = 0x7FC0

    assert "not-finite" in found(with_values(checkpoint, "embed", spoil))


def test_a_matrix_of_zeros_and_one_of_large_numbers_are_found(tmp_path: Path) -> None:
    checkpoint = model(tmp_path)
    assert found(with_values(checkpoint, "layers.0.o_proj", lambda values: values.fill(0)))["all-zero"].severity == "error"
    large = found(with_values(checkpoint, "layers.0.o_proj", lambda values: values.fill(7e4)))["beyond-half"]
    assert large.severity == "note" and "layers.0.o_proj" in large.found


def test_layers_copied_over_each_other_are_found(tmp_path: Path) -> None:
    checkpoint = model(tmp_path)
    copied = {name: checkpoint.tensors[name.replace("layers.1.", "layers.0.")] for name in checkpoint.tensors}
    assert found(replace(checkpoint, tensors=copied))["same-layers"].found == "layers 0, 1 hold the same weights"


def test_an_embedding_stored_twice_is_noted(tmp_path: Path) -> None:
    checkpoint = model(tmp_path)
    tensors = {**checkpoint.tensors, "lm_head": checkpoint.tensors["embed"]}
    assert found(replace(checkpoint, tensors=tensors))["untied"].severity == "note"


def test_without_the_weights_only_the_headers_are_judged(tmp_path: Path) -> None:
    checkpoint = with_values(model(tmp_path), "embed", lambda values: values.fill(np.nan))
    assert examine(checkpoint, weights=False) == [] and examine(checkpoint)[0].check == "not-finite"


# ---- puna inspect ---------------------------------------------------------------------------------------------------


def test_inspect_says_in_one_line_that_all_is_well(tmp_path: Path) -> None:
    model(tmp_path)
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.gguf")])
    assert result.exit_code == 0 and result.stdout.endswith("health\n  no problem found\n")


def test_inspect_tells_findings_their_effect_and_their_cure_and_exits_1(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, seed=1)
    tensors["layers.0.o_proj"][3, 4] = np.nan
    path = write_gguf(tmp_path / "m.gguf", CONFIG, tensors, "F32", chat_template=CHATML)
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 1 and "error: 1 numbers" in result.stdout and "Fetch the file again" in result.stdout
    facts = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)
    assert facts["health"][0]["check"] == "not-finite" and facts["weights_read"]
    result = CliRunner().invoke(app, ["inspect", str(path), "--no-weights"])
    assert result.exit_code == 0 and "did not check the weights" in result.stdout


def test_weights_that_were_changed_behind_their_checksum_are_found_and_not_converted(tmp_path: Path) -> None:
    folder = convert(
        write_gguf(tmp_path / "m.gguf", CONFIG, random_tensors(CONFIG, seed=1), "F32"), tmp_path / "meta", to="meta"
    ).path
    assert "checksum" not in found(open_checkpoint(folder))
    path = folder / "consolidated.00.pth"
    data = bytearray(path.read_bytes())
    at = data.index(open_checkpoint(folder).tensors["layers.1.q_proj"].data[:1].tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    finding = found(open_checkpoint(folder))["checksum"]
    assert finding.severity == "error" and "'consolidated.00/data/" in finding.found
    with pytest.raises(ModelFormatError, match="does not have the checksum that was saved with it"):
        convert(folder, tmp_path / "n.gguf", to="gguf")
    assert not (tmp_path / "n.gguf").exists()
