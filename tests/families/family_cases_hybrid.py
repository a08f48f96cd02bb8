"""Tiny checkpoints of families whose layers are not all of attention, as the original tools save them.

The shapes were read off transformers' classes, those of the layers that transformers leaves out off the published
checkpoints.
"""

from __future__ import annotations

from typing import Any

from tests.families.family import VOCABULARY, Case, Shapes, config, experts
from tests.families.family_cases_recent import NAMES, gated

HYBRID: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "partial_rotary_factor": 0.25,
    "rope_theta": 1000000,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "full_attention_interval": 4,
}


def full_attention(stem: str) -> Shapes:
    return {
        f"{stem}self_attn.q_proj.weight": (192, 48),
        f"{stem}self_attn.k_proj.weight": (32, 48),
        f"{stem}self_attn.v_proj.weight": (32, 48),
        f"{stem}self_attn.o_proj.weight": (48, 96),
        f"{stem}self_attn.q_norm.weight": (32,),
        f"{stem}self_attn.k_norm.weight": (32,),
    }


def linear_attention(stem: str, *, keys: int = 2, together: bool = False) -> Shapes:
    mixed, stem = 32 * keys + 64, f"{stem}linear_attn."
    joined: Shapes = {f"{stem}in_proj_qkvz.weight": (mixed + 64, 48), f"{stem}in_proj_ba.weight": (8, 48)}
    apart: Shapes = {
        f"{stem}in_proj_qkv.weight": (mixed, 48),
        f"{stem}in_proj_z.weight": (64, 48),
        f"{stem}in_proj_b.weight": (4, 48),
        f"{stem}in_proj_a.weight": (4, 48),
    }
    return {
        f"{stem}dt_bias": (4,),
        f"{stem}A_log": (4,),
        f"{stem}conv1d.weight": (mixed, 1, 4),
        **(joined if together else apart),
        f"{stem}norm.weight": (16,),
        f"{stem}out_proj.weight": (48, 64),
    }


def sparse(stem: str, *, together: bool = False) -> Shapes:
    joined: Shapes = {f"{stem}mlp.experts.gate_up_proj": (4, 48, 48), f"{stem}mlp.experts.down_proj": (4, 48, 24)}
    apart = {
        name.replace("model.layers.0.", stem): shape
        for name, shape in experts(range(1), "mlp.experts", 4, NAMES, 24, 48).items()
    }
    return {
        f"{stem}mlp.gate.weight": (4, 48),
        **(joined if together else apart),
        **gated(f"{stem}mlp.shared_expert.", 40),
        f"{stem}mlp.shared_expert_gate.weight": (1, 48),
    }


def norms(stem: str) -> Shapes:
    return {f"{stem}input_layernorm.weight": (48,), f"{stem}post_attention_layernorm.weight": (48,)}


def predictor(kind: str) -> Shapes:
    """The part beside the layers that predicts a further token."""
    stem = "mtp.layers.0."
    within = gated(f"{stem}mlp.", 80) if kind == "dense" else sparse(stem, together=kind == "together")
    return {
        "mtp.fc.weight": (48, 96),
        "mtp.norm.weight": (48,),
        "mtp.pre_fc_norm_embedding.weight": (48,),
        "mtp.pre_fc_norm_hidden.weight": (48,),
        **norms(stem),
        **full_attention(stem),
        **within,
    }


def qwen_cases() -> dict[str, Case]:
    moe = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    }
    next_ = config("Qwen3NextForCausalLM", "qwen3_next", **HYBRID, **moe, decoder_sparse_step=1, norm_topk_prob=True)
    text = config(
        "", "qwen3_5_text", **{**HYBRID, "partial_rotary_factor": None, "rope_theta": None}, mtp_num_hidden_layers=1
    )
    text |= {"rope_parameters": {
        "rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25, "mrope_interleaved": True,
        "mrope_section": [2, 1, 1],
    }}  # fmt: skip
    del text["architectures"]
    vision = {"model_type": "qwen3_5", "hidden_size": 16, "depth": 1, "num_heads": 2, "out_hidden_size": 48}
    sees = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "tie_word_embeddings": True,
        "text_config": text | {"tie_word_embeddings": True},
        "vision_config": vision,
    }
    alone = text | {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text"}
    sparse_text = {key: value for key, value in text.items() if key != "intermediate_size"} | moe
    sees_moe = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": False,
        "text_config": sparse_text | {"model_type": "qwen3_5_moe_text"},
        "vision_config": vision | {"model_type": "qwen3_5_moe"},
    }
    recurrent = {"layer_types": ["full_attention", "linear_attention", "full_attention", "linear_attention"]}

    def shapes(
        prefix: str,
        kind: str,
        *,
        tied: bool = False,
        together: bool = False,
        full: tuple[int, ...] = (3,),
        keys: int = 2,
    ) -> Shapes:
        found: Shapes = {f"{prefix}embed_tokens.weight": (VOCABULARY, 48)}
        for layer in range(4):
            stem = f"{prefix}layers.{layer}."
            found |= norms(stem)
            found |= full_attention(stem) if layer in full else linear_attention(stem, keys=keys, together=together)
            found |= gated(f"{stem}mlp.", 80) if kind == "dense" else sparse(stem, together=kind == "together")
        found[f"{prefix}norm.weight"] = (48,)
        return found | ({} if tied else {"lm_head.weight": (VOCABULARY, 48)})

    seeing = {"model.visual.blocks.0.norm1.weight": (16,), "model.visual.patch_embed.proj.bias": (16,)}
    language = "model.language_model."
    equal = alone | {"linear_num_key_heads": 4, "mtp_num_hidden_layers": 1} | recurrent
    return {
        "qwen3-next-80b": Case(next_, shapes("model.", "apart", together=True) | predictor("apart")),
        "qwen3-next-together": Case(
            next_, shapes("model.", "together", together=True) | predictor("together"), "F32", "bf16"
        ),
        "qwen3.5": Case(sees, shapes(language, "dense", tied=True) | predictor("dense") | seeing),
        "qwen3.5-text": Case(alone, shapes("model.", "dense") | predictor("dense"), "F32", "f16"),
        "qwen3.5-equal-heads": Case(
            equal, shapes("model.", "dense", full=(0, 2), keys=4) | predictor("dense"), "BF16", "f32"
        ),
        "qwen3.5-moe": Case(sees_moe, shapes(language, "together") | predictor("apart") | seeing),
    }


def granite_cases() -> dict[str, Case]:
    tiny = config(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        intermediate_size=24,
        num_hidden_layers=3,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=40,
        attention_multiplier=0.5,
        # so that the layers say more than the embedding
        embedding_multiplier=0.125,
        logits_scaling=2.0,
        residual_multiplier=4.0,
        tie_word_embeddings=True,
        position_embedding_type="nope",
        layer_types=["mamba", "attention", "mamba"],
        mamba_n_heads=12,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=16,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_conv_bias=True,
        mamba_proj_bias=False,
        normalization_function="rmsnorm",
        rope_theta=10000,
        rms_norm_eps=1e-5,
        hidden_act="silu",
    )

    def shapes(kinds: list[str], *, routed: bool, shared: int) -> Shapes:
        found: Shapes = {"model.embed_tokens.weight": (VOCABULARY, 48), "model.norm.weight": (48,)}
        for layer, kind in enumerate(kinds):
            stem = f"model.layers.{layer}."
            found |= norms(stem)
            if kind == "mamba":
                found |= {
                    f"{stem}mamba.in_proj.weight": (96 + 128 + 12, 48),
                    f"{stem}mamba.conv1d.weight": (128, 1, 4),
                    f"{stem}mamba.conv1d.bias": (128,),
                    f"{stem}mamba.dt_bias": (12,),
                    f"{stem}mamba.A_log": (12,),
                    f"{stem}mamba.D": (12,),
                    f"{stem}mamba.norm.weight": (96,),
                    f"{stem}mamba.out_proj.weight": (48, 96),
                }
            else:
                found |= {
                    f"{stem}self_attn.q_proj.weight": (48, 48),
                    f"{stem}self_attn.k_proj.weight": (16, 48),
                    f"{stem}self_attn.v_proj.weight": (16, 48),
                    f"{stem}self_attn.o_proj.weight": (48, 48),
                }
            found |= {
                f"{stem}shared_mlp.input_linear.weight": (2 * shared, 48),
                f"{stem}shared_mlp.output_linear.weight": (48, shared),
            }
            if routed:
                found |= {
                    f"{stem}block_sparse_moe.input_linear.weight": (4, 48, 48),
                    f"{stem}block_sparse_moe.output_linear.weight": (4, 48, 24),
                    f"{stem}block_sparse_moe.router.layer.weight": (4, 48),
                }
        return found

    mixed = ["mamba", "attention", "mamba"]
    dense = tiny | {"num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 40}
    whole = dense | {"layer_types": ["attention"] * 3, "position_embedding_type": "rope"}
    return {
        "granite-4-h-small": Case(tiny, shapes(mixed, routed=True, shared=40)),
        "granite-4-h-micro": Case(dense, shapes(mixed, routed=False, shared=40), "F32", "bf16"),
        "granite-4-micro": Case(whole, shapes(["attention"] * 3, routed=False, shared=40)),
    }


CASES: dict[str, Case] = qwen_cases() | granite_cases()
