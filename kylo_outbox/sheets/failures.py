"""From what the transport or Google said to one of our errors: applied, not applied, or not known."""

from __future__ import annotations

import email.utils
import json
import re
import time
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.errors import (
    DEFAULT_RETRY_SECONDS,
    NotAuthorised,
    NotSent,
    QuotaExceeded,
    ReadFailed,
    Rejected,
    SheetUnavailable,
    WriteUnknown,
)

if TYPE_CHECKING:
    from googleapiclient.errors import HttpError

    from kylo_outbox.model.errors import KyloError
    from kylo_outbox.sheets.transport import NoAnswer, NoConnection

QUOTA_RETRY_SECONDS = 5.0
"""Wait after a 429 without a Retry-After header; Google refills its quota every minute."""

MAX_RETRY_SECONDS = 300.0
"""A longer Retry-After is not believed: the caller would look dead."""

_QUOTA_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"}
_ACCESS_REMEDY = "Check that the machine reaches it (proxy, firewall, KYLO_SHEETS_ENDPOINT)."
_SERVER_ERROR = 500


def of_connection(error: NoConnection) -> KyloError:
    """Nothing was sent."""
    return NotSent(str(error), _ACCESS_REMEDY)


def of_silence(error: NoAnswer, *, write: bool) -> KyloError:
    """Sent, and no complete answer."""
    return WriteUnknown(str(error)) if write else ReadFailed(str(error))


def of_garbage(*, write: bool) -> KyloError:
    """A success status with a body that is no JSON: a write most likely took effect, but it is not known."""
    detail = "the answer was no JSON"
    return WriteUnknown(detail) if write else ReadFailed(detail)


def of_credentials(detail: str, *, retryable: bool) -> KyloError:
    """Google's sign-in refused or was away; the request itself was not sent."""
    if retryable:
        return NotSent(f"signing in failed ({detail})", _ACCESS_REMEDY)
    return NotAuthorised(f"signing in was refused ({detail})", "Check the service account and its key.")


def of_answer(error: HttpError, *, write: bool, spreadsheet_id: str | None, account: str | None) -> KyloError:
    """Return the error for an HTTP status of 300 and above."""
    status = int(error.resp.status)
    message, reasons = _read(error.content)
    if status == 429 or (status == 403 and reasons & _QUOTA_REASONS):  # noqa: PLR2004
        return QuotaExceeded(message, retry_after(error.resp, QUOTA_RETRY_SECONDS))
    if status >= _SERVER_ERROR:
        detail = f"{status} {message}"
        return WriteUnknown(detail) if write else ReadFailed(detail, retry_after(error.resp, DEFAULT_RETRY_SECONDS))
    if status == 401:  # noqa: PLR2004
        return NotAuthorised("the credentials were refused", "Check the service account and its key.")
    # A protected cell is the fault of one tab; every other 403 is of the whole workbook.
    if status in {403, 404} and spreadsheet_id is not None and "protected cell" not in message:
        return _unavailable(status, message, spreadsheet_id, account)
    if status in {408, 409}:
        # Answers of a server that gave up in the middle: for a write this is no promise of any kind.
        return WriteUnknown(f"{status} {message}") if write else ReadFailed(f"{status} {message}")
    return Rejected(message, _named_index(message))


def retry_after(headers: Any, otherwise: float) -> float:
    """Return the seconds of a Retry-After header (a number or a date), between 0 and `MAX_RETRY_SECONDS`."""
    text = headers.get("retry-after")
    if text is None:
        return otherwise
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return otherwise
    return min(max(seconds, 0.0), MAX_RETRY_SECONDS) if seconds == seconds else otherwise  # noqa: PLR0124 - NaN


def _unavailable(status: int, message: str, spreadsheet_id: str, account: str | None) -> SheetUnavailable:
    share = f"Share it with {account or 'the account in use'} as an editor, or correct the company's spreadsheet id."
    if status == 404:  # noqa: PLR2004
        return SheetUnavailable(f"Google knows no workbook {spreadsheet_id}", share)
    return SheetUnavailable(f"Workbook {spreadsheet_id} may not be used ({message})", share)


def _read(content: bytes | str) -> tuple[str, set[str]]:
    """Return Google's message and its machine-readable reasons, of whatever shape the body is."""
    try:
        fault = json.loads(content)["error"]
        message = str(fault["message"])
    except (ValueError, KeyError, TypeError):
        return "no readable explanation", set()
    parts = [*fault.get("errors", ()), *fault.get("details", ())]
    return message, {str(part["reason"]) for part in parts if isinstance(part, dict) and "reason" in part}


def _named_index(message: str) -> int | None:
    found = re.match(r"Invalid requests\[(\d+)\]", message)
    return int(found[1]) if found else None
