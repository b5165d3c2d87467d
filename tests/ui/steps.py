"""What the tests of the page do in a browser, in a visitor's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.ui.conftest import ROOT, WAIT_MS

SAMPLE = ROOT / "assets" / "samples" / "field_guide.pdf"
OpenPage = Callable[..., Page]


def open_tab(page: Page, name: str) -> None:
    """By its tab, or by the menu into which narrow pages fold it."""
    wait_for(page.get_by_role("tab").first)  # after a reload the page is empty for a moment
    tab = page.get_by_role("tab", name=name)
    if tab.first.is_visible():
        tab.first.click()
        return
    page.locator(".overflow-menu > button").click()
    page.locator(".overflow-dropdown button", has_text=name).click()


def add(page: Page, *paths: Path) -> None:
    page.locator("#upload input[type=file]").set_input_files([str(path) for path in paths])


def file_row(page: Page, name: str) -> Any:
    return page.locator("#files li.file", has_text=name)


def ask(page: Page, question: str) -> None:
    page.locator("#question textarea").fill(question)
    page.locator("#question textarea").press("Enter")
    expect(page.locator("#question textarea")).to_have_value("")


def wait_for(locator: Any) -> None:
    expect(locator).to_be_visible(timeout=WAIT_MS)


def send(page: Page, message: str) -> None:
    """A message in the chat."""
    page.locator("#chat-box textarea").fill(message)
    page.locator("#chat-box textarea").press("Enter")
