"""Ranges, masks and the judge of bodies in the stand-in."""

from __future__ import annotations

from typing import Any

import pytest

from kylo_outbox.sheets.standin import areas, batch, masks, schema, values
from kylo_outbox.sheets.standin.areas import Area
from kylo_outbox.sheets.standin.errors import ApiError, Refusal
from kylo_outbox.sheets.standin.state import Workbook, new_workbook


@pytest.fixture
def book() -> Workbook:
    """Tabs "Sheet1" (1000 x 26) and "O'Brien!" (10 x 3), the second filled in A1, C1 and B3."""
    grid = {"rowCount": 10, "columnCount": 3}
    cell = {"userEnteredValue": {"numberValue": 1.5}}
    start = {"sheetId": 7, "rowIndex": 0, "columnIndex": 0}
    rows = [{"values": [cell, {}, cell]}, {}, {"values": [{}, cell]}]
    requests: list[dict[str, Any]] = [
        {"addSheet": {"properties": {"sheetId": 7, "title": "O'Brien!", "gridProperties": grid}}},
        {"updateCells": {"start": start, "rows": rows, "fields": "userEnteredValue"}},
    ]
    return batch.apply(new_workbook("b", "B"), requests)[0]


@pytest.mark.parametrize(
    ("text", "title", "area"),
    [
        ("Sheet1", "Sheet1", Area(0, 1000, 0, 26)),
        ("'O''Brien!'", "O'Brien!", Area(0, 10, 0, 3)),
        ("'O''Brien!'!A:A", "O'Brien!", Area(0, 10, 0, 1)),
        ("'O''Brien!'!2:3", "O'Brien!", Area(1, 3, 0, 3)),
        ("'O''Brien!'!B2:Z99", "O'Brien!", Area(1, 10, 1, 3)),
        ("A1:B2", "Sheet1", Area(0, 2, 0, 2)),
        ("Sheet1!B2:A1", "Sheet1", Area(0, 2, 0, 2)),
        ("Sheet1!z5", "Sheet1", Area(4, 5, 25, 26)),
        ("Sheet1!B3:C", "Sheet1", Area(2, 1000, 1, 3)),
    ],
)
def test_a1_notation_is_found(book, text, title, area):
    """Tabs and ranges in every form resolve to half-open indexes, clipped to the grid."""
    sheet, found = areas.find(book, text)
    assert (sheet.title, found) == (title, area)


@pytest.mark.parametrize(
    "text", ["Nope!A1", "'Nope'", "Sheet1!", "Sheet1!A", "Sheet1!A0", "Sheet1!?", "Sheet1!A1:", ""]
)
def test_unknown_ranges_are_refused(book, text):
    """What names no tab or no range is refused as Google refuses it."""
    with pytest.raises(ApiError, match="Unable to parse range"):
        areas.find(book, text)


def test_a_range_outside_the_grid_is_refused(book):
    """A range that begins outside the grid is no range."""
    with pytest.raises(ApiError, match=r"exceeds grid limits\. Max rows: 1000, max columns: 26"):
        areas.find(book, "Sheet1!A1001:B1002")


def test_columns_have_letters():
    """Letters and numbers of columns agree both ways."""
    assert [areas.letters(i) for i in (0, 25, 26, 51, 701, 702)] == ["A", "Z", "AA", "AZ", "ZZ", "AAA"]
    assert all(areas.number(areas.letters(i)) == i for i in range(1_000))


def test_values_are_trimmed_and_turned(book):
    """Empty ends are left out, gaps are empty texts, columns can be asked for, nothing has no values."""
    name = "'O''Brien!'"
    by_rows = values.value_range(book, name, render="UNFORMATTED_VALUE", dimension="ROWS")
    assert by_rows == {"range": f"{name}!A1:C10", "majorDimension": "ROWS", "values": [[1.5, "", 1.5], [], ["", 1.5]]}
    by_columns = values.value_range(book, name, render="FORMATTED_VALUE", dimension="COLUMNS")
    assert by_columns["values"] == [["1.5"], ["", "", "1.5"], ["1.5"]]
    nothing = values.value_range(book, "Sheet1!A1:B2", render="FORMULA", dimension="ROWS")
    assert nothing == {"range": "Sheet1!A1:B2", "majorDimension": "ROWS"}


def test_masks_cut_answers():
    """Dots, slashes, parentheses and lists select; what is not there stays away."""
    answer = {"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4, "g": 5}, {"g": 6}]}
    assert masks.project(answer, masks.parse("a,b.c,e(f)")) == {"a": 1, "b": {"c": 2}, "e": [{"f": 4}, {}]}
    assert masks.project(answer, masks.parse("b/d,x")) == {"b": {"d": 3}}
    assert masks.project(answer, masks.parse("*")) == answer


@pytest.mark.parametrize("mask", ["", "a,", "a(b", "a)b", "a..b", "(a)", "a b;", "a.", "a()"])
def test_broken_masks_are_refused(mask):
    """A mask that cannot be read is refused instead of meaning everything."""
    with pytest.raises(ApiError):
        masks.parse(mask)


def test_masks_of_updates_name_known_fields():
    """An update needs a mask, and the mask only fields that exist."""
    with pytest.raises(Refusal, match="At least one field"):
        masks.update_mask("", "CellData")
    with pytest.raises(Refusal, match="cannot find field 'bald'"):
        masks.update_mask("userEnteredFormat.textFormat.bald", "CellData")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"request": []}, 'Unknown name "request": Cannot find field'),
        ({"requests": [{"addSheets": {}}]}, "Unknown name \"addSheets\": Cannot find field at 'requests[0]'"),
        ({"requests": {}}, "a list belongs here"),
        ({"requests": [{"addSheet": {"properties": {"sheetId": "7"}}}]}, "Invalid value (int32)"),
        ({"requests": [{"addSheet": {"properties": {"sheetId": 2**31}}}]}, "Invalid value (int32)"),
        ({"requests": [{"addSheet": {"properties": {"sheetId": True}}}]}, "Invalid value (int32)"),
        ({"requests": [{"addSheet": {"properties": {"sheetType": "GRIDS"}}}]}, "properties.sheetType"),
        ({"requests": [{"addSheet": {}, "deleteSheet": {}}]}, "only one of addSheet, deleteSheet can be set"),
        ({"requests": [[]]}, "an object belongs here"),
        ([], "an object belongs here"),
    ],
)
def test_bodies_are_judged(body, text):
    """Unknown names, wrong types and two kinds in one request are refused with their path."""
    with pytest.raises(ApiError) as raised:
        schema.check("BatchUpdateSpreadsheetRequest", body)
    assert text in raised.value.message


def test_a_value_has_one_kind():
    """A cell cannot be a text and a number at once."""
    with pytest.raises(ApiError, match="oneof"):
        schema.check("ExtendedValue", {"stringValue": "x", "numberValue": 1})


def test_many_faults_are_told_up_to_ten():
    """A body full of faults is refused with the first ten."""
    with pytest.raises(ApiError) as raised:
        schema.check("BatchUpdateSpreadsheetRequest", {"requests": [{"x": 1}] * 50})
    assert raised.value.message.count("Unknown name") == 10
