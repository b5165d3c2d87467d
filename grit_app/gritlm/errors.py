"""Errors that a person may read. Each message says what happened and what to do next.

GritError
├── ModelError      a model cannot be found, does not fit, or is not usable as asked
├── InputError      a text, a number or a set of messages cannot be used
├── Busy            too many requests are under way
└── Cancelled       the caller's cancel event was set; nothing is wrong
"""


class GritError(Exception):
    """Root of every error whose message is a sentence for a person."""


class ModelError(GritError):
    """A model cannot be found, does not fit into memory, or cannot do what was asked of it."""


class InputError(GritError):
    """A text, number or list of messages that the model cannot work with."""


class Cancelled(GritError):
    """The caller asked to stop. Work done so far is dropped or kept as the function's docstring says."""


class Busy(GritError):
    """As many requests are under way as the settings allow. Nothing is wrong: try again a little later."""
