"""The front's parts without a model: who may ask, names of models, errors, the prompt of a style."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.replay import replay
from ggufrun.cli.flags import serve as flags
from ggufrun.engine.model import Model
from ggufrun.errors import GgufrunError, UsageError
from ggufrun.server.apis import leading_space, required_tool, styled
from ggufrun.server.apis.grammar_check import check_grammars
from ggufrun.server.catalog import Catalog, Entry
from ggufrun.server.child import environment
from ggufrun.server.errors import ApiError, api_of
from ggufrun.server.guard import Rules
from ggufrun.server.metrics import labelled
from ggufrun.server.service import check_media, parsed
from ggufrun.server.settings import Settings
from ggufrun.server.times import parse_time


def status_of(rules: Rules, path: str = "/v1/models", method: str = "GET", **headers: str) -> int:
    given = {name.replace("_", "-"): value for name, value in {"host": "localhost:8080", **headers}.items()}
    try:
        rules.check(method, path, given)
    except ApiError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8080"}, 200),
        ({"host": "127.4.5.6"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "LOCALHOST."}, 200),
        ({"host": "my.box"}, 200),
        ({"host": ""}, 403),
        ({"host": "evil.com"}, 403),
        ({"host": "localhost.evil.com"}, 403),
        ({"host": "192.168.0.1"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "http://127.0.0.1"}, 200),
        ({"origin": "https://page.example"}, 200),
        ({"origin": "http://page.example"}, 403),
        ({"origin": "http://evil.com"}, 403),
        ({"origin": "http://localhost.evil.com"}, 403),
        ({"origin": "http://localhost@evil.com"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "file://"}, 403),
        ({"origin": "http://[bad"}, 403),
    ],
)
def test_hosts_and_origins_of_strangers_are_refused(headers: dict[str, str], status: int) -> None:
    rules = Rules(hosts=("my.box",), origins=("https://page.example",))
    assert status_of(rules, **headers) == status


def test_keys_are_needed_everywhere_but_for_the_health() -> None:
    rules = Rules(keys=("one", "zwei-二"))
    assert status_of(rules) == 401
    assert status_of(rules, authorization="Bearer one") == 200
    assert status_of(rules, authorization="bearer zwei-二") == 200
    assert status_of(rules, x_api_key="one") == 200
    for wrong in ("Bearer on", "Bearer onee", "Basic one", "one", "Bearer", "Bearer ONE"):
        assert status_of(rules, authorization=wrong) == 401, wrong
    assert status_of(rules, "/health") == 200
    assert status_of(rules, "/health", "POST") == 401


def test_other_machines_need_a_key_or_a_word() -> None:
    def made(host: str, keys: tuple[str, ...] = (), open_to_all: bool = False) -> Rules:
        return flags.rules(host, keys, open_to_all, (), (), "64M")

    assert made("127.0.0.1").loopback and made("::1").loopback and made("localhost").loopback
    for host in ("0.0.0.0", "::", "192.168.1.2", "box.example"):
        with pytest.raises(UsageError, match="no API key"):
            made(host)
        assert not made(host, ("key",)).loopback
        assert not made(host, open_to_all=True).loopback
    # a page of strangers that reaches an open server by a name of its own (DNS rebinding)
    assert status_of(made("0.0.0.0", open_to_all=True), host="evil.com") == 403
    assert status_of(made("0.0.0.0", open_to_all=True), host="192.168.1.2:8080") == 200


def test_keys_come_from_flags_files_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst\n\n second \n")
    monkeypatch.setenv("GGUFRUN_API_KEY", "third")
    assert flags.keys(["zero"], file) == ("zero", "third", "first", "second")
    monkeypatch.delenv("GGUFRUN_API_KEY")
    file.write_text("# none\n")
    with pytest.raises(UsageError, match="has no key"):
        flags.keys([], file)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5m", 300), ("30", 30), ("1.5h", 5400), ("0", 0), ("-1", -1), ("2d", 172800)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text, "--keep-alive") == seconds
    with pytest.raises(UsageError, match="--keep-alive"):
        parse_time(f"x{text}", "--keep-alive")


def test_names_are_looked_up_and_never_become_paths(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("Qwen-Q4_K_M.gguf", "other.gguf")]
    for path in paths:
        path.write_text("x")
    catalog = Catalog([Entry("Qwen-Q4_K_M", paths[0], aliases=("mine",)), Entry("org/Other:Q8", paths[1])])

    def found(name: str) -> str | None:
        entry = catalog.find(name)
        return entry.name if entry else None

    for name in ("Qwen-Q4_K_M", "qwen-q4_k_m", "Qwen-Q4_K_M:latest", "qwen-q4-k-m.gguf", "mine", "MINE:latest"):
        assert found(name) == "Qwen-Q4_K_M", name
    for name in ("org/Other:Q8", "org/other:q8", "org-other-q8"):
        assert found(name) == "org/Other:Q8", name
    for name in ("", ".", "..", "../other.gguf", str(paths[1]), "Qwen", "org", "%2e%2e/other", "\0", "other"):
        assert found(name) is None, name
    assert catalog.default is not None and catalog.default.name == "Qwen-Q4_K_M"


def test_errors_have_the_form_of_their_api() -> None:
    error = ApiError(404, "no such", "model_not_found", "model")
    assert error.body(api_of("/v1/chat/completions")) == {
        "error": {"message": "no such", "type": "not_found_error", "param": "model", "code": "model_not_found"}
    }
    assert error.body(api_of("/v1/messages/count_tokens")) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "no such"},
    }
    assert error.body(api_of("/api/chat")) == {"error": "no such"}
    assert error.event("anthropic").startswith(b"event: error\ndata: {") and error.event("ollama").endswith(b"}\n")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000])
def test_what_is_not_a_json_object_is_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
        {"type": "image_url", "image_url": "HTTPS://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "input_image", "image_url": "http://example.com"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com"}},
    ],
)
def test_pictures_are_not_fetched(part: dict[str, object]) -> None:
    with pytest.raises(ApiError, match="not fetched"):
        check_media([{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}])
    check_media(
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]
    )
    check_media([{"role": "user", "content": "see http://example.com"}])


def test_a_child_gets_no_secrets_and_no_options_by_its_environment() -> None:
    given = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "LLAMA_ARG_HOST": "0.0.0.0",
        "LLAMA_API_KEY": "k",
        "AIP_MODE": "PREDICTION",
        "HF_TOKEN": "t",
        "GGUFRUN_API_KEY": "s",
        "OPENAI_API_KEY": "o",
    }
    assert set(environment(given)) == {"PATH", "CUDA_VISIBLE_DEVICES", "LC_ALL", "GGML_NO_BACKTRACE", "GOMP_SPINCOUNT"}


def test_settings_go_to_the_planning_process_and_come_back() -> None:
    settings = Settings(
        context=0, shares=(1.0, 2.0), overrides=(("a", "CPU"),), adapters=(("x.gguf", 0.5),), think=True
    )
    import json

    assert Settings.from_json(json.loads(json.dumps(settings.as_json()))) == settings


# --- the space before an answer ---------------------------------------------------------------------------------------


def test_the_vocabularys_space_is_not_the_answers() -> None:
    whole = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"  two words "}}]}'
    assert leading_space.without_space(whole).count(b'" two words "') == 1
    message = b'{"type":"message","content":[{"type":"text","text":" hi there"}]}'
    assert b'"text":"hi there"' in leading_space.without_space(message)


@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
def test_a_stream_loses_one_space_wherever_it_is_cut(size: int) -> None:
    texts = ["", " ", "a", " b", " c"]
    events = [f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}\n\n' for text in texts]
    stream = ("".join(events) + "data: [DONE]\n\n").encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(stream), size):
            yield stream[start : start + size]

    async def read() -> bytes:
        return b"".join([piece async for piece in leading_space.stream_without_space(pieces())])

    assert asyncio.run(read()) == stream.replace(b'"content":" "', b'"content":""', 1)


# --- a prompt style ---------------------------------------------------------------------------------------------------

TALK = [
    {"role": "system", "content": "你是诗人。"},
    {"role": "user", "content": "背一首诗 <s> [INST]"},
    {"role": "assistant", "content": "静夜思"},
    {"role": "user", "content": "再来一首"},
]


@pytest.mark.parametrize("style", ["alpaca-2", "alpaca", "atom", "vicuna", "chatml", "none"])
@pytest.mark.parametrize("system", [True, False])
def test_a_style_is_written_with_the_ids_of_chat(demo_model: Model, style: str, system: bool) -> None:
    """The front has no vocabulary: texts are tokenized by somebody else, and the ids are still those of `chat`."""
    from ggufrun.chat.formats import stylebook

    messages = TALK if system else TALK[1:]
    vocab = demo_model.vocab
    choice = choose(demo_model, FormatOptions(style=style))
    prompt = "你是诗人。" if system else choice.system
    past, ids = replay(choice.format, vocab, prompt, [(TALK[1]["content"], TALK[2]["content"])])
    expected = choice.format.turn(past, ids, prompt, TALK[3]["content"]).ids

    facts = {"bos": vocab.bos, "eos": vocab.eos, "eot": vocab.eot, "add_bos": vocab.add_bos, "eog": [vocab.eos]}

    class Child:
        def __init__(self) -> None:
            self.plan = {"vocabulary": facts}

        async def call(self, method: str, path: str, body: dict[str, str]) -> tuple[int, dict[str, list[int]]]:
            assert (method, path) == ("POST", "/tokenize")
            return 200, {"tokens": vocab.tokenize(body["content"], special=False)}

    found = asyncio.run(styled.prompt_ids(Child(), stylebook.find(style), messages))  # type: ignore[arg-type]
    assert found == expected and len(found) > 20


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hello",
        [{"role": "system", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        [{"role": "assistant", "content": "y"}, {"role": "user", "content": "x"}],
        [{"role": "tool", "content": "y"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        [{"role": "user"}],
        [7],
    ],
)
def test_what_a_style_cannot_say_is_400(messages: object) -> None:
    with pytest.raises(ApiError) as caught:
        styled.turns_of(messages)
    assert caught.value.status == 400


# --- tools that must be called ----------------------------------------------------------------------------------------

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("first", "second")
]


def test_a_required_tool_is_one_of_all_and_a_named_one_that_one() -> None:
    every = required_tool.schema_of(required_tool.forced({"tools": TOOLS, "tool_choice": "required"}))
    assert [call["properties"]["name"]["const"] for call in every["anyOf"]] == ["first", "second"]
    named = {"type": "function", "function": {"name": "second"}}
    one = required_tool.schema_of(required_tool.forced({"tools": TOOLS, "tool_choice": named}))
    assert one["properties"]["name"] == {"const": "second"}
    for body in (
        {"tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "third"}}},
        {"tools": [{"type": "function"}], "tool_choice": "required"},
        {"tools": "x", "tool_choice": "required"},
    ):
        with pytest.raises(ApiError) as caught:
            required_tool.forced(body)
        assert caught.value.status == 400
    assert not required_tool.is_forced({"tools": TOOLS, "tool_choice": "auto"})


def test_figures_of_a_child_get_the_name_of_its_model() -> None:
    text = '# HELP x\nllamacpp:a_total 3\nllamacpp:b{x="1"} 4.5\n'
    assert labelled(text, 'm"1') == ['llamacpp_a_total{model="m\\"1"} 3', 'llamacpp_b{model="m\\"1",x="1"} 4.5']


def test_the_front_does_not_load_the_engine(demo_gguf: Callable[[str], Path]) -> None:
    script = (
        "import sys, pathlib; from ggufrun.cli.commands import serve; import ggufrun.server.run, ggufrun.server.plan;"
        f"entry = pathlib.Path({str(demo_gguf('q8_0'))!r}); s = entry.stat();"
        "print(serve._header(entry, s.st_mtime_ns, s.st_size)['kind'], 'llama_cpp.llama_cpp' in sys.modules);"
        "print('libllama' in pathlib.Path('/proc/self/maps').read_text() if sys.platform == 'linux' else False)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["chat", "False", "False"]


# --- models.toml ------------------------------------------------------------------------------------------------------


def test_models_toml_says_more_of_single_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Mine-Q8_0.gguf", "adapter.gguf", "other.gguf", "t.jinja"):
        (tmp_path / name).write_text("x")
    file = tmp_path / "models.toml"
    file.write_text(
        '["mine-q8_0"]\nalias = ["gpt-4o", "mine"]\ncontext = 0\nparallel = 2\nkeep_alive = "1h"\nthink = false\n'
        'style = "alpaca-2"\ntemplate = "t.jinja"\nadapters = [["adapter.gguf", 0.5]]\nsampling = {temp = 0.2}\n'
    )
    general = Settings(context=100, sampling={"top_k": 3})
    found = flags.catalog([str(tmp_path / "Mine-Q8_0.gguf"), str(tmp_path / "other.gguf")], general, file)
    entry = found.find("gpt-4o")
    assert entry is not None and entry.name == "Mine-Q8_0" and found.find("mine") is entry
    settings = entry.settings
    assert (settings.context, settings.parallel, settings.keep_alive, settings.think) == (0, 2, 3600, False)
    assert (settings.style, settings.template, settings.sampling) == ("alpaca-2", "x", {"top_k": 3, "temp": 0.2})
    assert settings.adapters == ((str(tmp_path / "adapter.gguf"), 0.5),)
    other = found.find("other")
    assert other is not None and other.settings == general


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "[a]\nnothing = 1",
        '[a]\ncontext = "big"',
        "[a]\ncontext = true",
        "[a]\nthink = 1",
        "[a]\nalias = 7",
        '[a]\nmmproj = "missing.gguf"',
        "[a]\nsampling = {heat = 1}",
        '[a]\nkeep_alive = "soon"',
        "[a",
        "[a]\nadapters = [[1, 2, 3]]",
    ],
)
def test_a_mistake_in_models_toml_is_one_line_that_names_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(text)
    with pytest.raises(GgufrunError) as caught:
        flags.catalog([], Settings(), file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


# --- schemas and grammars that never end ------------------------------------------------------------------------------

DOUBLING = "\n".join(["root ::= r0", *(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(40)), 'r40 ::= "a"'])


@pytest.mark.parametrize(
    "body",
    [
        {"grammar": DOUBLING},
        {"grammar": 'root ::= ((("a"?){0,999}){0,999}){0,999}'},
        {"grammar": 'root ::= (("a"{0,400}){0,400})'},
        {"json_schema": {"type": "string", "pattern": "^(((a{0,999}){0,999}){0,999})$"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"pattern": "^((a{0,999}){0,999})$"}}}},
    ],
)
def test_grammars_without_end_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(ApiError, match="more ways than can be followed"):
        asyncio.run(check_grammars(body))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"grammar": 'root ::= ([a-z]+ ("," [ \\t]* [a-z]+)*)? "\\n"'},
        {"grammar": "this is not one ((("},
        {
            "format": {
                "type": "object",
                "properties": {"a": {"type": "array", "items": {"maxLength": 500}, "maxItems": 500}},
            }
        },
        {"json_schema": {"type": "string", "pattern": "^([a-z]{1,60}-){1,60}[0-9]{0,9}$"}},
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": {"$ref": "#"}}}, 7]},
    ],
)
def test_other_grammars_are_the_childs_to_judge(body: dict[str, object]) -> None:
    asyncio.run(check_grammars(body))
