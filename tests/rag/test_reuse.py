"""What an edit leaves of the caches of a prompt."""

from __future__ import annotations

from typing import Any

import pytest

from grit_app.errors import InputError
from grit_app.rag.reuse import Reuse, reuse
from grit_app.ui.caching.breaks import in_blocks, moved, pictures

FIRST, SECOND = "Bees make honey from nectar.", "The river rises in the mountains."
QUESTION = "How is honey made?"


def by_kind(model: Any, now: tuple[list[str], str]) -> dict[str, Reuse]:
    return {one.kind: one for one in reuse(model, ([FIRST, SECOND], QUESTION), now)}


def test_another_question_costs_its_own_tokens_and_no_cache_reads_everything(tiny_model: Any) -> None:
    found = by_kind(tiny_model, ([FIRST, SECOND], "Where does the river rise?"))
    assert found["nothing"].kept_tokens == 0 and found["nothing"].kept_bytes == 0
    assert [piece.is_kept for piece in found["passages"].pieces] == [True, True, False]
    assert FIRST in found["beginning"].pieces[0].text and found["beginning"].read_tokens > 1


def test_moved_passages_stay_good_by_themselves_and_break_the_beginning(tiny_model: Any) -> None:
    found = by_kind(tiny_model, ([SECOND, FIRST], QUESTION))
    assert [piece.is_kept for piece in found["passages"].pieces] == [True, True, False]
    assert found["beginning"].kept_tokens < 10, "nothing but the opening of the turn"


def test_an_edited_passage_alone_is_read_again(tiny_model: Any) -> None:
    found = by_kind(tiny_model, ([FIRST, SECOND + " It is long."], QUESTION))
    assert [piece.is_kept for piece in found["passages"].pieces] == [True, False, False]
    assert found["passages"].kept_bytes > 0
    assert FIRST in found["beginning"].pieces[0].text


def test_the_same_prompt_again_still_reads_its_last_token(tiny_model: Any) -> None:
    found = by_kind(tiny_model, ([FIRST, SECOND], QUESTION))
    assert found["beginning"].read_tokens == 1


def test_blocks_are_separated_by_empty_lines_and_moving_keeps_the_question_last() -> None:
    assert in_blocks("a\n\n b \n\n\n\nq") == (["a", "b"], "q")
    assert moved("a\n\nb\n\nq") == "b\n\na\n\nq"
    with pytest.raises(InputError, match="at least one passage"):
        in_blocks("only a question")


def test_what_was_typed_is_no_markup(tiny_model: Any) -> None:
    html = pictures(reuse(tiny_model, (["<b>x</b>"], "<i>q</i>"), (["<b>x</b>"], "<i>q</i>")))
    assert "<b>" not in html and "<i>" not in html
