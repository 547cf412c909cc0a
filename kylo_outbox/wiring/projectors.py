"""The projectors of the product by name, anybody's own by module, and the process that runs some of them."""

from __future__ import annotations

import importlib
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kylo_outbox.flows.post_sheet import AnnounceUnposted, PostSheet
from kylo_outbox.flows.project import Aside, Beside, Deaths, Gaps, Project, Projection
from kylo_outbox.flows.promote import Promote
from kylo_outbox.flows.triage import Triage
from kylo_outbox.kafka.consumer import Subscription
from kylo_outbox.kafka.contact import BrokerContact
from kylo_outbox.kafka.lag import Lag
from kylo_outbox.model import topics as declared
from kylo_outbox.model.errors import Misconfigured, Transient
from kylo_outbox.model.projector import Projector
from kylo_outbox.runtime import collector
from kylo_outbox.runtime.schedule import Schedule
from kylo_outbox.store import intake, notices, positions
from kylo_outbox.wiring import sheets
from kylo_outbox.wiring.history import published_events
from kylo_outbox.wiring.lagging import LAG_EVERY, LagWatch
from kylo_outbox.wiring.parts import Heart, Parts, kafka_address, require_schema, require_topics
from kylo_outbox.wiring.verify import verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.model.topics import OnPoison
    from kylo_outbox.runtime.loop import Worker
    from kylo_outbox.runtime.stop import Stop
    from kylo_outbox.settings import Settings
    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)

NAMES = ("txns", "promote", "sheets")
TELLING = ("txns", "promote")
"""Those of the product that tell their effects; `sheets` leaves its own in tabs."""
RETURNED_EVERY = 15.0
"""Seconds between two looks whether databases are back whose companies' tabs were left out."""


def named(parts: Parts, name: str) -> Projector:
    """One of the product's projectors, or `package.module:Class` (the current directory is importable).

    Raises:
        Misconfigured: for a name that is neither.
    """
    if name == Triage.name:
        return _triage(parts)
    if name == Promote.name:
        settings = parts.settings
        return Promote(topic=settings.topic_promote, group=settings.group_promote, is_known=parts.directory.is_known)
    if name == PostSheet.name:
        return _post_sheet(parts)
    if ":" in name:
        return _own(name)
    raise Misconfigured(f"project: no projector {name!r}; known are {', '.join(NAMES)} and package.module:Class")


def projection(parts: Parts, projector: Projector, stopping: Callable[[], bool] = lambda: False) -> Projection:
    """What applies deliveries to `projector`, each in the database where its effect lives."""
    of_company = projector.store == "company"
    skipped = {topic.name for topic in _declared(parts.settings) if topic.on_poison == "skip"}

    def database_of(delivery: Delivery) -> Database:
        return parts.directory.database_of(delivery.event.key) if of_company else parts.control

    def on_poison(topic: str) -> OnPoison:
        # Whoever says skip, the projector or the topic, means that nobody needs to wait.
        return "skip" if topic in skipped else projector.on_poison

    return Projection(
        projector,
        database_of,
        declared.dead_letter_name,
        on_poison=on_poison,
        databases=partial(_homes, parts, projector),
        aside=Aside(parts.control, projector.name) if of_company else None,
        notices=partial(_notice, parts, projector.name),
        stopping=stopping,
    )


def _problems(parts: Parts) -> list[str]:
    return [store.problem for store in parts.directory.stores() if store.problem]


def _homes(parts: Parts, projector: Projector) -> list[Database]:
    """The databases in which its effects lie, as far as they can be reached."""
    if projector.store != "company":
        return [parts.control]
    return [store.database for store in parts.directory.stores() if not store.problem]


def _notice(parts: Parts, projector: str, kind: str, subject: str, text: str | None) -> bool:
    with parts.control.transaction() as tx:
        if text is None:
            notices.end(tx, projector, kind, subject)
            return False
        return notices.tell(tx, projector, kind, subject, text)


def _declared(settings: Settings) -> tuple[declared.Topic, ...]:
    return declared.declared(settings.topic_txns, settings.topic_promote)


def kylo_topics(settings: Settings) -> tuple[str, ...]:
    """Topics whose keys are companies: the ones that the direct path may serve."""
    return tuple(topic.name for topic in _declared(settings))


def groups(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Topics by consumer group, of the product's own projectors."""
    return {
        settings.group_txns: (settings.topic_txns,),
        settings.group_promote: (settings.topic_promote,),
        PostSheet.name: (declared.PENDING_READY, declared.TABS_CHANGED),
    }


class ProjectorProcess:
    """`kylo-outbox project`: each projector in a loop of its own, as a member of its consumer group."""

    def __init__(self, parts: Parts, names: Sequence[str]) -> None:
        self._parts = parts
        self._projectors = [named(parts, name) for name in names]
        self._contact = BrokerContact(kafka_address(parts.settings))
        self._workers: dict[str, Project] = {}
        self._gaps: dict[str, Gaps] = {}
        self._progress = LagWatch()

    def check(self) -> None:
        """Refuse to start without schema, broker and topics."""
        require_schema(self._parts)
        require_topics(
            self._parts.settings, self._contact, sorted({topic for each in self._projectors for topic in each.topics})
        )

    def run(self, stop: Stop) -> None:
        """Run until `stop`."""
        schedule = Schedule(stop)
        heart = Heart(self._parts.control, "projectors", self._state, schedule)
        for projector in self._projectors:
            schedule.keep_running(f"project {projector.name}", partial(self._worker, projector, stop.is_set))
        schedule.every(1.0, "heartbeat", heart.beat)
        if self._parts.settings.sheets_post and any(isinstance(each, PostSheet) for each in self._projectors):
            announce = announce_unposted(self._parts)
            schedule.every(600.0, "unposted tabs", announce.run_once)
            schedule.every(RETURNED_EVERY, "tabs of stores that are back", announce.returned)
            every = self._parts.settings.sheets_approvals_every
            schedule.every(every, "approvals", sheets.read_approvals(self._parts).run_once)
        if own := self._own_groups():
            schedule.every(LAG_EVERY, "lag", partial(self._measure_lag, Lag(kafka_address(self._parts.settings)), own))
        others = [each for each in self._projectors if each.tells_effects and each.name not in NAMES]
        if others and (every := self._parts.settings.verify_every):
            # The relay verifies all else; it does not know these.
            job = partial(verifier(self._parts, others, stop.is_set).run_job, every, effects_only=True)
            schedule.every(every, "verify effects", job, at_once=False)
        schedule.start()
        collector.settle()
        stop.wait()
        schedule.stop()
        heart.stop()

    def _own_groups(self) -> dict[str, tuple[str, ...]]:
        """Groups that no relay knows of: those of anybody's own projectors."""
        known = groups(self._parts.settings)
        found = {each.group or each.name: tuple(each.topics) for each in self._projectors}
        return {group: topics for group, topics in found.items() if group not in known}

    def _measure_lag(self, lag: Lag, of: Mapping[str, Sequence[str]]) -> None:
        self._progress.look(lag.of(of))

    def _worker(self, projector: Projector, stopping: Callable[[], bool]) -> Worker:
        deaths = Deaths(self._parts.control, projector.name)
        applies = projection(self._parts, projector, stopping)
        gaps = self._gaps[projector.name] = self._watch(applies)
        # Last of all: a member that nobody closes, because something else was away, keeps its partitions from others.
        source = Subscription(
            kafka_address(self._parts.settings),
            projector.group or projector.name,
            list(projector.topics),
            read_before=self._read_before(projector),
        )
        worker = Project(applies, source, deaths=deaths, gaps=gaps)
        self._workers[projector.name] = worker
        return worker

    def _read_before(self, projector: Projector) -> set[str]:
        """Topics of which it took events before, as far as its databases tell; one that is away stops nobody else."""
        found: set[str] = set()
        for database in _homes(self._parts, projector):
            try:
                with database.transaction() as tx:
                    found |= positions.taken_from(tx, projector.name, projector.topics)
            except Transient as away:
                log.warning("%s: what %s took before is not known now: %s", projector.name, database.name, away)
        return found

    def _watch(self, applies: Projection) -> Gaps:
        projector = applies.projector
        control, name = self._parts.control, projector.name
        with control.transaction() as tx:
            before = notices.first_partitions(tx, name, self._contact.partitions(projector.topics))

        def learn(topic: str, partitions: int) -> None:
            with control.transaction() as tx:
                notices.set_partitions(tx, name, topic, partitions)

        tell = partial(_notice, self._parts, name)
        stored = partial(published_events, self._parts, applies)
        beside = Beside(control, name, applies.bury)
        return Gaps(name, before, stored, tell, learn, lambda: _problems(self._parts), beside)

    def _state(self) -> dict[str, Any]:
        return {
            "stuck": self._progress.stuck,
            "settled": {name: worker.settled for name, worker in self._workers.items()},
            "gaps": [text for gaps in self._gaps.values() for text in gaps.noticed],
        }


def announce_unposted(parts: Parts) -> AnnounceUnposted:
    """The job that tells the road which tabs lack rows."""

    def stores() -> list[tuple[Database, Sequence[str]]]:
        found = parts.directory.stores()
        return [(store.database, store.companies) for store in found if store.companies and not store.problem]

    return AnnounceUnposted(control=parts.control, stores=stores)


def _triage(parts: Parts) -> Triage:
    def read_slices(slices: list[tuple[int, str]]) -> list[intake.SliceRow]:
        with parts.control.transaction() as tx:
            return intake.read_slices(tx, slices)

    settings = parts.settings
    return Triage(
        topic=settings.topic_txns,
        group=settings.group_txns,
        pending_ready_topic=declared.PENDING_READY,
        read_slices=read_slices,
        is_known=parts.directory.is_known,
    )


def _post_sheet(parts: Parts) -> PostSheet:
    return PostSheet(
        topics=(declared.PENDING_READY, declared.TABS_CHANGED),
        company_of=parts.directory.company,
        posting=sheets.posting(parts) if parts.settings.sheets_post else None,
    )


def _own(name: str) -> Projector:
    module_name, _, class_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError, TypeError) as missing:
        raise Misconfigured(f"project: {name} cannot be loaded ({missing})") from None
    if not isinstance(made, Projector):
        raise Misconfigured(f"project: {name} is no kylo_outbox.Projector")
    if not getattr(made, "name", "") or not made.topics:
        raise Misconfigured(f"project: {name} needs a name and topics")
    return made
