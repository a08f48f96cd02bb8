"""Well-known models by short names: where each is published, under which licence and how large it is.

``python -m tests.catalogue_check`` compares the table with the hub, which needs the network.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggufrun.hub.ids import HubId

CHECKPOINT = "checkpoint"
"""In place of a type: the repository has no GGUF, so that the model is converted first."""


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue. ``kind`` is the type or the name of the file that is fetched; ``size`` counts its
    bytes in units of 10^9, about; ``parameters`` in units of 10^9.
    """

    name: str
    repo: str
    kind: str
    size: float
    parameters: float
    license: str

    @property
    def is_checkpoint(self) -> bool:
        """Must it be converted first?"""
        return self.kind == CHECKPOINT

    @property
    def spec(self) -> HubId:
        """What is fetched."""
        return HubId(self.repo, None, None if self.is_checkpoint else self.kind)


def find(name: str) -> Entry | None:
    """The model of this name, whatever its case; ``qwen3-4b`` is ``qwen3:4b``, as shells split words at colons."""
    return _BY_NAME.get(_plain(name))


def find_with_type(name: str) -> tuple[Entry, str | None] | None:
    """The model that ``name`` means, and the type that follows after a colon: ``qwen3:4b``, ``qwen3:4b:Q8_0``."""
    if entry := find(name):
        return entry, None
    short, _, kind = name.rpartition(":")
    entry = find(short) if short else None
    return (entry, kind) if entry else None


def completions(incomplete: str) -> list[str]:
    """The names that begin so, as a shell can complete them."""
    return [name for name in _BY_NAME if name.startswith(_plain(incomplete))]


def similar(name: str) -> list[str]:
    """Names that begin with the same family, such as those of ``qwen3``."""
    return [entry.name for entry in ENTRIES if _plain(entry.name).startswith(_plain(name) + "-")] if name else []


def _plain(name: str) -> str:
    return name.lower().replace(":", "-")


_ALPACA = "ggml-model-q4_k.gguf"
"""The Chinese-Alpaca repositories have a second Q4_K, made with an importance matrix, so that the file is named."""

ENTRIES = tuple(
    Entry(*row)
    for row in (
        # Chinese-LLaMA-Alpaca, by the joint laboratory of HIT and iFLYTEK
        ("chinese-alpaca-2-1.3b", "hfl/chinese-alpaca-2-1.3b-gguf", _ALPACA, 0.8, 1.3, "apache-2.0"),
        ("chinese-alpaca-2-1.3b-rlhf", "hfl/chinese-alpaca-2-1.3b-rlhf-gguf", _ALPACA, 0.8, 1.3, "apache-2.0"),
        ("chinese-alpaca-2-7b", "hfl/chinese-alpaca-2-7b-gguf", _ALPACA, 4.2, 6.9, "apache-2.0"),
        ("chinese-alpaca-2-7b-16k", "hfl/chinese-alpaca-2-7b-16k-gguf", _ALPACA, 4.2, 6.9, "apache-2.0"),
        ("chinese-alpaca-2-7b-64k", "hfl/chinese-alpaca-2-7b-64k-gguf", _ALPACA, 4.2, 6.9, "apache-2.0"),
        ("chinese-alpaca-2-7b-rlhf", "hfl/chinese-alpaca-2-7b-rlhf-gguf", _ALPACA, 4.2, 6.9, "apache-2.0"),
        ("chinese-alpaca-2-13b", "hfl/chinese-alpaca-2-13b-gguf", _ALPACA, 8.0, 13.3, "apache-2.0"),
        ("chinese-alpaca-2-13b-16k", "hfl/chinese-alpaca-2-13b-16k-gguf", _ALPACA, 8.0, 13.3, "apache-2.0"),
        ("llama-3-chinese:8b", "hfl/llama-3-chinese-8b-instruct-v3-gguf", "Q4_K_M", 4.9, 8.0, "llama3"),
        ("atom:7b", "FlagAlpha/Atom-7B-Chat", CHECKPOINT, 14.0, 7.0, "apache-2.0"),
        # Qwen
        ("qwen3:0.6b", "Qwen/Qwen3-0.6B-GGUF", "Q8_0", 0.64, 0.6, "apache-2.0"),
        ("qwen3:1.7b", "Qwen/Qwen3-1.7B-GGUF", "Q8_0", 1.8, 1.7, "apache-2.0"),
        ("qwen3:4b", "Qwen/Qwen3-4B-GGUF", "Q4_K_M", 2.5, 4.0, "apache-2.0"),
        ("qwen3:8b", "Qwen/Qwen3-8B-GGUF", "Q4_K_M", 5.0, 8.2, "apache-2.0"),
        ("qwen3:14b", "Qwen/Qwen3-14B-GGUF", "Q4_K_M", 9.0, 14.8, "apache-2.0"),
        ("qwen3:32b", "Qwen/Qwen3-32B-GGUF", "Q4_K_M", 19.8, 32.8, "apache-2.0"),
        ("qwen3:30b-a3b", "Qwen/Qwen3-30B-A3B-GGUF", "Q4_K_M", 18.6, 30.5, "apache-2.0"),
        ("qwen3-2507:4b", "unsloth/Qwen3-4B-Instruct-2507-GGUF", "Q4_K_M", 2.5, 4.0, "apache-2.0"),
        ("qwen2.5:0.5b", "Qwen/Qwen2.5-0.5B-Instruct-GGUF", "Q4_K_M", 0.49, 0.5, "apache-2.0"),
        ("qwen2.5:1.5b", "Qwen/Qwen2.5-1.5B-Instruct-GGUF", "Q4_K_M", 1.1, 1.5, "apache-2.0"),
        ("qwen2.5:3b", "Qwen/Qwen2.5-3B-Instruct-GGUF", "Q4_K_M", 2.1, 3.1, "qwen-research"),
        ("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct-GGUF", "Q4_K_M", 4.7, 7.6, "apache-2.0"),
        ("qwen2.5:14b", "Qwen/Qwen2.5-14B-Instruct-GGUF", "Q4_K_M", 9.0, 14.8, "apache-2.0"),
        ("qwen2.5:32b", "Qwen/Qwen2.5-32B-Instruct-GGUF", "Q4_K_M", 19.9, 32.8, "apache-2.0"),
        ("qwen2.5-coder:7b", "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF", "Q4_K_M", 4.7, 7.6, "apache-2.0"),
        # Llama
        ("llama2:7b", "TheBloke/Llama-2-7B-Chat-GGUF", "Q4_K_M", 4.1, 6.7, "llama2"),
        ("llama2:13b", "TheBloke/Llama-2-13B-chat-GGUF", "Q4_K_M", 7.9, 13.0, "llama2"),
        ("llama3:8b", "bartowski/Meta-Llama-3-8B-Instruct-GGUF", "Q4_K_M", 4.9, 8.0, "llama3"),
        ("llama3.1:8b", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "Q4_K_M", 4.9, 8.0, "llama3.1"),
        ("llama3.2:1b", "bartowski/Llama-3.2-1B-Instruct-GGUF", "Q4_K_M", 0.81, 1.2, "llama3.2"),
        ("llama3.2:3b", "bartowski/Llama-3.2-3B-Instruct-GGUF", "Q4_K_M", 2.0, 3.2, "llama3.2"),
        ("llama3.3:70b", "bartowski/Llama-3.3-70B-Instruct-GGUF", "Q4_K_M", 42.5, 70.6, "llama3.3"),
        # Yi, GLM
        ("yi1.5:6b", "bartowski/Yi-1.5-6B-Chat-GGUF", "Q4_K_M", 3.7, 6.1, "apache-2.0"),
        ("yi1.5:9b", "bartowski/Yi-1.5-9B-Chat-GGUF", "Q4_K_M", 5.3, 8.8, "apache-2.0"),
        ("yi1.5:34b", "bartowski/Yi-1.5-34B-Chat-GGUF", "Q4_K_M", 20.7, 34.4, "apache-2.0"),
        ("glm4:9b", "bartowski/THUDM_GLM-4-9B-0414-GGUF", "Q4_K_M", 6.2, 9.4, "mit"),
        # others
        ("gemma3:4b", "ggml-org/gemma-3-4b-it-GGUF", "Q4_K_M", 2.5, 3.9, "gemma"),
        ("gpt-oss:20b", "ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b-mxfp4.gguf", 12.1, 20.9, "apache-2.0"),
        ("deepseek-r1:7b", "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF", "Q4_K_M", 4.7, 7.6, "mit"),
        ("phi4:14b", "bartowski/phi-4-GGUF", "Q4_K_M", 9.1, 14.7, "mit"),
    )
)

_BY_NAME = {_plain(entry.name): entry for entry in ENTRIES}
