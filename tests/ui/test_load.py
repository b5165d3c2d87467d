"""Several pages at once, driven as the load command drives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grit_app.benchmark.visitors.load import measure, summary_of
from grit_app.benchmark.visitors.page import PageError, PageVisitor
from grit_app.benchmark.visitors.tasks import Outcome, codes_of, leak
from tests.ui.conftest import RunningApp


def test_visitors_at_once_see_nothing_of_each_other_and_none_is_stuck(running_app: RunningApp, tmp_path: Path) -> None:
    """All ask in the same words about documents of their own; another's code on a page is another's document."""
    manual = tmp_path / "manual.txt"
    manual.write_text("\n\n".join(f"Section {n}. Bees make honey, and the ferry leaves at {n}." for n in range(80)))
    result = measure(running_app.url, os.getpid(), 3, 0.05, manual, seed=1, tell=lambda _: None)
    assert result["mixed"] == 0 and result["errors"] == 0 and result["stuck"] == []
    assert result["manual_was_read"] is True
    found = {(record["phase"], record["action"]) for record in result["records"]}
    assert {("alone", "upload"), ("manual", "upload"), ("manual", "chat"), ("load", "measurement")} <= found
    assert all(record["first_token_ms"]["min"] > 0 for record in result["records"] if "first_token_ms" in record)


def test_a_code_of_another_visitor_is_noticed(running_app: RunningApp) -> None:
    """The check of the load command, on a page that does show what it should not."""
    with PageVisitor(running_app.url) as page:
        page.put("chat-box", codes_of(1, seed=0)[0])
        assert codes_of(1, seed=0)[0] in page.text() and codes_of(0, seed=0)[0] not in page.text()


def test_a_page_s_error_is_raised_with_its_sentence(running_app: RunningApp) -> None:
    with PageVisitor(running_app.url) as page:
        page.put("similarity-texts", "")
        with pytest.raises(PageError, match=r"\w+ \w+"):
            list(page.trigger("compare", "click"))


def test_records_count_each_result() -> None:
    outcomes = [Outcome("load", 0, "chat", "ok", 100.0, 10.0), Outcome("load", 1, "chat", "mixed", 300.0, 30.0)]
    (record,) = summary_of(outcomes)
    assert (record["n"], record["ok"], record["mixed"]) == (2, 1, 1)
    assert record["first_token_ms"]["median"] == 20.0 and record["total_ms"]["max"] == 300.0


@pytest.mark.parametrize("shown", ["The code is 425213.", '"Door 425213"', "<b>425213</b>", "425213"])
def test_another_visitors_code_is_found_with_the_words_around_it(shown: str) -> None:
    assert "425213" in leak(shown, ["111111", "425213"])


@pytest.mark.parametrize("shown", ["[0.425213, 1.2]", "1425213", "4252137", "a425213f", "The code is 425214."])
def test_digits_of_a_longer_number_are_nobodys_code(shown: str) -> None:
    """Coordinates of a chart and checksums hold any six digits now and then."""
    assert leak(shown, ["111111", "425213"]) == ""
