"""`ggufrun serve` with the embedded model: what clients ask, and what they get."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import DEMO
from tests.support.poems import POEMS
from tests.support.serving import Serving, serving

TITLE = "静夜思"
ASK = [{"role": "user", "content": TITLE}]
CHAT = "/v1/chat/completions"
BOMB = {"type": "string", "pattern": "^(((a{0,999}){0,999}){0,999})$"}


@pytest.fixture(scope="module")
def server(demo_gguf: Callable[[str], Path]) -> Iterator[Serving]:
    poet = demo_gguf("q8_0")
    with serving(f"poet={poet}", "-np", "2", "-t", "1", "--log-requests", "--metrics", "--max-body", "1M") as running:
        yield running


def chat_says(model: Path, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ggufrun", "chat", str(model), "--temp", "0", *flags, TITLE],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize("style", [None, "alpaca-2"])
def test_the_answer_is_that_of_chat(server: Serving, demo_gguf: Callable[[str], Path], style: str | None) -> None:
    more = {"style": style} if style else {}
    whole = server.post(CHAT, messages=ASK, temperature=0, **more).json
    text = whole["choices"][0]["message"]["content"]
    assert text == chat_says(demo_gguf("q8_0"), *(("--style", style) if style else ())) == POEMS[TITLE]
    streamed = server.post(CHAT, messages=ASK, temperature=0, stream=True, **more)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    deltas = [event["choices"][0]["delta"] for event in streamed.events]
    assert "".join(delta.get("content") or "" for delta in deltas) == text
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert whole["usage"]["completion_tokens"] > 20 and whole["choices"][0]["finish_reason"] == "stop"


def test_the_models_are_listed(server: Serving) -> None:
    for path in ("/v1/models", "/models", "/v1/models/"):
        (row,) = server.ask("GET", path).json["data"]
        assert (row["id"], row["object"], row["meta"]["n_params"]) == ("poet", "model", 3410176)
    assert server.ask("GET", "/v1/models/POET").json["id"] == "poet"
    assert server.ask("GET", "/health").json == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "other", "messages": ASK}, 404, "model_not_found"),
        ({"model": "../poet", "messages": ASK}, 404, "model_not_found"),
        ({"model": 7, "messages": ASK}, 400, None),
        (b"{", 400, None),
        (b"[1]", 400, None),
        ({"messages": ASK, "temperature": "hot"}, 400, None),
        ({"messages": ASK, "tool_choice": "required"}, 400, None),
        ({"messages": ASK, "style": "no-such"}, 400, None),
        ({"messages": ASK, "response_format": {"type": "json_schema", "json_schema": {"schema": BOMB}}}, 400, None),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/"}}]}]},
            400,
            None,
        ),
        (b" " * 1_100_000, 413, None),
    ],
)
def test_mistakes_are_told_in_openais_form(server: Serving, body: object, status: int, code: str | None) -> None:
    reply = server.ask("POST", CHAT, body)
    assert reply.status == status
    error = reply.json["error"]
    assert error["message"] and set(error) == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/props"),
        ("POST", "/slots/0?action=save"),
        ("GET", "/tools"),
        ("POST", "/tools"),
        ("GET", "/cors-proxy?url=http://example.com"),
        ("POST", "/lora-adapters"),
        ("GET", "/../../etc/passwd"),
        ("GET", "/v1/nothing"),
        ("DELETE", "/v1/models"),
    ],
)
def test_what_is_not_offered_is_refused_as_json(server: Serving, method: str, path: str) -> None:
    reply = server.ask(method, path, {} if method == "POST" else None)
    assert reply.status in (404, 405) and reply.json["error"]["message"]


def test_pages_of_strangers_get_nothing(server: Serving) -> None:
    assert server.ask("POST", CHAT, {"messages": ASK}, origin="http://evil.example").status == 403
    assert server.ask("GET", "/v1/models", host="evil.example").status == 403
    near = server.ask("GET", "/v1/models", origin="http://localhost:3000")
    assert (near.status, near.headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
    assert "access-control-allow-origin" not in server.ask("GET", "/v1/models").headers


def test_completions_and_llama_cpps_own_endpoints(server: Serving) -> None:
    done = server.post("/v1/completions", prompt="床前明月", temperature=0, max_tokens=4).json
    assert done["choices"][0]["text"].startswith("光")
    ids = server.post("/tokenize", content="床前明月光").json["tokens"]
    assert ids == server.post("/tokenize", model="poet", prompt="床前明月光").json["tokens"]
    assert server.post("/detokenize", tokens=ids).json["content"].strip() == "床前明月光"
    assert "静夜思" in server.post("/apply-template", messages=ASK).json["prompt"]
    assert "<<SYS>>" in server.post("/apply-template", messages=ASK, style="alpaca-2").json["prompt"]
    assert "model_path" not in server.ask("GET", "/props").json
    assert len(server.ask("GET", "/slots").json) == 2


def test_a_model_is_asked_for_what_it_is_made_for(server: Serving) -> None:
    reply = server.post("/v1/rerank", query="a", documents=["b", "c"])
    assert (reply.status, reply.json["error"]["code"]) == (400, "wrong_kind")


def test_structured_output_and_probabilities(server: Serving) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["红", "绿"]}}}
    for more in ({}, {"style": "alpaca-2"}):
        text = server.post(CHAT, messages=ASK, response_format=form, **more).json["choices"][0]["message"]["content"]
        assert text in ('"红"', '"绿"')
        found = server.post(CHAT, messages=ASK, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2, **more).json
        rows = found["choices"][0]["logprobs"]["content"]
        assert len(rows) == 3 and all(len(row["top_logprobs"]) == 2 and row["logprob"] <= 0 for row in rows)


def test_a_tool_that_must_be_called_is_called(server: Serving) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    named = {"type": "function", "function": {"name": "look"}}
    for choice in ("required", named):
        body = {"messages": ASK, "tools": [tool], "tool_choice": choice, "temperature": 0}
        (call,) = server.post(CHAT, **body).json["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "look" and call["function"]["arguments"].startswith("{")
        deltas = [event["choices"][0]["delta"] for event in server.post(CHAT, **body, stream=True).events]
        assert [delta["tool_calls"][0]["function"]["name"] for delta in deltas if "tool_calls" in delta] == ["look"]


def test_embeddings_have_a_process_of_their_own(server: Serving) -> None:
    data = server.post("/v1/embeddings", model="poet", input=["床前", "明月"]).json["data"]
    width = json.loads((DEMO / "config.json").read_text())["hidden_size"]
    assert [len(row["embedding"]) for row in data] == [width, width] and data[0]["embedding"] != data[1]["embedding"]
    assert len(server.children()) == 2


def test_a_killed_model_is_an_error_and_comes_back(server: Serving) -> None:
    assert server.post(CHAT, messages=ASK, max_tokens=1).status == 200
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        body = b'{"messages":[{"role":"user","content":"x"}],"ignore_eos":true,"max_tokens":3000,"stream":true}'
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        heard = connection.recv(1 << 16)
        assert b"200 OK" in heard
        for child in server.children():
            os.kill(child, signal.SIGKILL)
        while not heard.endswith(b"0\r\n\r\n"):
            piece = connection.recv(1 << 16)
            assert piece
            heard += piece
    assert b'"code": "model_crashed"' in heard and b"SIGKILL" in heard and b"[DONE]" not in heard
    assert server.post(CHAT, messages=ASK, temperature=0).json["choices"][0]["message"]["content"] == POEMS[TITLE]


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_a_client_that_goes_away_frees_its_slot(server: Serving, stream: bytes) -> None:
    """llama.cpp's server continues for a client that is gone, unless it streams."""
    body = b'{"messages":[{"role":"user","content":"x"}],"ignore_eos":true,"max_tokens":4000,"stream":%s}' % stream
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def slots() -> list[dict[str, int]]:
        found: list[dict[str, int]] = server.ask("GET", "/slots").json
        return found

    def left_behind() -> int:
        """Tokens in the slot when it is free again; the whole would have more than 4000."""
        server.post(CHAT, messages=ASK, max_tokens=1)
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(head + body)
        deadline = time.monotonic() + 60
        while not any(slot["is_processing"] for slot in slots()):
            assert time.monotonic() < deadline
        connection.close()
        found = slots()
        while any(slot["is_processing"] for slot in found):
            assert time.monotonic() < deadline
            found = slots()
        return max(slot.get("n_prompt_tokens", 0) for slot in found)

    # on a machine with other work we may come too late to leave
    assert any(0 < left_behind() < 3900 for _ in range(5)), "it was computed to its end"


def test_nothing_that_was_said_is_in_the_log(server: Serving) -> None:
    server.post(CHAT, messages=[{"role": "user", "content": "geheim-7319"}], max_tokens=2)
    text = "".join(server.said)
    assert f"POST {CHAT} 200 poet" in text and "geheim" not in text
    figures = server.ask("GET", "/metrics").body.decode()
    assert 'ggufrun_requests_total{path="/v1/chat/completions",status="200"}' in figures and "geheim" not in figures
    assert 'llamacpp_tokens_predicted_total{model="poet"}' in figures


# --- servers of their own ---------------------------------------------------------------------------------------------


def test_keys_memory_idleness_and_the_end(demo_gguf: Callable[[str], Path]) -> None:
    """Two models of which one fits, a short life, a key; and nothing is left after kill -9."""
    models = [f"{name}={demo_gguf(name)}" for name in ("q8_0", "f16")]
    with serving(*models, "--memory", "40M", "-c", "1024", "-t", "1", "--api-key", "k", "--keep-alive", "1h") as server:
        assert server.ask("GET", "/v1/models").status == 401
        key = {"authorization": "Bearer k"}
        for name in ("q8_0", "f16", "q8_0"):
            body = {"model": name, "messages": ASK, "temperature": 0}
            reply = server.ask("POST", CHAT, body, **key)
            assert reply.json["choices"][0]["message"]["content"] == POEMS[TITLE]
            loaded = [row["id"] for row in server.ask("GET", "/v1/models", **key).json["data"] if row["meta"]["n_ctx"]]
            assert loaded == [name] and len(server.children()) == 1
        assert any("ended to make room for f16" in line for line in server.said)
        (child,) = server.children()
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_idle_model_goes_and_the_server_ends_clean(demo_gguf: Callable[[str], Path]) -> None:
    with serving(f"poet={demo_gguf('q8_0')}", "-t", "1", "-np", "1", "--keep-alive", "0") as server:
        assert server.post(CHAT, messages=ASK, max_tokens=2).status == 200
        deadline = time.monotonic() + 20
        while server.children():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 130
    assert any("without a request" in line for line in server.said)


def test_a_port_that_is_taken_and_an_open_address_are_one_line(demo_gguf: Callable[[str], Path]) -> None:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ggufrun", "serve", str(demo_gguf("q8_0")), *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = run("--port", str(other.getsockname()[1]))
    assert taken.returncode == 2 and taken.stderr.count("\n") == 1 and "cannot listen at" in taken.stderr
    wide = run("--host", "0.0.0.0")
    assert wide.returncode == 2 and "no API key is set" in wide.stderr and wide.stdout == ""


def test_a_folder_is_looked_through_again_and_answers_end_before_the_server(
    demo_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "one.gguf").symlink_to(demo_gguf("q8_0"))
    with serving("-t", "1", "-np", "1", GGUFRUN_MODELS=str(tmp_path), GGUFRUN_STORES="none") as server:

        def names() -> list[str]:
            return [row["id"] for row in server.ask("GET", "/v1/models").json["data"]]

        assert names() == ["one"]
        (tmp_path / "two.gguf").symlink_to(demo_gguf("q8_0"))
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while names() != ["one", "two"]:
            assert time.monotonic() < deadline
        # a name that is missed makes it look again, too
        (tmp_path / "three.gguf").symlink_to(demo_gguf("q8_0"))
        while server.post(CHAT, model="three", messages=ASK, max_tokens=1).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            asked = {"model": "three", "messages": ASK, "ignore_eos": True, "max_tokens": 1500, "stream": True}
            body = json.dumps(asked).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)
            heard = connection.recv(1 << 16)
            server.process.send_signal(signal.SIGTERM)
            while piece := connection.recv(1 << 16):
                heard += piece
        assert b"data: [DONE]" in heard and b'"finish_reason":"length"' in heard
        assert server.process.wait(20) == 0
        with pytest.raises(OSError):
            server.ask("GET", "/health")
