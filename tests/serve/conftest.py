"""One running server for all tests of the routes: a tiny random model, real sockets, a data folder of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from grit_app.settings import Settings


@dataclass(frozen=True)
class Server:
    """Where a server listens, and the model that it serves."""

    url: str
    model: Any
    app: Any

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


def until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for it, and fails where it does not come."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def serving(model: Any, settings: Settings) -> Iterator[Server]:
    """The routes over this model in a thread of this process, on a free port."""
    import uvicorn

    from grit_app.serve.__main__ import Loaded
    from grit_app.serve.app import create_app

    app = create_app(Loaded(model), settings)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield Server(f"http://127.0.0.1:{port}", model, app)
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="session")
def server(load_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without keys."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("serve"), max_file_mb=1)
    with serving(load_tiny("llama", max_position_embeddings=2048), settings) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """Plain HTTP to that server."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


@pytest.fixture
def openai_client(server: Server) -> Iterator[Any]:
    """The official client, pointed there."""
    from openai import OpenAI

    with OpenAI(base_url=server.v1, api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def fresh_server(load_tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """`with fresh_server(api_key="a,b") as server:` a server with settings of its own."""

    def start(**changes: Any) -> Any:
        settings = Settings(**{"data_dir": tmp_path / "data", "max_file_mb": 1} | changes)
        return serving(load_tiny("llama", max_position_embeddings=2048), settings)

    return start
