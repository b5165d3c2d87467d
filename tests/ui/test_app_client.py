"""The app as other programs meet it: the published functions, their errors, and nothing beside them."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from grit_app.settings import Settings
from grit_app.ui.base.engine import Engine
from grit_app.ui.page import programs_text
from grit_app.ui.safety import page_policy
from tests.ui.conftest import ROOT, RunningApp

PUBLISHED = {"/embed", "/similarity", "/ask", "/chat"}
TEXT = (
    "The river rises in the mountains. It reaches the sea after three hundred kilometres. Bees make honey from nectar."
)


@pytest.fixture(scope="module")
def client(running_app: RunningApp) -> Iterator[Client]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client library itself, at connecting
        made = Client(running_app.url, verbose=False)
    yield made
    made.close()


def test_only_the_published_functions_are_offered(client: Client) -> None:
    """Every event is public by default: a forgotten one would let strangers call a visitor's handlers by name."""
    offered = client.view_api(return_format="dict")
    assert isinstance(offered, dict)
    assert set(offered["named_endpoints"]) == PUBLISHED
    assert not offered["unnamed_endpoints"]


def test_embeddings_are_normalised_and_follow_the_instruction(client: Client) -> None:
    plain = client.predict([TEXT, "honey"], "", api_name="/embed")
    told = client.predict([TEXT, "honey"], "Find the topic", api_name="/embed")
    assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-5) for vector in plain + told)
    assert plain[0] != told[0]


def test_similarity_is_the_cosine_of_the_embeddings(client: Client) -> None:
    texts = ["honey and bees", "a river", "honey and wax"]
    vectors = client.predict(texts, "", api_name="/embed")
    table = client.predict(texts, "", api_name="/similarity")
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            assert table[i][j] == pytest.approx(sum(x * y for x, y in zip(a, b, strict=True)), abs=1e-5)


@pytest.mark.parametrize("strategy", ["", "doc_cache", "prefix_cache"])
def test_ask_gives_the_contract_s_keys_and_a_citation(client: Client, strategy: str) -> None:
    reply = client.predict("How long is the river?", [TEXT], strategy, 1, api_name="/ask")
    expected = {"answer", "answerable", "strategy", "citations", "prompt_tokens", "cached_tokens", "new_tokens"}
    assert set(reply) >= expected | {"timings_ms", "skipped"}
    assert reply["strategy"] == (strategy or "rag_doc_query")  # this checkpoint's default
    assert reply["citations"][0]["number"] == 1 and reply["citations"][0]["text"] in TEXT
    if strategy:
        assert reply["cached_tokens"] > 0


def test_chat_replies(client: Client) -> None:
    assert isinstance(client.predict("Hello", "Be brief.", 5, 0.0, api_name="/chat"), str)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ((([], ""), "/embed"), "at least one text"),
        (((["", "x"], ""), "/similarity"), "Text 1"),
        (((["x"] * 65, ""), "/embed"), "at most 64"),
        ((("Q?", [TEXT], "nonsense", 0), "/ask"), "no strategy"),
        (((" ", [TEXT], "", 0), "/ask"), "question is empty"),
        (((" ", "", 5, 0.0), "/chat"), "message is empty"),
    ],
)
def test_what_a_caller_does_wrong_is_a_sentence(client: Client, call: tuple[Any, str], told: str) -> None:
    arguments, name = call
    with pytest.raises(AppError, match=told) as caught:
        client.predict(*arguments, api_name=name)
    assert "Traceback" not in str(caught.value)


def test_nothing_outside_the_data_folder_is_served(running_app: RunningApp, served_model_folder: Path) -> None:
    """The program's own files, the model, and the libraries beside the uploads are none of a visitor's business."""
    (running_app.data_folder / "libraries").mkdir(parents=True, exist_ok=True)
    secret = running_app.data_folder / "libraries" / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    own = (ROOT / "app.py", ROOT / "pyproject.toml", served_model_folder / "config.json")
    for path in (*own, secret, Path("/etc/passwd")):
        assert path.is_file()
        for route in ("file=", "file/"):
            reply = httpx.get(f"{running_app.url}/gradio_api/{route}{path}")
            assert reply.status_code in (403, 404), path


def test_uploads_are_kept_inside_the_data_folder(running_app: RunningApp) -> None:
    files = {"files": ("note.txt", b"hello", "text/plain")}
    (path,) = httpx.post(f"{running_app.url}/gradio_api/upload", files=files).json()
    assert Path(path).resolve().is_relative_to(running_app.data_folder.resolve())


def test_two_visitors_with_one_file_have_two_files(running_app: RunningApp) -> None:
    """A class uploads one handout: whoever came second read "No such file or directory"."""
    files = {"files": ("handout.txt", b"same bytes", "text/plain")}
    paths = [Path(httpx.post(f"{running_app.url}/gradio_api/upload", files=files).json()[0]) for _ in range(2)]
    assert paths[0] != paths[1] and {path.name for path in paths} == {"handout.txt"}
    paths[0].unlink()
    assert paths[1].read_bytes() == b"same bytes"


def test_a_setting_that_cannot_be_used_ends_the_start_with_one_sentence() -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), "--port", "0"], capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.strip() == "port must be at least 1, not 0."


def test_the_snippets_for_programs_run_as_they_stand(running_app: RunningApp, tmp_path: Path) -> None:
    """The panel names this server's address; what a visitor copies must work."""
    engine = Engine(lambda: None)  # type: ignore[arg-type,return-value]
    told = programs_text(engine, Settings(), running_app.url.removeprefix("http://"))
    model = httpx.get(f"{running_app.url}/v1/models").json()["data"][0]["id"]
    python, shell = re.findall(r"```(?:python|sh)\n(.*?)```", told.replace('"gritlm"', f'"{model}"'), re.DOTALL)
    ran = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0 and ran.stdout.split()[0].isdecimal(), ran.stderr
    shutil.copy(ROOT / "assets" / "samples" / "field_guide.pdf", tmp_path / "report.pdf")
    replies = [
        json.loads(subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, timeout=600).stdout)
        for line in shell.strip().splitlines()
    ]
    assert replies[0]["data"][0]["name"] == "report.pdf" and "answer" in replies[1]
    locked = programs_text(engine, Settings(api_key="secret"), running_app.url)
    assert "YOUR_KEY" in locked and "secret" not in locked


def test_every_reply_says_what_a_browser_may_do_with_it(running_app: RunningApp) -> None:
    """Scripts of other servers, foreign frames and guessed types are no part of this page."""
    for path in ("/", "/config", "/gradio_api/info"):
        headers = httpx.get(f"{running_app.url}{path}").headers
        assert headers["x-content-type-options"] == "nosniff" and "'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
    health = httpx.get(f"{running_app.url}/health").headers
    assert health["x-content-type-options"] == "nosniff" and "content-security-policy" not in health
    assert "https://huggingface.co" in page_policy(True) and "https:" not in page_policy(False)
