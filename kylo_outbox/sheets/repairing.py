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
    from collections.abc import Iterable, Mapping, Sequence

    from kylo_outbox.model.marks import Marks
    from kylo_outbox.sheets.tab import TabContents

Identity = tuple[Any, ...]


class Guard(NamedTuple):
    """A text of people in a system column of a line, which is known by its Row_Hash or by everything else on it."""

    identity: Identity
    column: int
    text: str


class Kept(NamedTuple):
    """What the next look needs to undo a write by place that landed on moved lines.

    `written` are the texts of that write, by column, that do not show by themselves that they are ours.
    """

    guards: list[Guard]
    written: frozenset[tuple[int, str]]

    @classmethod
    def from_json(cls, stored: dict[str, Any] | None) -> Kept:
        """Read what `to_json` gave; nothing for None."""
        if stored is None:
            return NOTHING
        found = [Guard(tuple(line), column, text) for line, column, text in stored["guards"]]
        return cls(found, frozenset((column, text) for column, text in stored["written"]))

    def to_json(self) -> dict[str, Any]:
        """The same as lists and texts."""
        return {"guards": [list(guard) for guard in self.guards], "written": sorted(self.written)}


NOTHING = Kept([], frozenset())
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


def restores(contents: TabContents, kept: Kept) -> list[Fix]:
    """Return how to put back people's texts that something of ours has taken the place of.

    Something of ours is a system text, or what the last write by place put down: an empty cell, or a text of people
    that was put back and, once more, landed on another line.
    """
    places: dict[Identity, list[int]] = {}
    for index, line in enumerate(contents.lines):
        places.setdefault(identity(line), []).append(index)
    found: list[Fix] = []
    for guard in kept.guards:
        for index in places.get(guard.identity, ()):
            text = str(_at(contents.lines[index], guard.column))
            if text == guard.text:
                break
            if marks.is_ours(guard.column, text) or (guard.column, text) in kept.written:
                found.append(Fix(index + _HEADER, guard.column, guard.text))
                break
    return found


def keep(contents: TabContents, kept: Kept, fixes: Iterable[Fix]) -> Kept:
    """Return what to keep before these fixes are written: people's texts there now, and those not put back yet."""
    before = {(guard.identity, guard.column): guard for guard in kept.guards}
    lines = {identity(line) for line in contents.lines}
    now = {
        (guard.identity, guard.column): guard
        for guard in guards(contents)
        if (guard.column, guard.text) not in kept.written or (guard.identity, guard.column) not in before
    }
    still = {key: guard for key, guard in before.items() if guard.identity in lines}
    written = {(fix.column, fix.text) for fix in fixes if not marks.is_ours(fix.column, fix.text)}
    return Kept([*{**still, **now}.values()], frozenset(written))


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
