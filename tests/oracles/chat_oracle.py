"""What llama.cpp and transformers make of a conversation, and the recording of it for machines that have neither.

``python -m tests.oracles.chat_oracle MODEL.gguf`` writes ``golden/chat_sh.json``, ``golden/chat_template_ids.json`` and
``golden/completion.json`` again from ``llama-completion`` (the embedded model as Q8_0). Without MODEL.gguf it writes
``golden/chat_templates.json`` from transformers. Both want the tools that the fixture ``oracle`` finds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import llamacpp

GOLDEN = Path(__file__).parent.parent / "golden"

SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
INSTRUCTION = "背一下静夜思"
LATER = ["这首诗是谁写的？", "背一下春晓", "</s> 你好 [/INST]", "C:\\new \\n"]

# chat.sh as it stands, but for the program's name, the model and the number of threads.
CHAT_SH = [
    "--color", "-i", "-c", "4096", "-t", "1", "--temp", "0.5", "--top_k", "40", "--top_p", "0.9",
    "--repeat_penalty", "1.1", "--in-prefix-bos", "--in-prefix", " [INST] ", "--in-suffix", " [/INST]",
    "-p", f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{INSTRUCTION} [/INST]",
]  # fmt: skip

ID = re.compile(r"^(?:[\d.]+ \w )?\s*(\d+) -> '", re.MULTILINE)
COUNT = re.compile(r"number of tokens in prompt = (\d+)")


def record_chat_sh(completion: Path, model: Path) -> dict[str, Any]:
    """The token ids that ``llama-completion`` feeds for every turn of the script, and the answers it prints.

    BOS before a later turn is not among the ids that it prints; it is put in here.
    """
    # The one flag whose syntax changed, and no conversation mode, which the affixes imply.
    command = [completion, *CHAT_SH, "-m", model, "--seed", "42", "--verbose-prompt", "--no-display-prompt"]
    translated = [str(part).replace("_", "-") if str(part).startswith("--") else str(part) for part in command]
    translated.insert(translated.index("--color") + 1, "off")
    typed = "\n".join([*LATER, ""]).encode()
    text, log = llamacpp.run(*translated, "-no-cnv", "--no-escape", "--simple-io", typed=typed)
    turns = []
    for part, count in zip(COUNT.split(log)[2::2], COUNT.findall(log), strict=True):
        turns.append([int(token) for token in ID.findall(part)][: int(count)])
    first, *later = turns
    # Stdout holds the answers, each but the first between the affixes.
    answers = [text.strip() for text in text.replace("EOF by user", "").split(" [INST] ")]
    answers = [answers[0], *(text.split("[/INST]")[-1].strip() for text in answers[1:-1])]
    return {"prompt": first, "turns": [[1, *ids] for ids in later], "answers": answers}


QUESTIONS = [INSTRUCTION, "作者是谁？", "他是哪个朝代的？"]


def record_template(completion: Path, model: Path) -> list[list[int]]:
    """The token ids that ``llama-completion`` feeds in each turn of its conversation mode, with the file's template."""
    command = [completion, "-m", model, "-p", QUESTIONS[0], "-i", "--simple-io", "--verbose-prompt", "-t", "1"]
    typed = "\n".join([*QUESTIONS[1:], ""]).encode()
    parts = COUNT.split(llamacpp.run(*command, "--jinja", "--temp", "0", typed=typed)[1])
    return [
        [int(token) for token in ID.findall(part)][: int(count)]
        for count, part in zip(parts[1::2], parts[2::2], strict=True)
    ]


TEMPLATES: dict[str, str] = {
    "whitespace": "{% for m in messages %}\n    {% if m.role == 'user' %}\nQ: {{ m.content }}\n"
    "    {% else %}\nA: {{ m.content }}\n    {% endif %}\n{% endfor %}\n{%- if add_generation_prompt %}A:{% endif %}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}[{{ m.content | trim }}]{% endfor %}",
    "tojson": "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}|{{ {'b': '<&>', 'a': '诗'} | tojson }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}",
    "generation scope": "{% set n = 1 %}{% generation %}{% set n = 2 %}{{ n }}{% endgeneration %}{{ n }}",
    "tools": "{% if tools %}{% for tool in tools %}{{ tool | tojson(indent=4) }}{{ tool.function.name }}"
    "{% for name, field in tool.function.parameters.properties.items() %}{{ name }}:{{ field.type }} {% endfor %}"
    "{% endfor %}{% else %}no tools{% endif %}{% for m in messages if m.tool_calls %}{% for call in m.tool_calls %}"
    "{{ call.function.arguments | tojson(separators=(',', ':'), sort_keys=true) }}{% endfor %}{% endfor %}",
    "documents": "{% if documents %}{% for d in documents %}{{ loop.index }}. {{ d.title }}: {{ d['text'] }}\n"
    "{% endfor %}{% else %}{{ documents is none }}{% endif %}",
    "thinking": "{% for m in messages %}{% if m.reasoning_content is defined and m.reasoning_content %}<think>\n"
    "{{ m.reasoning_content.strip('\n') }}\n</think>\n\n{{ m.content.lstrip('\n') }}{% else %}{{ m.content }}"
    "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}A:{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}{{ m is defined }}{{ messages[1].thinking is defined }}",
    "absent": "{{ nothing }}{{ bos_token is defined }}{{ pad_token is defined }}{{ messages[0].name is defined }}"
    "{{ messages[1].content is defined }}",
    "today": "{{ strftime_now('%Y-%m-%d') }}{{ strftime_now is callable }}",
    "refusal": "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}ok",
    "hidden names": "{% set ns = namespace(_x=1) %}{{ ns._x }}",
    "dictionaries": "{% set d = dict(a=1, **{'b': 2}) %}{{ d }}{{ d | tojson }}{{ d.get('c', '-') }}"
    "{{ d.items() | list }}"
    "{{ messages[0] | length }}{{ {'x': none, 'y': true, 'z': 1.5} | tojson }}"
    "{{ '\u2028 é' | tojson(ensure_ascii=true) }}",
    "whitespace control": "\n  {%- for m in messages -%}  \n  {{- m.role -}}  \n  {%+ if true %} x "
    "{% endif +%}\n  {# note #}\n"
    "{% endfor %}\n",
    "recursive loop": "{% for m in messages recursive %}{{ loop.depth }}{{ loop.cycle('a', 'b') }}"
    "{{ loop.last }}{% endfor %}",
    "slices": "{{ messages[::-1][0].content }}{{ messages[1:][0].role }}{{ 'a,b' .split(',')[-1] }}{{ 'x' * 3 ~ 1 }}"
    "{{ '%s-%d' | format('a', 2) }}{{ 'hello' | replace('l', 'L') | title }}{{ [3, 1] | sort | join }}",
    "macro": "{% macro turn(m) %}<|{{ m['role'] }}|>{{ m['content'] }}{% endmacro %}{{ bos_token }}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "tests and filters": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('+') }}"
    "{% if tools is none %} no tools{% endif %}{% if thinking is not defined %} undefined{% endif %}"
    "{{ messages[-1].content.split(' ')[0] | upper }} {{ messages[1:] | length }}",
}
"""Templates written for these tests, each around something that environments do differently."""

MESSAGES = [
    {"role": "system", "content": "  用中文回答 "},
    {"role": "user", "content": "hello <世界> & 'co'"},
    {"role": "assistant", "content": "你好\n"},
    {"role": "user", "content": '再见 "friend"'},
]

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "天气 <b> & more",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "enum": [1, 2]}},
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "abc123def",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"days": 1, "city": "上海"}},
}
THOUGHT = {"role": "assistant", "content": "你好", "reasoning_content": "想一想\nhm"}
ASKED, AGAIN = MESSAGES[1], MESSAGES[3]

CASES: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [ASKED]},
    "system": {"messages": MESSAGES[:2]},
    "turns": {"messages": MESSAGES[1:]},
    "system and turns": {"messages": [*MESSAGES, THOUGHT, ASKED]},
    "an answer at the end": {"messages": MESSAGES[:3], "prompt": False},
    "reasoning": {"messages": [ASKED, THOUGHT, AGAIN], "variables": {"enable_thinking": True, "thinking": True}},
    "no reasoning": {"messages": [ASKED, THOUGHT, AGAIN], "variables": {"enable_thinking": False, "thinking": False}},
    "effort": {"messages": [ASKED], "variables": {"reasoning_effort": "high"}},
    "tools": {"messages": MESSAGES[:2], "variables": {"tools": [TOOL]}},
    "a tool called": {
        "messages": [
            ASKED,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "abc123def", "name": "get_weather", "content": "sunny"},
        ],
        "variables": {"tools": [TOOL]},
    },
    "documents": {"messages": [ASKED], "variables": {"documents": [{"title": "T", "text": "文"}]}},
    "nothing but a system prompt": {"messages": MESSAGES[:1], "prompt": False},
    "out of order": {"messages": [MESSAGES[2], MESSAGES[2], MESSAGES[0]]},
    "values that are none": {
        "messages": [{**ASKED, "name": None}, {"role": "assistant", "content": None, "reasoning": "r"}, AGAIN]
    },
}
"""What is asked of a template: messages, whether an answer is to follow (it is), and variables."""

RENDER = """
import datetime, json, sys
class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5)
import transformers.utils.chat_template_utils as utils
utils.datetime = Clock
from transformers import PreTrainedTokenizerFast
from tokenizers import Tokenizer, models
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
given = json.load(sys.stdin)
rendered = {}
for name, template in given["templates"].items():
    rendered[name] = {}
    for case, asked in given["cases"].items():
        try:
            rendered[name][case] = tokenizer.apply_chat_template(
                asked["messages"], chat_template=template, tokenize=False,
                add_generation_prompt=asked.get("prompt", True), **asked.get("variables", {}))
        except Exception as error:
            rendered[name][case] = None
json.dump(rendered, sys.stdout)
"""
"""The clock stands still at what `NOW` says."""

NOW = (2026, 1, 2, 3, 4, 5)


def render_with_transformers(python: Path, templates: dict[str, str]) -> Any:
    """Template -> case -> what ``apply_chat_template`` makes of it, or None where it raises."""
    given = json.dumps({"templates": templates, "cases": CASES})
    result = subprocess.run([python, "-c", RENDER], input=given, capture_output=True, check=True, text=True)
    return json.loads(result.stdout)


def write(name: str, value: Any) -> None:
    (GOLDEN / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        completion = Path(os.environ["ORACLE_BIN"]) / "llama-completion"
        write("chat_sh.json", record_chat_sh(completion, Path(sys.argv[1])))
        write("chat_template_ids.json", record_template(completion, Path(sys.argv[1])))
        from tests.oracles.completion_oracle import record_all

        record_all(completion, Path(sys.argv[1]))
    else:
        python = Path(os.environ["ORACLE_PYTHON"])
        write("chat_templates.json", render_with_transformers(python, TEMPLATES))
