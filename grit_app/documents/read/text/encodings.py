"""From the bytes of a text file to its characters.

1. A byte order mark decides.
2. Valid UTF-8 is UTF-8; so is a file with a few broken bytes among many whole letters: each costs a replacement sign.
3. UTF-16 and UTF-32 without a mark show zero bytes at every second or fourth place.
4. Everything else is decoded in each encoding of `LANGUAGES` and judged by the letters that come out: the frequent
   letters of one language, in the order of their frequency, speak for it; signs inside words speak against it.
5. If no language fits, charset-normalizer has the last word; if it has none, the file is refused.
"""

import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

from grit_app.documents.document import EncodingBy
from grit_app.documents.read.text.languages import LANGUAGES, known_encoding

SAMPLE_BYTES = 40_000  # judged; all of the file is decoded
ENOUGH = 0.35  # evidence from 0 to 1; wrong encodings stay below 0.3
BINARY_SHARE = 0.05  # of control characters
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x85\u2028\u2029]")
_COLOURS = re.compile(r"\x1b(\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")  # what a terminal does not show
_NOT_CONTROL = b"\t\n\x0b\x0c\r\x1a\x1b"
_CONTROL_BYTES = bytes(b for b in range(32) if b not in _NOT_CONTROL)
_CONTROLS = dict.fromkeys(_CONTROL_BYTES)
_QUOTES = set("„“”‘’‚–—…«»‹›§°©®€№·•¿¡ºª´。、，！？：；（）「」『』・％～ー　")


@dataclass(frozen=True)
class Decoded:
    """The characters of a text file. Lines end in a line feed alone."""

    text: str
    encoding: str
    """A name that Python's `bytes.decode` knows."""
    by: EncodingBy
    lost: bool = False
    """Whether too much of it is no letter in the encoding that a person chose: the file is written in another."""


def decode(data: bytes, encoding: str | None = None) -> Decoded | None:
    """The text of the bytes, or None if they are no text or their encoding cannot be told.

    encoding   the one that a person chose; None: found from the bytes
    Raises LookupError if the chosen encoding is not known.
    """
    if encoding is not None:
        name = known_encoding(encoding)
        text = _clean(data.decode(name, "replace"))
        return Decoded(text, name, "person", _is_lost(text))
    marked = _by_mark(data)
    if marked is not None:
        return Decoded(_clean(data.decode(marked, "replace")), marked, "bytes")
    sample = data[:SAMPLE_BYTES]
    wide = _wide(sample) if 0 in sample or is_binary(sample) else None
    if wide is not None:
        return Decoded(_clean(data.decode(wide, "replace")), wide, "letters")
    if is_binary(data):
        return None
    data = data.translate(None, b"\x00")
    if b"\x1b$" not in sample and _is_utf8(data):
        return Decoded(_clean(data.decode("utf-8", "replace")), "utf-8", "bytes")
    guess = _by_language(sample) or _wide(sample) or _by_library(sample)
    return None if guess is None else Decoded(_clean(data.decode(guess, "replace")), guess, "letters")


def _is_lost(text: str) -> bool:
    """True unless broken letters are a few among many whole ones, as a damaged file has them."""
    broken = text.count("\ufffd")
    whole = len(text) - broken - len(text.encode("ascii", "ignore"))
    controls = len(text) - len(text.translate(_CONTROLS))
    return (broken > 1 and whole <= 3 * broken) or controls > BINARY_SHARE * len(text)


def is_binary(data: bytes) -> bool:
    """True if the bytes hold more control characters than any text does."""
    sample = data[:1_000_000]
    controls = len(sample) - len(sample.translate(None, _CONTROL_BYTES))
    zeros = sample.count(0)
    return controls > BINARY_SHARE * len(sample) or (controls - zeros) > 0.01 * len(sample) + 2


def _clean(text: str) -> str:
    if "\x1b" in text:
        text = _COLOURS.sub("", text)
    return _LINE_ENDS.sub("\n", text).replace("\x00", "").removeprefix("\ufeff")


def _by_mark(data: bytes) -> str | None:
    for mark, encoding in (
        (b"\xff\xfe\x00\x00", "utf-32"),
        (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
        (b"\xef\xbb\xbf", "utf-8-sig"),
    ):
        if data.startswith(mark):
            return encoding
    return None


def _wide(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, if the bytes look so."""
    sample = sample[: len(sample) - len(sample) % 4] if len(sample) >= SAMPLE_BYTES else sample
    printable = len(sample) - len(sample.translate(None, _PRINTABLE))
    if len(sample) < 4 or len(sample) % 2 or printable > 0.9 * len(sample):
        return None
    quarters = [sample[i::4].count(0) / max(1, len(sample[i::4])) for i in range(4)]
    if min(quarters[2:]) > 0.95 and quarters[0] < 0.5:
        return "utf-32-le"
    if min(quarters[:2]) > 0.95 and quarters[3] < 0.5:
        return "utf-32-be"
    little, big = (_language_share(sample.decode(encoding, "ignore")) for encoding in ("utf-16-le", "utf-16-be"))
    if max(little, big) < ENOUGH or abs(little - big) < 0.1:
        return None
    return "utf-16-le" if little > big else "utf-16-be"


def _language_share(text: str) -> float:
    """How much of the text is plain ASCII or speaks for one language, at most 1."""
    plain = sum(c in "\n\r\t" or " " <= c <= "~" for c in text) / max(1, len(text))
    best = max(_evidence(text[:2000], language, letters) for language, (_, letters) in LANGUAGES.items())
    return plain + (1 - plain) * max(0.0, best)


def _is_utf8(data: bytes) -> bool:
    """True if all, or nearly all, bytes above 127 are whole letters of UTF-8."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    if not broken:
        return True
    whole = (
        len(text)
        - broken
        - sum(data[i : i + 65536].translate(None, _HIGH).__len__() for i in range(0, len(data), 65536))
    )
    return whole > 3 * broken or (whole >= 1 and broken == 1 and _ends_cut(data))


_HIGH = bytes(range(128, 256))
_PRINTABLE = b"\t\n\r" + bytes(range(32, 127))


def _ends_cut(data: bytes) -> bool:
    """True if the last letter is the beginning of one: the file was cut inside it."""
    for back in (1, 2, 3):
        if len(data) >= back and data[-back] >= 0xC2:
            return True
        if len(data) < back or data[-back] < 0x80:
            return False
    return False


def _by_language(data: bytes) -> str | None:
    best: str | None = None
    most = ENOUGH
    decoded: dict[str, str | None] = {}
    for language, (encodings, letters) in LANGUAGES.items():
        for encoding in encodings:
            if encoding not in decoded:
                decoded[encoding] = _strict(data, encoding)
            text = decoded[encoding]
            score = 0.0 if text is None else _evidence(text, language, letters)
            if score > most + 1e-9:
                best, most = encoding, score
    return best


def _by_library(data: bytes) -> str | None:
    """What charset-normalizer finds, where it is sure."""
    found = from_bytes(data).best()
    return None if found is None or found.percent_chaos > 10 or found.percent_coherence < 10 else str(found.encoding)


def _strict(data: bytes, encoding: str) -> str | None:
    """The decoded sample; None if it is not valid, but for a letter that the sample's end cuts."""
    try:
        text = data.decode(encoding, "strict")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3 and error.start < 0.999 * len(data):
            return None
        text = data[: error.start].decode(encoding, "ignore")
    return text


def _evidence(text: str, language: str, letters: str) -> float:
    """How well the characters beyond ASCII fit the language, at most 1; wrong decodings come out below 0.3."""
    weights = {c: 1.0 - 0.6 * i / max(1, len(letters)) for i, c in enumerate(letters)}
    judge = _Judge(language, weights, text)
    total, count = 0.0, 0
    for before, character, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if not character.isascii():
            count += 1
            total += judge.weight(before, character, after)
    return total / count if count else 0.0


class _Judge:
    """Says how much one character speaks for a language, -1 … 1."""

    def __init__(self, language: str, weights: dict[str, float], text: str) -> None:
        self.weights = weights
        self.is_japanese = language == "Japanese"
        self.has_own_script = language in _OWN_SCRIPT
        kana = sum("\u3040" <= c <= "\u30ff" for c in text)
        beyond = sum(not c.isascii() for c in text)
        self.common = _COMMON.get(language)
        self.ideograph = {"Korean": -0.5, "Japanese": 0.6 if kana > 0.15 * beyond else 0.1}.get(
            language, 0.5 if language.startswith("Chinese") else -1.0
        )
        self.syllable = 0.5 if language == "Korean" else -1.0

    def weight(self, before: str, character: str, after: str) -> float:
        if self.is_japanese and "\u3040" <= character <= "\u30ff":
            return 1.0
        small = character if character in self.weights else character.lower()
        if small in self.weights:
            # Capitals inside words, and two scripts in one word, are what a wrong encoding looks like.
            shouted = character != small and before.islower()
            mixed = self.has_own_script and any(c.isascii() and c.isalpha() for c in (before, after))
            return -1.0 if mixed else -0.5 if shouted else self.weights[small]
        if character in _QUOTES:
            return 0.3 if not (before.isalpha() and after.isalpha()) or character in "’·" else -0.5
        if "\u4e00" <= character <= "\u9fff":
            return self.ideograph if self._is_common(character) else min(0.0, self.ideograph)
        return self.syllable if "가" <= character <= "힣" and self._is_common(character) else -0.7

    def _is_common(self, character: str) -> bool:
        """Whether it stands among the everyday characters with which its language's standard begins.

        In a wrong encoding most characters are not: Chinese bytes read as UTF-16 give Hangul that no one writes.
        """
        if self.common is None:
            return True
        encoding, first, last = self.common
        code = character.encode(encoding, "ignore")
        return len(code) == 2 and first <= code[0] <= last


# (encoding, first and last leading byte of its everyday characters): level 1 of GB 2312, Big5 and JIS X 0208; the 2,350
# syllables of KS X 1001.
_COMMON = {
    "Chinese, simplified": ("gb2312", 0xB0, 0xD7),
    "Chinese, traditional": ("big5", 0xA4, 0xC6),
    "Japanese": ("euc_jp", 0xB0, 0xCF),
    "Korean": ("euc_kr", 0xB0, 0xC8),
}


_OWN_SCRIPT = {"Russian", "Ukrainian", "Bulgarian", "Greek", "Hebrew", "Arabic", "Thai"}
