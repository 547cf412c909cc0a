"""What a topic has just refused for its size: a record that is surely as large need not be sent to know the answer.

Every refusal costs a new client, and finding the record among its neighbours costs several. With one record in two
hundred too large a lane would do little else.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kylo_outbox.store.outbox import Row

# The limit of a topic may be raised at any time; so long what it refused before is taken for its answer.
TRUSTED: Final = 30.0


class Sizes:
    """The smallest record of each topic that stood alone and was too large, for `TRUSTED` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[str, tuple[Row, float]] = {}

    @property
    def known(self) -> bool:
        """Whether anything was refused for its size of late."""
        return bool(self._refused)

    def refused(self, row: Row) -> None:
        """A record that was alone in its batch was too large."""
        before = self._refused.get(row[1])
        if before is None or self._clock() - before[1] > TRUSTED or len(row[4]) <= len(before[0][4]):
            self._refused[row[1]] = (row, self._clock())

    def passed(self, rows: Iterable[Row]) -> None:
        """Rows were taken by their topics; where one is as large as what was refused before, the limit is another."""
        for row in rows:
            before = self._refused.get(row[1])
            if before is not None and _as_large(row, before[0]):
                del self._refused[row[1]]

    def reason(self, row: Row) -> str | None:
        """Why the topic would refuse a row: it has refused one that was not larger in any part; None if it may pass."""
        before = self._refused.get(row[1])
        if before is None:
            return None
        smaller, at = before
        if self._clock() - at > TRUSTED:
            del self._refused[row[1]]
            return None
        if not _as_large(row, smaller):
            return None
        return (
            f"MSG_SIZE_TOO_LARGE: Message size too large: not sent, because {row[1]} has just refused a record with a "
            f"payload of {len(smaller[4])} bytes"
        )


def _as_large(row: Row, other: Row) -> bool:
    # Part by part, because the sizes of numbers before each part grow with it: a sum could mislead by a byte.
    return (
        len(row[4]) >= len(other[4])
        and len(row[2]) >= len(other[2])
        and len(row[3]) >= len(other[3])
        and row[0] >= other[0]
        and row[8] >= other[8]
        and (other[5] is None or row[5] == other[5])
    )
