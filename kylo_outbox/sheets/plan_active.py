"""The Active tab: a rewrite of a fixed range, harmless when repeated. Pure: no call, no clock.

Rows are never deleted: Google refuses to delete all rows that are not frozen. The range is written with the rules and
what lies below them is emptied.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.tabs import ACTIVE_COLUMNS, batch_signature, post_marker
from kylo_outbox.sheets import layout
from kylo_outbox.sheets.cells import row_data
from kylo_outbox.sheets.marking import marker_requests
from kylo_outbox.sheets.plan import MAX_BYTES, PostPlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kylo_outbox.model.tabs import ActiveRow
    from kylo_outbox.sheets.tab import TabInfo


def plan_active(
    *,
    company_id: str,
    title: str,
    ordinal: int,
    tab: TabInfo | None,
    header: Sequence[str],
    rows: Sequence[ActiveRow],
    version: int,
) -> PostPlan:
    """Plan the rewrite of an Active tab with the rules in force.

    Args:
        company_id: Owner of the rules and of the tab.
        title: Title of the tab.
        ordinal: The post's own number in (company, tab).
        tab: What `GoogleSheets.tabs` shows of it; None when there is no such tab, which adds it.
        header: Its first row.
        rows: The rules in the order in which they are shown.
        version: Version of the set of rules; with the ordinal it makes A, B, A three posts.

    Raises:
        TabProblem: The first row holds something else than our header.
    """
    hashes = tuple(hashlib.sha256(json.dumps(row.cells()).encode()).hexdigest()[:32] for row in rows)
    signature = batch_signature(company_id, title, ordinal, hashes, ruleset_version=version)
    marker = post_marker(ordinal, signature)
    if tab is None:
        sheet_id = layout.new_sheet_id(signature)
        shape, height = layout.new_tab(sheet_id, title, layout.ACTIVE), layout.NEW_TAB_ROWS
    else:
        sheet_id, height = tab.sheet_id, tab.row_count
        shape = layout.missing_shape(tab, header, layout.ACTIVE)
    if (more := len(rows) + 1 - height) > 0:
        shape.append({"appendDimension": {"sheetId": sheet_id, "dimension": "ROWS", "length": more}})
        height += more
    parts = list(_parts(sheet_id, rows, height))
    parts[0] = [*shape, *parts[0]]
    parts[-1] += marker_requests(sheet_id, signature, marker, tab.markers if tab else ())
    columns = max(len(ACTIVE_COLUMNS), tab.column_count if tab else 0)
    return PostPlan(
        requests=tuple(parts[-1]),
        before=tuple(tuple(part) for part in parts[:-1]),
        hashes=hashes,
        remaining=0,
        ordinal=ordinal,
        signature=signature,
        marker=marker,
        sheet_id=sheet_id,
        grown=height * columns - (tab.cells if tab else 0),
    )


def _parts(sheet_id: int, rows: Sequence[ActiveRow], height: int) -> Iterator[list[dict[str, Any]]]:
    """The range in pieces that fit into a body; the last one reaches to the end of the tab and empties the rest."""
    cells = [row_data(row.cells()) for row in rows]
    sizes = [len(json.dumps(data)) + 2 for data in cells]
    start = 0
    while True:
        end, room = start, MAX_BYTES
        while end < len(cells) and (room >= sizes[end] or end == start):
            room -= sizes[end]
            end += 1
        bottom = height if end == len(cells) else end + 1
        area = {
            "sheetId": sheet_id,
            "startRowIndex": start + 1,
            "endRowIndex": bottom,
            "startColumnIndex": 0,
            "endColumnIndex": len(ACTIVE_COLUMNS),
        }
        # A range without rows is emptied whole.
        update = {"range": area, "rows": cells[start:end], "fields": "userEnteredValue"}
        yield [{"updateCells": update}] if bottom > start + 1 else []
        start = end
        if end == len(cells):
            return
