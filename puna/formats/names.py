"""Foreign tensor names. Ours are those of `base.py`; a table gives each its name in a format, `{}` standing for the layer.

Only here may the spellings of other projects occur.
"""

from __future__ import annotations

from collections.abc import Mapping

GGUF_NAMES: dict[str, str] = {
    "embed": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "lm_head": "output.weight",
    "attn_norm": "blk.{}.attn_norm.weight",
    "q_proj": "blk.{}.attn_q.weight",
    "k_proj": "blk.{}.attn_k.weight",
    "v_proj": "blk.{}.attn_v.weight",
    "o_proj": "blk.{}.attn_output.weight",
    "ffn_norm": "blk.{}.ffn_norm.weight",
    "gate_proj": "blk.{}.ffn_gate.weight",
    "up_proj": "blk.{}.ffn_up.weight",
    "down_proj": "blk.{}.ffn_down.weight",
}

LLAMA2C_NAMES: dict[str, str] = {
    "embed": "token_embedding_table",
    "final_norm": "rms_final_weight",
    "lm_head": "wcls",
    "attn_norm": "rms_att_weight[{}]",
    "q_proj": "wq[{}]",
    "k_proj": "wk[{}]",
    "v_proj": "wv[{}]",
    "o_proj": "wo[{}]",
    "ffn_norm": "rms_ffn_weight[{}]",
    "gate_proj": "w1[{}]",
    "up_proj": "w3[{}]",
    "down_proj": "w2[{}]",
}


def foreign_name(table: Mapping[str, str], ours: str) -> str:
    """The name that our tensor `ours` has in the format of `table`.

    >>> foreign_name(GGUF_NAMES, "layers.3.q_proj")
    'blk.3.attn_q.weight'
    """
    if not ours.startswith("layers."):
        return table[ours]
    _, layer, part = ours.split(".")
    return table[part].format(layer)
