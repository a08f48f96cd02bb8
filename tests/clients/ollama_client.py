"""Ollama's own client: models, chat, generate, tools, structured output, embeddings, errors."""

import json
import os

import ollama

URL, POEM = os.environ["SERVE_URL"], os.environ["SERVE_POEM"]
WIDTH = int(os.environ["SERVE_WIDTH"])
client = ollama.Client(host=URL)
ASK = [{"role": "user", "content": "静夜思"}]
GREEDY = {"temperature": 0}

assert {model.model for model in client.list().models} == {"poet", "talker", "encoder"}
shown = client.show("poet")
assert shown.details.quantization_level == "Q8_0" and shown.modelinfo["llama.context_length"] == 4096
assert client.chat("poet", ASK, options=GREEDY).message.content == POEM
assert "".join(part.message.content for part in client.chat("poet", ASK, options=GREEDY, stream=True)) == POEM
last = client.generate("poet", "静夜思", options=GREEDY)
assert last.response == POEM and last.done_reason == "stop" and last.eval_count == 27
assert client.generate("poet", "床前明月", raw=True, options={**GREEDY, "num_predict": 3}).response

schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"]}
found = client.chat("talker", [{"role": "user", "content": "How many?"}], format=schema, options={"num_predict": 60})
assert isinstance(json.loads(found.message.content)["n"], int)


def weather(city: str) -> str:
    """The weather of a city.

    Args:
      city: its name
    """
    return "sunny"


answer = client.chat("talker", [{"role": "user", "content": "The weather in Paris?"}], tools=[weather], options=GREEDY)
assert answer.message.content or answer.message.tool_calls
assert len(client.embed("encoder", ["a", "b"]).embeddings) == 2
assert len(client.embeddings("encoder", "a").embedding) == WIDTH
assert {model.model for model in client.ps().models} >= {"poet", "talker"}
client.generate("poet", keep_alive=0)
for wrong in (lambda: client.chat("nobody", ASK), lambda: client.pull("x/y"), lambda: client.show("nobody")):
    try:
        wrong()
        raise AssertionError
    except ollama.ResponseError as error:
        assert error.status_code in (404, 501) and error.error
