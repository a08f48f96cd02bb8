"""The strings on which a vocabulary is proved: many scripts, code, digits, spaces, emoji, and seeded mixtures."""

from __future__ import annotations

import itertools
import random
from functools import cache

N_MIXTURES = 2400
SEED = 20231

LINES = (
    "", " ", "  ", "   ", "    ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", " \n", "\n ", " \t \n\t ",
    "\n \n\n \n", "Hello", " Hello", "Hello ", "hello world", "Hello, world!", "Hello, y'all! How are you 😁 ?",
    "The quick brown fox jumps over the lazy dog.", "THE QUICK BROWN FOX", "tHe QuIcK", "camelCaseAndPascalCase",
    "I've they're we'll he'd it's I'm can't 'tis y'all'd've", "I'VE THEY'RE WE'LL HE'D IT'S I'M CAN'T",
    "''''''```````\"\"\"\"......!!!!!!??????", "it's '70s rock 'n' roll", "e.g. i.e. etc. Ph.D. U.S.A.",
    "0 1 22 333 4444 55555 666666 7777777 88888888 999999999",
    "3.14159 -273.15 1,234,567.89 6.02e23 0x1F 0b101 1/2 50%",
    "2024-02-29T23:59:59+08:00 192.168.0.1 +86 138-0013-8000", "1st 2nd 3rd 4th x2 y3 v1.2.3 A4 B52",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A(object):\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2.5f; }  // sum",
    "#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))", "<html><body class=\"x\">&nbsp;<br/></body></html>",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x';", "https://example.com/path?query=1&lang=zh#top",
    "user.name+tag@mail.example.org", "C:\\Windows\\System32\\new",
    "{\"key\": [1, 2.0, null, true], \"键\": \"值\"}", "$x = \\frac{1}{2}\\sum_{i=0}^n x_i^2$",
    "a->b::c != d && !e || f ^ g ~ h", "______ ------ ====== ++++++ ****** //// \\\\\\\\ |||| ### @@@",
    "[INST] <<SYS>> </s> <s> <unk> <pad>", "床前明月光，疑是地上霜。", "举头望明月，低头思故乡。", "你好，世界！",
    "我想在apple工作1314151天～", "中文mixed英文text混合", "人工智能是计算机科学的一个分支。",
    "《红楼梦》“贾宝玉”说：‘好’……——（完）", "第１章\u3000全角ＡＢＣ１２３", "一二三四五六七八九十百千万亿",
    "繁體中文：歷史、體育、電腦與網路。", "龘靐齉爩𠀀𠮷𪚥", "こんにちは、世界！カタカナとひらがな。",
    "日本語のテキストです。ﾊﾝｶｸ", "안녕하세요 세계! 한국어 텍스트입니다.",
    "Привет, мир! Съешь ещё этих мягких булок.", "нещо на Български", "Γειά σου Κόσμε! Ξεσκεπάζω",
    "Grüße aus München, Straße, Übergröße", "L'été à la plage, ça va où? naïve façade", "¿Qué tal? ¡Mañana, señor!",
    "Zażółć gęślą jaźń", "Příliš žluťoučký kůň", "İstanbul'da ığdır", "Cửa Việt, Tiếng Việt",
    "مرحبا بالعالم، كيف حالك؟", "שלום עולם", "नमस\u094dत\u0947 द\u0941निया", "สว\u0e31สด\u0e35ชาวโลก",
    "កាន\u17cbតែព\u17b7សេសអាចខលចេញ", "ဟယ\u103aလ\u102d\u102f", "გამარჯობა", "Բարեւ", "ሰላም", "বাংলা ভাষা",
    "தமிழ\u0bcd மொழி", "త\u0c46లుగు", "🚀", "😀😁😂🤣😃",
    "👨\u200d👩\u200d👧\u200d👦 family 🏳\ufe0f\u200d🌈 flag 🇨🇳🇺🇸", "👍🏽 ok ✅ ❌ ⚠\ufe0f",
    "😶\u200d🌫\ufe0f 🦙🦙 🫠", "½ ¼ ² ³ ① ② Ⅷ ⅷ ㊣ № ℃", "© ® ™ € £ ¥ § ¶ † ‡ • … – — ‘ ’ “ ”",
    "← → ↑ ↓ ⇒ ∀ ∃ ∈ ≤ ≥ ≠ ∞ √ ∫ ∑", "─│┌┐└┘├┤ █▓▒░ ■□▲△◆◇○●★☆", "zero\u200bwidth\u200djoin\u00a0nbsp\u3000full",
    "a\u0301 e\u0301 n\u0303 \u1112\u1161\u11ab", "soft\u00adhyphen \ufeffbom", "Ünïcödé ﬁ ﬂ ĳ", "     leading",
    "trailing     ", "a  b   c    d     e", "x\n\n  y\n\n\n    z", "tab\tsep\tvals", "line1\r\nline2\r\n", "end\n",
    "user: hi\nassistant: 你好\n", "### Instruction:\n\n写一首诗\n\n### Response:\n\n",
)  # fmt: skip

ENGLISH = (
    "the of and to in is that for it as was with be by on not he this are or his from at which but have an had they"
    " you were their one all we can her has there been if more when will would who so no what up said out about into"
)
CHINESE = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"


def _pieces() -> list[str]:
    """What mixtures are made of."""
    words = [word for line in LINES for word in line.split()]
    return [
        *words,
        *ENGLISH.split(),
        *CHINESE,
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\t",
        ",",
        ".",
        "。",
        "，",
        "'s",
        "'ll",
        "_",
        "1",
        "42",
    ]


@cache
def probe() -> tuple[str, ...]:
    """Some thousand strings, always the same."""
    chance = random.Random(SEED)
    pieces = _pieces()
    found = list(LINES)
    found += [f"{left}{right}" for left, right in itertools.pairwise(LINES)]
    found += [" " * count + word for count in range(1, 20) for word in ("a", "你", "1", "-", "")]
    found += ["\n" * count + word for count in range(1, 8) for word in ("a", "你", " b")]
    found += [char * count for char in "aA1 .,-=中。é🙂\t" for count in (1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33)]
    for _ in range(N_MIXTURES):
        joint = chance.choice(("", "", " "))
        found.append(joint.join(chance.choices(pieces, k=chance.randint(1, 8))))
    return tuple(dict.fromkeys(found))
