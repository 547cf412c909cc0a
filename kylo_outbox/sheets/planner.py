"""The difference between a Pending tab and the rows it should hold, as one atomic batch. Pure: no call, no clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.tabs import PENDING_COLUMNS, Cell, PendingRow, batch_signature, post_marker
from kylo_outbox.sheets import layout
from kylo_outbox.sheets.marking import marker_requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kylo_outbox.sheets.tab import Marker, TabContents, TabInfo

MAX_ROWS = 4_000
"""Rows of one post at most; with ordinary rows this is just under the size that Google advises."""

MAX_BYTES = 1_900_000
"""Size of the rows of one post at most: Google advises 2 MB for a body, the rest of a batch is a few kilobytes."""

_APPROVED = PENDING_COLUMNS.index("Approved")
_STRICT_BOOLEAN = {"condition": {"type": "BOOLEAN"}, "strict": True}


@dataclass(frozen=True, slots=True)
class PostPlan:
    """One batch for `GoogleSheets.batch_update` and what it stands for.

    `hashes` are the rows it appends, in order; `remaining` counts rows that are missing too and did not fit (plan
    again after this one is confirmed). `marker` is what `GoogleSheets.find_marker` is asked for when the outcome is
    not known. The marker's metadata id is made from the signature and unique in the workbook: while this marker is
    among the kept ones, Google refuses the same batch sent a second time as a whole.
    """

    requests: tuple[dict[str, Any], ...]
    hashes: tuple[str, ...]
    remaining: int
    ordinal: int
    signature: str
    marker: str
    sheet_id: int


def plan_pending(
    *,
    company_id: str,
    title: str,
    ordinal: int,
    tab: TabInfo | None,
    contents: TabContents | None,
    wanted: Iterable[PendingRow],
) -> PostPlan | None:
    """Plan the next post of a Pending tab; None when every wanted row is there already.

    A row counts as there when its Row_Hash stands anywhere in column A, whatever people did to the rest of it. Rows
    are only ever added, below the last row that holds anything, at the place Google finds when it applies the
    batch: what people type meanwhile is neither overwritten nor moved. Shape (header, frozen row, protections) is
    written only where it is missing. Whether a row ought to leave the tab is not decided here.

    Args:
        company_id: Owner of the rows and of the tab.
        title: Title of the tab.
        ordinal: The post's own number in (company, tab); take a new one after a post was confirmed or refused, and
            keep it while the outcome is not known.
        tab: What `GoogleSheets.tabs` shows under this title; None when there is no such tab, which adds it.
        contents: What `GoogleSheets.contents` shows; needed when there is a tab.
        wanted: All rows that should be in the tab, in the order in which new ones are added.

    Raises:
        TabProblem: The first row holds something else than our header (columns moved or renamed).
        ValueError: A tab was given without its contents.
    """
    if tab is not None and contents is None:
        raise ValueError(f"contents of the tab {title!r} are needed to plan")
    there = set(contents.hashes) if contents is not None else set()
    missing = list({row.txn_uid: row for row in wanted if row.txn_uid not in there}.values())
    if not missing:
        return None
    chosen, cells = _fitting(missing)
    hashes = tuple(row.txn_uid for row in chosen)
    signature = batch_signature(company_id, title, ordinal, hashes)
    marker = post_marker(ordinal, signature)
    sheet_id, shape, old = _shape(tab, contents, title, signature)
    append = {"sheetId": sheet_id, "fields": "userEnteredValue,dataValidation", "rows": cells}
    return PostPlan(
        requests=(*shape, {"appendCells": append}, *marker_requests(sheet_id, signature, marker, old)),
        hashes=hashes,
        remaining=len(missing) - len(chosen),
        ordinal=ordinal,
        signature=signature,
        marker=marker,
        sheet_id=sheet_id,
    )


def _shape(
    tab: TabInfo | None, contents: TabContents | None, title: str, signature: str
) -> tuple[int, list[dict[str, Any]], tuple[Marker, ...]]:
    """(id of the tab, requests that give it its shape where that is missing, markers that lie there)."""
    if tab is None or contents is None:
        sheet_id = layout.new_sheet_id(signature)
        return sheet_id, layout.new_tab(sheet_id, title, PENDING_COLUMNS, protected=layout.PENDING_PROTECTED), ()
    shape = layout.missing_shape(tab, contents.header, PENDING_COLUMNS, protected=layout.PENDING_PROTECTED)
    return tab.sheet_id, shape, tab.markers


def row_data(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return cells as a RowData of typed values; a text is always a stringValue, so it can never become a formula."""
    return {"values": [cell_data(cell) for cell in cells]}


def cell_data(cell: Cell) -> dict[str, Any]:
    """Return one CellData; an empty cell is {}."""
    if cell is None or cell == "":
        return {}
    if isinstance(cell, bool):
        return {"userEnteredValue": {"boolValue": cell}}
    if isinstance(cell, str):
        return {"userEnteredValue": {"stringValue": cell}}
    return {"userEnteredValue": {"numberValue": cell}}


def _pending_data(row: PendingRow) -> dict[str, Any]:
    """Row data with the strict TRUE/FALSE rule on its own Approved cell.

    The rule rides with each row because rules on empty rows make them look used: Google would then append below
    row 2000 of a tab that holds nothing.
    """
    data = row_data(row.cells())
    data["values"][_APPROVED]["dataValidation"] = _STRICT_BOOLEAN
    return data


def _fitting(missing: Sequence[PendingRow]) -> tuple[list[PendingRow], list[dict[str, Any]]]:
    """Return the first rows that fit into one body, measured as the client will encode them; at least one."""
    chosen: list[PendingRow] = []
    cells: list[dict[str, Any]] = []
    room = MAX_BYTES
    for row in missing[:MAX_ROWS]:
        data = _pending_data(row)
        room -= len(json.dumps(data)) + 2
        if room < 0 and chosen:
            break
        chosen.append(row)
        cells.append(data)
    return chosen, cells
