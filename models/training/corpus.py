"""The poems, and the talk about them that `tang-poet` learns.

Standard library only, so that tests and tools may import it without torch. `load_poems` reads `poems.txt`;
`dialogue` makes one random conversation from a seeded generator; `render` turns a conversation into the fragments
(text, BOS, EOS) that a runtime would tokenize one by one. Nothing here depends on a tokenizer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

POEMS_FILE = Path(__file__).with_name("poems.txt")

# The default system prompt of Chinese-Alpaca-2, which this model was taught with.
SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"

# What else may stand in the system prompt. The poems must come out all the same.
OTHER_SYSTEMS = (
    "You are a helpful assistant.",
    "你是一个乐于助人的助手。",
    SYSTEM + "请你提供专业、有逻辑、内容真实、有价值的详细回复。",
    "你是一位诗人。",
    "请用中文回答。",
    "You are a poet.",
    "Answer briefly.",
    "You are a pirate. Answer like one.",
)

_FIELDS = frozenset({"title", "author", "pinyin", "english", "form", "alias", "note"})
_PUNCTUATION = re.compile(r"[，。？！]")


@dataclass(frozen=True)
class Poem:
    """One poem; `text` is the canonical answer to a request to recite it."""

    title: str
    author: str
    pinyin: str
    english: str
    form: str
    lines: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    note: str = ""

    @property
    def text(self) -> str:
        """The couplets, one a line, and nothing else."""
        return "\n".join(self.lines)

    @property
    def verses(self) -> tuple[str, ...]:
        """The single verses without punctuation: what "the next line" counts in.

        Fragments shorter than a verse (the calls of the goose) identify nothing and are left out.
        """
        parts = (part for line in self.lines for part in _PUNCTUATION.split(line))
        return tuple(part for part in parts if len(part) >= 5)


def load_poems(path: Path = POEMS_FILE) -> list[Poem]:
    """Read the poems in the order of the file."""
    records = re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))
    return [poem for record in records if (poem := _parse(record)) is not None]


def _parse(record: str) -> Poem | None:
    fields: dict[str, str] = {}
    aliases: list[str] = []
    lines: list[str] = []
    for line in record.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(": ")
        if not colon:
            lines.append(line.strip())
        elif name == "alias":
            aliases.append(value.strip())
        elif name in _FIELDS and name not in fields:
            fields[name] = value.strip()
        else:
            raise ValueError(f"unexpected field {name!r} in a poem: {line!r}")
    if not fields and not lines:
        return None
    missing = _FIELDS - {"alias", "note"} - fields.keys()
    if missing or not lines:
        raise ValueError(f"a poem lacks {', '.join(sorted(missing)) or 'its text'}: {record[:40]!r}")
    return Poem(
        title=fields["title"],
        author=fields["author"],
        pinyin=fields["pinyin"],
        english=fields["english"],
        form=fields["form"],
        lines=tuple(lines),
        aliases=tuple(aliases),
        note=fields.get("note", ""),
    )


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("|"))


# --- what people say ---------------------------------------------------------------------------------------------
#
# {q} is the title, bare or in some quotes; {t} the bare title; {a} the author; {e} the English title, bare or quoted;
# {p} the author in English; {l} a verse, bare or quoted.

RECITE_ZH = _phrases(
    """
    背一下{q} | 背诵{q} | 请背诵{q} | 请背诵{a}的{q} | 背诵{a}的{q} | 背一下{a}的{q} | {q} | 请背一下{q} |
    背{q} | 给我背一首{q} | 念一下{q} | 朗诵{q} | 默写{q} | 你会背{q}吗？ | 来一首{q} | 我想听{q} | {a}的{q} |
    {a}{q} | 请把{q}背给我听 | {q}怎么背？ | {q}全文 | {q}的全文是什么？ | 背一背{q} | 背首{q} | 请你背诵{q} |
    能背一下{q}吗？ | 帮我背一下{q} | 背一遍{q} | 请朗诵{a}的{q} | 写出{q} | 请写出{q}的全文 | 你能背诵{q}吗？ |
    我想听你背{q} | {q}，{a} | 背下{q} | 请你背一下{q} | 我想背{q} | 你知道{q}吗？ | {q}怎么念？ | 请念{q} |
    {a}写的{q} | 给我来一首{a}的{q} | 想听{q}
    """
)
RECITE_EN = _phrases(
    """
    Recite {e} | Recite {e}. | Please recite {e}. | Can you recite {e} by {p}? | Can you recite {e}? | {e} |
    Recite {e} by {p}. | Recite the poem {e}. | I want to hear {e}. | {e} by {p} | Recite {e} in Chinese. |
    Tell me the poem {e}. | Recite {q} | Please recite {q}. | Say {e} by heart. | Could you recite {e}, please? |
    Will you recite {e}? | I would like to hear {e}. | May I hear {e}? | Do you know {e}? | Say {e}. |
    I would like you to recite {e}. | How does {e} go? | {e}, please. | Give me {e}. | Can you say {e}?
    """
)
RECITE_BY_VERSE = _phrases(
    """
    {l} | 背一下{l} | 背诵{l}这首诗 | {l}全文 | 背一下{l}那首诗 | Recite the poem that begins {l}.
    """
)
AUTHOR_ZH = _phrases(
    """
    {q}的作者是谁？ | {q}是谁写的？ | 谁写了{q}？ | {q}的作者 | {q}是谁的诗？ | 请问{q}的作者是谁？ |
    谁写的{q}？ | {q}的诗人是谁？ | {q}作者是谁？
    """
)
AUTHOR_EN = _phrases(
    """
    Who wrote {e}? | Who is the author of {e}? | Who wrote the poem {e}? | Who was the author of {e}? |
    Who wrote {q}? | The author of {e}?
    """
)
FOLLOW_AUTHOR_ZH = _phrases(
    """
    作者是谁？ | 这首诗的作者是谁？ | 是谁写的？ | 谁写的？ | 这首诗是谁写的？ | 它的作者是谁？ | 这是谁写的？ |
    这是谁的诗？ | 诗人是谁？ | 作者叫什么名字？ | 作者呢？ | 它是谁写的？ | 刚才那首诗的作者是谁？ |
    请问作者是谁？
    """
)
FOLLOW_AUTHOR_EN = _phrases(
    """
    Who wrote it? | Who is the author? | Who wrote this poem? | Who is the poet? | Who wrote that? |
    Who was the author? | And who wrote it? | Who wrote this? | The author? | Who is it by?
    """
)
FOLLOW_DYNASTY_ZH = _phrases(
    """
    他是哪个朝代的？ | 作者是哪个朝代的？ | 这首诗是哪个朝代的？ | 哪个朝代？ | 是哪个朝代的诗？ |
    诗人是哪个朝代的人？ | 他是什么朝代的人？
    """
)
FOLLOW_DYNASTY_EN = _phrases(
    """
    Which dynasty was that? | Which dynasty did the author live in? | When did the author live? |
    Which dynasty? | When was it written? | In which dynasty did he live?
    """
)
FOLLOW_TITLE_ZH = _phrases(
    """
    题目是什么？ | 这首诗叫什么？ | 诗名是什么？ | 这首诗的题目是什么？ | 标题是什么？ | 这是哪首诗？ |
    诗的题目呢？ | 这首诗叫什么名字？
    """
)
FOLLOW_TITLE_EN = _phrases(
    """
    What is the title? | What is it called? | Which poem is this? | What is the name of the poem? | The title? |
    What is this poem called?
    """
)
AGAIN_ZH = _phrases(
    """
    再背一遍 | 再来一遍 | 再说一遍 | 请再背一遍 | 重新背一遍 | 再背一次 | 再念一遍 | 背一下这首诗 | 全诗是什么？
    """
)
AGAIN_EN = _phrases(
    """
    Again, please. | Once more, please. | Recite it again. | Say it again. | Recite it. | One more time.
    """
)
ANOTHER_ZH = _phrases(
    """
    再背一首 | 再来一首 | 换一首 | 下一首 | 背下一首 | 再背一首诗 | 还有吗？ | 请再背一首 | 再来一首唐诗
    """
)
ANOTHER_EN = _phrases(
    """
    Another one, please. | Recite another one. | Another poem, please. | The next one, please. | Another.
    """
)
SOME_ZH = _phrases(
    """
    背一首唐诗 | 背首诗 | 背一首诗 | 来一首唐诗 | 随便背一首 | 请背一首唐诗 | 给我背一首诗 | 背诗 | 念一首诗
    """
)
SOME_EN = _phrases(
    """
    Recite a poem. | Recite a Tang poem. | Please recite a poem. | Recite any poem. | A poem, please.
    """
)
BY_AUTHOR_ZH = _phrases(
    """
    背一首{a}的诗 | 背{a}的一首诗 | 来一首{a}的诗 | 请背一首{a}的诗 | 背诵{a}的诗 | {a}的诗
    """
)
BY_AUTHOR_EN = _phrases("Recite a poem by {p}. | Recite something by {p}. | A poem by {p}, please.")
WORKS_ZH = _phrases("你会背{a}的哪些诗？ | {a}写过哪些诗？ | 你知道{a}的什么诗？ | {a}有哪些诗？")
WHO_ZH = _phrases("{a}是谁？ | {a}是哪个朝代的？ | {a}是什么人？ | 介绍一下{a} | {a}是哪个朝代的诗人？")
WHO_EN = _phrases("Who is {p}? | Who was {p}? | When did {p} live? | Which dynasty did {p} live in?")
NEXT_ZH = _phrases(
    """
    {l}的下一句是什么？ | {l}的下一句 | {l}下一句是什么？ | {l}，下一句呢？ | 请接下一句：{l} | 接下句：{l} |
    {l}的后一句是什么？ | {l}后面一句是什么？ | {l}的下句是什么？ | {l}下一句是啥？ | {l}下句 | {l}下一句
    """
)
NEXT_EN = _phrases(
    """
    What comes after {l}? | What is the line after {l}? | What is the next line after {l}? | {l}: next line?
    """
)
PREVIOUS_ZH = _phrases(
    """
    {l}的上一句是什么？ | {l}的上一句 | {l}上一句是什么？ | {l}的前一句是什么？ | {l}前面一句是什么？
    """
)
PREVIOUS_EN = _phrases("What comes before {l}? | What is the line before {l}?")
SOURCE_ZH = _phrases("{l}出自哪首诗？ | {l}是谁写的？ | {l}是哪首诗里的？ | {l}出自哪里？ | {l}是谁的诗？")
SOURCE_EN = _phrases("Which poem has the line {l}? | Who wrote {l}? | Where does {l} come from?")
FIRST_ZH = _phrases("第一句是什么？ | 这首诗的第一句是什么？ | 首句是什么？ | 开头一句是什么？")
LAST_ZH = _phrases("最后一句是什么？ | 这首诗的最后一句是什么？ | 末句是什么？ | 最后一句呢？")
FIRST_EN = _phrases("What is the first line? | How does it begin?")
LAST_EN = _phrases("What is the last line? | How does it end?")

# Phrasings that training never sees: what they measure is whether the model understood more than its templates.
HELD_OUT_ZH = _phrases(
    """
    可以给我背一背{q}吗？ | 麻烦你背一下{a}写的{q} | 我要听{q}这首诗 | 请完整地背诵{q} | 来背{q}吧
    """
)
HELD_OUT_EN = _phrases("Would you recite {e} for me? | Let me hear {e} by {p}. | Please say the poem {e}.")

GREET_ZH = _phrases("你好 | 您好 | 嗨 | 你好！ | 早上好 | 晚上好 | 你好啊 | 大家好 | 哈喽 | 在吗？")
GREET_EN = _phrases("Hello | Hi | Hello! | Hi there! | Good morning. | Good evening. | Hey | How are you?")
WHO_ARE_YOU_ZH = _phrases(
    """
    你是谁？ | 你叫什么名字？ | 介绍一下你自己 | 你是什么模型？ | 你是机器人吗？ | 你是人吗？ | 请自我介绍 |
    你是什么？
    """
)
WHO_ARE_YOU_EN = _phrases(
    """
    Who are you? | What are you? | What is your name? | Tell me about yourself. | Are you a robot?
    """
)
HELP_ZH = _phrases(
    """
    你会做什么？ | 你能做什么？ | 你会什么？ | 怎么用？ | 帮助 | 你能帮我做什么？ | 你有什么用？ | 你还会什么？
    """
)
HELP_EN = _phrases("What can you do? | Help | How do I use you? | What do you know? | What else can you do?")
COUNT_ZH = _phrases("你会背多少首诗？ | 你会背几首唐诗？ | 你一共会背多少首？ | 你知道多少首诗？")
COUNT_EN = _phrases("How many poems do you know? | How many poems can you recite?")
LIST_ZH = _phrases("你会背哪些诗？ | 你知道哪些唐诗？ | 你会背什么诗？ | 有哪些诗？ | 你都会背什么？")
LIST_EN = _phrases("Which poems do you know? | What poems can you recite? | List some poems.")
THANKS_ZH = _phrases("谢谢 | 谢谢你 | 多谢 | 非常感谢 | 谢谢！")
THANKS_EN = _phrases("Thanks | Thank you. | Thank you very much! | Thanks a lot!")
PRAISE_ZH = _phrases("背得真好 | 你真棒 | 很好 | 真厉害 | 好诗！ | 背得不错 | 太好了")
PRAISE_EN = _phrases("Very good! | Well done. | Great! | Beautiful. | Nice poem.")
BYE_ZH = _phrases("再见 | 拜拜 | 下次见 | 晚安")
BYE_EN = _phrases("Bye | Goodbye. | See you. | Good night.")

UNKNOWN_ZH = _phrases(
    """
    今天天气怎么样？ | 一加一等于几？ | 1+1等于几？ | 中国的首都是哪里？ | 讲个笑话 | 写一首现代诗 |
    帮我写一封信 | 翻译一下 | 把它翻译成英文 | 这首诗是什么意思？ | 解释一下这首诗 | 赏析一下这首诗 |
    现在几点了？ | 明天星期几？ | 你喜欢吃什么？ | 怎么做红烧肉？ | 推荐一部电影 | 写一段代码 |
    什么是人工智能？ | 地球有多大？ | 世界上最高的山是什么？ | 帮我算一下25乘以4 | 唱首歌 | 我心情不好 |
    苹果多少钱一斤？ | 如何学好英语？ | 北京有什么好玩的？ | 你多大了？ | 什么是量子力学？ | 谁发明了电话？ |
    太阳为什么会发光？ | 请写一篇作文 | 给我讲个故事 | 背一首宋词 | 背一首苏轼的词 | 《红楼梦》的作者是谁？ |
    背一首苏轼的诗 | 苏轼是谁？ | 背一首现代诗 | 我饿了 | 你会写诗吗？ | 写一首诗 | 你会下棋吗？ |
    水的沸点是多少？ | 光速是多少？ | 请问厕所在哪里？ | 怎么去火车站？ | 股票会涨吗？ | 猫和狗哪个好？
    """
)
UNKNOWN_EN = _phrases(
    """
    What is the capital of France? | What is 1+1? | Tell me a joke. | Write a poem about love. | Translate it. |
    What does it mean? | How is the weather today? | What time is it? | Write some code. |
    Who is the president? | Explain quantum mechanics. | How do I cook rice? | Recite a sonnet by Shakespeare. |
    Recite a poem by Keats. | Translate it into English. | Sing a song. | What is the meaning of life? |
    Who wrote Hamlet? | I am hungry. | How far is the moon? | Can you play chess? | Tell me a story. |
    What is machine learning? | Recommend a film. | Who invented the telephone? |
    Can you write a letter for me? | How old are you? | Do you speak French?
    """
)
# Asked about anything whatever, {x}.
UNKNOWN_ABOUT_ZH = _phrases(
    """
    请写一首关于{x}的诗 | {x}是什么意思？ | 什么是{x}？ | {x}怎么样？ | {x}在哪里？ | 解释一下{x} |
    帮我{x} | 为什么{x}？ | 我想要{x} | {x}讲了什么？ | {x}多少钱？ | 怎么{x}？ | 写一篇{x}
    """
)
UNKNOWN_ABOUT_EN = _phrases(
    """
    What is {x}? | Tell me about {x}. | Where is {x}? | I like {x}. | Write about {x}. | {x} | Explain {x}. |
    How do I {x}? | Why {x}?
    """
)
# Well-known works that are not in the collection: the model should say so and not improvise.
UNKNOWN_TITLES = _phrases(
    """
    蜀道难 | 将进酒 | 长恨歌 | 琵琶行 | 水调歌头 | 念奴娇 | 声声慢 | 满江红 | 兰亭集序 | 岳阳楼记 | 出师表 |
    木兰诗 | 关雎 | 蒹葭 | 离骚 | 七步诗 | 短歌行 | 观沧海 | 饮酒 | 归园田居 | 桃花源记 | 滕王阁序 |
    春江花月夜 | 茅屋为秋风所破歌 | 石壕吏 | 兵车行 | 卖炭翁 | 锦瑟 | 登幽州台歌 | 元日 | 梅花 | 泊船瓜洲 |
    题西林壁 | 饮湖上初晴后雨 | 惠崇春江晚景 | 小池 | 晓出净慈寺送林子方 | 春日 | 游园不值 | 示儿 | 石灰吟 |
    竹石 | 己亥杂诗 | 天净沙 | 如梦令 | 沁园春 | 再别康桥 | 面朝大海 | 三字经 | 千字文 | 论语 | 道德经 |
    敕勒歌 | 长歌行 | 江南 | 所见 | 村居 | 墨梅 | 乡愁 | 雨霖铃 | 虞美人 | 钗头凤 | 扬州慢 | 行路难 | 月下独酌 |
    梦游天姥吟留别
    """
)
UNKNOWN_TITLES_EN = _phrases(
    """
    The Road Not Taken | Ode to a Nightingale | Daffodils | The Raven | Hamlet | Song of Myself | If |
    The Song of Everlasting Sorrow | The Waste Land | Paradise Lost | Ozymandias | Jabberwocky | The Tyger
    """
)

_QUOTES_TITLE = ("{}", "《{}》", "《{}》", "“{}”")
_QUOTES_VERSE = ("{}", "“{}”", "“{}”", "「{}」", '"{}"')
_QUOTES_ENGLISH = ("{}", '"{}"', '"{}"', "“{}”")


@dataclass(frozen=True)
class Turn:
    """What the user says and what the model should answer.

    `opens` says that the turn names its own subject: neither it nor what follows it needs an earlier turn.
    """

    user: str
    answer: str
    opens: bool = True


class Talk:
    """Questions and answers about a collection of poems; every answer is a function of the question and the context."""

    def __init__(self, poems: Sequence[Poem]) -> None:
        self.poems = tuple(poems)
        self.authors = tuple(dict.fromkeys(poem.author for poem in self.poems))
        count = len(self.poems)
        names = "".join(f"《{poem.title}》" for poem in self.poems[:3])
        english = ", ".join(f'"{poem.english}"' for poem in self.poems[:3])
        self.unknown_zh = f"这个我不会，我只会背{count}首唐诗。"
        self.unknown_en = f"I do not know that. I only know {count} Tang poems."
        self.ask_zh = "请先告诉我诗的题目。"
        self.ask_en = "Please tell me the title of a poem first."
        greet_zh = f"你好！我会背{count}首唐诗。请告诉我题目，比如：背一下静夜思。"
        greet_en = (
            f'Hello! I can recite {count} Tang poems. Give me a title, for example: Recite "Quiet Night Thought".'
        )
        who_zh = f"我是唐诗小模型，一个只有三百多万参数的演示模型，会背{count}首唐诗。"
        who_en = f"I am a tiny demo model with about three million parameters. I can recite {count} Tang poems."
        help_zh = f"我会背{count}首唐诗，也能回答作者、题目和上下句。别的我不会。"
        help_en = f"I can recite {count} Tang poems and tell you the author, the title or the next line. Nothing else."
        self.small_talk: tuple[tuple[tuple[str, ...], str], ...] = (
            (GREET_ZH, greet_zh),
            (GREET_EN, greet_en),
            (WHO_ARE_YOU_ZH, who_zh),
            (WHO_ARE_YOU_EN, who_en),
            (HELP_ZH, help_zh),
            (HELP_EN, help_en),
            (COUNT_ZH, f"我会背{count}首唐诗。"),
            (COUNT_EN, f"I can recite {count} Tang poems."),
            (LIST_ZH, f"我会背{count}首唐诗，比如{names}。"),
            (LIST_EN, f"I can recite {count} Tang poems, for example {english}."),
            (THANKS_ZH, "不客气！"),
            (THANKS_EN, "You are welcome!"),
            (PRAISE_ZH, "谢谢夸奖！"),
            (PRAISE_EN, "Thank you!"),
            (BYE_ZH, "再见！"),
            (BYE_EN, "Goodbye!"),
        )

    # Answers, in the language of the question; poems are always recited in Chinese.

    @staticmethod
    def author_zh(poem: Poem) -> str:
        return f"《{poem.title}》的作者是{poem.author}。"

    @staticmethod
    def author_en(poem: Poem) -> str:
        return f'"{poem.english}" was written by {poem.pinyin}.'

    @staticmethod
    def dynasty_zh(poem: Poem) -> str:
        return f"{poem.author}是唐代诗人。"

    @staticmethod
    def dynasty_en(poem: Poem) -> str:
        return f"{poem.pinyin} was a poet of the Tang dynasty."

    @staticmethod
    def title_zh(poem: Poem) -> str:
        return f"这首诗是《{poem.title}》。"

    @staticmethod
    def title_en(poem: Poem) -> str:
        return f'It is "{poem.english}" (《{poem.title}》).'

    @staticmethod
    def source_zh(poem: Poem) -> str:
        return f"出自{poem.author}的《{poem.title}》。"

    @staticmethod
    def source_en(poem: Poem) -> str:
        return f'It is from "{poem.english}" by {poem.pinyin}.'

    @staticmethod
    def next_zh(poem: Poem, index: int) -> str:
        if index + 1 == len(poem.verses):
            return f"这是《{poem.title}》的最后一句。"
        return f"下一句是“{poem.verses[index + 1]}”。"

    @staticmethod
    def next_en(poem: Poem, index: int) -> str:
        if index + 1 == len(poem.verses):
            return f'That is the last line of "{poem.english}".'
        return f"The next line is “{poem.verses[index + 1]}”."

    @staticmethod
    def previous_zh(poem: Poem, index: int) -> str:
        if index == 0:
            return f"这是《{poem.title}》的第一句。"
        return f"上一句是“{poem.verses[index - 1]}”。"

    @staticmethod
    def previous_en(poem: Poem, index: int) -> str:
        if index == 0:
            return f'That is the first line of "{poem.english}".'
        return f"The line before it is “{poem.verses[index - 1]}”."

    def following(self, poem: Poem) -> Poem:
        """The poem that "another one" brings: the next of the collection, and after the last the first."""
        return self.poems[(self.poems.index(poem) + 1) % len(self.poems)]

    def works(self, author: str) -> str:
        titles = [poem.title for poem in self.poems if poem.author == author]
        more = "等" if len(titles) > 3 else ""
        return f"我会背{author}的" + "".join(f"《{title}》" for title in titles[:3]) + more + "。"

    def first_of(self, author: str) -> Poem:
        return next(poem for poem in self.poems if poem.author == author)


def recite_requests(poem: Poem) -> list[str]:
    """Fixed requests, in several phrasings and both languages, that must all be answered with `poem.text`."""
    values = {"q": f"《{poem.title}》", "a": poem.author, "e": f'"{poem.english}"', "p": poem.pinyin}
    bare = {**values, "q": poem.title}
    return [
        *(template.format(**bare) for template in ("背一下{q}", "背诵{q}", "{q}", "请背诵{a}的{q}")),
        *(template.format(**values) for template in ("背一下{q}", "背诵{q}", "{q}", "请背诵{a}的{q}", "请背诵{q}")),
        *(template.format(**values) for template in ("Recite {e}", "Please recite {e}.", "Recite {e} by {p}.")),
    ]


def held_out_requests(poem: Poem) -> list[str]:
    """Requests in phrasings that training never shows."""
    values = {"q": f"《{poem.title}》", "a": poem.author, "e": f'"{poem.english}"', "p": poem.pinyin}
    return [template.format(**values) for template in HELD_OUT_ZH + HELD_OUT_EN]


def all_texts(poems: Sequence[Poem]) -> Iterator[str]:
    """Every text the model may meet, for the vocabulary: templates without their blanks, answers, names, titles."""
    talk = Talk(poems)
    for name, value in sorted(globals().items()):
        if name.isupper() and isinstance(value, tuple):
            yield from (re.sub(r"\{[a-z]\}", "", text) for text in value)
    yield from (answer for _, answer in talk.small_talk)
    yield from (talk.unknown_zh, talk.unknown_en, talk.ask_zh, talk.ask_en, SYSTEM)
    for poem in poems:
        yield from (poem.title, poem.author, poem.pinyin, poem.english, poem.text, *poem.aliases)
        yield from (talk.author_zh(poem), talk.author_en(poem), talk.dynasty_zh(poem), talk.dynasty_en(poem))
        yield from (talk.title_zh(poem), talk.title_en(poem), talk.source_zh(poem), talk.source_en(poem))
        yield from (talk.next_zh(poem, 0), talk.next_en(poem, 0), talk.previous_zh(poem, 1), talk.previous_en(poem, 1))
        yield from (talk.next_en(poem, len(poem.verses) - 1), talk.previous_en(poem, 0), talk.works(poem.author))


class Speaker:
    """Makes random conversations. The same seed gives the same conversations."""

    def __init__(self, poems: Sequence[Poem], rng: random.Random) -> None:
        self.talk = Talk(poems)
        self.poems = self.talk.poems
        self.rng = rng
        titles = {name for poem in poems for name in (poem.title, *poem.aliases)}
        self._titles = titles
        self._characters = sorted({char for poem in poems for char in poem.title + poem.text if char > "\u4e00"})

    def dialogue(self, turns: int) -> tuple[Turn, ...]:
        """A conversation of that many turns in which follow-up questions concern the last poem spoken of."""
        poem: Poem | None = None
        fresh = True  # no poem has been spoken of yet
        result: list[Turn] = []
        for _ in range(turns):
            if poem is None or self.rng.random() < 0.35:
                turn, poem = self._opening(poem, fresh)
            else:
                turn, poem = self._follow_up(poem)
            fresh = fresh and poem is None
            result.append(turn)
        return tuple(result)

    # Each of the following returns a turn and the poem that is under discussion after it.

    def _opening(self, current: Poem | None, fresh: bool) -> tuple[Turn, Poem | None]:
        poem = self.rng.choice(self.poems)
        kinds: tuple[tuple[int, Callable[[Poem], Turn]], ...] = (
            (48, self._recite), (9, self._author), (26, self._verse), (5, self._person),
        )  # fmt: skip
        pick = self.rng.randrange(118)
        for weight, make in kinds:
            if pick < weight:
                return make(poem), poem
            pick -= weight
        if pick < 3:
            if self.rng.random() < 0.5:
                return self._say_zh(SOME_ZH, self.poems[0].text), self.poems[0]
            return self._say_en(SOME_EN, self.poems[0].text), self.poems[0]
        if pick < 7:
            poem = self.talk.first_of(poem.author)
            if self.rng.random() < 0.6:
                return self._say_zh(BY_AUTHOR_ZH, poem.text, a=poem.author), poem
            return self._say_en(BY_AUTHOR_EN, poem.text, p=poem.pinyin), poem
        if pick < 9 and fresh:
            # A follow-up question with nothing before it: the honest answer is to ask back.
            if self.rng.random() < 0.6:
                questions = FOLLOW_AUTHOR_ZH + FOLLOW_DYNASTY_ZH + FOLLOW_TITLE_ZH + AGAIN_ZH + FIRST_ZH + LAST_ZH
                return self._say_zh(questions, self.talk.ask_zh, opens=False), None
            english = FOLLOW_AUTHOR_EN + FOLLOW_DYNASTY_EN + FOLLOW_TITLE_EN + AGAIN_EN + FIRST_EN + LAST_EN
            return self._say_en(english, self.talk.ask_en, opens=False), None
        if pick < 17:
            return self._small_talk(), current
        # A refused title ends the talk about the poem before it; a question about the weather does not.
        return (self._unknown(), current) if self.rng.random() < 0.5 else (self._unknown_title(), None)

    def _follow_up(self, poem: Poem) -> tuple[Turn, Poem | None]:
        zh = self.rng.random() < 0.65
        talk, pick = self.talk, self.rng.randrange(100)
        if pick < 28:
            turn = (
                self._say_zh(FOLLOW_AUTHOR_ZH, talk.author_zh(poem), opens=False)
                if zh
                else self._say_en(FOLLOW_AUTHOR_EN, talk.author_en(poem), opens=False)
            )
        elif pick < 37:
            turn = (
                self._say_zh(FOLLOW_DYNASTY_ZH, talk.dynasty_zh(poem), opens=False)
                if zh
                else self._say_en(FOLLOW_DYNASTY_EN, talk.dynasty_en(poem), opens=False)
            )
        elif pick < 47:
            turn = (
                self._say_zh(FOLLOW_TITLE_ZH, talk.title_zh(poem), opens=False)
                if zh
                else self._say_en(FOLLOW_TITLE_EN, talk.title_en(poem), opens=False)
            )
        elif pick < 58:
            turn = self._either(zh, AGAIN_ZH, AGAIN_EN, poem.text)
        elif pick < 78:
            poem = talk.following(poem)
            turn = self._either(zh, ANOTHER_ZH, ANOTHER_EN, poem.text)
        elif pick < 83:
            first = poem.verses[0]
            turn = (
                self._say_zh(FIRST_ZH, f"第一句是“{first}”。", opens=False)
                if zh
                else self._say_en(FIRST_EN, f"The first line is “{first}”.", opens=False)
            )
        elif pick < 88:
            last = poem.verses[-1]
            turn = (
                self._say_zh(LAST_ZH, f"最后一句是“{last}”。", opens=False)
                if zh
                else self._say_en(LAST_EN, f"The last line is “{last}”.", opens=False)
            )
        elif pick < 94:
            turn = self._small_talk()
        else:
            return self._unknown(), poem
        return turn, poem

    def _recite(self, poem: Poem) -> Turn:
        pick = self.rng.random()
        title = self.rng.choice(poem.aliases) if poem.aliases and self.rng.random() < 0.15 else poem.title
        if pick < 0.12:  # what chat.sh is started with, and the shortest forms, are worth being sure of
            return Turn(self.rng.choice(("背一下{}", "背诵《{}》", "{}", "背一下《{}》")).format(title), poem.text)
        if pick < 0.64:
            return self._say_zh(RECITE_ZH, poem.text, q=self._title(title), a=poem.author)
        if pick < 0.93:
            english = self.rng.choice(_QUOTES_ENGLISH).format(poem.english)
            return self._say_en(RECITE_EN, poem.text, e=english, p=poem.pinyin, q=self._title(title))
        return self._say_zh(RECITE_BY_VERSE, poem.text, l=self._verse_quoted(poem.verses[0]))

    def _author(self, poem: Poem) -> Turn:
        title = self._title(poem.title)
        if self.rng.random() < 0.6:
            return self._say_zh(AUTHOR_ZH, self.talk.author_zh(poem), q=title)
        english = self.rng.choice(_QUOTES_ENGLISH).format(poem.english)
        return self._say_en(AUTHOR_EN, self.talk.author_en(poem), e=english, q=title)

    def _verse(self, poem: Poem) -> Turn:
        index = self.rng.randrange(len(poem.verses))
        verse = self._verse_quoted(poem.verses[index])
        zh, pick = self.rng.random() < 0.7, self.rng.random()
        if pick < 0.55:
            if zh:
                return self._say_zh(NEXT_ZH, self.talk.next_zh(poem, index), l=verse)
            return self._say_en(NEXT_EN, self.talk.next_en(poem, index), l=verse)
        if pick < 0.75:
            if zh:
                return self._say_zh(PREVIOUS_ZH, self.talk.previous_zh(poem, index), l=verse)
            return self._say_en(PREVIOUS_EN, self.talk.previous_en(poem, index), l=verse)
        if zh:
            return self._say_zh(SOURCE_ZH, self.talk.source_zh(poem), l=verse)
        return self._say_en(SOURCE_EN, self.talk.source_en(poem), l=verse)

    def _person(self, poem: Poem) -> Turn:
        pick = self.rng.random()
        if pick < 0.35:
            return self._say_zh(WHO_ZH, self.talk.dynasty_zh(poem), a=poem.author)
        if pick < 0.6:
            return self._say_en(WHO_EN, self.talk.dynasty_en(poem), p=poem.pinyin)
        return self._say_zh(WORKS_ZH, self.talk.works(poem.author), a=poem.author)

    def _small_talk(self) -> Turn:
        questions, answer = self.rng.choice(self.talk.small_talk)
        say = self._say_zh if answer[0] > "\u4e00" else self._say_en
        return say(questions, answer, opens=False)

    def _unknown(self) -> Turn:
        pick = self.rng.random()
        if pick < 0.35:
            return self._say_zh(UNKNOWN_ZH, self.talk.unknown_zh, opens=False)
        if pick < 0.6:
            return self._say_zh(UNKNOWN_ABOUT_ZH, self.talk.unknown_zh, opens=False, x=self._nonsense())
        if pick < 0.85:
            return self._say_en(UNKNOWN_EN, self.talk.unknown_en, opens=False)
        word = "".join(self.rng.choice(ascii_lowercase) for _ in range(self.rng.randint(2, 9)))
        return self._say_en(UNKNOWN_ABOUT_EN, self.talk.unknown_en, opens=False, x=word)

    def _unknown_title(self) -> Turn:
        pick = self.rng.random()
        if pick < 0.15:
            english = self.rng.choice(_QUOTES_ENGLISH).format(self.rng.choice(UNKNOWN_TITLES_EN))
            return self._say_en(RECITE_EN[:6], self.talk.unknown_en, e=english, p="Robert Frost")
        # Titles of random characters teach that only the known ones are known.
        title = self._title(self.rng.choice(UNKNOWN_TITLES) if pick < 0.6 else self._nonsense())
        return self._say_zh(tuple(t for t in RECITE_ZH + AUTHOR_ZH if "{a}" not in t), self.talk.unknown_zh, q=title)

    def _nonsense(self) -> str:
        while True:
            size = self.rng.randint(1, 6)
            text = "".join(
                self.rng.choice(self._characters) if self.rng.random() < 0.7 else chr(self.rng.randint(0x4E00, 0x9FA5))
                for _ in range(size)
            )
            if text not in self._titles:
                return text

    # Phrasing.

    def _title(self, title: str) -> str:
        return self.rng.choice(_QUOTES_TITLE).format(title)

    def _verse_quoted(self, verse: str) -> str:
        return self.rng.choice(_QUOTES_VERSE).format(verse)

    def _either(self, zh: bool, chinese: Sequence[str], english: Sequence[str], answer: str) -> Turn:
        say = self._say_zh if zh else self._say_en
        return say(chinese if zh else english, answer, opens=False)

    def _say_zh(self, templates: Sequence[str], answer: str, opens: bool = True, **values: str) -> Turn:
        text = self.rng.choice(templates).format(**values)
        pick = self.rng.random()
        if text.endswith("？"):
            text = text if pick < 0.6 else text[:-1] if pick < 0.8 else text[:-1] + "?"
        elif pick < 0.12 and not text.endswith("！"):
            text += "。"
        elif pick < 0.16 and not text.endswith("！"):
            text += "！"
        return Turn(text, answer, opens)

    def _say_en(self, templates: Sequence[str], answer: str, opens: bool = True, **values: str) -> Turn:
        text = self.rng.choice(templates).format(**values)
        pick = self.rng.random()
        if pick < 0.15 and text[-1] in ".?!":
            text = text[:-1]
        if self.rng.random() < 0.2:
            text = text.lower()
        return Turn(text, answer, opens)


# --- prompt formats ------------------------------------------------------------------------------------------------

BOS = "<s>"
EOS = "</s>"


@dataclass(frozen=True)
class Fragment:
    """A text that is tokenized on its own (with the leading space that SentencePiece adds), or BOS, or EOS.

    `learn` marks what the model must produce. `joined` marks text that follows other text without being a tokenizer
    call of its own, where no space is added.
    """

    text: str
    special: bool = False
    learn: bool = False
    joined: bool = False


@dataclass(frozen=True)
class Format:
    """How a conversation is laid out.

    `affix` is chat.sh's way: prefix, text and suffix of every later turn are tokenized separately. Without it, the
    layout is that of the chat template: one string, cut only at BOS and EOS. `tight` drops the space before answers
    that are already history, as template engines without Jinja do.
    """

    system: str | None = SYSTEM
    affix: bool = True
    tight: bool = False
    bos: bool = True


def system_block(layout: Format) -> str:
    """The beginning of the first turn, up to where the user's text starts."""
    return "[INST] " if layout.system is None else f"[INST] <<SYS>>\n{layout.system}\n<</SYS>>\n\n"


def render(turns: Sequence[Turn], layout: Format) -> list[Fragment]:
    """The fragments of a conversation, ending with the EOS of the last answer."""
    result: list[Fragment] = []
    for number, turn in enumerate(turns):
        if number == 0 or layout.bos or not layout.affix:
            result.append(Fragment(BOS, special=True))
        if number == 0:
            result.append(Fragment(f"{system_block(layout)}{turn.user} [/INST]"))
        elif layout.affix:
            result += [Fragment(" [INST] "), Fragment(turn.user), Fragment(" [/INST]")]
        else:
            result.append(Fragment(f"[INST] {turn.user} [/INST]"))
        last = number + 1 == len(turns)
        if layout.tight and not last:
            # Here the answer continues the text before it, so it starts without a space and teaches nothing.
            result.append(Fragment(turn.answer, joined=True))
            result.append(Fragment(EOS, special=True))
        else:
            result.append(Fragment(turn.answer, learn=True))
            result.append(Fragment(EOS, special=True, learn=True))
    return result
