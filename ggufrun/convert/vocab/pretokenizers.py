"""Splitting rules of published tokenizers, and what llama.cpp calls them. Data only; ``splitting`` reads it.

Sources: the tokenizer.json files that the models were published with, the names and regular expressions in
``src/llama-vocab.cpp``, and the choice among names of one meaning in ``conversion/base.py`` of the pinned llama.cpp.
Regular expressions stand in the canonical spelling that ``splitting.canonical_regex`` gives them.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"
SYMBOLS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
CODE_OR_WORD = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|"
)
CJK_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
CJK_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
NOT_STOPS = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
CASED_LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-"
    "\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d"
    "\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00"
    "-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-"
    "\U000118df\U0001e900-\U0001e943"
)
"""Letters that have case, in the writing systems DeepSeek's first tokenizer knows."""

SPACE = "\u2581"
BYTES, GPT2, DIGITS = "ByteLevel", "ByteLevel regex", "Digits individual"
LLAMA3 = f"Split {CONTRACTIONS}|{WORD}|\\p{{N}}{{1,3}}|{SYMBOLS}|{SPACES}"
QWEN2 = f"Split {CONTRACTIONS}|{WORD}|\\p{{N}}|{SYMBOLS}|{SPACES}"
QWEN35 = f"Split {CONTRACTIONS}" r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPACES
BAILING = rf"Split {CONTRACTIONS}|{WORD}|\p{{N}}|{SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+"
GPT4O = f"Split {CASED % (CONTRACTIONS + '?', CONTRACTIONS + '?')}|\\p{{N}}{{1,3}}|{SYMBOLS_SLASH}|{SPACES}"
TEKKEN = f"Split {CASED % ('', '')}|\\p{{N}}|{SYMBOLS_SLASH}|{SPACES}"
NOT_HAN = CASED.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]")
# as llama.cpp's source has it
YOUTU = (
    "Split [\uac00-\ud7a3\u3131-\u318e]+|"
    "[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|"
    f"[\u3105-\u312f]+|{CJK_KANA}",
    f"Split {CASED % (CONTRACTIONS + '?', CONTRACTIONS + '?')}|\\p{{N}}|{SYMBOLS_SLASH}|{SPACES}",
)
KIMI = rf"Split [\p{{Han}}]+|{NOT_HAN % (CONTRACTIONS + '?', CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{SYMBOLS}|{SPACES}"


@dataclass(frozen=True)
class Rule:
    """A name, and the steps it stands for.

    Where several names mean the same steps, the first row counts whose other conditions hold: whether words that are
    whole tokens skip the merges, whether text is brought to NFC, architectures in config.json, a token there must be.
    """

    name: str
    steps: tuple[str, ...]
    ignore_merges: bool | None = None
    nfc: bool | None = None
    architectures: tuple[str, ...] = ()
    token: str = ""


GLM = (
    "ChatGLMModel",
    "ChatGLMForConditionalGeneration",
    "GlmForCausalLM",
    "Glm4ForCausalLM",
    "Glm4MoeForCausalLM",
    "Glm4MoeLiteForCausalLM",
    "Glm4vForConditionalGeneration",
    "Glm4vMoeForConditionalGeneration",
    "GlmMoeDsaForCausalLM",
)

RULES = (
    Rule("phi-2", (GPT2,), architectures=("PhiForCausalLM",)),
    Rule("jais", (GPT2,), architectures=("JAISLMHeadModel",)),
    Rule("exaone4", (GPT2,), architectures=("Exaone4ForCausalLM",)),
    Rule("olmo", (GPT2,), architectures=("GPTNeoXForCausalLM", "OlmoForCausalLM", "MPTForCausalLM")),
    Rule("olmo", (GPT2,), nfc=True),
    Rule("gpt-2", (GPT2,)),
    Rule("command-r", (DIGITS, GPT2), architectures=("CohereForCausalLM", "Cohere2ForCausalLM")),
    Rule("starcoder", (DIGITS, GPT2), architectures=("Starcoder2ForCausalLM",)),
    Rule("exaone", (DIGITS, GPT2), architectures=("ExaoneForCausalLM",)),
    Rule("codeshell", (DIGITS, GPT2), architectures=("CodeShellForCausalLM",)),
    Rule("minerva-7b", (DIGITS, GPT2), architectures=("MistralForCausalLM",)),
    Rule("refact", (DIGITS, GPT2), token="<fim_prefix>"),
    Rule("refact", (DIGITS, GPT2), architectures=("GraniteForCausalLM", "GraniteMoeForCausalLM")),
    Rule("command-r", (DIGITS, GPT2), nfc=True),
    Rule("smollm", (DIGITS, GPT2), architectures=("LlamaForCausalLM",)),
    Rule("starcoder", (DIGITS, GPT2)),
    Rule("smaug-bpe", (LLAMA3, BYTES), ignore_merges=False, architectures=("SmolLM3ForCausalLM",)),
    Rule("chatglm-bpe", (LLAMA3, BYTES), ignore_merges=False, architectures=GLM),
    Rule("glm4", (LLAMA3, BYTES), ignore_merges=True, architectures=GLM),
    Rule("lfm2", (LLAMA3, BYTES), ignore_merges=True, architectures=("Lfm2ForCausalLM", "Lfm2MoeForCausalLM")),
    Rule("llama-bpe", (LLAMA3, BYTES), ignore_merges=True),
    Rule("dbrx", (LLAMA3, BYTES)),
    Rule("stablelm2", (QWEN2, BYTES), architectures=("StableLmForCausalLM",)),
    Rule("deepseek-r1-qwen", (QWEN2, BYTES), token="<｜begin▁of▁sentence｜>"),
    Rule("hunyuan", (QWEN2, BYTES), architectures=("HunYuanMoEV1ForCausalLM",)),
    Rule("qwen2", (QWEN2, BYTES)),
    Rule("qwen35", (QWEN35, BYTES)),
    Rule("llama4", (GPT4O, BYTES), architectures=("Llama4ForConditionalGeneration", "Llama4ForCausalLM")),
    Rule("minimax-m2", (GPT4O, BYTES), architectures=("MiniMaxM2ForCausalLM",)),
    Rule("gpt-4o", (GPT4O, BYTES)),
    Rule("kimi-k2", (KIMI, BYTES)),
    Rule("youtu", (*YOUTU, BYTES)),
    Rule("tekken", (TEKKEN, BYTES)),
    Rule(
        "deepseek-llm",
        (
            r"Split [\r\n]",
            rf"Split \s?[{CASED_LETTERS}]+",
            "Split \\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
            r"Split \s+$",
            f"Split {CJK_HANGUL}",
            DIGITS,
            BYTES,
        ),
    ),
    Rule(
        "deepseek-coder",
        (r"Split [\r\n]", r"Split \s?\p{L}+", r"Split \s?\p{P}+", f"Split {CJK_HANGUL}", DIGITS, BYTES),
    ),
    Rule(
        "hunyuan-dense",
        (r"Split \p{N}{1,3}", f"Split {CJK_KANA}", f"Split {CODE_OR_WORD}{SPACES}", BYTES),
        architectures=("HunYuanDenseV1ForCausalLM", "HunYuanVLForConditionalGeneration"),
    ),
    Rule("deepseek-v3", (r"Split \p{N}{1,3}", f"Split {CJK_KANA}", f"Split {CODE_OR_WORD}{SPACES}", BYTES)),
    Rule("falcon", ("Punctuation Contiguous", GPT2, "Digits", "Split [0-9][0-9][0-9]")),
    Rule("viking", (f"Split {NOT_STOPS}", DIGITS, BYTES)),
    Rule("bloom", (f"Split {NOT_STOPS}", BYTES)),
    Rule(
        "seed-coder",
        (rf"Split {CONTRACTIONS}|{WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}", BYTES),
    ),
    Rule("bailingmoe2", (BAILING, BYTES), architectures=("BailingMoeV2ForCausalLM",)),
    Rule("bailingmoe", (BAILING, BYTES)),
    Rule("minicpm5", (r"Split \p{N}{1,3}", rf"Split {CONTRACTIONS}|{WORD}|\p{{N}}+|{SYMBOLS}|{SPACES}", BYTES)),
    Rule("ufakzeka", (rf"Split {WORD}|\p{{N}}|{SYMBOLS}|{SPACES}", BYTES)),
    Rule("laguna", (r"Split [^\n]+|[\n]+", QWEN2, BYTES)),
)

BEGINS = ("falcon-h1", "falcon3", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0", "pixtral", "tekken")
"""Names with which llama.cpp puts BOS in front of a text unless the file says otherwise."""

MARKS, CASED_BEYOND_ASCII = "combining marks", "letters beyond ASCII that have case"
CAPITALS_WITHIN = "capitals within words"
APPROXIMATE = {
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "tekken"), (MARKS, CASED_BEYOND_ASCII)),
    "kimi-k2": (MARKS, CAPITALS_WITHIN),
    "youtu": (MARKS, CASED_BEYOND_ASCII, CAPITALS_WITHIN),
}
"""Names whose splitting llama.cpp only imitates, and where it goes wrong: its expressions cannot say \\p{Lu}."""

NAMES = (
    "a.x-4.0", "afmoe", "bailingmoe", "bailingmoe2", "bloom", "chameleon", "chatglm-bpe", "codeshell", "cohere2moe",
    "command-r", "dbrx", "deepseek-coder", "deepseek-llm", "deepseek-r1-qwen", "deepseek-v3", "default", "exaone",
    "exaone-moe", "exaone4", "f2llmv2", "falcon", "falcon-h1", "falcon3", "gigachat", "glm4", "glm5", "gpt-2",
    "gpt-4o", "gpt3-finnish", "granite-docling", "granite-embed-multi-97m", "grok-2", "hunyuan", "hunyuan-dense",
    "hy_v4", "jais", "jais-2", "jina-de", "jina-es", "jina-v1-en", "jina-v2-code", "jina-v2-de", "jina-v2-es",
    "jina-v5-nano", "joyai-llm", "kanana2", "kimi-k2", "kormo", "laguna", "lfm2", "llada-moe", "llama-bpe",
    "llama-v3", "llama3", "llama4", "megrez", "mellum", "mellum2", "midm-2.0", "minerva-7b", "minicpm5",
    "minimax-m2", "modern-bert", "mpt", "olmo", "phi-2", "pixtral", "poro-chat", "qwen2", "qwen35", "refact",
    "roberta-bpe", "seed-coder", "smaug-bpe", "smollm", "solar-open", "spark2_5", "stablelm2", "starcoder",
    "superbpe", "talkie", "tekken", "tiny_aya", "trillion", "ufakzeka", "viking", "youtu",
)  # fmt: skip
"""Every name that the pinned llama.cpp knows for byte-level BPE."""
