"""All workbooks of one stand-in: in memory to answer from, on disk before anything is answered."""

from __future__ import annotations

import re
import secrets
import string
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import batch
from kylo_outbox.sheets.standin.errors import not_found
from kylo_outbox.sheets.standin.state import Workbook, new_workbook
from kylo_outbox.sheets.standin.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from kylo_outbox.sheets.standin.guarding import User

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ALPHABET = string.ascii_letters + string.digits + "-_"


class Books:
    """Not safe between threads: the server calls it from its one event loop.

    Args:
        directory: Where the workbooks are kept.
        strict: True answers 404 for an unknown id, as Google does; otherwise the first use of an id makes an empty
            workbook, so that nobody has to prepare anything.

    Raises:
        OSError: The directory cannot be used.
    """

    def __init__(self, directory: Path, *, strict: bool) -> None:
        self._storage = Storage(directory)
        self._books = self._storage.load()
        self._strict = strict

    def all(self) -> list[Workbook]:
        """Return every workbook, by title."""
        return sorted(self._books.values(), key=lambda book: (book.title, book.spreadsheet_id))

    def existing(self, spreadsheet_id: str) -> Workbook:
        """Return a workbook without making one.

        Raises:
            ApiError: 404.
        """
        book = self._books.get(spreadsheet_id)
        if book is None:
            raise not_found()
        return book

    def get(self, spreadsheet_id: str) -> Workbook:
        """Return a workbook; makes an empty one for an unknown id unless strict.

        Raises:
            ApiError: 404, unknown and strict, or not fit to be an id at all.
        """
        if spreadsheet_id not in self._books and not self._strict and _ID.fullmatch(spreadsheet_id):
            self._keep(None, new_workbook(spreadsheet_id, spreadsheet_id))
        return self.existing(spreadsheet_id)

    def create(self, title: str) -> Workbook:
        """Make a workbook with an id of Google's form."""
        spreadsheet_id = "".join(secrets.choice(_ALPHABET) for _ in range(44))
        return self._keep(None, new_workbook(spreadsheet_id, title or "Untitled spreadsheet"))

    def update(self, spreadsheet_id: str, requests: list[dict[str, Any]], user: User = "api") -> list[dict[str, Any]]:
        """Apply a batch whole as this user, put it on disk, and return the replies.

        Raises:
            ApiError: 404, or 400 or 403 with nothing applied.
        """
        old = self.get(spreadsheet_id)
        new, replies = batch.apply(old, requests, user)
        self._keep(old, new)
        return replies

    def close(self) -> None:
        """Close the file."""
        self._storage.close()

    def _keep(self, old: Workbook | None, new: Workbook) -> Workbook:
        self._storage.save(old, new)
        self._books[new.spreadsheet_id] = new
        return new
