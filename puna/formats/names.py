"""Foreign tensor names. Ours are those of `base.py`; a table gives each its name in a format, with `{}` for the layer.

Only this module may use the spellings of other projects.
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
    "q_bias": "blk.{}.attn_q.bias",
    "k_bias": "blk.{}.attn_k.bias",
    "v_bias": "blk.{}.attn_v.bias",
    "o_bias": "blk.{}.attn_output.bias",
    "gate_bias": "blk.{}.ffn_gate.bias",
    "up_bias": "blk.{}.ffn_up.bias",
    "down_bias": "blk.{}.ffn_down.bias",
    "q_norm": "blk.{}.attn_q_norm.weight",
    "k_norm": "blk.{}.attn_k_norm.weight",
    "attn_post_norm": "blk.{}.post_attention_norm.weight",
    "ffn_post_norm": "blk.{}.post_ffw_norm.weight",
    "router": "blk.{}.ffn_gate_inp.weight",
    "gate_experts": "blk.{}.ffn_gate_exps.weight",
    "up_experts": "blk.{}.ffn_up_exps.weight",
    "down_experts": "blk.{}.ffn_down_exps.weight",
}

HUGGINGFACE_NAMES: dict[str, str] = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
    "attn_norm": "model.layers.{}.input_layernorm.weight",
    "q_proj": "model.layers.{}.self_attn.q_proj.weight",
    "k_proj": "model.layers.{}.self_attn.k_proj.weight",
    "v_proj": "model.layers.{}.self_attn.v_proj.weight",
    "o_proj": "model.layers.{}.self_attn.o_proj.weight",
    "ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "gate_proj": "model.layers.{}.mlp.gate_proj.weight",
    "up_proj": "model.layers.{}.mlp.up_proj.weight",
    "down_proj": "model.layers.{}.mlp.down_proj.weight",
    "q_bias": "model.layers.{}.self_attn.q_proj.bias",
    "k_bias": "model.layers.{}.self_attn.k_proj.bias",
    "v_bias": "model.layers.{}.self_attn.v_proj.bias",
    "o_bias": "model.layers.{}.self_attn.o_proj.bias",
    "gate_bias": "model.layers.{}.mlp.gate_proj.bias",
    "up_bias": "model.layers.{}.mlp.up_proj.bias",
    "down_bias": "model.layers.{}.mlp.down_proj.bias",
    "q_norm": "model.layers.{}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{}.self_attn.k_norm.weight",
    "attn_post_norm": "model.layers.{}.post_attention_layernorm.weight",
    "ffn_post_norm": "model.layers.{}.post_feedforward_layernorm.weight",
    "router": "model.layers.{}.mlp.gate.weight",
    "gate_experts": "model.layers.{}.mlp.experts.gate_proj",  # in no file: `regrouped.py` makes them
    "up_experts": "model.layers.{}.mlp.experts.up_proj",
    "down_experts": "model.layers.{}.mlp.experts.down_proj",
}

# Where norms stand on both sides: LLaMA's name of the norm before the feed-forward part is that of the one after attention.
SANDWICH_NAMES: dict[str, str] = HUGGINGFACE_NAMES | {"ffn_norm": "model.layers.{}.pre_feedforward_layernorm.weight"}

# Names of fused matrices -> the roles whose rows they hold, from the top.
PHI_NAMES: dict[str, tuple[str, ...]] = {
    "model.layers.{}.self_attn.qkv_proj.weight": ("q_proj", "k_proj", "v_proj"),
    "model.layers.{}.mlp.gate_up_proj.weight": ("gate_proj", "up_proj"),
}
PHI_GGUF_NAMES: dict[str, tuple[str, ...]] = {
    "blk.{}.attn_qkv.weight": ("q_proj", "k_proj", "v_proj"),
    "blk.{}.ffn_up.weight": ("gate_proj", "up_proj"),
}
GRANITE_NAMES: dict[str, tuple[str, ...]] = {"model.layers.{}.shared_mlp.input_linear.weight": ("gate_proj", "up_proj")}
FUSED_EXPERTS: dict[str, tuple[str, ...]] = {"model.layers.{}.mlp.experts.gate_up_proj": ("gate_experts", "up_experts")}

# Role of experts -> the name of one expert's matrix, by layer and expert.
EXPERT_NAMES: dict[str, str] = {
    f"{name}_experts": f"model.layers.{{}}.mlp.experts.{{}}.{name}_proj.weight" for name in ("gate", "up", "down")
}
MIXTRAL_NAMES: dict[str, str] = {
    "gate_experts": "model.layers.{}.mlp.experts.{}.w1.weight",
    "up_experts": "model.layers.{}.mlp.experts.{}.w3.weight",
    "down_experts": "model.layers.{}.mlp.experts.{}.w2.weight",
}

META_NAMES: dict[str, str] = {
    "embed": "tok_embeddings.weight",
    "final_norm": "norm.weight",
    "lm_head": "output.weight",
    "attn_norm": "layers.{}.attention_norm.weight",
    "q_proj": "layers.{}.attention.wq.weight",
    "k_proj": "layers.{}.attention.wk.weight",
    "v_proj": "layers.{}.attention.wv.weight",
    "o_proj": "layers.{}.attention.wo.weight",
    "ffn_norm": "layers.{}.ffn_norm.weight",
    "gate_proj": "layers.{}.feed_forward.w1.weight",
    "up_proj": "layers.{}.feed_forward.w3.weight",
    "down_proj": "layers.{}.feed_forward.w2.weight",
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
