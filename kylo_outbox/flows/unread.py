"""Events that left the outbox before a projector took them: they lie on the log, and come before what is stored.

Whoever goes on with stored events beside the log (a gap is filled in, the direct path catches up) would pass them
otherwise. It takes a group that is behind by more than the outbox keeps, or something that was held for longer than
that and has just been let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from kylo_outbox.model.delivery import NOWHERE, PositionAt, PositionKey

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from kylo_outbox.model.delivery import Delivery

Goals: TypeAlias = "Mapping[PositionKey, PositionAt]"


class Unread:
    """What one projector has to take from the log before the stored events of a topic.

    Args:
        left: In batches, by key, the newest event that was published and is stored no more.
        short_of: Which keys the projector is not known to have taken up to their goals, in steps.
        records: What its group has not read yet of some keys, in batches, each key in its order.
    """

    def __init__(
        self,
        left: Callable[[], Iterable[Goals]],
        short_of: Callable[[Goals], Iterable[Collection[PositionKey]]],
        records: Callable[[Collection[str]], Iterable[Sequence[Delivery]]],
    ) -> None:
        self._left, self._short_of, self._records = left, short_of, records
        self._goals: dict[PositionKey, PositionAt] = {}

    @property
    def keys(self) -> set[str]:
        """Keys of which something is missing, as far as it was looked at."""
        return {key for _, _, key in self._goals}

    def look(self) -> Iterator[None]:
        """Find out what is missing, step by step.

        Raises:
            Transient: not now.
        """
        for goals in self._left():
            for short in self._short_of(goals):
                self._goals |= {key: goals[key] for key in short}
                yield

    def batches(self) -> Iterator[list[Delivery]]:
        """What is missing, as far as the log has it; empty batches while it is looked for.

        Raises:
            Transient: the log cannot be read now.
        """
        if not self._goals:
            return
        for batch in self._records(self.keys):
            yield [each for each in batch if each.position <= self._goals.get(each.position_key, NOWHERE)]
