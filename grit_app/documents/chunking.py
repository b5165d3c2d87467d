"""Pages → chunks: passages of whole sentences that know where they stand.

A sentence is what sentencex finds inside one line of the stored text; a table row or heading is one line.
Chunks are filled in order up to the token limit. A chunk ends early before a heading or a new page once it has some
length, never ends with a heading, and no sentence is divided unless it alone is longer than the limit. A block of code
counts as one sentence; one that is longer than the limit is divided at its empty lines, or else at its line ends.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import sentencex

from grit_app.documents.document import Document, Page

CountTokens = Callable[[str], int]
SHORTEST_PASSAGE = 16  # tokens: a shorter one is half a sentence
PAGE_SHARE = 0.3  # of the limit: a chunk this full ends with its page, so that most chunks cite one page
HEADING_SHARE = 0.5
MAX_TOKEN_CHARACTERS = 40  # a longer text than so many characters a token of the limit is not even tried whole
THAI_LENGTH = 16  # characters; shorter pieces between spaces are names and lists
_THAI_SPACE = re.compile(r"(?<=[\u0e00-\u0e7f])\s+(?=[\u0e00-\u0e7f])")
_NUMBERS = re.compile(r"(?:\s|^)[($€£]?-?\d[\d,.]*%?")
_SCRIPTS = (
    ("ar", "\u0600", "\u06ff"),
    ("he", "\u0590", "\u05ff"),
    ("hi", "\u0900", "\u097f"),
    ("ja", "\u3040", "\u30ff"),
    ("zh", "\u4e00", "\u9fff"),
    ("ru", "\u0400", "\u04ff"),
    ("el", "\u0370", "\u03ff"),
)


@dataclass(frozen=True)
class Chunk:
    """A passage. `text` is `document.text[start:stop]`."""

    id: str
    document_id: str
    document_name: str
    index: int
    """From 0, in the document."""
    text: str
    start: int
    stop: int
    pages: tuple[int, ...]
    """Indices of the pages that it touches, from 0."""
    page_label: str
    """Label of the first of them."""
    heading: str = ""
    """The heading, or the table's caption and column heads, that it stands under; not part of `text`."""
    places: tuple[Page, ...] = ()
    """The pages with their spans, cut to this chunk."""

    @classmethod
    def of(cls, document: Document, index: int, start: int, stop: int, heading: str) -> "Chunk":
        """The chunk of a document between two characters of its text."""
        first = bisect_right(document.pages, start, key=lambda page: page.stop)
        behind = bisect_left(document.pages, stop, key=lambda page: page.start)
        places = tuple(
            replace(p, start=max(p.start, start), stop=min(p.stop, stop)) for p in document.pages[first:behind]
        )
        return cls(
            id=f"{document.id}:{index:05d}",
            document_id=document.id,
            document_name=document.name,
            index=index,
            text=document.text[start:stop],
            start=start,
            stop=stop,
            pages=tuple(p.index for p in places),
            page_label=places[0].label,
            heading=heading,
            places=places,
        )

    @property
    def by_ocr(self) -> bool:
        """Whether a part of it was read by OCR."""
        return any(page.source == "ocr" for page in self.places)

    def page_at(self, offset: int) -> Page:
        """The page of the character at `offset` of `text`."""
        position = self.start + offset
        return next((p for p in reversed(self.places) if p.start <= position), self.places[0])


@dataclass(slots=True)
class _Sentence:
    start: int
    stop: int
    tokens: int
    is_heading: bool = False
    starts_page: bool = False
    starts_line: bool = False


def chunk_document(document: Document, count_tokens: CountTokens, chunk_tokens: int = 200) -> list[Chunk]:
    """The document's chunks in order. `count_tokens` counts a text's tokens without any format around it."""
    sentences = list(_sentences(document, count_tokens, chunk_tokens))
    groups: list[list[_Sentence]] = []
    current: list[_Sentence] = []
    filled = 0
    for sentence in sentences:
        early = sentence.starts_line and (
            (sentence.starts_page and filled >= PAGE_SHARE * chunk_tokens)
            or (sentence.is_heading and filled >= HEADING_SHARE * chunk_tokens)
        )
        if current and (early or filled + sentence.tokens > chunk_tokens):
            carried = _trailing_headings(current)
            groups.append(current)
            current = carried if sum(s.tokens for s in carried) + sentence.tokens <= chunk_tokens else []
            if current:
                del groups[-1][-len(current) :]
            filled = sum(s.tokens for s in current)
        current.append(sentence)
        filled += sentence.tokens
    if current:
        groups.append(current)
    _even_out_the_end(groups, chunk_tokens)
    spans = [(group[0].start, group[-1].stop) for group in groups]
    return [Chunk.of(document, i, a, b, _heading_over(document, a)) for i, (a, b) in enumerate(spans)]


def _trailing_headings(group: list[_Sentence]) -> list[_Sentence]:
    cut = len(group)
    while cut > 1 and group[cut - 1].is_heading:
        cut -= 1
    return group[cut:]


def _even_out_the_end(groups: list[list[_Sentence]], limit: int) -> None:
    """A last chunk of a few words takes sentences from the one before it."""
    if len(groups) < 2 or sum(s.tokens for s in groups[-1]) >= limit / 5:
        return
    both = groups[-2] + groups[-1]
    total, left = sum(s.tokens for s in both), 0
    for cut, sentence in enumerate(both[:-1], 1):
        left += sentence.tokens
        if left >= total / 2 and left <= limit and total - left <= limit:
            groups[-2:] = [both[:cut], both[cut:]]
            return


# ---------------------------------------------------------------- sentences


def _sentences(document: Document, count_tokens: CountTokens, limit: int) -> Iterator[_Sentence]:
    headings = {at for at, _ in document.headings}
    borders = {page.start for page in document.pages}
    blocks = dict(document.code)
    passed = 0
    for line_start, line in _lines(document.text):
        if line_start < passed:
            continue
        if line_start in blocks:
            passed = blocks[line_start]
            code = document.text[line_start:passed]
            for a, b, tokens in _code_pieces(code, count_tokens, limit):
                starts_page = a == 0 and line_start in borders
                yield _Sentence(line_start + a, line_start + b, tokens, starts_page=starts_page, starts_line=True)
            continue
        is_heading = line_start in headings
        spans = [(0, len(line))] if is_heading else sentence_spans(line)
        for number, (start, stop) in enumerate(spans):
            for a, b, tokens in _fitting(line[start:stop], count_tokens, limit):
                first = number == 0 and a == 0
                yield _Sentence(
                    line_start + start + a,
                    line_start + start + b,
                    tokens,
                    is_heading=is_heading,
                    starts_page=first and line_start in borders,
                    starts_line=first,
                )


def _code_pieces(
    code: str, count_tokens: CountTokens, limit: int, ends: Sequence[str] = (r"\n\s*\n", r"\n")
) -> Iterator[tuple[int, int, int]]:
    """(start, stop, tokens) of a block that fits the limit, or of its parts, cut at the first of `ends`, that do."""
    stripped = code.strip()
    at = code.find(stripped)
    if len(stripped) <= MAX_TOKEN_CHARACTERS * limit and (tokens := count_tokens(stripped)) <= limit:
        if stripped:
            yield at, at + len(stripped), tokens
    elif not ends:
        yield from ((at + a, at + b, tokens) for a, b, tokens in _fitting(stripped, count_tokens, limit))
    else:
        begin = 0
        for stop, following in [*((m.start(), m.end()) for m in re.finditer(ends[0], code)), (len(code), len(code))]:
            for a, b, tokens in _code_pieces(code[begin:stop], count_tokens, limit, ends[1:]):
                yield begin + a, begin + b, tokens
            begin = following


def _lines(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    for line in text.split("\n"):
        if line.strip():
            yield at, line
        at += len(line) + 1


def sentence_spans(line: str) -> list[tuple[int, int]]:
    """(start, stop) of each sentence of a line, without the spaces around it."""
    found = []
    for start, stop in _boundaries(line):
        piece = line[start:stop]
        start += len(piece) - len(piece.lstrip())
        stop -= len(piece) - len(piece.rstrip())
        if start < stop:
            found.append((start, stop))
    return found


def _boundaries(line: str) -> Iterator[tuple[int, int]]:
    """Thai has no full stop: there a space, behind some length, ends what is said."""
    at = 0
    for boundary in sentencex.get_sentence_boundaries(_language(line), line):
        start, stop = boundary["start_index"], boundary["end_index"]
        at = start
        for space in _THAI_SPACE.finditer(line, start, stop):
            if space.start() - at >= THAI_LENGTH and stop - space.end() >= THAI_LENGTH:
                yield at, space.start()
                at = space.end()
        yield at, stop


def _language(text: str) -> str:
    """The language whose rules of abbreviation and full stop fit the script; English for Latin letters."""
    best, most = "en", 0.2 * len(text)
    for language, low, high in _SCRIPTS:
        count = sum(low <= c <= high for c in text)
        if count > most:
            best, most = language, count
    return best


def _fitting(sentence: str, count_tokens: CountTokens, limit: int) -> Iterator[tuple[int, int, int]]:
    """The sentence's span, or where it alone is too long, spans of words (or characters) that fit the limit."""
    if len(sentence) <= MAX_TOKEN_CHARACTERS * limit:
        tokens = count_tokens(sentence)
        if tokens <= limit:
            yield 0, len(sentence), tokens
            return
    start = 0
    while start < len(sentence):
        # A window keeps the work proportional to the text, however long a "sentence" some file holds.
        window = sentence[start : start + MAX_TOKEN_CHARACTERS * limit]
        blank = len(window) - len(window.lstrip())
        if blank:
            start += blank
            continue
        length = _longest_fit(window, count_tokens, limit)
        yield start, start + length, count_tokens(window[:length])
        start += length


def _longest_fit(window: str, count_tokens: CountTokens, limit: int) -> int:
    """Length of the longest beginning that fits, by bisection over words; over characters where not one word fits."""
    words = [m.start() for m in re.finditer(r"\s+", window)] + [len(window)]
    for stops in (words, range(1, len(window) + 1)):
        low, high = 0, len(stops)
        while low < high:
            middle = (low + high) // 2
            if count_tokens(window[: stops[middle]]) <= limit:
                low = middle + 1
            else:
                high = middle
        if low:
            return stops[low - 1]
    return 1  # a single character of more tokens than the limit


# ---------------------------------------------------------------- headings


def _heading_over(document: Document, start: int) -> str:
    """The headings over `start`, outermost first, or the last one before it; for rows also their column heads."""
    inside = bisect_right(document.sections, start, key=lambda s: s.start) - 1
    if inside >= 0 and start < document.sections[inside].stop:
        return document.sections[inside].title  # column heads included
    before = bisect_right(document.tables, start, key=lambda table: table.rows[0].start) - 1
    if before >= 0 and start < document.tables[before].rows[-1].stop and document.tables[before].title:
        return document.tables[before].title
    at = bisect_right(document.headings, start, key=lambda h: h[0]) - 1
    if at < 0 or document.headings[at][0] == start:
        return ""
    begin, heading = document.headings[at]
    words = [heading]
    after = begin + len(heading) + 1
    for line in document.text[after : min(start, after + 1500)].split("\n")[:8]:
        if len(_NUMBERS.findall(line)) >= 2 or len(line) > 160:
            break
        words.append(line)
    is_row = len(_NUMBERS.findall(document.text[start : start + 200].split("\n", 1)[0])) >= 2
    return " ".join(words if is_row else words[:1]).strip()


def of_passages(name: str, passages: Sequence[str]) -> tuple[Document, list[Chunk]]:
    """A document of one page that is made of these passages, and its chunks, one for each."""
    text = "\n\n".join(passages)
    page = Page(0, "1", 0, len(text))
    document = Document(name, hashlib.sha256(text.encode()).hexdigest(), "text", (page,), text)
    chunks, start = [], 0
    for index, passage in enumerate(passages):
        chunks.append(Chunk.of(document, index, start, start + len(passage), ""))
        start += len(passage) + 2
    return document, chunks
