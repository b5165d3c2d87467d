"""Reranking, kept documents, cited answers, and KV caches that outlive their request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from grit_app.gritlm import Conversation, GritLM, KVCache, Sampling, join
from grit_app.gritlm.budget import Budget
from grit_app.gritlm.prompts import rag_turn
from grit_app.serve.errors import ApiError
from grit_app.serve.handles import LIFETIME_S, Handles
from grit_app.settings import Settings
from tests.documents.pdf_maker import Pdf
from tests.serve.conftest import Server, serving

BEES = "Bees make honey from nectar; they store it in combs made of wax."
RIVER = "The river rises in the mountains and reaches the sea after three hundred kilometres."


def test_rerank_by_vectors_is_the_order_of_cosines(server: Server, client: httpx.Client) -> None:
    texts = [RIVER, BEES, "A KV cache keeps the keys and values of tokens."]
    body = {"query": "How is honey made?", "documents": [texts[0], {"text": texts[1]}, texts[2]], "top_n": 2}
    found = client.post("/v1/rerank", json=body | {"return_documents": True}).json()
    cosines = server.model.encode(texts) @ server.model.encode(["How is honey made?"])[0]
    assert [one["index"] for one in found["results"]] == np.argsort(-cosines)[:2].tolist()
    assert found["results"][0]["document"]["text"] == texts[found["results"][0]["index"]]
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == pytest.approx([(1 + cosines[one["index"]]) / 2 for one in found["results"]], abs=1e-5)


def test_rerank_reads_the_named_fields_of_objects_and_gives_them_back(server: Server, client: httpx.Client) -> None:
    """At all three addresses; without `rank_fields` the field `text` counts, and one without it is told so."""
    objects = [{"title": "The sea", "body": RIVER, "page": 1}, {"title": "Bees", "body": BEES, "page": 2}]
    body = {"query": "honey", "documents": objects, "return_documents": True, "rank_fields": ["title", "body"]}
    texts = [f"title: {one['title']}\nbody: {one['body']}" for one in objects]
    wanted = np.argsort(-(server.model.encode(texts) @ server.model.encode(["honey"])[0])).tolist()
    for address in ("/v1/rerank", "/v2/rerank", "/rerank"):
        found = client.post(address, json=body).json()
        assert [one["index"] for one in found["results"]] == wanted
        assert [one["document"] for one in found["results"]] == [objects[index] for index in wanted]
        assert found["meta"]["tokens"]["input_tokens"] == found["usage"]["prompt_tokens"]
    refused = client.post("/v1/rerank", json={"query": "honey", "documents": objects})
    assert refused.status_code == 400 and "has no field of the name text" in refused.json()["detail"]


def test_rerank_of_a_long_document_counts_its_beginning(server: Server, client: httpx.Client) -> None:
    ids = server.model.prompts.continuation(BEES)
    start = server.model.prompts.decode(ids[:4])
    body = {"query": "honey", "documents": [BEES], "max_tokens_per_doc": 4}
    short, whole = (client.post("/v1/rerank", json=body | {"documents": [text]}).json() for text in (start, BEES))
    assert short["results"] == whole["results"]


@pytest.mark.parametrize("method", ["relevance", "question"])
def test_rerank_by_reading_is_the_order_of_likelihoods(server: Server, client: httpx.Client, method: Any) -> None:
    from grit_app.rag.reranking import rerank

    texts = [RIVER, BEES]
    wanted = rerank(server.model, "How is honey made?", texts, method)
    body = {"query": "How is honey made?", "documents": texts, "method": method}
    found = client.post("/v1/rerank", json=body).json()["results"]
    assert [one["index"] for one in found] == sorted(range(2), key=lambda index: -wanted[index])
    assert all(0 <= one["relevance_score"] <= 1 for one in found)


def test_documents_are_kept_listed_answered_from_and_removed(client: httpx.Client) -> None:
    pdf = Pdf()
    for line in ("Bees make honey from nectar.", "The museum opened in 1950."):
        pdf.page().text(72, 700, line, size=12)
    files = [("file", ("bees.pdf", pdf.bytes())), ("file", ("river.txt", RIVER.encode())), ("file", ("x.bin", b"\0\1"))]
    answer = client.post("/v1/documents", files=files)
    assert answer.status_code == 200, answer.text
    sent = answer.json()
    assert [card["name"] for card in sent["data"]] == ["bees.pdf", "river.txt"]
    assert sent["failed"][0]["file"] == "x.bin"
    assert client.get("/v1/documents").json()["data"] == sent["data"]
    body = {"question": "When did the museum open?", "mode": "quote", "strategy": "docs_cache", "k": 3, "boxes": True}
    found = client.post("/v1/answers", json=body | {"document_ids": [sent["data"][0]["id"]]}).json()
    assert {one["file"] for one in found["citations"]} == {"bees.pdf"}
    assert all({"page", "page_label", "text", "score", "document_id"} <= set(one) for one in found["citations"])
    for one in found["citations"]:
        assert not one["cited"] or one["boxes"]
    for card in sent["data"]:
        assert client.delete(f"/v1/documents/{card['id']}").json()["deleted"] is True
    assert client.get("/v1/documents").json()["data"] == []
    assert client.delete(f"/v1/documents/{card['id']}").status_code == 404
    assert client.post("/v1/answers", json=body).status_code == 400
    assert client.post("/v1/documents", files=[("file", ("x.bin", b"\0\1"))]).status_code == 400


def test_the_encoding_of_an_uploaded_text_can_be_chosen(client: httpx.Client) -> None:
    files = [("file", ("walls.txt", "Wall 7 is called ЙШЩ. ".encode("cp1251") * 20))]
    (guessed,) = client.post("/v1/documents", files=files).json()["data"]
    assert "a guess from its letters" in guessed["notes"][0]
    (chosen,) = client.post("/v1/documents", files=files, data={"encoding": "windows-1251"}).json()["data"]
    assert (chosen["id"], chosen["encoding"], chosen["notes"]) == (guessed["id"], "cp1251", [])
    for wrong in ("rot13", "utf-8"):
        assert client.post("/v1/documents", files=files, data={"encoding": wrong}).status_code == 400
    assert client.get("/v1/documents").json()["data"] == [chosen]
    client.delete(f"/v1/documents/{chosen['id']}")


def test_an_answer_over_texts_that_come_with_it_streams_tokens_then_citations(client: httpx.Client) -> None:
    body = {"question": "How is honey made?", "documents": [BEES, {"name": "river", "text": RIVER}], "mode": "quote"}
    whole = client.post("/v1/answers", json=body).json()
    with client.stream("POST", "/v1/answers", json=body | {"stream": True}) as answer:
        lines = list(answer.iter_lines())
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    assert (kinds[0], kinds[-1]) == ("retrieved", "done")
    tokens = "".join(json.loads(text)["text"] for kind, text in zip(kinds, data, strict=True) if kind == "token")
    done = json.loads(data[-1])
    assert done["answer"] == whole["answer"]
    assert tokens.strip() and tokens.strip()[:10] in done["answer"]
    assert {one["file"] for one in done["citations"]} <= {"text 1", "river"}
    assert client.get("/v1/documents").json()["data"] == []


def test_an_answer_may_reorder_what_it_found(client: httpx.Client) -> None:
    texts = ["Bees make honey from nectar.", "The mill stands by the river.", "Salt is won from the sea."]
    body = {"question": "How is honey made?", "documents": texts, "k": 1, "max_tokens": 4, "rerank": "question"}
    found = client.post("/v1/answers", json=body).json()
    assert len(found["citations"]) == 1
    assert any("read 3 passages" in note for note in found["notes"])
    assert client.post("/v1/answers", json=body | {"searches": 1}).status_code == 400


def test_a_handle_skips_the_prefill_and_changes_no_token(server: Server, client: httpx.Client) -> None:
    """Against the join of caches made by the Python API, written on by the stock path."""
    model = server.model
    kept = client.post("/v1/embeddings", json={"input": [BEES, RIVER], "cache": True}).json()["data"]
    handles = [item["cache"]["id"] for item in kept]
    caches = [encoding.cache for encoding in model.encode_iter([BEES, RIVER], return_cache=True)]
    assert [item["cache"]["tokens"] for item in kept] == [cache.length for cache in caches]
    assert [item["cache"]["bytes"] for item in kept] == [cache.nbytes for cache in caches]
    cache: KVCache = join(caches, model.rope)
    tail = model.prompts.continuation(rag_turn(["How is honey made?"], answer_prefix="", continued=True))
    wanted = model.stream_ids(tail, cache, Sampling(max_new_tokens=8)).read_all()
    body = {"messages": [{"role": "user", "content": "How is honey made?"}], "temperature": 0, "max_tokens": 8}
    found = client.post("/v1/chat/completions", json=body | {"caches": handles}).json()
    assert found["choices"][0]["message"]["content"] == wanted
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] == cache.length
    assert found["usage"]["prompt_tokens"] == cache.length + len(tail)
    answered = client.post("/v1/answers", json={"question": "How is honey made?", "caches": handles, "max_tokens": 8})
    assert answered.json()["cached_tokens"] == cache.length
    assert {one["id"] for one in client.get("/v1/caches").json()["data"]} >= set(handles)
    assert client.delete(f"/v1/caches/{handles[0]}").status_code == 200
    gone = client.post("/v1/chat/completions", json=body | {"caches": handles})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "cache_not_found")


def test_one_key_reaches_nothing_of_anothers(fresh_server: Callable[..., Any]) -> None:
    with fresh_server(api_key="a,b") as server, httpx.Client(base_url=server.url, timeout=60) as http:

        def headers(key: str) -> dict[str, str]:
            return {"authorization": f"Bearer {key}"}

        sent = http.post("/v1/documents", files={"file": ("river.txt", RIVER.encode())}, headers=headers("a")).json()
        name = sent["data"][0]["id"]
        handle = http.post("/v1/embeddings", json={"input": BEES, "cache": True}, headers=headers("a")).json()
        cache = handle["data"][0]["cache"]["id"]
        assert http.get("/v1/documents", headers=headers("b")).json()["data"] == []
        assert http.get("/v1/caches", headers=headers("b")).json()["data"] == []
        assert http.delete(f"/v1/documents/{name}", headers=headers("b")).status_code == 404
        assert http.delete(f"/v1/caches/{cache}", headers=headers("b")).status_code == 404
        asked = {"question": "Where does the river rise?", "document_ids": [name]}
        assert http.post("/v1/answers", json=asked, headers=headers("b")).status_code == 400
        asked = {"question": "Where does the river rise?", "caches": [cache]}
        assert http.post("/v1/answers", json=asked, headers=headers("b")).status_code == 404
        assert http.post("/v1/answers", json=asked, headers=headers("a")).status_code == 200


def test_a_shared_server_without_keys_keeps_nothing(fresh_server: Callable[..., Any]) -> None:
    """Its callers cannot be told apart: what one keeps would be everybody's."""
    with fresh_server(host="0.0.0.0") as server, httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.post("/v1/documents", files={"file": ("river.txt", RIVER.encode())}).status_code == 403
        assert http.post("/v1/embeddings", json={"input": BEES, "cache": True}).status_code == 403
        assert http.post("/v1/embeddings", json={"input": BEES}).status_code == 200
        inline = {"question": "Where does the river rise?", "documents": [RIVER], "mode": "quote"}
        assert http.post("/v1/answers", json=inline).status_code == 200


def test_handles_end_by_time_and_by_bytes(server: Server) -> None:
    now = [1000.0]
    caches = [found.cache for found in server.model.encode_iter([BEES, RIVER, BEES], return_cache=True)]
    memory = Budget(10**9)
    handles = Handles(caches[0].nbytes + caches[1].nbytes, memory, clock=lambda: now[0])
    first, second = (handles.keep("a", [cache])[0].id for cache in caches[:2])
    handles.get("a", first)
    third = handles.keep("a", [caches[2]])[0].id  # the least recently used, the second, goes
    assert {one.id for one in handles.list("a")} == {first, third}
    with pytest.raises(ApiError):
        handles.get("a", second)
    now[0] += LIFETIME_S / 2
    handles.get("a", third)
    now[0] += LIFETIME_S / 2
    assert [one.id for one in handles.list("a")] == [third]
    assert handles.bytes == memory.bytes == caches[2].nbytes, "what ended counts no more"
    handles.remove("a", third)
    assert memory.bytes == 0
    with pytest.raises(ApiError, match="api_bytes_mb"):
        Handles(10, memory).keep("a", caches)
    with pytest.raises(ApiError, match="memory_mb"):
        Handles(10**9, Budget(10)).keep("a", caches)
    assert Settings(api_bytes_mb=0).api_bytes_mb == 0


def test_handles_and_prompts_of_programs_share_the_one_budget_with_chats(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """They had budgets of their own, 512 MB and 1 GB a key, on top of what the operator had allowed."""
    model = GritLM.from_pretrained(tiny_model_folder("llama", max_position_embeddings=2048), dtype="float32")
    memory = model.memory
    with serving(model, Settings(data_dir=tmp_path)) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        said = [{"role": "user", "content": f"{RIVER} {BEES}"}]
        handle = http.post("/v1/embeddings", json={"input": [BEES], "cache": True}).json()["data"][0]["cache"]
        assert memory.bytes == handle["bytes"] > 0
        body = {"messages": said, "max_tokens": 4, "temperature": 0}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        kept = memory.bytes - handle["bytes"]
        assert kept > 0 and f'kind="prefixes"}} {float(kept)}' in http.get("/metrics").text
        named = body | {"caches": [handle["id"]]}
        assert http.post("/v1/chat/completions", json=named).status_code == 200, "used now: the prompt is older"

        chat = Conversation()
        memory.limit_bytes = memory.bytes + 1
        list(model.stream(said, max_new_tokens=4, temperature=0.0, conversation=chat))
        assert memory.bytes <= memory.limit_bytes
        again = http.post("/v1/chat/completions", json=body).json()
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "the least recently used went first"
        memory.limit_bytes = 1
        list(model.stream(said, max_new_tokens=4, temperature=0.0, conversation=chat))
        gone = http.post("/v1/chat/completions", json=named)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "cache_not_found")
        assert memory.bytes == chat.nbytes


def test_an_answer_may_search_on_its_own(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never asks for it; what it asks for is told, whole and streamed. The quote mode writes nothing."""
    from grit_app.rag.searching import loop

    def ask_once() -> None:
        queries = iter(["honey", "honey"])  # read twice a step
        monkeypatch.setattr(loop, "query_in", lambda _: next(queries, None))

    body = {"question": "What do bees make?", "documents": [BEES, RIVER], "k": 1, "searches": 2, "max_tokens": 4}
    ask_once()
    assert client.post("/v1/answers", json=body).json()["searches"] == ["honey"]
    ask_once()
    with client.stream("POST", "/v1/answers", json=body | {"stream": True}) as answer:
        events = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert events[-1] == "done" and events.index("retrieved") < events.index("searching")
    for more, words in (({"mode": "quote"}, "leave mode out"), ({"caches": ["x"]}, "leave out searches or caches")):
        refused = client.post("/v1/answers", json=body | more)
        assert refused.status_code == 400 and words in refused.json()["error"]["message"]
