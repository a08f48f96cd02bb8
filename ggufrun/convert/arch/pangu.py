"""openPangu Embedded: a Llama whose attention has biases, and whose rotation pairs lie half a head apart.

Source of names and order: llama.cpp's ``conversion/pangu.py``. It is remote code; its sizes are those of the published
checkpoints.
"""

from __future__ import annotations

from pathlib import Path

import gguf

from ggufrun.convert.arch.shared.family import Family, without_tied_output
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import DECODER, decoder_sizes
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import add_vocabulary
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Original


def pangu_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """Whether there is a space in front is tokenizer_config.json's to say."""
    prefix = TokenizerFiles.of(folder, config).settings.get("add_prefix_space")
    if not isinstance(prefix, bool):
        return add_vocabulary(folder, config, writer, pretokenizer)
    original = add_vocabulary(folder, config, writer, pretokenizer, prefix)
    writer.add_add_space_prefix(prefix)
    return original


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("bias", (True,))


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    head = decoder_sizes(config)["head"]
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)


FAMILIES = (
    Family(
        names={"PanguEmbeddedForCausalLM": ("FreedomIntelligence/openPangu-Embedded-7B-V1.1",)},
        title="openPangu",
        arch=gguf.MODEL_ARCH.PANGU_EMBED,
        vocab=pangu_vocabulary,
        check=check,
        metadata=metadata,
        layer=DECODER + "attn_output.bias  width\n",
        kept_name=without_tied_output,
    ),
)
