"""The text part of a checkpoint that also sees or hears.

Source of the names: ``TextModel.filter_tensors`` in llama.cpp's ``conversion/base.py``.
"""

from __future__ import annotations

from ggufrun.convert.config import Config

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


def is_text(name: str) -> bool:
    """Whether a tensor of this name belongs to the text part."""
    return not name.startswith(FRONT) and not any(part in name for part in WITHIN)


def text_name(config: Config, name: str) -> str | None:
    """The name that a model of text alone gives a tensor; None for one of another part."""
    if not is_text(name):
        return None
    return name.removeprefix("thinker.").replace("language_model.", "")
