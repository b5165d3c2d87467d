"""Books (.epub): a page for each part of the text, in the order of reading."""

import io
import posixpath
import urllib.parse
import zipfile
from typing import Any

from lxml import etree

from grit_app.documents.read.office.html import html_text, read_html
from grit_app.documents.read.text.plain import TextLine

_TEXT = {"", "application/xhtml+xml", "text/html", "application/xml", "text/xml", "application/x-dtbook+xml"}


def read_book(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """Pictures between the parts, and parts that the file lacks, are left out.

    Raises whatever zipfile and lxml raise for a file that is none.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        container = _xml(archive.read("META-INF/container.xml"))
        entries = {_plain(name): name for name in archive.namelist()}
        path = _plain(container.find(".//{*}rootfile").get("full-path"))
        package = _xml(archive.read(entries[path]))
        items = {item.get("id"): item for item in package.iter("{*}item")}
        pages: list[tuple[str, list[TextLine]]] = []
        for entry in package.iter("{*}itemref"):
            item = items.get(entry.get("idref"))
            if item is None or (item.get("media-type") or "") not in _TEXT:
                continue
            place = urllib.parse.unquote((item.get("href") or "").partition("#")[0]).replace("\\", "/")
            name = entries.get(_plain(place if place.startswith("/") else f"{posixpath.dirname(path)}/{place}"))
            if name is not None:
                pages.append((str(len(pages) + 1), read_html(html_text(archive.read(name)))))
        return pages


def _plain(name: str) -> str:
    """A path inside the archive as writers mean it, whatever its case and its first slash."""
    return posixpath.normpath("/" + name.replace("\\", "/")).lstrip("/").casefold()


def _xml(data: bytes) -> Any:
    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))
