"""From one thing on the page to the next, in a real browser: an answer to its race, a document to its passages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.ui.steps import SAMPLE, WAIT_MS, OpenPage, add, ask, file_row, open_tab, wait_for

pytestmark = pytest.mark.browser

QUESTION = "How many terabytes would the caches of all passages take?"


def with_sample(page: Page) -> None:
    open_tab(page, "Document Q&A")
    add(page, SAMPLE)
    wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))


def test_an_answer_s_question_is_raced_over_its_own_document(open_page: OpenPage) -> None:
    """From the answer to the Caching tab: full prefill of that very question beside the cached one."""
    page = open_page()
    with_sample(page)
    ask(page, QUESTION)
    wait_for(page.locator("#answers a[href^='#cite-']").first)
    page.locator("#answers .stats summary").first.click()
    page.locator("#answers a[href^='#race-']").first.click()
    expect(page.locator("#race-question textarea, #race-question input").first).to_have_value(QUESTION)
    expect(page.locator("#race-document input")).to_have_value("field_guide.pdf")
    expect(page.locator("#race-begins")).to_contain_text("It begins")
    expect(page.locator("#race .race-note")).to_contain_text("Document: ", timeout=WAIT_MS)
    full, cached = (page.locator("#race .lane").nth(number) for number in (0, 1))
    expect(full).to_contain_text("nothing from a cache")
    expect(cached).to_contain_text(re.compile(r"[1-9][\d,]* tokens from the cache"))
    read = [int(re.search(r"([\d,]+) tokens read", lane.inner_text())[1].replace(",", "")) for lane in (full, cached)]
    assert read[0] > 10 * read[1], "the full lane reads the document, the cached one the question"
    expect(page.locator("#race-start")).to_be_enabled()

    page.locator("#race-question textarea, #race-question input").first.fill(" ")
    page.locator("#race-start").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("A race needs a question")
    expect(page.locator("#race .race-note")).to_contain_text("Document: ")  # the race before is shown again
    expect(page.locator("#race-start")).to_be_enabled()


def test_a_document_s_passages_are_a_click_away_and_can_be_saved(open_page: OpenPage, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    bees = "# Bees\n\n" + "Bees make honey from nectar and keep it in combs of wax. " * 10
    (folder / "bees.md").write_text(bees, encoding="utf-8")
    (folder / "picture.bin").write_bytes(b"\0\1")
    page = open_page()
    with_sample(page)
    page.locator("#add-more").click()
    page.locator("input[webkitdirectory]").set_input_files(str(folder))
    wait_for(file_row(page, "bees.md").locator(".chip.ready"))
    expect(page.locator("#files li.file")).to_have_count(2)  # what no one can read here is left out

    file_row(page, "field_guide.pdf").locator("button.name").click()
    expect(page.locator("#sources")).to_contain_text("tokens · added on")
    page.locator("#sources .card-head").nth(1).click()
    wait_for(page.locator("#page-picture .box").first)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as JSON").click()
    passages = json.loads(saved.value.path().read_text(encoding="utf-8"))["passages"]
    assert len(passages) == page.locator("#sources .card").count()

    page.locator("[data-every=none]").click()
    ask(page, QUESTION)
    wait_for(page.get_by_text("There is nothing to search"))
    page.locator("[data-every=all]").click()
    ask(page, "Which strategy is exact?")
    wait_for(page.locator("#answers a[href='#ask-next']").first)
    next_question = page.locator("#answers a[href='#ask-next']").first.inner_text()
    page.locator("#question textarea").fill("half a question")
    page.locator("#answers a[href='#ask-next']").first.click()
    expect(page.locator("#answers [data-testid=user]").last).to_have_text(next_question)
    expect(page.locator("#question textarea")).to_have_value("half a question")
    expect(page.locator("#answers .stats")).to_have_count(3, timeout=WAIT_MS)


def test_a_link_brings_back_a_comparison(open_page: OpenPage) -> None:
    """Behind the # of the address, which never reaches the server."""
    page = open_page()
    open_tab(page, "Similarity")
    expect(page.locator("#ranking-a .ranking li")).to_have_count(6, timeout=WAIT_MS)
    page.locator("#similarity-query textarea").fill("deep water")
    page.locator("#similarity-texts textarea").fill("one river\ntwo rivers & more")
    page.locator("#similarity-link").click()
    wait_for(page.locator("#link-told").get_by_text("link"))
    address = page.evaluate("location.hash")
    other = open_page(fragment=address)
    expect(other.locator("#similarity-query textarea")).to_have_value("deep water")
    expect(other.locator("#ranking-a .ranking li")).to_have_count(2, timeout=WAIT_MS)
    expect(other.locator("#ranking-a")).to_contain_text("two rivers & more")


def test_charts_fit_the_window_that_changed_while_their_tab_was_hidden(open_page: OpenPage) -> None:
    """Right parts of heatmap and map were cut off after a turn of a tablet."""
    page = open_page(width=1440)
    open_tab(page, "Similarity")
    wait_for(page.locator("#pairs .main-svg").first)
    open_tab(page, "Chat")
    page.set_viewport_size({"width": 1024, "height": 860})
    open_tab(page, "Similarity")
    page.wait_for_function(
        """() => ['pairs', 'map'].every((name) => {
          const chart = document.querySelector(`#${name} .js-plotly-plot`);
          return chart && Math.abs(chart.querySelector('.main-svg').clientWidth - chart.clientWidth) <= 1;
        })"""
    )
    assert page.locator("#pairs .js-plotly-plot").evaluate("node => node.clientWidth") < 500
