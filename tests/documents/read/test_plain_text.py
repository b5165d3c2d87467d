"""Text and Markdown files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from grit_app.documents.read import process
from grit_app.documents.read.reading import read_document
from grit_app.documents.read.text.encodings import decode
from grit_app.documents.read.text.markdown import read_markdown
from grit_app.errors import DocumentError
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import wrap


def read(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path).text


def test_hard_wrapped_lines_become_paragraphs(tmp_path: Path) -> None:
    body = "\n".join(wrap(RIVER, 350)) + "\n\n" + "\r\n".join(wrap(HONEY, 350)) + "\r\n"
    assert read(tmp_path, "a.txt", body) == f"{RIVER}\n{HONEY}"


def test_lines_that_are_items_stay_lines(tmp_path: Path) -> None:
    body = "Oats\nMilk\nTwo pounds of honey\nSalt\n"
    assert read(tmp_path, "a.txt", body).split("\n") == ["Oats", "Milk", "Two pounds of honey", "Salt"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    assert (
        read(tmp_path, "a.txt", "Größe und Maß, “quoted” – naïve".encode(encoding)) == "Größe und Maß, “quoted” – naïve"
    )


SAMPLES = {
    "Управляющим был назначен Пётр Лаврентьев. Старый причал закрыт.": ("cp1251", "koi8_r", "cp866", "utf-16-le"),
    "Ключ зберігає Їжакевич Євген у портовій конторі.": ("cp1251", "koi8_u"),
    "Zarządcą został Łukasz Śliwiński, klucz leży w szufladzie.": ("cp1250", "iso8859_2"),
    "Správcem byl jmenován Řehoř Dvořák, příští schůze je v úterý.": ("cp1250", "iso8859_2"),
    "Az őr neve Kovács Győző, a kulcsot a kikötőben őrzik.": ("cp1250", "iso8859_2"),
    "Anahtarı İbrahim Şahin saklıyor, liman sabah sekizde açılır.": ("cp1254",),
    "Το κλειδί φυλάσσεται από τον Γιώργο Παπαδόπουλο στο λιμάνι.": ("cp1253", "utf-16-be"),
    "המפתח נשמר אצל דוד לוי במשרד הנמל.": ("cp1255",),
    "المفتاح محفوظ عند أحمد في مكتب الميناء.": ("cp1256",),
    "กุญแจเก็บไว้ที่สำนักงานท่าเรือโดยนายสมชาย": ("cp874",),
    "鍵は山田さんが保管しています。港の倉庫は朝八時に開きます。": ("shift_jis", "euc_jp", "iso2022_jp"),
    "钥匙由王小明保管。港口仓库早上八点开门。": ("gb18030", "utf-16-le", "utf-16-be"),
    "鑰匙由王小明保管。港口倉庫早上八點開門。": ("big5",),
    "열쇠는 김 과장이 보관합니다. 항구 창고는 아침 여덟 시에 엽니다.": ("euc_kr", "cp949"),
    "La clé est gardée par Hélène Lefèvre à la mairie, près du château.": ("cp1252", "mac_roman", "cp850"),
}


@pytest.mark.parametrize(
    ("text", "encoding"), [(text, encoding) for text, encodings in SAMPLES.items() for encoding in encodings]
)
def test_an_encoding_without_a_mark_is_told_from_its_letters(text: str, encoding: str) -> None:
    """Bytes of any encoding are letters of Windows-1252, which no question would find."""
    found = decode(f"{text}\n".encode(encoding))
    assert found is not None and found.text == f"{text}\n"


@pytest.mark.parametrize("cut", [b"\xc3", b"\xe2\x82", b"caf\xe9 au lait"])
def test_a_broken_byte_costs_one_sign(cut: bytes) -> None:
    """Logs and copies end inside a letter; read as Windows-1252 each José would become JosÃ©."""
    text = "José Müller keeps the brewery of Zürich.\n" * 3
    found = decode(text.encode() + cut)
    assert found is not None and found.text.startswith(text) and found.text.count("\ufffd") == 1


def test_line_ends_of_all_kinds_end_lines(tmp_path: Path) -> None:
    lines = ["The dam broke in 1931.", "It was rebuilt in 1933.", "It holds.", "It is old.", "It is ours."]
    assert read(tmp_path, "a.txt", "\x85".join(lines[:2]) + "\u2028" + "\u2029".join(lines[2:4]) + "\r" + lines[4]) == (
        "\n".join(lines)
    )


def test_zero_bytes_are_dropped_and_binary_data_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", b"The treasurer is Ada Moor.\x00\n\x00The fee is 40 crowns.") == (
        "The treasurer is Ada Moor.\nThe fee is 40 crowns."
    )
    with pytest.raises(DocumentError, match="binary data"):
        read(tmp_path, "b.txt", bytes(range(256)) * 9)


def test_a_guessed_encoding_is_told_and_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Управляющим был назначен Пётр.".encode("cp1251"))
    document = read_document(path)
    assert document.encoding == "cp1251" and "Windows-1251" in document.notes[0]
    chosen = read_document(path, encoding="koi8_r")
    assert (chosen.encoding, chosen.notes) == ("koi8_r", ()) and chosen.text != document.text
    with pytest.raises(DocumentError, match="no encoding called"):
        read_document(path, encoding="klingon")


def test_form_feeds_divide_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"{RIVER}\n\f{HONEY}\n")
    document = read_document(path)
    assert [document.text[p.start : p.stop].strip() for p in document.pages] == [RIVER, HONEY]


MARKDOWN = """
# Of *rivers* and `bees`

The **river** rises in the [northern hills](https://example.org "hills") and
crosses three provinces. ![A barge](barge.png)

| Year | Honey (kg) |
|------|-----------:|
| 2010 | 417        |
| 2011 | 39         |

- first item
- second item that
  runs on

> Quoted words

```python
x = [1, 2]
y = x * 2
```
---
"""


def test_markdown_reads_as_people_see_it(tmp_path: Path) -> None:
    assert read(tmp_path, "a.md", MARKDOWN).split("\n") == [
        "Of rivers and bees",
        "The river rises in the northern hills and crosses three provinces. A barge",
        "Year Honey (kg)",
        "2010 417",
        "2011 39",
        "- first item",
        "- second item that runs on",
        "Quoted words",
        "x = [1, 2]",
        "y = x * 2",
    ]


def test_markdown_headings_are_known(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(MARKDOWN)
    assert read_document(path).headings == ((0, "Of rivers and bees"),)


def test_markdown_sections_hold_the_headings_and_table_heads_above_them(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(
        "# Book\n\nAn opening.\n\n## Traps\n\nA trap.\n\n| Name | Cost |\n|--|--|\n| Gull | 7 |\n\n# End\n\nBye.\n"
    )
    document = read_document(path)

    def title(words: str) -> str:
        at = document.text.index(words)
        return next(s.title for s in document.sections if s.start <= at < s.stop)

    assert (title("An opening"), title("Gull 7"), title("Bye")) == ("Book", "Book › Traps › Name Cost", "End")


@pytest.mark.parametrize(
    ("markdown", "seen"),
    [
        ("Use ```make all``` to build.\n\n# Next", "Use make all to build.\nNext"),
        ("`__init__.py` and `**kwargs` are \\*important\\*", "__init__.py and **kwargs are *important*"),
        ("cat a | grep b | wc -l", "cat a | grep b | wc -l"),
        ("`<|assistant|>` or a || b", "<|assistant|> or a || b"),
        ("    a = b | c\n    d = 1", "a = b | c\nd = 1"),
        ("---\ntitle: Of bees\n---\nText", "title: Of bees\nText"),
        ("a <b>bold</b> word<!-- no --> here", "a bold word here"),
        ("<table><tr><td>One</td></tr><tr><td>Two</td></tr></table>", "One\nTwo"),
        ("![barge](b.png) and [link][1]\n\n[1]: http://example.org", "barge and link"),
        ("naïve `echo`", "naïve echo"),
    ],
)
def test_what_markdown_marks(tmp_path: Path, markdown: str, seen: str) -> None:
    assert read(tmp_path, "a.md", markdown) == seen


@pytest.mark.parametrize("unit", ["[", "![", "<!--", "*a ", "`", "`a", "> ", "- ", "_a**b", "](", "[a](", "<a b=", "<"])
def test_markdown_takes_time_in_proportion_to_its_length(unit: str) -> None:
    """80 KB of unclosed marks took 12 s in patterns, during which no other thread ran; a megabyte an hour."""
    started = time.process_time()
    read_markdown(unit * (100_000 // len(unit)), "a.md", "0" * 64)
    read_markdown((unit * (10_000 // len(unit)) + "\n\n") * 10, "a.md", "0" * 64)
    assert time.process_time() - started < 6


def test_a_text_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", -1000.0)
    with pytest.raises(DocumentError, match="took longer"):
        read(tmp_path, "a.md", MARKDOWN)


def test_a_text_file_is_not_read_as_markdown(tmp_path: Path) -> None:
    assert (
        read(tmp_path, "a.txt", "Give it *five* stars and [sic] | or less")
        == "Give it *five* stars and [sic] | or less"
    )
