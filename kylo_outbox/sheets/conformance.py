"""The same cases against Google and against the stand-in, and where their answers differ, field by field.

Whoever has an account can show with it that the stand-in behaves as Google does in what the poster relies on. A case is
a batch and what is read afterwards; its outcome is plain data: what was answered, refused, and what then stands where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.cells import row_data
from kylo_outbox.sheets.errors import Rejected
from kylo_outbox.sheets.tab import GridArea

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kylo_outbox.sheets.gateway import GoogleSheets

TAB = 4711
_TEXTS = ("=IMPORTXML(A1)", "1-2", "1E5", "00123", "'x", "TRUE", " a ", "é😀")
_BOX = {"dataValidation": {"condition": {"type": "BOOLEAN"}, "strict": True}}


@dataclass(frozen=True)
class Case:
    """Batches sent one after the other to a fresh tab of 5 rows (one frozen) and 4 columns, with the id `TAB`."""

    name: str
    batches: tuple[tuple[dict[str, Any], ...], ...]


@dataclass(frozen=True)
class Difference:
    """One field of one case that is not the same."""

    case: str
    field: str
    google: Any
    standin: Any


def _write(row: int, *lines: tuple[Any, ...]) -> dict[str, Any]:
    start = {"sheetId": TAB, "rowIndex": row, "columnIndex": 0}
    return {"updateCells": {"start": start, "rows": [row_data(line) for line in lines], "fields": "userEnteredValue"}}


def _append(*lines: tuple[Any, ...]) -> dict[str, Any]:
    return {"appendCells": {"sheetId": TAB, "rows": [row_data(line) for line in lines], "fields": "userEnteredValue"}}


def _marker(metadata_id: int) -> dict[str, Any]:
    given = {
        "metadataId": metadata_id,
        "metadataKey": "kylo.post",
        "metadataValue": f"{metadata_id}.x",
        "location": {"sheetId": TAB},
        "visibility": "DOCUMENT",
    }
    return {"createDeveloperMetadata": {"developerMetadata": given}}


def _rows(kind: str, start: int, end: int) -> dict[str, Any]:
    return {kind: {"range": {"sheetId": TAB, "dimension": "ROWS", "startIndex": start, "endIndex": end}}}


def _area(**bounds: int) -> dict[str, int]:
    return {"sheetId": TAB, **bounds}


_EMPTY = {"range": _area(startRowIndex=1, endRowIndex=5, endColumnIndex=4), "fields": "userEnteredValue"}
_BOXES = {"repeatCell": {"range": _area(startRowIndex=1, startColumnIndex=2), "cell": _BOX, "fields": "dataValidation"}}
_SORT = {"range": _area(startRowIndex=1), "sortSpecs": [{"dimensionIndex": 0, "sortOrder": "ASCENDING"}]}
_BOX_ROW = {"sheetId": TAB, "rows": [{"values": [{}, _BOX]}], "fields": "dataValidation"}
_TWIN = {"addSheet": {"properties": {"title": "Conformance"}}}
_COPY = {"duplicateSheet": {"sourceSheetId": TAB, "newSheetId": TAB + 1}}
_NO_MASK = {"updateCells": {"range": _area(startRowIndex=1), "rows": []}}
_WIDE = tuple(range(5))

CASES = (
    Case("texts stay texts", ((_append(*((text, 1.5, True) for text in _TEXTS)),),)),
    Case("appending goes below the last row and grows the grid", ((_write(2, ("x",)), _append(*"abc")),)),
    Case("appending below boxes without values", ((_BOXES, _append(("a",))),)),
    Case("appending below a box without a value in one row", (({"appendCells": _BOX_ROW}, _append(("a",))),)),
    Case("appending a row wider than the grid", ((_append(_WIDE),),)),
    Case("a batch is whole or not at all", ((_append(("a",)), _TWIN),)),
    Case("a range without rows is emptied", ((_write(1, ("a", 1), ("b", 2)), {"updateCells": _EMPTY}),)),
    Case("deleting all rows that are not frozen", ((_rows("deleteDimension", 1, 5),),)),
    Case("deleting a row moves the rest up", ((_write(1, ("a",), ("b",)), _rows("deleteDimension", 1, 2)),)),
    Case("inserting a row moves the rest down", ((_write(1, ("a",), ("b",)), _rows("insertDimension", 2, 3)),)),
    Case("a marker's id twice in two batches", ((_append(("a",)), _marker(901)), (_append(("b",)), _marker(901)))),
    Case("a marker's id twice in one batch", ((_marker(902), _marker(902)),)),
    Case("sorting moves cells", ((_write(1, ("b", 1), ("a", 2)), {"sortRange": _SORT}),)),
    Case("a tab with a marker is duplicated", ((_append(("a",)), _marker(903), _COPY),)),
    Case("an update without a mask", ((_NO_MASK,),)),
    Case("writing outside the grid", ((_write(7, ("a",)),),)),
    Case("a text over the limit", ((_append(("x" * 50_001,)),),)),
)  # fmt: skip


def run(gateway: GoogleSheets, spreadsheet_id: str) -> dict[str, dict[str, Any]]:
    """Run every case in a tab of its own and return its outcome by name. Some five calls a case.

    Raises:
        Transient, TabProblem: The workbook cannot be used now.
    """
    found = {}
    for case in CASES:
        grid = {"rowCount": 5, "columnCount": 4, "frozenRowCount": 1}
        properties = {"sheetId": TAB, "title": "Conformance", "gridProperties": grid}
        gateway.batch_update(spreadsheet_id, [{"addSheet": {"properties": properties}}])
        try:
            found[case.name] = _outcome(gateway, spreadsheet_id, case)
        finally:
            ids = [tab.sheet_id for tab in gateway.tabs(spreadsheet_id).values() if tab.sheet_id in {TAB, TAB + 1}]
            gateway.batch_update(spreadsheet_id, [{"deleteSheet": {"sheetId": sheet_id}} for sheet_id in ids])
    return found


def differences(google: dict[str, dict[str, Any]], standin: dict[str, dict[str, Any]]) -> Iterator[Difference]:
    """Yield every field of every case in which the two differ."""
    for case in CASES:
        mine, theirs = standin.get(case.name, {}), google.get(case.name, {})
        for field in sorted({*mine, *theirs}):
            if mine.get(field) != theirs.get(field):
                yield Difference(case.name, field, theirs.get(field), mine.get(field))


def _outcome(gateway: GoogleSheets, spreadsheet_id: str, case: Case) -> dict[str, Any]:
    outcome: dict[str, Any] = {}
    for number, batch in enumerate(case.batches, start=1):
        try:
            replies = gateway.batch_update(spreadsheet_id, batch)
            outcome[f"replies {number}"] = [sorted(reply) for reply in replies]
        except Rejected as refused:
            outcome[f"refused {number}"] = refused.message
    tab = gateway.tabs(spreadsheet_id)["Conformance"]
    outcome["grid"] = [tab.row_count, tab.column_count, tab.frozen_rows]
    area = GridArea(TAB, 0, tab.row_count, 0, tab.column_count)
    outcome["values"] = gateway.grids(spreadsheet_id, [area])[0]
    outcome["markers"] = sorted(marker.value for marker in tab.markers)
    return outcome
