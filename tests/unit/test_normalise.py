"""The one normaliser: its examples, and what must hold for every text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model.normalise import normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" POS PURCHASE  #ATM LOAD!!! ", "pos purchase atm load"),
        ("Starbucks*1234", "starbucks 1234"),
        ("item-123_price", "item 123 price"),
        (None, ""),
        ("", ""),
        (" \t\n ", ""),
        ("***", ""),
        ("CAFÉ Zürich", "café zürich"),
        ("Straße", "strasse"),
        ("ΟΔΟΣ", "οδοσ"),
        ("AT&T €5", "at t 5"),
    ],
)
def test_examples(text, expected):
    """The examples that users know come out as they know them."""
    assert normalise(text) == expected


@given(st.text())
def test_twice_is_once(text):
    """Normalising what is normal changes nothing."""
    assert normalise(normalise(text)) == normalise(text)


@given(st.text())
def test_only_letters_marks_digits_and_single_spaces_remain(text):
    """The normal form has no punctuation, no double space and no space at its ends."""
    norm = normalise(text)
    assert norm == " ".join(norm.split())
    assert all(char == " " or unicodedata.category(char)[0] in "LMN" for char in norm)


@given(st.text())
def test_case_and_composition_do_not_matter(text):
    """Two texts that differ in case folding or in how accents are written are one text."""
    assert normalise(text.casefold()) == normalise(text)
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(unicodedata.normalize("NFC", text))


@given(st.text(alphabet=st.characters(categories=["P", "S", "Z"])), st.text(alphabet="abc"))
def test_punctuation_only_separates(noise, word):
    """Punctuation around a word does not change it."""
    assert normalise(f"{noise} {word} {noise}") == word
