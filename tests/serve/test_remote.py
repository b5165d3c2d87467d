"""`--engine openai`: this project's own server as the other one writes what this model would have written itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from grit_app.documents.library import Library
from grit_app.errors import Busy, InputError, ModelError, SettingsError
from grit_app.gritlm import Sampling
from grit_app.rag.answering import answer
from grit_app.rag.events import Done
from grit_app.serve.remote import Engine, RemoteGritLM, written_by
from grit_app.settings import Settings, load
from tests.serve.conftest import Server

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How is honey made?"}]


@pytest.fixture
def remote(server: Server) -> RemoteGritLM:
    return written_by(server.model, Engine(server.v1))


def test_a_chat_is_written_there(server: Server, remote: RemoteGritLM) -> None:
    stream = remote.stream(MESSAGES, 12)
    assert "".join(stream) == stream.text == server.model.generate(MESSAGES, 12)
    stats, prompt = stream.stats, len(server.model.prompts.chat(MESSAGES).ids)
    assert (stats.prompt_tokens, stats.new_tokens, stats.finish_reason) == (prompt, 12, "length")
    assert 0 < stats.ttft_ms < stats.total_ms and stats.tokens_per_s > 0
    again = remote.stream(MESSAGES, 12)
    assert again.read_all() == stream.text
    assert again.stats.cached_tokens > 0, "what the other server kept is told"
    assert server.url.partition("://")[2] in remote.describe()["name"]


def test_a_free_answer_over_documents_is_written_there_from_text(server: Server, tmp_path: Path) -> None:
    """Passages and question go there as one turn, without this model's own marks; nothing cached is taken for it."""
    said: list[Any] = []

    class Telling(Engine):
        def events(self, messages: Any, sampling: Sampling) -> Iterator[dict[str, Any]]:
            said.extend(messages)
            return super().events(messages, sampling)

    remote = written_by(server.model, Telling(server.v1))
    text = tmp_path / "bees.txt"
    text.write_text("Bees make honey from nectar.\n\nThe river reaches the sea.\n", encoding="utf-8")
    library = Library(remote, None)
    library.add([text], with_caches=False)
    question = "How is honey made?"

    def found(vector: Any) -> Any:
        return library.search(vector, question, 2)

    events = list(answer(question, library, remote, sampling=Sampling(max_new_tokens=9), hits=found))
    done = events[-1]
    assert isinstance(done, Done)
    (turn,) = said
    assert "Bees make honey from nectar." in turn["content"] and question in turn["content"]
    assert "<|" not in turn["content"] and not turn["content"].startswith("\n")
    assert done.answer.text == server.model.generate([turn], 9).strip() != ""
    assert (done.answer.strategy, done.answer.mode, done.answer.confidence) == ("rag_doc_query", "free", None)
    assert done.answer.citations
    for strategy in ("docs_cache", "query_cache", "each_cache"):
        with pytest.raises(InputError, match=r"reuses keys and values, and the engine at 127\.0\.0\.1"):
            answer(question, library, remote, strategy=strategy)
    library.close()


def test_caches_and_constraints_never_go_there(server: Server, remote: RemoteGritLM) -> None:
    cache = server.model.causal_cache([1, 5, 6])
    with pytest.raises(ModelError, match="takes neither keys and values"):
        remote.stream_ids([7], cache)


class Stalling(BaseHTTPRequestHandler):
    """Answers with a status, or begins an answer and says no more."""

    status = 200
    body = b""

    def do_POST(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(self.body)
        self.wfile.flush()
        if self.status == 200:
            time.sleep(5)

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "other"}]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stalling() -> Iterator[tuple[str, type[Stalling]]]:
    kind = type("Other", (Stalling,), {})
    running = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", kind
    running.shutdown()
    running.server_close()


def test_a_server_that_says_nothing_keeps_nobody_from_stopping(
    server: Server, stalling: tuple[str, type[Stalling]]
) -> None:
    url, kind = stalling
    kind.body = b'data: {"choices": [{"delta": {"content": "Bees"}}]}\n\n'
    cancel = threading.Event()
    stream = written_by(server.model, Engine(url)).stream(MESSAGES, 12, cancel=cancel)
    assert next(stream) == "Bees"
    cancel.set()
    started = time.monotonic()
    assert stream.read_all() == "Bees"
    assert time.monotonic() - started < 4, "it waited for the server, which is silent for five seconds"
    assert stream.stats.finish_reason == "cancelled"


def test_what_goes_wrong_there_is_a_sentence(server: Server, stalling: tuple[str, type[Stalling]]) -> None:
    url, kind = stalling
    for status, body, error, words in (
        (429, b"", Busy, "is busy"),
        (400, b'{"error": "no such model"}', ModelError, "refused .400.*no such model"),
        (200, b"data: nonsense\n\n", ModelError, "sends no chat completions"),
    ):
        kind.status, kind.body = status, body
        with pytest.raises(error, match=words):
            written_by(server.model, Engine(url)).generate(MESSAGES, 4)
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9 does not answer"):
        written_by(server.model, Engine("http://127.0.0.1:9/v1")).generate(MESSAGES, 4)


def test_settings_name_the_other_server() -> None:
    assert load(["--engine", "openai", "--base_url", "http://x/v1"], {}).engine == "openai"
    for bad in ({"engine": "openai"}, {"base_url": "x"}, {"vectors": "localhost:8000"}):
        with pytest.raises(SettingsError):
            Settings(**bad)  # type: ignore[arg-type]
