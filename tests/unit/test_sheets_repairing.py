"""System columns beside people's texts: what is written, what is taken away, and what is put back."""

from __future__ import annotations

from typing import Any

import pytest

from kylo_outbox.model.marks import Marks, changes
from kylo_outbox.sheets.repairing import NOTHING, Guard, Kept, doubles, keep, mark_fixes, restores, strays
from kylo_outbox.sheets.tab import Fix, TabContents


def contents(*lines: list[Any]) -> TabContents:
    """A tab with these lines."""
    return TabContents((), tuple(str(line[0]) if line else "" for line in lines), tuple(map(tuple, lines)))


def line(row_hash: str, note: str = "", target: str = "", *, source: str = "") -> list[Any]:
    """A line with a note and a target."""
    return [row_hash, "", source, "", "", target, "", note, False, "", ""]


@pytest.mark.parametrize(
    ("there", "said", "written"),
    [
        ("", "x", {7: "Kylo: x"}),
        ("Kylo: old", "x", {7: "Kylo: x"}),
        ("Not taken: old", "", {7: ""}),
        ("Kylo: x", "x", {}),
        ("ask Anna", "x", {}),
        ("ask Anna", "", {}),
    ],
)
def test_only_our_own_note_is_replaced(there, said, written):
    """A note of ours gives way to the next one; what somebody typed is never in what is written."""
    assert changes(Marks(said), line("a", there)) == written


def test_lines_that_are_not_ours_get_no_marks():
    """Only a Row_Hash that the tables know is written beside."""
    assert mark_fixes(contents(line("a"), line("b")), {"b": Marks("x")}) == [Fix(2, 7, "Kylo: x")]


def test_our_text_on_a_line_of_people_is_taken_away():
    """A line without a Row_Hash keeps its own note and loses ours."""
    assert strays(contents(line("", "Kylo: x"), line("", "mine"), line("a", "Kylo: x"))) == [Fix(1, 7, "")]


def test_a_text_that_ours_replaced_is_put_back_on_its_own_line():
    """The line is found again by what else stands on it, wherever it went."""
    before = contents(line("a"), line("", "mine", source="own"))
    kept = keep(before, NOTHING, [Fix(1, 7, "Kylo: x")])
    moved = contents(line("", "Kylo: x", source="own"), line("a"))
    assert restores(moved, kept) == [Fix(1, 7, "mine")]
    assert Kept.from_json(kept.to_json()) == kept


def test_a_text_that_was_put_back_and_moved_again_is_put_back_again():
    """Two people's notes: the first, put back, landed on the second one's line. Both end where they were."""
    first, second = Guard(tuple(NAMES["one"]), 7, "note 1"), Guard(tuple(NAMES["two"]), 7, "note 2")
    kept = Kept([first, second], frozenset({(7, "note 1")}))
    now = contents(line("", "Kylo: x", source="one"), line("", "note 1", source="two"))
    assert set(restores(now, kept)) == {Fix(1, 7, "note 1"), Fix(2, 7, "note 2")}
    assert second in keep(now, kept, []).guards


def test_a_note_that_somebody_changed_is_not_put_back():
    """Their newer text is theirs."""
    kept = Kept([Guard(tuple(NAMES["one"]), 7, "old")], frozenset())
    assert restores(contents(line("", "new", source="one")), kept) == []


def test_a_second_line_is_emptied_only_where_nobody_typed():
    """Of two lines with one Row_Hash the typed one stays; two typed ones both stay and are told."""
    fixes, stay = doubles(contents(line("a"), line("a", target="PETTY"), line("b", target="x"), line("b", target="y")))
    assert fixes == [Fix(1, 0, "")]
    assert stay == [5]


# Everything of a line that the system does not write: its identity.
NAMES = {name: ["", "", name, "", "", "", "", False] for name in ("one", "two")}
