"""Past one machine: workers, what runs on them, and what happens when they are not there or die."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufrun.engine.placement import remote, worker
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama
from tests.conftest import Oracle
from tests.support import workers
from tests.support.shapes import Shape, write_shape

POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"

pytestmark = pytest.mark.skipif(not llama().llama_supports_rpc(), reason="this engine is built without RPC")


def run(*arguments: str, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufrun", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False
    )


@pytest.fixture(scope="module")
def two() -> Iterator[list[workers.Worker]]:
    with workers.running(2) as started:
        yield started


# --- running on them --------------------------------------------------------------------------------------------------


def test_an_answer_from_two_workers(two: list[workers.Worker], demo_gguf: Callable[[str], Path]) -> None:
    model = str(demo_gguf("f16"))
    done = run("chat", model, "背一下静夜思", "--temp", "0", "--rpc", workers.addresses(two))
    assert (done.stdout, done.returncode) == (POEM, 0), done.stderr
    assert all("a client came" in one.said for one in two)
    alone = run("complete", model, "-p", "床前", "-n", "20", "--temp", "0")
    spread = run("complete", model, "-p", "床前", "-n", "20", "--temp", "0", "--rpc", workers.addresses(two))
    assert spread.stdout == alone.stdout != ""


@pytest.mark.parametrize(
    "split", [["-ts", "1,3"], ["-ngl", "2"], ["-ngl", "0"], ["-ngl", "all"], ["-ot", "ffn_down=CPU"], ["-sm", "none"]]
)
def test_however_it_is_split(two: list[workers.Worker], demo_gguf: Callable[[str], Path], split: list[str]) -> None:
    done = run("chat", str(demo_gguf("f16")), "背一下静夜思", "--temp", "0", "--rpc", workers.addresses(two), *split)
    assert (done.stdout, done.returncode) == (POEM, 0), done.stderr


def test_the_measuring_commands(two: list[workers.Worker], demo_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    model, there = str(demo_gguf("f16")), ["--rpc", workers.addresses(two)]
    measured = [run("perplexity", model, "--chunks", "2", "--json", *where) for where in ([], there)]
    alone, spread = (json.loads(done.stdout)["perplexity"] for done in measured)
    assert spread == pytest.approx(alone, rel=1e-3)
    rows = json.loads(run("bench", model, "-p", "16", "-n", "4", "-r", "1", "--json", *there).stdout)
    assert [row["backends"] for row in rows] == ["RPC", "RPC"] and rows[0]["n_gpu_layers"] == 5
    done = run("imatrix", model, "--chunks", "1", "-o", str(tmp_path / "im.gguf"), *there)
    assert done.returncode == 0 and (tmp_path / "im.gguf").stat().st_size > 10_000, done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-sm", "row"], "does not support split buffers; split by layers: -sm layer"),
        (["-sm", "none", "-mg", "3"], "main_gpu: 3 (available devices: 2); -mg counts the devices from 0"),
        (["-ot", "ffn=NOWHERE"], "there is no buffer type NOWHERE; choose from CPU, RPC0["),
        (["-ot", "(?P<a>ffn)=CPU"], "-ot takes C++'s regular expressions"),
    ],
)
def test_what_cannot_be_placed_is_one_line(
    two: list[workers.Worker], demo_gguf: Callable[[str], Path], flags: list[str], said: str
) -> None:
    done = run("chat", str(demo_gguf("f16")), "hello", "--rpc", workers.addresses(two), *flags)
    assert done.returncode != 0 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_as_llama_cpp_fits(oracle: Oracle, two: list[workers.Worker], tmp_path: Path) -> None:
    """The number of layers that llama.cpp's own --fit chooses, and never fewer."""
    shape = Shape(layers=6, width=512, inner=1408, heads=8, kv_heads=8, trained=512)
    path = write_shape(tmp_path / "shape.gguf", shape)
    there = ["--rpc", two[0].address, "-c", "512", "-ub", "64"]
    free = json.loads(run("inspect", str(path), "--fit", "--json", *there).stdout)["places"][0]["free"] >> 20
    seen = set()
    for budget in (8, 20, 32, 44):
        target = ["-fitt", str(free - budget)]
        ours = json.loads(run("inspect", str(path), "--fit", "--json", *there, *target).stdout)["layers"]
        command = [str(oracle.binaries / "llama-completion"), "-m", str(path), *there, *target, "-b", "64"]
        command += ["-n", "1", "-p", "A", "-no-cnv", "-v"]
        printed = oracle.run(*command)
        theirs = int(re.findall(r"offloaded (\d+)/7 layers", printed)[-1])
        assert theirs <= ours <= theirs + 1, (budget, ours, theirs)
        seen.add(ours)
    assert len(seen) > 2


FITS = """
import json, sys
from pathlib import Path
from ggufrun.engine.placement import fit; from ggufrun.engine.placement import remote
from ggufrun.engine.context import ContextParams
from ggufrun.engine.placement.memory import measure
from ggufrun.engine.model import ModelParams
path, endpoints, budgets = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
devices = remote.connect(remote.parse(endpoints))
context, rows = ContextParams(n_ctx=512, n_ubatch=64), []

def roomy(layers, shares):
    params = ModelParams(path, layers, placement=fit.Placement(shares=tuple(map(float, shares))))
    return all(place.left >= margin or not place.use.weights for place in measure(params, context).devices)

for budget in budgets:
    margin = devices[0].free - budget
    found = fit.choose(ModelParams(path), context, margin)
    use = [place.use.total for place in found.footprint.devices]
    possible = [
        layers
        for layers in range(found.of + 1)
        for shares in ([()] if len(devices) == 1 or not layers else [(a, layers - a) for a in range(layers + 1)])
        if roomy(layers, shares)
    ]
    rows.append({"layers": found.layers, "most": max(possible), "use": use, "of": found.of})
print(json.dumps(rows))
"""


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_chosen_is_what_fits(two: list[workers.Worker], tmp_path: Path, count: int) -> None:
    """The engine's own measure of every possible number of layers, on budgets from nothing to everything."""
    shape = Shape(layers=9, width=256, inner=704, heads=8, kv_heads=4, trained=512)
    path = write_shape(tmp_path / "shape.gguf", shape)
    budgets = [0, 3 << 20, 9 << 20, 14 << 20, 22 << 20, 35 << 20, 1 << 30]
    command = [sys.executable, "-c", FITS, str(path), workers.addresses(two[:count]), json.dumps(budgets)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    for budget, row in zip(budgets, rows, strict=True):
        assert row["most"] - 1 <= row["layers"] <= row["most"], (budget, row)
        assert not row["layers"] or all(use <= budget for use in row["use"]), (budget, row)
    assert rows[0]["layers"] == 0 and rows[-1]["layers"] == rows[-1]["of"] == 10
    assert any(0 < row["layers"] < 10 for row in rows)


# --- when they are not there ------------------------------------------------------------------------------------------


def test_nobody_listens(demo_gguf: Callable[[str], Path]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run("chat", str(demo_gguf("f16")), "hello", "--rpc", f"127.0.0.1:{port}")
    assert done.returncode == 1 and done.stdout == ""
    line = f"ggufrun: no worker listens at 127.0.0.1:{port}; start it there: `ggufrun worker --port {port}`\n"
    assert done.stderr == line


def answering(reply: bytes | None) -> tuple[socket.socket, remote.Endpoint]:
    """Somebody who listens and answers so, or who never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(100)
        if reply is not None:
            connection.sendall(reply)
            connection.close()
        else:
            threading.Event().wait(5)

    threading.Thread(target=serve, daemon=True).start()
    return listener, remote.Endpoint("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (None, "does not answer; it may serve somebody else"),
        (b"", "is not a worker, or one of another version"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not a worker, or one of another version"),
        (b"\x1c" + bytes(7) + b"\x05\x01\x02\x00" + bytes(24), "speaks version 5.1.2 of the protocol, this engine 7"),
    ],
)
def test_whoever_else_listens_is_told_in_a_line(reply: bytes | None, said: str) -> None:
    listener, endpoint = answering(reply)
    with listener, pytest.raises(EngineError, match=said) as caught:
        remote.check(endpoint, patience=0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", ",", ":1", "host:port", "host:0", "host:70000", "::1:5", ",".join(f"h:{i}" for i in range(1, 18))]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--rpc"):
        remote.parse(text)


def test_addresses() -> None:
    assert remote.parse("a:1, b ,a:1") == (remote.Endpoint("a", 1), remote.Endpoint("b", remote.PORT))


def test_a_worker_that_dies_ends_in_a_line_and_a_session(demo_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    model, session = str(demo_gguf("f16")), tmp_path / "talk.json"
    asked = ["chat", model, "-i", "--temp", "0", "--session", str(session)]
    with workers.running(1) as (one,):
        talk = subprocess.Popen(
            [sys.executable, "-m", "ggufrun", *asked, "--ignore-eos", "-n", "3500", "--rpc", one.address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert talk.stdin is not None and talk.stdout is not None and talk.stderr is not None
        talk.stdin.write("背一下静夜思\n")
        talk.stdin.flush()
        said = talk.stdout.readline()
        os.kill(one.process.pid, signal.SIGKILL)
        rest, errors = talk.stdout.read(), talk.stderr.read()
        assert talk.wait(20) == 1
    assert said == POEM.splitlines(keepends=True)[0]
    last = errors.strip().splitlines()
    assert len(last) == 1, errors
    assert last[0].startswith("ggufrun: a worker of --rpc died or cannot be reached any more")
    assert f"--session {session} continues it" in last[0]
    kept = json.loads(session.read_text())
    assert kept["turns"][0]["user"] == "背一下静夜思" and (said + rest)[:40] in kept["turns"][0]["answer"] + "\n"
    again = run(*asked[:2], "作者是谁？", "--temp", "0", "--session", str(session), "-n", "8")
    assert again.returncode == 0 and again.stdout, again.stderr


# --- the worker itself ------------------------------------------------------------------------------------------------


def test_a_public_address_needs_a_word() -> None:
    done = run("worker", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode != 0 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in ("no passwords and no encryption", "ssh -N -L", "--public"):
        assert word in done.stderr


def test_a_public_worker_is_warned() -> None:
    one = workers.start(["--host", "0.0.0.0", "--port", "0", "--public"])
    workers.end(one)
    assert any(line.startswith("warning: ") and "ssh -N -L" in line for line in one.said)


def test_a_port_that_is_taken(two: list[workers.Worker]) -> None:
    done = run("worker", "--port", two[0].address.rpartition(":")[2])
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "cannot listen at 127.0.0.1:" in done.stderr and "another --port" in done.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "999.1.1.1", "a b", "x" * 80])
def test_an_address_that_is_none(host: str) -> None:
    with pytest.raises(EngineError, match="is not an address of this machine"):
        worker.resolve_host(host)


def test_a_device_that_is_not_there() -> None:
    done = run("worker", "--device", "CUDA7")
    assert done.returncode != 0 and "there is no device CUDA7; choose from CPU" in done.stderr


def test_what_loopback_is() -> None:
    assert all(map(worker.loopback, ("127.0.0.1", worker.resolve_host("localhost"), "127.9.9.9", "::1")))
    assert not any(map(worker.loopback, ("0.0.0.0", "10.0.0.1", "example.org", "")))


def test_ctrl_c_ends_it() -> None:
    one = workers.start()
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(10) in (-signal.SIGINT, 130)


# --- between machines, as far as one machine can show it --------------------------------------------------------------


@pytest.fixture
def namespace() -> Iterator[tuple[str, Callable[..., None]]]:
    """A network of its own, with 10.213.77.2 in it and 10.213.77.1 here; and the function that runs ``ip``."""
    ip = shutil.which("ip")
    if ip is None or os.geteuid() != 0:
        pytest.skip("making a network namespace needs root and the ip command")
    name = f"gg{uuid.uuid4().hex[:8]}"
    near, far = f"{name}a", f"{name}b"

    def do(*words: str) -> None:
        subprocess.run([ip, *words], check=True, capture_output=True)

    try:
        do("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        do("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        do("addr", "add", "10.213.77.1/30", "dev", near)
        do("link", "set", near, "up")
        do("-n", name, "addr", "add", "10.213.77.2/30", "dev", far)
        do("-n", name, "link", "set", far, "up")
        yield name, do
    finally:
        # a namespace lives on while a connection in it is given up; the pair of devices must not
        subprocess.run([ip, "link", "del", near], check=False, capture_output=True)
        do("netns", "del", name)


def test_between_network_namespaces(
    namespace: tuple[str, Callable[..., None]], demo_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    name, do = namespace
    model, inside = str(demo_gguf("f16")), ["ip", "netns", "exec", name]
    one = workers.start(["--host", "10.213.77.2", "--port", "50052", "--public"], inside)
    try:
        done = run("chat", model, "背一下静夜思", "--temp", "0", "--rpc", "10.213.77.2")
        assert (done.stdout, done.returncode) == (POEM, 0), done.stderr
        # the network goes away without a word
        command = [sys.executable, "-m", "ggufrun", "chat", model, "背一下静夜思", "--temp", "0", "--ignore-eos"]
        talk = subprocess.Popen(
            [*command, "-n", "3900", "--session", str(tmp_path / "talk.json"), "--rpc", "10.213.77.2"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert talk.stdout is not None and talk.stderr is not None
        assert talk.stdout.readline() == POEM.splitlines(keepends=True)[0]
        do("-n", name, "link", "set", f"{name}b", "down")
        assert talk.wait(60) == 1
        assert "a worker of --rpc died or cannot be reached any more" in talk.stderr.read()
        assert json.loads((tmp_path / "talk.json").read_text())["turns"]
    finally:
        workers.end(one)
