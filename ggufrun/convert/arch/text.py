"""The text part of a checkpoint that also sees or hears.

Source of the names: ``TextModel.filter_tensors`` in llama.cpp's ``conversion/base.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.transforms import renamed

WITHIN = (
    "visual.", "vision.", "audio.", "talker.", "vision_", "audio_", "token2wav.", "code2wav.", "projector.",
    "pre_mm_projector_norm", "image_newline", "view_seperator", "patch_embed", "patch_merger.", "patch_merge_mlp.",
    "model.connector.",
)  # fmt: skip
"""What the names of tensors that are not of the text part hold."""

FRONT = (
    "mlp", "vit.", "vpm.", "siglip2.", "conformer.", "merger.", "resampler.", "sound_encoder.", "sound_projection.",
    "speech_embeddings.",
)  # fmt: skip
"""What they begin with."""


def text_part(tensor: Tensor) -> Iterable[Tensor]:
    """The tensor under the name that a model of text alone gives it; nothing for one of another part."""
    if not tensor.name.startswith(FRONT) and not any(part in tensor.name for part in WITHIN):
        yield renamed(tensor, tensor.name.removeprefix("thinker.").replace("language_model.", ""))
