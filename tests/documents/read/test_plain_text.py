"""Text and Markdown files."""

from __future__ import annotations

from pathlib import Path

import pytest

from grit_app.documents.read.reading import read_document
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


def test_a_text_file_is_not_read_as_markdown(tmp_path: Path) -> None:
    assert (
        read(tmp_path, "a.txt", "Give it *five* stars and [sic] | or less")
        == "Give it *five* stars and [sic] | or less"
    )
