"""Developer metadata: where it lies and which data filters find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin.errors import Refusal

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Workbook

_PLAIN = ("metadataId", "metadataKey", "metadataValue", "visibility")


def located(book: Workbook, given: dict[str, Any]) -> dict[str, Any]:
    """Return a checked location with its type.

    Raises:
        Refusal: None, more than one, or one that does not exist.
    """
    named = [name for name in ("spreadsheet", "sheetId", "dimensionRange") if name in given]
    if len(named) != 1:
        raise Refusal("Developer metadata needs exactly one location: spreadsheet, sheetId or dimensionRange")
    if named[0] == "spreadsheet":
        return {"spreadsheet": True, "locationType": "SPREADSHEET"}
    if named[0] == "sheetId":
        if book.sheet(given["sheetId"]) is None:
            raise Refusal(f"No sheet with id: {given['sheetId']}")
        return {"sheetId": given["sheetId"], "locationType": "SHEET"}
    line = given["dimensionRange"]
    sheet = book.sheet(line.get("sheetId", 0))
    if sheet is None or line.get("dimension") not in {"ROWS", "COLUMNS"}:
        raise Refusal("Developer metadata on a dimension needs a sheet that exists and ROWS or COLUMNS")
    size = sheet.row_count if line["dimension"] == "ROWS" else sheet.column_count
    start = line.get("startIndex", 0)
    if line.get("endIndex") != start + 1 or not 0 <= start < size:
        raise Refusal("Developer metadata lies on exactly one row or column of the grid")
    return {"dimensionRange": line, "locationType": "ROW" if line["dimension"] == "ROWS" else "COLUMN"}


def matching(book: Workbook, lookup: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the metadata that fits every field of a DeveloperMetadataLookup, by id."""
    return [item for _id, item in sorted(book.metadata.items()) if _fits(item, lookup)]


def lookup_of(data_filter: dict[str, Any]) -> dict[str, Any]:
    """Return the lookup of a data filter.

    Raises:
        Refusal: The filter asks for a range; the stand-in finds metadata by its own fields only.
    """
    lookup = data_filter.get("developerMetadataLookup")
    if lookup is None:
        raise Refusal("the local stand-in finds developer metadata by developerMetadataLookup only")
    found: dict[str, Any] = lookup
    return found


def _fits(item: dict[str, Any], lookup: dict[str, Any]) -> bool:
    if any(name in lookup and item.get(name) != lookup[name] for name in _PLAIN):
        return False
    location = item["location"]
    if "locationType" in lookup and location["locationType"] != lookup["locationType"]:
        return False
    wanted = lookup.get("metadataLocation")
    if wanted is None:
        return True
    if lookup.get("locationMatchingStrategy") == "INTERSECTING_LOCATION":
        return _sheet_of(wanted) is None or _sheet_of(location) in {None, _sheet_of(wanted)}
    return all(location.get(name) == value for name, value in wanted.items())


def _sheet_of(location: dict[str, Any]) -> int | None:
    found: int | None = location.get("sheetId", location.get("dimensionRange", {}).get("sheetId"))
    return found
