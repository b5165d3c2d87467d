"""/v1/completions: continuations, and likelihoods of given texts."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import torch

from tests.serve.conftest import Server

PROMPT = "Bees make honey from nectar"


def post(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0, "max_tokens": 6} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_text_is_continued_as_the_python_api_does(server: Server, client: httpx.Client) -> None:
    from grit_app.gritlm import Sampling

    ids = server.model.prompts.opening(PROMPT)
    wanted = server.model.stream_ids(ids, sampling=Sampling(max_new_tokens=6)).read_all()
    assert post(client)["choices"][0]["text"] == wanted
    several = post(client, prompt=[PROMPT, "The river"], n=2)
    assert [one["index"] for one in several["choices"]] == [0, 1, 2, 3]
    assert several["choices"][1]["text"] == wanted


def test_echo_gives_the_likelihood_of_every_token(server: Server, client: httpx.Client) -> None:
    """Against the stock model's own forward, not against this project's decoder."""
    body = post(client, echo=True, logprobs=2, max_tokens=0)
    found = body["choices"][0]["logprobs"]
    ids = server.model.prompts.opening(PROMPT)
    with torch.inference_mode():
        logits = server.model.hf_model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    wanted = [float(logits[at, token]) for at, token in enumerate(ids[1:])]
    assert found["token_logprobs"] == pytest.approx(wanted, abs=1e-4)
    assert "".join(found["tokens"]) == PROMPT == body["choices"][0]["text"]
    for offset, token in zip(found["text_offset"], found["tokens"], strict=True):
        assert PROMPT[offset:].startswith(token)
    for top, token, value in zip(found["top_logprobs"], found["tokens"], wanted, strict=True):
        assert top[token] == pytest.approx(value, abs=1e-4), "the token itself is among the likeliest"
        assert 2 <= len(top) <= 3
    best = logits[:-1].max(-1).values.tolist()
    assert [max(top.values()) for top in found["top_logprobs"]] == pytest.approx(best, abs=1e-4)


def test_ids_of_the_own_vocabulary_are_a_prompt_and_others_are_refused(server: Server, client: httpx.Client) -> None:
    ids = server.model.prompts.continuation(PROMPT)
    assert post(client, prompt=ids)["choices"] == post(client)["choices"]
    assert post(client, prompt=[ids])["choices"] == post(client)["choices"]
    answer = client.post("/v1/completions", json={"prompt": [9999999]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


def test_a_stream_has_the_whole_text(openai_client: Any) -> None:
    whole = openai_client.completions.create(model="x", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=1)
    stream = openai_client.completions.create(
        model="x", prompt=PROMPT, max_tokens=6, temperature=0, stream=True, echo=True
    )
    assert "".join(part.choices[0].text for part in stream) == PROMPT + whole.choices[0].text
    assert len(whole.choices[0].logprobs.tokens) == 6


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"suffix": "x"}, {"prompt": []}, {"prompt": "bee " * 3000}])
def test_what_cannot_be_continued_is_a_sentence(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = client.post("/v1/completions", json={"prompt": PROMPT} | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(".")
