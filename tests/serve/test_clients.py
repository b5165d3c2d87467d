"""The clients that people have, against a running server."""

from __future__ import annotations

import json
import warnings
from typing import Any, Literal

import numpy as np
import pydantic
import pytest

from tests.serve.conftest import Server

TEXTS = ["Bees make honey from nectar.", "The river reaches the sea."]


def test_openai_python_embeds_and_lists(server: Server, openai_client: Any) -> None:
    """It asks for base64 unless told otherwise."""
    wanted = server.model.encode(TEXTS)
    for options in ({}, {"encoding_format": "float"}):
        answer = openai_client.embeddings.create(model="text-embedding-3-small", input=TEXTS, **options)
        np.testing.assert_allclose([item.embedding for item in answer.data], wanted, atol=1e-6)
    assert [model.id for model in openai_client.models.list()] == [server.model.name]
    extra = openai_client.embeddings.create(model="x", input=TEXTS, extra_body={"instruction": "Represent"})
    np.testing.assert_allclose(extra.data[0].embedding, server.model.encode(TEXTS, "Represent")[0], atol=1e-6)


def test_openai_python_reads_our_errors(openai_client: Any) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="Text 1 is empty"):
        openai_client.embeddings.create(model="x", input=["bee", ""])


def test_langchain_embeds_text_and_is_told_how(server: Server) -> None:
    import openai

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_openai import OpenAIEmbeddings
    options: dict[str, Any] = {"base_url": server.v1, "api_key": "none", "model": "gritlm"}
    found = OpenAIEmbeddings(**options, check_embedding_ctx_length=False).embed_documents(TEXTS)
    np.testing.assert_allclose(found, server.model.encode(TEXTS), atol=1e-6)
    # It tokenises with a vocabulary of OpenAI's, which it would have to download first: its ids are given here.
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        OpenAIEmbeddings(**options).client.create(input=[[101, 2054]], model="gritlm")


@pytest.mark.long
def test_llama_index_embeds(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from llama_index.embeddings.openai import OpenAIEmbedding
    model = OpenAIEmbedding(api_base=server.v1, api_key="none", model_name="gritlm")
    np.testing.assert_allclose(model.get_text_embedding_batch(TEXTS), server.model.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(model.get_query_embedding(TEXTS[0]), server.model.encode(TEXTS)[0], atol=1e-6)


SEARCH: dict[str, Any] = {
    "type": "object",
    "properties": {"query": {"enum": ["bees", "wax"]}},
    "required": ["query"],
    "additionalProperties": False,
}
QUESTION: list[Any] = [{"role": "user", "content": "How is honey made?"}]


def test_an_agent_of_openai_python_calls_a_function_and_answers(openai_client: Any) -> None:
    """Two steps in both protocols, whole and streamed: the call, then an answer that has read its result."""
    tool = {"type": "function", "function": {"name": "search", "description": "Finds.", "parameters": SEARCH}}
    chat: dict[str, Any] = {"model": "x", "tools": [tool], "temperature": 0, "max_tokens": 40}
    asked = openai_client.chat.completions.create(messages=QUESTION, tool_choice="required", **chat).choices[0]
    (call,) = asked.message.tool_calls
    assert (asked.finish_reason, call.function.name) == ("tool_calls", "search")
    with openai_client.chat.completions.stream(messages=QUESTION, tool_choice="required", **chat) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "Bees make honey from nectar."}
    said = [*QUESTION, asked.message.model_dump(exclude_none=True), result]
    answered = openai_client.chat.completions.create(messages=said, tool_choice="none", **chat)
    assert answered.choices[0].message.content and answered.choices[0].finish_reason == "length"

    flat = [{"type": "function", "name": "search", "parameters": SEARCH}]
    agent: dict[str, Any] = {"model": "x", "tools": flat, "temperature": 0, "max_output_tokens": 40}
    first = openai_client.responses.create(input=QUESTION, tool_choice="required", **agent)
    (item,) = first.output
    assert json.loads(item.arguments)["query"] in ("bees", "wax")
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "Bees make honey."}
    second = openai_client.responses.create(input=[*QUESTION, item.model_dump(), result], tool_choice="none", **agent)
    assert second.output_text


def test_openai_python_parses_what_it_asked_for(openai_client: Any) -> None:
    class Colour(pydantic.BaseModel):
        name: Literal["red", "green"]
        count: int

    options: dict[str, Any] = {"model": "x", "temperature": 0}
    chat = openai_client.chat.completions.parse(messages=QUESTION, response_format=Colour, max_tokens=90, **options)
    assert chat.choices[0].message.parsed.name in ("red", "green")
    again = openai_client.responses.parse(input="A colour?", text_format=Colour, max_output_tokens=90, **options)
    assert again.output_parsed == chat.choices[0].message.parsed or isinstance(again.output_parsed, Colour)


def test_langchain_chats_in_both_protocols(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_openai import ChatOpenAI
    options: dict[str, Any] = {"base_url": server.v1, "api_key": "none", "model": "gritlm", "temperature": 0}
    wanted = server.model.generate(QUESTION, 12)
    chat = ChatOpenAI(**options, max_tokens=12)
    assert chat.invoke("How is honey made?").content == wanted
    assert "".join(str(part.content) for part in chat.stream("How is honey made?")) == wanted
    newer = ChatOpenAI(**options, max_tokens=12, use_responses_api=True)
    assert newer.invoke("How is honey made?").text == wanted
    tool = {"name": "search", "description": "Finds.", "parameters": SEARCH}
    (call,) = ChatOpenAI(**options, max_tokens=60).bind_tools([tool], tool_choice="search").invoke("Honey?").tool_calls
    assert call["args"]["query"] in ("bees", "wax")


def best(server: Server, query: str) -> list[int]:
    """The places of `TEXTS` in the order of their cosines."""
    return [int(place) for place in np.argsort(-(server.model.encode(TEXTS) @ server.model.encode([query])[0]))]


@pytest.mark.long
def test_cohere_s_clients_rerank_texts_and_objects(server: Server) -> None:
    """The first one's objects have fields, the second one sends texts alone and may shorten them."""
    import cohere

    wanted = best(server, "river")
    new = cohere.ClientV2(api_key="none", base_url=server.url)
    found = new.rerank(model="x", query="river", documents=TEXTS, max_tokens_per_doc=400)
    assert [one.index for one in found.results] == wanted and found.meta.tokens.input_tokens > 0
    old = cohere.Client(api_key="none", base_url=server.url)
    objects = [{"title": f"{number}", "text": text} for number, text in enumerate(TEXTS)]
    again = old.rerank(model="x", query="river", documents=objects, return_documents=True, top_n=1)
    assert (again.results[0].index, again.results[0].document.text) == (wanted[0], TEXTS[wanted[0]])
    assert again.results[0].document.title == str(wanted[0])
    assert again.results[0].relevance_score == pytest.approx(found.results[0].relevance_score, abs=1e-6)
    with pytest.raises(cohere.BadRequestError, match="Document 1 is empty"):
        new.rerank(model="x", query="river", documents=["bee", " "])


@pytest.mark.long
def test_langchain_compresses_documents(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_cohere import CohereRerank
        from langchain_core.documents import Document

        reranker = CohereRerank(base_url=server.url, cohere_api_key="none", model="x", top_n=1)
    documents = [Document(text, metadata={"page": number}) for number, text in enumerate(TEXTS)]
    (kept,) = reranker.compress_documents(documents, "river")
    assert (kept.page_content, kept.metadata["page"]) == (TEXTS[best(server, "river")[0]], best(server, "river")[0])
    scores = reranker.rerank([{"name": "Bee", "note": TEXTS[0]}, TEXTS[1]], "river", rank_fields=["note"], top_n=None)
    assert sorted(one["index"] for one in scores) == [0, 1]


@pytest.mark.long
def test_llama_index_reranks_nodes_and_reads_our_errors(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from llama_index.core.schema import NodeWithScore, TextNode
        from llama_index.postprocessor.cohere_rerank import CohereRerank
        from llama_index.postprocessor.jinaai_rerank import JinaRerank

        makers = (JinaRerank(base_url=server.v1, api_key="x"), CohereRerank(base_url=server.url, api_key="x"))
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    for reranker in makers:
        found = reranker.postprocess_nodes(nodes, query_str="river")
        assert [one.node.text for one in found] == [TEXTS[index] for index in best(server, "river")]
    with pytest.raises(RuntimeError, match="Document 0 is empty"):
        makers[0].postprocess_nodes([NodeWithScore(node=TextNode(text=" "))], query_str="river")


@pytest.mark.long
def test_litellm_embeds_chats_continues_and_reranks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends every field that it knows, most of them null; Cohere's reranking has an address of its own."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm

        options: dict[str, Any] = {"model": "openai/gritlm", "api_base": server.v1, "api_key": "none"}
        answer = litellm.embedding(input=TEXTS, **options)
        np.testing.assert_allclose([item["embedding"] for item in answer.data], server.model.encode(TEXTS), atol=1e-6)
        wanted = server.model.generate(QUESTION, 12)
        chat = options | {"messages": QUESTION, "max_tokens": 12, "temperature": 0}
        assert litellm.completion(**chat).choices[0].message.content == wanted
        parts = litellm.completion(**chat, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == wanted
        text = litellm.text_completion(
            **options | {"model": "text-completion-openai/gritlm"}, prompt="Bees make", max_tokens=6, temperature=0
        )
        assert text.choices[0].text
        for provider, base in (
            ("cohere", server.url),
            ("jina_ai", server.v1),
            ("hosted_vllm", server.v1),
            ("hosted_vllm", server.url),
        ):
            address: dict[str, Any] = {"model": f"{provider}/x", "api_base": base, "api_key": "none"}
            found = litellm.rerank(**address, query="river", documents=TEXTS)
            assert [(one["index"], one["document"]["text"]) for one in found.results] == [
                (index, TEXTS[index]) for index in best(server, "river")
            ]
            objects = [{"text": text, "page": 1} for text in TEXTS]
            found = litellm.rerank(**address, query="river", documents=objects, top_n=1, return_documents=False)
            assert [one["index"] for one in found.results] == best(server, "river")[:1]


@pytest.mark.long
def test_mteb_s_wrappers_embed_and_rerank(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mteb.models.openai_wrappers import OpenAIAPIEncodeWrapper

        wrapper = OpenAIAPIEncodeWrapper(server.url, server.model.name, use_chat_template=False, modalities=["text"])
        plain = OpenAIAPIEncodeWrapper(server.url, server.model.name, max_retries=1)
    given: Any = [{"text": [*TEXTS, "bee " * 3000]}]
    options: Any = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    found = wrapper.encode(given, **options, show_progress_bar=False)
    np.testing.assert_allclose(found[:2], server.model.encode(TEXTS), atol=1e-6)
    with pytest.raises(RuntimeError, match="use_chat_template=False"):
        plain.encode(given, **options, show_progress_bar=False)
