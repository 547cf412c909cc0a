"""The difference between a Pending tab and the rows it should hold, as one atomic batch. Pure: no call, no clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.tabs import PENDING_COLUMNS, PendingRow, batch_signature, post_marker
from kylo_outbox.sheets import layout
from kylo_outbox.sheets.cells import fix_requests, row_data
from kylo_outbox.sheets.marking import marker_requests
from kylo_outbox.sheets.plan import MAX_BYTES, PostPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kylo_outbox.sheets.tab import Fix, Marker, TabContents, TabInfo

MAX_ROWS = 4_000
"""Rows of one post at most; with ordinary rows this is just under the size that Google advises."""

MAX_FIXES = 4_000
"""Cells that one post writes by their place."""

_APPROVED = PENDING_COLUMNS.index("Approved")
_STRICT_BOOLEAN = {"condition": {"type": "BOOLEAN"}, "strict": True}


def plan_pending(
    *,
    company_id: str,
    title: str,
    ordinal: int,
    tab: TabInfo | None,
    contents: TabContents | None,
    wanted: Iterable[PendingRow],
    fixes: Sequence[Fix] = (),
) -> PostPlan | None:
    """Plan the next post of a Pending tab; None when every wanted row is there already and nothing is to be fixed.

    A row counts as there when its Row_Hash stands anywhere in column A, whatever people did to the rest of it. Rows are
    only ever added, below the last one that holds anything, at the place Google finds when it applies the batch: what
    people type meanwhile is neither overwritten nor moved. Shape is written only where it is missing.

    Args:
        company_id: Owner of the rows and of the tab.
        title: Title of the tab.
        ordinal: The post's own number in (company, tab): a new one after it was confirmed or refused.
        tab: What `GoogleSheets.tabs` shows of it; None when there is no such tab, which adds it.
        contents: Its header and rows; needed when there is a tab.
        wanted: All rows that should be in the tab, in the order in which new ones are added.
        fixes: Cells of system columns to write by their place.

    Raises:
        TabProblem: The first row holds something else than our header (columns moved or renamed).
        ValueError: A tab was given without its contents.
    """
    missing = _missing(wanted, title, tab, contents)
    if not missing and not fixes:
        return None
    fixes = tuple(fixes[:MAX_FIXES])
    chosen, cells = _fitting(missing, len(json.dumps(fix_requests(0, fixes))))
    hashes = tuple(row.txn_uid for row in chosen)
    signature = batch_signature(company_id, title, ordinal, hashes)
    marker = post_marker(ordinal, signature)
    sheet_id, shape, old = _shape(tab, contents, title, signature)
    written = (*fix_requests(sheet_id, fixes), *_append(sheet_id, cells))
    return PostPlan(
        requests=(*shape, *written, *marker_requests(sheet_id, signature, marker, old)),
        hashes=hashes,
        remaining=len(missing) - len(chosen),
        ordinal=ordinal,
        signature=signature,
        marker=marker,
        sheet_id=sheet_id,
        fixes=fixes,
        grown=_grown(tab, contents, len(chosen)),
    )


def _shape(
    tab: TabInfo | None, contents: TabContents | None, title: str, signature: str
) -> tuple[int, list[dict[str, Any]], tuple[Marker, ...]]:
    """(id of the tab, requests that give it its shape where that is missing, markers that lie there)."""
    if tab is None or contents is None:
        sheet_id = layout.new_sheet_id(signature)
        return sheet_id, layout.new_tab(sheet_id, title, layout.PENDING), ()
    return tab.sheet_id, layout.missing_shape(tab, contents.header, layout.PENDING), tab.markers


def _missing(
    wanted: Iterable[PendingRow], title: str, tab: TabInfo | None, contents: TabContents | None
) -> list[PendingRow]:
    if tab is not None and contents is None:
        raise ValueError(f"contents of the tab {title!r} are needed to plan")
    there = set(contents.hashes) if contents is not None else set()
    return list({row.txn_uid: row for row in wanted if row.txn_uid not in there}.values())


def _append(sheet_id: int, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    fields = "userEnteredValue,dataValidation"
    return [{"appendCells": {"sheetId": sheet_id, "fields": fields, "rows": cells}}] if cells else []


def _grown(tab: TabInfo | None, contents: TabContents | None, added: int) -> int:
    if tab is None or contents is None:
        return max(layout.NEW_TAB_ROWS, added + 1) * len(PENDING_COLUMNS)
    return max(0, 1 + len(contents.lines or contents.hashes) + added - tab.row_count) * tab.column_count


def _pending_data(row: PendingRow) -> dict[str, Any]:
    """Row data with the strict TRUE/FALSE rule on its own Approved cell.

    The rule rides with each row because rules on empty rows make them look used: Google would then append below
    row 2000 of a tab that holds nothing.
    """
    data = row_data(row.cells())
    data["values"][_APPROVED]["dataValidation"] = _STRICT_BOOLEAN
    return data


def _fitting(missing: Sequence[PendingRow], used: int) -> tuple[list[PendingRow], list[dict[str, Any]]]:
    """Return the first rows that fit into one body, measured as the client will encode them; at least one."""
    chosen: list[PendingRow] = []
    cells: list[dict[str, Any]] = []
    room = MAX_BYTES - used
    for row in missing[:MAX_ROWS]:
        data = _pending_data(row)
        room -= len(json.dumps(data)) + 2
        if room < 0 and chosen:
            break
        chosen.append(row)
        cells.append(data)
    return chosen, cells
