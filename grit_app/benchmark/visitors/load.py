"""`python -m grit_app.benchmark load`: many visitors at once, through the pages of the app itself.

Starts the app in a process of its own, with an empty data folder, and drives its pages as browsers do. Two phases:

1. manual    one visitor uploads a long document; another says hello, a third asks a ready document, until it is read
2. load      all visitors chat, upload, ask and compare without a pause; the last one measures in the Caching tab

With `--clients`, so many programs use /v1 in the second phase beside the pages, each with a key of its own. Visitors'
and clients' documents hold codes that nobody else has, and all ask with the same words (visitors/tasks.py, clients.py).
"""

from __future__ import annotations

import random
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from jsonargparse import ArgumentParser

from grit_app.benchmark.environment import describe
from grit_app.benchmark.options import parse, teller, write_result
from grit_app.benchmark.timing import summarize
from grit_app.benchmark.visitors.clients import Client
from grit_app.benchmark.visitors.page import PageVisitor
from grit_app.benchmark.visitors.tasks import Actor, Outcome, answer_of, codes_of
from grit_app.errors import SettingsError
from grit_app.places import ASSETS

START_S: Final = 300.0
MANUAL_S: Final = 240.0
"""The first phase ends then at the latest: the upload is stopped."""

STUCK_S: Final = 120.0
"""Whoever has not finished so long after the end is stuck."""

MANUAL_WORDS: Final = 50_000
"""Of the long document where none is given: about 145 pages."""


FAILURES: Final = {"mixed": "mixed", "wrong": "wrong", "errors": "error"}
"""Key of the result → `Outcome.result`."""


class Log:
    """Outcomes of all threads."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.crashes: list[str] = []

    def work(self, name: str, action: Callable[[], Outcome | None], until: Callable[[], bool]) -> threading.Thread:
        """A thread that acts again and again until it is told to end."""

        def run() -> None:
            try:
                while not until():
                    if (outcome := action()) is not None:
                        self.outcomes.append(outcome)
            except (httpx.HTTPError, AssertionError, KeyError) as error:
                self.crashes.append(f"{name}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread


class Memory(threading.Thread):
    """Resident bytes of a process with its children, about once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="memory", daemon=True)
        self._process = psutil.Process(pid)
        self.samples: list[int] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(1.0):
            self.samples.append(sum(map(_resident, [self._process, *self._process.children(recursive=True)])))

    def summary(self) -> dict[str, int]:
        """First and last tenth (medians), and the peak."""
        tenth = max(1, len(self.samples) // 10)
        first, last = sorted(self.samples[:tenth]), sorted(self.samples[-tenth:])
        return {"first": first[len(first) // 2], "last": last[len(last) // 2], "peak": max(self.samples)}


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


@contextmanager
def started_app(model: str | None, log: Path, keys: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """The app in a process of its own: its address and process id. Raises SettingsError with its words if it ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    flags = {"host": "127.0.0.1", "port": port, "data_dir": log.parent / "data", "model": model or "auto"}
    flags |= {"api_key": ",".join(keys)} if keys else {}
    command = [sys.executable, "-m", "grit_app", *(f"--{name}={value}" for name, value in flags.items())]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SettingsError(f"The app did not start:\n{log.read_text(encoding='utf-8', errors='replace')}")
            time.sleep(0.3)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Crowd:
    """All visitors' pages over one app."""

    def __init__(self, url: str, visitors: int, keys: Sequence[str], seed: int, context: ExitStack) -> None:
        self._random = random.Random(seed)
        codes = [codes_of(number, seed) for number in range(visitors + len(keys))]
        self.actors = []
        self.clients = []
        for number, own in enumerate(codes):
            foreign = [code for other in codes if other is not own for code in other]
            if number < visitors:
                self.actors.append(Actor(context.enter_context(PageVisitor(url)), number, own, foreign))
            else:
                key = keys[number - visitors]
                self.clients.append(context.enter_context(Client(url, number, key, own, foreign)))

    def prepare(self, log: Log) -> None:
        """One after another: a first document each, and the reply that the idle app gives to the greeting."""
        for actor in self.actors:
            actor.prepare()
            log.outcomes += [actor.upload_note(), actor.ask("quote"), actor.greet()]
            reply = answer_of(actor.page.value("chat"))
            actor.expected_reply = self.actors[0].expected_reply or reply
            if reply != actor.expected_reply:
                log.crashes.append(f"visitor {actor.number}: another reply of the idle app: {reply!r}")
        for client in self.clients:
            client.prepare()

    def manual(self, path: Path, log: Log) -> bool:
        """The first phase. Whether the long document was read to its end."""
        for actor in self.actors:
            actor.phase = "manual"
        reader, greeter, asker = self.actors[0], self.actors[1], self.actors[2 % len(self.actors)]
        done, outcomes = threading.Event(), []

        def read() -> None:
            outcomes.append(reader.upload(path))
            done.set()

        reading = threading.Thread(target=read, name="manual", daemon=True)
        reading.start()
        threads = [log.work("greeter", greeter.greet, done.is_set)]
        if asker is not greeter and asker is not reader:
            threads.append(log.work("asker", lambda: asker.ask("quote"), done.is_set))
        is_read = done.wait(MANUAL_S)
        if not is_read:
            for _ in reader.page.trigger("upload-stop", "click"):
                pass
        for thread in (reading, *threads):
            thread.join(STUCK_S)
        log.crashes += [f"{thread.name}: stuck" for thread in (reading, *threads) if thread.is_alive()]
        log.outcomes += outcomes
        return is_read

    def load(self, seconds: float, log: Log) -> None:
        """The second phase."""
        ends = time.monotonic() + seconds
        threads = []
        for actor in self.actors:
            actor.phase = "load"
            last = actor is self.actors[-1] and len(self.actors) > 1
            action = actor.measure if last else self._turns(actor)
            threads.append(log.work(f"visitor {actor.number}", action, lambda: time.monotonic() >= ends))
        for client in self.clients:
            client.phase = "load"
            threads.append(log.work(f"client {client.number}", client.act, lambda: time.monotonic() >= ends))
        time.sleep(seconds)
        stopping = time.monotonic()
        if len(self.actors) > 1:
            self.actors[-1].stop_measuring()
        for thread in threads:
            thread.join(max(0.0, stopping + STUCK_S - time.monotonic()))
        log.crashes += [f"{thread.name}: stuck" for thread in threads if thread.is_alive()]

    def _turns(self, actor: Actor) -> Callable[[], Outcome]:
        actions = [
            actor.greet,
            actor.greet,
            actor.upload_note,
            lambda: actor.ask("quote"),
            lambda: actor.ask("free"),
            actor.compare,
        ]
        return lambda: self._random.choice(actions)()


def summary_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One record for each phase and action."""
    records = []
    for phase, action in dict.fromkeys((one.phase, one.action) for one in outcomes):
        found = [one for one in outcomes if (one.phase, one.action) == (phase, action)]
        record: dict[str, Any] = {"phase": phase, "action": action, "n": len(found)}
        for result in dict.fromkeys(one.result for one in found):
            record[result] = sum(one.result == result for one in found)
        firsts = [one.first_ms for one in found if one.first_ms is not None]
        if firsts:
            record["first_token_ms"] = _with_tail(firsts)
        record["total_ms"] = _with_tail([one.total_ms for one in found])
        places = [one.place for one in found if one.place]
        records.append(record | ({"places_told": len(places), "place_example": places[0]} if places else {}))
    return records


def _with_tail(samples: Sequence[float]) -> dict[str, float]:
    ordered = sorted(samples)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return summarize(samples, 1) | {"p95": round(p95, 1), "max": round(ordered[-1], 1)}


def made_manual(path: Path) -> Path:
    """A text of about 145 pages: the sample's sentences in another order for each page."""
    lines = [line for line in (ASSETS / "samples" / "field_guide.txt").read_text(encoding="utf-8").split(". ") if line]
    parts: list[str] = []
    drawn, words = random.Random(0), 0
    while words < MANUAL_WORDS:
        paragraph = f"Section {len(parts) + 1}. " + ". ".join(drawn.sample(lines, min(12, len(lines)))) + "."
        words += len(paragraph.split())
        parts.append(paragraph)
    path.write_text("\n\n".join(parts), encoding="utf-8")
    return path


def measure(
    url: str,
    pid: int,
    visitors: int,
    minutes: float,
    manual: Path | None,
    seed: int,
    tell: Callable[[str], None],
    keys: Sequence[str] = (),
) -> dict[str, Any]:
    """Drives the app at this address, a process of this id; gives the result. A client for each of `keys`."""
    log = Log()
    with tempfile.TemporaryDirectory(prefix="grit-load-") as folder, ExitStack() as context:
        crowd = Crowd(url, visitors, keys, seed, context)
        crowd.prepare(log)
        tell(f"{visitors} visitors and {len(keys)} clients are ready")
        is_read = None
        if visitors > 1:
            is_read = crowd.manual(manual or made_manual(Path(folder) / "manual.txt"), log)
            tell("the long document is " + ("read" if is_read else "stopped: it took too long"))
        memory = Memory(pid)
        memory.start()
        crowd.load(60 * minutes, log)
        memory.ended.set()
        memory.join()
        environment = describe() | {"model": _models(url, keys)}
    failed = [asdict(one) for one in log.outcomes if one.result not in ("ok", "refused", "busy")]
    return {
        "command": "load",
        "environment": environment,
        "plan": {
            "visitors": visitors,
            "clients": len(keys),
            "minutes": minutes,
            "manual": manual.name if manual else "made",
            "seed": seed,
        },
        "manual_was_read": is_read,
        "records": summary_of(log.outcomes),
        **{name: sum(one["result"] == result for one in failed) for name, result in FAILURES.items()},
        "stuck": log.crashes,
        "memory_bytes": memory.summary(),
        "failed": failed[:50],
    }


def _models(url: str, keys: Sequence[str]) -> Any:
    headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
    return httpx.get(f"{url}/v1/models", headers=headers).json()


def main(argv: Sequence[str]) -> int:
    """0: nothing mixed, wrong, lost or stuck; 1: something was, see the JSON."""
    parser = ArgumentParser(prog="python -m grit_app.benchmark load", description=__doc__, exit_on_error=False)
    parser.add_argument("--model", type=str | None, default=None, help="Folder or hub name; unset: the served model.")
    parser.add_argument("--visitors", type=int, default=8, help="Pages that are open at once, 1 to 64.")
    parser.add_argument("--clients", type=int, default=0, help="Programs that use /v1 beside them, 0 to 64.")
    parser.add_argument("--minutes", type=float, default=10.0, help="Of the second phase.")
    parser.add_argument("--manual", type=Path | None, default=None, help="The long document; unset: one is made.")
    parser.add_argument("--seed", type=int, default=0, help="Of codes and of the order of actions.")
    parser.add_argument("--json", type=Path | None, default=None, help="For the result; unset: to stdout.")
    options = parse(parser, argv)
    if not 1 <= options.visitors <= 64 or not 0 <= options.clients <= 64 or options.minutes <= 0:
        raise SettingsError("Use 1 to 64 visitors, 0 to 64 clients, and more than 0 minutes.")
    with tempfile.TemporaryDirectory(prefix="grit-load-") as folder:
        log = Path(folder) / "app.log"
        keys = [secrets.token_urlsafe(24) for _ in range(options.clients)]
        with started_app(options.model, log, keys) as (url, pid):
            plan = (options.visitors, options.minutes, options.manual, options.seed)
            result = measure(url, pid, *plan, tell=teller(), keys=keys)
        result["server_errors"] = [line for line in log.read_text(errors="replace").splitlines() if " ERROR " in line]
    write_result(result, options.json)
    return int(any(result[name] for name in (*FAILURES, "stuck", "server_errors")))
