"""What is chosen and what is too much, in a real browser; and what must be in sight on small windows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.ui.steps import SAMPLE, WAIT_MS, OpenPage, add, ask, file_row, open_tab, wait_for

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("tab", "box", "said"), [("Chat", "chat-box", "chat"), ("Document Q&A", "question", "answers")]
)
def test_a_text_too_long_for_the_model_is_a_sentence_and_stays(
    open_page: OpenPage, tab: str, box: str, said: str
) -> None:
    """A book that is pasted was embedded first, for half a minute without a word."""
    page = open_page()
    open_tab(page, tab)
    if tab == "Document Q&A":
        add(page, SAMPLE)
        wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))
    pasted = "Which strategy is exact? " * 1500
    page.locator(f"#{box} textarea").fill(pasted)
    page.locator(f"#{box} textarea").press("Enter")
    expect(page.get_by_test_id("toast-body")).to_contain_text("Shorten it")
    expect(page.locator(f"#{box} textarea")).to_have_value(pasted)
    expect(page.locator(f"#{said} [data-testid=user]")).to_have_count(0)
    expect(page.locator("button.stop-button:visible")).to_have_count(0)


def test_another_length_of_passages_is_chosen_on_the_page(open_page: OpenPage) -> None:
    page = open_page()
    open_tab(page, "Document Q&A")
    add(page, SAMPLE)
    row = file_row(page, "field_guide.pdf")
    wait_for(row.locator(".chip.ready"))
    before = int(re.search(r"(\d+) passages", row.inner_text())[1])
    ask(page, "Which strategy is exact?")
    wait_for(page.locator("#answers .stats"))
    page.locator("#answer-settings button").first.click()
    page.locator("#passage-length input[type=number]").fill("60")
    page.locator("#passage-length input[type=number]").press("Tab")
    page.locator("#cut-anew").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("passages of up to 60 tokens", timeout=WAIT_MS)
    expect(row.locator(".detail")).to_contain_text(re.compile(r"\d+ passages"))
    assert int(re.search(r"(\d+) passages", row.inner_text())[1]) > 2 * before
    ask(page, "Which strategy is exact?")
    expect(page.locator("#answers .stats")).to_have_count(2, timeout=WAIT_MS)

    page.reload()
    open_tab(page, "Document Q&A")
    wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))
    page.locator("#answer-settings button").first.click()
    expect(page.locator("#passage-length input[type=number]")).to_have_value("60")


def test_on_a_phone_everything_has_its_place(open_page: OpenPage, tmp_path: Path) -> None:
    """The list of documents lay over the conversation, and the box to write in was below the window."""
    page = open_page(width=390)
    box = page.locator("#chat-box textarea").bounding_box()
    assert box["y"] + box["height"] <= 860, "the box is in sight"
    open_tab(page, "Document Q&A")
    for number in range(8):
        (tmp_path / f"{number}.md").write_text(f"# Mill {number}\n\nThe mill stands by the river. ", encoding="utf-8")
    add(page, *(tmp_path / f"{number}.md" for number in range(8)))
    expect(page.locator("#files li.ready")).to_have_count(8, timeout=2 * WAIT_MS)
    files, list_of_them = page.locator("#files"), page.locator("#files ul.files")
    assert list_of_them.bounding_box()["height"] > files.bounding_box()["height"], "there is something to scroll"
    assert files.evaluate("node => getComputedStyle(node).overflowY") == "auto"
    bottom = files.bounding_box()["y"] + files.bounding_box()["height"]
    assert bottom <= page.locator("#documents-talks").bounding_box()["y"]


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_the_head_of_the_page_is_one_line_of_title_and_no_more(open_page: OpenPage, width: int) -> None:
    """The button for the keys stood in a line of its own at 1024 px."""
    page = open_page(width=width)
    title, keys = page.locator(".page-head h1").bounding_box(), page.locator("#show-keys").bounding_box()
    assert title["y"] <= keys["y"] + keys["height"] / 2 <= title["y"] + title["height"]
    badge = page.locator("#status .badge-part:visible")
    lines = {round(part.bounding_box()["y"]) for part in badge.all()}
    assert len(lines) <= (2 if width == 1024 else 1)
