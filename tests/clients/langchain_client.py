"""LangChain, by OpenAI's API and by Ollama's: chat, streams, tools, structured output, embeddings."""

import os
from typing import Literal

from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

URL, POEM = os.environ["SERVE_URL"], os.environ["SERVE_POEM"]
KNOWS, WIDTH = os.environ["SERVE_TALKER"] == "real", int(os.environ["SERVE_WIDTH"])


class Answer(BaseModel):
    """A number."""

    n: Literal[1, 2, 3]


@tool
def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return "sunny"


both = (
    ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model="poet", temperature=0, max_retries=0),
    ChatOllama(base_url=URL, model="poet", temperature=0, validate_model_on_init=True),
)
for model in both:
    assert model.invoke("静夜思").content == POEM
    assert "".join(piece.content for piece in model.stream("静夜思")) == POEM

talker = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model="talker", temperature=0, max_retries=0, max_tokens=1000)
for choice in ("required", "weather"):
    (call,) = talker.bind_tools([weather], tool_choice=choice).invoke("The weather in Paris?").tool_calls
    assert call["name"] == "weather" and "city" in call["args"]
    assert not KNOWS or "Paris" in call["args"]["city"]
for method in ("json_schema", "function_calling"):
    assert isinstance(talker.with_structured_output(Answer, method=method).invoke("How many?").n, int)
other = ChatOllama(base_url=URL, model="talker", temperature=0, num_predict=1000)
assert isinstance(other.with_structured_output(Answer, method="json_schema").invoke("How many?").n, int)
assert OllamaLLM(base_url=URL, model="poet", temperature=0).invoke("静夜思") == POEM
assert OpenAI(base_url=f"{URL}/v1", api_key="none", model="poet", max_tokens=4).invoke("床前明月")
for embeddings in (
    OllamaEmbeddings(base_url=URL, model="encoder"),
    OpenAIEmbeddings(base_url=f"{URL}/v1", api_key="none", model="encoder", check_embedding_ctx_length=False),
):
    assert [len(row) for row in embeddings.embed_documents(["a", "b"])] == [WIDTH, WIDTH]
