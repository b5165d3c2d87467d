"""The clients of the load command: their checks pass where keys are kept apart, and notice where they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grit_app.benchmark.visitors.clients import Client
from grit_app.benchmark.visitors.tasks import codes_of


def test_clients_with_keys_of_their_own_see_nothing_of_each_other(fresh_server: Callable[..., Any]) -> None:
    codes = [codes_of(number, seed=3) for number in range(2)]
    with (
        fresh_server(api_key="a,b") as server,
        Client(server.url, 0, "a", codes[0], codes[1]) as first,
        Client(server.url, 1, "b", codes[1], codes[0]) as second,
    ):
        first.prepare()
        second.prepare()
        outcomes = [act() for one in (first, second) for act in (one.embed, one.chat, one.ask, one.rerank)]
    # A model of random weights quotes any sentence, so an answer may be wrong; it is never somebody else's.
    assert {outcome.result for outcome in outcomes if outcome.action != "/v1/answers"} == {"ok"}, outcomes
    assert {outcome.result for outcome in outcomes} <= {"ok", "wrong"}
    assert all(outcome.first_ms for outcome in outcomes if outcome.action == "/v1/chat/completions")


def test_another_clients_code_and_another_texts_vector_are_noticed(fresh_server: Callable[..., Any]) -> None:
    mine, theirs = codes_of(0, seed=3), codes_of(1, seed=3)
    with fresh_server(api_key="a") as server, Client(server.url, 0, "a", theirs, theirs) as client:
        client.prepare()
        assert client.ask().result == "mixed"  # its own library holds what it takes for another's
        client._known = client._known[::-1]
        assert client.embed().result == "wrong"
        with Client(server.url, 1, "no key of this server", mine, theirs) as stranger:
            assert stranger.chat().result == "error"
