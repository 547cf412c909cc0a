"""What a run is asked for, and what came of it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.faults import Fault
    from tests.soak.recovery import Recovery
    from tests.soak.verifier import Verdict


class Parts:
    """Where the time of a run goes: seconds of each part, in their order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block as (more of) this part."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun


@dataclass
class Wanted:
    """What a run is asked for: it goes on until all of the figures are reached."""

    seed: int
    seconds: float = 0.0
    faults: int = 0
    events: int = 0
    plant: str = ""


@dataclass
class Outcome:
    """What came of it."""

    verdict: Verdict
    faults: list[Fault]
    recoveries: list[Recovery]
    committed: int
    rolled_back: int
    interrupted: int
    released: int
    discarded: int
    # Writers, people or processes that failed by themselves.
    broken: list[str] = field(default_factory=list)
    # Seconds of each part of the run (`Parts`).
    parts: dict[str, float] = field(default_factory=dict)
    # Whether all was done, or nothing moved any more: only then is what is missing lost.
    settled: bool = True

    @property
    def under_fire(self) -> float:
        """Seconds from the first fault until all of them are mended."""
        return self.parts["fire"]

    @property
    def seconds(self) -> float:
        """Seconds from the first fault to the verdict."""
        return sum(self.parts.values()) - self.parts["begin"]

    @property
    def repeats(self) -> int:
        """Repeats that projectors have met and absorbed."""
        return sum(self.verdict.absorbed.values())

    @property
    def good(self) -> bool:
        """Whether every promise was kept and something was proved: without repeats nothing was."""
        return not self.verdict.found and not self.broken and self.repeats > 0
