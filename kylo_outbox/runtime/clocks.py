"""Whether clocks jump: a wall clock must go on as the steady one does, and agree with the database's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

JUMP: Final = 2.0
"""Seconds. A time server that slews changes less than that between two looks."""


class _Hand:
    """One clock against the steady one."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self.jump: tuple[float, float] | None = None

    def look(self, began: float, reading: float, ended: float) -> None:
        # Being stopped while the clock was read is no jump.
        offset, doubt = reading - (began + ended) / 2, (ended - began) / 2
        if self._offset is not None and abs(offset - self._offset) > JUMP + doubt:
            self.jump = (offset - self._offset, ended)
        self._offset = offset


class ClockWatch:
    """Compares this machine's clock and the control database's with the steady clock, look by look.

    Args:
        wall: This machine's clock, seconds since 1970.
        steady: A clock that never jumps.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._hands = {"this machine": _Hand(), "the control database": _Hand()}

    def look(self, database: Callable[[], float]) -> dict[str, Any]:
        """For the heartbeat: `difference` (database minus this machine, seconds) and the last jump of each clock.

        Args:
            database: Asks the database for its clock.
        """
        began = self._steady()
        here = self._wall()
        between = self._steady()
        there = database()
        ended = self._steady()
        self._hands["this machine"].look(began, here, between)
        self._hands["the control database"].look(between, there, ended)
        doubt = ended - began
        difference = there - here - doubt / 2
        return {
            # What may be the way there and back is no difference.
            "difference": difference if abs(difference) > doubt else 0.0,
            "jumps": {
                whose: {"seconds": hand.jump[0], "ago": ended - hand.jump[1]}
                for whose, hand in self._hands.items()
                if hand.jump is not None
            },
        }
