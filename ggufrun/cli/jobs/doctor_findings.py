"""What `ggufrun doctor`'s facts mean: lines with a state, and a hint where something could be better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ggufrun.cli.jobs import device_proof
from ggufrun.units import size_text

LITTLE_DISK = 10 << 30
"""Bytes; a 7 B checkpoint and its quantized file want more than this."""

LITTLE_MEMORY = 2 << 30

MUTE = "another program may have it for itself (`nvidia-smi -q -d COMPUTE`): wait for it, or choose another card"
"""Of a card without memory: the driver refuses to tell."""

FULL = "other programs have all of its memory (`nvidia-smi` lists them): it is left out until they end"

REFUSALS = (
    (
        "driver version is insufficient",
        "the driver is too old for the engine's CUDA (13 wants 580): update it, or build with an installed CUDA 12",
    ),
    ("no CUDA-capable device", "CUDA_VISIBLE_DEVICES names no card that is there, or the container got none"),
    ("system not yet initialized", "start NVIDIA's fabric manager: `sudo systemctl start nvidia-fabricmanager`"),
    ("unsupported display driver", "the driver and libcuda.so.1 do not belong together: reinstall the driver"),
    ("unknown error", "load the driver's second module: `sudo nvidia-modprobe -u -c=0` (or restart the machine)"),
)
"""Words of CUDA's reason for finding no card, and what helps."""


MATRIX_KERNELS = {"avx512": "AVX-512 with VNNI", "avxvnni": "AVX2 with VNNI", "avx2": "AVX2"}
"""The kernels of ours that multiply quantized weights, by what they are compiled for."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``hint`` says what could be better and how."""

    name: str
    value: str
    state: str = "ok"
    hint: str = ""


def judge(facts: dict[str, Any]) -> list[Finding]:
    """One finding a line, from the facts alone."""
    return [
        Finding("ggufrun", f"{facts['ggufrun']}, Python {facts['python']}, {facts['platform']}"),
        *judge_engine(facts["engine"]),
        judge_server(facts["server"]),
        *judge_kernels(facts["kernels"]),
        judge_processor(facts["processor"]),
        *judge_memory(facts["memory"]),
        *judge_devices(facts["engine"], facts["nvidia"]),
        *judge_amd(facts["engine"], facts["amd"]),
        *(Finding("offload", text, state, hint) for state, text, hint in map(device_proof.verdict, facts["offload"])),
        *judge_disk(facts["disk_free"]),
        judge_models(facts["models"]),
    ]


def judge_engine(engine: dict[str, Any]) -> list[Finding]:
    """The engine and what it was built for."""
    if "error" in engine:
        return [Finding("engine", engine["error"], "bad", engine["todo"])]
    features = ", ".join(engine["features"])
    built = "".join(f" with {name}" for name in engine.get("gpu_backends", ()))
    found = [Finding("engine", f"llama-cpp-python {engine['version']}{built}"), Finding("built for", features)]
    if "kernels" in engine:
        ours = MATRIX_KERNELS.get(engine["kernels"])
        text = f"ggufrun's for {ours}, on the file's own layout" if ours else "llama.cpp's"
        found.append(Finding("matrices", text))
    return found


def judge_server(server: dict[str, Any] | None) -> Finding:
    """llama.cpp's server, which `ggufrun serve` runs."""
    if server is None:
        return Finding("server", "not installed", "hint", "`make server` builds it; `ggufrun serve` needs it")
    if server["error"]:
        return Finding(
            "server", f"it does not start: {server['error']}", "bad", "build it for this engine: `make server`"
        )
    return Finding("server", f"llama-server {server['version']}, starts with this engine")


def judge_kernels(kernels: dict[str, Any]) -> list[Finding]:
    """The quantization kernels, tuned or as llama.cpp builds them."""
    if not kernels:
        return []
    if not kernels["tuned"]:
        hint = "the tuned build quantizes 2 to 35 times faster, by type: `make setup` in a clone of the repository"
        speeds = f"Q4_K {kernels['q4_k']:.0f}, IQ4_XS {kernels['iq4_xs']:.0f} million values/s a core"
        return [Finding("kernels", f"stock: {speeds}", "hint", hint)]
    types = (("Q4_K", "q4_k"), ("IQ4_XS", "iq4_xs"))
    speeds = ", ".join(
        f"{name} {kernels[key]:.0f} million values/s a core ({kernels[key] / kernels[f'stock_{key}']:.0f} times stock)"
        for name, key in types
    )
    return [Finding("kernels", f"tuned: {speeds}")]


def judge_processor(cpu: dict[str, Any]) -> Finding:
    """The processor and the threads that will be used."""
    cores = f"{cpu['physical']} cores, " if cpu["physical"] else ""
    usable = f", {cpu['usable']} of them usable" if cpu["usable"] != cpu["logical"] else ""
    count = f"{cores}{cpu['logical']} threads{usable}; ggufrun uses {cpu['threads']}"
    features = f" ({' '.join(cpu['features'])})" if cpu["features"] else ""
    return Finding("processor", f"{cpu['model']}: {count}{features}")


def judge_memory(memory: dict[str, Any]) -> list[Finding]:
    """The memory."""
    if memory["total"] is None:
        return []
    available = memory["available"] if memory["available"] is not None else memory["total"]
    text = f"{size_text(memory['total'])}, {size_text(available)} available"
    if memory["limit"] is not None:
        available = min(available, memory["limit"])
        text += f", this container may use {size_text(memory['limit'])}"
    if available < LITTLE_MEMORY:
        return [Finding("memory", text, "hint", "a model must fit: close something, or take a smaller type")]
    return [Finding("memory", text)]


def judge_devices(engine: dict[str, Any], cards: list[dict[str, Any]]) -> list[Finding]:
    """What the engine computes on, whether a card lies idle, and whether the engine is built for it."""
    devices = engine.get("devices", [])
    found = [
        Finding(
            "device",
            f"{device['name']}: {device['description']}, {size_text(device['total'])}, "
            f"{size_text(device['free'])} free ({device['kind']})",
        )
        for device in devices
    ]
    if not devices:
        return found
    backends = engine.get("gpu_backends", ())
    gpu = any(device["kind"] in ("gpu", "igpu") for device in devices)
    built = " and ".join(backends)
    if not gpu and engine.get("hidden_by"):
        found.append(Finding("graphics", f"{engine['hidden_by']} hides all GPUs: the processor computes"))
        return found
    if not gpu and backends and not cards:
        found.append(
            Finding(
                "graphics",
                f"the engine is built with {built}, and there is no GPU: the processor computes",
                "hint",
                "on this machine `make cpu` builds a smaller one"
                if backends != ["Vulkan"]
                else "install the card's Vulkan driver (`vulkaninfo --summary` lists what is there), or `make cpu`",
            )
        )
    found += [
        Finding("device", f"{device['name']} does not tell its memory", "bad", MUTE)
        for device in devices
        if device["kind"] in ("gpu", "igpu") and not device["total"] and not device.get("refused")
    ]
    found += [
        Finding("device", f"{device['name']} cannot be used: {why}", "bad", FULL if "memory" in why else MUTE)
        for device in devices
        if (why := device.get("refused"))
    ]
    for card in cards:
        found += judge_card(card, engine, gpu)
    return found


def judge_amd(engine: dict[str, Any], present: bool) -> list[Finding]:
    """A GPU of AMD's that an engine without any GPU backend leaves idle."""
    if not present or not engine.get("devices") or engine.get("gpu_backends"):
        return []
    todo = "`make vulkan` in a clone of the repository builds one that uses it"
    return [Finding("graphics", "a GPU of AMD's: not used, the engine is built without Vulkan", "hint", todo)]


def judge_card(card: dict[str, Any], engine: dict[str, Any], used: bool) -> list[Finding]:
    """What is wrong with an NVIDIA card, if anything is."""
    if card["driver"] is None:
        return [Finding("graphics", f"{card['name']} without a driver", "hint", "install NVIDIA's driver")]
    if card.get("problem"):
        return [Finding("graphics", f"{card['name']}, driver {card['driver']}: {card['problem']}", "bad", card["todo"])]
    memory = f", {size_text(card['memory'])}" if card["memory"] else ""
    about = f"{card['name']}{memory}, driver {card['driver']}"
    if "CUDA" not in engine.get("gpu_backends", ()):
        if used:
            return []
        todo = "build it for the card: `make cuda` in a clone of the repository"
        return [Finding("graphics", f"{about}: not used, the engine is built without CUDA", "hint", todo)]
    if wrong := architecture_problem(engine["features"], card.get("capability")):
        return [Finding("graphics", f"{about}: {wrong}", "bad", "build it for this card: `make cuda`")]
    if not used:
        why = engine.get("refusal") or "the engine's CUDA does not find it"
        todo = next((help for words, help in REFUSALS if words in why), REFUSALS[0][1])
        return [Finding("graphics", f"{about}: not used, {why}", "bad", todo)]
    return []


def architecture_problem(features: Iterable[str], capability: str | None) -> str:
    """Why an engine with ``ARCHS=860,900`` cannot run on a card of ``capability``; empty if it may."""
    text = next((feature.partition("=")[2] for feature in features if feature.startswith("ARCHS=")), "")
    built = [int(part) for part in text.split(",") if part.isdigit()]
    if not built or not capability:
        return ""
    # code for a smaller number runs, or is compiled by the driver; code for a larger one never does
    if min(built) <= int(capability.replace(".", "")) * 10:
        return ""
    return f"the engine is built for compute capability {min(built) / 100:.1f} and up, the card has {capability}"


def judge_disk(free: int | None) -> list[Finding]:
    """The room for models."""
    if free is None:
        return []
    text = f"{size_text(free)} free here"
    if free < LITTLE_DISK:
        return [Finding("disk", text, "hint", "a 7 B model wants more; free some, or write elsewhere")]
    return [Finding("disk", text)]


def judge_models(models: dict[str, Any]) -> Finding:
    """The folder of local models."""
    count = models["files"]
    if not count:
        what = "no such folder" if count is None else "no GGUF file yet"
        return Finding("models", f"{models['folder']}: {what}", "ok", "`ggufrun pull` fetches models there")
    return Finding("models", f"{models['folder']}: {count} GGUF file{'s' if count > 1 else ''}")
