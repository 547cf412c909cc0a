"""Reading the next batch while this one is applied: PostgreSQL works meanwhile, and messages become events.

Only in a backlog: whoever takes few records gains nothing. The source is never used by two threads at once.

What left the log unread is told when the records behind it are handed out, and those only to somebody who has settled
everything before them: whoever fills a gap sooner moves positions past records that are still to be applied.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from concurrent.futures import Future

    from kylo_outbox.model.delivery import Delivery, Lost


class Source(Protocol):
    """Where records come from: a member of a consumer group. What it lost lies before the records of the same call."""

    @property
    def assigned(self) -> Collection[tuple[str, int]]: ...  # noqa: D102
    def lost(self) -> Sequence[Lost]: ...  # noqa: D102
    def take(self, limit: int, seconds: float) -> list[Delivery]: ...  # noqa: D102
    def commit(self, deliveries: Sequence[Delivery]) -> None: ...  # noqa: D102
    def pause(self) -> None: ...  # noqa: D102
    def resume(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@dataclass(slots=True)
class _Read:
    """What one call of the source gave, as far as it was not handed out yet."""

    lost: Sequence[Lost]
    deliveries: list[Delivery]


class Ahead:
    """A source that can read on in the background. Everything else waits until that is done."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading ahead")
        self._coming: Future[None] | None = None
        self._ready: deque[_Read] = deque()
        self._lost: list[Lost] = []
        self._paused = False

    @property
    def assigned(self) -> Collection[tuple[str, int]]:
        """(topic, partition) of what is ours now."""
        return self._source.assigned

    def begin(self, limit: int) -> None:
        """Read up to `limit` records in the background, unless some were read already."""
        if self._coming is None and not self._ready:
            self._coming = self._thread.submit(self._read, limit, 0.0)

    def take(self, limit: int, seconds: float, *, in_hand: bool) -> list[Delivery]:
        """What was read ahead, or else what the source has within `seconds`; it is asked once a call while paused.

        Args:
            limit: At most so many records; none with 0.
            seconds: How long to wait for the first.
            in_hand: Whether the caller still has records that came before; then nothing behind a gap is handed out.

        Raises:
            KyloError: what the source raised, also in the background.
        """
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.result()
        if self._paused or not self._ready:
            self._read(max(1, limit), seconds)
        taken: list[Delivery] = []
        while self._ready and len(taken) < limit:
            first = self._ready[0]
            if first.lost and (taken or in_hand):
                break
            self._lost += first.lost
            first.lost = ()
            room = limit - len(taken)
            taken += first.deliveries[:room]
            first.deliveries = first.deliveries[room:]
            if not first.deliveries:
                self._ready.popleft()
        return taken

    def lost(self) -> Sequence[Lost]:
        """What left the log before the records that were taken; told once."""
        lost, self._lost = self._lost, []
        return lost

    def commit(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the offsets behind `deliveries`."""
        self._join()
        self._source.commit(deliveries)

    def pause(self) -> None:
        """Fetch nothing more, but stay a member."""
        self._join()
        self._paused = True
        self._source.pause()

    def resume(self) -> None:
        """Go on fetching."""
        self._join()
        self._paused = False
        self._source.resume()

    def close(self) -> None:
        """Leave; what was read ahead is read again by whoever comes next."""
        self._thread.shutdown(wait=True)
        self._source.close()

    def _read(self, limit: int, seconds: float) -> None:
        deliveries = self._source.take(limit, seconds)
        if deliveries:
            self._ready.append(_Read(self._source.lost(), deliveries))

    def _join(self) -> None:
        """Wait for the background; if it failed, whoever takes next is told."""
        if self._coming is not None:
            wait([self._coming])
