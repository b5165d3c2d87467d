"""/v1/embeddings gives the model's own vectors in every form that clients ask for."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_app.serve.routes.embeddings import packed, shortened
from tests.serve.conftest import Server

TEXTS = ["Bees make honey from nectar.", "The river reaches the sea.", "A KV cache keeps keys and values of tokens."]


def floats(item: dict[str, Any]) -> np.ndarray:
    return np.array(item["embedding"], dtype=np.float32)


def test_vectors_are_those_of_the_python_api(server: Server, client: httpx.Client) -> None:
    body = client.post("/v1/embeddings", json={"input": TEXTS, "instruction": "Represent the sentence"}).json()
    wanted = server.model.encode(TEXTS, instruction="Represent the sentence")
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    np.testing.assert_allclose([floats(item) for item in body["data"]], wanted, atol=1e-6)
    assert body["model"] == server.model.name
    tokens = sum(len(server.model.prompts.embed(text, "Represent the sentence").ids) for text in TEXTS)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_one_string_is_a_list_of_one(client: httpx.Client) -> None:
    one = client.post("/v1/embeddings", json={"input": TEXTS[0]}).json()
    several = client.post("/v1/embeddings", json={"input": [TEXTS[0]]}).json()
    assert len(one["data"]) == 1
    assert one["data"] == several["data"]


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=64))
@settings(max_examples=50, deadline=None)
def test_base64_is_little_endian_float32(numbers: list[float]) -> None:
    """Read back with `struct` and an explicit byte order: numpy's own would agree with itself on any machine."""
    text = packed(np.array(numbers, dtype=np.float32), "base64")
    assert isinstance(text, str)
    assert list(struct.unpack(f"<{len(numbers)}f", base64.b64decode(text))) == numbers


def test_dimensions_cut_and_normalise_again(server: Server, client: httpx.Client) -> None:
    width = server.model.hidden_size
    whole = floats(client.post("/v1/embeddings", json={"input": TEXTS[0]}).json()["data"][0])
    for kept in (1, 7, width):
        cut = floats(client.post("/v1/embeddings", json={"input": TEXTS[0], "dimensions": kept}).json()["data"][0])
        expected = whole[:kept].astype(np.float64) / np.linalg.norm(whole[:kept].astype(np.float64))
        np.testing.assert_allclose(cut, expected, atol=1e-6)
    above = client.post("/v1/embeddings", json={"input": TEXTS[0], "dimensions": width + 1})
    assert above.status_code == 400
    assert above.json()["error"]["param"] == "dimensions"


def test_a_cut_vector_of_zeros_stays_finite() -> None:
    assert np.isfinite(shortened(np.array([0, 0, 1], dtype=np.float32), 2)).all()


def test_input_type_query_is_the_checkpoints_own_instruction(server: Server, client: httpx.Client) -> None:
    def vector(**fields: Any) -> np.ndarray:
        return floats(client.post("/v1/embeddings", json={"input": TEXTS[0]} | fields).json()["data"][0])

    own = server.model.config.retrieval_instruction
    np.testing.assert_array_equal(vector(input_type="query"), vector(instruction=own))
    np.testing.assert_array_equal(vector(input_type="document"), vector())
    assert np.abs(vector(instruction="Another one") - vector()).max() > 1e-3


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_of_other_vocabularies_are_refused(client: httpx.Client, tokens: Any) -> None:
    """LangChain sends cl100k's ids by default. Read as ids of this vocabulary they would give vectors of nonsense."""
    answer = client.post("/v1/embeddings", json={"input": tokens})
    assert answer.status_code == 400
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


def test_2048_texts_are_one_request_and_2049_are_not(client: httpx.Client) -> None:
    most = client.post("/v1/embeddings", json={"input": ["bee"] * 2048, "dimensions": 1})
    assert len(most.json()["data"]) == 2048
    more = client.post("/v1/embeddings", json={"input": ["bee"] * 2049})
    assert more.status_code == 400
    assert "2,048" in more.json()["error"]["message"]


def test_a_text_that_is_too_long_is_refused_unless_it_may_be_cut(server: Server, client: httpx.Client) -> None:
    text = "bee " * 3000
    refused = client.post("/v1/embeddings", json={"input": ["bee", text]})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("Text 1 is longer")
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    cut = client.post("/v1/embeddings", json={"input": [text], "truncate": True}).json()
    assert cut["usage"]["prompt_tokens"] == server.model.context


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["bee", "  "]}, "input"),
        ({"input": "bee", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "bee", "dimensions": 0}, "dimensions"),
        ({"input": "bee", "input_type": "poem"}, "input_type"),
        ({"input": {"text": "bee"}}, "input"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_that_names_the_field(
    client: httpx.Client, body: dict[str, Any], param: str
) -> None:
    answer = client.post("/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"].split(".")[0] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith(".")


def test_texts_are_cut_under_the_name_that_vllm_has(server: Server, client: httpx.Client) -> None:
    """mteb sends it with every request, once a server's list tells how much the model reads."""
    long = "bees make honey " * 60
    few, many = [long], [long] * 40
    for texts in (few, many):
        body = client.post("/v1/embeddings", json={"input": texts, "truncate_prompt_tokens": 20}).json()
        assert body["usage"]["prompt_tokens"] == 20 * len(texts)
        np.testing.assert_allclose(floats(body["data"][-1]), server.model.encode([long], max_length=20)[0], atol=1e-5)
    too_long = {"input": "bee " * 3000}
    assert client.post("/v1/embeddings", json=too_long).status_code == 400
    assert client.post("/v1/embeddings", json=too_long | {"truncate_prompt_tokens": -1}).status_code == 200
