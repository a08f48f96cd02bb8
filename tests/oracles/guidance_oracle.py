"""Greedy tokens under classifier-free guidance as transformers' own logits processor makes them choose.

``python tests/oracles/guidance_oracle.py CHECKPOINT < CASES`` runs in a Python with torch and transformers: CASES is
JSON, a list of ids, negative ids (or null), scale and count; the answer is a list of lists of ids. They are recorded by
``pytest tests/test_engine_guidance.py --record``.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    import torch  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM  # type: ignore[import-not-found]
    from transformers.generation.logits_process import (  # type: ignore[import-not-found]
        UnbatchedClassifierFreeGuidanceLogitsProcessor as Guide,
    )

    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    answers: list[list[int]] = []
    with torch.no_grad():
        for case in json.load(sys.stdin):
            ids, negative = torch.tensor([case["ids"]]), case["negative"]
            # Its cache follows the model's only within `generate`, so everything is computed again each time.
            guide: Any = Guide(
                case["scale"], model, torch.tensor([negative]) if negative is not None else None, use_cache=False
            )
            made: list[int] = []
            for _ in range(case["count"]):
                scores = guide(ids, model(ids).logits[:, -1])
                made.append(int(scores.argmax()))
                ids = torch.cat([ids, torch.tensor([[made[-1]]])], dim=1)
            answers.append(made)
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
