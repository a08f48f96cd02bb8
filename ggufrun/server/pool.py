"""Which models are loaded: on demand, as many as memory allows, gone when they have been idle for long enough."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufrun.engine.placement import system_memory
from ggufrun.errors import EngineError, GgufrunError
from ggufrun.server import upstream
from ggufrun.server.catalog import Entry
from ggufrun.server.child import Child, environment
from ggufrun.server.errors import ApiError, busy
from ggufrun.units import size_text

CRASHES, CRASH_SECONDS, REST_SECONDS = 3, 60.0, 60.0
"""So many ends within so many seconds, and a model is left alone for the rest."""

PROBE_SECONDS = 15.0
PLAN_SECONDS = 300.0
SHARE = 0.95
"""The part of the machine's memory that models may take together, unless the user says otherwise."""

Key = tuple[str, str]
Plan = dict[str, Any]


@dataclass
class Running:
    """A loaded model: its child, and who uses it. Times are of ``time.monotonic``."""

    entry: Entry
    plan: Plan
    child: Child
    slots: asyncio.Semaphore
    keep_alive: float
    loaded: float = field(default_factory=time.monotonic)
    last_used: float = field(default_factory=time.monotonic)
    load_seconds: float = 0.0
    leases: int = 0
    waiting: int = 0
    requests: int = 0

    @property
    def socket(self) -> str:
        """Where it is asked."""
        return self.child.socket

    @property
    def expires(self) -> float | None:
        """Seconds until it goes if nobody asks it; None for never."""
        return None if self.keep_alive < 0 else max(0.0, self.last_used + self.keep_alive - time.monotonic())

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask it something short. Raises ApiError when it ends meanwhile."""
        try:
            return await upstream.call(self.socket, method, path, body)
        except upstream.Vanished:
            raise await self.gone() from None

    async def gone(self) -> ApiError:
        """The error for a child that broke off."""
        with suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self.child.ended(), 2)
        words = f": {self.child.last_words}" if not self.child.alive else ""
        return ApiError(500, f"the model's process ended{words}; the next request starts it again", "model_crashed")


@dataclass(frozen=True)
class Limits:
    """``models`` loaded at once (0: as many as fit), ``queue`` requests that wait for each, ``seconds`` that one may
    take, ``memory`` bytes for all models together (None: most of what the machine has). A busy model that does not
    react for ``stall`` seconds is ended.
    """

    models: int = 0
    queue: int = 256
    seconds: float = 3600.0
    memory: int | None = None
    stall: float = 600.0


async def plan_in_process(entry: Entry, kind: str) -> Plan:
    """`ggufrun.server.plan` in a process of its own. Raises GgufrunError."""
    request = {"path": str(entry.path), "settings": entry.settings.as_json(), "kind": kind}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ggufrun.server.plan",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**environment(_environ()), **_python()}, limit=1 << 26,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(json.dumps(request).encode()), PLAN_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        raise EngineError(f"{entry.name} could not be examined in {PLAN_SECONDS:.0f} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
    try:
        answer = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        last = (err.decode("utf-8", "replace").strip().splitlines() or ["no answer"])[-1]
        raise EngineError(f"{entry.name} cannot be examined: {last[:300]}", "`ggufrun verify` knows more") from None
    if error := answer.get("error"):
        raise GgufrunError(error["what"], error["todo"])
    found: Plan = answer["plan"]
    return found


def _environ() -> dict[str, str]:
    import os

    return dict(os.environ)


def _python() -> dict[str, str]:
    """What Python itself needs in the helper's environment, and where the user's own styles are."""
    names = ("PYTHONPATH", "PYTHONHOME", "XDG_CONFIG_HOME", "VIRTUAL_ENV")
    return {name: value for name, value in _environ().items() if name in names}


class Pool:
    """The loaded models. ``program`` is llama.cpp's server, ``note`` hears a line of talk for each thing that happens,
    ``kind_of`` tells what a model is for, ``planned`` how it is loaded; ``heard`` hears what the children say.
    """

    def __init__(
        self,
        program: Path,
        limits: Limits,
        note: Callable[[str], None],
        kind_of: Callable[[Entry], str],
        planned: Callable[[Entry, str], Awaitable[Plan]] = plan_in_process,
        heard: Callable[[str], None] | None = None,
    ) -> None:
        self.limits = limits
        self.running: dict[Key, Running] = {}
        self.crashes: dict[str, int] = {}
        self._program = program
        self._note = note
        self._kind_of = kind_of
        self._planned = planned
        self._heard = heard
        self._loads: dict[Key, asyncio.Task[Running]] = {}
        self._waiting_for_load = 0
        self._one = asyncio.Lock()
        self._freed = asyncio.Event()
        self._ends: dict[Key, list[float]] = {}
        self._words: dict[Key, str] = {}
        self._count = 0
        # mkdtemp makes it for this user only
        self.folder = Path(tempfile.mkdtemp(prefix="ggufrun-"))
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def budget(self) -> int | None:
        """Bytes for all models together; None where the machine does not tell."""
        if self.limits.memory is not None:
            return self.limits.memory
        memory = system_memory.memory()
        total = memory.limit or memory.total
        return None if total is None else int(total * SHARE)

    @asynccontextmanager
    async def lease(self, entry: Entry, kind: str = "", generates: bool = True) -> AsyncIterator[Running]:
        """The loaded model, which does not go while this lasts. What ``generates`` waits for a place among the requests
        that it answers at once. Raises ApiError.
        """
        running = await self._get(entry, kind)
        running.leases += 1
        running.requests += 1
        taken = False
        try:
            if generates:
                if running.slots.locked():
                    if running.waiting >= self.limits.queue:
                        raise busy(f"{self.limits.queue} requests wait for {entry.name} already")
                    running.waiting += 1
                    try:
                        await running.slots.acquire()
                    finally:
                        running.waiting -= 1
                else:
                    await running.slots.acquire()
                taken = True
                if not running.child.alive:
                    raise await running.gone()
            yield running
        finally:
            if taken:
                running.slots.release()
            running.leases -= 1
            running.last_used = time.monotonic()
            self._freed.set()

    async def _get(self, entry: Entry, kind: str) -> Running:
        kind = kind or self._kind_of(entry)
        key = (entry.name, kind)
        found = self.running.get(key)
        if found is not None and found.child.alive:
            return found
        if self._closing:
            raise busy("the server is ending", 5)
        ends = [when for when in self._ends.get(key, []) if time.monotonic() - when < CRASH_SECONDS]
        if len(ends) >= CRASHES:
            rest = max(1, int(REST_SECONDS - (time.monotonic() - ends[-1])))
            raise busy(f"{entry.name} ended {len(ends)} times within a minute: {self._words.get(key, '')}", rest)
        task = self._loads.get(key)
        if task is None:
            task = self._loads[key] = asyncio.create_task(self._load(entry, kind))
            task.add_done_callback(lambda done: self._loads.pop(key, None))
            # an error that nobody waits for any more is not an error of the program
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._waiting_for_load >= self.limits.queue:
            raise busy(f"{self.limits.queue} requests wait for models to be loaded already")
        self._waiting_for_load += 1
        try:
            # A client that leaves does not end the load: others may wait for it, or the next comes soon.
            return await asyncio.wait_for(asyncio.shield(task), self.limits.seconds)
        except GgufrunError as error:
            raise ApiError(500, str(error), "model_not_loaded") from error
        except (TimeoutError, asyncio.TimeoutError):
            raise ApiError(504, f"{entry.name} was not loaded within {self.limits.seconds:.0f} seconds") from None
        finally:
            self._waiting_for_load -= 1

    async def _load(self, entry: Entry, kind: str) -> Running:
        async with self._one:
            began = time.monotonic()
            plan = await self._planned(entry, kind)
            plan = await self._make_room(entry, kind, plan)
            self._count += 1
            socket = self.folder / f"{self._count}.sock"
            command: list[str | Path] = [self._program, *plan["flags"], "--host", socket, "--alias", entry.name]
            if plan.get("template_file"):
                template = self.folder / f"{self._count}.jinja"
                template.write_text(plan["template_file"], encoding="utf-8")
                command += ["--chat-template-file", template]
            child = Child(command, socket, self._heard)
            try:
                await child.start()
            except GgufrunError:
                self._note_end((entry.name, kind), child)
                raise
            running = Running(
                entry, plan, child, asyncio.Semaphore(2 * entry.settings.parallel), entry.settings.keep_alive
            )
            running.load_seconds = time.monotonic() - began
            self.running[(entry.name, kind)] = running
            for line in plan.get("notes", ()):
                self._note(f"{entry.name}: {line}")
            self._note(f"{entry.name}: loaded in {running.load_seconds:.1f} s, {size_text(_bytes(plan))}")
            self._start(self._watch((entry.name, kind), running))
            self._start(self._probe(running))
            return running

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, key: Key, running: Running) -> None:
        await running.child.ended()
        if self.running.get(key) is running:
            del self.running[key]
            self._note_end(key, running.child)
            self._note(f"{key[0]}: its process ended: {running.child.last_words}")
            self._freed.set()

    async def _probe(self, running: Running) -> None:
        """End a process that is busy and does not react: what it computes would never end."""
        while running.child.alive:
            await asyncio.sleep(min(PROBE_SECONDS, self.limits.stall))
            if not running.leases or not running.child.alive:
                continue
            try:
                # this one is answered between two steps of the computation
                await asyncio.wait_for(upstream.call(running.socket, "GET", "/slots"), self.limits.stall)
            except upstream.Vanished:
                continue
            except (TimeoutError, asyncio.TimeoutError):
                self._note(f"{running.entry.name}: did not react for {self.limits.stall:g} s, and is ended")
                running.child.kill()

    def _note_end(self, key: Key, child: Child) -> None:
        now = time.monotonic()
        self._ends[key] = [when for when in self._ends.get(key, []) if now - when < CRASH_SECONDS] + [now]
        self._words[key] = child.last_words
        self.crashes[key[0]] = self.crashes.get(key[0], 0) + 1

    async def _make_room(self, entry: Entry, kind: str, plan: Plan) -> Plan:
        """End idle models, the least recently used first, until this one fits; wait while all are busy."""
        deadline = time.monotonic() + self.limits.seconds
        while not self._fits(plan):
            idle = [one for one in self.running.values() if one.leases == 0]
            if idle:
                victim = min(idle, key=lambda one: one.last_used)
                self._note(f"{victim.entry.name}: ended to make room for {entry.name}")
                await self.unload(victim)
            elif not self.running:
                budget = self.budget or 0
                if not entry.settings.oversize and _host(plan) > budget:
                    raise EngineError(
                        f"{entry.name} takes {size_text(_host(plan))}, and all models together may take "
                        f"{size_text(budget)}",
                        "take a smaller type of it, a shorter context (-c) or fewer requests at once (-np)",
                    )
                return plan
            elif not self._too_much(plan):
                # more of it would fit on the devices if others were not busy there
                return plan
            else:
                self._freed.clear()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise EngineError(f"there was no room for {entry.name}: all loaded models are busy")
                with suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), left)
                continue
            if plan["devices"]:
                plan = await self._planned(entry, kind)
        return plan

    def _too_much(self, plan: Plan) -> bool:
        if self.limits.models and len(self.running) >= self.limits.models:
            return True
        budget = self.budget
        return budget is not None and sum(_host(one.plan) for one in self.running.values()) + _host(plan) > budget

    def _fits(self, plan: Plan) -> bool:
        if self._too_much(plan):
            return False
        return bool(plan["whole"]) or not self.running

    async def unload(self, running: Running) -> None:
        """End a model, whoever uses it."""
        for key, one in list(self.running.items()):
            if one is running:
                del self.running[key]
        await running.child.stop()
        self._freed.set()

    async def sweep(self) -> None:
        """End the models that were idle for longer than they are kept; for ever, once a second."""
        while True:
            await asyncio.sleep(0.5)
            for running in list(self.running.values()):
                if running.leases == 0 and running.expires == 0:
                    self._note(f"{running.entry.name}: ended after {running.keep_alive:g} s without a request")
                    await self.unload(running)

    async def close(self) -> None:
        """End all of them."""
        self._closing = True
        for task in self._loads.values():
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)
        running = list(self.running.values())
        self.running.clear()
        await asyncio.gather(*(one.child.stop() for one in running), return_exceptions=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _host(plan: Plan) -> int:
    return int(plan["host"])


def _bytes(plan: Plan) -> int:
    return _host(plan) + sum(map(int, plan["devices"].values()))
