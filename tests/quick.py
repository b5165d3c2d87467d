"""Which tests are quick, and which come first: rules over files, so that nobody marks fifteen hundred tests by hand.

Quick tests check formulas, formats and tiny models in this process. Whatever starts processes, servers, browsers or
whole training runs is left to the whole suite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent

SLOW: Final = (
    "adversary",
    "benchmark/measure",
    "benchmark/show",
    "deploy/test_package.py",
    "documents",
    "gpu",
    "gritlm/cache/test_buffers.py",
    "gritlm/embed/test_attention.py",
    "gritlm/embed/test_encode.py",
    "gritlm/load",
    "gritlm/test_scheduler.py",
    "gritlm/write/test_grouped_attention.py",
    "gritlm/write/test_quote.py",
    "gritlm/write/test_threads.py",
    "rag",
    "serve",
    "test_ask.py",
    "test_ci.py",
    "test_code_style.py",
    "training",
    "ui",
)
"""Folders and files of slow tests, as paths under tests/."""

QUICK_WITHIN_SLOW: Final = (
    "training/data/test_order.py",
    "training/step/test_losses.py",
    "rag/test_citations.py",
)
"""Exceptions: the laws that a change of anything may break."""

LONGEST: Final = (
    "test_code_style.py",
    "training/step/test_distributed.py",
    "training/test_commands.py",
    "ui/test_page_browser.py",
    "ui/test_conversations_browser.py",
    "training/run/test_run.py",
    "training/test_evaluate.py",
    "training/lease",
    "training",
    "ui",
    "serve",
    "benchmark",
)
"""Files and folders of long tests, as paths under tests/, the longest first."""


def longest_first(path: Path) -> int:
    """The place of a file's tests in a run: small for long ones, the same for all others."""
    name = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    fits = (place for place, long in enumerate(LONGEST) if name == long or name.startswith(long + "/"))
    return next(fits, len(LONGEST))


def is_quick(path: Path) -> bool:
    """Whether the tests of a file are quick."""
    if not path.is_relative_to(TESTS):
        return False
    name = path.relative_to(TESTS).as_posix()
    return name in QUICK_WITHIN_SLOW or not any(name == slow or name.startswith(slow + "/") for slow in SLOW)


def has_quick(path: Path) -> bool:
    """Whether a file is quick, or a folder holds one that is."""
    if path.suffix == ".py":
        return is_quick(path)
    name = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) and path != TESTS else ""
    return not name or any(quick.startswith(name + "/") for quick in QUICK_WITHIN_SLOW) or is_quick(path / "test_.py")
