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
    for words in ("the second", "the third"):
        send(page, words)
        expect(page.locator("#chat-box textarea")).to_have_value("")  # at once, not by the server's reply
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
    said = page.locator("#chat [data-testid=user], #chat [data-testid=bot]")
    before = said.all_inner_texts()
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
    assert said.all_inner_texts() == before and page.locator("#chat .error").count() == 0
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


def test_conversations_are_kept_found_renamed_exported_and_deleted(open_page: OpenPage) -> None:
    page = open_page()
    for words in ("Bees & honey", "The tides"):
        send(page, words)
        wait_for(page.locator("#chat-stop"))
        page.wait_for_timeout(300)
        page.locator("#chat-stop").click()
        settled(page)
        page.locator("#chat-talks [data-act=fresh]").click()
        expect(page.locator("#chat [data-testid=user]")).to_have_count(0)
    page.locator("#chat-talks summary").click()
    expect(page.locator("#chat-talks .talk-name")).to_have_text(["The tides", "Bees & honey"])
    page.locator("#chat-talks [data-search]").fill("Bees &")
    expect(page.locator("#chat-talks .talk-name")).to_have_text(["Bees & honey"])
    page.locator("#chat-talks [data-act=rename]").click()
    page.get_by_label("New name").fill("Insects")
    page.get_by_label("New name").press("Enter")
    expect(page.locator("#chat-talks .talk-name")).to_have_text(["Insects"])
    with page.expect_download() as saved:
        page.locator("#chat-talks [data-act=markdown]").click()
    text = saved.value.path().read_text(encoding="utf-8")
    assert text.startswith("# Insects") and "Bees & honey" in text and "<div" not in text
    page.locator("#chat-talks .talk-name").click()
    expect(page.locator("#chat [data-testid=user]")).to_have_text(["Bees & honey"])

    page.locator("#chat-talks summary").click()
    page.get_by_role("button", name="Retry").last.click()
    wait_for(page.locator("#chat-stop"))
    page.wait_for_timeout(300)
    page.locator("#chat-stop").click()
    wait_for(page.get_by_text("version 2 of 2"))
    settled(page)
    page.get_by_role("button", name="Version before").click()
    wait_for(page.get_by_text("version 1 of 2"))
    page.reload()
    wait_for(page.get_by_text("version 1 of 2"))
    expect(page.locator("#chat [data-testid=user]")).to_have_text(["Bees & honey"])
    page.locator("#chat-talks summary").click()
    page.locator("#chat-talks li.open [data-act=delete]").click()
    expect(page.locator("#chat [data-testid=user]")).to_have_count(0)
    page.get_by_role("button", name="Undo: Insects").click()
    expect(page.locator("#chat-talks .talk-name")).to_have_count(2)


def test_answers_over_documents_survive_a_reload_with_their_sources(open_page: OpenPage) -> None:
    page = open_page(width=1440)
    open_tab(page, "Document Q&A")
    add(page, SAMPLE)
    wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))
    expect(page.locator("#upload")).to_be_hidden()  # folded away once there is a document
    ask(page, "How many terabytes would the caches of all passages take?")
    wait_for(page.locator("#answers a[href^='#cite-']").first)
    wide = page.evaluate(
        "[...document.querySelectorAll('#sources .card')].map((card) => card.getBoundingClientRect().right)"
    )
    edge = page.evaluate("document.querySelector('#sources-column').getBoundingClientRect().right")
    assert wide and max(wide) <= edge
    expect(page.locator("#answer-stop")).to_be_hidden()
    page.reload()
    open_tab(page, "Document Q&A")
    expect(page.locator("#answers [data-testid=user]")).to_have_count(1)
    wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))
    page.locator("#answers a[href^='#cite-']").first.click()
    wait_for(page.locator("#sources .card.chosen"))
    page.locator("#page-picture [data-view]").first.click()
    wait_for(page.locator("#page-view[open] .box, #page-view[open] img").first)
    expect(page.locator("#page-view")).to_contain_text("source 1 of")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#page-view")).to_contain_text("source 2 of")
    page.keyboard.press("Escape")
    expect(page.locator("#page-view[open]")).to_have_count(0)
    page.keyboard.press("?")
    wait_for(page.locator("#key-list[open]").get_by_text("to the question box"))


def test_on_a_phone_a_citation_opens_the_page_as_a_sheet(open_page: OpenPage) -> None:
    page = open_page(width=390)
    open_tab(page, "Document Q&A")
    add(page, SAMPLE)
    wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))
    ask(page, "How many terabytes would the caches of all passages take?")
    citation = page.locator("#answers a[href^='#cite-']").first
    wait_for(citation)
    expect(page.locator("#page-view[open]")).to_have_count(0)
    citation.click()
    expect(page.locator("#page-view[open] .sheet")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator("#page-view[open]")).to_have_count(0)
    page.locator("#answers a[href^='#cite-']").first.click()  # it is chosen already: nothing of the page changes
    expect(page.locator("#page-view[open] .sheet")).to_be_in_viewport()
