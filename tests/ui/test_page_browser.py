"""The page in a real browser: upload, ask, cited answer, stop, reload, isolation, wrong files, phone, dark.

Every test fails on an error in the browser's console and on any request that leaves the machine: the page must work
without a network. Without Chromium the tests are skipped; with GRIT_REQUIRE_BROWSER=1 that is a failure.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.ui.steps import SAMPLE, WAIT_MS, OpenPage, add, ask, file_row, open_tab, wait_for

pytestmark = pytest.mark.browser


def test_upload_ask_cite_and_a_second_visitor_sees_nothing_of_it(open_page: OpenPage, tmp_path: Path) -> None:
    mine = open_page()
    open_tab(mine, "Document Q&A")
    expect(mine.get_by_text("up to 1 MB and 10,000 pages each")).to_be_visible()
    add(mine, SAMPLE)
    wait_for(file_row(mine, "field_guide.pdf").locator(".chip.ready"))
    expect(file_row(mine, "field_guide.pdf")).to_contain_text("6 pages")
    expect(mine.locator("#meter")).to_contain_text(re.compile(r"KV caches: [1-9].* of 2.05 GB"))

    ask(mine, "How many terabytes would the caches of all passages of the encyclopedia index take?")
    wait_for(mine.locator("#answers .stats"))
    expect(mine.locator("#answers .stats")).to_contain_text("cached")
    citation = mine.locator("#answers a[href^='#cite-']").first
    wait_for(citation)
    wait_for(mine.locator("#sources .card.chosen"))
    quoted = mine.locator("#sources .card.cited mark").first.inner_text()
    expect(mine.locator("#answers")).to_contain_text(quoted.strip())
    mine.locator("#sources .card-head").nth(1).click()
    expect(mine.locator("#sources .card").nth(1)).to_have_class(re.compile("chosen"))
    citation.click()
    expect(mine.locator("#sources .card").first).to_have_class(re.compile("chosen"))
    wait_for(mine.locator("#page-picture .box").first)

    yours = open_page()
    open_tab(yours, "Document Q&A")
    wait_for(yours.get_by_text("No documents yet"))
    ask(yours, "How many terabytes would the caches of all passages of the encyclopedia index take?")
    wait_for(yours.get_by_text("There is nothing to search"))
    assert "field_guide" not in yours.content()

    mine.reload()
    open_tab(mine, "Document Q&A")
    wait_for(file_row(mine, "field_guide.pdf").locator(".chip.ready"))
    file_row(mine, "field_guide.pdf").get_by_role("button", name="Remove").click()
    file_row(mine, "field_guide.pdf").get_by_role("button", name="Undo").click()
    wait_for(file_row(mine, "field_guide.pdf").locator(".chip.ready"))
    file_row(mine, "field_guide.pdf").get_by_role("button", name="Remove").click()
    wait_for(file_row(mine, "field_guide.pdf").get_by_role("button", name="Undo"))
    ask(mine, "How many terabytes would the caches take?")  # a removed document is not searched while it can come back
    wait_for(mine.get_by_text("There is nothing to search"))
    wait_for(mine.get_by_text("No documents yet"))


def test_an_answer_streams_stops_frees_the_model_and_survives_a_reload(open_page: OpenPage) -> None:
    """Stop must free the model, not only hide the words: the next answer would wait behind a ghost."""
    page = open_page()
    page.keyboard.press("/")
    expect(page.locator("#chat-box textarea")).to_be_focused()
    page.locator("#chat-settings button").first.click()
    page.get_by_label("number input for Temperature").fill("0")
    page.get_by_label("number input for Temperature").press("Tab")
    expect(page.get_by_label("Seed")).to_have_value("")  # 0 would draw the same reply at every retry
    page.locator("#chat-box textarea").fill("Tell me a long story.")
    page.locator("#chat-box textarea").press("Enter")
    answer = page.locator("#chat [data-testid=bot]").last
    expect(answer).not_to_be_empty(timeout=WAIT_MS)
    early = answer.inner_text()
    page.wait_for_function(
        "n => document.querySelector('#chat [data-testid=bot]').innerText.length > n", arg=len(early)
    )
    page.keyboard.press("Escape")
    wait_for(page.locator("#chat .stats").filter(has_text="stopped by you"))
    expect(page.locator("#chat-send")).to_be_visible()

    page.locator("#chat-box textarea").fill("And now?")
    page.locator("#chat-send").click()
    second = page.locator("#chat .stats").nth(1)
    expect(page.locator("#chat [data-testid=user]")).to_have_count(2)
    page.wait_for_function(
        "() => { const said = document.querySelectorAll('#chat [data-testid=bot]');"
        " return said.length > 2 && said[said.length - 1].innerText.length > 20; }"
    )  # the first answer has two blocks, words and statistics; the third block is the second answer
    page.locator("#chat-stop").click()
    wait_for(second)
    expect(second).to_contain_text("cached")

    expect(page.locator("#chat-stop")).to_be_hidden()
    page.reload()
    expect(page.locator("#chat [data-testid=user]")).to_have_count(2, timeout=WAIT_MS)
    expect(page.locator("#chat .stats")).to_have_count(2)
    page.get_by_role("button", name="Undo").last.click()
    expect(page.locator("#chat [data-testid=user]")).to_have_count(1)
    expect(page.locator("#chat-box textarea")).to_have_value("And now?")


def test_a_starter_brings_its_documents_along(open_page: OpenPage) -> None:
    """On an empty library the questions that the page itself offers would otherwise find nothing."""
    page = open_page()
    open_tab(page, "Document Q&A")
    wait_for(page.get_by_text("No documents yet"))
    expect(page.locator("#clear-library")).to_be_hidden()
    page.locator("#answers").get_by_text("When is the harbour museum closed?").click()
    wait_for(page.locator("#answers .stats"))
    expect(page.locator("#files .chip.ready")).to_have_count(2)
    expect(page.locator("#clear-library")).to_be_visible()
    wait_for(page.locator("#sources .card").first)


def test_wrong_files_are_sentences_and_the_good_one_still_goes_in(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    open_tab(page, "Document Q&A")
    good, fake, empty, large = (tmp_path / name for name in ("good.md", "fake.pdf", "empty.txt", "large.txt"))
    good.write_text("# Bees\n\n" + "Bees make honey from nectar and keep it in combs of wax. " * 10, encoding="utf-8")
    fake.write_bytes(b"This is no PDF.")
    empty.write_text("", encoding="utf-8")
    large.write_text("x" * (1_100_000), encoding="utf-8")
    add(page, fake, empty, good)
    wait_for(file_row(page, "good.md").locator(".chip.ready"))
    for name in ("fake.pdf", "empty.txt"):
        wait_for(file_row(page, name).locator(".chip.failed"))
        assert name in file_row(page, name).locator(".detail").inner_text()
    file_row(page, "fake.pdf").get_by_role("button", name="Dismiss").click()
    expect(file_row(page, "fake.pdf")).to_have_count(0)
    wait_for(file_row(page, "empty.txt"))
    add(page, large)
    toast = page.get_by_test_id("toast-body")
    wait_for(toast.first)
    assert "Traceback" not in page.content()


def test_an_encrypted_file_asks_for_its_password(open_page: OpenPage, tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(SAMPLE))
    writer.encrypt("open sesame", algorithm="AES-256")
    locked = tmp_path / "locked.pdf"
    writer.write(locked)
    page = open_page()
    open_tab(page, "Document Q&A")
    add(page, locked)
    row = file_row(page, "locked.pdf")
    wait_for(row.locator(".chip.locked"))
    other = tmp_path / "other.md"
    other.write_text("# Bees\n\n" + "Bees make honey from nectar and keep it in combs of wax. " * 10, encoding="utf-8")
    row.locator("input[data-password]").fill("wrong")
    add(page, other)
    wait_for(file_row(page, "other.md").locator(".chip.ready"))
    expect(row.locator("input[data-password]")).to_have_value("wrong")  # the row outlives another upload
    row.get_by_role("button", name="Open it").click()
    expect(row.locator(".detail")).to_contain_text("password")
    wait_for(row.locator(".chip.locked"))
    row.locator("input[data-password]").fill("open sesame")
    row.locator("input[data-password]").press("Enter")
    wait_for(file_row(page, "locked.pdf").locator(".chip.ready"))
    expect(page.locator("input[data-password]")).to_have_count(0)


def test_a_wrongly_guessed_encoding_is_put_right_in_the_row(open_page: OpenPage, tmp_path: Path) -> None:
    """The letters of these two are too few to tell; what a person chooses is read, and what does not fit is not."""
    page = open_page()
    open_tab(page, "Document Q&A")
    files = {"walls.txt": ("Wall 7 is called ЙШЩ. ", "cp1251"), "plan.txt": ("Plan B is called 橘 巽. ", "cp932")}
    for name, (text, encoding) in files.items():
        (tmp_path / name).write_bytes((text * 20).encode(encoding))
    add(page, *(tmp_path / name for name in files))
    for name, (_, encoding) in files.items():
        row = file_row(page, name).filter(has=page.locator(".chip.ready"))  # beside it another one is at work
        wait_for(row)
        expect(row.locator(".detail")).to_contain_text("a guess from its letters")
        row.locator("select").select_option("utf-16-be" if encoding == "cp932" else "utf-8")
        row.get_by_role("button", name="Read again").click()
        if encoding == "cp1251":
            refused = file_row(page, name).filter(has=page.locator(".chip.failed"))
            expect(refused.locator(".detail")).to_contain_text("is not written in UTF-8", timeout=WAIT_MS)
            refused.get_by_role("button", name="Dismiss").click()
            expect(file_row(page, name)).to_have_count(1)
            expect(row.locator(".detail")).to_contain_text("a guess from its letters")  # the earlier reading
        else:
            expect(row.locator(".detail")).to_contain_text("read as UTF-16-be", timeout=WAIT_MS)
        row.locator("select").select_option(encoding)
        row.get_by_role("button", name="Read again").click()
        called = {"cp1251": "Windows-1251", "cp932": "Shift-JIS"}[encoding]
        expect(row.locator(".detail")).to_contain_text(f"read as {called}", timeout=WAIT_MS)
        expect(row.locator(".detail")).not_to_contain_text("guess")
    ask(page, "What is wall 7 called?")
    wait_for(page.locator("#answers .stats"))
    expect(page.locator("#sources")).to_contain_text("ЙШЩ")


def test_a_chosen_encoding_outlives_the_next_picture_of_the_table(open_page: OpenPage, tmp_path: Path) -> None:
    """The table is drawn anew whenever another file moves on; a choice made meanwhile was lost."""
    page = open_page()
    open_tab(page, "Document Q&A")
    (tmp_path / "walls.txt").write_bytes(("Wall 7 is called ЙШЩ. " * 20).encode("cp1251"))
    (tmp_path / "other.txt").write_text("The mill stands by the river. " * 20, encoding="utf-8")
    add(page, tmp_path / "walls.txt")
    row = file_row(page, "walls.txt").filter(has=page.locator(".chip.ready"))
    wait_for(row)
    row.locator("select").select_option("cp1251")
    add(page, tmp_path / "other.txt")
    wait_for(file_row(page, "other.txt").filter(has=page.locator(".chip.ready")))
    expect(row.locator("select")).to_have_value("cp1251")


def test_text_of_documents_cannot_run_code_in_the_page(open_page: OpenPage, tmp_path: Path) -> None:
    """A document's name and words pass through HTML, templates and Markdown on their way to the page."""
    page = open_page()
    open_tab(page, "Document Q&A")
    attack = "<img src=x onerror='window.hacked=1'> ${window.hacked=2} {{constructor}} <script>window.hacked=3</script>"
    evil = tmp_path / "evil & <b>name.txt"
    evil.write_text(f"The secret number of the house is 4711 {attack}. " * 3, encoding="utf-8")
    add(page, evil)
    wait_for(page.locator("#files .chip.ready"))
    ask(page, "What is the secret number of the house?")
    wait_for(page.locator("#answers .stats"))
    wait_for(page.locator("#sources .card").first)
    expect(page.locator("#sources .card p").first).to_contain_text("onerror='window.hacked=1'")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#files b, #sources img[src=x], #answers img[src=x]").count() == 0


def test_similarity_shows_an_example_compares_and_saves_csv(open_page: OpenPage) -> None:
    page = open_page()
    open_tab(page, "Similarity")
    expect(page.locator("#ranking-a .ranking li")).to_have_count(6, timeout=WAIT_MS)
    expect(page.locator("#ranking-b .ranking li")).to_have_count(6)
    wait_for(page.locator("#moved").get_by_text("ranks"))
    page.locator("#ranking-a [data-near='2']").click()
    expect(page.locator("#near .near-list li")).to_have_count(6)  # five other texts and the query
    page.get_by_label("Plot or praise").check()
    expect(page.locator("#similarity-query textarea")).to_have_value("The film was brilliant, I loved every minute.")
    expect(page.locator("#ranking-a")).to_contain_text("soup", timeout=WAIT_MS)
    expect(page.locator("#similarity-count")).to_contain_text("6 of at most 1,000 lines")
    wait_for(page.locator("#pairs .js-plotly-plot .heatmaplayer image, #pairs .js-plotly-plot .hm").first)
    wait_for(page.locator("#map .js-plotly-plot .scatterlayer").first)
    page.locator("#similarity-texts textarea").fill("one river\ntwo rivers\n=three()")
    page.locator("#compare").click()
    expect(page.locator("#ranking-a .ranking li")).to_have_count(3, timeout=WAIT_MS)
    page.locator("#similarity-texts textarea").fill("")
    page.locator("#compare").click()
    wait_for(page.get_by_test_id("toast-body"))
    expect(page.locator("#ranking-a .ranking li")).to_have_count(3)  # a slip wipes nothing
    assert page.locator("#ranking-a .error, #pairs .error").count() == 0
    with page.expect_download() as saved:
        page.locator("#similarity-csv").click()
    content = saved.value.path().read_text(encoding="utf-8").splitlines()
    assert content[0] == "number,text,Q,1,2,3" and len(content) == 5 and "'=three()" in content[4]


def test_caching_races_at_first_sight_and_measures_live(open_page: OpenPage) -> None:
    page = open_page()
    open_tab(page, "Caching")
    expect(page.locator("#race .race-note")).to_contain_text("times sooner", timeout=WAIT_MS)
    expect(page.locator("#race .lane")).to_have_count(2)
    expect(page.locator("#race .lane").nth(1)).to_contain_text("tokens from the cache")
    expect(page.locator("#finding")).to_contain_text("Measured on")  # a recording is there before anything is run
    wait_for(page.locator(".charts .js-plotly-plot .scatterlayer").first)
    if not page.locator("#run-here").is_visible():
        page.locator("#measure-here button").first.click()
    for words in ("4,096", "64", "256", "4"):  # enough work to be stopped in
        page.locator("#measure-here").get_by_label(words, exact=True).last.check()
    page.locator("#run-here").click()
    expect(page.locator("#run-progress")).to_contain_text("document tokens done", timeout=WAIT_MS)
    wait_for(page.locator(".charts .js-plotly-plot .scatterlayer").first)
    page.locator("#run-stop").click()
    wait_for(page.locator("#run-here:not([disabled])"))
    page.locator("#raw-numbers button").first.click()
    with page.expect_download() as saved:
        page.locator("#download-json").click()
    result = json.loads(saved.value.path().read_text(encoding="utf-8"))
    assert {record["strategy"] for record in result["records"]} >= {"rag_doc_query", "docs_cache"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_on_any_tab(open_page: OpenPage, theme: str) -> None:
    page = open_page(width=390, theme=theme)
    for name in ("Document Q&A", "Similarity", "Caching", "Chat"):
        open_tab(page, name)
        page.wait_for_timeout(700)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{name} is {width} px wide"
    open_tab(page, "Similarity")
    wait_for(page.locator("#ranking-b .ranking li").first)
    first, second = (page.locator(f"#ranking-{letter}").bounding_box() for letter in "ab")
    assert first and second and min(first["width"], second["width"]) > 300 and second["y"] > first["y"]
    is_dark = page.evaluate("document.body.classList.contains('dark')")
    assert is_dark == (theme == "dark")


def test_words_stand_out_from_their_ground_in_both_modes(open_page: OpenPage) -> None:
    """Contrast of at least 4.5 to 1 (WCAG AA) for small print, badge, tabs, placeholder and sources."""
    for theme in ("light", "dark"):
        page = open_page(theme=theme)
        open_tab(page, "Document Q&A")
        wait_for(page.get_by_text("No documents yet"))
        found = page.evaluate(CONTRAST)
        assert len(found) > 8
        weak = {words: round(ratio, 2) for words, ratio in found if ratio < 4.5}
        assert not weak, (theme, weak)


CONTRAST = """() => {
  const channel = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) { return colour; }
    }
    return [255, 255, 255];
  };
  const chosen = '.quiet, .badge-part, .badge-state, .page-head p, .page-head a, h3.part, button[role=tab], ' +
    '.placeholder-content p, #ask, #sample, footer a, footer button';
  return [...document.querySelectorAll(chosen)]
    .filter((node) => node.offsetParent !== null && node.innerText.trim())
    .map((node) => {
      const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
      return [node.innerText.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""


def test_the_cited_words_lie_under_their_box_in_the_part_of_the_page_that_is_seen(open_page: OpenPage) -> None:
    """The box was a share of the cropped sheet and not of the page: it lay lines above the words."""
    page = open_page()
    open_tab(page, "Document Q&A")
    add(page, SAMPLE)
    wait_for(file_row(page, "field_guide.pdf").locator(".chip.ready"))
    ask(page, "How many terabytes would the caches of all passages of the encyclopedia index take?")
    wait_for(page.locator("#page-picture .box").first)
    page.wait_for_timeout(500)
    seen = page.evaluate(
        """() => {
          const [sheet, image, box] = ['.sheet', 'img', '.box.said, .box'].map((name) =>
            document.querySelector('#page-picture ' + name).getBoundingClientRect());
          const top = parseFloat(document.querySelector('#page-picture .box.said, #page-picture .box').style.top);
          return {off: (box.top - image.top) / image.height - top / 100, inside: box.top >= sheet.top - 1
            && box.bottom <= sheet.bottom + 1, cut: image.height > sheet.height};
        }"""
    )
    assert abs(seen["off"]) < 0.002 and seen["inside"] and seen["cut"], seen
