"""What all routes share: the model, the settings, threads to compute in, and who may ask.

Routes are asynchronous and compute nothing themselves. Work with the model runs in a thread of `Service.workers`, with
an event that tells it to stop once the client is gone or the time is up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from grit_app.gritlm import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.serve.embedder import Embedder
from grit_app.serve.errors import ApiError
from grit_app.serve.handles import Handles
from grit_app.serve.keys import Caller, Gate
from grit_app.serve.libraries import Libraries
from grit_app.serve.metrics import Metrics
from grit_app.serve.write.writer import Writer
from grit_app.settings import MB, Settings

T = TypeVar("T")

WORKERS = 64
"""Threads that may wait for the model at once. They hold little; what computes is limited by the model's own lock."""

DISCONNECT_POLL_S = 0.2


class ModelSource(Protocol):
    """Where the model comes from; it may still be loading."""

    @property
    def state(self) -> str: ...

    @property
    def failure(self) -> str: ...

    def ready_model(self) -> GritLM | None: ...

    def using(self, cancel: threading.Event | None = None) -> AbstractContextManager[GritLM]: ...


class Service:
    """One for each running server; `app.state.service`."""

    def __init__(self, source: ModelSource, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.gate = Gate(settings)
        self.metrics = Metrics()
        self.libraries = Libraries(settings)
        self.workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="serve")
        self._writer: Writer | None = None
        self._embedder: Embedder | None = None
        self._handles: Handles | None = None
        self._making = threading.Lock()

    def writer(self, model: GritLM) -> Writer:
        """What writes all answers of this server."""
        with self._making:
            if self._writer is None:
                self._writer = Writer(model)
            return self._writer

    def embedder(self, model: GritLM) -> Embedder:
        """What embeds short requests of this server."""
        with self._making:
            if self._embedder is None:
                self._embedder = Embedder(model, self.metrics.batches.inc)
            return self._embedder

    def handles(self, model: GritLM) -> Handles:
        """What callers keep between requests."""
        with self._making:
            if self._handles is None:
                self._handles = Handles(self.settings.api_bytes_mb * MB, model.memory)
            return self._handles

    async def model(self, request: Request) -> GritLM:
        """The model, once it is loaded."""
        ready = self.source.ready_model()
        return ready if ready is not None else await self.compute(request, lambda model, _: model)

    def measure(self) -> bytes:
        """The numbers for Prometheus as they are now."""
        if self._writer is not None:
            self.metrics.writing.set(self._writer.running)
            self.metrics.queued.set(self._writer.waiting)
        self.metrics.cache_bytes.labels("prefixes").set(self._writer.kept_bytes if self._writer else 0)
        self.metrics.cache_bytes.labels("handles").set(self._handles.bytes if self._handles else 0)
        return self.metrics.text()

    def close(self) -> None:
        """Ends what is being written; takes no more."""
        with self._making:
            if self._writer is not None:
                self._writer.close()
            if self._embedder is not None:
                self._embedder.close()
        self.workers.shutdown(wait=False, cancel_futures=True)
        self.libraries.close()

    async def compute(self, request: Request, work: Callable[[GritLM, Job], T], job: Job | None = None) -> T:
        """`work(model, job)` in a thread, as `job` or as an interactive one of the caller's.

        The job is stopped when the client goes, and when the time is up. Raises ApiError 504 after `request_timeout_s`,
        and what `work` raises.
        """
        cancel = job or Job("interactive", getattr(request.state, "owner", ""))

        def run() -> T:
            with self.source.using(cancel) as model, cancel.applies():
                return work(model, cancel)

        future = asyncio.get_running_loop().run_in_executor(self.workers, run)
        deadline = asyncio.get_running_loop().time() + self.settings.request_timeout_s
        try:
            while True:
                done, _ = await asyncio.wait([future], timeout=DISCONNECT_POLL_S)
                if done:
                    return future.result()
                if await request.is_disconnected():
                    raise ApiError(499, "The client went away.")
                if asyncio.get_running_loop().time() > deadline:
                    raise self.too_slow()
        finally:
            cancel.set()

    async def work(self, owner: str, work: Callable[[GritLM, Job], T]) -> T:
        """`work(model, job)` in a thread, as an interactive job of this owner; stopped when the caller is cancelled."""
        job = Job("interactive", owner)

        def run() -> T:
            with self.source.using(job) as model, job.applies():
                return work(model, job)

        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self.workers, run)
        except TimeoutError:
            raise self.too_slow() from None
        finally:
            job.set()

    def too_slow(self) -> ApiError:
        seconds = self.settings.request_timeout_s
        return ApiError(504, f"No answer within {seconds} seconds. Send less at once, or raise request_timeout_s.")


def service_of(request: Request) -> Service:
    """The running server's service."""
    service: Service = request.app.state.service
    return service


Running = Annotated[Service, Depends(service_of)]

bearer = HTTPBearer(auto_error=False, description="A key of --api_key; none is needed if none was set.")


def caller_of(service: Running, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Caller:
    """Who sent this request."""
    return service.gate.identify(credentials.credentials if credentials else None)


async def counted(
    request: Request, service: Running, caller: Annotated[Caller, Depends(caller_of)]
) -> AsyncIterator[Caller]:
    """Who sent this request; counted among the running ones until its answer, streamed or not, has ended."""
    request.state.owner = caller.owner
    service.gate.enter(caller)
    try:
        yield caller
    finally:
        service.gate.leave(caller)


Asking = Annotated[Caller, Depends(counted)]
