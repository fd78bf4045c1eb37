"""A Hugging Face folder: `config.json` + safetensors or `pytorch_model*.bin` + tokenizer files -> Checkpoint.

Its rows of q_proj and k_proj are in the half-split rotary order. puna never executes anything from the folder: it ignores
`auto_map`, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from puna.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from puna.formats.arrays import DTYPES, FileArray, PackedTensor
from puna.formats.base import Checkpoint, Tensor, TokenizerSpec
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.families import FAMILIES
from puna.formats.huggingface_config import logit_scale, read_config, sampling_in, text_part, unused_keys
from puna.formats.huggingface_rope import rope_notices
from puna.formats.json_file import JsonObject, read_json
from puna.formats.mapped import inside, is_there, shown
from puna.formats.names import HUGGINGFACE_NAMES, foreign_name
from puna.formats.notices import Doubt
from puna.formats.quantised import METHODS, unpacked
from puna.formats.quantised_config import unused_settings
from puna.formats.ranking_head import LOST_HEAD, NO_TEXT, taken_out, with_beginnings, writes_text
from puna.formats.regrouped import separated, stacked
from puna.formats.rows import HalfSplitHeads, Rows, are_equal, half_split_vector
from puna.formats.safetensors import read_safetensors
from puna.formats.template_file import template_in
from puna.formats.tokenizer_files import read_given_tokenizer, read_tokenizer_folder, with_ends
from puna.formats.torch_file import read_torch_file
from puna.formats.unsupported import quantisation_of, refuse_quantisation
from puna.model.spec import ModelConfig
from puna.model.weights import role_of, tensor_shapes
from puna.pooling import Pooling

CONFIG = "config.json"
OLD_QUANTISATION = "quant_config.json"  # AutoAWQ's, before it was a part of config.json
# In order: a whole file before shards, safetensors before PyTorch's files.
WEIGHTS: tuple[tuple[str, Callable[[Path], dict[str, FileArray]]], ...] = (
    ("model.safetensors", read_safetensors),
    ("pytorch_model.bin", read_torch_file),
)
PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MAX_SHARDS = 10_000
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 1 << 20, 8 << 20  # real ones have some kB, and some hundred
IGNORED = re.compile(r"(.*\.)?rotary_emb\.inv_freq")  # computed from the config
Weight = FileArray | PackedTensor
Weights = Mapping[str, FileArray] | Mapping[str, FileArray | PackedTensor]
READABLE = ("F32", "F16", "BF16")


def matches(names: Collection[str]) -> bool:
    """Whether a folder with files of these names holds a Hugging Face checkpoint, perhaps an incomplete one.

    A `config.json` beside GGUF files only describes them.
    """
    if any(fnmatch(name, pattern) for name in names for pattern in PATTERNS):
        return True
    others = any(fnmatch(name, pattern) for name in names for pattern in ("*.gguf", "*.pth", "consolidated*.safetensors"))
    return not others and any(name.endswith(".safetensors") or name in (CONFIG, "adapter_config.json") for name in names)


def open_huggingface(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Open and check a folder; reads no weight. Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError."""
    config_json = _config_json(folder)
    config = read_config(config_json, name=folder.resolve().name)
    stored, files = _stored(folder)
    stored, of_images = _of_text(config_json, stored)
    stored = with_beginnings(stored)
    head = taken_out(stored, config_json, config.hidden_size)
    unquantised, told = _unquantised(folder, config_json, stored)
    config, weights, notices = _with_head(_regrouped(unquantised, config), config, writes_text(config_json))
    tensors = _tensors(weights, config, config_json)
    spec, said = _tokenizer(folder, tokenizer, config.vocab_size)
    generation = _generation(folder)
    template, more = template_in(folder)
    spec, ends = (None, ()) if spec is None else _with_stops(spec, config_json, generation)
    return Checkpoint(
        path=folder,
        format="huggingface",
        config=config,
        tensors=tensors,
        tokenizer=spec,
        chat_template=template,
        metadata={key: value for key, value in config_json.values.items() if not isinstance(value, dict | list)},
        unused_keys=_unused_keys(config_json),
        files=files,
        notices=(
            *of_images,
            *([] if head is None else [LOST_HEAD]),
            *notices,
            *rope_notices(config_json),
            *_idle_ids(config_json, config.vocab_size),
            *told,
            *said,
            *ends,
            *more,
            *_of_code(config_json),
        ),
        generation=sampling_in(config_json) if generation is None else generation.values,
        pooling=_pooling(folder),
        head=head,
    )


POOLING = "1_Pooling/config.json"  # of sentence-transformers
POOLINGS: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def _pooling(folder: Path) -> Pooling | None:
    """How the folder's maker pools hidden states. UnsupportedModelError for a way that puna does not have, or for several."""
    path = _file_of(folder, POOLING)
    if path is None:
        return None
    settings = read_json(path, MAX_CONFIG_BYTES)
    modes = [key for key in settings.values if key.startswith("pooling_mode_") and settings.flag(key)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UnsupportedModelError(f"{path} sets {', '.join(modes) or 'no pooling'}; puna knows one of {', '.join(POOLINGS)}")
    return POOLINGS[modes[0]]


def _config_json(folder: Path) -> JsonObject:
    path = _file_of(folder, CONFIG)
    if path is None:
        raise ModelNotFoundError(
            f"{folder} holds weights, but no {CONFIG}", hint="It holds the sizes: fetch it from where the weights came from."
        )
    return read_json(path, MAX_CONFIG_BYTES)


def _idle_ids(config_json: JsonObject, vocab_size: int) -> Iterator[str]:
    """Ids beyond the vocabulary that do not matter: puna pads nothing, and takes BOS from the tokenizer."""
    for key in ("pad_token_id", "bos_token_id"):
        given = config_json.values.get(key)
        if isinstance(given, int) and not 0 <= given < vocab_size:
            yield f"{CONFIG}: {key} is {shown(given)}, but the vocabulary has {vocab_size} tokens; puna does not use it"


def _of_code(config_json: JsonObject) -> Iterator[str]:
    if config_json.values.get("auto_map"):
        yield "the model has code of its own (auto_map); puna never runs it and computes the plain architecture"


# ---- files ----------------------------------------------------------------------------------------------------------


def _file_of(folder: Path, name: str) -> Path | None:
    """The file of a fixed name in the folder, or None. The folder's owner may have linked it from anywhere."""
    path = folder / name
    return path if is_there(path) else None


LEAVES = "Shards that an index names must lie in its folder. Copy the files there, or open the folder where they are."


def _stored(folder: Path) -> tuple[dict[str, FileArray], tuple[Path, ...]]:
    """All arrays of the folder by name, and their files."""
    for name, read in WEIGHTS:
        whole, index = _file_of(folder, name), _file_of(folder, f"{name}.index.json")
        if whole is not None:
            return read(whole), (whole,)
        if index is not None:
            return _indexed(folder, index, read)
        shards = _unindexed(folder, name)
        if shards:
            return _merged([(shard, read(shard)) for shard in shards]), tuple(shards)
    raise ModelNotFoundError(
        f"{folder} holds {CONFIG}, but no weights: none of {', '.join(name for name, _ in WEIGHTS)}, nor shards of them",
        hint="The download is not complete; fetch the folder again.",
    )


def _indexed(
    folder: Path, index: Path, read: Callable[[Path], dict[str, FileArray]]
) -> tuple[dict[str, FileArray], tuple[Path, ...]]:
    """The shards of an index; each must hold exactly the arrays that the index names."""
    weight_map = read_json(index, MAX_INDEX_BYTES).object("weight_map")
    if weight_map is None or not weight_map.values:
        raise ModelFormatError(index, "weight_map", None, "is missing")
    names = sorted({_shard_name(index, tensor, name) for tensor, name in weight_map.values.items()})
    if len(names) > MAX_SHARDS:
        raise ModelFormatError(index, "weight_map", None, f"names {len(names)} files; at most {MAX_SHARDS} are allowed")
    paths = {name: inside(folder, name, LEAVES) for name in names}  # an index must not choose files outside the folder
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelNotFoundError(
            f"{folder}: {missing[0]}{more} of {len(names)} shards are missing", hint="The download is not complete; fetch them."
        )
    shards = [(path, read(path)) for path in paths.values() if path is not None]
    stored = _merged(shards)
    for tensor, name in weight_map.values.items():
        if tensor not in stored or stored[tensor].file.name != name:
            raise ModelFormatError(
                folder / name, f"tensor {shown(tensor)}", None, f"is missing, though {index.name} places it there"
            )
    for tensor in stored:
        if tensor not in weight_map.values and not IGNORED.fullmatch(tensor):
            stored[tensor].fail(f"is not named by {index.name}")
    return stored, tuple(path for path, _ in shards)


def _shard_name(index: Path, tensor: str, name: object) -> str:
    if not isinstance(name, str) or not SHARD_NAME.fullmatch(name) or ".." in name:
        raise ModelFormatError(
            index, f"weight_map of {shown(tensor)}", None, f"is {shown(name)}, not the name of a file of this folder"
        )
    return name


def _unindexed(folder: Path, whole: str) -> list[Path]:
    """All shards of a folder without an index, by number."""
    stem, suffix = whole.rsplit(".", 1)
    found = {}
    for path in folder.glob(f"{stem}-*.{suffix}"):
        shard = SHARD.fullmatch(path.name)
        if shard is not None and _file_of(folder, path.name) is not None:
            found[int(shard["number"])] = (int(shard["count"]), path)
    if not found:
        return []
    counts = {count for count, _ in found.values()}
    count = max(counts)
    missing = [number for number in range(1, min(count, MAX_SHARDS) + 1) if number not in found]
    if missing or len(counts) > 1 or len(found) != count:
        raise ModelNotFoundError(
            f"{folder} holds {len(found)} of {count} shards; number {missing[0] if missing else count} is missing",
            hint="The download is not complete; fetch the folder again.",
        )
    return [path for _, (_, path) in sorted(found.items())]


def _merged(shards: list[tuple[Path, dict[str, FileArray]]]) -> dict[str, FileArray]:
    merged: dict[str, FileArray] = {}
    for _, tensors in shards:
        for name, tensor in tensors.items():
            if name in merged and not IGNORED.fullmatch(name):
                tensor.fail(f"is in {shown(merged[name].file.name)} too")
            merged[name] = tensor
    return merged


def _unquantised(folder: Path, config_json: JsonObject, stored: dict[str, FileArray]) -> tuple[Weights, tuple[str, ...]]:
    quantisation = _quantisation(config_json)
    unsupported = quantisation_of(config_json, stored)
    if unsupported is not None and (quantisation is None or quantisation.text("quant_method") is None):
        refuse_quantisation(config_json.file, unsupported, METHODS)
    beside = _file_of(folder, OLD_QUANTISATION) if quantisation is None else None
    if beside is not None and any(name.endswith(".qweight") for name in stored):
        quantisation = read_json(beside, MAX_CONFIG_BYTES)
    return (stored, ()) if quantisation is None else unpacked(quantisation, stored)


def _quantisation(config_json: JsonObject) -> JsonObject | None:
    return config_json.object("quantization_config") or config_json.object("compression_config")


def _unused_keys(config_json: JsonObject) -> tuple[str, ...]:
    quantisation = _quantisation(config_json)
    return (*unused_keys(config_json), *(() if quantisation is None else unused_settings(quantisation)))


# ---- tensors --------------------------------------------------------------------------------------------------------


HEAD, EMBED = HUGGINGFACE_NAMES["lm_head"], HUGGINGFACE_NAMES["embed"]


# Beginnings of names in models that also read images -> what they are in others; "": no part of the language model.
BEGINNINGS = {
    "language_model.model.": "model.", "model.language_model.": "model.", "language_model.lm_head.": "lm_head.",
    "vision_tower.": "", "model.vision_tower.": "", "multi_modal_projector.": "", "model.multi_modal_projector.": "",
}  # fmt: skip


def _of_text(config_json: JsonObject, stored: dict[str, FileArray]) -> tuple[dict[str, FileArray], tuple[str, ...]]:
    """The arrays of the language model, under the names of a folder that has nothing else."""
    if text_part(config_json) is config_json:
        return stored, ()
    renamed = {_beginning_changed(name): weight for name, weight in stored.items()}
    return {name: weight for name, weight in renamed.items() if name}, (TEXT_ONLY,)


def _beginning_changed(name: str) -> str:
    old = next((old for old in BEGINNINGS if name.startswith(old)), "")
    return "" if old and not BEGINNINGS[old] else BEGINNINGS.get(old, "") + name.removeprefix(old)


TEXT_ONLY = "the model also reads images; puna runs its language model, which reads and writes text"


def _regrouped(stored: Weights, config: ModelConfig) -> dict[str, Weight]:
    """The arrays with a name for each of our tensors."""
    family = FAMILIES[config.architecture]
    found: dict[str, Weight] = {_renamed(name, family.renamed): weight for name, weight in stored.items()}
    found = stacked(found, family.expert_names, family.names, config, _part)
    return separated(found, family.fused, family.names, config, _part)


def _renamed(name: str, parts: Mapping[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def _part(whole: Weight, name: str, shape: tuple[int, ...], rows: Rows) -> Weight:
    return PackedTensor(name, shape, whole.dtype, rows, whole.file, whole.offset)


def _tensors(stored: Weights, config: ModelConfig, config_json: JsonObject) -> dict[str, Tensor]:
    family, shapes = FAMILIES[config.architecture], tensor_shapes(config)
    foreign = {foreign_name(family.names, ours): ours for ours in shapes}
    for name in [name for name in stored if name not in foreign and not IGNORED.fullmatch(name)]:
        raise UnsupportedModelError(
            f"{stored[name].file}: tensor {shown(name)} is no part of a {config.architecture} model of {config.num_layers} layers"
        )
    for name in [name for name in foreign if name not in stored]:
        why = "is missing, and tie_word_embeddings is false" if name == HEAD else "is missing"
        raise ModelFormatError(
            config_json.file.parent, f"tensor '{name}'", None, f"{why}; the model has {config.num_layers} layers"
        )
    tensors = {ours: _tensor(stored[name], ours, shapes[ours], config) for name, ours in foreign.items()}
    return tensors | _norms(tensors, family.norm_offset, 1 / logit_scale(config_json))


def _norms(tensors: Mapping[str, Tensor], offset: float, output_factor: float) -> dict[str, Tensor]:
    """The weights of norms as they are applied: stored ones lack the offset, and the last norm's take the logits' factor."""
    found = {name: tensor.adjusted(offset=offset) for name, tensor in tensors.items() if offset and name.endswith("norm")}
    last = {} if output_factor == 1.0 else {"final_norm": found.get("final_norm", tensors["final_norm"]).adjusted(output_factor)}
    return found | last


def _with_head(stored: Weights, config: ModelConfig, writes: bool) -> tuple[ModelConfig, Weights, tuple[str, ...]]:
    """The model with one output matrix if `tie_word_embeddings` says that it is the embedding, or if it writes no text.

    As in transformers 5, a stored one that differs counts, and the output matrix replaces a missing embedding.
    """
    if not writes and HEAD not in stored:
        return replace(config, tie_embeddings=True), stored, (NO_TEXT,)
    if not config.tie_embeddings or HEAD not in stored:
        return config, stored, ()
    head, embed = stored[HEAD], stored.get(EMBED)
    others = {name: weight for name, weight in stored.items() if name != HEAD}
    if embed is None:
        return config, {**others, EMBED: head}, ()
    if _are_one(embed, head):
        return config, others, ()
    told = f"the stored {HEAD} differs from the embedding, though {CONFIG} says tie_word_embeddings; puna uses the stored one"
    return replace(config, tie_embeddings=False), stored, (Doubt(f"{told}, as transformers does"),)


def _are_one(embed: Weight, head: Weight) -> bool:
    """Whether two matrices are equal. PyTorch's files hold a shared one once: then nothing is read."""
    if (embed.shape, embed.dtype) != (head.shape, head.dtype):
        return False
    return (embed.file, embed.offset) == (head.file, head.offset) or are_equal(embed.rows(), head.rows())


def _tensor(stored: Weight, ours: str, shape: tuple[int, ...], config: ModelConfig) -> Tensor:
    if stored.shape != shape:
        stored.fail(f"has shape {stored.shape}; the model's sizes need {shape}")
    if stored.dtype not in (READABLE if isinstance(stored, FileArray) else BLOCK_TYPES):
        raise UnsupportedModelError(f"{stored.file}: tensor '{stored.name}' is {stored.dtype}; puna runs {', '.join(READABLE)}")
    return Tensor(ours, shape, BLOCK_TYPES[stored.dtype], _interleaved(stored, ours, config), file=str(stored.file))


def _interleaved(stored: Weight, ours: str, config: ModelConfig) -> Rows:
    if not role_of(ours).is_rotary:
        return stored.rows()
    if len(stored.shape) == 1:
        return half_split_vector(stored.rows(), config.head_dim, DTYPES[stored.dtype].itemsize, config.rope.dim)
    return HalfSplitHeads(stored.rows(), config.head_dim, config.rope.dim)


# ---- text -----------------------------------------------------------------------------------------------------------


def _tokenizer(folder: Path, given: Path | None, vocab_size: int) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    if given is not None:
        return read_given_tokenizer(given, vocab_size)
    return read_tokenizer_folder(folder, vocab_size)


def _generation(folder: Path) -> JsonObject | None:
    path = _file_of(folder, "generation_config.json")
    return None if path is None else read_json(path, MAX_CONFIG_BYTES)


def _with_stops(
    spec: TokenizerSpec, config_json: JsonObject, generation: JsonObject | None
) -> tuple[TokenizerSpec, tuple[str, ...]]:
    """The ids that end a text: those of generation_config.json, else of config.json, and the tokenizer's own."""
    has_ends = generation is not None and generation.values.get("eos_token_id") is not None
    return with_ends(spec, generation if generation is not None and has_ends else config_json)
