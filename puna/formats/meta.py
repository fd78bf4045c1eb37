"""A folder of Meta's: `consolidated.NN.pth` + `params.json` + `tokenizer.model` -> Checkpoint.

Any number of shards becomes one model: parts are joined on demand, so that memory never holds more than
the result. The same files with safetensors in place of .pth are Mistral's. Rotary pairs are interleaved, as puna's are.

Meta's code takes every key of params.json as an argument and knows no tied output matrix. puna's writer stores more in
puna.json: {"max_context": 8192, "tie_embeddings": true}.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from puna.errors import ConfigError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from puna.formats.arrays import FileArray
from puna.formats.base import Checkpoint, Tensor, TokenizerSpec
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.json_file import JsonObject, read_json
from puna.formats.mapped import is_there, read_head, shown, shown_name
from puna.formats.names import META_NAMES, foreign_name
from puna.formats.rows import are_equal
from puna.formats.safetensors import read_safetensors
from puna.formats.shards import BY_COLUMNS, BY_VOCABULARY, cut_of, joined
from puna.formats.template_file import template_in
from puna.formats.tiktoken_file import matches as is_tiktoken
from puna.formats.tokenizer_files import read_given_tokenizer, read_tokenizer_file_told
from puna.formats.torch_file import read_torch_file
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig, plain_model
from puna.model.weights import Cut, tensor_shapes

PARAMS = "params.json"
SIDE_FILE, SIDE_KEYS = "puna.json", ("max_context", "tie_embeddings")
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
SHARD = re.compile(r"consolidated(\.(?P<number>\d{2}))?\.(?P<kind>pth|safetensors)")
READERS = {"pth": read_torch_file, "safetensors": read_safetensors}
IGNORED = re.compile(r"(.*\.)?rope\.freqs")  # computed from the parameters
READABLE = ("F32", "F16", "BF16")
MAX_SHARDS = 100
MAX_PARAMS_BYTES = 1 << 20

# Our name of a size -> the key; errors about that size name the key.
PARAM_KEYS = {
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "num_kv_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "hidden_size": "dim",
    "ffn_size": "hidden_dim",
    "vocab_size": "vocab_size",
    "max_context": "max_seq_len",
    "norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "sliding_window": "sliding_window",
}
WITHOUT_EFFECT = {"multiple_of", "ffn_dim_multiplier", "max_batch_size", "use_scaled_rope", "rope_scaling_factor", "model_type"}
REFUSED = (
    "moe",
    "moe_args",
    "quantization_args",
    "lora_args",
    "vision_chunk_size",
    "vision_encoder",
    "vision_max_num_chunks",
    "yarn",
)

# "use_scaled_rope": the numbers are constants of Meta's code (llama-models); factor 32 is for the two small models of 3.2.
SCALED_ROPE = RopeConfig(scaling="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
SCALED_ROPE_FACTOR, SMALL_FACTOR = 8.0, 32.0
SMALL = ((2048, 16), (3072, 28))  # (dim, n_layers) of Llama 3.2 1B and 3B
LLAMA1_EPS = 1e-6
USUAL_THETA, LLAMA3_THETA = 10000.0, 500000.0  # if params.json has none: Meta's code for Llama 1 and 2, and from Llama 3 on
HEAD_BYTES = 1024  # of a tokenizer file: more than its first line


def matches(names: Collection[str]) -> bool:
    """Whether a folder with files of these names holds a Meta checkpoint, perhaps an incomplete one."""
    found = [match for name in names if (match := SHARD.fullmatch(name))]
    return any(name.endswith(".pth") for name in names) or (PARAMS in names and bool(found))


def open_meta(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Open and check a folder, or the folder of one of its files; reads no weight.

    Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError.
    """
    folder = folder if folder.is_dir() else folder.parent
    params, side = _params(folder), _side(folder)
    paths = _shard_paths(folder)
    first = _read(paths[min(paths)])
    config = _config(params, side, first, folder)
    count = _parts(params, first, config.q_size)
    _require_all(folder, paths, count)
    spec, notices = _tokenizer(folder, tokenizer, config.vocab_size)
    shards = [first, *(_read(path) for path in list(paths.values())[1:])]
    config, tensors, told = _tied(side, config, _tensors(shards, config, list(paths.values())))
    template, more = template_in(folder)
    return Checkpoint(
        path=folder,
        format="meta",
        config=config,
        tensors=tensors,
        tokenizer=spec,
        chat_template=template,
        metadata={**params.values, "shards": count},
        unused_keys=(
            *(key for key in params.values if key not in {*PARAM_KEYS.values(), *WITHOUT_EFFECT}),
            *(f"{SIDE_FILE}: {key}" for key in side.values if key not in SIDE_KEYS),
        ),
        files=tuple(paths.values()),
        notices=(*notices, *told, *more),
    )


# ---- files ----------------------------------------------------------------------------------------------------------


def _params(folder: Path) -> JsonObject:
    path = folder / PARAMS
    if not is_there(path):
        raise ModelNotFoundError(
            f"{folder} holds Meta weights (.pth), but no {PARAMS}",
            hint="It holds the sizes: fetch it into the same folder, from where the weights came from.",
        )
    params = read_json(path, MAX_PARAMS_BYTES)
    for key in REFUSED:
        if params.values.get(key):
            raise UnsupportedModelError(f"{path}: {key} is set, which changes results; puna runs the plain LLaMA architecture")
    return params


def _side(folder: Path) -> JsonObject:
    """What puna's writer put beside params.json; an empty object in other folders."""
    path = folder / SIDE_FILE
    return read_json(path, MAX_PARAMS_BYTES) if path.is_file() else JsonObject(path, {})


def _shard_paths(folder: Path) -> dict[int, Path]:
    """Number -> file, in ascending order."""
    paths = {}
    for path in sorted(folder.iterdir()):
        match = SHARD.fullmatch(path.name)
        if match is not None and path.is_file():
            paths[int(match["number"] or 0)] = path
    if not paths:
        names = ", ".join(sorted(shown_name(path) for path in folder.glob("*.pth"))[:4])
        raise ModelNotFoundError(
            f"{folder} holds no consolidated.NN.pth (but {names})",
            hint="Keep Meta's file names: they give the order.",
        )
    return paths


def _read(path: Path) -> dict[str, FileArray]:
    return READERS[path.suffix[1:]](path)


def _require_all(folder: Path, paths: Mapping[int, Path], count: int) -> None:
    missing = [number for number in range(count) if number not in paths]
    present = ", ".join(f"{number:02}" for number in paths)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ModelNotFoundError(
            f"{folder} holds shard {present} of {count} of a Meta checkpoint; "
            f"{', '.join(f'{number:02}' for number in missing)} {verb} missing",
            hint="Fetch the missing files into the same folder.",
        )
    if len(paths) > count:
        raise ModelFormatError(
            folder, "shards", None, f"are {len(paths)} ({present}), but each holds a {count}th of the model",
            hint="The folder holds files of two checkpoints: keep those of one.",
        )  # fmt: skip


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _config(params: JsonObject, side: JsonObject, first: Mapping[str, FileArray], folder: Path) -> ModelConfig:
    needed = {name: params.integer(PARAM_KEYS[name]) for name in ("num_layers", "num_heads", "hidden_size")}
    for name, value in needed.items():
        if value is None or value < 1:
            params.fail(PARAM_KEYS[name], f"is {value}; a whole number above 0 is needed" if value is not None else "is missing")
    num_layers, num_heads, hidden_size = (value or 0 for value in needed.values())
    head_dim = params.integer("head_dim")
    if head_dim is None and hidden_size % num_heads:
        params.fail("n_heads", f"is {num_heads}, which does not divide dim {hidden_size}")
    head_dim = hidden_size // num_heads if head_dim is None else head_dim
    num_kv_heads = params.integer("n_kv_heads")
    count = _parts(params, first, num_heads * head_dim)
    norm_eps = params.real("norm_eps")
    norm_eps = 1e-5 if norm_eps is None else norm_eps
    try:
        rope = _rope(params, folder, hidden_size, num_layers)
        return plain_model(
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
            head_dim=head_dim,
            hidden_size=hidden_size,
            ffn_size=_one(first, "layers.0.gate_proj", params).shape[0] * count,
            vocab_size=_vocab_size(params, first, hidden_size, count),
            max_context=_max_context(params, side, rope, norm_eps),
            norm_eps=norm_eps,
            rope=rope,
            tie_embeddings=META_NAMES["lm_head"] not in first,
            name=folder.resolve().name,
            sliding_window=params.integer("sliding_window") or 0,
        )
    except ConfigError as error:
        if error.field == "max_context" and side.integer("max_context") is not None:
            side.fail("max_context", str(error))
        params.fail(PARAM_KEYS.get(error.field, error.field), str(error))


def _one(first: Mapping[str, FileArray], ours: str, params: JsonObject) -> FileArray:
    """A matrix of the first shard."""
    name = foreign_name(META_NAMES, ours)
    tensor = first.get(name)
    if tensor is None:
        raise ModelFormatError(params.file.parent, f"tensor '{name}'", None, "is missing")
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        tensor.fail(f"has shape {tensor.shape}; a matrix is needed")
    return tensor


def _parts(params: JsonObject, first: Mapping[str, FileArray], q_size: int) -> int:
    """The number of shards that the model was split into, from the rows in one of them."""
    query = _one(first, "layers.0.q_proj", params)
    if q_size % query.shape[0] or q_size // query.shape[0] > MAX_SHARDS:
        query.fail(f"has {query.shape[0]} rows; heads of {q_size} rows in all cannot be split so")
    return q_size // query.shape[0]


def _vocab_size(params: JsonObject, first: Mapping[str, FileArray], hidden_size: int, count: int) -> int:
    """Rows of the embedding; -1, or no number, in params.json leaves it to the tensors."""
    embed = _one(first, "embed", params)
    found = embed.shape[0] * (count if _by_vocabulary(embed, hidden_size) else 1)
    given = params.integer("vocab_size")
    if given is not None and given > 0 and given != found:
        params.fail("vocab_size", f"is {given}, but the embedding has {found} rows")
    return found


def _by_vocabulary(embed: FileArray, hidden_size: int) -> bool:
    """Whether each shard holds whole rows of the embedding (Llama 3) or some columns of all rows (older ones)."""
    return embed.shape[1] == hidden_size


def _max_context(params: JsonObject, side: JsonObject, rope: RopeConfig, norm_eps: float) -> int:
    """The context from puna.json, or from params.json, where others write it although Meta's code reads it elsewhere."""
    given, said = params.integer("max_seq_len"), side.integer("max_context")
    if given is not None and said not in (None, given):
        side.fail("max_context", f"is {said}, but max_seq_len of {PARAMS} is {given}")
    named = said if given is None else given
    return usual_context(rope, norm_eps) if named is None else named


def usual_context(rope: RopeConfig, norm_eps: float) -> int:
    """The context of a model whose files do not name it: each generation has its own, found as llama.cpp's converter does."""
    if rope.scaling != "none":
        return 131072
    by_theta = {LLAMA3_THETA: 8192, 1000000.0: 16384}  # Llama 3, CodeLlama
    return by_theta.get(rope.theta, 2048 if norm_eps == LLAMA1_EPS else 4096)


def _usual_theta(folder: Path) -> float:
    """Meta's default where params.json has no rope_theta. The tokenizer in the folder tells which of Meta's code it is."""
    path = folder / TOKENIZERS[0]
    return LLAMA3_THETA if path.is_file() and is_tiktoken(read_head(path, HEAD_BYTES)) else USUAL_THETA


def _rope(params: JsonObject, folder: Path, hidden_size: int, num_layers: int) -> RopeConfig:
    given = params.real("rope_theta")
    theta = _usual_theta(folder) if given is None else given
    if not params.flag("use_scaled_rope"):
        return RopeConfig(theta=theta)
    usual = SMALL_FACTOR if (hidden_size, num_layers) in SMALL else SCALED_ROPE_FACTOR
    return replace(SCALED_ROPE, theta=theta, factor=params.real("rope_scaling_factor") or usual)


# ---- tensors --------------------------------------------------------------------------------------------------------


def _tensors(shards: list[dict[str, FileArray]], config: ModelConfig, paths: list[Path]) -> dict[str, Tensor]:
    shapes = tensor_shapes(config)
    foreign = {foreign_name(META_NAMES, ours): ours for ours in shapes}
    for shard, path in zip(shards, paths):
        for name in [name for name in shard if name not in foreign and not IGNORED.fullmatch(name)]:
            raise UnsupportedModelError(f"{path}: tensor {shown(name)} is no part of a LLaMA model of {config.num_layers} layers")
        for name in [name for name in foreign if name not in shard]:
            raise ModelFormatError(path, f"tensor '{name}'", None, f"is missing; the model has {config.num_layers} layers")
    by_rows = _by_vocabulary(shards[0][META_NAMES["embed"]], config.hidden_size)
    others = BY_VOCABULARY if by_rows else BY_COLUMNS
    return {
        ours: _tensor([shard[name] for shard in shards], ours, shapes[ours], cut_of(ours, others), config)
        for name, ours in foreign.items()
    }


def _tensor(parts: list[FileArray], ours: str, shape: tuple[int, ...], cut: Cut, config: ModelConfig) -> Tensor:
    if cut.by_heads and len(parts) > config.num_kv_heads and len(parts) % config.num_kv_heads == 0:
        parts = parts[:: len(parts) // config.num_kv_heads]  # several shards hold each K/V head
    expected = _part_shape(shape, cut, len(parts))
    for part in parts:
        if part.shape != expected:
            part.fail(f"has shape {part.shape}; a shard of a tensor {shape} split in {len(parts)} must be {expected}")
        if part.dtype != parts[0].dtype:
            part.fail(f"is {part.dtype}, but its other part in {parts[0].file.name} is {parts[0].dtype}")
    if parts[0].dtype not in READABLE:
        raise UnsupportedModelError(
            f"{parts[0].file}: tensor '{parts[0].name}' is {parts[0].dtype}; puna runs {', '.join(READABLE)}"
        )
    return Tensor(ours, shape, BLOCK_TYPES[parts[0].dtype], joined([part.rows() for part in parts], cut))


def _part_shape(shape: tuple[int, ...], cut: Cut, count: int) -> tuple[int, ...]:
    if cut.direction == "whole":
        return shape
    return (shape[0] // count, *shape[1:]) if cut.direction == "rows" else (*shape[:-1], shape[-1] // count)


def _tied(
    side: JsonObject, config: ModelConfig, tensors: dict[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor], tuple[str, ...]]:
    """The model with one matrix instead of two if puna.json says that the output matrix is the embedding, and it is."""
    if config.tie_embeddings or not side.flag("tie_embeddings"):
        return config, tensors, ()
    embed, head = tensors["embed"], tensors["lm_head"]
    if embed.type is not head.type or not are_equal(embed.data, head.data):
        said = f"{SIDE_FILE} says that output.weight is the embedding, but they differ: puna uses both"
        return config, tensors, (said,)
    return replace(config, tie_embeddings=True), {name: t for name, t in tensors.items() if name != "lm_head"}, ()


# ---- text -----------------------------------------------------------------------------------------------------------


def _tokenizer(folder: Path, given: Path | None, vocab_size: int) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """The tokenizer of the given file or folder, else the one beside the weights, else the one above them, where Llama 2's
    download puts it; and notices about it."""
    if given is not None:
        return read_given_tokenizer(given, vocab_size)
    beside = (parent / name for parent in (folder, folder.resolve().parent) for name in TOKENIZERS)
    found = next((file for file in beside if is_there(file)), None)
    return (None, ()) if found is None else read_tokenizer_file_told(found, vocab_size)
