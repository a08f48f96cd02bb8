"""Anthropic's own client: messages, streams, tools, counting, errors."""

import os

import anthropic

URL, POEM = os.environ["SERVE_URL"], os.environ["SERVE_POEM"]
KNOWS, WIDTH = os.environ["SERVE_TALKER"] == "real", int(os.environ["SERVE_WIDTH"])
client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
ASK = [{"role": "user", "content": "静夜思"}]
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "The weather of a city", "input_schema": SCHEMA}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]

for style in ({}, {"style": "alpaca-2"}):
    answer = client.messages.create(model="poet", max_tokens=100, messages=ASK, extra_body={"temperature": 0, **style})
    assert answer.content[0].text == POEM and answer.stop_reason == "end_turn", answer
    assert answer.usage.output_tokens > 20
    with client.messages.stream(
        model="poet", max_tokens=100, messages=ASK, extra_body={"temperature": 0, **style}
    ) as stream:
        assert "".join(stream.text_stream) == POEM

for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
    given = {"model": "talker", "max_tokens": 200, "messages": QUESTION, "tools": [TOOL], "tool_choice": choice}
    given["extra_body"] = {"temperature": 0}
    used = client.messages.create(**given)
    (block,) = [block for block in used.content if block.type == "tool_use"]
    assert (block.name, used.stop_reason) == ("weather", "tool_use") and "city" in block.input
    assert not KNOWS or "Paris" in block.input["city"]
    with client.messages.stream(**given) as stream:
        final = stream.get_final_message()
    assert final.content[0].input == block.input
    result = [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}]
    history = [*QUESTION, {"role": "assistant", "content": used.content}, {"role": "user", "content": result}]
    if KNOWS:
        # the embedded model's template knows nothing of results
        assert client.messages.create(model="talker", max_tokens=20, messages=history, tools=[TOOL]).content

count = client.messages.count_tokens(model="poet", messages=ASK)
assert count.input_tokens > 5
LONG = [{"role": "user", "content": "长" * 9000}]
for wrong, kind in (
    ({"model": "nobody", "max_tokens": 5, "messages": ASK}, anthropic.NotFoundError),
    ({"model": "poet", "max_tokens": 5, "messages": LONG}, anthropic.BadRequestError),
):
    try:
        client.messages.create(**wrong)
        raise AssertionError(wrong)
    except kind as error:
        assert error.body["error"]["message"]
