"""How a torch device keeps weights and KV: what `plan.py` chooses from. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping

from puna.plan import Layout

AS_THEY_ARE = {name: name for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")}
KV_TYPES = ("bf16", "f16", "f32", "int8")

# In order: the first that fits is taken, unless one is asked for. The embedding and the output matrix lose most by four bits.
LAYOUTS: Mapping[str, Layout] = {
    "as-is": Layout(AS_THEY_ARE, other="Q8_0", kv_types=KV_TYPES),
    "int8": Layout(AS_THEY_ARE | dict.fromkeys(("F32", "F16", "BF16"), "Q8_0"), other="Q8_0", kv_types=KV_TYPES),
    "int4": Layout(
        {name: name for name in ("Q4_0", "Q4_1", "Q4_K")},
        other="Q4_1",
        kv_types=KV_TYPES,
        better={"embed": "Q8_0", "lm_head": "Q8_0"},
    ),
}
