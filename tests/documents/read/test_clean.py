"""Characters and hyphens."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_app.documents.read.clean import logical_order, normalise, raised
from grit_app.documents.read.hyphens import HyphenMender


@pytest.mark.parametrize(
    ("drawn", "plain"),
    [
        ("ﬁnd oﬃce ﬂow", "find office flow"),
        ("ﻛﺘﺎﺏ", "كتاب"),
        ("ＡＢＣ１２", "ABC12"),
        ("𝑥 + 𝟐", "x + 2"),
        ("a\u00a0b\u2009c", "a b c"),
        ("e\u0301", "é"),
        ("Asanovi´c and M¨uller", "Asanović and Müller"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("a well\u2010known A\u2011B test", "a well-known A-B test"),
    ],
)
def test_what_only_tells_how_it_is_drawn_is_made_plain(drawn: str, plain: str) -> None:
    assert normalise(drawn) == plain


@pytest.mark.parametrize("text", ["m² and 10⁶", "H₂O", "½ cup", "①", "5 µm", "wait…", "™", "a·b", "می‌خواهم"])
def test_what_changes_the_meaning_is_kept(text: str) -> None:
    """Full NFKC would turn m² into m2 and ½ into 1⁄2."""
    assert normalise(text) == text


@settings(max_examples=40)
@given(st.text(max_size=20))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"], max_codepoint=0x4FF), max_size=30))
def test_left_to_right_lines_are_not_touched(text: str) -> None:
    assert logical_order(list(text)) == text


@pytest.mark.parametrize(
    ("seen", "spoken"),
    [
        ("םולש", "שלום"),
        ("world םולש hello", "world שלום hello"),
        (".2012–2011 םינשב", "בשנים 2011–2012."),
        ("34 12 הלבט", "טבלה 12 34"),
        ("(תירבע) ןושל", "לשון (עברית)"),
        ("2011-2012 םינשב", "בשנים 2011-2012"),
        ("12.5% רועיש", "שיעור 12.5%"),
        ("PIRLS 2011 חוד", "דוח PIRLS 2011"),
    ],
)
def test_right_to_left_text_is_turned_into_spoken_order(seen: str, spoken: str) -> None:
    """`seen` holds the glyphs from left to right; expectations are what UAX 9 displays for `spoken`, read backwards."""
    assert logical_order(list(seen)) == spoken


def test_a_ligature_glyph_keeps_its_letters_in_order() -> None:
    assert logical_order(["م", "لا", "س"]) == "سلام"


def test_raised_figures() -> None:
    assert (raised("10"), raised("th"), raised("*"), raised("-6"), raised("2a")) == ("¹⁰", "th", "*", "⁻⁶", "2a")


def test_hyphens_follow_the_documents_own_habit() -> None:
    mender = HyphenMender(["the data-base and the data-base", "an email, an email", "an e-mail"])
    assert mender.join("our data-", "base") == "our data-base"
    assert mender.join("our e-", "mail") == "our email"
    assert mender.join("our e-", "mail") != HyphenMender(["an e-mail"]).join("our e-", "mail")


def test_french_pronouns_stay_behind_their_verb() -> None:
    mender = HyphenMender(["la porte est ouverte"])
    assert mender.join("est-", "elle ici ?") == "est-elle ici ?"
    assert mender.join("une nouv-", "elle route") == "une nouvelle route"


def test_soft_hyphens_always_go() -> None:
    assert HyphenMender(["well-known"]).join("well\u00ad", "known") == "wellknown"


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_numbers_are_never_glued(a: int, b: int) -> None:
    assert HyphenMender([]).join(f"from {a}-", f"{b} on") == f"from {a}-{b} on"
