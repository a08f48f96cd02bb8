"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ggufrun.engine.placement.devices import VISIBLE
from tests.support import llamacpp
from tests.support.checkpoints import DEMO

# programs that tests start write as those of users do
os.environ.pop("PYTHONUNBUFFERED", None)
# the models of whoever runs the tests are theirs; tests of the stores say which they look into
os.environ["GGUFRUN_STORES"] = "none"

if TYPE_CHECKING:
    from ggufrun.engine.context import Context
    from ggufrun.engine.model import Model

DEMO_TYPES = ("f16", "q8_0", "q4_k_m")

CARDS = {name: os.environ.get(name) for name, _ in VISIBLE.values()}
"""How the GPUs were visible before they were hidden."""

# What is compared to the last digit is the processor's, so that the same tests pass with every build of the engine,
# card or not. tests/test_gpu.py sees the cards.
os.environ.update({name: none[0] for name, none in VISIBLE.values()})


@pytest.fixture
def own_kernels() -> Iterator[None]:
    """Meanwhile the engine computes with our kernels, where it has some."""
    from tests.support.measured import kernels_in_use

    with kernels_in_use("avx512", "avxvnni", "avx2"):
        yield


@pytest.fixture(scope="session")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The embedded model as GGUF: ``demo_gguf("q4_k_m")``; all types are made in one pass, once a session."""
    from ggufrun.convert import pipeline
    from ggufrun.convert.plan import plan_convert
    from ggufrun.quantize.types import parse_file_type

    folder = tmp_path_factory.mktemp("demo")
    made = False

    def path(text: str) -> Path:
        nonlocal made
        if not made:
            types = [parse_file_type(text) for text in DEMO_TYPES]
            plan = plan_convert(DEMO, types, lambda kind: folder / f"{kind.name.lower()}.gguf")
            pipeline.run(plan)
            plan.close()
            made = True
        return folder / f"{text}.gguf"

    return path


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The small random models of tests.support.measured: ``measured("dense-f16")``, also -q8_0, -q4_0, moe-f16."""
    from gguf import GGMLQuantizationType as Kind

    from tests.support.measured import weights, write_model

    folder = tmp_path_factory.mktemp("measured")

    def path(name: str) -> Path:
        file = folder / f"{name}.gguf"
        if not file.exists():
            model, _, kind = name.partition("-")
            write_model(file, weights(model == "moe"), Kind[kind.upper()])
        return file

    return path


def pytest_configure(config: pytest.Config) -> None:
    # a shell starts background jobs with Ctrl+C ignored, nohup a program with SIGHUP; what they start inherits that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = [report.nodeid for report in terminalreporter.stats.get("passed", [])]
    if count := sum("::test_published_layout[" in name for name in passed):
        terminalreporter.write_line(f"{count} published layouts planned")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="Write the oracle's fresh answers to tests/golden.")


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Path | None:
    """The folder of recorded answers when they are to be recorded anew."""
    return Path(__file__).parent / "golden" if request.config.getoption("--record") else None


@dataclass(frozen=True)
class Oracle:
    """llama.cpp's own tools, built from the source of the pinned engine; only where a developer has them."""

    binaries: Path
    python: Path
    convert: Path

    def run(self, *command: str | Path, **environment: str) -> str:
        """Run a command and return what it printed; a failure fails the test."""
        result = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            env={**os.environ, **llamacpp.environment(), **environment},
            check=False,
            text=True,
            errors="replace",
        )
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout + result.stderr


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """The tools, from ``ORACLE_*`` in the environment or the file that sets them; skips where there are none."""
    values = dict(os.environ)
    home = Path(os.environ.get("GGUFRUN_ORACLE", Path.home() / ".cache" / "ggufrun-oracle"))
    if "ORACLE_BIN" not in values and (home / "env").is_file():
        for line in (home / "env").read_text().splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            values[name] = shlex.split(value)[0] if value else ""
    try:
        found = Oracle(*(Path(values[name]) for name in ("ORACLE_BIN", "ORACLE_PYTHON", "ORACLE_CONVERT")))
    except KeyError:
        pytest.skip("llama.cpp's own tools are not on this machine; the recorded answers are tested instead")
    return found


@pytest.fixture(scope="session")
def demo_model(demo_gguf: Callable[[str], Path]) -> Iterator[Model]:
    """The embedded model, opened by the engine."""
    from ggufrun.engine.model import Model, ModelParams

    with Model(ModelParams(demo_gguf("q8_0"))) as model:
        yield model


@pytest.fixture
def demo_context(demo_model: Model) -> Iterator[Context]:
    """An empty context of 512 tokens. One thread: the model is tiny, and waiting for a second one costs more."""
    from ggufrun.engine.context import Context, ContextParams

    with Context(demo_model, ContextParams(n_ctx=512, threads=1)) as context:
        yield context
