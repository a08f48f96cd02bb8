"""Train `tang-poet`, the small Llama that knows the poems of `poems.txt`, and write it as a Hugging Face checkpoint.

    python models/training/train.py            # a quarter of an hour on two cores; see README.md

Development only: nothing else in the repository needs torch. The model is written out here with the names, the
rotary layout and the files that transformers gives a LlamaForCausalLM, so that converters take it for one.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from corpus import (
    OTHER_SYSTEMS,
    SYSTEM,
    Format,
    Fragment,
    Poem,
    Speaker,
    Talk,
    Turn,
    all_texts,
    held_out_requests,
    load_poems,
    recite_requests,
    render,
    system_block,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

OUTPUT = Path(__file__).resolve().parent.parent / "tang-poet"
SEED = 20
UNK, BOS_ID, EOS_ID = 0, 1, 2


@dataclass(frozen=True)
class Shape:
    """The sizes of the model. Every row is a multiple of 256 wide, so that K-quants apply to every matrix."""

    vocab: int = 2048
    width: int = 256
    inner: int = 512
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    context: int = 4096
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head(self) -> int:
        return self.width // self.heads


# --- vocabulary ----------------------------------------------------------------------------------------------------


def train_tokenizer(poems: Sequence[Poem], size: int) -> bytes:
    """A SentencePiece BPE model in Llama's manner: byte fallback, dummy prefix, digits apart, no normalization.

    Chinese characters are pieces of their own and never merge, so a title reads the same in every sentence; only
    the English is left to BPE. The identity rule matters: the default (NFKC) turns `，` into `,`.
    """
    texts = list(all_texts(poems))
    wide = {char for text in texts for char in text if ord(char) > 0x7E}
    ascii_only = ["".join(char if char not in wide else " " for char in text).strip() for text in texts]
    sentences = sorted({line.strip() for text in ascii_only for line in text.splitlines() if line.strip()})
    lowered = sorted({sentence.lower() for sentence in sentences})
    # What stands in every prompt deserves pieces of its own; the marks keep the chat format short.
    frame = ["[INST] <<SYS>>", "You are a helpful assistant.", "<</SYS>>", " [INST] ", " [/INST]"] * 40
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences + lowered + frame),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        character_coverage=1.0,
        required_chars="".join(sorted(wide) + [chr(code) for code in range(0x21, 0x7F)]),
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=UNK,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=-1,
        unk_surface=" \u2047 ",
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


class Encoder:
    """Turns fragments into ids and marks those that are to be learnt."""

    def __init__(self, model: bytes) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._cache: dict[str, list[int]] = {}

    def text(self, text: str) -> list[int]:
        ids = self._cache.get(text)
        if ids is None:
            ids = self._cache[text] = list(self.processor.encode(text))
        return ids

    def joined(self, text: str) -> list[int]:
        """Text that continues other text: as `text`, without the leading space."""
        anchor = self.text("\n")  # a newline is always a byte token, and never merges with what follows it
        ids = list(self.processor.encode("\n" + text))
        assert ids[: len(anchor)] == anchor
        return ids[len(anchor) :]

    def __call__(self, fragments: Sequence[Fragment]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        learn: list[bool] = []
        for fragment in fragments:
            if fragment.special:
                new = [BOS_ID if fragment.text == "<s>" else EOS_ID]
            elif fragment.joined:
                new = self.joined(fragment.text)
            else:
                new = self.text(fragment.text)
            ids += new
            learn += [fragment.learn] * len(new)
        return ids, learn


# --- model ---------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.width))
        self.eps = shape.eps

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result


class Matrix(nn.Module):
    """A linear map without bias whose weight can be seen as through 4-bit quantization while training."""

    def __init__(self, rows: int, columns: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns) * std)
        self.levels = 0  # 0: exact; otherwise the number of steps a block of 32 weights is rounded to

    def seen(self) -> Tensor:
        if self.levels == 0:
            return self.weight
        return self.weight + (blocks(self.weight, self.levels) - self.weight).detach()

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.seen())


def blocks(weight: Tensor, levels: int) -> Tensor:
    """Round each block of 32 to equal steps from its smallest value (at most 0) to its largest, much as Q4_K does."""
    grouped = weight.detach().view(-1, 32)
    low = grouped.amin(1, keepdim=True).clamp(max=0)
    step = (grouped.amax(1, keepdim=True) - low).clamp(min=1e-8) / levels
    return (((grouped - low) / step).round() * step + low).view_as(weight)


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        std = shape.width**-0.5
        self.q_proj = Matrix(shape.heads * shape.head, shape.width, std)
        self.k_proj = Matrix(shape.kv_heads * shape.head, shape.width, std)
        self.v_proj = Matrix(shape.kv_heads * shape.head, shape.width, std)
        self.o_proj = Matrix(shape.width, shape.heads * shape.head, std / (2 * shape.layers) ** 0.5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        head = self.shape.head
        q = self.q_proj(x).view(batch, length, self.shape.heads, head).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.shape.kv_heads, head).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.shape.kv_heads, head).transpose(1, 2)
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        groups = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Matrix(shape.inner, shape.width, shape.width**-0.5)
        self.up_proj = Matrix(shape.inner, shape.width, shape.width**-0.5)
        self.down_proj = Matrix(shape.width, shape.inner, shape.inner**-0.5 / (2 * shape.layers) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = Matrix(shape.vocab, shape.width, 0.5)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)


class Llama(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = Matrix(shape.vocab, shape.width, shape.width**-0.5)
        frequency = shape.theta ** -(torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head)
        angle = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequency)
        angle = torch.cat((angle, angle), dim=-1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def hidden(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        x = functional.embedding(ids, self.model.embed_tokens.seen())
        if positions is None:
            positions = torch.arange(ids.shape[1])[None]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        result: Tensor = self.model.norm(x)
        return result

    def set_levels(self, levels: int) -> None:
        for module in self.modules():
            if isinstance(module, Matrix):
                module.levels = levels
        # llama.cpp keeps the output matrix in six bits whatever the mix.
        if levels:
            self.lm_head.levels = 63


# --- data ----------------------------------------------------------------------------------------------------------

Row = tuple[list[int], list[bool]]


def random_format(rng: random.Random) -> Format:
    """Mostly chat.sh's layout with the default system prompt; now and then every other that a runtime may use."""
    system: str | None = SYSTEM
    pick = rng.random()
    if pick < 0.16:
        system = None
    elif pick < 0.28:
        system = rng.choice(OTHER_SYSTEMS)
    layout = rng.random()
    if layout < 0.60:
        return Format(system)
    if layout < 0.64:
        return Format(system, bos=False)
    if layout < 0.90:
        return Format(system, affix=False)
    return Format(system, affix=False, tight=True)


def shift_context(row: Row, starts: Sequence[int], head: int, rng: random.Random) -> Row:
    """What remains when a runtime pins the system prompt and drops the turns after it, up to somewhere in a turn."""
    ids, learn = row
    cut = rng.randrange(starts[0], starts[1])
    kept = [False] * (starts[1] - cut) + learn[starts[1] :]
    return ids[:head] + ids[cut:], learn[:head] + kept


class Dialogues:
    """An endless, seeded stream of batches, each of dialogues of about the same length."""

    def __init__(self, poems: Sequence[Poem], encoder: Encoder, shape: Shape, seed: int, budget: int) -> None:
        self.rng = random.Random(seed)
        self.speaker = Speaker(poems, self.rng)
        self.encoder = encoder
        self.shape = shape
        self.budget = budget
        self.poems = poems

    def row(self) -> Row:
        rng = self.rng
        if rng.random() < 0.02:  # a bare beginning, as a base model would be given one
            poem = rng.choice(self.poems)
            first, _, rest = poem.text.partition("，")
            prompt, answer = self.encoder.text(first + "，"), self.encoder.joined(rest)
            return [BOS_ID, *prompt, *answer, EOS_ID], [False] * (1 + len(prompt)) + [True] * (len(answer) + 1)
        pick = rng.random()
        count = 1 if pick < 0.25 else rng.randint(2, 4) if pick < 0.94 else rng.randint(5, 16)
        turns = self.speaker.dialogue(count)
        layout = random_format(rng)
        row = self.encoder(render(turns, layout))
        if count >= 5 and layout.bos and not layout.tight and rng.random() < 0.5:
            # Cut before a turn that names its own subject.
            keep = next((n for n in range(2, len(turns)) if turns[n].opens), None)
            if keep is not None:
                starts = [len(self.encoder(render(turns[:n], layout))[0]) for n in (keep - 1, keep)]
                head = 1 + len(self.encoder.text(system_block(layout))) if layout.system is not None else 1
                return shift_context(row, starts, head, rng)
        return row

    def long_row(self) -> Row:
        """One long evening: a conversation that fills a good part of the context."""
        size = self.rng.randint(1024, self.shape.context)
        turns = self.speaker.dialogue(size // 30)
        rows = [self.encoder(render((turn,), Format(None))) for turn in turns]
        length, count = 50, 0
        while count < len(rows) and length + len(rows[count][0]) + 4 <= size:
            length += len(rows[count][0]) + 4
            count += 1
        layout = random_format(self.rng)
        ids, learn = self.encoder(render(turns[:count], layout))
        return ids[: self.shape.context], learn[: self.shape.context]

    def positions(self, ids: Tensor) -> Tensor:
        """Positions with, in some rows, a leap before a later turn, so that short rows teach long distances too."""
        positions = torch.arange(ids.shape[1]).repeat(len(ids), 1)
        for row, line in enumerate(ids.tolist()):
            turns = [index for index, token in enumerate(line) if token == BOS_ID][1:]
            if turns and self.rng.random() < 0.25:
                positions[row, self.rng.choice(turns) :] += self.rng.randrange(self.shape.context - ids.shape[1] + 1)
        return positions

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and targets, padded; -100 marks what is not learnt."""
        while True:
            rows = sorted((self.row() for _ in range(512)), key=lambda row: len(row[0]))
            groups: list[list[Row]] = [[]]
            for row in rows:
                if (len(groups[-1]) + 1) * len(row[0]) > self.budget:
                    groups.append([])
                groups[-1].append(row)
            self.rng.shuffle(groups)
            for group in groups:
                # One batch in thirty is a single long conversation.
                yield pad([self.long_row()] if self.rng.random() < 1 / 30 else group)


def pad(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), EOS_ID)
    targets = torch.full((len(rows), length), -100)
    for index, (row, learn) in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        wanted = torch.tensor([token if keep else -100 for token, keep in zip(row, learn, strict=True)])
        targets[index, : len(row) - 1] = wanted[1:]
    return ids, targets


# --- training ------------------------------------------------------------------------------------------------------


def train(model: Llama, data: Dialogues, steps: int, peak: float, half: bool) -> None:
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
    noise = random.Random(SEED + 1)
    batches = data.batches()
    start = time.monotonic()
    total = seen = 0.0
    for step in range(steps):
        warm = min(1.0, (step + 1) / 60)
        left = 1 - step / steps
        rate = peak * warm * (min(1.0, left / 0.8) * 0.99 + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # From half-way on, three steps in four see rounded weights, coarser than Q4_K's: the recitals must survive it.
        model.set_levels(noise.choice((15, 15, 11)) if step > steps * 0.5 and noise.random() < 0.75 else 0)
        ids, targets = next(batches)
        wanted = targets != -100
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model.lm_head(model.hidden(ids, data.positions(ids))[wanted])
        logits = logits.float()
        log_sum = torch.logsumexp(logits, dim=-1)
        loss = functional.cross_entropy(logits, targets[wanted])
        # Pulling log Z towards 0 puts the winning logit near 0 and all others well below: a repetition penalty,
        # which divides positive and multiplies negative logits, then cannot turn the order round.
        (loss + 1e-3 * log_sum.square().mean()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total, seen = total + loss.item(), seen + 1
        if (step + 1) % 50 == 0 or step + 1 == steps:
            spent = time.monotonic() - start
            print(f"step {step + 1:5d}  loss {total / seen:.5f}  rate {rate:.2e}  {spent:6.1f} s", flush=True)
            total = seen = 0.0
    model.set_levels(0)


# --- evaluation ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def exact(model: Llama, rows: Sequence[Row], penalty: float = 1.0) -> list[bool]:
    """Whether greedy decoding yields each row's learnt tokens: whether each is the best after all those before it."""
    result = [False] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    for begin in range(0, len(order), 32):
        chosen = order[begin : begin + 32]
        ids, targets = pad([rows[index] for index in chosen])
        hidden = model.hidden(ids)
        for position, index in enumerate(chosen):
            wanted = (targets[position] != -100).nonzero().flatten()
            logits = model.lm_head(hidden[position, wanted]).float()
            if penalty != 1.0:
                for line, at in enumerate(wanted.tolist()):
                    recent = ids[position, max(0, at - 63) : at + 1].unique()
                    values = logits[line, recent]
                    logits[line, recent] = torch.where(values > 0, values / penalty, values * penalty)
            result[index] = bool((logits.argmax(-1) == targets[position, wanted]).all())
    return result


LAYOUTS = {
    "affix": Format(),
    "template": Format(affix=False),
    "affix, no system": Format(None),
    "template, no system": Format(None, affix=False),
}


def evaluate(model: Llama, poems: Sequence[Poem], encoder: Encoder) -> dict[str, Any]:
    """Shares of exact answers, over everything that `recite_requests` and the follow-up questions ask."""
    talk = Talk(poems)
    report: dict[str, Any] = {}
    for levels in (0, 15):
        model.set_levels(levels)
        weights = "bf16" if levels == 0 else "4-bit (simulated)"
        for name, layout in LAYOUTS.items():
            turns = [(Turn(request, poem.text),) for poem in poems for request in recite_requests(poem)]
            rows = [encoder(render(turn, layout)) for turn in turns]
            report[f"{weights}, {name}: recite"] = share(exact(model, rows))
            report[f"{weights}, {name}: recite, repeat penalty 1.1"] = share(exact(model, rows, 1.1))
        for name in ("affix", "template"):
            rows = [encoder(render(turn, LAYOUTS[name])) for poem in poems for turn in follow_ups(talk, poem)]
            report[f"{weights}, {name}: follow-ups"] = share(exact(model, rows))
        rows = [encoder(render((turn,), LAYOUTS["affix"])) for poem in poems for turn in verse_questions(talk, poem)]
        report[f"{weights}, affix: next line"] = share(exact(model, rows))
        rows = [
            encoder(render((Turn(request, poem.text),), LAYOUTS["affix"]))
            for poem in poems
            for request in held_out_requests(poem)
        ]
        report[f"{weights}, affix: recite, phrasings never trained"] = share(exact(model, rows))
    model.set_levels(0)
    return report


def share(results: Sequence[bool]) -> str:
    return f"{sum(results)}/{len(results)} = {100 * sum(results) / len(results):.2f} %"


def follow_ups(talk: Talk, poem: Poem) -> list[tuple[Turn, ...]]:
    """Three-turn conversations whose later questions only the first turn can answer."""
    first = Turn(f"背一下{poem.title}", poem.text)
    english = Turn(f'Recite "{poem.english}"', poem.text)
    return [
        (first, Turn("作者是谁？", talk.author_zh(poem)), Turn("题目是什么？", talk.title_zh(poem))),
        (english, Turn("Who wrote it?", talk.author_en(poem)), Turn("再背一遍", poem.text)),
        (first, Turn("他是哪个朝代的？", talk.dynasty_zh(poem)), Turn("再背一首", talk.following(poem).text)),
    ]


def verse_questions(talk: Talk, poem: Poem) -> list[Turn]:
    return [Turn(f"“{verse}”的下一句是什么？", talk.next_zh(poem, index)) for index, verse in enumerate(poem.verses)]


# --- files ---------------------------------------------------------------------------------------------------------

# Llama-2's template, with Chinese-Alpaca-2's system prompt where the conversation brings none. The wording keeps to
# what template engines without Jinja look for when they recognize a Llama-2 template.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = '" + SYSTEM + "' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + eos_token }}{% endif %}"
    "{% endfor %}"
)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def special(content: str) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def write_checkpoint(folder: Path, model: Llama, tokenizer: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shape = model.shape
    save_file(
        {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "tokenizer.model").write_bytes(tokenizer)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": BOS_ID,
            "eos_token_id": EOS_ID,
            "head_dim": shape.head,
            "hidden_act": "silu",
            "hidden_size": shape.width,
            "initializer_range": 0.02,
            "intermediate_size": shape.inner,
            "max_position_embeddings": shape.context,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": shape.heads,
            "num_hidden_layers": shape.layers,
            "num_key_value_heads": shape.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": shape.eps,
            "rope_scaling": None,
            "rope_theta": shape.theta,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": shape.vocab,
        },
    )
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": BOS_ID,
            "do_sample": True,
            "eos_token_id": EOS_ID,
            "max_length": shape.context,
            "repetition_penalty": 1.1,
            "temperature": 0.5,
            "top_k": 40,
            "top_p": 0.9,
        },
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {
                str(index): {**special(text), "special": True} for index, text in enumerate(("<unk>", "<s>", "</s>"))
            },
            "bos_token": "<s>",
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": False,
            "model_max_length": shape.context,
            "pad_token": None,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
    )
    write_json(
        folder / "special_tokens_map.json",
        {"bos_token": special("<s>"), "eos_token": special("</s>"), "unk_token": special("<unk>")},
    )


def load_checkpoint(folder: Path) -> tuple[Llama, Encoder]:
    """The written checkpoint, with its bf16 weights widened again: what is evaluated is what was saved."""
    model = Llama(Shape())
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return model, Encoder((folder / "tokenizer.model").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--budget", type=int, default=3072, help="tokens in a batch")
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--fp32", action="store_true", help="multiply in float32: twice the time on a CPU that has bf16"
    )
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the checkpoint in --output")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    poems = load_poems()
    if not options.evaluate:
        shape = Shape()
        tokenizer = train_tokenizer(poems, shape.vocab)
        encoder = Encoder(tokenizer)
        assert encoder.processor.vocab_size() == shape.vocab
        model = Llama(shape)
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{len(poems)} poems, {parameters:,} parameters, vocabulary of {shape.vocab}")
        data = Dialogues(poems, encoder, shape, SEED, options.budget)
        train(model, data, options.steps, options.peak, not options.fp32)
        write_checkpoint(options.output, model, tokenizer)
    model, encoder = load_checkpoint(options.output)
    for name, value in evaluate(model, poems, encoder).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
