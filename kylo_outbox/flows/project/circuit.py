"""The circuit: when most of what arrives fails, the fault lies elsewhere, and burying would only empty the topic."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kylo_outbox.model.delivery import Delivery

_WINDOW = 200
_LEAST = 20
_SHARE = 0.5
_KEYS = 3


class Circuit:
    """Remembers how the last records ended and judges the next failures. One key alone never opens it."""

    def __init__(self) -> None:
        self._last: deque[object] = deque(maxlen=_WINDOW)

    def opens(self, failed: Sequence[Delivery], applied: int) -> bool:
        """Whether `failed`, beside `applied` records that passed, are too many to be set aside."""
        bad = [*(name for name in self._last if name is not None), *map(_name, failed)]
        total = len(self._last) + len(failed) + applied
        return total >= _LEAST and len(bad) >= _SHARE * total and len(set(bad)) >= _KEYS

    def settled(self, failed: Collection[Delivery], applied: int) -> None:
        """Remember what was settled."""
        self._last.extend([None] * min(applied, _WINDOW))
        self._last.extend(map(_name, failed))


def _name(delivery: Delivery) -> object:
    return delivery.hold_key or (delivery.position_key, delivery.position)
