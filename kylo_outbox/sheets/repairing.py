"""Cells that the system writes by their place, and what is done when people move rows in the same second.

Google has no "write if the row is still the same". So a line is read just before, its system columns are written by
row number, and the tab is read again. A text that landed on a line with another Row_Hash is put right from the tables;
one on a line of people's own is taken away; and what people had typed in such a cell is kept in the database before the
write (`Guard`), found again by the rest of its line, and put back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model import marks
from kylo_outbox.sheets.tab import Fix

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from kylo_outbox.model.marks import Marks
    from kylo_outbox.sheets.tab import TabContents

Identity = tuple[Any, ...]


class Guard(NamedTuple):
    """A text of people in a system column of a line, which is known by its Row_Hash or by everything else on it."""

    identity: Identity
    column: int
    text: str


_HEADER = 1
_PEOPLES = (5, 6)
_APPROVED = 8
_SYSTEM = (0, 1, 2, 3, 4, *marks.COLUMNS)


def mark_fixes(contents: TabContents, wanted: Mapping[str, Marks]) -> list[Fix]:
    """Return what must be written so that each line says what `wanted` has for its Row_Hash; others stay."""
    return [
        Fix(index + _HEADER, column, text)
        for index, line in enumerate(contents.lines)
        if line and (found := wanted.get(str(line[0]))) is not None
        for column, text in marks.changes(found, line).items()
    ]


def guards(contents: TabContents) -> list[Guard]:
    """Return people's texts in system columns: what must be put back if ours lands on it."""
    return [
        Guard(identity(line), column, text)
        for line in contents.lines
        if line
        for column in marks.COLUMNS
        if (text := str(_at(line, column))) and not marks.is_ours(column, text)
    ]


def restores(contents: TabContents, guarded: Iterable[Guard], emptied: Collection[int] = ()) -> list[Fix]:
    """Return how to put back people's texts that one of ours, or an emptying, has taken the place of.

    Args:
        contents: The tab as it is now.
        guarded: What stood there before the system wrote by place.
        emptied: Columns in which it emptied cells a moment ago; an empty cell counts as ours only there.
    """
    places: dict[Identity, list[int]] = {}
    for index, line in enumerate(contents.lines):
        places.setdefault(identity(line), []).append(index)
    found: list[Fix] = []
    for guard in guarded:
        for index in places.get(guard.identity, ()):
            text = str(_at(contents.lines[index], guard.column))
            if text == guard.text:
                break
            if marks.is_ours(guard.column, text) or (not text and guard.column in emptied):
                found.append(Fix(index + _HEADER, guard.column, guard.text))
                break
    return found


def still_open(contents: TabContents, guarded: Iterable[Guard]) -> list[Guard]:
    """Return the guards to keep for the next write: what stands there now, and what is not put back yet."""
    now = guards(contents)
    there = {(guard.identity, guard.column) for guard in now}
    lines = {identity(line) for line in contents.lines}
    return now + [one for one in guarded if one.identity in lines and (one.identity, one.column) not in there]


def strays(contents: TabContents) -> list[Fix]:
    """Return how to empty system texts that stand on lines without a Row_Hash: people's own lines have none."""
    return [
        Fix(index + _HEADER, column, "")
        for index, line in enumerate(contents.lines)
        if line and not line[0]
        for column in marks.COLUMNS
        if marks.is_ours(column, str(_at(line, column)))
    ]


def doubles(contents: TabContents) -> tuple[list[Fix], list[int]]:
    """Return how to empty second lines of one Row_Hash, and the rows (as people see them) that must stay.

    The first line on which people typed something is kept, else the first. A second one is emptied only where nobody
    typed anything; its row is never deleted, because a row number may be another line a moment later.
    """
    lines: dict[str, list[int]] = {}
    for index, line in enumerate(contents.lines):
        if line and line[0]:
            lines.setdefault(str(line[0]), []).append(index)
    fixes: list[Fix] = []
    stay: list[int] = []
    for places in lines.values():
        kept = next((index for index in places if _typed(contents.lines[index])), places[0])
        for index in places:
            if index == kept:
                continue
            if _typed(contents.lines[index]):
                stay.append(index + _HEADER + 1)
            else:
                line = contents.lines[index]
                fixes += [Fix(index + _HEADER, column, "") for column in _SYSTEM if _at(line, column) != ""]
    return fixes, stay


def identity(line: Sequence[Any]) -> Identity:
    """Return what makes a line this line: its Row_Hash, or else everything that the system does not write."""
    if line and line[0]:
        return (line[0],)
    return tuple(_at(line, column) for column in range(11) if column not in marks.COLUMNS)


def _typed(line: Sequence[Any]) -> bool:
    return any(str(_at(line, column)) for column in _PEOPLES) or _at(line, _APPROVED) not in {"", False}


def _at(line: Sequence[Any], column: int) -> Any:
    return line[column] if column < len(line) else ""
