"""Simon Willison's `llm`, told of the server as its documentation says."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

URL, POEM = os.environ["SERVE_URL"], os.environ["SERVE_POEM"]
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: poet\n  api_base: {URL}/v1\n  api_key_name: none\n"
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("llm"), "-m", "mine", "-o", "temperature", "0", "静夜思"],
        env={**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
assert done.stdout.strip() == POEM, done
