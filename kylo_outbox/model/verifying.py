"""Comparing what was saved with what became of it: the names of anomalies, and the comparisons themselves. Pure.

The names follow Jepsen's checker for Kafka. `lost`: saved and gone. `duplicated`: took effect twice. `reordered`: after
a later one of its key. `aborted read`: somebody saw what was never committed. `inconsistent`: two places tell
different things under one id. A repeat on the log (a relay that was killed) is none of them: it is counted.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from kylo_outbox.model.delivery import PositionAt
    from kylo_outbox.model.projector import Effect

Anomaly = Literal["lost", "duplicated", "reordered", "aborted read", "inconsistent"]
Part = Literal["log", "positions", "effects", "tabs"]
ANOMALIES: Final[tuple[Anomaly, ...]] = ("lost", "duplicated", "reordered", "aborted read", "inconsistent")
PARTS: Final[tuple[Part, ...]] = ("log", "positions", "effects", "tabs")


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, by key and ids; the first of `outbox_ids` is the event it is about, the others explain it."""

    part: Part
    anomaly: Anomaly
    topic: str
    key: str
    generation: int
    outbox_ids: tuple[int, ...]
    event_ids: tuple[UUID, ...]
    detail: str
    projector: str = ""

    @property
    def name(self) -> tuple[str, str, str, str, str, int, int]:
        """What makes two findings the same one."""
        first = self.outbox_ids[0] if self.outbox_ids else -1
        return (self.part, self.anomaly, self.projector, self.topic, self.key, self.generation, first)

    def line(self) -> str:
        """The difference in one line."""
        where = f"{self.part} of {self.projector}" if self.projector else self.part
        ids = ", ".join(f"#{number}" for number in self.outbox_ids) or "-"
        events = f" ({', '.join(map(str, self.event_ids))})" if self.event_ids else ""
        return f"{where}: {self.anomaly}: {self.topic} {self.key} {ids}{events}: {self.detail}"


class Totals(NamedTuple):
    """How many events, and the sum of their ids."""

    events: int
    digest: int

    def minus(self, other: Totals) -> Totals:
        """The difference of both."""
        return Totals(self.events - other.events, self.digest - other.digest)


NONE: Final = Totals(0, 0)


class Standing(NamedTuple):
    """A key's position: the newest event taken, and what was taken in all."""

    projector: str
    topic: str
    key: str
    at: PositionAt
    taken: Totals


class Source(NamedTuple):
    """A key in the outbox: all its events, the newest one, and how many of them left before they could be compared."""

    all: Totals
    newest: PositionAt
    left: int = 0


def compare_position(standing: Standing, source: Source, beyond: Totals, base: Totals = NONE) -> Finding | None:
    """Whether a projector took each event of a key up to its position once.

    Args:
        standing: The position.
        source: What the outbox has of the key.
        beyond: Events of the key behind the position, which are still to come.
        base: By how much the two may differ (see `base_of`).

    Returns:
        The difference. Where exactly one event is missing or too many, the sums tell its id.
    """
    if standing.at > source.newest:
        text = f"the position is at {standing.at}, the newest event that the outbox ever had is {source.newest}"
        return _position(standing, "aborted read", (standing.at[1],), text)
    missing = source.all.minus(beyond).minus(standing.taken.minus(base))
    if missing == NONE:
        return None
    ids = (abs(missing.digest),) if abs(missing.events) == 1 and missing.events * missing.digest > 0 else ()
    text = f"taken {standing.taken.events - base.events}, saved up to there {source.all.events - beyond.events}"
    if missing.events > 0:
        return _position(standing, "lost", ids, f"the position is past events that were never taken: {text}")
    if missing.events < 0:
        return _position(standing, "duplicated", ids, f"taken more often than saved: {text}")
    return _position(standing, "inconsistent", (), f"as many events, but others: the ids differ by {missing.digest}")


def base_of(standing: Standing, source: Source, beyond: Totals, *, uncounted: bool) -> Totals:
    """What is to be forgiven a position that is looked at for the first time.

    Where events had left before anybody counted them (`uncounted`), the two cannot be compared from the beginning.
    And a projector that began when some had left has not taken those.
    """
    difference = standing.taken.minus(source.all.minus(beyond))
    late_start = 0 <= -difference.events <= source.left
    return difference if uncounted or late_start else NONE


def _position(standing: Standing, anomaly: Anomaly, ids: tuple[int, ...], detail: str) -> Finding:
    return Finding(
        "positions", anomaly, standing.topic, standing.key, standing.at[0], ids, (), detail, standing.projector
    )


class Taken(NamedTuple):
    """One event that a projector took; `ordered`: it was applied in its turn (not by hand, out of a dead letter)."""

    topic: str
    key: str
    at: PositionAt
    event_id: UUID
    ordered: bool = True


class Effects:
    """Compares events with effects, batch after batch in the order of the outbox."""

    def __init__(self, projector: str) -> None:
        self._projector = projector
        self._last: dict[tuple[str, str], tuple[Any, Taken]] = {}

    def compare(self, events: Sequence[Taken], effects: Iterable[Effect]) -> list[Finding]:
        """Each event must have one effect, and effects of a key must lie in the order of its events."""
        found: dict[UUID, list[Effect]] = defaultdict(list)
        for effect in effects:
            found[effect.event_id].append(effect)
        return [finding for event in events for finding in self._judge(event, found.get(event.event_id, []))]

    def _judge(self, event: Taken, effects: Sequence[Effect]) -> Iterable[Finding]:
        if not effects:
            yield self._finding("lost", (event,), "it was taken, but its effect is not there")
            return
        for fault in (effect.fault for effect in effects if effect.fault):
            yield self._finding("lost", (event,), fault)
        if len(effects) > 1:
            yield self._finding("duplicated", (event,), f"its effect is there {len(effects)} times")
        place = min((effect.place for effect in effects if effect.place is not None), default=None)
        if place is None or not event.ordered:
            return
        last, before = self._last.get((event.topic, event.key), (place, event))
        if place < last:
            yield self._finding("reordered", (event, before), f"its effect lies before that of #{before.at[1]}")
        else:
            self._last[event.topic, event.key] = (place, event)

    def _finding(self, anomaly: Anomaly, events: Sequence[Taken], detail: str) -> Finding:
        first = events[0]
        numbers, ids = tuple(event.at[1] for event in events), tuple(event.event_id for event in events)
        return Finding("effects", anomaly, first.topic, first.key, first.at[0], numbers, ids, detail, self._projector)


def counts(findings: Iterable[Finding]) -> Mapping[tuple[Part, Anomaly], int]:
    """How many differences of each kind; kinds without any are there with 0."""
    found = dict.fromkeys(((part, anomaly) for part in PARTS for anomaly in ANOMALIES), 0)
    for finding in findings:
        found[finding.part, finding.anomaly] += 1
    return found
