"""What ggufrun uses of the engine besides functions: structures, enumerations, texts of the log, replaced sources."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

STRUCTURES: dict[str, str] = {
    "ggml_tensor": "ggml/include/ggml.h",
    "ggml_type_traits": "ggml/include/ggml.h",
    "ggml_backend_device_i": "ggml/src/ggml-backend-impl.h",
    "gguf_init_params": "ggml/include/gguf.h",
    "llama_model_tensor_buft_override": "include/llama.h",
    "llama_batch": "include/llama.h",
    "llama_context_params": "include/llama.h",
    "llama_model_params": "include/llama.h",
    "llama_model_quantize_params": "include/llama.h",
    "llama_model_imatrix_data": "include/llama.h",
    "llama_model_tensor_override": "include/llama.h",
    "llama_sampler_chain_params": "include/llama.h",
    "llama_logit_bias": "include/llama.h",
    "llama_token_data": "include/llama.h",
    "llama_token_data_array": "include/llama.h",
    "llama_memory_breakdown_data": "src/llama-ext.h",
}
"""Structures that are mirrored (`ggufrun/native/structures.py`, llama-cpp-python), and the header of each."""

ENUMERATIONS: dict[str, str] = {
    "llama_ftype": "include/llama.h",
    "ggml_type": "ggml/include/ggml.h",
    "ggml_log_level": "ggml/include/ggml.h",
    "ggml_backend_dev_type": "ggml/include/ggml-backend.h",
    "llama_vocab_type": "include/llama.h",
    "llama_token_attr": "include/llama.h",
    "llama_rope_scaling_type": "include/llama.h",
    "llama_flash_attn_type": "include/llama.h",
    "llama_split_mode": "include/llama.h",
    "llama_load_mode": "include/llama.h",
}
"""Enumerations whose numbers are written down in ggufrun."""

LOG_TEXTS: dict[str, str] = {
    "[%4d/%4d] %-36s - [%s], type = %6s, ": "ggufrun/quantize/plan.py",
    "size = %8.3f MiB\\n": "ggufrun/quantize/plan.py",
    "size = %8.2f MiB -> %8.2f MiB (%s)\\n": "ggufrun/quantize/plan.py",
    "will require an imatrix": "ggufrun/quantize/plan.py",
    "%d of %d tensor(s) required fallback": "ggufrun/quantize/plan.py",
    "failed to quantize: ": "ggufrun/quantize/plan.py",
    "unknown model architecture": "ggufrun/quantize/plan.py",
    "error loading model: ": "ggufrun/native/log.py",
    "failed to apply lora adapter: ": "ggufrun/engine/adapters.py",
    "mmap failed": "ggufrun/engine/model.py",
    "main_gpu": "ggufrun/engine/model.py",
    "split buffers": "ggufrun/engine/model.py",
    "%s not supported, set to disabled": "ggufrun/engine/placement/memory.py",
    "Flash Attention": "ggufrun/engine/placement/memory.py",
    "failed to initialize": "ggufrun/engine/placement/devices.py",
    "error parsing grammar: ": "ggufrun/engine/sampling/grammar.py",
    "unexpected end of input": "ggufrun/engine/sampling/grammar.py",
    "Remote RPC server crashed": "ggufrun/cli/terminal/abort.py",
    "mem_buffer != NULL": "ggufrun/cli/terminal/abort.py",
    "AMX_INT8": "ggufrun/native/kernels.py",
}
"""Texts of the engine's that are read, as its sources spell them, and who reads each."""

NUMBERS: dict[str, str] = {
    "RPC_PROTO_MAJOR_VERSION": "ggml/include/ggml-rpc.h",
    "GGML_RPC_MAX_SERVERS": "ggml/include/ggml-rpc.h",
    "GGML_MAX_DIMS": "ggml/include/ggml.h",
    "GGML_MAX_SRC": "ggml/include/ggml.h",
    "GGML_MAX_OP_PARAMS": "ggml/include/ggml.h",
    "GGML_MAX_NAME": "ggml/include/ggml.h",
    "GGML_MAX_N_THREADS": "ggml/include/ggml.h",
    "LLAMA_MAX_SEQ": "src/llama-cparams.h",
    "LLAMA_STATE_SEQ_VERSION": "include/llama.h",
}
"""Numbers that are written down in ggufrun, or that its mirrors rest on."""

SOURCES: dict[str, str] = {
    "ggml/src/ggml-common.h": "the layout of blocks that all kernels read and write",
    "ggml/src/ggml-quants.h": "what the quantization kernels declare",
    "ggml/src/ggml-cpu/tiled/tiled.h": "the products that tools/kernels/matmul replaces",
    "ggml/src/ggml-cpu/tiled/tiled.cpp": "the products that tools/kernels/matmul replaces",
    "ggml/src/ggml-cpu/ggml-cpu-impl.h": "what tools/kernels/matmul includes",
    "src/llama-ext.h": "the report of memory",
}
"""Files that functions of ours replace or include, and why a difference matters."""

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "ggml/src/ggml-cpu/ops.cpp": ("ggml_compute_forward_flash_attn_ext",),
    "src/llama-sampler.cpp": ("llama_sampler_sample", "llama_sampler_top_k_impl"),
    "src/llama-quant.cpp": ("tensor_requires_imatrix",),
}
"""Functions that ours replace or repeat, by file; those of ``ggml-quants.c`` are read from the build."""


def replaced_quantizers() -> tuple[str, ...]:
    """The functions of ``ggml-quants.c`` that ``tools/ggml-kernels.cmake`` replaces."""
    text = (ROOT / "tools" / "ggml-kernels.cmake").read_text("utf-8")
    block = text[text.index("foreach(name IN ITEMS") : text.index("list(APPEND ggufrun_renamed")]
    return tuple(re.findall(r"\b(?:quantize|iq\dxs)_\w+", block))
