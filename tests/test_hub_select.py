"""Ids, and the choice of files, on names as they are found on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.errors import NotFoundError, UsageError
from ggufrun.hub import HubId, checkpoint_files, gguf_files, parse, path_or_id, upstream_files
from ggufrun.hub.select import gguf_or_checkpoint, gguf_sets, type_label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-0.6B", HubId("Qwen/Qwen3-0.6B")),
        ("org/name@v1.0", HubId("org/name", "v1.0")),
        ("org/name@refs/pr/3:q4_k_m", HubId("org/name", "refs/pr/3", "q4_k_m")),
        ("org/name:UD-Q4_K_XL", HubId("org/name", None, "UD-Q4_K_XL")),
        ("hf://org/name", HubId("org/name")),
        ("https://huggingface.co/org/name/", HubId("org/name")),
        ("hf.co/org/name:Q8_0", HubId("org/name", None, "Q8_0")),
        # what a browser's address line has, and its download button
        ("https://huggingface.co/org/name/tree/main", HubId("org/name")),
        ("https://huggingface.co/org/name/tree/v1.0/", HubId("org/name", "v1.0")),
        ("https://huggingface.co/org/name/blob/main/x-Q8_0.gguf", HubId("org/name", None, "x-Q8_0.gguf")),
        ("https://hf.co/org/name/resolve/dev/Q8/x.gguf?download=true", HubId("org/name", "dev", "Q8/x.gguf")),
        ("org/name/x.gguf", HubId("org/name", None, "x.gguf")),
    ],
)
def test_ids(text: str, expected: HubId) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "gpt2",
            "",
            "/",
            "a/b/c",
            "../x",
            "./x",
            "a/..",
            "org/na me",
            "org/name@",
            "org/name:",
            "~/x",
            "a//b",
            "org/-x",
        ),
        *("C:\\x", "org/na--me", "org/a..b", "https://example.com/org/name", "org/" + "x" * 200, "o\0g/x", "模/型"),
    ],
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(UsageError, match="not a model id"):
        parse(text)


def test_an_existing_path_wins_and_a_mistyped_one_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "there").mkdir(parents=True)
    assert path_or_id("org/there") == Path("org/there")
    with pytest.raises(NotFoundError, match="hf://org/absent"):
        path_or_id("org/absent")
    assert path_or_id("hf://org/there") == HubId("org/there")
    assert path_or_id("other/absent") == HubId("other/absent")
    for text in ("absent", "./other/absent", "/other/absent", "other/x.gguf", "a/b/c", "x" * 5000, "a\0b"):
        with pytest.raises(NotFoundError, match="no such file"):
            path_or_id(text)


TOKENIZER = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"]
SETTINGS = ["config.json", "generation_config.json", "README.md"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
TORCH = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
OTHERS = ["flax_model.msgpack", "tf_model.h5", "onnx/model.onnx", "model.onnx", ".gitattributes", "training_args.bin"]
SENTENCES = ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"]
META = ["consolidated.00.pth", "consolidated.01.pth", "params.json", "checklist.chk", "tokenizer.model"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (SHARDS + TORCH + SETTINGS + TOKENIZER + OTHERS, SHARDS + SETTINGS + TOKENIZER),
        (["model.safetensors", "pytorch_model.bin", *SETTINGS], ["model.safetensors", *SETTINGS]),
        (TORCH + SETTINGS + OTHERS, TORCH + SETTINGS),
        (["model.safetensors.index.json", "pytorch_model.bin", "config.json"], ["pytorch_model.bin", "config.json"]),
        ([*META, "LICENSE"], META),
        # Llama 3's layout, Mistral's duplicate, Qwen's vocabulary
        (
            SHARDS + ["original/" + name for name in META] + ["config.json"],
            [*SHARDS, "config.json"],
        ),
        (["consolidated.safetensors", *SHARDS, "params.json"], [*SHARDS, "params.json"]),
        ([*SHARDS, "qwen.tiktoken", "modeling_qwen.py"], [*SHARDS, "qwen.tiktoken"]),
        (["adapter_config.json", "adapter_model.bin"], ["adapter_config.json", "adapter_model.bin"]),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors", *SENTENCES, "onnx/config.json", "a/1_Pooling/config.json"],
            ["model.safetensors", *SENTENCES],
        ),
    ],
)
def test_the_files_of_a_checkpoint(names: list[str], expected: list[str]) -> None:
    assert checkpoint_files(names) == sorted(expected)


def test_nothing_to_convert() -> None:
    with pytest.raises(NotFoundError, match="no weights"):
        checkpoint_files(["README.md", "tf_model.h5", "sub/model.safetensors"])
    with pytest.raises(NotFoundError, match="pull"):
        checkpoint_files(["README.md", "x-Q4_K_M.gguf"])


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("llama-2-7b.Q4_K_M", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q4_k_m", "Q4_K_M"),
        ("ggml-model-q4_0", "Q4_0"),
        ("ggml_model_q5_1", "Q5_1"),
        ("Model-UD-IQ2_XXS", "UD-IQ2_XXS"),
        ("Model.i1-IQ1_S", "IQ1_S"),
        ("phi-3-mini-4k-instruct-fp16", "F16"),
        ("Phi-3-mini-4k-instruct-q4", "Q4"),
        ("BF16/model", "BF16"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("bitnet-TQ2_0", "TQ2_0"),
        ("llama-16", ""),
        ("qwen3-0.6b", ""),
        ("Q4-lovers-Q8_0", "Q8_0"),
    ],
)
def test_the_type_in_a_name(stem: str, label: str) -> None:
    assert type_label(stem) == label


NAMES = [
    "README.md",
    "m-Q4_K_M.gguf",
    "m-Q4_K_S.gguf",
    "m-UD-Q4_K_XL.gguf",
    "m-Q8_0-00001-of-00002.gguf",
    "m-Q8_0-00002-of-00002.gguf",
    "BF16/m-00001-of-00003.gguf",
    "BF16/m-00003-of-00003.gguf",
    "mmproj-m-F16.gguf",
]


def test_picking_by_type() -> None:
    assert gguf_files("q4_k_m")(NAMES) == ["m-Q4_K_M.gguf"]
    assert gguf_files("Q8_0")(NAMES) == ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    assert gguf_files("q4_k_xl")(NAMES) == ["m-UD-Q4_K_XL.gguf"]
    assert gguf_files("ud-q4_k_xl")(NAMES) == ["m-UD-Q4_K_XL.gguf"]
    assert gguf_files("M-q4_k_s.GGUF")(NAMES) == ["m-Q4_K_S.gguf"]
    assert gguf_files("mmproj-m-f16")(NAMES) == ["mmproj-m-F16.gguf"]
    # several: llama.cpp's choice; one: no question
    assert gguf_files(None)(NAMES) == ["m-Q4_K_M.gguf"]
    assert gguf_files(None)(["m-Q5_0.gguf", "mmproj-F16.gguf"]) == ["m-Q5_0.gguf"]


def test_none_or_several_list_what_there_is() -> None:
    with pytest.raises(NotFoundError, match=r"no Q6_K; there are BF16, Q4_K_M, Q4_K_S, UD-Q4_K_XL|no Q6_K") as none:
        gguf_files("Q6_K")(NAMES)
    assert "Q8_0" in str(none.value) and "Q4_K_S" in str(none.value)
    with pytest.raises(NotFoundError, match="2 of the 3 shards"):
        gguf_files("BF16")(NAMES)
    with pytest.raises(NotFoundError, match="no F16"):
        # a projector is not the model
        gguf_files("F16")(NAMES)
    with pytest.raises(UsageError, match="2 models are q4_0: a-Q4_0, b-Q4_0"):
        gguf_files("q4_0")(["a-Q4_0.gguf", "b-Q4_0.gguf"])
    with pytest.raises(UsageError, match="several: Q5_0, Q6_K"):
        gguf_files(None)(["a-Q5_0.gguf", "a-Q6_K.gguf"])
    with pytest.raises(NotFoundError, match="no GGUF"):
        gguf_files("Q4_0")(["model.safetensors"])


def test_gguf_before_checkpoint() -> None:
    both = ["config.json", "model.safetensors", "m-Q5_0.gguf"]
    assert gguf_or_checkpoint(None)(both) == ["m-Q5_0.gguf"]
    assert gguf_or_checkpoint(None)(both[:2]) == both[:2]


def test_shards_of_two_models_are_told_apart() -> None:
    sets = gguf_sets(["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "a-00001-of-00003.gguf", "a.gguf"])
    assert [(item.stem, item.count, len(item.names)) for item in sets] == [("a", 1, 1), ("a", 2, 2), ("a", 3, 1)]


def test_llama_cpps_converter_gets_the_code_and_the_settings_too() -> None:
    extra = ["modeling_x.py", "preprocessor_config.json", "1_Pooling/config.json"]
    names = [*SHARDS, *TORCH, *SETTINGS, *OTHERS, *extra]
    assert upstream_files(names) == sorted([*SHARDS, *SETTINGS, *extra])


def test_projectors_drafts_and_folders_are_told_apart() -> None:
    names = [
        "gemma-3-4b-it-Q4_K_M.gguf",
        "gemma-3-4b-it.mmproj-Q8_0.gguf",
        "mmproj-model-f16.gguf",
        "gemma-3-4b-it-draft-Q4_K_M.gguf",
        "gemma-3-4b-it.imatrix.gguf",
    ]
    assert gguf_files(None)(names) == gguf_files("q4_k_m")(names) == names[:1]
    assert gguf_files("gemma-3-4b-it.mmproj-Q8_0")(names) == [names[1]]
    with pytest.raises(NotFoundError, match="it holds no f16"):
        gguf_files("f16")(names)


def test_every_name_that_is_offered_works_when_it_is_pasted() -> None:
    names = ["a/m-Q8_0.gguf", "b/m-Q8_0.gguf", "b/m-Q6_K.gguf", "m.mmproj-f16.gguf", "c/n-Q5_0.gguf"]
    with pytest.raises(UsageError) as several:
        gguf_files(None)(names)
    with pytest.raises(UsageError) as of_type:
        gguf_files("Q8_0")(names)
    with pytest.raises(NotFoundError) as none:
        gguf_files("IQ1_S")(names)
    offered = {
        text.strip() for error in (several, of_type) for text in error.value.what.partition(": ")[2].split(",")
    } | {text.strip() for text in none.value.todo.removeprefix("there are ").split(",")}
    assert offered == {"a/m-Q8_0", "b/m-Q8_0", "Q6_K", "Q5_0", "m.mmproj-f16"}
    for text in offered:
        assert parse(f"org/name:{text}").kind == text
        assert len(gguf_files(text)(names)) == 1
