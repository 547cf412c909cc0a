"""Rounds: a warm-up that does not count, then all contenders in turn, so that each round meets the same machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


def interleaved(rounds: int, contenders: Mapping[str, Callable[[], T]], *, warm_up: bool = True) -> dict[str, list[T]]:
    """Measure every contender once a round (A, B, A, B ...); their values in the order of the rounds.

    With a single round there is no warm-up: that is for looking, not for judging.
    """
    values: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(rounds + (1 if warm_up and rounds > 1 else 0)):
        for name, measure in contenders.items():
            value = measure()
            if number > 0 or not warm_up or rounds == 1:
                values[name].append(value)
    return values
