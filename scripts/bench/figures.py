"""What a bench hands back: figures with one value a round, and the goal that each is judged by.

A figure is judged by the median of its rounds and always shown with the smallest and the largest of them.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that the median must keep: `number` is the goal's name, for example P1."""

    number: str
    bound: float
    at_least: bool = True

    def reached(self, value: float) -> bool:
        """Whether a value keeps the bound; the bound itself does."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.number}: {'at least' if self.at_least else 'at most'} {shown(self.bound)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing.

    Attributes:
        name: What it is, for people; unique within its bench.
        unit: Of the values; `x` for a ratio.
        values: One a round, in order; empty when it was not measured.
        goal: What the median is judged by, if anything.
        note: How to read it, or what limits it.
        missing: Why it was not measured; empty when it was.
    """

    name: str
    unit: str
    values: tuple[float, ...] = ()
    goal: Goal | None = None
    note: str = ""
    missing: str = ""

    def __post_init__(self) -> None:
        if bool(self.values) == bool(self.missing):
            raise ValueError(f"{self.name}: a figure has either values or the reason why there are none")
        if not all(math.isfinite(value) for value in self.values):
            raise ValueError(f"{self.name}: {self.values} are not all numbers")

    @property
    def median(self) -> float:
        """The middle value of the rounds."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest round."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest round."""
        return max(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the goal was reached; None without a goal or without values."""
        if self.goal is None or not self.values:
            return None
        return self.goal.reached(self.median)

    @property
    def verdict(self) -> str:
        """`reached`, `not reached`, `not measured` or nothing."""
        if self.missing:
            return "not measured"
        return {True: "reached", False: "not reached", None: ""}[self.reached]

    @property
    def text(self) -> str:
        """Median and unit."""
        return f"{shown(self.median)} {self.unit}".strip() if self.values else "-"

    @property
    def spread(self) -> str:
        """Smallest and largest round."""
        return f"{shown(self.low)} to {shown(self.high)}" if self.values else "-"


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """The ratio of each round: paired, because both of a round met the same machine."""
    return tuple(a / b for a, b in zip(above, below, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; the nearest one, never an invented one.

    Raises:
        ValueError: of nothing there is none.
    """
    if not values:
        raise ValueError("no values, no percentile")
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def shown(value: float) -> str:
    """A number with three significant digits and no exponent."""
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004 - three digits stand before the point
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


@dataclass(slots=True)
class Result:
    """What one bench found, with the seconds it took and the command that repeats it."""

    bench: str
    title: str
    command: str
    figures: list[Figure] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""


def result_from(stored: dict[str, Any]) -> Result:
    """Read a result back from its JSON form."""
    figures = [
        Figure(**{**each, "values": tuple(each["values"]), "goal": Goal(**each["goal"]) if each["goal"] else None})
        for each in stored["figures"]
    ]
    return Result(**{**stored, "figures": figures})
