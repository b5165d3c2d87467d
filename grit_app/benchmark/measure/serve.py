"""The server under load, as its clients see it: `python -m grit_app.benchmark serve --json OUT`.

    chat         each client streams one answer after the other
    embeddings   each client embeds one text after the other
    mixed        each client embeds a text, then streams an answer: what asking documents takes

Every client is a thread with one connection, in this process; the server is a process of its own (`grit_app.serve`), so
they share the machine as on a user's desk. `processes: 2` is what one server replaces: the same weights served twice,
one process to embed and one to write. `overhead` is one client's time beside the Python API's for the same work, over
one and the same loaded model: between two processes the same call differed by up to a fifth.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import uvicorn

from grit_app.benchmark import environment
from grit_app.benchmark.inputs.texts import TextMaker
from grit_app.benchmark.options import load_model, model_folder, model_parser, numbers, parse, teller, write_result
from grit_app.benchmark.timing import Summary, summarize
from grit_app.errors import ModelError, SettingsError
from grit_app.gritlm import GritLM
from grit_app.serve.__main__ import Loaded
from grit_app.serve.app import create_app
from grit_app.settings import Settings

Record = dict[str, Any]

PROTOCOL: Final = {"chat": ("chat",), "embeddings": ("embed",), "mixed": ("embed", "chat")}
"""What a client does in turn under each load."""

START_S: Final = 600.0
"""A server must be up by then."""

ANSWER_S: Final = 600.0

SETTLE_S: Final = 0.1
"""Before each timed call of one process: the other's idle threads spin on its cores for some milliseconds longer."""


@dataclass(frozen=True)
class Plan:
    """What is asked for, and how long."""

    clients: Sequence[int]
    seconds: float
    text_tokens: int
    new_tokens: int


@dataclass
class Seen:
    """What the clients of one point measured together."""

    first_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)
    embed_ms: list[float] = field(default_factory=list)
    new_tokens: int = 0
    errors: list[str] = field(default_factory=list)


@contextmanager
def server(folder: str, options: Any) -> Iterator[tuple[str, psutil.Process]]:
    """A server of these weights on a free port, ready: its address and its process. Raises ModelError if none comes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="grit-serve-") as data, (Path(data) / "log").open("w+b") as log:
        flags = {
            "model": folder,
            "port": port,
            "data_dir": data,
            "device": options.device,
            "quantization": options.quantization,
        }
        command = [sys.executable, "-m", "grit_app.serve", *(f"--{name}={value}" for name, value in flags.items())]
        threads = {} if options.threads is None else {"OMP_NUM_THREADS": str(options.threads)}
        running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | threads)
        try:
            deadline = time.monotonic() + START_S
            while not _is_ready(url):
                if running.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise ModelError(f"The server did not start: {log.read().decode(errors='replace')[-500:].strip()}")
                time.sleep(0.1)
            yield url, psutil.Process(running.pid)
        finally:
            running.terminate()
            running.wait(30)


@contextmanager
def in_this_process(model: GritLM) -> Iterator[str]:
    """The routes over this very model, in a thread: their address."""
    with socket.socket() as listening, tempfile.TemporaryDirectory(prefix="grit-serve-") as data:
        listening.bind(("127.0.0.1", 0))
        app = create_app(Loaded(model), Settings(data_dir=Path(data)))
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            deadline = time.monotonic() + START_S
            while not _is_ready(url):
                if time.monotonic() > deadline or not thread.is_alive():
                    raise ModelError("The routes did not start in this process.")
                time.sleep(0.05)
            yield url
        finally:
            running.should_exit = True
            thread.join(30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Clients that ask for texts that were never asked before, so that no kept beginning helps."""

    def __init__(self, plan: Plan, texts: Callable[[], str]) -> None:
        self._plan = plan
        self._texts = texts
        self._lock = threading.Lock()

    def run(self, load: str, clients: int, embedder: str, writer: str) -> Record:
        """One point: the clients ask until the time is up; what is under way then is finished and counts."""
        seen, start = Seen(), time.perf_counter()
        end = start + self._plan.seconds
        threads = [
            threading.Thread(target=self._client, args=(PROTOCOL[load], embedder, writer, end, seen))
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        record: Record = {
            "load": load,
            "clients": clients,
            "seconds": round(seconds, 3),
            "requests_per_s": round((len(seen.answer_ms) + len(seen.embed_ms)) / seconds, 3),
            "errors": len(seen.errors),
            "first_error": seen.errors[0] if seen.errors else None,
        }
        if seen.answer_ms:
            record["tokens_per_s"] = round(seen.new_tokens / seconds, 2)
            record |= {"ttft_ms": with_p95(seen.first_ms), "answer_ms": with_p95(seen.answer_ms)}
        if seen.embed_ms:
            record["embeddings_per_s"] = round(len(seen.embed_ms) / seconds, 2)
            record["embed_ms"] = with_p95(seen.embed_ms)
        return record

    def _client(self, acts: Sequence[str], embedder: str, writer: str, end: float, seen: Seen) -> None:
        with httpx.Client(timeout=ANSWER_S) as http:
            for act in itertools.cycle(acts):
                if time.perf_counter() >= end:
                    return
                with self._lock:
                    text = self._texts()
                try:
                    embed(http, embedder, text, seen) if act == "embed" else chat(http, writer, text, self._plan, seen)
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    seen.errors.append(f"{type(error).__name__}: {error}")


def embed(http: httpx.Client, url: str, text: str, seen: Seen) -> None:
    """One text, in the form that openai-python asks for."""
    start = time.perf_counter()
    answer = http.post(f"{url}/v1/embeddings", json={"input": text, "encoding_format": "base64"})
    answer.raise_for_status()
    assert answer.json()["data"][0]["embedding"]
    seen.embed_ms.append((time.perf_counter() - start) * 1e3)


def chat(http: httpx.Client, url: str, text: str, plan: Plan, seen: Seen) -> None:
    """One streamed answer."""
    start, first = time.perf_counter(), 0.0
    with http.stream("POST", f"{url}/v1/chat/completions", json=body_of(text, plan, stream=True)) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if not first and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.perf_counter()
            if event.get("usage"):
                seen.new_tokens += event["usage"]["completion_tokens"]
    seen.answer_ms.append((time.perf_counter() - start) * 1e3)
    seen.first_ms.append(((first or time.perf_counter()) - start) * 1e3)


def asked(text: str) -> list[Any]:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


def body_of(text: str, plan: Plan, *, stream: bool) -> dict[str, Any]:
    fields = {"messages": asked(text), "max_tokens": plan.new_tokens, "temperature": 0}
    return fields | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def with_p95(samples: Sequence[float]) -> Summary:
    """The summary of a point, with p95 beside each median: the value that nineteen of twenty samples stay below."""
    ordered = sorted(samples)
    return summarize(ordered) | {"p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 3)}


def overhead(model: GritLM, url: str, plan: Plan, texts: Callable[[], str], repeats: int) -> list[Record]:
    """One client beside the Python API: new texts of the same length, on an idle server, who is first in turns."""
    with httpx.Client(timeout=ANSWER_S) as http:

        def served(text: str) -> str:
            answer = http.post(f"{url}/v1/chat/completions", json=body_of(text, plan, stream=False))
            return str(answer.json()["choices"][0]["message"]["content"])

        pairs: dict[str, tuple[Callable[[str], object], Callable[[str], object]]] = {
            "embed": (lambda text: model.encode([text]), lambda text: embed(http, url, text, Seen())),
            "chat": (lambda text: model.generate(asked(text), plan.new_tokens), served),
        }
        return [_beside(what, pair, texts, repeats) for what, pair in pairs.items()]


def _beside(
    what: str, acts: tuple[Callable[[str], object], Callable[[str], object]], texts: Callable[[], str], repeats: int
) -> Record:
    direct: list[float] = []
    api: list[float] = []
    for turn in range(repeats + 1):  # the first one warms up
        text = texts()
        answers: list[object] = []
        sides = list(zip((direct, api), acts, strict=True))
        for samples, act in sides if turn % 2 else reversed(sides):
            time.sleep(SETTLE_S)
            start = time.perf_counter()
            answers.append(act(text))
            samples.append((time.perf_counter() - start) * 1e3)
    server_ms, python_ms = summarize(api[1:]), summarize(direct[1:])
    return {
        "load": "overhead",
        "what": what,
        "server_ms": server_ms,
        "python_ms": python_ms,
        "ratio": round(server_ms["median"] / python_ms["median"], 3),
        "same_text_last": answers[0] == answers[1] if what == "chat" else None,
    }


def measure(
    model: GritLM, folder: str, options: Any, plan: Plan, repeats: int, tell: Callable[[str], None]
) -> list[Record]:
    """All points: one server under each load, then two under the mixed one."""
    maker = TextMaker(model.prompts, model.tokenizer.get_vocab(), options.seed)
    load = Load(plan, lambda: maker.text(plan.text_tokens))
    with in_this_process(model) as url:
        records = overhead(model, url, plan, lambda: maker.text(plan.text_tokens), repeats)
    for processes, loads in ((1, tuple(PROTOCOL)), (2, ("mixed",))):
        with ExitStack() as stack:
            servers = [stack.enter_context(server(folder, options)) for _ in range(processes)]
            urls = [url for url, _ in servers]
            for what in loads:
                load.run(what, 1, urls[0], urls[-1])  # warms up
                first: Record | None = None
                for clients in plan.clients:
                    before_s = cpu_seconds(servers)
                    record = load.run(what, clients, urls[0], urls[-1])
                    record["processes"] = processes
                    record["load_average"] = round(psutil.getloadavg()[0], 2)
                    record["server_cpu_s"] = round(cpu_seconds(servers) - before_s, 3)
                    record["requests_per_cpu_s"] = round(
                        record["requests_per_s"] * record["seconds"] / max(record["server_cpu_s"], 1e-3), 3
                    )
                    first = first or record
                    record["memory_bytes"] = sum(process.memory_full_info().uss for _, process in servers)
                    for key in ("requests_per_s", "requests_per_cpu_s"):
                        record[f"{key}_to_fewest_clients"] = round(record[key] / max(first[key], 1e-3), 3)
                    records.append(record)
                    tell(one_line(record))
    return records


def cpu_seconds(servers: Sequence[tuple[str, psutil.Process]]) -> float:
    """That the servers have computed for: on a machine with other work it tells more than the clock."""
    times = [process.cpu_times() for _, process in servers]
    return float(sum(one.user + one.system for one in times))


def one_line(record: Record) -> str:
    """A point in words."""
    parts = [
        f"{record['load']}, processes: {record['processes']}, clients: {record['clients']}",
        f"{record['requests_per_s']} requests/s",
    ]
    if "tokens_per_s" in record:
        parts.append(f"{record['tokens_per_s']} tokens/s, first token {record['ttft_ms']['median']:.0f} ms")
    if "embeddings_per_s" in record:
        parts.append(f"{record['embeddings_per_s']} embeddings/s")
    return ", ".join([*parts, *([f"{record['errors']} errors"] if record["errors"] else [])])


def main(argv: Sequence[str]) -> int:
    """The command. See `--help`."""
    parser = model_parser("serve", __doc__ or "")
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32], help="Clients at once.")
    parser.add_argument("--seconds", type=float, default=20.0, help="Length of each point.")
    parser.add_argument("--text_tokens", type=int, default=64, help="Of each text and each question.")
    parser.add_argument("--new_tokens", type=int, default=32, help="Of an answer at most.")
    parser.add_argument("--repeats", type=int, default=10, help="Of one client's time beside the Python API's.")
    options = parse(parser, argv)
    if options.dtype is not None:
        raise SettingsError("serve measures the server as users start it, which has no --dtype. Leave it out.")
    if min(options.clients, default=0) < 1 or options.repeats < 1:
        raise SettingsError("clients and repeats must be at least 1.")
    plan = Plan(options.clients, options.seconds, options.text_tokens, options.new_tokens)
    with model_folder(options) as folder:
        model = load_model(options, folder)
        facts = environment.describe(model)
        records = measure(model, folder, options, plan, options.repeats, teller())
    facts["plan"] = {
        "seconds": plan.seconds,
        "text_tokens": plan.text_tokens,
        "new_tokens": plan.new_tokens,
        "clients_share_the_machine": True,
    }
    write_result({"environment": facts, "records": records}, options.json)
    return 0
