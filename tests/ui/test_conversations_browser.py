"""Conversations in a real browser: nothing that was sent is lost, and what was typed stands there as it was typed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.ui.steps import SAMPLE, OpenPage, add, ask, file_row, open_tab, send, wait_for

pytestmark = pytest.mark.browser

TYPED = "Total\n=====\n    four spaces\n<b>bold</b> $x^2$ *a* \\(y\\) (z) `c`"


def settled(page: Page) -> None:
    expect(page.locator("#chat-stop")).to_be_hidden()


def test_a_message_sent_while_another_is_answered_waits_and_can_be_taken_back(open_page: OpenPage) -> None:
    page = open_page()
    send(page, TYPED)
    wait_for(page.locator("#chat-stop"))
    send(page, "the second")
    send(page, "the third")
    expect(page.locator("#chat-waiting li")).to_have_count(2)
    page.locator("#chat-waiting li", has_text="the third").get_by_role("button").click()
    expect(page.locator("#chat-box textarea")).to_have_value("the third")
    expect(page.locator("#chat-waiting li")).to_have_count(1)
    page.locator("#chat-stop").click()
    expect(page.locator("#chat [data-testid=user]")).to_have_count(2)
    expect(page.locator("#chat-waiting li")).to_have_count(0)
    wait_for(page.locator("#chat .stats").filter(has_text="stopped by you").first)

    first = page.locator("#chat [data-testid=user]").first
    assert first.inner_text().replace("\u00a0", " ").strip() == TYPED
    assert first.locator("h1, h2, b, code, pre, .katex").count() == 0
    page.locator("#chat-stop").click()
    settled(page)
    page.locator("#chat .user-row").first.hover()
    page.get_by_role("button", name="Edit").first.click()
    expect(page.locator("#chat textarea.edit-textarea").first).to_have_value(TYPED)


def test_an_empty_message_and_a_wrong_seed_change_nothing(open_page: OpenPage) -> None:
    """A field's mistake is marked at the field before anything is sent."""
    page = open_page()
    send(page, "Tell me a story.")
    wait_for(page.locator("#chat-stop"))
    page.keyboard.press("Escape")
    settled(page)
    before = page.locator("#chat").inner_text()
    for words in ("", "   "):
        page.locator("#chat-box textarea").fill(words)
        page.locator("#chat-box textarea").press("Enter")
        page.locator("#chat-send").click()
    page.locator("#chat-settings button").first.click()
    page.get_by_label("Seed").fill("abc")
    wait_for(page.locator("#chat-seed-slip .slip"))
    page.locator("#chat-settings button").first.click()
    expect(page.locator("#chat-seed-slip .slip")).to_be_hidden()
    send(page, "not lost")
    wait_for(page.locator("#chat-seed-slip .slip"))
    expect(page.locator("#chat-box textarea")).to_have_value("not lost")
    expect(page.locator("#chat-send")).to_be_visible()
    assert page.locator("#chat").inner_text() == before and page.locator("#chat .error").count() == 0
    page.get_by_label("Seed").fill("7")
    expect(page.locator("#chat-seed-slip .slip")).to_have_count(0)
    page.locator("#chat-send").click()
    expect(page.locator("#chat [data-testid=user]")).to_have_count(2)
    page.locator("#chat-stop").click()


def test_a_question_about_documents_waits_too_and_comes_into_view(open_page: OpenPage) -> None:
    page = open_page()
    open_tab(page, "Document Q&A")
    add(page, SAMPLE)
    wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))
    questions = ("Which strategy is exact?", "What is a tail?", "How many terabytes would all caches take?")
    for question in questions:
        ask(page, question)
    page.locator("#ask").click()
    expect(page.locator("#answers [data-testid=user]")).to_have_count(3, timeout=60_000)
    expect(page.locator("#answers .stats")).to_have_count(3, timeout=60_000)
    shown = [text.strip() for text in page.locator("#answers [data-testid=user]").all_inner_texts()]
    assert shown == list(questions)
    assert not any("stopped" in words for words in page.locator("#answers .stats").all_inner_texts())
    log = page.locator("#answers [role=log]")
    log.evaluate("node => { node.scrollTop = 0; }")
    ask(page, "What is this about?")
    expect(page.locator("#answers [data-testid=user]").last).to_be_in_viewport(timeout=60_000)
    expect(page.locator("#answers .stats")).to_have_count(4, timeout=60_000)
    assert re.search("[1-9]", str(log.evaluate("node => node.scrollTop")))
