"""Numbers for Prometheus at /metrics: requests, tokens, times to the first token, queues, caches."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One registry a server, so that two servers in one process do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = self.registry
        self.requests = Counter("grit_requests", "Requests answered", ["path", "status"], registry=made)
        self.seconds = Histogram("grit_request_seconds", "Time of a request", ["path"], buckets=SECONDS, registry=made)
        self.ttft = Histogram(
            "grit_first_token_seconds", "From the request to the first token", buckets=SECONDS, registry=made
        )
        self.tokens = Counter(
            "grit_tokens", "Tokens by kind; cached ones are a part of the prompts", ["kind"], registry=made
        )
        self.prefix_hits = Counter("grit_prefix_hits", "Prompts of which a kept beginning was reused", registry=made)
        self.prefix_misses = Counter("grit_prefix_misses", "Prompts that were read from their beginning", registry=made)
        self.handle_hits = Counter("grit_handle_hits", "Texts whose prefill a handle skipped", registry=made)
        self.writing = Gauge("grit_answers_running", "Answers being written", registry=made)
        self.queued = Gauge("grit_answers_waiting", "Answers waiting for their first step", registry=made)
        self.cache_bytes = Gauge("grit_cache_bytes", "Bytes of keys and values kept", ["kind"], registry=made)
        self.batches = Counter("grit_embedding_batches", "Forwards of the embedding queue", registry=made)

    def wrote(self, prompt: int, cached: int, generated: int, first_s: float | None, *, by_handle: bool) -> None:
        """Counts one answer."""
        self.tokens.labels("prompt").inc(prompt)
        self.tokens.labels("cached").inc(cached)
        self.tokens.labels("generated").inc(generated)
        if first_s is not None:
            self.ttft.observe(first_s)
        if by_handle:
            self.handle_hits.inc()
        elif cached:
            self.prefix_hits.inc()
        else:
            self.prefix_misses.inc()

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
