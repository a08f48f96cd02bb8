"""Values of configurations that several of the tiny models share. Data only."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]

VOCABULARY = 320
IDS = (1, *((37 * number + 5) % 290 + 5 for number in range(23)))
"""The text: 24 tokens, more than the windows of attention below."""

WINDOW = 8
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500000.0,
}

LINEAR_SCALING = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
DEEPSEEK_YARN = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 256,
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.25],
    "short_factor": [1.0, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875],
}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}

DENSE: Values = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS: Values = DENSE | {"head_dim": 16}
EXPERTS: Values = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ROUTED: Values = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT: Values = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
INDEXER: Values = {"index_head_dim": 64, "index_n_heads": 4, "index_topk": 2048}
LINEAR: Values = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
SHARED: Values = {"shared_expert_intermediate_size": 48}
MAMBA: Values = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 32,
}

SECTIONS: Values = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [3, 3, 2]}
QWEN_IDS: Values = {
    "image_token_id": 310,
    "video_token_id": 311,
    "vision_start_token_id": 312,
    "vision_end_token_id": 313,
}
QWEN2_VISION: Values = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
QWEN25_VISION: Values = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [0],
}
QWEN3_VISION: Values = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
SIGLIP: Values = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

OMNI_IDS: Values = {
    "image_token_id": 310,
    "video_token_id": 311,
    "audio_token_id": 312,
    "image_token_index": 310,
    "video_token_index": 311,
    "audio_token_index": 312,
}
AUDIO: Values = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "output_dim": 64,
    "num_mel_bins": 16,
}
GEMMA_3N: Values = HEADS | {
    "num_hidden_layers": 25,
    "intermediate_size": 96,
    "sliding_window": WINDOW,
    "vocab_size_per_layer_input": VOCABULARY - 20,
    "hidden_size_per_layer_input": 256,
    "laurel_rank": 64,
    "num_kv_shared_layers": 5,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 15,
}
GEMMA_4: Values = HEADS | {
    "num_hidden_layers": 6,
    "sliding_window": WINDOW,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
}
GEMMA_4_MOE: Values = {
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
    "hidden_size_per_layer_input": 0,
}
GEMMA_4_VISION: Values = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_embedding_size": 16,
}
GEMMA_4_AUDIO: Values = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [8, 4],
    "output_proj_dims": 32,
}
