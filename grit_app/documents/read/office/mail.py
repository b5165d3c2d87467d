"""Mails (.eml), read by Python's own parser."""

import email
import email.policy
import re
from email.message import EmailMessage, MIMEPart
from typing import Final

from grit_app.documents.read.office.html import html_text, read_html, text_of
from grit_app.documents.read.text.plain import TextLine, text_lines

MAX_DEPTH: Final = 5
"""Of mails inside mails."""
_FLOWED: Final = re.compile(r"(?m)(?<=\S)(?<!^--) +\n(?![>\s])")  # a line that goes on, RFC 3676


def read_mail(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """One page: subject, sender, receivers and date, text, attached mails, and the names of other files attached."""
    message = email.message_from_bytes(data, _class=EmailMessage, policy=email.policy.default)
    return [("1", _lines(message, 1))]


def _lines(message: EmailMessage, depth: int) -> list[TextLine]:
    lines = [TextLine(str(message["subject"] or "Mail").strip(), depth)]
    lines += [TextLine(f"{name}: {message[name]}") for name in ("From", "To", "Cc", "Date") if message[name]]
    body = message.get_body(("plain", "html"))
    if body is not None:
        lines += _body(body)
    for part in message.iter_attachments() if message.is_multipart() else ():
        inner = part.get_payload(0) if part.get_content_type() == "message/rfc822" and part.is_multipart() else None
        if isinstance(inner, EmailMessage) and depth < MAX_DEPTH:
            lines += _lines(inner, depth + 1)
        elif part.get_filename():
            lines.append(TextLine(f"Attached: {part.get_filename()}"))
    return lines


def _body(part: MIMEPart) -> list[TextLine]:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)  # a body is no container
    if not data.strip():
        return []
    charset = part.get_content_charset() or ""
    if part.get_content_subtype() == "html":
        return read_html(text_of(data, charset) if charset else html_text(data))
    text = text_of(data, charset)
    if str(part.get_param("format", "")).casefold() == "flowed":
        text = _FLOWED.sub(" ", text)
    return text_lines(text)
