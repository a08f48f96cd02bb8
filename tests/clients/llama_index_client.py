"""LlamaIndex by Ollama's API and by OpenAI's: the two modes in which PrivateGPT talks to a server."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike

URL, POEM = os.environ["SERVE_URL"], os.environ["SERVE_POEM"]
WIDTH = int(os.environ["SERVE_WIDTH"])
ASK = [ChatMessage(role="user", content="静夜思")]

for model in (
    Ollama(model="poet", base_url=URL, temperature=0, request_timeout=120),
    OpenAILike(model="poet", api_base=f"{URL}/v1", api_key="none", temperature=0, is_chat_model=True, max_tokens=100),
):
    assert model.chat(ASK).message.content == POEM
    assert "".join(piece.delta or "" for piece in model.stream_chat(ASK)) == POEM
plain = OpenAILike(model="poet", api_base=f"{URL}/v1", api_key="none", is_chat_model=False, max_tokens=4)
assert plain.complete("床前明月").text
for embedding in (
    OllamaEmbedding(model_name="encoder", base_url=URL),
    OpenAILikeEmbedding(model_name="encoder", api_base=f"{URL}/v1", api_key="none"),
):
    assert len(embedding.get_text_embedding("a")) == WIDTH and len(embedding.get_query_embedding("b")) == WIDTH
