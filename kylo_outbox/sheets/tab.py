"""What is read of a tab: its shape and the two strips of it that decide what must be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

MARKER_KEY = "kylo.post"
"""Key of the developer metadata that a post leaves beside its rows."""


@dataclass(frozen=True, slots=True)
class Protection:
    """A protected range; `columns` is (first, end) with end exclusive, None for whole rows or the whole tab.

    `can_edit` tells whether our account may write there.
    """

    protected_range_id: int
    description: str
    columns: tuple[int, int] | None
    whole_height: bool
    can_edit: bool = True

    def covers(self, column: int) -> bool:
        """Whether every cell of the column (0 = A) is protected by it."""
        return self.whole_height and (self.columns is None or self.columns[0] <= column < self.columns[1])

    def bars(self, width: int) -> bool:
        """Whether it keeps us from writing somewhere in the first columns."""
        return not self.can_edit and (self.columns is None or self.columns[0] < width)


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

    @property
    def cells(self) -> int:
        """What the tab counts against the limit of a workbook, filled or not."""
        return self.row_count * self.column_count


@dataclass(frozen=True, slots=True)
class TabContents:
    """The first row and column A below it, as texts; `hashes[i]` stands in row i + 2, empty cells are "".

    `lines[i]` is the same row as far as it was read (a Pending tab: A to K), as texts, numbers and truth values.
    Trailing empty cells are left out, as Google does.
    """

    header: tuple[str, ...]
    hashes: tuple[str, ...]
    lines: tuple[tuple[Any, ...], ...] = ()


class GridArea(NamedTuple):
    """A rectangle of a tab by Google's id of the tab: rows and columns from 0, ends exclusive."""

    sheet_id: int
    top: int
    bottom: int
    left: int
    right: int


class Fix(NamedTuple):
    """One cell that the system writes by its place: row and column from 0; "" empties it."""

    row: int
    column: int
    text: str
