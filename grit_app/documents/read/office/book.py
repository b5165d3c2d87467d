"""Books (.epub): a page for each part of the text, in the order of reading."""

import io
import posixpath
import urllib.parse
import zipfile
from typing import Any

from lxml import etree

from grit_app.documents.read.office.html import html_text, read_html
from grit_app.documents.read.text.plain import TextLine

_OPF = "{http://www.idpf.org/2007/opf}"


def read_book(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """Raises whatever zipfile and lxml raise for a file that is none."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        container = _xml(archive.read("META-INF/container.xml"))
        path = container.find(".//{*}rootfile").get("full-path")
        package = _xml(archive.read(path))
        names = {item.get("id"): item.get("href") for item in package.iter(f"{_OPF}item")}
        pages: list[tuple[str, list[TextLine]]] = []
        for entry in package.iter(f"{_OPF}itemref"):
            name = posixpath.normpath(
                posixpath.join(posixpath.dirname(path), urllib.parse.unquote(names[entry.get("idref")]))
            )
            pages.append((str(len(pages) + 1), read_html(html_text(archive.read(name)))))
        return pages


def _xml(data: bytes) -> Any:
    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))
