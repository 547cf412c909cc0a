"""One cell: what may be written into it and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.model.tabs import MAX_CELL_UNITS, text_units
from kylo_outbox.sheets.standin.errors import Refusal

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Cell, Row

_COMPUTED = ("effectiveValue", "effectiveFormat", "formattedValue", "hyperlink")


def written(given: dict[str, Any]) -> Cell:
    """Return the user's part of a CellData as it is kept.

    Raises:
        Refusal: A text over the limit, or an error value, which only formulas can give.
    """
    cell = {name: value for name, value in given.items() if name not in _COMPUTED}
    value = cell.get("userEnteredValue")
    if value is None:
        return cell
    text = value.get("stringValue", value.get("formulaValue", ""))
    if text_units(text) > MAX_CELL_UNITS:
        raise Refusal(f"Your input contains more than the maximum of {MAX_CELL_UNITS} characters in a single cell.")
    if "errorValue" in value:
        raise Refusal("An error value cannot be entered")
    if not value or value == {"stringValue": ""}:
        del cell["userEnteredValue"]
    return cell


def is_filled(cell: Cell) -> bool:
    """Tell whether a cell makes its row a row with data.

    A TRUE/FALSE rule does, even without a value: it shows a box, and people report that appending goes below it.
    Whether Google's appendCells agrees is not settled; a plan that works here works either way.
    """
    return "userEnteredValue" in cell or cell.get("dataValidation", {}).get("condition", {}).get("type") == "BOOLEAN"


def row_filled(row: Row) -> bool:
    """Tell whether any cell of the row makes it a row with data."""
    return any(is_filled(cell) for cell in row.values())


def value_of(cell: Cell) -> Any:
    """Return the plain value: text, number, truth value, or None for empty; a formula is its own text."""
    value = cell.get("userEnteredValue")
    return next(iter(value.values())) if value else None


def unformatted(cell: Cell) -> Any:
    """Return the value as UNFORMATTED_VALUE gives it; a whole number has no fraction."""
    value = value_of(cell)
    if value is None:
        return ""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def formatted(cell: Cell) -> str:
    """Return the value as people see it in a cell of the automatic format."""
    value = unformatted(cell)
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)


def shown(cell: Cell) -> dict[str, Any]:
    """Return the CellData that reading a grid gives."""
    if "userEnteredValue" not in cell:
        return dict(cell)
    value = cell["userEnteredValue"]
    effective = {"stringValue": value["formulaValue"]} if "formulaValue" in value else value
    return {**cell, "effectiveValue": effective, "formattedValue": formatted(cell)}
