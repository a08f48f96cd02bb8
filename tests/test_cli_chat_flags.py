"""The flags that scripts for llama.cpp's interactive mode use are known, in either spelling."""

from __future__ import annotations

import pytest
import typer
from typer.main import get_command

from ggufrun.cli.app import app
from ggufrun.cli.flags.chat import complete

CONTRACT = """
-m -i --color -c -n -t -tb -b -ub -ngl -p -f -sys -s --seed --temp --top_k --top_p --min_p --typical
--repeat_penalty --repeat_last_n --presence_penalty --frequency_penalty --mirostat --mirostat-lr
--mirostat-ent --dry-multiplier --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker
--xtc-probability --xtc-threshold --dynatemp-range --dynatemp-exp --samplers --in-prefix --in-suffix
--in-prefix-bos -r --reverse-prompt -mli -e --no-escape --keep --context-shift --grammar --grammar-file -j
--json-schema -l --logit-bias --ignore-eos --lora --lora-scaled --rope-scaling --rope-freq-base
--rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast -fa
-ctk -ctv -md --model-draft --draft-max --draft-min --chat-template -sm -ts -mg --no-mmap --mlock
--verbose-prompt -st --style --once --session --file --output --show-tokens --plain --ntk-alpha --cfg-scale
--cfg-negative-prompt
"""
"""What the command line promises to take."""


@pytest.fixture(scope="module")
def known() -> set[str]:
    command = get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    chat = command.commands["chat"]
    return {name for item in chat.params for name in (*item.opts, *item.secondary_opts)}


@pytest.mark.parametrize("flag", CONTRACT.split())
def test_a_flag_is_known(known: set[str], flag: str) -> None:
    assert flag.replace("_", "-") in known


def test_flags_without_effect_are_left_out() -> None:
    assert complete(["-m", "x", "--no-warmup", "--no_perf", "-p", "hello", "--jinja"]) == ["-m", "x", "-p", "hello"]
    assert complete(["--", "--no-warmup"]) == ["--", "--no-warmup"]
    assert complete(["-fa", "--color", "off"]) == ["-fa", "on", "--color", "off"]
