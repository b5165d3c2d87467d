"""The encodings of text files: which languages each writes, what people call them, which ones can be chosen."""

import codecs
import re
from typing import Final

_ZH = ("的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学"
       "对可里后小么心多天而能好都然没"
       "日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长由早八点门管保")  # fmt: skip
_ZHT = ("的一是不了在人有我他這中大來上國個到說們為子和你地出道也時年得就那要下以生會自著去之過家學"
       "對可裡後小麼心多天而能好都然沒"
        "日於起還發成事只作當想看文無開手十用主行方又如前所本見經頭面公同三已老從動兩長由早八點門管保")  # fmt: skip
_KO = "이다는을를의에가하고지기로도서한은사리니자나그인어시대해아정있어들것수전습입합과일부장여보상"
# language → (encodings that write it, its letters beyond ASCII from the most frequent to the rarest)
LANGUAGES: dict[str, tuple[tuple[str, ...], str]] = {
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

ENCODINGS: Final = {
    "Unicode": ("utf-8", "utf-16-le", "utf-16-be"),
    "Western European": ("cp1252", "mac_roman", "cp850", "mac_iceland"),
    "Central European": ("cp1250", "iso8859_2", "cp852"),
    "Cyrillic": ("cp1251", "koi8_r", "koi8_u", "cp866", "cp1125", "iso8859_5", "mac_cyrillic"),
    "Greek": ("cp1253", "iso8859_7"),
    "Turkish": ("cp1254",),
    "Baltic": ("cp1257", "iso8859_13"),
    "Hebrew": ("cp1255", "iso8859_8"),
    "Arabic": ("cp1256", "iso8859_6"),
    "Thai": ("cp874",),
    "Vietnamese": ("cp1258",),
    "Japanese": ("cp932", "euc_jp", "iso2022_jp"),
    "Chinese": ("gb18030", "big5hkscs"),
    "Korean": ("cp949",),
}
"""Those that a person may choose, as Python names them, by where they are used."""


def known_encoding(encoding: str) -> str:
    """Python's name for an encoding that a person named: Shift-JIS → shift_jis. Raises LookupError."""
    try:
        name = codecs.lookup(encoding.strip()).name
        b"a".decode(name, "replace")  # codecs that are no encodings of text, as rot13, say so here
    except (LookupError, ValueError):
        raise LookupError(encoding) from None
    return name if name.startswith("utf") else name.replace("-", "_")


def is_encoding(encoding: str) -> bool:
    """Whether there is one of this name."""
    try:
        known_encoding(encoding)
    except LookupError:
        return False
    return True


def encoding_name(encoding: str) -> str:
    """The name under which people know an encoding: cp1251 → Windows-1251."""
    known = _NAMES.get(encoding)
    if known:
        return known
    if re.fullmatch(r"cp125\d", encoding):
        return f"Windows-{encoding[2:]}"
    return encoding.replace("iso8859_", "ISO 8859-").replace("_", "-").replace("utf-", "UTF-")
