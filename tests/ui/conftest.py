"""One running app for all tests of the page: the real command line, a tiny random model, a data folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import tiny_hf_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 300.0
WAIT_MS = 60_000
expect.set_options(timeout=WAIT_MS)  # five seconds, the default, are no sign of a fault on a busy machine
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(frozen=True)
class RunningApp:
    """Where the app listens, and what it writes."""

    url: str
    data_folder: Path
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the page answers. Fails with the app's own words if it ends or takes too long."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            httpx.get(url, timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"no page within {START_LIMIT_S} s:\n{log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session")
def served_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with room for documents. It never ends an answer by itself: Stop needs something to stop."""
    import torch

    folder = tmp_path_factory.mktemp("served-model")
    model = tiny_hf_model("mistral", max_position_embeddings=4096)
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.eos_token_id] = 0.0  # tied: its logit is 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def running_app(served_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """`app.py` in a process of its own, ended with the session. A random model cannot write, so it quotes."""
    folder = tmp_path_factory.mktemp("app")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = {
        "model": served_model_folder,
        "device": "cpu",
        "host": "127.0.0.1",
        "port": port,
        "data_dir": folder / "data",
        "answer_mode": "quote",
        "strategy": "docs_cache",
        "k": 3,
        "chat_tokens": 3000,
        "max_file_mb": 1,
    }
    command = [sys.executable, str(ROOT / "app.py"), *(f"--{name}={value}" for name, value in flags.items())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRIT_", "GRADIO_"))}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(url, process, log)
        yield RunningApp(url, folder / "data", log)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ends with its file: while it runs, an event loop is open that other tests of the process would meet."""
    if CHROMIUM is None:
        reason = "Chromium is not installed (Debian: apt-get install chromium)."
        if os.environ.get("GRIT_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield started
        started.close()


CUT_OFF = ("AbortError: signal is aborted", "Connection errored out")


@pytest.fixture
def open_page(browser: Browser, running_app: RunningApp) -> Iterator[Callable[..., Page]]:
    """`open_page(width=1280, theme="light", context=None, fragment="")` → a page, of a new profile or the given one."""
    complaints: list[str] = []
    loads: list[Page] = []
    contexts: list[Any] = []

    def watch(page: Page) -> None:
        page.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("load", lambda of: loads.append(of))
        page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
        page.on(
            "request",
            lambda request: (
                complaints.append(f"left the machine: {request.url}")
                if not request.url.startswith((running_app.url, "data:", "blob:"))
                else None
            ),
        )

    def make(width: int = 1280, theme: str = "light", context: Any = None, fragment: str = "") -> Page:
        if context is None:
            context = browser.new_context(viewport={"width": width, "height": 860})
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        watch(page)
        page.goto(f"{running_app.url}/?__theme={theme}{fragment}")
        expect(page.locator("#status .badge-state.ready, #status .badge-state.busy")).to_be_visible(timeout=WAIT_MS)
        return page

    yield make
    for context in contexts:
        context.close()
    if len(loads) > len(set(loads)):  # a reload cuts off the streams of the page that it leaves, which Gradio reports
        complaints = [words for words in complaints if not any(cut in words for cut in CUT_OFF)]
    assert complaints == []
