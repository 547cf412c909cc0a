"""Rectangles of a grid: A1 notation, GridRange and DimensionRange, all resolved to half-open indexes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin.errors import ApiError, Refusal

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Sheet, Workbook

_A1 = re.compile(r"(?P<c1>[A-Za-z]{0,3})(?P<r1>\d{0,8})(?P<to>:(?P<c2>[A-Za-z]{0,3})(?P<r2>\d{0,8}))?")


@dataclass(frozen=True, slots=True)
class Area:
    """Rows [top, bottom) and columns [left, right) of one sheet, 0-based."""

    top: int
    bottom: int
    left: int
    right: int


def letters(column: int) -> str:
    """Return the letters of a column (0 = A)."""
    text = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def number(text: str) -> int:
    """Return the column of its letters (A = 0)."""
    value = 0
    for letter in text.upper():
        value = value * 26 + ord(letter) - ord("A") + 1
    return value - 1


def find(book: Workbook, text: str) -> tuple[Sheet, Area]:
    """Resolve A1 notation: a tab name, a range, or both; open ends reach to the end of the grid.

    Raises:
        ApiError: 400, no such tab, no range, or a range that begins outside the grid.
    """
    sheet, rest = _sheet_part(book, text)
    if rest is None:
        return sheet, Area(0, sheet.row_count, 0, sheet.column_count)
    match = _A1.fullmatch(rest)
    if match is None or not (match["c1"] or match["r1"]) or (match["to"] and not (match["c2"] or match["r2"])):
        raise ApiError(400, f"Unable to parse range: {text}")
    area = _area(match, sheet)
    if area is None:
        raise ApiError(400, f"Unable to parse range: {text}")
    if area.top >= sheet.row_count or area.left >= sheet.column_count:
        raise ApiError(
            400,
            f"Range ({text}) exceeds grid limits. Max rows: {sheet.row_count}, max columns: {sheet.column_count}",
        )
    return sheet, Area(area.top, min(area.bottom, sheet.row_count), area.left, min(area.right, sheet.column_count))


def show(sheet: Sheet, area: Area) -> str:
    """Return an area in A1 notation with its tab, quoted where Google quotes."""
    title = sheet.title
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", title) or re.fullmatch(r"[A-Za-z]{1,3}\d+", title):
        title = "'" + title.replace("'", "''") + "'"
    first = f"{letters(area.left)}{area.top + 1}"
    last = f"{letters(area.right - 1)}{area.bottom}"
    return f"{title}!{first}" if first == last else f"{title}!{first}:{last}"


def of_grid_range(sheet: Sheet, given: dict[str, Any]) -> Area:
    """Resolve a GridRange on its sheet; missing ends reach to the end of the grid.

    Raises:
        Refusal: Empty, reversed or outside the grid.
    """
    area = Area(
        given.get("startRowIndex", 0),
        given.get("endRowIndex", sheet.row_count),
        given.get("startColumnIndex", 0),
        given.get("endColumnIndex", sheet.column_count),
    )
    if area.bottom > sheet.row_count or area.right > sheet.column_count or min(area.top, area.left) < 0:
        raise Refusal(
            f"Range ({show(sheet, area) if area.bottom > area.top and area.right > area.left else given}) exceeds "
            f"grid limits. Max rows: {sheet.row_count}, max columns: {sheet.column_count}"
        )
    if area.top >= area.bottom or area.left >= area.right:
        raise Refusal("Invalid range: the end index must be after the start index")
    return area


def check_loose(sheet: Sheet, given: dict[str, Any]) -> None:
    """Check a GridRange that is kept as it is (open ends stay open, so that it grows with the tab)."""
    of_grid_range(sheet, given)


def of_dimension(given: dict[str, Any], size: int) -> tuple[int, int]:
    """Resolve a DimensionRange against the rows or columns there are; returns (start, end).

    Raises:
        Refusal: No dimension named, empty, reversed or outside the grid.
    """
    start, end = given.get("startIndex", 0), given.get("endIndex", size)
    if start < 0 or start >= end:
        raise Refusal("Invalid range: the end index must be after the start index")
    if end > size:
        raise Refusal(f"Cannot use a dimension range that ends at {end}: there are {size}")
    return start, end


def _sheet_part(book: Workbook, text: str) -> tuple[Sheet, str | None]:
    quoted = re.match(r"'((?:[^']|'')+)'(?:!(.*))?$", text, re.DOTALL)
    if quoted is not None:
        title, rest = quoted[1].replace("''", "'"), quoted[2]
    elif "!" in text:
        title, rest = text.split("!", 1)
    else:
        # Without "!" Google takes a tab of this name first, and a range of the first tab second.
        named = book.sheet_named(text)
        return (named, None) if named is not None else (book.sheets[0], text)
    sheet = book.sheet_named(title)
    if sheet is None:
        raise ApiError(400, f"Unable to parse range: {text}")
    return sheet, rest


def _area(match: re.Match[str], sheet: Sheet) -> Area | None:
    if not match["to"]:
        if not (match["c1"] and match["r1"]):
            return None
        top, left = int(match["r1"]) - 1, number(match["c1"])
        return Area(top, top + 1, left, left + 1) if top >= 0 else None
    top = int(match["r1"] or 1) - 1
    bottom = int(match["r2"]) if match["r2"] else sheet.row_count
    left = number(match["c1"]) if match["c1"] else 0
    right = number(match["c2"]) + 1 if match["c2"] else sheet.column_count
    if top < 0 or bottom < 1:
        return None
    rows = sorted((top, bottom - 1)) if match["r2"] else [top, bottom - 1]
    columns = sorted((left, right - 1)) if match["c2"] else [left, right - 1]
    return Area(rows[0], rows[1] + 1, columns[0], columns[1] + 1)
