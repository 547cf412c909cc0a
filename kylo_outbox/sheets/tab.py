"""What is read of a tab: its shape and the two strips of it that decide what must be written."""

from __future__ import annotations

from dataclasses import dataclass

MARKER_KEY = "kylo.post"
"""Key of the developer metadata that a post leaves beside its rows."""


@dataclass(frozen=True, slots=True)
class Protection:
    """A protected range; `columns` is (first, end) with end exclusive, None for whole rows or the whole tab."""

    protected_range_id: int
    description: str
    columns: tuple[int, int] | None
    whole_height: bool

    def covers(self, column: int) -> bool:
        """Whether every cell of the column (0 = A) is protected by it."""
        return self.whole_height and (self.columns is None or self.columns[0] <= column < self.columns[1])


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker of ours on the tab: the id that Google keeps unique in the workbook, and its text."""

    metadata_id: int
    value: str


@dataclass(frozen=True, slots=True)
class TabInfo:
    """Shape of a tab at the moment of reading; people may change it at any time after."""

    sheet_id: int
    title: str
    index: int
    row_count: int
    column_count: int
    frozen_rows: int
    protections: tuple[Protection, ...]
    markers: tuple[Marker, ...]


@dataclass(frozen=True, slots=True)
class TabContents:
    """The first row and column A below it, as texts; `hashes[i]` stands in row i + 2, empty cells are "".

    Trailing empty cells are left out, as Google does.
    """

    header: tuple[str, ...]
    hashes: tuple[str, ...]
