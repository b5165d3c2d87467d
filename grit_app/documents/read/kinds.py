"""Names of the files that can be read, without the libraries that read them."""

from typing import Final

OFFICE_SUFFIXES: Final = frozenset({".docx", ".pptx", ".xlsx", ".epub", ".html", ".htm", ".eml"})
KINDS: Final = (".pdf", ".txt", ".md", ".docx", ".pptx", ".xlsx", ".csv", ".html", ".epub", ".eml")
"""As people are told; .htm, .tsv, .log, .rst and names without an ending are read, too."""
