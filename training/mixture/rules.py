"""Make the data of the GRIT stage from the corpus, by fixed rules and a seed: nothing is generated.

    python -m training.mixture --config training/recipes/gritlm-135m-mixture.yaml --output_dir runs/gritlm-135m/mixture

Writes one JSON Lines file for each rule below into `output_dir/train`, in the forms of
`training.data.formats`, and the same from the held-out records (`training.mixture.records.is_held_out`: whole
articles) into `output_dir/held_out`.

contrastive
  questions     question → its passage; hard negatives: other passages of the same article without the answer in them
  squad         question → the sentence or paragraph that answers it
  sections      "Title: heading" → a paragraph of that section; hard negatives: other sections of the article
  openings      article title → its first paragraph
  paraphrases   sentence → the same said otherwise (both directions)
  definitions   "What does X mean?" → definition, and glossary terms
  medical       question → answer; negatives: other answers on the same subject
  intents       request → another with the same intent; negatives: requests with other intents
  subjects      a paragraph → another of its article
  neighbours    sentence → near ones as an open encoder sees them; negatives: clearly less near (graded similarity)
rag
  answers       question over its passage and distractors of the same article (else of another); a part of the
                questions stands over distractors only, which then must not hold the answer: refused
  one_by_one    the same over a single passage, the right one or another: for reading passages one at a time
  hard_refusals a question over its own passage without the sentences that answer it: right topic, refused
  long_answers  a question whose answer is the beginning of its explanation
  searches      questions over two passages, in the protocol in which the model searches while it answers
                (`grit_app.rag.searching`): asks for what is missing, then answers; and plain ones beside
  cloze         the same with questions made from encyclopedia articles (`training.mixture.cloze`)
generative
  chats         definitions and short instructions
  prompted      tasks of P3 with short answers
  own_talk      greetings, and questions about the app itself (assets/small_talk.jsonl, written by hand)

`instructions` puts an instruction before a part of a rule's queries, so that it changes what is near.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

from training.mixture import answers, pairs, talk
from training.mixture.corpus import Corpus, InstructionConfig, MixtureConfig, Row
from training.mixture.records import CorpusError
from training.mixture.searches import searches

log = logging.getLogger(__name__)

LONG_ANSWER = 60
"""Characters from which on an answer need not stand in its passage word by word."""

RULES: dict[str, Callable[[Corpus], Iterator[Row]]] = {
    "questions": pairs.questions,
    "squad": pairs.squad,
    "sections": pairs.sections,
    "openings": pairs.openings,
    "paraphrases": pairs.paraphrases,
    "definitions": pairs.definitions,
    "medical": pairs.medical,
    "intents": pairs.intents,
    "subjects": pairs.subjects,
    "neighbours": pairs.neighbours,
    "answers": answers.answers,
    "cloze": answers.cloze,
    "one_by_one": answers.one_by_one,
    "hard_refusals": answers.hard_refusals,
    "long_answers": answers.long_answers,
    "searches": searches,
    "chats": talk.chats,
    "prompted": talk.prompted,
    "own_talk": talk.own_talk,
}


def write_rule(corpus: Corpus, rule: str) -> int:
    """One file; gives its number of rows. The rows are a random draw in random order."""
    config = corpus.config
    rows = list(RULES[rule](corpus))
    corpus.rng(f"order of {rule}").shuffle(rows)
    if rule in config.limits:
        limit = config.limits[rule] / (10 if corpus.held_out else 1)
        rows = rows[: max(1, int(limit * config.fraction))]
    elif config.fraction < 1:
        rows = rows[: max(1, int(len(rows) * config.fraction))]
    rows = list(finished(corpus, rule, rows))
    path = config.output_dir / ("held_out" if corpus.held_out else "train") / f"{rule}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def finished(corpus: Corpus, rule: str, rows: list[Row]) -> Iterator[Row]:
    """Rows with passages cut, fewer negatives, and instructions, as the settings want them."""
    config, rng = corpus.config, corpus.rng(f"instructions of {rule}")
    instruction = config.instructions.get(rule)
    for row in rows:
        done = cut(row, config.passage_characters)
        if done is None:
            continue
        negatives = done.get("neg")
        if rule in config.most_negatives and isinstance(negatives, list):
            done = done | {"neg": negatives[: config.most_negatives[rule]]}
        if instruction is not None and "query" in done and rng.random() < instruction.share:
            done = instructed(done, instruction)
        yield done


def instructed(row: Row, instruction: InstructionConfig) -> Row:
    """A contrastive row with the instruction before its query, and before its passages where it is for both."""
    found = row | {"query": [instruction.text, row["query"]]}
    if instruction.both:
        for name in ("pos", "neg"):
            texts = row[name]
            assert isinstance(texts, list)
            found[name] = [[instruction.text, text] for text in texts]
    return found


def cut(row: Row, characters: int | None) -> Row | None:
    """The row with passages of at most so many characters; None if a short answer was cut off."""
    if characters is None:
        return row
    found = dict(row)
    for name in ("pos", "neg", "passages"):
        if isinstance(texts := row.get(name), list):
            found[name] = [_shortened(str(text), characters) for text in texts]
    passages, gold, answer = found.get("passages"), found.get("gold"), str(found.get("answer", ""))
    if isinstance(passages, list) and gold and passages != row["passages"] and len(answer) <= LONG_ANSWER:
        is_left = answer.lower() in str(passages[0]).lower()
        was_there = answer.lower() in str(row["passages"][0]).lower()  # type: ignore[index]
        return found if is_left or not was_there else None
    return found


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0]


def run(config: MixtureConfig) -> dict[str, int]:
    """Make all files; gives the rows of each training file."""
    named = [*config.rules, *config.limits, *config.instructions, *config.most_negatives]
    unknown = sorted(set(named) - set(RULES))
    if unknown:
        raise CorpusError(f"The recipe names {unknown}, which are no rules. There are {sorted(RULES)}.")
    counts = {}
    for rule in config.rules or RULES:
        counts[rule] = write_rule(Corpus(config, held_out=False), rule)
        held_out = write_rule(Corpus(config, held_out=True), rule)
        log.info("%-12s %6d rows, %5d held out", rule, counts[rule], held_out)
    return counts
