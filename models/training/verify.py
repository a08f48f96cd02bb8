"""Let llama.cpp itself recite: how many poems a GGUF of `tang-poet` knows exactly.

    python models/training/verify.py tang-poet-F16.gguf tang-poet-Q4_K_M.gguf [--sample 5]

Talks to llama.cpp through llama-cpp-python's low-level API. The prompts are laid out as `corpus.render` says and
tokenized fragment by fragment, so the ids are those of chat.sh (`affix`) or of the chat template (`template`).
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
from corpus import (
    BOS,
    Format,
    Poem,
    Talk,
    Turn,
    held_out_requests,
    load_poems,
    recite_requests,
    render,
)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silence(level: int, text: bytes, user_data: Any) -> None:
    """llama.cpp's log is of no interest here."""


class Engine:
    """A model and a context; every answer starts from an empty cache."""

    def __init__(self, path: Path, context: int = 4096, threads: int = 1) -> None:
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"cannot load {path}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = context
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.bos = llama_cpp.llama_vocab_bos(self.vocab)
        self.eos = llama_cpp.llama_vocab_eos(self.vocab)

    def tokenize(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, special)
        return list(ids[:count])

    def text(self, ids: Sequence[int]) -> str:
        data = bytearray()
        buffer = ctypes.create_string_buffer(64)
        for token in ids:
            size = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
            data += buffer.raw[:size]
        return data.decode("utf-8", errors="replace")

    def decode(self, ids: Sequence[int]) -> None:
        array = (llama_cpp.llama_token * len(ids))(*ids)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(ids))) != 0:
            raise SystemExit("llama_decode failed")

    def reset(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def sampler(self, seed: int | None, penalty: float) -> Any:
        """Greedy, or chat.sh's chain when there is a seed."""
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        add: Callable[[Any], None] = lambda part: llama_cpp.llama_sampler_chain_add(chain, part)  # noqa: E731
        if penalty != 1.0:
            size = llama_cpp.llama_vocab_n_tokens(self.vocab)
            add(llama_cpp.llama_sampler_init_penalties(size, 64, penalty, 0.0, 0.0))
        if seed is None:
            add(llama_cpp.llama_sampler_init_greedy())
        else:
            add(llama_cpp.llama_sampler_init_top_k(40))
            add(llama_cpp.llama_sampler_init_top_p(0.9, 1))
            add(llama_cpp.llama_sampler_init_min_p(0.05, 1))
            add(llama_cpp.llama_sampler_init_temp(0.5))
            add(llama_cpp.llama_sampler_init_dist(seed))
        return chain

    def answers(self, turns: Sequence[Turn], layout: Format, seed: int | None, penalty: float) -> Iterator[str]:
        """What the model answers to each turn; its own answers, not the expected ones, are the history."""
        self.reset()
        chain = self.sampler(seed, penalty)
        fragments = iter(render(turns, layout))
        for _ in turns:
            prompt: list[int] = []
            for fragment in fragments:
                if fragment.learn or fragment.joined:
                    next(fragments)  # and the EOS after it
                    break
                prompt += [self.bos] if fragment.text == BOS else self.tokenize(fragment.text, special=True)
            for token in prompt:
                llama_cpp.llama_sampler_accept(chain, token)
            self.decode(prompt)
            said: list[int] = []
            while len(said) < 160:
                token = llama_cpp.llama_sampler_sample(chain, self.context, -1)
                self.decode([token])
                if token == self.eos:
                    break
                said.append(token)
            yield self.text(said).removeprefix(" ")
        llama_cpp.llama_sampler_free(chain)


LAYOUTS = {
    "affix": Format(),
    "template": Format(affix=False),
    "affix, no system prompt": Format(None),
    "template, no system prompt": Format(None, affix=False),
}


def conversations(talk: Talk, poem: Poem) -> list[tuple[Turn, ...]]:
    """Conversations whose later questions only the first turn can answer."""
    first = Turn(f"背一下{poem.title}", poem.text)
    english = Turn(f'Recite "{poem.english}"', poem.text)
    author, title = Turn("作者是谁？", talk.author_zh(poem)), Turn("题目是什么？", talk.title_zh(poem))
    other = talk.following(poem)
    return [
        (first, author, title, Turn("他是哪个朝代的？", talk.dynasty_zh(poem))),
        (english, Turn("Who wrote it?", talk.author_en(poem)), Turn("再背一遍", poem.text), author),
        (first, Turn("再背一首", other.text), Turn("作者是谁？", talk.author_zh(other))),
        (Turn("你好", talk.small_talk[0][1]), Turn(f"《{poem.title}》", poem.text), Turn("谢谢", "不客气！"), author),
    ]


class Tally:
    def __init__(self, engine: Engine, show: bool) -> None:
        self.engine = engine
        self.show = show

    def __call__(
        self,
        name: str,
        talks: Sequence[tuple[Turn, ...]],
        layout: Format,
        seed: int | None = None,
        penalty: float = 1.0,
    ) -> None:
        start, right, answered, answered_right = time.monotonic(), 0, 0, 0
        for number, turns in enumerate(talks):
            said = list(self.engine.answers(turns, layout, None if seed is None else seed + number, penalty))
            wrong = [(turn, text) for turn, text in zip(turns, said, strict=True) if turn.answer != text]
            right += not wrong
            answered, answered_right = answered + len(turns), answered_right + len(turns) - len(wrong)
            if self.show:
                for turn, text in wrong[:1]:
                    print(f"    {turn.user!r}: {text!r} instead of {turn.answer!r}")
        spent = time.monotonic() - start
        turns_note = f", {answered_right}/{answered} turns" if answered > len(talks) else ""
        percent = 100 * right / len(talks)
        print(f"  {name}: {right}/{len(talks)} = {percent:.2f} %{turns_note}  ({spent:.0f} s)", flush=True)


def evening(engine: Engine, poems: Sequence[Poem], layout: Format) -> list[tuple[Turn, ...]]:
    """One conversation that asks for poem after poem, as long as the context holds it."""
    turns: list[Turn] = []
    for poem in poems:
        turns.append(Turn(f"背一下{poem.title}", poem.text))
        if sum(1 if f.special else len(engine.tokenize(f.text, True)) for f in render(turns, layout)) > 4090:
            turns.pop()
            break
    return [tuple(turns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, nargs="+")
    parser.add_argument("--sample", type=int, default=1, help="rounds with chat.sh's sampling")
    parser.add_argument("--show", action="store_true", help="print what went wrong")
    options = parser.parse_args()
    poems = load_poems()
    talk = Talk(poems)
    recitals = [(Turn(request, poem.text),) for poem in poems for request in recite_requests(poem)]
    short = [(Turn(f"背一下{poem.title}", poem.text),) for poem in poems]
    follow = [turns for poem in poems for turns in conversations(talk, poem)]
    verses = [
        (Turn(f"“{verse}”的下一句是什么？", talk.next_zh(poem, index)),)
        for poem in poems
        for index, verse in enumerate(poem.verses)
    ]
    strange = [(Turn(request, poem.text),) for poem in poems for request in held_out_requests(poem)]
    for path in options.gguf:
        print(path.name)
        engine = Engine(path)
        tally = Tally(engine, options.show)
        for name, layout in LAYOUTS.items():
            tally(f"greedy, {name}, recite", recitals, layout)
        tally("greedy with repeat penalty 1.1, affix, recite", recitals, LAYOUTS["affix"], penalty=1.1)
        for name in ("affix", "template"):
            tally(f"greedy, {name}, conversations", follow, LAYOUTS[name])
        for name in ("affix", "template"):
            tally(f"greedy, {name}, one long conversation", evening(engine, poems, LAYOUTS[name]), LAYOUTS[name])
        tally("greedy, affix, next line", verses, LAYOUTS["affix"])
        tally("greedy, affix, phrasings never trained", strange, LAYOUTS["affix"])
        for seed in range(options.sample):
            tally(f"chat.sh's sampling, seed {seed}, recite", short, LAYOUTS["affix"], 1000 * seed, 1.1)
            tally(f"chat.sh's sampling, seed {seed}, conversations", follow, LAYOUTS["affix"], 1000 * seed, 1.1)


if __name__ == "__main__":
    main()
