"""A small corpus in the real files' formats, made of random words with a seed."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

TEXT = """river mountain teacher opens the old door and a small boat crosses water while people in town read about music
history light stone winter market garden because every answer needs one question number letter city bridge"""
WORDS = TEXT.split()


def sentence(rng: random.Random, length: int = 9) -> str:
    return " ".join(rng.choices(WORDS, k=length)).capitalize() + "."


def paragraph(rng: random.Random, sentences: int = 6) -> str:
    return " ".join(sentence(rng) for _ in range(sentences))


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8", preset=0) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def question_records(rng: random.Random, articles: int) -> list[dict[str, Any]]:
    """Three questions on each passage, two passages an article; the answer is one of the passage's words."""
    records = []
    for article in range(articles):
        for part in range(2):
            context = paragraph(rng, 4)
            for number in range(3):
                word = rng.choice(context.rstrip(".").split()).strip(".")
                answer = {"text": word, "start": context.index(word)}
                question = f"Which {rng.choice(WORDS)} has part {part} of article {article} as number {number}?"
                records.append(
                    {
                        "id": f"{article}-{part}-{number}",
                        "title": f"Article {article}",
                        "context": context,
                        "question": question,
                        "answers": [answer],
                        "source": "wiki",
                    }
                )
    return records
