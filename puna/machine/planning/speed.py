"""Expected tokens per second, from a model's bytes and operations and a device's roofline.

A generated token reads all weights once, and the K and V of all earlier tokens (Williams et al. 2009, the roofline); matrix
products bound a prompt. A table holds the shares of a device's roofline that our kernels reach, with their sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from puna.model.spec import ModelConfig
from puna.model.weights import active_share, layer_of
from puna.plan import Plan, TensorHeader, kv_bytes, offloaded_bytes, read_by_type

FLOATS = ("F32", "F16", "BF16")
USUAL_TOKENS = 128  # tokens before a generated one, as in `puna bench`
USUAL_PROMPT = 512


class PlannedRoofline(NamedTuple):
    """Bytes that a device reads and operations that it computes per second."""

    read_bytes: float
    quantised_ops: float  # a multiply-add counts as two
    float_ops: float
    link_bytes: float  # from main memory to the device
    source: str  # as text: "measured here", "data sheet"


class Shares(NamedTuple):
    """Shares of a device's roofline that our kernels reach."""

    read: Mapping[str, float]  # by type in memory; "" is any other
    quantised: float
    floats: float
    layer_s: float  # per layer and step, for any size: launches, barriers
    step_s: float  # per step


# cpu: 2 threads of a Zen 3 (docs/LOG.md); a 1.1B shape reached 0.59 of the int8 rate in Q4_0, 0.45 in Q4_K_M and Q4_1, 0.36 in
# Q8_0, and 0.84 of the float rate in F16. cuda: published shares of engines of this kind (70 % for bf16 at batch 1, less for
# fewer bits), and 1.3 us for each of six launches of a recorded layer; not yet measured for ours.
SHARES: Mapping[str, Shares] = {
    "cpu": Shares({"": 0.85}, quantised=0.45, floats=0.85, layer_s=4e-6, step_s=60e-6),
    "cuda": Shares(
        {"": 0.50, "F16": 0.70, "BF16": 0.70, "F32": 0.75, "Q8_0": 0.60},
        quantised=0.45,
        floats=0.45,
        layer_s=10e-6,
        step_s=100e-6,
    ),
}
LINK_SHARE = 0.8
PCIE_BYTES = 25e9  # per second, of generation 4 with 16 lanes


class Speed(NamedTuple):
    """Tokens per second of one sequence."""

    decode_per_s: float
    prefill_per_s: float
    source: str


def expected(config: ModelConfig, tensors: Mapping[str, TensorHeader], plan: Plan, roofline: PlannedRoofline, kind: str) -> Speed:
    """The speed of one sequence: USUAL_TOKENS before each generated token; a prompt of USUAL_PROMPT tokens, or the context."""
    shares = SHARES[kind]
    prompt = min(USUAL_PROMPT, plan.max_context)
    return Speed(
        decode_per_s(config, plan, roofline, kind),
        1 / _prompt_token_s(config, tensors, plan, roofline, shares, prompt),
        roofline.source,
    )


def decode_per_s(config: ModelConfig, plan: Plan, roofline: PlannedRoofline, kind: str) -> float:
    """Generated tokens per second, with USUAL_TOKENS before each."""
    return 1 / _decode_s(config, plan, roofline, SHARES[kind])


def _decode_s(config: ModelConfig, plan: Plan, roofline: PlannedRoofline, shares: Shares) -> float:
    by_type = read_by_type(config, plan)
    offloaded = offloaded_bytes(plan)
    read_s = sum(size / _read_share(shares, kind) for kind, size in by_type.items()) / roofline.read_bytes
    before = kv_bytes(config, min(USUAL_TOKENS, plan.max_context), plan.kv_type, plan.layout.value_multiple)
    kv_s = before / (roofline.read_bytes * _read_share(shares, ""))
    return read_s + kv_s + offloaded / (LINK_SHARE * roofline.link_bytes) + config.num_layers * shares.layer_s + shares.step_s


def _prompt_token_s(
    config: ModelConfig, tensors: Mapping[str, TensorHeader], plan: Plan, roofline: PlannedRoofline, shares: Shares, prompt: int
) -> float:
    """Seconds per prompt token. Offloaded layers are copied once per chunk."""
    seconds = 0.0
    for name, kind, *_ in plan.placements:
        if layer_of(name) is not None and len(shape := tensors[name].shape) > 1:
            is_float = kind in FLOATS
            rate = shares.floats * roofline.float_ops if is_float else shares.quantised * roofline.quantised_ops
            seconds += 2 * prod(shape) * active_share(config, name) / rate
    attention = (
        2 * config.num_layers * config.q_size * prompt / (shares.floats * roofline.float_ops)
    )  # K and V: on average half of the prompt, twice
    chunk = min(prompt, plan.max_tokens)
    return (
        seconds
        + attention
        + (offloaded_bytes(plan) / (LINK_SHARE * roofline.link_bytes) + config.num_layers * shares.layer_s + shares.step_s)
        / chunk
    )


def _read_share(shares: Shares, kind: str) -> float:
    return shares.read.get(kind, shares.read[""])
