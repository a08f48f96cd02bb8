"""Ollama's API, in the words of its clients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufrun.server.apis import ollama, ollama_chat
from ggufrun.server.errors import ApiError
from tests.support.poems import POEMS
from tests.support.serving import Serving, serving

TITLE = "静夜思"
ASK = [{"role": "user", "content": TITLE}]


@pytest.fixture(scope="module")
def server(demo_gguf: Callable[[str], Path]) -> Iterator[Serving]:
    with serving(f"poet={demo_gguf('q8_0')}", "-np", "2", "-t", "1") as running:
        yield running


def test_a_chat_is_a_line_a_piece(server: Serving) -> None:
    reply = server.post("/api/chat", model="poet:latest", messages=ASK, options={"temperature": 0})
    assert reply.headers["content-type"] == "application/x-ndjson"
    *lines, last = reply.lines
    assert "".join(line["message"]["content"] for line in lines) == POEMS[TITLE]
    assert all(line["message"]["role"] == "assistant" and line["done"] is False for line in lines)
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "stop", 27)
    assert last["prompt_eval_count"] > 5 and last["total_duration"] >= last["eval_duration"] > 0
    whole = server.post("/api/chat", model="poet", messages=ASK, options={"temperature": 0}, stream=False).json
    assert whole["message"] == {"role": "assistant", "content": POEMS[TITLE]} and whole["done"]


def test_generate_asks_continues_and_keeps_to_a_format(server: Serving) -> None:
    def said(**body: object) -> str:
        reply = server.post("/api/generate", model="poet", stream=False, **body)
        assert reply.status == 200, reply.body
        return str(reply.json["response"])

    greedy = {"temperature": 0}
    assert said(prompt=TITLE, options=greedy) == POEMS[TITLE]
    assert said(prompt="床前明月", raw=True, options={**greedy, "num_predict": 4}).startswith("光")
    schema = {"type": "object", "properties": {"a": {"enum": ["红"]}}, "required": ["a"], "additionalProperties": False}
    assert json.loads(said(prompt=TITLE, format=schema)) == {"a": "红"}
    assert said(prompt=TITLE, options={**greedy, "num_predict": -1, "stop": ["月"]}) == "床前明"
    cut = server.post("/api/generate", model="poet", prompt=TITLE, options={"num_predict": 2}, stream=False).json
    assert (cut["done_reason"], cut["eval_count"]) == ("length", 2)


def test_models_are_listed_shown_loaded_and_unloaded(server: Serving) -> None:
    (row,) = server.ask("GET", "/api/tags").json["models"]
    assert (row["name"], row["model"], row["details"]["quantization_level"]) == ("poet", "poet", "Q8_0")
    assert len(row["digest"]) == 64 and row["modified_at"].endswith("Z")
    shown = server.post("/api/show", name="POET").json
    assert shown["model_info"]["llama.context_length"] == 4096 and shown["capabilities"][0] == "completion"
    loaded = server.post("/api/generate", model="poet", keep_alive="10m").json
    assert loaded["done_reason"] == "load"
    (running,) = server.ask("GET", "/api/ps").json["models"]
    assert running["context_length"] == 4096 and running["expires_at"] > row["modified_at"]
    assert server.post("/api/chat", model="poet", keep_alive=0).json["done_reason"] == "unload"
    deadline = time.monotonic() + 20
    while server.ask("GET", "/api/ps").json["models"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.ask("GET", "/").body == b"Ollama is running" and server.ask("HEAD", "/").status == 200
    assert server.ask("GET", "/api/version").json["version"].count(".") == 2


def test_embeddings_are_of_length_one(server: Serving) -> None:
    found = server.post("/api/embed", model="poet", input=["床前", "明月"]).json
    assert len(found["embeddings"]) == 2 and found["prompt_eval_count"] > 2
    old = server.post("/api/embeddings", model="poet", prompt="床前").json["embedding"]
    assert sum(value * value for value in old) == pytest.approx(1, abs=1e-3)
    assert old == pytest.approx(found["embeddings"][0], abs=1e-4)
    short = server.post("/api/embed", model="poet", input="床前", dimensions=8).json["embeddings"][0]
    assert len(short) == 8 and sum(value * value for value in short) == pytest.approx(1, abs=1e-6)
    long = server.post("/api/embed", model="poet", input="月" * 9000)
    assert long.status == 200 and len(long.json["embeddings"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {"model": "nobody", "messages": ASK}, 404),
        ("/api/chat", {"model": "poet", "messages": [7]}, 400),
        ("/api/chat", {"model": "poet", "messages": ASK, "format": 7}, 400),
        ("/api/chat", {"model": "poet", "messages": ASK, "options": 7}, 400),
        ("/api/chat", {"model": "poet", "messages": ASK, "keep_alive": "soon"}, 400),
        ("/api/embed", {"model": "poet", "input": 7}, 400),
        ("/api/pull", {"model": "x/y"}, 501),
        ("/api/create", {"model": "x"}, 501),
        ("/api/nothing", {}, 404),
        ("/api/chat", b"{", 400),
    ],
)
def test_errors_are_ollamas(server: Serving, path: str, body: object, status: int) -> None:
    reply = server.ask("POST", path, body)
    assert reply.status == status and set(reply.json) == {"error"} and isinstance(reply.json["error"], str)


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, None), (0, 0), (-1, -1), ("5m", 300), ("1h30m", 5400), ("-1m", -60), ("7", 7)]
)
def test_how_long_a_model_is_kept(given: object, seconds: float | None) -> None:
    assert ollama.kept_seconds(given) == seconds


def test_messages_and_calls_are_translated() -> None:
    call = {"function": {"name": "look", "arguments": {"at": "月"}}}
    found = ollama_chat.message_of({"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]})
    assert found["reasoning_content"] == "hm"
    assert found["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": "月"}'}
    picture = ollama_chat.message_of({"role": "user", "content": "what?", "images": ["AAAA"]})
    assert picture["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"
    for wrong in ({"role": 7}, {"role": "user", "content": [7]}, {"role": "user", "images": [7]}, "x"):
        with pytest.raises(ApiError):
            ollama_chat.message_of(wrong)
    assert ollama_chat.options_of({"options": {"num_ctx": 9, "num_gpu": 1, "num_predict": -2, "top_k": 3}}) == {
        "top_k": 3
    }
