"""StarCoder 2.

Source of names and order: llama.cpp's ``conversion/starcoder.py``; of defaults: transformers' ``Starcoder2Config``. Its
sliding window of 4096 tokens has no place in the GGUF: llama.cpp attends to the whole context.
"""

from __future__ import annotations

import gguf

from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.layout import ATTENTION, NORMS, WHOLE
from ggufrun.convert.arch.shared.rope import standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary

DEFAULTS = {
    "vocab_size": 49152,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}

LAYER = (
    NORMS
    + ATTENTION
    + """
attn_norm.bias     width
attn_output.bias?  width
ffn_norm.bias      width
ffn_up             inner width
ffn_up.bias?       inner
ffn_down           width inner
ffn_down.bias?     width
"""
)


def check(config: Config) -> None:
    config.require("hidden_act", ("gelu_pytorch_tanh",))


FAMILIES = (
    Family(
        names={"Starcoder2ForCausalLM": ("bigcode/starcoder2-3b", "bigcode/starcoder2-7b")},
        title="StarCoder2",
        arch=gguf.MODEL_ARCH.STARCODER2,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        check=check,
        whole=WHOLE + "output_norm.bias  width\n",
        layer=LAYER,
    ),
)
