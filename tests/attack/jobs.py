"""What is run on a changed model: every command that gives it to the engine, as short as it goes."""

from __future__ import annotations

TEXT = "hi there, she has the tea: " * 12
"""What is measured on: long enough for a chunk of every vocabulary."""

LONG = "0xDEADbeef" * 100 + "静夜思" * 10_000 + "a" * 30_000
"""Runs that no page has, but a file of base64 or of measurements does: longer than the usual stack is deep."""

JOBS: dict[str, tuple[str, ...]] = {
    "complete": ("complete", "MODEL", "-p", "hi <s> the", "-n", "3", "-t", "1", "--temp", "0"),
    "pieces": ("complete", "MODEL", "-p", "hi", "-n", "2", "-t", "1", "-c", "64", "-ub", "8", "-fa", "off"),
    "chat": ("chat", "MODEL", "-p", "hi there", "-n", "3", "-t", "1", "-c", "128", "--session", "session.json"),
    "template": ("chat", "MODEL", "-p", "hi", "-n", "2", "-t", "1", "-c", "96", "--style", "alpaca", "--no-mmap"),
    "grammar": ("complete", "MODEL", "-p", "hi", "-n", "3", "-t", "1", "-c", "64", "--grammar", 'root ::= "a" [b-z]*'),
    "draft": ("complete", "MODEL", "-p", "hi", "-n", "4", "-t", "1", "-c", "64", "-md", "SOUND"),
    "drafting": ("complete", "SOUND", "-p", "hi", "-n", "4", "-t", "1", "-c", "64", "-md", "MODEL"),
    "long": ("complete", "MODEL", "-f", "LONG", "-n", "1", "-t", "1", "-c", "64"),
    "lora": ("complete", "SOUND", "-p", "hi", "-n", "2", "-t", "1", "-c", "64", "--lora", "MODEL"),
    "bench": ("bench", "MODEL", "-p", "5", "-n", "2", "-r", "1", "-t", "1"),
    "perplexity": ("perplexity", "MODEL", "-f", "TEXT", "--chunks", "1", "-c", "16", "-t", "1"),
    "imatrix": ("imatrix", "MODEL", "-f", "TEXT", "--chunks", "1", "-c", "16", "-t", "1", "-o", "out.imatrix.gguf"),
    "compare": ("compare", "SOUND", "MODEL", "-f", "TEXT", "--chunks", "1", "-c", "16", "-t", "1"),
    "inspect": ("inspect", "MODEL", "--tensors"),
    "fit": ("inspect", "MODEL", "--fit", "-c", "64"),
    "verify": ("verify", "MODEL"),
    "doctor": ("doctor", "MODEL"),
    "quantize": ("quantize", "MODEL", "q4_k_m", "-o", "out.gguf", "--force"),
    "requantize": ("quantize", "MODEL", "q8_0", "-o", "out.gguf", "--force", "--pure"),
}

WEIGHTS: dict[str, int] = {"long": 1, "complete": 6, "chat": 4, "inspect": 3, "doctor": 1, "draft": 1, "drafting": 1}
"""How often each is chosen; the others twice."""

ADAPTERS = ("lora",)
"""Jobs whose changed file is an adapter of the sound model."""
