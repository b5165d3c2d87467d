"""Makes the toy data: a small world of people, towns and trades, made by rules. Nothing is random but the seed.

    python -m training.toy --output_dir training/toy/data

The committed files in training/toy/data are its output. Training and held-out files share no person.

    start/             config.json and a tokenizer of the toy's own words: the recipe starts from random weights
    pairs.jsonl        contrastive: who does what where → the sentence that says so; negatives: other people's
    chats.jsonl        generative: short exchanges in the chat format
    questions.jsonl    rag: a question over the passages of several people, one of them right, or none
    dev_*.jsonl        the same of people that training never saw
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST = ["Ada", "Bela", "Cora", "Dario", "Edda", "Falk", "Gero", "Hanna", "Ivo", "Jana", "Kai", "Lena", "Milo", "Nora"]
FIRST += ["Otto", "Pia", "Quin", "Rosa", "Sven", "Tilda", "Udo", "Vera", "Wim", "Xenia", "Yara", "Zeno"]
LAST = ["Ash", "Brook", "Clay", "Dale", "Elm", "Field", "Glen", "Hill", "Isle", "Jay", "Knoll", "Lake", "Moor", "North"]
LAST += ["Oak", "Pond", "Quarry", "Reed", "Stone", "Thorn"]
TOWNS = [
    "Arden",
    "Borvik",
    "Calder",
    "Dunmore",
    "Esker",
    "Fallow",
    "Garth",
    "Holm",
    "Inver",
    "Juniper",
    "Kelso",
    "Lund",
]
TRADES = ["baker", "carpenter", "doctor", "farmer", "gardener", "miller", "painter", "potter", "sailor", "smith"]
TRADES += ["tailor", "teacher"]
ANIMALS = ["cat", "dog", "goat", "horse", "parrot", "rabbit"]

INSTRUCTION = "Find the sentence about this person"
REFUSAL = "The text does not give the answer."


@dataclass(frozen=True)
class Person:
    name: str
    town: str
    trade: str
    animal: str

    @property
    def passage(self) -> str:
        return f"{self.name} lives in {self.town}, works as a {self.trade} and keeps a {self.animal}."

    def questions(self) -> list[tuple[str, str]]:
        return [
            (f"Where does {self.name} live?", self.town),
            (f"What does {self.name} work as?", f"a {self.trade}"),
            (f"Which animal does {self.name} keep?", f"a {self.animal}"),
        ]


def people(seed: int) -> list[Person]:
    """Everybody: each pair of first and last name once, in random order."""
    rng = random.Random(seed)
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    rng.shuffle(names)
    return [Person(name, rng.choice(TOWNS), rng.choice(TRADES), rng.choice(ANIMALS)) for name in names]


def pairs(persons: Sequence[Person], rng: random.Random) -> Iterable[dict[str, Any]]:
    """Questions and names → the person's passage; hard negatives share a name or the answer."""
    for person in persons:
        first, last = person.name.split()
        near = [p for p in persons if p is not person and (first in p.name.split() or last in p.name.split())]
        for query in (person.name, rng.choice(person.questions())[0]):
            negatives = rng.sample(near, min(2, len(near))) + rng.sample(persons, 2)
            yield {
                "query": [INSTRUCTION, query],
                "pos": [["", person.passage]],
                "neg": [["", p.passage] for p in negatives if p is not person],
            }


def chats(rng: random.Random, count: int) -> Iterable[dict[str, Any]]:
    """Greetings, spelling, counting and sorting: patterns that a small model can learn."""
    for _ in range(count):
        kind = rng.randrange(4)
        words = rng.sample([*TOWNS, *TRADES, *ANIMALS], 3)
        if kind == 0:
            name = rng.choice(FIRST)
            yield {"text": [f"Hello, I am {name}.", f"Hello {name}! How can I help you?"]}
        elif kind == 1:
            start = rng.randint(1, 40)
            numbers = [str(start + i) for i in range(6)]
            yield {"text": [f"Count on: {' '.join(numbers[:3])}", " ".join(numbers[3:])]}
        elif kind == 2:
            yield {"text": [f"Repeat: {' '.join(words)}", " ".join(words)]}
        else:
            turns = [f"Say {words[0]}.", words[0], f"And now {words[1]}.", words[1]]
            yield {"text": turns}


def questions(persons: Sequence[Person], rng: random.Random) -> Iterable[dict[str, Any]]:
    """A question over four people's passages; every fifth is about somebody else."""
    for number, person in enumerate(persons):
        question, answer = rng.choice(person.questions())
        others = [p for p in rng.sample(persons, 6) if p is not person][:4]
        answerable = number % 5 != 4
        passages = [p.passage for p in others[:3]]
        place = rng.randint(0, 3)
        passages.insert(place, person.passage if answerable else others[3].passage)
        yield {
            "question": question,
            "passages": passages,
            "gold": [place] if answerable else [],
            "answer": answer if answerable else "",
            "answerable": answerable,
        }


def make_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Byte-level BPE over the toy's words, with `<s>` and `</s>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    split = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|[\r\n]|\s")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def make_config(vocab_size: int) -> Any:
    """1.4 M parameters: learns the toy in minutes on two cores."""
    from transformers import MistralConfig

    return MistralConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def write(path: Path, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Writes the rows; gives their texts."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return lines


def make(output_dir: Path, seed: int = 0) -> None:
    """Writes everything into `output_dir`."""
    output_dir.mkdir(parents=True, exist_ok=True)
    everybody = people(seed)
    train, dev = everybody[:440], everybody[440:]
    rng = random.Random(seed + 1)
    texts = write(output_dir / "pairs.jsonl", pairs(train, rng))
    texts += write(output_dir / "chats.jsonl", chats(rng, 1200))
    texts += write(output_dir / "questions.jsonl", questions(train, rng))
    write(output_dir / "dev_pairs.jsonl", pairs(dev, rng))
    write(output_dir / "dev_chats.jsonl", chats(rng, 60))
    write(output_dir / "dev_questions.jsonl", questions(dev, rng))
    formats = "<|user|>\n<|assistant|>\n<|embed|>\n " + REFUSAL
    tokenizer = make_tokenizer([*texts, *[formats] * 500], vocab_size=700)
    (output_dir / "start").mkdir(exist_ok=True)
    tokenizer.save_pretrained(output_dir / "start")
    make_config(len(tokenizer)).save_pretrained(output_dir / "start")
