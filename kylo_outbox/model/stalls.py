"""What can stand still without an error, and how that is noticed: state in, stalls out, nothing asked and nothing kept.

Texts are shown on `/readyz`, which is open to everybody: names of parts, topics, stores and machines, counts and
seconds; no key, no user, no statement. `detail` is for those with a token and for `doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE: Final = 15.0
"""Seconds that a loop may be silent or wait, and a group read nothing, before it counts as stuck."""
LEADERLESS: Final = 5.0
"""Seconds that a lane may be without a leader; another relay takes it within two."""
KEPT: Final = 10.0
"""Seconds that a key may be held: some go on by themselves at the next try."""
OPEN_FOR: Final = 20.0
"""Seconds that a transaction may be open."""
CLOCKS: Final = 2.0
"""Seconds by which two clocks may differ."""
_TOLD: Final = 300.0
_FORGOTTEN: Final = 3600.0

Kind = Literal[
    "dead_loop",
    "lost_lease",
    "held_key",
    "paused_partition",
    "stuck_partition",
    "full_queue",
    "quota_wait",
    "clock_jump",
    "old_transaction",
    "relay_waits",
    "notice",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Stall:
    """One thing that stands still: what, where, since when, and what a person can do about it."""

    kind: Kind
    subject: str
    text: str
    remedy: str
    detail: str = ""


def process(part: str, instance: str, age: float, state: Mapping[str, Any]) -> Iterator[Stall]:
    """What a process tells of itself in a heartbeat that is `age` seconds old."""
    for loop in state.get("loops", ()):
        yield from _loop(f"{part} {instance}", loop, age)
    for lane in state.get("lanes", ()):
        yield from _lane(f"{lane.get('store')}/{lane.get('lane')}", lane)
    for stuck in state.get("stuck", ()):
        if stuck["seconds"] + age >= PATIENCE:
            yield partition(stuck)
    yield from _clock(f"{part} {instance}", state.get("clock") or {}, age)


def silent(part: str, instance: str, age: float, *, stopped: bool, replaced: bool) -> Iterator[Stall]:
    """A process that does not write heartbeats any more, was not stopped and has no successor."""
    if not stopped and not replaced and age < _FORGOTTEN:
        yield Stall(
            "dead_loop",
            f"{part} {instance}",
            f"the process was not stopped, and it has said nothing for {age:.0f} s",
            f"start it again (`kylo-outbox restart {part}` on a local stack); its log tells how it ended",
        )


def leaderless(store: str, lane: int, seconds: float) -> Iterator[Stall]:
    """A lane whose lease nobody holds."""
    if seconds >= LEADERLESS:
        yield Stall(
            "lost_lease",
            f"{store}/{lane}",
            f"nobody has held the lease of this lane for {seconds:.0f} s: its events are not published",
            "start `kylo-outbox relay`; if one runs, its log says why it does not lead",
        )


def held(store: str, stage: str, topic: str, keys: int, seconds: float) -> Iterator[Stall]:
    """Keys that wait behind a refused event or a dead letter, or for a database; what people paused is left out."""
    if keys and seconds >= KEPT:
        verb = "outbox held" if stage == "relay" else "dlq held"
        yield Stall(
            "held_key",
            f"{store} {stage} {topic}",
            f"{keys} keys are held, the first for {seconds:.0f} s",
            f"`kylo-outbox {verb}` tells why; mend that, then `kylo-outbox {verb.partition(' ')[0]} release`",
        )


def transaction(what: str, seconds: float | None, detail: str) -> Iterator[Stall]:
    """A transaction that stays open; `seconds` is None for a replication slot, which is told as soon as it is far."""
    if seconds is None or seconds >= OPEN_FOR:
        since = "it is far behind" if seconds is None else f"open for {seconds:.0f} s"
        yield Stall(
            "old_transaction",
            what,
            f"{since}: PostgreSQL cannot clean up",
            "`kylo-outbox doctor` names it and how to end it",
            detail,
        )


def partition(stuck: Mapping[str, Any]) -> Stall:
    """A partition of which a group reads nothing although records wait."""
    return Stall(
        "stuck_partition",
        f"{stuck['group']} {stuck['topic']}/{stuck['partition']}",
        f"{stuck['unread']} records wait and none was read for {stuck['seconds']:.0f} s",
        "does `kylo-outbox project` run? `kylo-outbox lag` shows where; the projectors' log says what they wait for",
    )


def clocks(what: str, difference: float) -> Iterator[Stall]:
    """Two clocks that do not agree."""
    if abs(difference) > CLOCKS:
        yield Stall(
            "clock_jump",
            what,
            f"its clock and that of the database differ by {difference:+.1f} s: ages and delays are told wrong",
            "let both machines follow a time server; `kylo-outbox doctor` compares them",
        )


def notice(projector: str, kind: str, detail: str) -> Stall:
    """What a projector wants people to know and nobody has accepted."""
    return Stall("notice", f"{projector} {kind}", "it waits for a person", "`kylo-outbox dlq notices`", detail)


def _loop(process: str, loop: Mapping[str, Any], age: float) -> Iterator[Stall]:
    name, subject = loop["name"], f"{process}: {loop['name']}"
    if loop["silent"] + age > loop["allowed"]:
        yield Stall(
            "dead_loop",
            subject,
            f"it has not come round for {loop['silent'] + age:.0f} s",
            "if it stays so, start its process again; a loop does that by itself after a minute (exit code 70)",
        )
    waits = loop.get("waits")
    if waits is None or waits + age < PATIENCE:
        return
    if loop.get("quota"):
        kind: Kind = "quota_wait"
        remedy = "it goes on by itself; more companies than the quota serves need a larger one (`docs/settings.md`)"
    elif name.startswith("relay "):
        kind, remedy = "relay_waits", "mend what it waits for (`kylo-outbox doctor`); it goes on by itself, in order"
    else:
        kind = "paused_partition"
        remedy = "mend what it waits for (`kylo-outbox doctor`); nothing is lost, it goes on by itself"
    yield Stall(kind, subject, f"it has waited for {waits + age:.0f} s", remedy, loop.get("why", ""))


def _lane(subject: str, lane: Mapping[str, Any]) -> Iterator[Stall]:
    full = lane.get("queue_full")
    remedy = "mend Kafka (`kylo-outbox doctor`); it goes on by itself, in order, and no restart helps"
    if full is not None and full >= PATIENCE:
        text = f"the producer's queue has been full for {full:.0f} s: nothing more is read"
        yield Stall("full_queue", subject, text, remedy)
    if lane.get("breaker"):
        yield Stall("relay_waits", subject, "Kafka is away", remedy, lane["breaker"])


def _clock(subject: str, clock: Mapping[str, Any], age: float) -> Iterator[Stall]:
    yield from clocks(subject, clock.get("difference", 0.0))
    for whose, jump in clock.get("jumps", {}).items():
        if jump["ago"] + age < _TOLD:
            yield Stall(
                "clock_jump",
                subject,
                f"the clock of {whose} jumped by {jump['seconds']:+.1f} s, {jump['ago'] + age:.0f} s ago",
                "let the machine follow a time server that slews; look at ages and delays again in some minutes",
            )


class Progress:
    """Which partitions a group reads nothing of although records wait. One for each process that measures lag."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str, int], tuple[int | None, float]] = {}

    def look(self, now: float, found: Mapping[tuple[str, str, int], tuple[int | None, int]]) -> list[dict[str, Any]]:
        """Compare with the former look.

        Args:
            now: Seconds of a clock that does not jump.
            found: (committed offset, unread records) by (group, topic, partition).

        Returns:
            For the heartbeat: what has not moved since an earlier look, and for how many seconds.
        """
        since: dict[tuple[str, str, int], tuple[int | None, float]] = {}
        for place, (committed, unread) in found.items():
            former = self._since.get(place)
            if unread:
                since[place] = former if former is not None and former[0] == committed else (committed, now)
        self._since = since
        return [
            {"group": place[0], "topic": place[1], "partition": place[2], "unread": found[place][1], "seconds": seconds}
            for place, (_, at) in since.items()
            if (seconds := now - at) > 0
        ]


class Lasting:
    """For how long something has been the case, as far as anybody looked. Not safe to share between threads."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int], float] = {}

    def seconds(self, now: float, present: set[tuple[str, int]]) -> dict[tuple[str, int], float]:
        """Seconds since each of `present` was first seen without a break."""
        self._since = {each: self._since.get(each, now) for each in present}
        return {each: now - at for each, at in self._since.items()}
