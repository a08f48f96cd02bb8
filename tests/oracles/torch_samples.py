"""Writes the files in ``golden/torch`` with PyTorch itself, and what they hold as JSON.

``python torch_samples.py FOLDER`` runs where torch is installed; the tests read what it wrote.
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def tensors(fp8: bool) -> OrderedDict[str, torch.Tensor]:
    torch.manual_seed(3)
    base = torch.randn(6, 8)
    noted = torch.randn(2, 2)
    noted.origin = "a note"
    found = OrderedDict(
        [
            ("plain", base),
            ("slice", base[2:5]),
            ("columns", base[:, 3:7]),
            ("steps", base[::2, ::3]),
            ("transposed", base.t()),
            ("row", base[4]),
            ("column", base[:, 5]),
            ("permuted", torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).permute(2, 0, 1)),
            ("expanded", torch.tensor([[1.5], [2.5]]).expand(2, 5)),
            ("scalar", torch.tensor(2.25)),
            ("empty", torch.zeros(0, 4)),
            ("parameter", torch.nn.Parameter(torch.randn(2, 3))),
            ("frozen", torch.nn.Parameter(torch.randn(2), requires_grad=False)),
            ("noted", noted),
            ("again", base),
        ]
    )
    for kind, name in NAMES.items():
        if kind is torch.bool:
            found["BOOL"] = torch.tensor([[True, False], [False, True]])
        elif fp8 or "F8" not in name:
            found[name] = (torch.arange(6).reshape(2, 3) * 1.5).to(kind)
    found._metadata = OrderedDict([("", {"version": 1})])
    return found


def describe(found: OrderedDict[str, torch.Tensor]) -> dict[str, object]:
    return {
        name: {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "bytes": tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex(),
        }
        for name, tensor in found.items()
    }


def main(folder: Path) -> None:
    modern, old = tensors(True), tensors(False)
    torch.save(modern, folder / "zip.bin")
    torch.save(dict(modern), folder / "zip-protocol-4.bin", pickle_protocol=4)
    torch.save(old, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    (folder / "expected.json").write_text(json.dumps(describe(modern), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
