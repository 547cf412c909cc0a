"""What Google limits besides the request itself: calls a minute, and workbooks that are not shared with the API."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin.errors import forbidden, invalid, quota_exceeded

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTE = 60.0


class Limits:
    """Quotas are off until set, so that a test or a demo is not slowed down by them.

    Args:
        per_minute: Reads and writes allowed in any minute, each; None for no quota.
        clock: Seconds; a test gives its own.
    """

    def __init__(self, per_minute: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._calls: dict[bool, deque[float]] = {True: deque(), False: deque()}
        self.busiest: dict[bool, int] = {True: 0, False: 0}
        self.unshared: set[str] = set()

    def admit(self, spreadsheet_id: str | None, *, write: bool) -> None:
        """Count a call of the API.

        Raises:
            ApiError: 429, too many in this minute (a refused call counts for nothing); 403, not shared.
        """
        calls, now = self._calls[write], self._clock()
        while calls and calls[0] <= now - MINUTE:
            calls.popleft()
        if self.per_minute is not None and len(calls) >= self.per_minute:
            raise quota_exceeded(write=write, limit=self.per_minute)
        calls.append(now)
        self.busiest[write] = max(self.busiest[write], len(calls))
        if spreadsheet_id in self.unshared:
            raise forbidden()

    def set_quota(self, given: Any) -> None:
        """Take `{"per_minute": 60}`, or null for none.

        Raises:
            ApiError: 400, something else.
        """
        wanted = given.get("per_minute") if isinstance(given, dict) and set(given) == {"per_minute"} else False
        if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1):
            raise invalid('A quota is {"per_minute": a positive whole number, or null}')
        self.per_minute = wanted

    def share(self, spreadsheet_id: str, given: Any) -> None:
        """Take `{"shared": true}` or false: whether the API's account may use a workbook.

        Raises:
            ApiError: 400, something else.
        """
        if not isinstance(given, dict) or not isinstance(given.get("shared"), bool) or len(given) != 1:
            raise invalid('Sharing is {"shared": true} or {"shared": false}')
        if given["shared"]:
            self.unshared.discard(spreadsheet_id)
        else:
            self.unshared.add(spreadsheet_id)
