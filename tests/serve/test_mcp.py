"""The tools of /mcp, by the official client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import numpy as np

from tests.serve.conftest import Server

TEXTS = ["Bees make honey from nectar.", "The river reaches the sea.", "A KV cache keeps keys and values of tokens."]


def test_an_agent_finds_and_uses_the_tools(server: Server, client: httpx.Client) -> None:
    from mcp import Client

    sent = client.post("/v1/documents", files={"file": ("bees.txt", TEXTS[0].encode())}).json()["data"][0]

    async def talk() -> dict[str, Any]:
        found: dict[str, Any] = {}
        async with Client(f"{server.url}/mcp") as agent:
            found["tools"] = (await agent.list_tools()).tools

            async def call(name: str, **arguments: Any) -> Any:
                answer = await agent.call_tool(name, arguments)
                assert not answer.is_error, answer
                return answer.structured_content

            found["embed"] = (await call("embed", texts=TEXTS))["result"]
            found["similarity"] = (await call("similarity", texts=TEXTS))["result"]
            found["rerank"] = (await call("rerank", query="honey", documents=TEXTS))["result"]
            found["search"] = (await call("search", query="honey", k=1))["result"]
            found["ask"] = await call("ask", question="How is honey made?", documents=TEXTS, searches=1)
            found["resources"] = (await agent.list_resources()).resources
            found["text"] = (await agent.read_resource(found["search"][0]["document"])).contents[0].text
            found["bad"] = await agent.call_tool("embed", {"texts": [" "]})
        return found

    found = anyio.run(talk)
    client.delete(f"/v1/documents/{sent['id']}")
    assert {tool.name for tool in found["tools"]} == {"embed", "similarity", "search", "ask", "rerank"}
    assert all(tool.description for tool in found["tools"])
    wanted = server.model.encode(TEXTS)
    np.testing.assert_allclose(found["embed"], wanted, atol=1e-6)
    np.testing.assert_allclose(found["similarity"], wanted @ wanted.T, atol=1e-5)
    assert sorted(one["index"] for one in found["rerank"]) == [0, 1, 2]
    assert found["search"][0]["file"] == "bees.txt"
    assert {"answer", "answerable", "citations"} <= set(found["ask"])
    assert [str(one.uri) for one in found["resources"]] == [f"grit://documents/{sent['id']}"]
    assert found["text"].strip() == TEXTS[0]
    assert found["bad"].is_error and "Text 0 is empty" in json.dumps(found["bad"].model_dump(mode="json"))


def test_tools_need_a_key_once_there_are_any(fresh_server: Callable[..., Any]) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"accept": "application/json, text/event-stream"}
    with fresh_server(api_key="a") as server, httpx.Client(base_url=server.url) as http:
        assert http.post("/mcp", json=body, headers=headers).status_code == 401
        assert http.post("/mcp", json=body, headers=headers | {"authorization": "Bearer a"}).status_code == 200
