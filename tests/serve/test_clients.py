"""The clients that people have, against a running server."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
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


@pytest.mark.long
def test_litellm_embeds(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends every field that it knows, most of them null."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm

        answer = litellm.embedding(model="openai/gritlm", input=TEXTS, api_base=server.v1, api_key="none")
    np.testing.assert_allclose([item["embedding"] for item in answer.data], server.model.encode(TEXTS), atol=1e-6)
