"""``ggufrun doctor``'s proof of the GPUs: the embedded model on each of them, against the processor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun.cli.terminal import console
from ggufrun.errors import GgufrunError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).resolve().parents[2]

EMBEDDED = next(
    (path for path in (PACKAGE / "data" / "tang-poet", PACKAGE.parent / "models" / "tang-poet") if path.is_dir()), None
)
"""The embedded model: of the package as it is installed, or of a clone; distributors may have left it out."""

PATIENCE = 600
"""Seconds for one device: code for another architecture is compiled by the driver at first, which takes minutes."""

PROBE = "import sys; from ggufrun.cli.jobs.device_proof import probe; probe(*sys.argv[1:])"

NO_MODEL = "there is no model to try it with: run `ggufrun doctor` of a clone of the repository"


def prove_all(devices: Sequence[dict[str, Any]], rpc: str) -> list[dict[str, Any]]:
    """A record for every GPU of ``devices``: its proof, or an ``error``."""
    gpus = [device["name"] for device in devices if device["kind"] in ("gpu", "igpu") and not device.get("refused")]
    if not gpus:
        return []
    if EMBEDDED is None:
        return [{"device": name, "error": NO_MODEL, "untried": True} for name in gpus]
    proofs = []
    with _as_gguf(EMBEDDED) as path:
        for name in gpus:
            trying = f"trying {name} (the first time may take minutes)"
            with console.err().status(trying) if console.err().is_terminal else nullcontext():
                proofs.append(_prove(path, name, rpc))
    return proofs


@contextmanager
def _as_gguf(checkpoint: Path) -> Iterator[Path]:
    from ggufrun.convert import pipeline
    from ggufrun.convert.plan import plan_convert
    from ggufrun.quantize.types import parse_file_type

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tang-poet.gguf"
        plan = plan_convert(checkpoint, [parse_file_type("f16")], lambda _: path)
        try:
            pipeline.run(plan)
        finally:
            plan.close()
        yield path


def _prove(path: Path, device: str, rpc: str) -> dict[str, Any]:
    from ggufrun.cli.terminal.abort import died

    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(path), device, rpc],
            capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"device": device, "error": f"no answer within {PATIENCE} s"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        telling = next((line for line in said if "error" in line.lower()), said[-1] if said else "")
        return {"device": device, "error": died(telling)}
    return answer


def probe(path: str, device: str, rpc: str) -> None:
    """Print the proof as JSON: the part that a broken device may end."""
    from ggufrun.evaluate.device_check import prove

    try:
        if rpc:
            from ggufrun.engine.placement.remote import connect, parse

            connect(parse(rpc))
        proof = prove(Path(path), device)
        answer = {**asdict(proof), "works": proof.works}
    except GgufrunError as error:
        answer = {"device": device, "error": error.what}
    sys.stdout.write("\n" + json.dumps(answer))


def verdict(proof: dict[str, Any]) -> tuple[str, str, str]:
    """State, words and hint for one record."""
    name = proof["device"]
    if proof.get("untried"):
        return "hint", f"{name}: not tried", proof["error"]
    if "error" in proof:
        return "bad", f"{name} does not work: {proof['error']}", "`-ngl 0` leaves it out"
    mine, other = proof["speeds"], proof["processor"]
    speeds = (
        f"{mine['prompt']:,.0f} tokens/s read, {mine['generation']:,.0f} written "
        f"(processor {other['prompt']:,.0f} and {other['generation']:,.0f})"
    )
    same = f"{proof['same']} of {proof['places']} choices as the processor's, difference {proof['difference']:.1e}"
    if proof["layers"] < proof["of"]:
        left = f"{name} got {proof['layers']} of {proof['of']} layers, the rest stayed with the processor"
        return "bad", left, "look at what `ggufrun inspect --fit` says"
    if not proof["works"]:
        return "bad", f"{name} computes wrong results: {same}", "update its driver, or leave it out with `-ngl 0`"
    return "ok", f"{name} works: {same}; the embedded model: {speeds}", ""
