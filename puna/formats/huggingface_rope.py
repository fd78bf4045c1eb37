"""The rotary embedding of config.json -> RopeConfig. What contradicts itself is read as transformers 5 reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from puna.errors import ConfigError, UnsupportedModelError
from puna.formats.families import FAMILIES, Family
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown
from puna.formats.notices import Doubt
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import MAX_SIZES

ORIGINAL, PARTIAL, BETA = "original_max_position_embeddings", "partial_rotary_factor", "llama_4_scaling_beta"
FULL, LOCAL = "full_attention", "sliding_attention"  # kinds of layers; each may have a rotary embedding of its own


def read_ropes(config: JsonObject, family: Family, head_dim: int, context: int) -> tuple[tuple[RopeConfig, ...], float]:
    """The rotary tables, and the factor by which they lengthen `context`, that of config.json.

    A family whose layers with a window have a table of their own has two, and its config.json has the lengthened context.
    """
    scaling = _scaling(config)
    if family.scales_queries and not scaling.values:
        config.fail("rope_parameters", "is missing")
    if family.local_theta is None:
        _refuse_nested(scaling)
        rope, stretch = _rope(config, family, _with_original(config, family, scaling), head_dim, context)
        return (rope,), stretch
    theta = config.real("rope_theta") or family.theta
    full, _ = _rope(config, family, _of_layers(config, FULL, theta), head_dim, context)
    own_theta = config.real("rope_local_base_freq") or family.local_theta or full.theta
    local, _ = _rope(config, family, _of_layers(config, LOCAL, own_theta), head_dim, context)
    return (full, local), 1.0


def _of_layers(config: JsonObject, layers: str, theta: float) -> JsonObject:
    """The scaling of one kind of layers, with its base. An old `rope_scaling` is for the layers without a window."""
    nested, old = config.object("rope_parameters"), config.object("rope_scaling")
    if nested is not None and nested.values and not nested.values.keys() <= {FULL, LOCAL}:
        nested.fail(shown(min(nested.values.keys() - {FULL, LOCAL})), f"is unknown here; {FULL} and {LOCAL} are needed")
    own = None if nested is None else nested.object(layers)
    values = {"rope_theta": theta, **({} if own is None else own.values)}
    if old is not None and layers == FULL:
        values |= old.values
    return JsonObject(config.file, values, "rope_scaling" if own is None else own.name)


def _refuse_nested(scaling: JsonObject) -> None:
    for key in [key for key, value in scaling.values.items() if isinstance(value, dict)]:
        raise UnsupportedModelError(
            f"{scaling.file}: {scaling.name} differs between layers ({shown(key)}), which puna cannot run"
        )


def _rope(config: JsonObject, family: Family, scaling: JsonObject, head_dim: int, context: int) -> tuple[RopeConfig, float]:
    """One table, and the factor by which it lengthens the context."""
    kind, scalings = _kind(scaling, family), _scalings(family)
    if kind not in scalings:
        raise UnsupportedModelError(
            f"{config.file}: {scaling.name} is of type {shown(kind)}, which changes results; puna knows {', '.join(scalings)}"
        )
    keys, read = scalings[kind]
    unknown = scaling.values.keys() - _keys(scalings) - OTHER_ROPE_KEYS - (Q_KEYS if family.scales_queries else set())
    if unknown:
        raise UnsupportedModelError(
            f"{config.file}: {scaling.name} has the key {shown(min(unknown))}; puna knows for {kind}: {', '.join(keys) or 'none'}"
        )
    fields = {"theta": scaling.real("rope_theta") or config.real("rope_theta") or family.theta, **read(scaling, context)}
    fields["dim"] = _dim(config, family, scaling, head_dim)
    if family.scales_queries:
        fields["q_beta"] = scaling.real(BETA) or 0.0
    stretch = fields.pop("stretch", 1.0)
    try:
        return RopeConfig(**fields), stretch
    except ConfigError as error:
        config.fail("rope_scaling", str(error))


def _scalings(family: Family) -> Scalings:
    """Those that puna reads in a family's files."""
    return {**OF_ANY_FAMILY, **{kind: row for kind, row in OF_SOME.items() if kind in family.scalings.values()}}


def _keys(scalings: Scalings) -> set[str]:
    return {key for keys, _ in scalings.values() for key in keys}


def _dim(config: JsonObject, family: Family, scaling: JsonObject, head_dim: int) -> int:
    """Rotated numbers of a head; 0: all."""
    share = scaling.real(PARTIAL)
    if share is None and family.partial:
        share = config.real(PARTIAL)
    if share in (1.0, None):
        return 0
    if not family.partial:
        raise UnsupportedModelError(f"{config.file}: {PARTIAL} is not 1; puna rotates whole heads of this family only")
    if not 0 < share < 1:
        config.fail(PARTIAL, f"is {share}; it must lie in (0, 1]")
    return int(head_dim * share)


def _scaling(config: JsonObject) -> JsonObject:
    """The scaling that counts: as in transformers 5, an old `rope_scaling` wins over `rope_parameters`."""
    given = (config.object(key) for key in ("rope_scaling", "rope_parameters"))
    nothing = JsonObject(config.file, {}, "rope_scaling")
    return next((scaling for scaling in given if scaling is not None and scaling.values), nothing)


def _kind(scaling: JsonObject, family: Family) -> str:
    kind = scaling.text("rope_type") or scaling.text("type") or "default"
    return family.scalings.get(kind, kind)


def _with_original(config: JsonObject, family: Family, scaling: JsonObject) -> JsonObject:
    """`scaling` with the original context beside it, which wins over its own (transformers 5)."""
    beside = config.integer(ORIGINAL) or family.original_context
    if beside is None or _kind(scaling, family) not in OUTER_ORIGINAL:
        return scaling
    return JsonObject(scaling.file, {**scaling.values, ORIGINAL: beside}, scaling.name)


def in_range(config: JsonObject, key: str, tokens: int) -> int:
    """Check before anything is computed from it: numbers of JSON have no limit."""
    if not 1 <= tokens <= MAX_SIZES["max_context"]:
        config.fail(key, f"is {shown(tokens)}; it must lie in 1..{MAX_SIZES['max_context']}")
    return tokens


def lengthened(tokens: int, stretch: float) -> int:
    """Never beyond what ModelConfig allows: a file may give any factor."""
    return int(min(tokens * stretch, 2.0 * MAX_SIZES["max_context"]))


def rope_notices(config: JsonObject) -> tuple[Doubt, ...]:
    """Notices for keys of the rotary embedding that contradict each other: puna reads them as transformers 5 does."""
    scaling, family = _scaling(config), FAMILIES.get(config.text("model_type") or "", FAMILIES["llama"])
    if family.local_theta is not None:
        return ()
    return tuple(map(Doubt, _rope_contradictions(config, family, scaling)))


def _rope_contradictions(config: JsonObject, family: Family, scaling: JsonObject) -> Iterator[str]:
    kind = _kind(scaling, family)
    new, theta, outer = config.object("rope_parameters"), config.real("rope_theta"), config.integer(ORIGINAL)
    if new is not None and new.values and new.values is not scaling.values and new.values != scaling.values:
        yield f"{config.file.name}: rope_parameters and rope_scaling differ; puna uses rope_scaling, as transformers does"
    inner = scaling.real("rope_theta")
    if theta is not None and inner is not None and theta != inner:
        yield f"{config.file.name}: rope_theta is {theta:g}, in {scaling.name} {inner:g}; puna uses the latter, as transformers"
    old_kind = scaling.text("type")
    if old_kind is not None and family.scalings.get(old_kind, old_kind) != kind:
        yield f"{config.file.name}: {scaling.name} is of rope_type {kind!r} and type {old_kind!r}; puna uses rope_type"
    own = scaling.integer(ORIGINAL)
    if outer is not None and own is not None and outer != own and kind in OUTER_ORIGINAL:
        yield f"{config.file.name}: {ORIGINAL} is {outer}, in {scaling.name} {own}; puna uses {outer}, as transformers does"
    idle = sorted((scaling.values.keys() & _keys(_scalings(family))) - set(SCALINGS[kind][0]))
    if idle:
        yield f"{config.file.name}: {scaling.name} of type {kind!r} does not use {', '.join(idle)}; puna ignores that"


def context_beside(scaling: JsonObject, kind: str, tokens: int) -> int:
    """The context of a model whose config.json says `tokens` beside this rope scaling of a kind of SCALINGS."""
    return lengthened(tokens, SCALINGS[kind][1](scaling, tokens).get("stretch", 1.0))


def _factor(scaling: JsonObject, key: str = "factor") -> float:
    value = scaling.real(key)
    if value is None:
        scaling.fail(key, "is missing")
    return value


def _original(scaling: JsonObject, context: int) -> int:
    given = scaling.integer(ORIGINAL)
    return context if given is None else in_range(scaling, ORIGINAL, given)


def _not_negative(scaling: JsonObject, key: str) -> float | None:
    value = scaling.real(key)
    if value is not None and value < 0:
        scaling.fail(key, f"is {value}; it must not be negative")
    return value


def _default(scaling: JsonObject, context: int) -> dict[str, Any]:
    return {}


def _linear(scaling: JsonObject, context: int) -> dict[str, Any]:
    factor = _factor(scaling)
    return {"scaling": "linear", "factor": factor, "stretch": factor}


def _dynamic(scaling: JsonObject, context: int) -> dict[str, Any]:
    factor = _factor(scaling)
    return {"scaling": "dynamic", "factor": factor, "original_context": context, "stretch": factor}


def _llama3(scaling: JsonObject, context: int) -> dict[str, Any]:
    return {
        "scaling": "llama3",
        "factor": _factor(scaling),
        "low_freq_factor": _factor(scaling, "low_freq_factor"),
        "high_freq_factor": _factor(scaling, "high_freq_factor"),
        "original_context": _original(scaling, context),
    }


def _yarn(scaling: JsonObject, context: int) -> dict[str, Any]:
    original = _original(scaling, context)
    factor = scaling.real("factor") or context / max(original, 1)
    attention = scaling.real("attention_factor")
    if attention is None:
        attention = yarn_attention_factor(factor, *(_not_negative(scaling, key) for key in ("mscale", "mscale_all_dim")))
    return {
        "scaling": "yarn",
        "factor": factor,
        "original_context": original,
        "beta_fast": scaling.real("beta_fast") or 32.0,
        "beta_slow": scaling.real("beta_slow") or 1.0,
        "truncate": scaling.flag("truncate", True),
        "attention_factor": attention,
        "stretch": max(original * factor / context, 1.0) if context > 0 else 1.0,
    }


def _longrope(scaling: JsonObject, context: int) -> dict[str, Any]:
    original, attention = _original(scaling, context), scaling.real("attention_factor")
    factor = scaling.real("factor") or context / max(original, 1)
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(max(original, 2))) if factor > 1 else 1.0
    return {
        "scaling": "longrope",
        "original_context": original,
        "attention_factor": attention,
        "factors": _reals(scaling, "short_factor"),
        "long_factors": _reals(scaling, "long_factor"),
    }


def _reals(scaling: JsonObject, key: str) -> tuple[float, ...]:
    values = scaling.array(key)
    if not values:
        scaling.fail(key, "is missing")
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e300:
            scaling.fail(key, f"holds {shown(value)}; numbers above 0 are needed")
    return tuple(map(float, values))


YARN = ("factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "finetuned")

# Type of scaling -> the keys that it may have, and how to read them.
Scalings = Mapping[str, tuple[tuple[str, ...], Callable[[JsonObject, int], dict[str, Any]]]]
OF_ANY_FAMILY: Scalings = {
    "default": ((), _default),
    "linear": (("factor",), _linear),
    "dynamic": (("factor", ORIGINAL), _dynamic),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), _llama3),
    "yarn": (YARN, _yarn),
}
OF_SOME: Scalings = {"longrope": (("short_factor", "long_factor", "factor", "attention_factor", ORIGINAL), _longrope)}
SCALINGS: Scalings = {**OF_ANY_FAMILY, **OF_SOME}
Q_KEYS = {BETA, "max_position_embeddings"}  # the latter has no effect
OTHER_ROPE_KEYS = {"rope_type", "type", "rope_theta", PARTIAL}
OUTER_ORIGINAL = ("llama3", "yarn", "longrope")  # kinds whose original context transformers reads from beside the scaling
