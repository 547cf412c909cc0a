"""Workbooks on disk, in one SQLite file: what was answered is there after kill -9."""

from __future__ import annotations

import json
import sqlite3
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin.state import Row, Sheet, Workbook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TABLES = """
create table if not exists workbook (id text primary key, body text not null) without rowid;
create table if not exists sheet (
    workbook text not null, id integer not null, body text not null, primary key (workbook, id)
) without rowid;
create table if not exists line (
    workbook text not null, sheet integer not null, number integer not null, cells text not null,
    primary key (workbook, sheet, number)
) without rowid;
"""


class Storage:
    """The file `sheets.sqlite3` of a directory; one process at a time, one thread at a time.

    Raises:
        OSError: The directory cannot be made or written, or another stand-in holds it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._db = _open(directory / "sheets.sqlite3")

    def load(self) -> dict[str, Workbook]:
        """Return every workbook by id."""
        books: dict[str, Workbook] = {}
        for spreadsheet_id, body in self._db.execute("select id, body from workbook"):
            books[spreadsheet_id] = self._workbook(spreadsheet_id, json.loads(body))
        return books

    def save(self, old: Workbook | None, new: Workbook) -> None:
        """Write what differs between two states of a workbook; returns when it is on disk.

        Sheets and rows are compared by identity: a batch replaces what it changes and shares the rest.
        """
        name = new.spreadsheet_id
        before = {sheet.sheet_id: sheet for sheet in old.sheets} if old is not None else {}
        self._db.execute("begin immediate")
        try:
            self._db.execute("insert or replace into workbook values (?, ?)", (name, json.dumps(_book_body(new))))
            for sheet in new.sheets:
                was = before.pop(sheet.sheet_id, None)
                if was is not sheet:
                    self._save_sheet(name, was, sheet)
            for gone in before:
                self._db.execute("delete from sheet where workbook = ? and id = ?", (name, gone))
                self._db.execute("delete from line where workbook = ? and sheet = ?", (name, gone))
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def close(self) -> None:
        """Close the file and give up the lock."""
        self._db.close()

    def _save_sheet(self, book: str, old: Sheet | None, new: Sheet) -> None:
        self._db.execute(
            "insert or replace into sheet values (?, ?, ?)", (book, new.sheet_id, json.dumps(_sheet_body(new)))
        )
        self._db.executemany(
            "insert or replace into line values (?, ?, ?, ?)",
            ((book, new.sheet_id, number, json.dumps(row)) for number, row in _changed(old, new)),
        )
        self._db.execute(
            "delete from line where workbook = ? and sheet = ? and number >= ?", (book, new.sheet_id, len(new.rows))
        )

    def _workbook(self, name: str, body: dict[str, Any]) -> Workbook:
        sheets = {
            sheet_id: self._sheet(name, sheet_id, json.loads(text))
            for sheet_id, text in self._db.execute("select id, body from sheet where workbook = ?", (name,))
        }
        metadata = {item["metadataId"]: item for item in body["metadata"]}
        return Workbook(name, body["title"], [sheets[sheet_id] for sheet_id in body["order"]], metadata)

    def _sheet(self, book: str, sheet_id: int, body: dict[str, Any]) -> Sheet:
        sheet = Sheet(sheet_id, **body)
        lines = self._db.execute(
            "select number, cells from line where workbook = ? and sheet = ? order by number", (book, sheet_id)
        )
        for number, cells in lines:
            sheet.put_row(number, {int(column): cell for column, cell in json.loads(cells).items()})
        return sheet


def _open(path: Path) -> sqlite3.Connection:
    db = None
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        # Held from the first write to the end: two servers on one file would each answer from their own memory.
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        db.executescript(_TABLES)
        db.execute("begin immediate")
        db.execute("commit")
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise OSError(f"{path} cannot be used ({error}); is another sheets-emulator running on it?") from error
    return db


def _changed(old: Sheet | None, new: Sheet) -> Iterator[tuple[int, Row]]:
    before = old.rows if old is not None else []
    for number, (was, row) in enumerate(zip_longest(before[: len(new.rows)], new.rows)):
        if was is not row:
            yield number, row


def _book_body(book: Workbook) -> dict[str, Any]:
    return {
        "title": book.title,
        "order": [sheet.sheet_id for sheet in book.sheets],
        "metadata": list(book.metadata.values()),
    }


def _sheet_body(sheet: Sheet) -> dict[str, Any]:
    return {
        "properties": sheet.properties,
        "row_count": sheet.row_count,
        "column_count": sheet.column_count,
        "protections": sheet.protections,
        "conditional_formats": sheet.conditional_formats,
    }
