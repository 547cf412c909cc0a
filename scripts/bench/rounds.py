"""Rounds: all contenders in turn, so that each round meets the same machine.

The servers are warm when a bench begins (`suite`), and most contenders are fresh processes on fresh tables each time.
Where a bench keeps its tables over the rounds, a first round that does not count makes them alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


def interleaved(rounds: int, contenders: Mapping[str, Callable[[], T]], *, warm_up: bool = False) -> dict[str, list[T]]:
    """Measure every contender once a round (A, B, A, B ...); their values in the order of the rounds.

    With a single round there is no warm-up: that is for looking, not for judging.
    """
    first = 1 if warm_up and rounds > 1 else 0
    values: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(rounds + first):
        for name, measure in contenders.items():
            value = measure()
            if number >= first:
                values[name].append(value)
    return values
