"""The routes against their own description: whatever fits it, or nearly, is answered, and never by a fault of ours."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples

from grit_app.settings import Settings
from tests.serve.conftest import serving

EXAMPLES = int(os.environ.get("GRIT_DESCRIPTION_EXAMPLES", "2"))
"""A long run by hand: GRIT_DESCRIPTION_EXAMPLES=500 python -m pytest tests/serve/test_description.py"""


@pytest.fixture(scope="module")
def described(load_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of its own: what is sent here is kept there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis
    settings = Settings(data_dir=tmp_path_factory.mktemp("described"), max_file_mb=1)
    with serving(load_tiny("llama", max_position_embeddings=2048), settings) as server:
        server.app.openapi()  # made once, and on a busy machine for longer than from_url waits
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("kind", ["fits", "does not fit"])
def test_nothing_that_is_sent_is_a_fault_of_the_server(described: Any, kind: str) -> None:
    """Values from the schema, and values that break it somewhere. Errors are sentences in the one shape."""
    from schemathesis import GenerationMode

    mode = GenerationMode.POSITIVE if kind == "fits" else GenerationMode.NEGATIVE
    seen: dict[str, int] = {}

    def ask(case: Any) -> None:
        body = case.body if isinstance(case.body, dict) else {}
        limit = {"/v1/responses": "max_output_tokens", "/v1/chat/completions": "max_completion_tokens"}
        for name in ("max_tokens", limit.get(case.operation.path, "max_tokens")):
            if isinstance(body.get(name, 5), int) and body.get(name, 5) > 4:
                body[name] = 4  # what a random model writes is of no interest here
        answer = case.call(timeout=120)
        seen[case.operation.label] = max(seen.get(case.operation.label, 0), answer.status_code)
        assert answer.status_code < 500, (answer.status_code, answer.text[:300])
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert answer.json()["detail"] == error["message"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"].endswith(".") and "Traceback" not in error["message"]

    for found in described.get_all_operations():
        operation = found.ok()
        if kind != "fits" and not operation.body:
            continue  # any text may stand in an address, so nothing of it can be wrong
        strategy = operation.as_strategy(generation_mode=mode)
        check = given(strategy)(ask)
        examples(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=EXAMPLES < 100,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(check)()
    assert len(seen) >= (15 if kind == "fits" else 7), "the walk has missed the routes"
