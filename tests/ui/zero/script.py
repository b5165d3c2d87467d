"""Run by test_zero.py in a process of its own: ZeroGPU's decorators rule from the import on."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import spaces

from grit_app.gritlm import GritLM, Sampling, join
from grit_app.ui.zero import encode_job, on_zero_gpu, run_race


def main(folder: str) -> dict[str, Any]:
    plain = GritLM.from_pretrained(folder, dtype="float32")
    lent = on_zero_gpu(plain)
    texts = [f"The river number {number} reaches the sea." for number in range(5)]
    said: dict[str, Any] = {}
    ours = list(lent.encode_iter(texts, return_cache=True))
    theirs = list(plain.encode_iter(texts, return_cache=True))
    said["vectors"] = max(float(np.abs(a.vector - b.vector).max()) for a, b in zip(ours, theirs, strict=True))
    caches = [join([one.cache for one in side], model.rope) for side, model in ((ours, lent), (theirs, plain))]
    said["caches"] = float((caches[0].keys - caches[1].keys).abs().max())
    sampling = Sampling(max_new_tokens=12)
    ids = plain.prompts.continuation("and then the bees")
    answers = [model.stream_ids(ids, cache, sampling) for model, cache in zip((lent, plain), caches, strict=True)]
    said["same_answer"] = answers[0].read_all() == answers[1].read_all()
    said["same_ids"] = answers[0].token_ids == answers[1].token_ids
    said["finish"] = [answer.stats.finish_reason for answer in answers]
    messages = [{"role": "user", "content": "Hello"}]
    said["same_chat"] = lent.generate(messages, 8) == plain.generate(messages, 8)
    said["scores"] = [model.score(ids, [[5, 6], [7]]) for model in (lent, plain)]
    spaces.CALLS.clear()
    text = " ".join(texts * 4)
    race = run_race(lent, "Which river?", text, ["rag_doc_query", "docs_cache"], sampling=Sampling(max_new_tokens=4))
    said["lanes"] = [lane.strategy for lane in race.lanes]
    said["race_calls"] = [name for name, _ in spaces.CALLS]
    spaces.CALLS.clear()
    lent.encode([text]), lent.encode([text] * 3)
    said["asked_s"] = [seconds for _, seconds in spaces.CALLS]
    try:
        encode_job([""], "", False, {})
    except Exception as error:
        said["error"] = str(error)
    return said


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])))
