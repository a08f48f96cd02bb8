"""``tokenizer.json`` files of the BPE kind: byte-level ones (GPT-2 and its kin), and SentencePiece's in that clothing.

Source of the rules: llama.cpp's ``conversion/base.py`` (``get_vocab_base``) and, for the second kind, ``LlamaHfVocab``
of the ``gguf`` package. The latter gives every piece the same score, with which llama.cpp cuts text up wrongly; here
scores follow the merges, and added tokens are marked as such wherever their ids lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufrun.convert.vocab.probe import probe
from ggufrun.convert.vocab.splitting import Splitting, splitting_of
from ggufrun.convert.vocab.tokenizer_files import AGAIN, MAX_VOCABULARY, TokenizerFiles
from ggufrun.convert.vocab.trial import needs_trial, try_out
from ggufrun.convert.vocab.vocabulary import SPACE, Kind, Original, Vocabulary, looks_special
from ggufrun.errors import FormatError, UnsupportedError

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
ASCII = {chr(byte): f"<0x{byte:02X}>" for byte in range(128)}
"""Characters of one byte, and the tokens of these bytes."""

REPLACE = f"Replace the text ' ' by {SPACE!r}"
METASPACE = f"Metaspace {SPACE} "
SPLIT_AT_SPACES = ((), ("Split MergedWithPrevious the text ' '",), ("Split MergedWithNext the text ' '",))
"""Steps of SentencePiece-like files; the split finds nothing, because the spaces have been replaced by then."""

NEVER = f"{METASPACE}never"
FRONT = "puts no space in front of text that starts with one"

COMPOSED = {"NFC": "brings text to Unicode's composed form (NFC)"}


@dataclass(frozen=True)
class Model:
    """The parts of a tokenizer.json: texts to ids, merges in order of rank, and the splitting rules."""

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    byte_fallback: bool
    splitting: Splitting


def read_model(files: TokenizerFiles) -> Model:
    """Take a tokenizer.json apart. FormatError where it makes no sense, UnsupportedError for one that is not BPE."""
    name = files.folder / files.bpe_name
    model = files.tokenizer.get("model")
    if not isinstance(model, dict):
        raise FormatError(f"{name} has no model", AGAIN)
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedError(
            f"{name} holds a {str(model['type'])[:40]} model, and llama.cpp's tokenizers here are BPE",
            "this model's text would be tokenized wrongly; use another runtime for it",
        )
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UnsupportedError(f"{name} uses {key}, which a GGUF cannot say", "use another runtime for this model")
    ids, merges = model.get("vocab"), model.get("merges")
    if not isinstance(ids, dict) or not ids or not isinstance(merges, list):
        raise FormatError(f"{name} lacks its vocabulary or its merges", AGAIN)
    seen: set[int] = set()
    for text, number in ids.items():
        if type(number) is not int or not 0 <= number < MAX_VOCABULARY or number in seen:
            raise FormatError(f"{name} gives {text[:40]!r} the id {str(number)[:20]}, which is not its own", AGAIN)
        seen.add(number)
    pairs = [_pair(merge) for merge in merges]
    for left, right in pairs:
        if not left or not right or left not in ids or right not in ids or left + right not in ids:
            raise FormatError(f"{name} merges {left[:40]!r} and {right[:40]!r}, which are not all tokens", AGAIN)
    return Model(ids, pairs, model.get("byte_fallback") is True, splitting_of(files.tokenizer))


def is_sentencepiece(files: TokenizerFiles) -> bool:
    """Is the tokenizer.json a SentencePiece model in disguise: BPE over characters that falls back to bytes?"""
    model = files.tokenizer.get("model")
    decoder = files.tokenizer.get("decoder")
    return (
        isinstance(model, dict)
        and model.get("type") == "BPE"
        and model.get("byte_fallback") is True
        and isinstance(decoder, dict)
        and decoder.get("type") == "Sequence"
    )


def merge_texts(merges: Sequence[tuple[str, str]]) -> list[str]:
    """Merges as a GGUF has them: two parts with a space between, spaces within written as byte-level BPE does."""
    return [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in merges]


def byte_level(files: TokenizerFiles, model: Model, size: int, tokenizer: Any) -> Vocabulary:
    """The vocabulary of a byte-level tokenizer.json, padded to ``size`` tokens; it has no scores."""
    vocabulary = Vocabulary.padded(size, 0.0)
    put_pieces(vocabulary, files, model, lambda text: (0.0, Kind.NORMAL))
    for token in files.added:
        if token.id >= size:
            vocabulary.beyond[token.text] = token.id
            continue
        text = token.text
        if not token.normalized:
            # llama.cpp takes these as they come out of the tokenizer again
            decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
            # a token of letters that are bytes in disguise is not text once it is decoded
            text = text if "\ufffd" in decoded else decoded
        if token.special or looks_special(text):
            vocabulary.put(token.id, text, 0.0, Kind.CONTROL)
        else:
            vocabulary.put(token.id, text, 0.0, Kind.USER_DEFINED)
    return vocabulary


def sentencepiece_like(files: TokenizerFiles, model: Model, size: int) -> Vocabulary:
    """The vocabulary of a SentencePiece model in the shape of a tokenizer.json, padded to ``size`` tokens.

    llama.cpp's tokenizer joins the neighbours whose union scores best, BPE those whose merge comes first: a piece's
    score is minus the number of pieces made before it.
    """
    vocabulary = Vocabulary.padded(size, -1000.0)
    ranks: dict[str, int] = {}
    for left, right in model.merges:
        ranks.setdefault(left + right, len(ranks))

    def piece(text: str) -> tuple[float, Kind]:
        kind = Kind.BYTE if BYTE.fullmatch(text) else Kind.NORMAL
        score = float(-ranks[text]) if text in ranks else -float(len(ranks)) if kind == Kind.NORMAL else -1000.0
        return score, kind

    put_pieces(vocabulary, files, model, piece)
    for text, token_text in ASCII.items():
        if text in model.ids and token_text not in model.ids:
            # Gemma's tab: the file has the character itself in place of the token of its byte
            vocabulary.put(model.ids[text], token_text, -1000.0, Kind.BYTE)
    numbers, made = set(model.ids.values()), merged_runs(files, model)
    for token in files.added:
        if token.id in made:
            continue
        if token.special or token.id >= size:
            vocabulary.add(token.id, token.text, -1000.0, Kind.CONTROL)
        else:
            text = token.text.replace(SPACE, " ") if token.id in numbers else token.text
            vocabulary.put(token.id, text, -1000.0, Kind.USER_DEFINED)
    return vocabulary


def merged_runs(files: TokenizerFiles, model: Model) -> set[int]:
    """The ids of added tokens of spaces that only the merges find: such a token is looked for in the text as it is,
    before spaces become the sign that it is written with."""
    runs = {t.text: t.id for t in files.added if not (t.special or t.normalized or t.text.strip(SPACE))}
    return {runs[left + right] for left, right in model.merges if left + right in runs} if runs else set()


def put_pieces(
    vocabulary: Vocabulary, files: TokenizerFiles, model: Model, piece: Callable[[str], tuple[float, Kind]]
) -> None:
    """Give the ids of the vocabulary proper their texts, with the score and kind that ``piece`` tells of each."""
    added = files.ids
    for text, number in model.ids.items():
        score, kind = piece(text)
        (vocabulary.add if added.get(text) == number else vocabulary.put)(number, text, score, kind)


def space_in_front(splitting: Splitting) -> tuple[bool, bool]:
    """How a SentencePiece-like tokenizer.json treats the start of a text.

    Returns whether it puts a space in front, and whether it does so again after every special token. UnsupportedError
    for rules that llama.cpp's SentencePiece tokenizer cannot follow.
    """
    match (splitting.normalizer, splitting.steps):
        case ((first, second), ()) if first == f"Prepend {SPACE!r}" and second == REPLACE:
            return True, True
        case ((only,), steps) if only == REPLACE and steps in SPLIT_AT_SPACES:
            return False, True
        case ((), (step,)) if step.startswith(METASPACE):
            scheme = step.removeprefix(METASPACE).removesuffix(" unsplit")
            return scheme != "never", scheme != "first"
    raise UnsupportedError(
        f"llama.cpp's SentencePiece tokenizer cannot follow the rules of tokenizer.json ({splitting})",
        "put the model's tokenizer.model next to it",
    )


def load(files: TokenizerFiles, size: int) -> Any:
    """The tokenizer.json as the ``tokenizers`` package runs it, without padding and truncation, and with those added
    tokens of other files whose ids are below ``size``."""
    import tokenizers

    if '"Regex"' in str(files.tokenizer.get("decoder")).replace("'", '"'):
        raise UnsupportedError("the decoder of tokenizer.json holds a regular expression", "remove it from the file")
    if needs_trial(files.tokenizer):
        texts = [*probe(), *(token.text for token in files.added)]
        try_out(files.folder / files.bpe_name, files.tokenizer_text, texts)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(files.tokenizer_text)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        known = tokenizer.get_added_tokens_decoder()
        for token in sorted(files.added, key=lambda token: token.id):
            if token.id not in known and token.id < size:
                added = tokenizers.AddedToken(token.text, special=token.special, normalized=token.normalized)
                (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([added])
    except BaseException as error:
        raise _broken(files, error) from error
    for token in files.added:
        found = tokenizer.token_to_id(token.text)
        if found != token.id and (token.id < size or found is not None):
            raise FormatError(
                f"the files in {files.folder} disagree on the id of {token.text[:40]!r}: {token.id} and {found}",
                "use the tokenizer that the checkpoint was trained with",
            )
    return tokenizer


def original(files: TokenizerFiles, model: Model, tokenizer: Any, prefixed: bool) -> Original:
    """The tokenizer as the proof asks it."""

    def encode(texts: Sequence[str], special: bool) -> list[list[int]]:
        tokenizer.encode_special_tokens = not special
        try:
            return [found.ids for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        except BaseException as error:
            raise _broken(files, error) from error

    lost = [COMPOSED[step] for step in model.splitting.normalizer if step in COMPOSED]
    normalize: Callable[[str], str] | None = None
    if lost:
        normalize = tokenizer.normalizer.normalize_str
    elif any(step.startswith(METASPACE) and not step.startswith(NEVER) for step in model.splitting.steps):
        # to the SentencePiece model that this was made from, as to llama.cpp, the space in front is one more
        lost, normalize = [FRONT], _without_space
    made = merged_runs(files, model)
    added = tuple((token.text, token.id) for token in files.added if token.id not in made)
    # to llama.cpp these are special, to the file they are not
    ignored = [
        token.text
        for token in files.added
        if not token.marked and (token.special or looks_special(token.text) or not prefixed)
    ]
    return Original(files.bpe_name, encode, added, True, normalize, " and ".join(lost), prefixed, tuple(ignored))


def _without_space(text: str) -> str:
    return text.removeprefix(" ")


def _pair(merge: Any) -> tuple[str, str]:
    """A merge, written as two parts with a space between or as a list of two."""
    if isinstance(merge, str):
        left, _, right = merge.partition(" ")
        if " " not in right:
            return left, right
    elif isinstance(merge, list) and len(merge) == 2 and isinstance(merge[0], str) and isinstance(merge[1], str):
        return merge[0], merge[1]
    raise FormatError(f"tokenizer.json has a merge that makes no sense: {str(merge)[:60]}", AGAIN)


def _broken(files: TokenizerFiles, error: BaseException) -> BaseException:
    """What to raise for an error of the ``tokenizers`` package, whose panics are no ordinary exceptions."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
        return error
    return FormatError(f"{files.folder / files.bpe_name} cannot be used: {str(error)[:120]}", AGAIN)
