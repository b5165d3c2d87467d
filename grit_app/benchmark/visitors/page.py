"""A visitor's page without a browser: the app's own events, over HTTP, in the order in which a browser sends them.

    with PageVisitor("http://127.0.0.1:7860") as visitor:
        visitor.put("chat-box", "Hello")
        for frame in visitor.trigger("chat-box", "submit"):    # a frame: which components changed
            visitor.value("chat")

What a page holds (values of components, the browser's key) is held here; what the server holds for a session stays
there. Events run one after another. Scripts of the page are not run.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
from gradio_client.utils import apply_diff

from grit_app.errors import GritError

API: Final = "gradio_api"
QUIET_S: Final = 30.0
"""A server that sends nothing for so long, not even its heartbeat of 15 seconds, is stuck."""


class PageError(GritError):
    """An event of the page failed: the sentence that a visitor would read."""


class PageVisitor:
    """One page of one browser. Use it in one thread, as a context."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = secrets.token_hex(6)
        self._context = ExitStack()

    def __enter__(self) -> PageVisitor:
        with ExitStack() as opening:  # closed again if the page cannot be opened
            self._open(opening)
            self._context = opening.pop_all()
        return self

    def _open(self, opening: ExitStack) -> None:
        self._http = opening.enter_context(httpx.Client(timeout=QUIET_S))
        config = self._http.get(f"{self._url}/config").raise_for_status().json()
        parts = {one["id"]: one for one in config["components"]}
        self._values: dict[int, Any] = {number: one["props"].get("value") for number, one in parts.items()}
        self._names = {one["props"].get("elem_id"): number for number, one in parts.items()}
        self._labels = {one["props"].get("label"): number for number, one in parts.items()}
        self._states = {number for number, one in parts.items() if one["type"] == "state"}
        self._dependencies: list[dict[str, Any]] = config["dependencies"]
        key = next(number for number, one in parts.items() if one["type"] == "browserstate")
        self._values[key] = secrets.token_urlsafe(32)
        # While this is open the server counts the page as open.
        beat = f"{self._url}/{API}/heartbeat/{self._session}"
        opening.enter_context(self._http.stream("GET", beat, timeout=None))
        self._run_all("load")

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def put(self, name: str, value: Any) -> None:
        """What the visitor puts into the component of this elem_id, or else of this label."""
        self._values[self._id(name)] = value

    def value(self, name: str) -> Any:
        """What the component shows."""
        return self._values[self._id(name)]

    def text(self) -> str:
        """Everything that the page holds, as JSON."""
        return json.dumps(self._values, default=str)

    def _id(self, name: str) -> int:
        return int(self._names[name] if name in self._names else self._labels[name])

    def upload(self, path: Path) -> dict[str, Any]:
        """The file as the server has it then; a value for a file component."""
        with path.open("rb") as source:
            reply = self._http.post(
                f"{self._url}/{API}/upload", files={"files": (path.name, source)}
            ).raise_for_status()
        return {"path": reply.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def trigger(self, name: str, event: str, data: Any = None) -> Iterator[set[int]]:
        """Sends an event and every event that it sets off. Yields the ids of the components that each reply changed.

        Raises PageError with the page's sentence if one of them failed.
        """
        target = self._id(name)
        first = [one for one in self._dependencies if [target, event] in [list(pair) for pair in one["targets"]]]
        assert first, f"the page has no event {event} of {name}"
        for dependency in first:
            yield from self._chain(dependency, data)

    def _run_all(self, event: str) -> None:
        """The page's own events of this kind."""
        for dependency in self._dependencies:
            if any(pair[1] == event for pair in dependency["targets"]):
                for _ in self._chain(dependency):
                    pass

    def _chain(self, dependency: dict[str, Any], data: Any = None) -> Iterator[set[int]]:
        failure: PageError | None = None
        if dependency["backend_fn"]:
            try:
                yield from self._run(dependency, data)
            except PageError as error:
                failure = error
        for following in self._dependencies:
            # As the browser's part of Gradio does it: after an error only what is tied to a failure.
            is_next = bool(following.get("trigger_only_on_failure")) == (failure is not None)
            if following.get("trigger_after") == dependency["id"] and is_next:
                yield from self._chain(following)
        if failure:
            raise failure

    def _run(self, dependency: dict[str, Any], data: Any) -> Iterator[set[int]]:
        body = {
            "data": [None if one in self._states else self._values[one] for one in dependency["inputs"]],
            "event_data": data,
            "fn_index": dependency["id"],
            "session_hash": self._session,
            "trigger_id": dependency["targets"][0][0],
        }
        if not dependency["queue"]:
            reply = self._http.post(f"{self._url}/{API}/run/predict", json=body)
            if reply.status_code != 200:
                raise PageError(f"The page's event {dependency['api_name']} failed with status {reply.status_code}.")
            yield self._take(dependency["outputs"], reply.json()["data"])
            return
        reply = self._http.post(f"{self._url}/{API}/queue/join", json=body).raise_for_status()
        yield from self._stream(dependency["outputs"], reply.json()["event_id"])

    def _stream(self, outputs: Sequence[int], event: str) -> Iterator[set[int]]:
        shown: list[Any] | None = None
        where = f"{self._url}/{API}/queue/data?session_hash={self._session}"
        with self._http.stream("GET", where) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("event_id") != event:
                    continue
                told = message.get("output") or {}
                if message["msg"] == "process_generating":
                    data = told["data"]
                    shown = data if shown is None else [apply_diff(a, b) for a, b in zip(shown, data, strict=True)]
                    yield self._take(outputs, shown)
                elif message["msg"] == "process_completed":
                    if not message["success"]:
                        raise PageError(str(told.get("error") or "The page's event failed without a sentence."))
                    yield self._take(outputs, told.get("data") or [])
                    return
        raise PageError("The server closed the stream before the event was over.")

    def _take(self, outputs: Sequence[int], data: Sequence[Any]) -> set[int]:
        changed = set()
        for component, value in zip(outputs, data, strict=False):
            is_update = isinstance(value, dict) and value.get("__type__") == "update"
            if is_update and "value" not in value:
                continue
            self._values[component] = value["value"] if is_update else value
            changed.add(component)
        return changed
