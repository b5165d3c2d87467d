"""Mails (.eml), read by Python's own parser."""

import email
import email.policy
from email.message import EmailMessage

from grit_app.documents.read.office.html import read_html
from grit_app.documents.read.text.plain import TextLine, text_lines


def read_mail(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """One page: subject, sender, receivers and date, the text, and the names of what is attached."""
    message = email.message_from_bytes(data, _class=EmailMessage, policy=email.policy.default)
    lines = [TextLine(str(message["subject"] or "Mail").strip(), 1)]
    lines += [TextLine(f"{name}: {message[name]}") for name in ("From", "To", "Cc", "Date") if message[name]]
    body = message.get_body(("plain", "html"))
    if body is not None:
        text = body.get_content()
        lines += read_html(text) if body.get_content_subtype() == "html" else text_lines(text)
    lines += [
        TextLine(f"Attached: {part.get_filename()}") for part in message.iter_attachments() if part.get_filename()
    ]
    return [("1", lines)]
