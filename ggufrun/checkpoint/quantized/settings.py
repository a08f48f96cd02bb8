"""What a checkpoint says of its quantization, in config.json or in a file of its own next to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.errors import FormatError
from ggufrun.jsontext import shown

CONFIG_KEYS = ("quantization_config", "compression_config")
"""Keys of config.json; the second is compressed-tensors' older name."""
PARTS = ("text_config", "language_config", "llm_config")
"""Where config.json keeps the text model of something larger, which may be quantized alone."""

DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}

OWN_FILES: dict[str, str] = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
"""Files next to config.json, and the method of the tool that writes each: AutoGPTQ, AutoAWQ, Model Optimizer."""


@dataclass(frozen=True)
class Settings:
    """The settings, and the file that they are in. Empty where a checkpoint says nothing.

    ``dtype`` is the type in which config.json wants the model computed (F16, BF16, F32), or nothing.
    """

    file: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    model_type: str = ""
    dtype: str = ""

    @property
    def method(self) -> str:
        """The name of the method in lower case, or nothing."""
        return str(self.values.get("quant_method") or "").lower().removeprefix("intel/").replace("_", "-")

    def text(self, *keys: str) -> str:
        """The first of ``keys`` that is there as text in lower case, or nothing."""
        return next((str(self.values[key]).lower() for key in keys if self.values.get(key) is not None), "")

    def whole(self, *keys: str, least: int = 1, most: int = 1 << 31) -> int | None:
        """The first of ``keys`` that is there as a whole number. FormatError for anything else."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if type(value) is not int or not least <= value <= most:
                raise FormatError(f"{self.file.name} says {key} = {shown(value, 40)}", "download it again")
            return value
        return None

    def block(self, value: Any) -> tuple[int, int] | None:
        """Rows and columns that share a scale, from the value of a setting. FormatError for anything else."""
        if value is None:
            return None
        sound = isinstance(value, list) and len(value) == 2 and all(type(size) is int and size > 0 for size in value)
        if not sound:
            raise FormatError(f"{self.file.name} says blocks of {shown(value, 40)}", "download it again")
        return value[0], value[1]


def read_settings(folder: Path, has_config: bool = True) -> Settings:
    """The settings of the checkpoint in ``folder``. FormatError for files that are not JSON objects."""
    path = folder / "config.json"
    config = read_object(path) if has_config and path.is_file() else {}
    configs = [config, *(part for key in PARTS if isinstance(part := config.get(key), dict))]
    model_type = str(config.get("model_type", ""))
    dtypes = [str(part.get(key)).removeprefix("torch.") for part in configs for key in ("dtype", "torch_dtype")]
    dtype = next((DTYPES[name] for name in dtypes if name in DTYPES), "")
    found = _first_object(*configs)
    own = next((folder / name for name in OWN_FILES if (folder / name).is_file()), None) if has_config else None
    if own is None:
        return Settings(path, found or {}, model_type, dtype)
    values = read_object(own)
    # Model Optimizer's file has a level more than the same settings in config.json
    inner = values.get("quantization")
    values = {"quant_method": OWN_FILES[own.name], **(inner if isinstance(inner, dict) else values)}
    if found is None:
        return Settings(own, values, model_type, dtype)
    return Settings(path, {**values, **found}, model_type, dtype)


def _first_object(*configs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first of the settings; ChatGLM has only the number of bits, and 0 where there are none."""
    bits = configs[0].get("quantization_bit")
    if bits:
        return {"quant_method": "chatglm", "bits": bits}
    values = [config.get(key) for config in configs for key in CONFIG_KEYS]
    return next((value for value in values if isinstance(value, dict) and value), None)


def objects(value: Any) -> Sequence[dict[str, Any]]:
    """The objects among the values of a JSON object; none for anything else."""
    return [item for item in value.values() if isinstance(item, dict)] if isinstance(value, dict) else []
