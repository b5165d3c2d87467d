"""One question over files, from the command line.

    python -m grit_app.ask FILE… "question" [--strategy NAME] [--k K] [--model M] [--password P] [--encoding E]
                                            [--data_dir D] [--json]

Searches the given files only. With --data_dir they stay indexed there for the next question; without, nothing is kept.
Exit status: 0 with a reply (also one that says the files do not answer), 2 for bad usage or if no file could be read,
with one sentence on stderr. With --json, stdout holds the JSON alone.
"""

from __future__ import annotations

import argparse  # flags may stand between the files, which jsonargparse does not read
import json
import logging
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from grit_app.documents.document import MOST_OCR_PAGES
from grit_app.documents.read.text.languages import is_encoding
from grit_app.doors import replace_unknown_letters, shown, writes_unicode
from grit_app.errors import DocumentError, GritError, InputError
from grit_app.places import BUNDLED_MODEL, present
from grit_app.settings import Settings, load

if TYPE_CHECKING:
    from grit_app.documents.library import FileReport, Library
    from grit_app.gritlm import GritLM
    from grit_app.rag.events import Answer


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used."""

    file: str
    reason: str


class _Parser(argparse.ArgumentParser):
    """Bad usage is an InputError, as any other mistake of the user."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f'{message[:1].upper()}{message[1:]}. Usage: python -m grit_app.ask FILE… "question" [--json]')


def parse(arguments: Sequence[str], settings: Settings) -> argparse.Namespace:
    """The command line; GRIT_* variables give the defaults. Raises InputError."""
    parser = _Parser(prog="python -m grit_app.ask", description="Ask one question over files.", allow_abbrev=False)
    parser.add_argument("words", nargs="+", metavar="FILE… question", help="files, then the question in quotes")
    parser.add_argument(
        "--strategy", default=settings.strategy, help="how caches are reused; default: the checkpoint's"
    )
    parser.add_argument("--k", type=int, default=settings.k, help="passages to retrieve; default: the checkpoint's")
    parser.add_argument(
        "--mode",
        choices=("quote", "short", "free", "sources"),
        default=settings.answer_mode,
        help="a quoted sentence, its words that answer, the model's own words, or the passages alone",
    )
    parser.add_argument("--model", default=settings.model, help="folder or Hugging Face name of a checkpoint, or auto")
    parser.add_argument("--quantization", choices=("auto", "none", "8bit", "4bit"), default=settings.quantization)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=settings.device)
    parser.add_argument("--password", help="for encrypted PDFs")
    parser.add_argument("--encoding", help="of text files, e.g. Shift-JIS; default: found from their bytes")
    parser.add_argument(
        "--data_dir", type=Path, default=settings.data_dir, help="keep the index here for the next question"
    )
    parser.add_argument(
        "--ocr_pages",
        type=int,
        default=50,
        help="scanned pages of a file that are read by OCR, where rapidocr is installed; 0: none",
    )
    parser.add_argument(
        "--rerank",
        choices=("relevance", "question"),
        help="let the model read the ten best passages and reorder them: by whether they are relevant, or by how "
        "likely it would ask this question of them",
    )
    parser.add_argument("--whole", action="store_true", help="read the one file from its beginning to its end")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    namespace = parser.parse_intermixed_args(list(arguments))
    if len(namespace.words) < 2:
        parser.error("give at least one file and then the question, in quotes")
    namespace.files, namespace.question = [Path(word) for word in namespace.words[:-1]], shown(namespace.words[-1])
    if not namespace.question.strip():
        parser.error("the question is empty")
    if namespace.k is not None and namespace.k < 1:
        parser.error(f"--k must be at least 1, not {namespace.k}")
    if namespace.encoding is not None and not is_encoding(namespace.encoding):
        parser.error(f"--encoding {shown(namespace.encoding)} is not known; use one such as UTF-8 or windows-1251")
    if not 0 <= namespace.ocr_pages <= MOST_OCR_PAGES:
        parser.error(f"--ocr_pages must be 0 to {MOST_OCR_PAGES}, not {namespace.ocr_pages}")
    return namespace


def ask(options: argparse.Namespace, settings: Settings) -> tuple[Answer, list[Skipped]]:
    """The answer, and the files that were left out. Raises GritError with a sentence, also if no file could be read."""
    files, skipped = _present(options.files)
    from grit_app.rag.strategies import find_strategy

    if options.strategy is not None:
        find_strategy(options.strategy)  # raises, before the model is loaded
    model, notice = _load_model(options)
    model.config = model.config.overridden(
        repetition_penalty=settings.repetition_penalty, no_repeat_ngram_size=settings.no_repeat_ngram_size
    )
    library = _open_library(model, options.data_dir, settings)
    try:
        strategy = find_strategy(options.strategy or model.config.default_strategy)
        reports = library.add(
            files,
            options.password,
            with_caches=strategy.documents == "bidirectional",
            ocr_pages=options.ocr_pages,
            encoding=options.encoding,
        )
        skipped += [Skipped(report.name, report.reason) for report in reports if report.document_id is None]
        documents = list(dict.fromkeys(_ids(reports)))
        if not documents:
            raise DocumentError(_all_failed(skipped))
        answer = _answer(options, library, model, documents, settings)
        if notice:  # not before: where no file can be read, stderr holds that sentence alone
            print(notice, file=sys.stderr)
        told = [note for document in documents for note in library.document(document).notes]
        return replace(answer, notes=(*answer.notes, *told)), skipped
    finally:
        library.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    replace_unknown_letters()
    logging.basicConfig(level=logging.ERROR)  # stderr is for the one sentence
    try:
        settings = load()
        options = parse(sys.argv[1:] if arguments is None else arguments, settings)
        answer, skipped = ask(options, settings)
    except GritError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    if options.json:
        entries = [{"file": entry.file, "reason": entry.reason} for entry in skipped]
        print(json.dumps(answer.to_json(entries), ensure_ascii=not writes_unicode(), indent=2))
    else:
        print(render(answer, skipped))
    return 0


def render(answer: Answer, skipped: Sequence[Skipped]) -> str:
    """The answer for a person at a terminal."""
    lines = [answer.marked or "The passages that come nearest:", *answer.notes, ""]
    if answer.passage_answers:
        told = [a for a in answer.passage_answers if not a.refuses and a.text != answer.text]
        lines += [f"Passage {a.number} says: {' '.join(a.text.split())}" for a in told]
        lines += [""] if told else []
    for citation in answer.citations:
        label = "" if citation.page_label == str(citation.page) else f' (printed "{citation.page_label}")'
        where = f"[{citation.number}] {citation.hit.chunk.document_name}, page {citation.page}{label}"
        lines.append(
            f"{where}, score {citation.hit.score:.2f}{'' if citation.is_cited else ', not cited'}"
            f"{', read by OCR' if citation.hit.chunk.by_ocr else ''}"
        )
        text = textwrap.shorten(" ".join(citation.hit.chunk.text.split()), 200, placeholder=" …")
        lines.append(textwrap.indent(text, "    "))
    timings = answer.timings_ms
    lines += [
        "",
        f"{answer.strategy}: {answer.cached_tokens} of {answer.prompt_tokens} prompt tokens from a cache, "
        f"{answer.new_tokens} written; first token after {timings['first_token']:.0f} ms, "
        f"all {timings['total']:.0f} ms",
    ]
    lines += [f"Left out: {entry.reason or entry.file}" for entry in skipped]
    return "\n".join(lines)


def _present(files: Sequence[Path]) -> tuple[list[Path], list[Skipped]]:
    """Files that exist, and a sentence for each of the others; raises if there is none, before a model is loaded."""
    present, missing = [], []
    for path in files:
        if path.is_file():
            present.append(path)
        else:
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            missing.append(Skipped(shown(path.name), f"{shown(str(path))} {what}."))
    if not present:
        raise DocumentError(_all_failed(missing))
    return present, missing


def _all_failed(skipped: Sequence[Skipped]) -> str:
    return skipped[0].reason if len(skipped) == 1 else "No file could be read: " + " ".join(s.reason for s in skipped)


def _load_model(options: argparse.Namespace) -> tuple[GritLM, str]:
    """The model, and what a person should know about which one it is."""
    from grit_app.gritlm import GritLM
    from grit_app.gritlm.load.loading import resolve_model

    choice = resolve_model(options.model, BUNDLED_MODEL, options.quantization, options.device)
    model = GritLM.from_pretrained(present(choice.source), quantization=options.quantization, device=options.device)
    return model, choice.notice


def _open_library(model: GritLM, folder: Path | None, settings: Settings) -> Library:
    from grit_app.documents.document import Limits
    from grit_app.documents.library import Library

    limits = Limits(max_bytes=settings.max_file_bytes, max_pages=settings.max_pages)
    if folder is not None:
        folder = folder.expanduser()
    return Library(
        model,
        folder,
        limits,
        settings.cache_budget_bytes,
        chunk_tokens=settings.chunk_tokens,
        cache_scheme=settings.cache_scheme,
        vectors=settings.vectors,
    )


def _ids(reports: Sequence[FileReport]) -> list[str]:
    return [report.document_id for report in reports if report.document_id is not None]


def _answer(
    options: argparse.Namespace, library: Library, model: GritLM, documents: list[str], settings: Settings
) -> Answer:
    from grit_app.gritlm import Sampling
    from grit_app.rag.answering import answer
    from grit_app.rag.events import Done

    events = answer(
        options.question,
        library,
        model,
        options.strategy,
        options.k,
        options.mode,
        documents,
        Sampling(max_new_tokens=settings.answer_tokens),
        whole=options.whole,
        reranked_by=options.rerank,
    )
    return next(event.answer for event in events if isinstance(event, Done))


if __name__ == "__main__":
    sys.exit(main())
