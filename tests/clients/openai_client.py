"""OpenAI's own client: chat, streams, tools, structured output, embeddings, responses, errors, cancelling."""

import json
import os

import openai

URL, POEM = os.environ["SERVE_URL"], os.environ["SERVE_POEM"]
KNOWS, WIDTH = os.environ["SERVE_TALKER"] == "real", int(os.environ["SERVE_WIDTH"])
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
ASK = [{"role": "user", "content": "静夜思"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]

assert {model.id for model in client.models.list()} == {"poet", "talker", "encoder"}
assert client.models.retrieve("poet").id == "poet"

answer = client.chat.completions.create(model="poet", messages=ASK, temperature=0)
assert answer.choices[0].message.content == POEM and answer.choices[0].finish_reason == "stop"
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

for style in ({}, {"style": "alpaca-2"}):
    stream = client.chat.completions.create(
        model="poet", messages=ASK, temperature=0, stream=True, stream_options={"include_usage": True}, extra_body=style
    )
    text, usage = "", None
    for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == POEM and usage.completion_tokens == 27, (text, usage)

for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
    for streamed in (False, True):
        given = {"model": "talker", "messages": QUESTION, "tools": [TOOL], "tool_choice": choice, "temperature": 0}
        if streamed:
            with client.chat.completions.stream(**given) as stream:
                (call,) = stream.get_final_completion().choices[0].message.tool_calls
        else:
            (call,) = client.chat.completions.create(**given).choices[0].message.tool_calls
        assert call.function.name == "weather" and "city" in json.loads(call.function.arguments)
        assert not KNOWS or "Paris" in call.function.arguments
plain = client.chat.completions.create(
    model="talker", messages=QUESTION, tools=[TOOL], tool_choice="none", max_tokens=8, temperature=0
)
assert plain.choices[0].message.tool_calls is None
auto = client.chat.completions.create(model="talker", messages=QUESTION, tools=[TOOL], max_tokens=40, temperature=0)
assert auto.choices[0].message.content or auto.choices[0].message.tool_calls

schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}
form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
found = client.chat.completions.create(model="talker", messages=QUESTION, response_format=form, max_tokens=60)
assert isinstance(json.loads(found.choices[0].message.content)["n"], int)

probable = client.chat.completions.create(
    model="poet", messages=ASK, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
)
assert len(probable.choices[0].logprobs.content) == 3

assert client.completions.create(model="poet", prompt="床前明月", max_tokens=3, temperature=0).choices[0].text
vectors = client.embeddings.create(model="encoder", input=["a cat", "a kitten", "a lorry"]).data
first, *others = (row.embedding for row in vectors)
near, far = (sum(x * y for x, y in zip(first, other, strict=True)) for other in others)
assert len(vectors[0].embedding) == WIDTH and (near > far or not KNOWS)
assert client.responses.create(model="talker", input="Say hello.", max_output_tokens=10).output_text

for wrong, kind in (
    ({"model": "nobody", "messages": ASK}, openai.NotFoundError),
    ({"model": "poet", "messages": ASK, "temperature": -1}, openai.BadRequestError),
    ({"model": "poet", "messages": [{"role": "user", "content": "长" * 9000}]}, openai.BadRequestError),
):
    try:
        client.chat.completions.create(**wrong)
        raise AssertionError(wrong)
    except kind as error:
        assert error.body["message"]

stream = client.chat.completions.create(
    model="poet", messages=ASK, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
)
next(iter(stream))
stream.close()
