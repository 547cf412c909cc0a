"""What a company's tabs have and should not, or the other way round. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kylo_outbox.flows.post_sheet.planning import active_differs, pending_rows, wanted_marks
from kylo_outbox.model.tabs import PENDING_COLUMNS
from kylo_outbox.sheets import repairing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kylo_outbox.flows.post_sheet.looking import Look


class Finding(NamedTuple):
    """One difference. `row` is the line's number as people see it; `mends`: `--repair` puts it right."""

    tab: str
    what: str
    row: int | None = None
    row_hash: str = ""
    detail: str = ""
    mends: bool = True


def compare(look: Look) -> Iterator[Finding]:
    """Yield every difference between a company's tabs and its tables."""
    yield from _rows(look)
    yield from _cells(look)
    if active_differs(look):
        yield Finding(look.active.title, "differs", detail="the rules in force are others than the tab shows")


def _rows(look: Look) -> Iterator[Finding]:
    title, contents = look.pending.title, look.pending.contents
    lines = contents.lines if contents is not None else ()
    there = {str(line[0]) for line in lines if line}
    for row in look.open_rows:
        if row.txn_uid not in there:
            yield Finding(title, "missing", row_hash=row.txn_uid, detail=row.description[:60])
    for index, line in enumerate(lines):
        if line and line[0] and str(line[0]) not in look.states:
            detail = "no transaction has this Row_Hash"
            yield Finding(title, "unknown", index + 2, str(line[0]), detail, mends=False)
    if contents is None:
        return
    fixes, stay = repairing.doubles(contents)
    for number in sorted({fix.row + 1 for fix in fixes}):
        yield Finding(title, "double", number, str(lines[number - 2][0]), "a second line of this Row_Hash")
    for number in stay:
        detail = "a second line of this Row_Hash, on which people typed"
        yield Finding(title, "double", number, str(lines[number - 2][0]), detail, mends=False)


def _cells(look: Look) -> Iterator[Finding]:
    title, contents = look.pending.title, look.pending.contents
    if contents is None:
        return
    for fix in repairing.mark_fixes(contents, wanted_marks(look)):
        detail = f"{PENDING_COLUMNS[fix.column]} should be {fix.text!r}"
        yield Finding(title, "system column", fix.row + 1, str(contents.lines[fix.row - 1][0]), detail)
    for fix in repairing.strays(contents):
        yield Finding(title, "stray text", fix.row + 1, detail=f"{PENDING_COLUMNS[fix.column]} of somebody's own line")
    told = {row.txn_uid: row.cells() for row in pending_rows(look, look.open_rows)}
    for index, line in enumerate(contents.lines):
        cells = told.get(str(line[0]), ()) if line else ()
        for column in range(1, min(5, len(cells))):
            shown = line[column] if column < len(line) else ""
            if shown != cells[column]:
                detail = f"{PENDING_COLUMNS[column]} was changed by hand; the tables hold {cells[column]!r}"
                yield Finding(title, "changed", index + 2, str(line[0]), detail, mends=False)
