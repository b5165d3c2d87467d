"""Groups of documents: the script alone, in a browser, over the table as the server writes it."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from grit_app.places import ASSETS
from grit_app.ui.documents.library_view import Row, table

pytestmark = pytest.mark.browser

ROWS = [Row(f"{name}.pdf", "ready", document_id=name) for name in ("tax", "rent", "novel")]


@pytest.fixture
def page(browser: Browser) -> Page:
    context = browser.new_context()

    def answer(route: Route) -> None:
        script = (ASSETS / "groups.js").read_text(encoding="utf-8")
        start = "gritGroups(document.getElementById('files'), (unused) => { window.unused = unused; });"
        body = f'<div id="files">{table(ROWS)}</div><script>{script}{start}</script>'
        route.fulfill(content_type="text/html; charset=utf-8", body=body)

    context.route("**/*", answer)
    page = context.new_page()
    page.goto("http://groups.test/")
    return page


def test_ticks_under_a_name_come_back_by_a_click_also_after_a_reload(page: Page) -> None:
    page.locator("[data-use=novel]").uncheck()
    page.get_by_role("button", name="Keep the documents that are ticked as a group").click()
    page.get_by_label("Name of the group").fill("Papers <b>")
    page.evaluate("html => { document.getElementById('files').innerHTML = html; }", table(ROWS))  # a file moved on
    expect(page.get_by_label("Name of the group")).to_have_value("Papers <b>")
    page.locator("[data-use=novel]").uncheck()
    page.get_by_label("Name of the group").press("Enter")
    page.reload()
    expect(page.locator("[data-use=novel]")).to_be_checked()
    page.get_by_role("button", name="Papers <b>", exact=True).click()
    ticked = [box.get_attribute("data-use") for box in page.locator("[data-use]:checked").all()]
    assert ticked == ["tax", "rent"] and page.evaluate("window.unused") == ["novel"]
    page.evaluate("html => { document.getElementById('files').innerHTML = html; }", table([ROWS[2], ROWS[2]]))
    expect(page.get_by_text("Papers")).to_have_count(0)  # none of its documents is here
    page.evaluate("html => { document.getElementById('files').innerHTML = html; }", table(ROWS))
    page.get_by_role("button", name="Forget the group Papers <b>").click()
    assert json.loads(page.evaluate("localStorage.getItem('grit-document-groups')")) == {}


@pytest.mark.parametrize("kept", ["{", "[]", "null", '{"a": 1}'])
def test_what_a_browser_kept_wrongly_is_no_group(page: Page, kept: str) -> None:
    page.evaluate("kept => localStorage.setItem('grit-document-groups', kept)", kept)
    page.reload()
    expect(page.locator(".groups button")).to_have_count(1)
