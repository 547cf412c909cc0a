"""Cells that the system writes by their place, and what is done when people move rows in the same second.

Google has no "write if the row is still the same". So a line is read just before, its system columns are written by
row number, and the tab is read again: a text that landed on another line is taken back, and what stood there is put
back. Lines with a Row_Hash also heal from the tables, at every post and by `sheets reconcile`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.model import marks
from kylo_outbox.sheets.tab import Fix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kylo_outbox.model.marks import Marks
    from kylo_outbox.sheets.tab import TabContents

Line = tuple[Any, ...]

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


def misplaced(before: TabContents, after: TabContents, written: Iterable[Fix]) -> list[Fix]:
    """Return how to undo what landed on another line than it was meant for.

    Args:
        before: The tab as it was read for planning.
        after: The tab as it is now.
        written: What was written, by rows of `before`.
    """
    rest = list(before.lines)
    found: list[Fix] = []
    for fix in written:
        index = fix.row - _HEADER
        line = after.lines[index] if index < len(after.lines) else ()
        meant = before.lines[index] if index < len(before.lines) else ()
        if _identity(line) == _identity(meant) or str(_at(line, fix.column)) != fix.text:
            continue
        original = next((old for old in rest if _identity(old) == _identity(line)), None)
        text = str(_at(original, fix.column)) if original is not None else ""
        found.append(Fix(fix.row, fix.column, text))
    return found


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


def _identity(line: Sequence[Any]) -> tuple[Any, ...]:
    """What makes a line this line: its Row_Hash, or else everything that the system does not write."""
    if line and line[0]:
        return (line[0],)
    return tuple(_at(line, column) for column in range(11) if column not in marks.COLUMNS)


def _typed(line: Sequence[Any]) -> bool:
    return any(str(_at(line, column)) for column in _PEOPLES) or _at(line, _APPROVED) not in {"", False}


def _at(line: Sequence[Any], column: int) -> Any:
    return line[column] if column < len(line) else ""
