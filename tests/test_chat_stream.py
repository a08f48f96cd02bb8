"""Streams: whatever way the bytes are cut, what comes out is the text, never a broken character, never a stop text."""

from __future__ import annotations

import random

import pytest

from ggufrun.chat.escapes import expand
from ggufrun.chat.stream import AnswerStream, StopStream, Utf8Stream

ALPHABET = ["a", "b", " ", "\n", "é", "诗", "春", "😀", "👨‍👩‍👧", "#", "##", "\ufffd"]


def pieces(data: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(2 * len(data) + 1)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def test_characters_come_out_whole() -> None:
    chance = random.Random(1)
    for _ in range(500):
        text = "".join(chance.choices(ALPHABET[:-1], k=chance.randrange(20)))
        stream = Utf8Stream()
        shown = ""
        for piece in pieces(text.encode(), chance):
            shown += stream.feed(piece)
            assert text.startswith(shown)
        assert shown == text


def test_bytes_of_no_character_are_never_shown() -> None:
    chance = random.Random(2)
    for _ in range(500):
        data = bytes(chance.randrange(256) for _ in range(chance.randrange(30)))
        stream = Utf8Stream()
        shown = "".join(stream.feed(piece) for piece in pieces(data, chance))
        shown.encode()
        # The last character may be waiting for its end.
        assert data.decode("utf-8", "ignore").startswith(shown) and "\ufffd" not in shown


def test_half_a_character_at_the_end_stays_unseen() -> None:
    stream = AnswerStream()
    assert stream.feed("春".encode() + "晓".encode()[:2]) == "春"
    assert stream.flush() == ""


def before_stop(text: str, stops: list[str]) -> str:
    for end in range(len(text)):
        ended = [stop for stop in stops if text[: end + 1].endswith(stop)]
        if ended:
            return text[: end + 1].removesuffix(max(ended, key=len))
    return text


def test_stop_texts() -> None:
    chance = random.Random(3)
    for _ in range(2000):
        text = "".join(chance.choices("abc", k=chance.randrange(14)))
        stops = ["".join(chance.choices("abc", k=chance.randrange(1, 4))) for _ in range(chance.randrange(3))]
        wanted = before_stop(text, stops)
        stream = StopStream(stops)
        shown = ""
        for piece in pieces(text.encode(), chance):
            shown += stream.feed(piece.decode())
            assert wanted.startswith(shown)
        assert shown + stream.flush() == wanted
        assert (stream.stop is None) == (wanted == text)


def test_nothing_is_held_back_without_reason() -> None:
    stream = StopStream(["###"])
    assert stream.feed("a#b") == "a#b"
    assert stream.feed("c##") == "c"
    assert stream.feed("d") == "##d"
    assert stream.feed("##") == "" and stream.flush() == "##"


def test_empty_stop_texts_are_ignored() -> None:
    assert StopStream(["", ""]).feed("a") == "a"


@pytest.mark.parametrize(
    ("fed", "strip", "shown"),
    [
        ([" 床", "前"], True, "床前"),
        (["  床"], True, " 床"),
        ([" ", "床"], True, "床"),
        (["", " 床"], True, "床"),
        (["床", " 前"], True, "床 前"),
        ([" 床"], False, " 床"),
    ],
)
def test_one_leading_space_belongs_to_the_vocabulary(fed: list[str], strip: bool, shown: str) -> None:
    stream = AnswerStream(strip_space=strip)
    assert "".join(stream.feed(piece.encode()) for piece in fed) + stream.flush() == shown


def test_tokens_before_a_stop() -> None:
    stream = AnswerStream(["Human:"])
    shown = "".join(stream.feed(piece) for piece in (b" yes", b"\n", b"Hum", b"an", b": no"))
    assert (shown, stream.stop, stream.tokens_before_stop) == ("yes\n", "Human:", 2)
    within = AnswerStream(["ab"])
    for piece in (b"x", b"ya", b"b"):
        within.feed(piece)
    # the second token reaches into the stop text
    assert (within.stop, within.tokens_before_stop) == ("ab", 1)


def test_tokens_within_what_is_shown() -> None:
    stream = AnswerStream()
    # a control token, a space of the vocabulary's, half a character, its other half
    for piece in (b"", b" ab", "床".encode()[:1], "床".encode()[1:] + b"c"):
        stream.feed(piece)
    assert [stream.tokens_within(length) for length in range(5)] == [1, None, 3, None, 4]
    bare = AnswerStream(strip_space=False)
    for piece in (b" ab", b"c"):
        bare.feed(piece)
    assert [bare.tokens_within(length) for length in range(5)] == [0, None, None, 1, 2]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\nb\tc\rd", "a\nb\tc\rd"),
        (r"\\n", r"\n"),
        (r"\'\"", "'\""),
        (r"\x41\x4a", "AJ"),
        (r"\xe5\xba\x8a", "床"),
        (r"\xE5", b"\xe5".decode("utf-8", "surrogateescape")),
        (r"\x4", r"\x4"),
        (r"\xzz", r"\xzz"),
        (r"C:\dir\file", r"C:\dir\file"),
        ("ends in \\", "ends in \\"),
        ("诗\\n", "诗\n"),
    ],
)
def test_escapes(written: str, meant: str) -> None:
    assert expand(written) == meant


def test_escapes_leave_bytes_of_a_command_line_alone() -> None:
    assert expand("\udce5\\n") == "\udce5\n"
