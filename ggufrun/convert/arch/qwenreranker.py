"""Qwen3-Reranker: a Qwen 3 that says yes or no, of whose output matrix the rows of these two words are all that counts.

Source of the rule by which one is known, of keys and order: ``Qwen3Model`` in llama.cpp's ``conversion/qwen.py``; of
the template: the model's card.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf
import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import OUTPUT, Family, is_tied
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, take_rows
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.errors import FormatError
from ggufrun.regularfile import read_start

EMBEDDING = "embed_tokens.weight"
WHOLE = """
token_embd    vocabulary width
output_norm   width
cls.output    2 width
"""
LABELS = ("yes", "no")
NAME, HEADING = "qwen3-reranker", b"# qwen3-reranker"
CARD = 1 << 20
"""Bytes of a model card that are searched."""

TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def is_reranker(config: Config) -> bool:
    """By the names that the folder and config.json give, or the heading of the model card."""
    folder = config.path.parent
    if any(NAME in str(name).lower() for name in (folder.name, config.values.get("_name_or_path"))):
        return True
    card = folder / "README.md"
    return card.is_file() and HEADING in read_start(card, CARD).lower()


def answers(config: Config) -> list[int]:
    """The ids of the two words; FormatError where the tokenizer does not have them."""
    files = TokenizerFiles.of(config.path.parent, config)
    vocabulary = files.tokenizer.get("model", {}).get("vocab")
    found = [vocabulary.get(word) if isinstance(vocabulary, dict) else None for word in LABELS]
    size = config.integer("vocab_size")
    numbers = [number for number in found if type(number) is int and 0 <= number < size]
    if len(numbers) < len(LABELS):
        raise FormatError(
            f"{config.path.parent} is a reranker by its name, and its tokenizer does not have the words yes and no",
            "download the tokenizer files again, or rename the folder",
        )
    return numbers


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(LABELS)
    writer.add_chat_template([{"name": "rerank", "template": TEMPLATE}])


def kept_name(config: Config, name: str) -> str | None:
    return None if name == OUTPUT and is_tied(config) else name


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(EMBEDDING if is_tied(config) else OUTPUT):
        yield renamed(take_rows(tensor, np.array(answers(config))), "cls.output.weight")
    if tensor.name != OUTPUT:
        yield tensor


def reranker(family: Family) -> Family:
    """A Qwen 3 family as the one of its rerankers."""

    def checked(config: Config) -> None:
        family.check(config)
        answers(config)

    return replace(
        family,
        check=checked,
        metadata=metadata,
        whole=WHOLE,
        kept_name=kept_name,
        transform=transform,
    )
