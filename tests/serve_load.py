"""`ggufrun serve` under load and attack: ``python -m tests.serve_load``; every figure it prints was measured just then.

The embedded model answers with poems, so that a wrong answer is seen. ``--model FILE`` compares the speed through the
front with that of the same child asked directly, in pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.poems import POEMS
from tests.support.serving import Serving, serving

CHAT = "/v1/chat/completions"
TITLES = sorted(POEMS)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def say(what: str, **figures: object) -> None:
    """One line."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
    sys.stdout.write(f"{what}: {told}\n")
    sys.stdout.flush()


def head(path: str, length: int, method: str = "POST") -> bytes:
    """The head of a request that keeps its connection."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


async def connect(where: int | str) -> Connection:
    """A connection to a port, or to a Unix socket."""
    if isinstance(where, int):
        return await asyncio.open_connection("127.0.0.1", where)
    return await asyncio.open_unix_connection(where)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, float]:
    """Status and body of an answer, and when its body began."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    status = int(lines[0].split()[1])
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if "content-length" in fields:
        return status, await reader.readexactly(int(fields["content-length"])), time.monotonic()
    parts, first = [], 0.0
    while size := int(await reader.readline(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
        if not first and b'"content":"' in parts[-1]:
            first = time.monotonic()
    await reader.readline()
    return status, b"".join(parts), first


async def ask(where: int | str, body: dict[str, Any], path: str = CHAT) -> tuple[int, bytes, float]:
    """One request on a connection of its own; the last figure is seconds to the first token."""
    reader, writer = await connect(where)
    try:
        data = json.dumps(body).encode()
        began = time.monotonic()
        writer.write(head(path, len(data)) + data)
        status, text, first = await answer(reader)
        return status, text, first - began
    finally:
        writer.close()


def text_of(body: bytes) -> str:
    """What an answer says, streamed or not."""
    if body.startswith(b"data: "):
        events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event.get("choices"))
    return str(json.loads(body)["choices"][0]["message"]["content"])


def resident(pid: int) -> float:
    """Megabytes of memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def poems(server: Serving, count: int, at_once: int, outcome: Counter[str]) -> None:
    """``count`` poems, ``at_once`` at a time, every second one streamed; what came of each is counted."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            title = TITLES[number % len(TITLES)]
            body = {"messages": [{"role": "user", "content": title}], "temperature": 0, "stream": number % 2 == 1}
            try:
                status, found, _ = await ask(server.port, body)
                if status == 200 and b'"error"' not in found:
                    outcome["right" if text_of(found) == POEMS[title] else "wrong"] += 1
                else:
                    outcome["error told"] += 1
            except (OSError, ValueError, asyncio.IncompleteReadError):
                outcome["lost"] += 1

    await asyncio.gather(*(work() for _ in range(at_once)))


async def held(server: Serving, count: int) -> None:
    """``count`` connections that are kept open while others are answered, and then used."""
    connections = [await connect(server.port) for _ in range(count)]
    request = head("/health", 0, "GET")
    good = 0
    for _ in range(2):
        for _, writer in connections:
            writer.write(request)
        good += sum([(await answer(reader))[0] == 200 for reader, _ in connections])
        outcome: Counter[str] = Counter()
        await poems(server, 50, 8, outcome)
    for _, writer in connections:
        writer.close()
    say("connections held", count=count, answered=f"{good} of {2 * count}", poems_meanwhile=dict(outcome))


async def many(server: Serving, count: int) -> None:
    """Many requests."""
    before, outcome, began = resident(server.process.pid), Counter[str](), time.monotonic()
    parts = []
    for _ in range(10):
        await poems(server, count // 10, 64, outcome)
        parts.append(round(resident(server.process.pid)))
    say("requests, 64 at once", outcome=dict(outcome), seconds=round(time.monotonic() - began, 1))
    say("memory of the front in MB", before=round(before), after_each_tenth=parts)


async def busy(server: Serving) -> int:
    """Slots that compute."""
    reader, writer = await connect(server.port)
    writer.write(head("/slots", 0, "GET"))
    found = json.loads((await answer(reader))[1])
    writer.close()
    return sum(slot["is_processing"] for slot in found)


async def vanished(server: Serving) -> None:
    """Clients that go away in the middle of an answer: how long their slots stay taken."""
    times = []
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "ignore_eos": True, "max_tokens": 4000}).encode()
    for number in range(10):
        _, writer = await connect(server.port)
        writer.write(head(CHAT, len(body)) + body)
        while not await busy(server):
            pass
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()
        left = time.monotonic()
        while await busy(server):
            pass
        times.append(time.monotonic() - left)
    say(
        "a vanished client's slot is free after",
        longest_ms=round(1000 * max(times)),
        median_ms=round(1000 * statistics.median(times)),
    )


async def hostile(server: Serving) -> None:
    """Requests that are meant to harm; a poem must come after each."""

    async def raw(data: bytes, more: bytes = b"", times: int = 0, pause: float = 0.0) -> str:
        reader, writer = await connect(server.port)
        began = time.monotonic()
        try:
            writer.write(data)
            for _ in range(times):
                if reader.at_eof() or reader._buffer:  # type: ignore[attr-defined]
                    break
                writer.write(more)
                with suppress(OSError):
                    await writer.drain()
                await asyncio.sleep(pause)
            line = await asyncio.wait_for(reader.read(200), 120)
            status = line.split(b" ")[1].decode() if line else "closed"
        except OSError:
            status = "closed"
        finally:
            writer.close()
        return f"{status} in {time.monotonic() - began:.1f} s"

    deep: Any = {"type": "string"}
    for _ in range(16):
        deep = {"type": "object", "properties": {"a": deep, "b": deep}}
    schemas: dict[str, Any] = {
        "a schema of 65,536 branches": deep,
        "a repetition without bound": {"type": "array", "items": {"maxLength": 10**9}, "maxItems": 10**9},
        "a pattern that explodes": {"type": "string", "pattern": "^(((a{0,999}){0,999}){0,999})$"},
        "a schema that refers to itself": {"$ref": "#"},
    }
    cases: dict[str, Any] = {
        "a body of 100 MB": lambda: raw(head(CHAT, 100 << 20), b"x" * (1 << 20), 100),
        "a chunked body of 100 MB": lambda: raw(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode(),
            b"100000\r\n" + b"x" * (1 << 20) + b"\r\n", 100,
        ),
        "a head of 1 MB": lambda: raw(b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 20)),
        "a head that never ends": lambda: raw(b"GET / HTTP/1.1\r\n", b"X: y\r\n", 60, 1.0),
        "a body that never comes": lambda: raw(head(CHAT, 1000), b"x", 100, 1.0),
        "JSON 100,000 deep": lambda: raw(head(CHAT, 100_000) + b"[" * 100_000),
        "no HTTP": lambda: raw(b"\x16\x03\x01\x00\xff" * 100),
        "two lengths": lambda: raw(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    }  # fmt: skip
    question = [{"role": "user", "content": "x"}]
    bodies: dict[str, dict[str, Any]] = {
        **{
            name: {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}, "max_tokens": 20}
            for name, schema in schemas.items()
        },
        "a grammar that repeats itself": {"grammar": 'root ::= (((("a"?){0,999}){0,999}){0,999})', "max_tokens": 5},
        "n of a million": {"n": 1_000_000},
        "numbers beyond all bounds": {"top_k": 10**30, "seed": -(10**30), "max_tokens": 5},
        "a bias of every token": {"logit_bias": {str(token): 1 for token in range(100_000)}, "max_tokens": 2},
        "types that are wrong": {"stop": {"a": 1}, "top_p": [], "logprobs": "x"},
    }

    async def bomb(body: dict[str, Any]) -> str:
        began = time.monotonic()
        try:
            status, _, _ = await asyncio.wait_for(ask(server.port, {"messages": question, **body}), 60)
            return f"{status} in {time.monotonic() - began:.1f} s"
        except (asyncio.TimeoutError, TimeoutError):
            return "given up after 60 s"
        except (OSError, asyncio.IncompleteReadError):
            return "closed"

    for name, run in [*cases.items(), *((name, lambda body=body: bomb(body)) for name, body in bodies.items())]:
        told = await run()
        outcome: Counter[str] = Counter()
        began = time.monotonic()
        await poems(server, 4, 2, outcome)
        say(name, answer=told, poems_after=dict(outcome), in_seconds=round(time.monotonic() - began, 1))


async def killed(server: Serving) -> None:
    """The model's process killed again and again under load. Thrice within a minute, and it rests for one."""
    outcome: Counter[str] = Counter()
    load = asyncio.ensure_future(poems(server, 2000, 16, outcome))
    kills = 0
    while not load.done() and kills < 2:
        await asyncio.sleep(0.7)
        for child in server.children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                kills += 1
    await load
    say("kill -9 of the model under load", kills=kills, outcome=dict(outcome), children=len(server.children()))


async def speed(server: Serving, pairs: int) -> None:
    """Eight streams at once through the front and from its child directly, in turns."""
    await ask(server.port, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    (child,) = server.children()
    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    socket = words[words.index(b"--host") + 1].decode()
    ratios, firsts = [], []
    for number in range(pairs):
        figures: dict[bool, tuple[float, float]] = {}
        for direct in (True, False) if number % 2 else (False, True):
            began = time.monotonic()
            jobs = []
            for job in range(8):
                question = f"Write a story about the number {100 * number + job}."
                body = {"messages": [{"role": "user", "content": question}], "max_tokens": 48, "stream": True}
                body |= {"temperature": 0, "ignore_eos": True, "cache_prompt": False}
                jobs.append(ask(socket if direct else server.port, body))
            found = await asyncio.gather(*jobs)
            assert all(status == 200 for status, _, _ in found)
            figures[direct] = (time.monotonic() - began, statistics.median(first for _, _, first in found))
        ratios.append(figures[True][0] / figures[False][0])
        firsts.append(figures[False][1] - figures[True][1])
    say(
        "through the front, compared with its child asked directly",
        throughput=f"{statistics.median(ratios):.3f} (of {pairs} pairs: {min(ratios):.2f} to {max(ratios):.2f})",
        first_token_later_ms=f"{1000 * statistics.median(firsts):.1f}",
    )


def swapped(models: list[Path], times: int) -> None:
    """Two models that do not fit together, asked in turns."""
    names = ["one", "two"]
    given = [f"{name}={path}" for name, path in zip(names, models, strict=True)]
    began, right = time.monotonic(), 0
    with serving(*given, "--memory", "40M", "-c", "1024", "-t", "1") as server:
        for number in range(times):
            body = {"model": names[number % 2], "messages": [{"role": "user", "content": "静夜思"}], "temperature": 0}
            reply = server.ask("POST", CHAT, body)
            right += reply.status == 200 and text_of(reply.body) == POEMS["静夜思"] and len(server.children()) == 1
        memory = resident(server.process.pid)
    say(
        "two models that do not fit together",
        swaps=times,
        right=right,
        seconds=round(time.monotonic() - began, 1),
        front_MB=round(memory),
    )


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--model", type=Path, help="compare the speed with this model instead")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of the model")
    options = parser.parse_args()
    if options.model is not None:
        threads = ("-t", str(options.threads)) if options.threads else ()
        with serving(options.model, "-np", "8", "-c", "512", *threads) as server:
            asyncio.run(speed(server, options.pairs))
        return
    from ggufrun.convert import pipeline
    from ggufrun.convert.plan import plan_convert
    from ggufrun.quantize.types import parse_file_type
    from ggufrun.server.run import more_files
    from tests.support.checkpoints import DEMO

    more_files(4096)
    with tempfile.TemporaryDirectory() as folder:
        models = [Path(folder) / f"{name}.gguf" for name in ("q8_0", "f16")]
        plan = plan_convert(
            DEMO,
            [parse_file_type(path.stem) for path in models],
            lambda kind: Path(folder) / f"{kind.name.lower()}.gguf",
        )
        pipeline.run(plan)
        plan.close()
        with serving(f"poet={models[0]}", "-t", "1", "--keep-alive", "-1") as server:
            asyncio.run(held(server, options.connections))
            asyncio.run(many(server, options.requests))
            asyncio.run(vanished(server))
            asyncio.run(killed(server))
            asyncio.run(hostile(server))
        swapped(models, options.swaps)


if __name__ == "__main__":
    main()
