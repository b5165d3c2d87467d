"""The tree of user-facing errors; see also `grit_app.gritlm.errors`, whose classes it re-exports.

GritError
├── ModelError, InputError, Busy, Cancelled     raised by the model
├── SettingsError                         a flag, variable or setting has a value that cannot be used
└── DocumentError                         a file cannot be read or kept; names the file
    ├── PasswordNeeded                    encrypted, and no (or a wrong) password was given
    ├── EncodingNeeded                    a text file's encoding cannot be told, or is not the one that was chosen
    └── NoTextFound                       scanned or empty: there is no text to index
"""

from grit_app.gritlm.errors import Busy, Cancelled, GritError, InputError, ModelError

__all__ = [
    "Busy",
    "Cancelled",
    "DocumentError",
    "EncodingNeeded",
    "GritError",
    "InputError",
    "ModelError",
    "NoTextFound",
    "PasswordNeeded",
    "SettingsError",
]


class SettingsError(GritError):
    """A flag, environment variable or setting has a value that cannot be used."""


class DocumentError(GritError):
    """A file cannot be read or kept. The message names the file."""


class PasswordNeeded(DocumentError):
    """The file is encrypted and no password, or a wrong one, was given."""


class EncodingNeeded(DocumentError):
    """The encoding of a text file cannot be told, or the file is not written in the one that was chosen."""


class NoTextFound(DocumentError):
    """The file opens but holds no text: scanned pictures, or nothing at all.

    scanned   pages that are pictures, which OCR may read
    """

    def __init__(self, message: str, scanned: int = 0) -> None:
        super().__init__(message)
        self.scanned = scanned
