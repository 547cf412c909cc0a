"""What is tied to rows and columns moves with them when some are inserted or deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Sheet, Workbook


def shift_everything(book: Workbook, sheet: Sheet, *, rows: bool, at: int, by: int) -> None:
    """Move protections, conditional formats and metadata of a sheet; what lost all its cells is dropped.

    Args:
        book: Holds the metadata.
        sheet: Holds the rest.
        rows: Rows (True) or columns were inserted or deleted.
        at: First index inserted or deleted.
        by: How many, negative when deleted.
    """
    names = ("startRowIndex", "endRowIndex") if rows else ("startColumnIndex", "endColumnIndex")
    kept = []
    for protection in sheet.protections:
        area = _shifted(protection.get("range", {}), names, at, by)
        if area is not None:
            kept.append({**protection, "range": area})
    sheet.protections = kept
    formats = []
    for rule in sheet.conditional_formats:
        moved = [_shifted(area, names, at, by) for area in rule["ranges"]]
        if any(area is not None for area in moved):
            formats.append({**rule, "ranges": [area for area in moved if area is not None]})
    sheet.conditional_formats = formats
    _shift_metadata(book, sheet.sheet_id, dimension="ROWS" if rows else "COLUMNS", at=at, by=by)


def _shift_metadata(book: Workbook, sheet_id: int, *, dimension: str, at: int, by: int) -> None:
    for metadata_id, item in list(book.metadata.items()):
        line = item["location"].get("dimensionRange")
        if line is None or line.get("sheetId", 0) != sheet_id or line.get("dimension") != dimension:
            continue
        moved = _shifted(line, ("startIndex", "endIndex"), at, by)
        if moved is None:
            del book.metadata[metadata_id]
        else:
            book.metadata[metadata_id] = {**item, "location": {**item["location"], "dimensionRange": moved}}


def _shifted(area: dict[str, Any], names: tuple[str, str], at: int, by: int) -> dict[str, Any] | None:
    """Return the area after the move, or None when nothing of it is left; open ends stay open."""
    moved = dict(area)
    if names[0] in area:
        moved[names[0]] = _index(area[names[0]], at, by, is_end=False)
    if names[1] in area:
        moved[names[1]] = _index(area[names[1]], at, by, is_end=True)
        if moved[names[1]] <= moved.get(names[0], 0):
            return None
    return moved


def _index(index: int, at: int, by: int, *, is_end: bool) -> int:
    if by > 0:
        return index + by if index > at or (index == at and not is_end) else index
    return max(at, index + by) if index > at else index
