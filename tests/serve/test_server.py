"""What holds for every route: health, lists, keys, limits, and errors in one shape."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from grit_app.errors import SettingsError
from grit_app.serve.app import create_app
from grit_app.settings import Settings, load
from tests.serve.conftest import Server


def test_models_come_in_both_shapes(server: Server, client: httpx.Client) -> None:
    body = client.get("/v1/models").json()
    assert body["data"] == body["models"]
    assert body["data"][0]["id"] == server.model.name
    assert client.get(f"/v1/models/{server.model.name}").json() == body["data"][0]
    missing = client.get("/v1/models/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_health_tells_loading_failed_and_ok(client: httpx.Client) -> None:
    from starlette.testclient import TestClient

    assert client.get("/health").json()["status"] == "ok"

    class Loading:
        state, failure = "loading", ""

        def ready_model(self) -> None:
            return None

    source: Any = Loading()
    with TestClient(create_app(source, Settings())) as http:
        answer = http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "loading")
        source.failure = "The model could not be loaded."
        assert http.get("/health").json() == {
            "status": "failed",
            "model": "",
            "message": "The model could not be loaded.",
        }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("PUT", "/v1/embeddings", 405), ("GET", "/nothing", 404)],
)
def test_unknown_addresses_answer_in_the_same_shape(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_no_json_is_a_sentence(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The body is not valid JSON.")


def test_a_fault_of_ours_shows_a_number_and_no_traceback(
    fresh_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from grit_app.serve.routes import embeddings

    def broken(*_: object) -> None:
        raise RuntimeError("secret/path/weights.bin")

    monkeypatch.setattr(embeddings, "encoded", broken)
    with fresh_server() as server:
        answer = httpx.post(f"{server.v1}/embeddings", json={"input": "bee"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "secret" in caplog.text


def test_a_body_above_the_limit_is_refused_however_it_is_sent(client: httpx.Client) -> None:
    big = b'{"input": "' + b"a" * 3_000_000 + b'"}'
    kind = {"content-type": "application/json"}
    told = client.post("/v1/embeddings", content=big, headers=kind)
    untold = client.post("/v1/embeddings", content=iter([big[:2_500_000], big[2_500_000:]]), headers=kind)
    assert (told.status_code, untold.status_code) == (413, 413)


def test_pages_of_other_sites_are_refused(server: Server, client: httpx.Client) -> None:
    """A page anywhere could otherwise use the server on its visitor's own machine."""
    body = {"input": "bee"}
    assert client.post("/v1/embeddings", json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/v1/embeddings", json=body, headers={"origin": server.url}).status_code == 200


def test_keys_are_needed_once_there_are_any(fresh_server: Callable[..., Any]) -> None:
    hashed = hashlib.sha256(b"second").hexdigest()
    with fresh_server(api_key=f"first, sha256:{hashed}") as server, httpx.Client(base_url=server.url) as http:
        for key, status in [("first", 200), ("second", 200), ("third", 401), (hashed, 401), ("", 401)]:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            answer = http.post("/v1/embeddings", json={"input": "bee"}, headers=headers)
            assert answer.status_code == status, key
        assert answer.json()["error"]["type"] == "authentication_error"
        assert http.get("/health").status_code == 200


def test_settings_keep_no_key() -> None:
    assert "topsecret" not in repr(load(["--api_key", "topsecret"], {}))
    assert Settings(api_key="a,b").api_key_hashes == Settings(api_key=Settings(api_key="a,b").api_key).api_key_hashes
    for bad in ("a,,b", "sha256:12"):
        with pytest.raises(SettingsError):
            Settings(api_key=bad)


def test_each_key_has_its_own_rate(fresh_server: Callable[..., Any]) -> None:
    with fresh_server(api_key="a,b", api_rate=2) as server, httpx.Client(base_url=server.url) as http:

        def status(key: str) -> int:
            answer = http.post("/v1/embeddings", json={"input": "bee"}, headers={"authorization": f"Bearer {key}"})
            if answer.status_code == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 60
            return answer.status_code

        assert [status(key) for key in "aaaba"] == [200, 200, 429, 200, 429]


def test_a_key_may_run_only_so_many_requests_at_once(
    fresh_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from grit_app.serve.routes import embeddings

    entered, leave, real = threading.Event(), threading.Event(), embeddings.encoded

    def slow(*arguments: Any) -> Any:
        entered.set()
        leave.wait(20)
        return real(*arguments)

    monkeypatch.setattr(embeddings, "encoded", slow)
    with fresh_server(api_concurrency=1) as server, httpx.Client(base_url=server.url, timeout=30) as http:
        first: list[int] = []
        thread = threading.Thread(
            target=lambda: first.append(http.post("/v1/embeddings", json={"input": "bee"}).status_code)
        )
        thread.start()
        entered.wait(20)
        assert httpx.post(f"{server.v1}/embeddings", json={"input": "bee"}).status_code == 429
        leave.set()
        thread.join()
        assert first == [200]
        assert http.post("/v1/embeddings", json={"input": "bee"}).status_code == 200


def test_work_that_takes_too_long_is_stopped(fresh_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from grit_app.serve.routes import embeddings

    stopped = threading.Event()

    def endless(*arguments: Any) -> None:
        if arguments[-1].wait(20):
            stopped.set()

    monkeypatch.setattr(embeddings, "encoded", endless)
    with fresh_server(request_timeout_s=1) as server:
        answer = httpx.post(f"{server.v1}/embeddings", json={"input": "bee"}, timeout=30)
    assert answer.status_code == 504
    assert stopped.wait(5)


def test_the_description_has_an_example_for_every_body(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert client.get("/docs").status_code == 200
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], path
            assert operation.get("description"), f"{method} {path} is not described"
            for media in operation.get("requestBody", {}).get("content", {}).values():
                reference = media["schema"].get("$ref", "").rpartition("/")[2]
                body = schema["components"]["schemas"].get(reference, media["schema"])
                assert body.get("examples") or media.get("example"), f"{method} {path} has no example"
