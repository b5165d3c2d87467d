"""From the bytes of a text file to its characters.

1. A byte order mark decides.
2. Valid UTF-8 is UTF-8; so is a file with a few broken bytes among many whole letters: each costs a replacement sign.
3. UTF-16 and UTF-32 without a mark show zero bytes at every second or fourth place.
4. Everything else is decoded in each encoding of `_LANGUAGES` and judged by the letters that come out: the frequent
   letters of one language, in the order of their frequency, speak for it; signs inside words speak against it.
5. If no language fits, charset-normalizer has the last word; if it has none, the file is refused.
"""

import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

SAMPLE_BYTES = 40_000  # judged; all of the file is decoded
ENOUGH = 0.35  # evidence from 0 to 1; wrong encodings stay below 0.3
BINARY_SHARE = 0.05  # of control characters
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x85\u2028\u2029]")
_NOT_CONTROL = b"\t\n\x0b\x0c\r\x1a\x1b"
_CONTROL_BYTES = bytes(b for b in range(32) if b not in _NOT_CONTROL)
_QUOTES = set("„“”‘’‚–—…«»‹›§°©®€№·•¿¡ºª´。、，！？：；（）「」『』・％～ー　")

_ZH = ("的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学"
       "对可里后小么心多天而能好都然没"
       "日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长由早八点门管保")  # fmt: skip
_ZHT = ("的一是不了在人有我他這中大來上國個到說們為子和你地出道也時年得就那要下以生會自著去之過家學"
       "對可裡後小麼心多天而能好都然沒"
        "日於起還發成事只作當想看文無開手十用主行方又如前所本見經頭面公同三已老從動兩長由早八點門管保")  # fmt: skip
_KO = "이다는을를의에가하고지기로도서한은사리니자나그인어시대해아정있어들것수전습입합과일부장여보상"
# language → (encodings that write it, its letters beyond ASCII from the most frequent to the rarest)
_LANGUAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "Western": (("cp1252", "mac_roman", "cp850"), "éáäöüíóèñçàßêâôåãøæîûúëïœìòùõýðþ"),
    "French": (("cp1252", "mac_roman", "cp850"), "éèàêçâôùîûëïœ"),
    "Spanish": (("cp1252", "mac_roman", "cp850"), "óíáñéúü"),
    "German": (("cp1252", "mac_roman", "cp850"), "üäöß"),
    "Portuguese": (("cp1252", "mac_roman", "cp850"), "ãçáéóíêàõúâô"),
    "Italian": (("cp1252", "mac_roman", "cp850"), "èàéùìò"),
    "Nordic": (("cp1252", "mac_roman", "cp850"), "åäöøæéðþ"),
    "Icelandic": (("cp1252", "mac_iceland"), "áíðóéþúöæý"),
    "Polish": (("cp1250", "iso8859_2"), "łęąóżśćńź"),
    "Czech": (("cp1250", "iso8859_2"), "íáéěžřýčůšúťóňď"),
    "Hungarian": (("cp1250", "iso8859_2"), "áéöóőíüúű"),
    "Romanian": (("cp1250", "iso8859_2"), "ăîâşţșț"),
    "Croatian": (("cp1250", "iso8859_2"), "čšžćđ"),
    "Turkish": (("cp1254",), "ıüşğçöİâ"),
    "Baltic": (("cp1257", "iso8859_13"), "āėīšēžųūąčįļņęģķõäöü"),
    "Russian": (("cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic"), "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"),
    "Ukrainian": (("cp1251", "koi8_u", "cp1125"), "оаинвіертслкдмупязьбгйчхжцшюїєщфґ"),
    "Bulgarian": (("cp1251",), "аиотнервсдлкпмзбгуъщяцйчжхшфюь"),
    "Greek": (("cp1253", "iso8859_7"), "αοιετσνηυρπκμλςόίωάέδγήύχθφβώξζψϊΐϋΰ"),
    "Hebrew": (("cp1255", "iso8859_8"), "יוהלאתמרשבנדחעקפםגטסכצןזךףץ"),
    "Arabic": (("cp1256", "iso8859_6"), "الينمورتبةعدسفهكقأحجشطصىخإذئضزغثظؤءآ"),
    "Thai": (("cp874",), "านรกอเงมยลวดทส่ตะปบ้คหแจพช็ขใไโผซธถณศภษญ์ิีึืุูัำๆฐฉฎฏฌฒฬฮฤฝฟฆ"),
    "Japanese": (("cp932", "euc_jp", "iso2022_jp"), ""),
    "Chinese, simplified": (("gb18030",), _ZH),
    "Chinese, traditional": (("big5hkscs",), _ZHT),
    "Korean": (("cp949",), _KO),
}  # fmt: skip
_NAMES = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "cp932": "Shift-JIS", "euc_jp": "EUC-JP", "gb18030": "GB18030",
          "big5hkscs": "Big5", "cp949": "EUC-KR", "koi8_r": "KOI8-R", "koi8_u": "KOI8-U", "cp874": "Thai (TIS-620)",
          "mac_roman": "Mac Roman", "iso2022_jp": "ISO-2022-JP"}  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """The characters of a text file. Lines end in a line feed alone."""

    text: str
    encoding: str
    """A name that Python's `bytes.decode` knows."""
    is_guess: bool
    """False where the bytes prove it: a mark, valid UTF-8, or a person's choice."""


def encoding_name(encoding: str) -> str:
    """The name under which people know an encoding: cp1251 → Windows-1251."""
    known = _NAMES.get(encoding)
    if known:
        return known
    if re.fullmatch(r"cp125\d", encoding):
        return f"Windows-{encoding[2:]}"
    return encoding.replace("iso8859_", "ISO 8859-").replace("_", "-").replace("utf-", "UTF-")


def decode(data: bytes, encoding: str | None = None) -> Decoded | None:
    """The text of the bytes, or None if they are no text or their encoding cannot be told.

    encoding   the one that a person chose; None: found from the bytes
    Raises LookupError if the chosen encoding is not known.
    """
    if encoding is not None:
        return Decoded(_clean(data.decode(encoding, "replace")), encoding, False)
    marked = _by_mark(data)
    if marked is not None:
        return Decoded(_clean(data.decode(marked, "replace")), marked, False)
    sample = data[:SAMPLE_BYTES]
    wide = _wide(sample) if 0 in sample or is_binary(sample) else None
    if wide is not None:
        return Decoded(_clean(data.decode(wide, "replace")), wide, True)
    if is_binary(data):
        return None
    data = data.translate(None, b"\x00")
    if b"\x1b$" not in sample and _is_utf8(data):
        return Decoded(_clean(data.decode("utf-8", "replace")), "utf-8", False)
    guess = _by_language(sample) or _wide(sample) or _by_library(sample)
    return None if guess is None else Decoded(_clean(data.decode(guess, "replace")), guess, True)


def is_binary(data: bytes) -> bool:
    """True if the bytes hold more control characters than any text does."""
    sample = data[:1_000_000]
    controls = len(sample) - len(sample.translate(None, _CONTROL_BYTES))
    zeros = sample.count(0)
    return controls > BINARY_SHARE * len(sample) or (controls - zeros) > 0.01 * len(sample) + 2


def _clean(text: str) -> str:
    return _LINE_ENDS.sub("\n", text).replace("\x00", "").removeprefix("\ufeff")


def _by_mark(data: bytes) -> str | None:
    for mark, encoding in ((b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
                           (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):  # fmt: skip
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
    best = max(_evidence(text[:2000], language, letters) for language, (_, letters) in _LANGUAGES.items())
    return plain + (1 - plain) * max(0.0, best)


def _is_utf8(data: bytes) -> bool:
    """True if all, or nearly all, bytes above 127 are whole letters of UTF-8."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    if not broken:
        return True
    whole = len(text) - broken - sum(data[i : i + 65536].translate(None, _HIGH).__len__()
                                     for i in range(0, len(data), 65536))  # fmt: skip
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
    for language, (encodings, letters) in _LANGUAGES.items():
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
        self.ideograph = {"Korean": -0.5, "Japanese": 0.6 if kana > 0.15 * beyond else 0.1}.get(
            language, 0.35 if language.startswith("Chinese") else -1.0
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
            return self.ideograph
        return self.syllable if "가" <= character <= "힣" else -0.7


_OWN_SCRIPT = {"Russian", "Ukrainian", "Bulgarian", "Greek", "Hebrew", "Arabic", "Thai"}
