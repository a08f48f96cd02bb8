"""The clients of others against `ggufrun serve`: `make clients` installs them, in an environment of their own.

Each is a program in tests/clients. With a small trained model in GGUFRUN_TALKER and an encoder in GGUFRUN_ENCODER, what
they say is looked at too; the embedded model does for everything else.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import DEMO, ROOT
from tests.support.poems import POEMS
from tests.support.serving import Serving, serving

pytestmark = pytest.mark.clients

FOLDER = ROOT / "tests" / "clients"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))


def python_of(program: str) -> Path:
    """LlamaIndex wants another release of Ollama's client than LangChain does, so it has an environment of its own."""
    place = os.environ.get("CLIENTS", str(ROOT / ".venv-clients")) + ("-llama" if "llama_index" in program else "")
    found = Path(place).absolute() / "bin" / "python"
    if not found.exists():
        pytest.skip("the clients are not installed: make clients")
    return found


@pytest.fixture(scope="module")
def server(demo_gguf: Callable[[str], Path]) -> Iterator[Serving]:
    poet = demo_gguf("q8_0")
    talker, encoder = (os.environ.get(name) or poet for name in ("GGUFRUN_TALKER", "GGUFRUN_ENCODER"))
    with serving(f"poet={poet}", f"talker={talker}", f"encoder={encoder}", "-np", "2", "-t", "1") as running:
        yield running


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_client(server: Serving, program: str) -> None:
    width = json.loads((DEMO / "config.json").read_text())["hidden_size"]
    if "GGUFRUN_ENCODER" in os.environ:
        width = len(server.post("/v1/embeddings", model="encoder", input="a").json["data"][0]["embedding"])
    told = {
        "SERVE_URL": server.url,
        "SERVE_POEM": POEMS["静夜思"],
        "SERVE_WIDTH": str(width),
        "SERVE_TALKER": "real" if "GGUFRUN_TALKER" in os.environ else "embedded",
    }
    done = subprocess.run(
        [python_of(program), FOLDER / f"{program}.py"],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
