"""One run from the first event to the verdict."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg

from kylo_outbox.flows import holds
from kylo_outbox.store.engine import Database
from tests.helpers.broker import make_topic
from tests.helpers.lane_watch import watch
from tests.helpers.look import Look
from tests.helpers.pipeline import wait_until
from tests.helpers.planted import no_slot_lock
from tests.soak import projectors
from tests.soak.crew import Crew
from tests.soak.faults import Fault, Faults, plan
from tests.soak.load import LIMIT, TABLE, Load
from tests.soak.outcome import Outcome, Parts, Wanted
from tests.soak.people import People
from tests.soak.plants import PLANTS
from tests.soak.recovery import recoveries
from tests.soak.verifier import judge

if TYPE_CHECKING:
    from pathlib import Path

    from tests.soak.stage import Stage

_PARTITIONS = 6
_BEGIN_SECONDS = 90.0
_FLOWING = "select count(distinct projector)::int from kylo.positions"
# What stands still for so long, several times a group's session, will not move any more.
_QUIET_SECONDS, _QUIET_SECONDS_PLANTED = 30.0, 18.0
_SETTLE_SECONDS = 240.0
_STATE = """
select (select count(*) from outbox where processed_at is null), (select count(*) from kylo.outbox_held),
       (select count(*) from kylo.holds), (select count(*) from kylo.held_events),
       (select count(*) from kylo.dead_letters where stage = 'relay'),
       (select coalesce(sum(applied), 0) from kylo.positions where topic = any(%s))
"""
_TAKEN = """
select coalesce(sum(case topic when %s then 2 else 1 end), 0) from kylo.outbox_log where topic = any(%s)
"""


class Soak:
    """A run on a stage that is there."""

    def __init__(self, stage: Stage, wanted: Wanted) -> None:
        self._stage, self._wanted = stage, wanted
        self._run = uuid.uuid4().hex[:6]
        self._topics = projectors.topics(self._run)

    def run(self) -> Outcome:
        """All of it; everything that was started for it is gone afterwards."""
        parts = Parts()
        with ExitStack() as stack:
            with parts.part("begin"):
                database = stack.enter_context(self._stage.database())
                dsn = self._stage.postgres.dsn(database)
                load = self._load(self._stage.front_dsn(database))
                self._prepare(dsn, load)
                crew = self._crew(database)
                stack.callback(crew.close)
                crew.start()
                people = People(dsn, self._run)
                stack.callback(people.stop)
                stack.callback(load.stop)
                look = Look(dsn)
                stack.callback(look.close)
                wait_until(lambda: look.ask(_FLOWING) == [(3,)], _BEGIN_SECONDS, "all projectors apply something")
            people.start()
            load.start()
            with parts.part("fire"):
                faults = self._fire(crew, database, load)
            with parts.part("settle"):
                load.stop()
                settled = self._settle(look)
                people.stop()
            broken = [f"writer or people: {failed!r}" for failed in (*load.failed, *people.failed)]
            with parts.part("end"):
                broken += [f"{name} ended by itself" for name in crew.died()] or crew.end()
            with parts.part("judge"):
                outcome = self._outcome(dsn, load, faults, people)
            outcome.broken, outcome.settled, outcome.parts = broken, settled, parts.seconds
            return outcome

    def _load(self, dsn: str) -> Load:
        if not self._wanted.plant:
            return Load(dsn, self._topics, seed=self._wanted.seed)
        plant = PLANTS[self._wanted.plant]
        return Load(dsn, self._topics, seed=self._wanted.seed, large=plant.large, curable=plant.curable)

    def _prepare(self, dsn: str, load: Load) -> None:
        bootstrap = self._stage.kafka.bootstrap
        times = {"message.timestamp.type": "LogAppendTime"}
        for name, topic in self._topics.items():
            limit = {"max.message.bytes": str(LIMIT)} if name == "small" else {}
            make_topic(bootstrap, topic, _PARTITIONS, times | limit)
            make_topic(bootstrap, f"{topic}.dlq", 1)
        with psycopg.connect(dsn) as tx:
            tx.execute(projectors.TABLES)
            tx.execute(TABLE)
        watch(dsn)
        database = Database(dsn, name="soak")
        with database.transaction() as tx:
            holds.set_policy(tx, self._topics["small"], "skip", who="soak")
        database.close()
        if self._wanted.plant == "no_slot_lock":
            no_slot_lock(dsn)
        load.prepare()

    def _crew(self, database: str) -> Crew:
        folder = self._folder()
        settings = {
            "PG_DSN_RW": self._stage.front_dsn(database),
            "KAFKA_BROKERS": self._stage.front_bootstrap,
            "KYLO_DATA_DIR": str(folder / "data"),
        }
        plant = self._wanted.plant
        planted = {PLANTS[plant].where: plant} if plant else {}
        return Crew(
            folder,
            settings,
            self._run,
            self._stage.postgres.dsn(database),
            relay=planted.get("relay", ""),
            projector=planted.get("projector", ""),
        )

    def _folder(self) -> Path:
        folder = self._stage.folder / self._run
        folder.mkdir()
        return folder

    def _fire(self, crew: Crew, database: str, load: Load) -> list[Fault]:
        wanted, begun = self._wanted, time.monotonic()

        def enough(count: int) -> bool:
            seconds = time.monotonic() - begun
            reached = count >= wanted.faults and len(load.committed) >= wanted.events
            return bool(load.failed) or (reached and seconds >= wanted.seconds)

        faults = Faults(self._stage, crew, database)
        try:
            faults.run(plan(wanted.seed, PLANTS[wanted.plant].mix if wanted.plant else None), enough)
        finally:
            faults.mend_all()
        return faults.done

    def _settle(self, look: Look) -> bool:
        """Wait until all is done, or nothing moves any more; False if that did not come."""
        topics, plant = list(self._topics.values()), self._wanted.plant
        until = time.monotonic() + (PLANTS[plant].patience if plant else _SETTLE_SECONDS)
        state, since = look.ask(_STATE, topics), time.monotonic()
        # With a plant, what is lost keeps the run from being done, each time: less is waited for a rebalance.
        quiet = _QUIET_SECONDS_PLANTED if plant else _QUIET_SECONDS
        while time.monotonic() - since < quiet:
            [(open_events, *waiting, refused, taken)] = state
            [(expected,)] = look.ask(_TAKEN, self._topics["moves"], topics)
            if not open_events and not any(waiting) and taken == expected - refused:
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
            now = look.ask(_STATE, topics)
            if now != state:
                state, since = now, time.monotonic()
        return True

    def _outcome(self, dsn: str, load: Load, faults: list[Fault], people: People) -> Outcome:
        verdict, log = judge(dsn, self._stage.kafka.bootstrap, load, self._topics)
        return Outcome(
            verdict,
            faults,
            recoveries(dsn, load, faults, log),
            committed=len(load.committed),
            rolled_back=load.rolled_back,
            interrupted=load.interrupted,
            released=people.released,
            discarded=people.discarded,
        )
