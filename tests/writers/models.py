"""Tiny models of every family that transformers knows, by the values of their configuration. Data only.

What is not named is left at the class's default, and so written as it is: a configuration that a user would find next
to a real checkpoint, but for its sizes.
"""

from __future__ import annotations

from tests.writers.pieces import (
    AUDIO,
    DEEPSEEK_YARN,
    DENSE,
    EXPERTS,
    GEMMA_3N,
    GEMMA_4,
    GEMMA_4_AUDIO,
    GEMMA_4_MOE,
    GEMMA_4_VISION,
    HEADS,
    INDEXER,
    LATENT,
    LINEAR,
    LINEAR_SCALING,
    LLAMA3,
    LONGROPE,
    MAMBA,
    OMNI_IDS,
    PARTIAL,
    QWEN2_VISION,
    QWEN3_VISION,
    QWEN25_VISION,
    QWEN_IDS,
    ROUTED,
    SECTIONS,
    SHARED,
    SIGLIP,
    VOCABULARY,
    WINDOW,
    YARN,
    Values,
)

MODELS: dict[str, tuple[str, Values]] = {
    "llama": ("LlamaForCausalLM", DENSE),
    "llama-3.1": ("LlamaForCausalLM", DENSE | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": ("LlamaForCausalLM", DENSE | {"rope_parameters": LINEAR_SCALING}),
    "llama-dynamic": ("LlamaForCausalLM", DENSE | {"rope_parameters": LINEAR_SCALING | {"rope_type": "dynamic"}}),
    "llama-float32": ("LlamaForCausalLM", DENSE | {"dtype": "float32"}),
    "llama-float16": ("LlamaForCausalLM", DENSE | {"dtype": "float16"}),
    "internlm-3": ("LlamaForCausalLM", DENSE | {"model_type": "internlm3", "head_dim": 16}),
    "llama-bias": ("LlamaForCausalLM", DENSE | {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "mistral": ("MistralForCausalLM", DENSE | {"sliding_window": None}),
    "mixtral": ("MixtralForCausalLM", DENSE | {"num_local_experts": 8}),
    "smollm3": ("SmolLM3ForCausalLM", DENSE),
    "llama-4-text": ("Llama4ForCausalLM", HEADS | {"intermediate_size_mlp": 80, "num_local_experts": 4}),
    "llama-4": (
        "Llama4ForConditionalGeneration",
        {
            "text_config": HEADS | {"intermediate_size_mlp": 80, "num_local_experts": 4},
            "vision_config": SIGLIP
            | {
                "vision_output_dim": 64,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "pixel_shuffle_ratio": 0.5,
            }
            | {"intermediate_size": 128},
            "image_token_index": 310,
        },
    ),
    "qwen2": ("Qwen2ForCausalLM", DENSE),
    "qwen2-yarn": ("Qwen2ForCausalLM", DENSE | {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", DENSE | EXPERTS | SHARED),
    "qwen3": ("Qwen3ForCausalLM", HEADS),
    "qwen3-yarn": ("Qwen3ForCausalLM", HEADS | {"rope_parameters": YARN}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", HEADS | EXPERTS | {"norm_topk_prob": True}),
    "qwen3-next": (
        "Qwen3NextForCausalLM",
        HEADS | EXPERTS | LINEAR | SHARED | {"head_dim": 32, "decoder_sparse_step": 1},
    ),
    "qwen3.5-text": ("Qwen3_5ForCausalLM", HEADS | LINEAR | {"head_dim": 32}),
    "qwen3.5": (
        "Qwen3_5ForConditionalGeneration",
        QWEN_IDS | {"text_config": HEADS | LINEAR | {"head_dim": 32}, "vision_config": QWEN3_VISION},
    ),
    "qwen3.5-moe-text": ("Qwen3_5MoeForCausalLM", HEADS | LINEAR | EXPERTS | SHARED | {"head_dim": 32}),
    "qwen3.5-moe": (
        "Qwen3_5MoeForConditionalGeneration",
        QWEN_IDS | {"text_config": HEADS | LINEAR | EXPERTS | SHARED | {"head_dim": 32}, "vision_config": QWEN3_VISION},
    ),
    "qwen2-vl": (
        "Qwen2VLForConditionalGeneration",
        QWEN_IDS | {"text_config": DENSE | {"rope_parameters": SECTIONS}, "vision_config": QWEN2_VISION},
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLForConditionalGeneration",
        QWEN_IDS | {"text_config": DENSE | {"rope_parameters": SECTIONS}, "vision_config": QWEN25_VISION},
    ),
    "qwen3-vl": (
        "Qwen3VLForConditionalGeneration",
        QWEN_IDS
        | {
            "text_config": HEADS | {"rope_parameters": SECTIONS | {"mrope_interleaved": True}},
            "vision_config": QWEN3_VISION,
        },
    ),
    "qwen3-vl-moe": (
        "Qwen3VLMoeForConditionalGeneration",
        QWEN_IDS
        | {
            "text_config": HEADS | EXPERTS | {"rope_parameters": SECTIONS | {"mrope_interleaved": True}},
            "vision_config": QWEN3_VISION,
        },
    ),
    "qwen2.5-omni": (
        "Qwen2_5OmniThinkerForConditionalGeneration",
        OMNI_IDS
        | {"text_config": DENSE | {"rope_parameters": SECTIONS}, "vision_config": QWEN25_VISION, "audio_config": AUDIO},
    ),
    "qwen3-omni": (
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        OMNI_IDS
        | {
            "text_config": HEADS | EXPERTS | {"rope_parameters": SECTIONS | {"mrope_interleaved": True}},
            "vision_config": QWEN3_VISION,
            "audio_config": AUDIO | {"downsample_hidden_size": 16},
        },
    ),
    "gemma": ("GemmaForCausalLM", HEADS),
    "gemma-2": ("Gemma2ForCausalLM", HEADS | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "gemma-2-uncapped": (
        "Gemma2ForCausalLM",
        HEADS | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "final_logit_softcapping": None},
    ),
    "gemma-3-text": (
        "Gemma3ForCausalLM",
        HEADS | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "num_hidden_layers": 8},
    ),
    "gemma-3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": HEADS | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "num_hidden_layers": 8},
            "vision_config": SIGLIP,
            "mm_tokens_per_image": 4,
            "image_token_index": 310,
            "boi_token_index": 311,
            "eoi_token_index": 312,
        },
    ),
    "gemma-3n-text": ("Gemma3nForCausalLM", GEMMA_3N),
    "gemma-4-text": ("Gemma4ForCausalLM", GEMMA_4),
    "gemma-4-capped": ("Gemma4ForCausalLM", GEMMA_4 | {"num_hidden_layers": 12, "final_logit_softcapping": 30.0}),
    "gemma-4-moe": ("Gemma4ForCausalLM", GEMMA_4 | GEMMA_4_MOE),
    "gemma-4": (
        "Gemma4ForConditionalGeneration",
        {"text_config": GEMMA_4, "vision_config": GEMMA_4_VISION, "audio_config": GEMMA_4_AUDIO}
        | {"image_token_id": 310, "audio_token_id": 311, "video_token_id": 312},
    ),
    "phi": ("PhiForCausalLM", DENSE | {"num_key_value_heads": 4, "intermediate_size": 256}),
    "phi-3": ("Phi3ForCausalLM", DENSE | {"original_max_position_embeddings": 512}),
    "deepseek-v2": ("DeepseekV2ForCausalLM", DENSE | ROUTED | LATENT),
    "phi-3-longrope": (
        "Phi3ForCausalLM",
        DENSE | {"rope_parameters": LONGROPE, "original_max_position_embeddings": 256, "tie_word_embeddings": True},
    ),
    "phi-4-mini": ("Phi3ForCausalLM", DENSE | {"rope_parameters": PARTIAL, "original_max_position_embeddings": 512}),
    "deepseek-v2-lite": (
        "DeepseekV2ForCausalLM",
        DENSE
        | ROUTED
        | LATENT
        | {"q_lora_rank": None, "num_hidden_layers": 27, "hidden_size": 32, "rope_parameters": DEEPSEEK_YARN},
    ),
    "deepseek-v3": ("DeepseekV3ForCausalLM", DENSE | ROUTED | LATENT),
    "deepseek-v3-yarn": ("DeepseekV3ForCausalLM", DENSE | ROUTED | LATENT | {"rope_parameters": DEEPSEEK_YARN}),
    "deepseek-v3.2": ("DeepseekV32ForCausalLM", DENSE | ROUTED | LATENT | INDEXER),
    "kimi-k2.5": (
        "Kimi_K25ForConditionalGeneration",
        {
            "text_config": DENSE | ROUTED | LATENT | {"model_type": "deepseek_v3"},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            }
            | {"pos_emb_height": 4, "pos_emb_width": 4},
            "projection_hidden_size": 32,
            "image_token_id": 310,
            "video_token_id": 311,
            "tie_word_embeddings": False,
        },
    ),
    "kimi-linear": (
        "KimiLinearForCausalLM",
        DENSE
        | LATENT
        | {"q_lora_rank": None, "num_experts": 8, "num_experts_per_token": 2, "moe_intermediate_size": 24}
        | {"linear_head_dim": 32, "linear_num_heads": 4, "num_hidden_layers": 6},
    ),
    "minicpm-3": ("MiniCPM3ForCausalLM", DENSE | LATENT),
    "glm-5": ("GlmMoeDsaForCausalLM", DENSE | ROUTED | LATENT | INDEXER),
    "glm": ("GlmForCausalLM", HEADS),
    "glm-4": ("Glm4ForCausalLM", HEADS),
    "glm-4.5": ("Glm4MoeForCausalLM", HEADS | ROUTED),
    "glm-4.7-flash": ("Glm4MoeLiteForCausalLM", DENSE | ROUTED | LATENT),
    "glm-4.1-v": (
        "Glm4vForConditionalGeneration",
        {
            "text_config": DENSE
            | {"rope_parameters": SECTIONS | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
            "vision_config": SIGLIP | {"depth": 1, "num_heads": 2, "out_hidden_size": 64},
            "image_token_id": 310,
            "video_token_id": 311,
        },
    ),
    "glm-4.5-v": (
        "Glm4vMoeForConditionalGeneration",
        {
            "text_config": HEADS
            | ROUTED
            | {"rope_parameters": SECTIONS | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
            "vision_config": SIGLIP | {"depth": 1, "num_heads": 2, "out_hidden_size": 64},
            "image_token_id": 310,
            "video_token_id": 311,
        },
    ),
    "cohere": ("CohereForCausalLM", DENSE),
    "cohere-2": ("Cohere2ForCausalLM", DENSE | {"sliding_window": WINDOW}),
    "olmo-2": ("Olmo2ForCausalLM", DENSE),
    "olmo-3": ("Olmo3ForCausalLM", DENSE | {"sliding_window": WINDOW}),
    "olmo-3-yarn": ("Olmo3ForCausalLM", DENSE | {"sliding_window": WINDOW, "rope_parameters": YARN}),
    "olmoe": ("OlmoeForCausalLM", DENSE | {"num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 2}),
    "granite": ("GraniteForCausalLM", DENSE | {"embedding_multiplier": 2.0, "logits_scaling": 4.0}),
    "granite-moe": ("GraniteMoeForCausalLM", DENSE | {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "granite-moe-shared": (
        "GraniteMoeSharedForCausalLM",
        DENSE | {"num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
    ),
    "granite-4-dense": (
        "GraniteMoeHybridForCausalLM",
        DENSE
        | MAMBA
        | {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 96}
        | {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    ),
    "granite-4-attention": (
        "GraniteMoeHybridForCausalLM",
        DENSE
        | {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 96}
        | {"layer_types": ["attention"] * 4, "position_embedding_type": "rope"},
    ),
    "granite-4": (
        "GraniteMoeHybridForCausalLM",
        DENSE
        | MAMBA
        | {"num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 48}
        | {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    ),
    "bitnet": ("BitNetForCausalLM", DENSE | {"hidden_act": "silu", "tie_word_embeddings": True}),
    "granite-4-rotated": (
        "GraniteMoeHybridForCausalLM",
        DENSE
        | MAMBA
        | {"num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 48}
        | {"layer_types": ["mamba", "attention", "mamba", "attention"], "position_embedding_type": "rope"},
    ),
    "stablelm-12b": ("StableLmForCausalLM", DENSE | {"qk_layernorm": True, "use_parallel_residual": True}),
    "stablelm": ("StableLmForCausalLM", DENSE),
    "falcon": (
        "FalconForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 512},
    ),
    "falcon-40b": (
        "FalconForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"bos_token_id": 1, "eos_token_id": 2, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "falcon-h1": ("FalconH1ForCausalLM", HEADS | MAMBA | {"mamba_d_ssm": 128}),
    "gpt-2": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", DENSE),
    "starcoder-2": ("Starcoder2ForCausalLM", DENSE),
    "ministral-3": ("Ministral3ForCausalLM", HEADS),
    "mistral-small-3": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": HEADS | {"model_type": "mistral"},
            "vision_config": SIGLIP | {"model_type": "pixtral", "head_dim": 16},
            "image_token_index": 310,
        },
    ),
    "seed-oss": ("SeedOssForCausalLM", HEADS),
    "ernie-4.5": ("Ernie4_5ForCausalLM", HEADS),
    "ernie-4.5-moe": (
        "Ernie4_5_MoeForCausalLM",
        DENSE
        | {"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 24, "moe_num_shared_experts": 1}
        | {"moe_layer_start_index": 1},
    ),
    "gpt-oss": (
        "GptOssForCausalLM",
        HEADS | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    "hunyuan": ("HunYuanDenseV1ForCausalLM", HEADS),
    "gpt-oss-truncated": (
        "GptOssForCausalLM",
        HEADS
        | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": WINDOW}
        | {"rope_parameters": YARN | {"truncate": True}},
    ),
    "hunyuan-moe": (
        "HunYuanMoEV1ForCausalLM",
        HEADS | {"num_experts": 8, "moe_topk": 2},
    ),
    "hunyuan-vl": (
        "HunYuanVLForConditionalGeneration",
        {
            "text_config": HEADS
            | {
                "rope_parameters": {
                    "rope_type": "xdrope",
                    "rope_theta": 10000.0,
                    "alpha": 1000.0,
                    "factor": 1.0,
                    "mrope_section": [2, 2, 2, 2],
                }
            },
            "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
            | {"num_attention_heads": 2, "num_key_value_heads": 2, "out_hidden_size": 64, "text_hidden_size": 64},
            "image_token_id": 310,
            "im_start_id": 311,
            "im_end_id": 312,
            "im_newline_id": 313,
        },
    ),
    "minimax-m2": ("MiniMaxM2ForCausalLM", HEADS | {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "youtu": ("YoutuForCausalLM", DENSE | LATENT),
    "nemotron": ("NemotronForCausalLM", DENSE),
    "exaone-4": ("Exaone4ForCausalLM", DENSE | {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
    "exaone-4-window": (
        "Exaone4ForCausalLM",
        DENSE | {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 64, "sliding_window": WINDOW},
    ),
    "lfm-2": (
        "Lfm2ForCausalLM",
        DENSE | {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    ),
    "lfm-2-moe": (
        "Lfm2MoeForCausalLM",
        DENSE | EXPERTS | {"num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    ),
    "lfm-2-moe-untied": (
        "Lfm2MoeForCausalLM",
        DENSE
        | EXPERTS
        | {"num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}
        | {"tie_word_embeddings": False},
    ),
}
"""Name -> architecture and configuration."""
