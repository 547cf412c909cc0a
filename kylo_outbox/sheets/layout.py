"""The shape of a tab: header, frozen row, protections; written where it is missing and never again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.tabs import ACTIVE_COLUMNS, PENDING_COLUMNS
from kylo_outbox.sheets.errors import TabProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.sheets.tab import TabInfo

NEW_TAB_ROWS = 100
"""Rows of a new tab. Appending grows a tab by itself, and every empty row counts against the 10,000,000 cells of a
workbook that hundreds of companies may share; the 2,000 of the old system bought nothing."""

_POSITIVE_INT32 = 0x7FFFFFFF


@dataclass(frozen=True)
class Shape:
    """What a tab must look like.

    Attributes:
        columns: The header.
        protected: Columns that only the system writes (0 = A), with the description under which people find them.
        whole: Description of a protection of the whole tab, if only the system writes it.
    """

    columns: tuple[str, ...]
    protected: dict[int, str] = field(default_factory=dict)
    whole: str | None = None


PENDING = Shape(PENDING_COLUMNS, protected={0: "kylo: Row_Hash", 10: "kylo: Processed_At"})
ACTIVE = Shape(ACTIVE_COLUMNS, whole="kylo: rules in force, written by the system")


def new_sheet_id(signature: str) -> int:
    """Return a sheet id of our own choice, so that later sub-requests of the same batch can name the new tab."""
    return int(signature[8:16], 16) & _POSITIVE_INT32 or 1


def new_tab(sheet_id: int, title: str, shape: Shape) -> list[dict[str, Any]]:
    """Return the sub-requests that make a tab and give it its shape."""
    grid = {"rowCount": NEW_TAB_ROWS, "columnCount": len(shape.columns), "frozenRowCount": 1}
    properties = {"sheetId": sheet_id, "title": title, "gridProperties": grid}
    return [
        {"addSheet": {"properties": properties}},
        _header(sheet_id, shape.columns),
        *_protections(sheet_id, shape, ()),
    ]


def missing_shape(tab: TabInfo, header: Sequence[str], shape: Shape) -> list[dict[str, Any]]:
    """Return the sub-requests for what an existing tab lacks; none when it lacks nothing.

    Raises:
        TabProblem: As `check`.
    """
    check(tab, header, shape)
    requests: list[dict[str, Any]] = []
    if tab.column_count < len(shape.columns):
        length = len(shape.columns) - tab.column_count
        requests.append({"appendDimension": {"sheetId": tab.sheet_id, "dimension": "COLUMNS", "length": length}})
    if not any(header):
        requests.append(_header(tab.sheet_id, shape.columns))
    if tab.frozen_rows < 1:
        properties = {"sheetId": tab.sheet_id, "gridProperties": {"frozenRowCount": 1}}
        requests.append(
            {"updateSheetProperties": {"properties": properties, "fields": "gridProperties.frozenRowCount"}}
        )
    return requests + _protections(tab.sheet_id, shape, tab.protections)


def check(tab: TabInfo, header: Sequence[str], shape: Shape) -> None:
    """Refuse a tab that must not be written into.

    Raises:
        TabProblem: The first row holds something else (columns moved or renamed, or another tab), or somebody
            protected cells against us.
    """
    for held in tab.protections:
        if held.bars(len(shape.columns)):
            named = f" ({held.description})" if held.description else ""
            raise TabProblem(
                f"Tab {tab.title!r}: a protection{named} keeps us from writing",
                "Add the account in use to its editors, or remove it (Data > Protect sheets and ranges).",
            )
    if not any(header):
        return
    for position, name in enumerate(shape.columns):
        found = header[position].strip() if position < len(header) else ""
        if found != name:
            letter = chr(ord("A") + position)
            raise TabProblem(
                f"Tab {tab.title!r}: cell {letter}1 holds {found!r} where {name!r} belongs",
                f"Put the columns back in this order: {', '.join(shape.columns)}; own columns may follow to the right.",
            )


def _header(sheet_id: int, columns: Sequence[str]) -> dict[str, Any]:
    bold = {"textFormat": {"bold": True}}
    values = [{"userEnteredValue": {"stringValue": name}, "userEnteredFormat": bold} for name in columns]
    return {
        "updateCells": {
            "start": {"sheetId": sheet_id, "rowIndex": 0, "columnIndex": 0},
            "rows": [{"values": values}],
            "fields": "userEnteredValue,userEnteredFormat.textFormat.bold",
        }
    }


def _protections(sheet_id: int, shape: Shape, held: Sequence[Any]) -> list[dict[str, Any]]:
    wanted: list[tuple[dict[str, int], str]] = []
    if shape.whole is not None and not all(
        any(one.covers(column) for one in held) for column in range(len(shape.columns))
    ):
        wanted.append(({"sheetId": sheet_id}, shape.whole))
    for column, text in shape.protected.items():
        if not any(one.covers(column) for one in held):
            area = {"sheetId": sheet_id, "startColumnIndex": column, "endColumnIndex": column + 1}
            wanted.append((area, text))
    return [{"addProtectedRange": {"protectedRange": {"range": area, "description": text}}} for area, text in wanted]
