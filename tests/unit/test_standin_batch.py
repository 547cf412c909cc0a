"""batchUpdate of the stand-in: whole or not at all, in order, refused in Google's words."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kylo_outbox.sheets.standin import batch, cells, render
from kylo_outbox.sheets.standin.errors import ApiError
from kylo_outbox.sheets.standin.state import Workbook, new_workbook

VALUE = "userEnteredValue"


@pytest.fixture
def book() -> Workbook:
    """A workbook with one tab of 10 rows, one frozen, filled from A1 to B3."""
    return run(
        new_workbook("book", "Book"),
        {"addSheet": {"properties": {"sheetId": 7, "title": "T", "gridProperties": grid(10, 5, frozenRowCount=1)}}},
        write(0, ["h1", "h2"], ["a", 1.0], ["b", True]),
    )


def grid(rows: int, columns: int, **more: int) -> dict[str, int]:
    """Sizes of a grid."""
    return {"rowCount": rows, "columnCount": columns, **more}


def line(*values: Any) -> dict[str, Any]:
    """One row of typed cells; None is an empty one."""
    kinds = {str: "stringValue", float: "numberValue", bool: "boolValue"}
    return {"values": [{} if v is None else {VALUE: {kinds[type(v)]: v}} for v in values]}


def write(row: int, *rows: list[Any]) -> dict[str, Any]:
    """An updateCells from column A."""
    start = {"sheetId": 7, "rowIndex": row, "columnIndex": 0}
    return {"updateCells": {"start": start, "rows": [line(*held) for held in rows], "fields": VALUE}}


def append(*rows: list[Any]) -> dict[str, Any]:
    """An appendCells."""
    return {"appendCells": {"sheetId": 7, "rows": [line(*held) for held in rows], "fields": VALUE}}


def rows_of(start: int, end: int, dimension: str = "ROWS") -> dict[str, Any]:
    """A DimensionRange."""
    return {"sheetId": 7, "dimension": dimension, "startIndex": start, "endIndex": end}


def run(book: Workbook, *requests: dict[str, Any]) -> Workbook:
    """Apply a batch."""
    return batch.apply(book, list(requests))[0]


def shown(book: Workbook) -> list[list[Any]]:
    """Values of the tab."""
    values: list[list[Any]] = render.plain(book)["tabs"][1]["values"]
    return values


def refused(book: Workbook, *requests: dict[str, Any]) -> str:
    """Apply a batch that must fail, show that nothing of it is left, and return the message."""
    before = copy.deepcopy(render.spreadsheet(book, "", [], grid_data=True))
    with pytest.raises(ApiError) as raised:
        run(book, *requests)
    assert raised.value.code == 400
    assert render.spreadsheet(book, "", [], grid_data=True) == before
    return raised.value.message


def test_a_batch_is_applied_whole_or_not_at_all(book):
    """A refusal in the last sub-request undoes every kind of change before it."""
    metadata = {"metadataKey": "k", "visibility": "DOCUMENT", "location": {"sheetId": 7}}
    message = refused(
        book,
        append(["x"]),
        {"insertDimension": {"range": rows_of(1, 3)}},
        {"addProtectedRange": {"protectedRange": {"range": {"sheetId": 7}}}},
        {"createDeveloperMetadata": {"developerMetadata": metadata}},
        {"updateSheetProperties": {"properties": {"sheetId": 7, "title": "new"}, "fields": "title"}},
        {"deleteSheet": {"sheetId": 0}},
        {"addSheet": {"properties": {"title": "new"}}},
    )
    assert message == (
        'Invalid requests[6].addSheet: A sheet with the name "new" already exists. Please enter another name.'
    )


def test_sub_requests_are_applied_in_order(book):
    """A tab can be made, filled and renamed in one batch."""
    after = run(
        book,
        append(["c"]),
        {"deleteDimension": {"range": rows_of(1, 3)}},
        {"updateSheetProperties": {"properties": {"sheetId": 7, "title": "new"}, "fields": "title"}},
    )
    assert after.sheets[1].title == "new"
    assert shown(after) == [["h1", "h2"], ["c"]]
    assert shown(book)[1] == ["a", 1]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"deleteDimension": {"range": rows_of(1, 10)}}, "You can't delete all non-frozen rows on the sheet."),
        ({"deleteDimension": {"range": rows_of(0, 10)}}, "You can't delete all the rows on the sheet."),
        ({"deleteDimension": {"range": rows_of(3, 11)}}, "there are 10"),
        ({"deleteSheet": {"sheetId": 99}}, "Invalid requests[0].deleteSheet: No grid with id: 99"),
        ({"addSheet": {"properties": {"sheetId": 7}}}, 'A sheet with the id "7" already exists.'),
        ({"addSheet": {"properties": {"title": "t"}}}, 'A sheet with the name "t" already exists.'),
        (write(10, ["x"]), "exceeds grid limits. Max rows: 10, max columns: 5"),
        (write(0, ["x"] * 6), "exceeds grid limits"),
        (append(["x"] * 6), "the sheet has 5 columns"),
        (append(["x" * 50_001]), "more than the maximum of 50000 characters in a single cell"),
        ({"appendCells": {"sheetId": 7, "rows": [line("x")]}}, "At least one field must be listed in 'fields'."),
        ({"appendCells": {"sheetId": 7, "rows": [line("x")], "fields": "nonsense"}}, "cannot find field 'nonsense'"),
        ({"appendDimension": {"sheetId": 7, "dimension": "ROWS", "length": 10_000_000}}, "limit of 10000000 cells"),
        ({"appendDimension": {"sheetId": 7, "length": 1}}, "dimension must be ROWS or COLUMNS"),
        ({"updateSheetProperties": {"properties": {"sheetId": 7, "title": "Sheet1"}, "fields": "title"}}, "Sheet1"),
        ({}, "No request set."),
        ({"addChart": {}}, "stand-in does not know this request"),
        ({"deleteProtectedRange": {"protectedRangeId": 1}}, "No protected range with id: 1"),
        ({"insertDimension": {"range": rows_of(11, 12)}}, "is after last row/column"),
        ({"addProtectedRange": {"protectedRange": {"range": {"sheetId": 7, "endRowIndex": 11}}}}, "grid limits"),
        ({"createDeveloperMetadata": {"developerMetadata": {"metadataKey": "k"}}}, "visibility"),
    ],
)
def test_refusals_are_told_as_google_tells_them(book, request_, text):
    """Each refusal names the sub-request and its reason, and leaves the workbook as it was."""
    message = refused(book, request_)
    assert message.startswith("Invalid requests[0]")
    assert text in message


def test_an_empty_batch_and_the_last_tab_are_refused(book):
    """A batch needs a request, a workbook a tab."""
    assert refused(book) == "Must specify at least one request."
    alone = new_workbook("b", "B")
    assert "You can't remove all the sheets" in refused(alone, {"deleteSheet": {"sheetId": 0}})


def test_append_goes_below_the_last_row_with_data_and_grows_the_grid(book):
    """Appending finds the end by itself and adds rows to the grid when there are not enough."""
    after = run(book, *[append([f"r{i}"]) for i in range(9)])
    assert [row[0] for row in shown(after)] == ["h1", "a", "b", *(f"r{i}" for i in range(9))]
    assert after.sheets[1].row_count == 12


def test_a_box_without_a_value_counts_as_data(book):
    """TRUE/FALSE rules on empty rows push appended rows below them, the harder of two readings of Google."""
    area = {"sheetId": 7, "startRowIndex": 5, "endRowIndex": 6, "startColumnIndex": 0, "endColumnIndex": 1}
    rule = {"condition": {"type": "BOOLEAN"}, "strict": True}
    after = run(book, {"setDataValidation": {"range": area, "rule": rule}}, append(["below"]))
    assert shown(after)[6] == ["below"]
    cleared = run(book, {"setDataValidation": {"range": area, "rule": rule}}, {"setDataValidation": {"range": area}})
    assert shown(run(cleared, append(["next"])))[3] == ["next"]


def test_a_mask_changes_what_it_names_and_nothing_else(book):
    """Values change without touching formats, nested fields one by one, and a missing value clears."""
    bold = {"userEnteredFormat": {"textFormat": {"bold": True, "italic": True}}}
    start = {"sheetId": 7, "rowIndex": 1, "columnIndex": 0}
    formatted = run(
        book, {"updateCells": {"start": start, "rows": [{"values": [bold]}], "fields": "userEnteredFormat"}}
    )
    after = run(
        formatted,
        {
            "updateCells": {
                "start": start,
                "rows": [{"values": [{}]}],
                "fields": "userEnteredValue,userEnteredFormat.textFormat.italic",
            }
        },
    )
    assert after.sheets[1].rows[1][0] == {"userEnteredFormat": {"textFormat": {"bold": True}}}
    assert formatted.sheets[1].rows[1][0][VALUE] == {"stringValue": "a"}


def test_a_range_without_rows_clears_the_rest(book):
    """An update over a range clears the cells that no row speaks of: the way to empty the tail of a tab."""
    area = {"sheetId": 7, "startRowIndex": 1, "endRowIndex": 10, "startColumnIndex": 0, "endColumnIndex": 5}
    after = run(book, {"updateCells": {"range": area, "rows": [line("only")], "fields": VALUE}})
    assert shown(after) == [["h1", "h2"], ["only"]]
    assert shown(run(book, {"updateCells": {"range": area, "fields": VALUE}})) == [["h1", "h2"]]


def test_repeat_cell_fills_a_range(book):
    """One cell is written to every cell of a range."""
    area = {"sheetId": 7, "startRowIndex": 3, "endRowIndex": 5, "startColumnIndex": 0, "endColumnIndex": 2}
    cell = {VALUE: {"numberValue": 2}}
    assert shown(run(book, {"repeatCell": {"range": area, "cell": cell, "fields": VALUE}}))[3:] == [[2, 2], [2, 2]]


def test_inserted_and_deleted_lines_move_what_is_tied_to_them(book):
    """Cells, protections, metadata of rows and frozen rows follow their rows and columns."""
    area = {"sheetId": 7, "startRowIndex": 1, "endRowIndex": 3, "startColumnIndex": 0, "endColumnIndex": 2}
    tied = {
        "metadataId": 5,
        "metadataKey": "k",
        "visibility": "DOCUMENT",
        "location": {"dimensionRange": rows_of(2, 3)},
    }
    tied_book = run(
        book,
        {"addProtectedRange": {"protectedRange": {"protectedRangeId": 9, "range": area}}},
        {"createDeveloperMetadata": {"developerMetadata": tied}},
    )
    moved = run(
        tied_book,
        {"insertDimension": {"range": rows_of(2, 4)}},
        {"insertDimension": {"range": rows_of(0, 1, "COLUMNS")}},
    )
    assert shown(moved) == [["", "h1", "h2"], ["", "a", 1], [], [], ["", "b", True]]
    held = moved.sheets[1].protections[0]["range"]
    assert (held["startRowIndex"], held["endRowIndex"]) == (1, 5)
    assert (held["startColumnIndex"], held["endColumnIndex"]) == (1, 3)
    assert moved.metadata[5]["location"]["dimensionRange"]["startIndex"] == 4
    cut = run(moved, {"deleteDimension": {"range": rows_of(0, 5)}})
    assert (cut.sheets[1].protections, cut.metadata, cut.sheets[1].frozen_rows) == ([], {}, 0)
    assert cut.sheets[1].row_count == 7


def test_metadata_is_made_changed_found_and_removed(book):
    """Developer metadata is unique by id, found by filter, goes with its tab and is bounded in size."""
    made = {"metadataId": 5, "metadataKey": "k", "metadataValue": "v", "visibility": "DOCUMENT"}
    create = {"createDeveloperMetadata": {"developerMetadata": {**made, "location": {"sheetId": 7}}}}
    with_it = run(book, create)
    assert "already exists" in refused(with_it, create)
    by_value = {"developerMetadataLookup": {"metadataKey": "k", "metadataValue": "v"}}
    changed, replies = batch.apply(
        with_it,
        [
            {
                "updateDeveloperMetadata": {
                    "dataFilters": [by_value],
                    "developerMetadata": {"metadataValue": "w"},
                    "fields": "metadataValue",
                }
            },
            {"deleteDeveloperMetadata": {"dataFilter": by_value}},
        ],
    )
    assert changed.metadata[5]["metadataValue"] == "w"
    assert replies[1] == {}
    assert run(with_it, {"deleteDeveloperMetadata": {"dataFilter": by_value}}).metadata == {}
    assert run(with_it, {"deleteSheet": {"sheetId": 7}}).metadata == {}
    large = {**made, "metadataId": 6, "metadataValue": "x" * 30_000, "location": {"sheetId": 7}}
    assert "may not exceed 30000" in refused(book, {"createDeveloperMetadata": {"developerMetadata": large}})


def test_protections_and_rules_are_kept_and_changed(book):
    """A protection can be renamed and removed; a conditional format is kept; resizing changes nothing."""
    area = {"sheetId": 7, "startColumnIndex": 0, "endColumnIndex": 1}
    kept, replies = batch.apply(
        book,
        [
            {"addProtectedRange": {"protectedRange": {"range": area, "description": "old"}}},
            {"addConditionalFormatRule": {"rule": {"ranges": [area], "booleanRule": {}}}},
            {"autoResizeDimensions": {"dimensions": rows_of(0, 1, "COLUMNS")}},
        ],
    )
    number = replies[0]["addProtectedRange"]["protectedRange"]["protectedRangeId"]
    renamed = {"protectedRangeId": number, "description": "new"}
    after = run(kept, {"updateProtectedRange": {"protectedRange": renamed, "fields": "description"}})
    assert [held["description"] for held in after.sheets[1].protections] == ["new"]
    assert len(after.sheets[1].conditional_formats) == 1
    assert run(after, {"deleteProtectedRange": {"protectedRangeId": number}}).sheets[1].protections == []


def test_tabs_move_and_shrink(book):
    """A tab changes its place, its size and its frozen rows; what falls off the grid is gone."""
    small = {"sheetId": 7, "index": 0, "gridProperties": grid(2, 1)}
    fields = "index,gridProperties(rowCount,columnCount)"
    after = run(book, {"updateSheetProperties": {"properties": small, "fields": fields}})
    assert [sheet.title for sheet in after.sheets] == ["T", "Sheet1"]
    assert render.plain(after)["tabs"][0]["values"] == [["h1"], ["a"]]
    all_frozen = {"sheetId": 7, "gridProperties": {"frozenRowCount": 10}}
    message = refused(
        book, {"updateSheetProperties": {"properties": all_frozen, "fields": "gridProperties.frozenRowCount"}}
    )
    assert "can't freeze all visible rows" in message


@pytest.mark.parametrize(
    ("value", "plain", "text"),
    [
        ({"numberValue": 2.0}, 2, "2"),
        ({"numberValue": -19.99}, -19.99, "-19.99"),
        ({"boolValue": True}, True, "TRUE"),
        ({"stringValue": "00123"}, "00123", "00123"),
        ({"formulaValue": "=1+1"}, "=1+1", "=1+1"),
    ],
)
def test_a_cell_is_shown_plain_and_formatted(value, plain, text):
    """Numbers, truth values and texts have their plain form and the one that people see."""
    cell = {VALUE: value}
    assert cells.unformatted(cell) == plain
    assert cells.formatted(cell) == text
    assert cells.shown(cell)["formattedValue"] == text
