"""Checks of the running processes, by their heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kylo_outbox.flows.doctor.finding import Finding, Level
from kylo_outbox.model import stalls
from kylo_outbox.store import heartbeats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.heartbeats import Heartbeat

# Nothing stands still for good then.
_PASSING: Final = frozenset({"quota_wait", "clock_jump"})
_START = {
    "relay": ("nothing is published", "start `kylo-outbox relay`"),
    "projectors": ("nothing is applied to tables and tabs", "start `kylo-outbox project --all`"),
}


def relay(control: Database) -> Iterator[Finding]:
    """Whether a relay is alive, one leads, and it hears from the broker."""
    beats = _of(control, "relay")
    alive = [beat for beat in beats if beat.alive]
    if not alive:
        yield _missing("relay", beats)
        return
    leaders = [beat for beat in alive if beat.state.get("leader") is True]
    if not leaders:
        remedy = "wait some seconds; if it stays so, look at its log"
        yield Finding("error", "relay", "", f"{len(alive)} relays are alive, and none of them leads", remedy)
    for beat in leaders:
        for lane in beat.state.get("lanes", []):
            if lane.get("breaker"):
                cause = f"{lane.get('store')}/{lane.get('lane')}: Kafka is away: {lane['breaker']}"
                yield Finding("error", "relay", beat.instance, cause, "mend it: the relay goes on by itself, in order")
            if number := lane.get("on_kafka"):
                where = f"{lane.get('store')}/{lane.get('lane')}"
                cause = f"{where}: {number} keys of the direct path stay on Kafka, which alone may have older ones"
                remedy = "let the projectors read them, or wait: once Kafka can be read they are handed over again"
                yield Finding("warning", "relay", beat.instance, cause, remedy)
        age = beat.state.get("broker_contact_age_seconds")
        if beat.state.get("via_kafka", True) and (age is None or age + beat.age > heartbeats.FRESH):
            heard = "never" if age is None else f"{age + beat.age:.0f} s ago"
            cause = f"it heard from the broker {heard}"
            yield Finding("error", "relay", beat.instance, cause, "can its machine reach KAFKA_BROKERS?")


def projectors(control: Database) -> Iterator[Finding]:
    """Whether a process of projectors is alive."""
    beats = _of(control, "projectors")
    if not any(beat.alive for beat in beats):
        yield _missing("projectors", beats)


def stuck(control: Database) -> Iterator[Finding]:
    """What running processes tell of their loops, their queues, their clocks and partitions that nobody reads."""
    for part in _START:
        for beat in _of(control, part):
            if not beat.alive:
                continue
            # Of a breaker tells `relay`.
            lanes = [{**lane, "breaker": ""} for lane in beat.state.get("lanes", [])]
            for stall in stalls.process(part, beat.instance, beat.age, {**beat.state, "lanes": lanes}):
                cause = f"{stall.text}: {stall.detail}" if stall.detail else stall.text
                level: Level = "warning" if stall.kind in _PASSING else "error"
                yield Finding(level, "stuck", stall.subject, cause, stall.remedy)


def _of(control: Database, part: str) -> list[Heartbeat]:
    with control.transaction() as tx:
        return [beat for beat in heartbeats.read(tx) if beat.part == part and beat.instance != heartbeats.ENDED]


def _missing(part: str, beats: Sequence[Heartbeat]) -> Finding:
    effect, remedy = _START[part]
    last = min(beats, key=lambda beat: beat.age, default=None)
    seen = "has ever run" if last is None else f"is alive; {last.instance} was silent for the last {last.age:.0f} s"
    return Finding("error", part, "", f"no process of this kind {seen}: {effect}", remedy)
