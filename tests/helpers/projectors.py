"""Projectors whose effects can be counted, and records for them as the broker would give them."""

from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

from kylo_outbox import Poison, Projector
from kylo_outbox.flows.project import Projection
from kylo_outbox.model.delivery import from_record
from kylo_outbox.model.events import Origin
from kylo_outbox.model.topics import dead_letter_name
from tests.helpers.pipeline import wait_until

TABLE = "create table if not exists applied (n bigserial, key text, event_id text, outbox_id bigint)"


class Collects(Projector):
    """Appends one row per event; a payload {"poison": true} can never be applied."""

    name: ClassVar[str] = "collects"

    def __init__(self, topic: str) -> None:
        self.topics = (topic,)
        self.fail_after_effect: Exception | None = None

    def apply(self, tx, events):
        """One row an event."""
        for event in events:
            if isinstance(event.payload, dict) and event.payload.get("poison"):
                raise Poison("payload: this one is poison")
            tx.execute(
                "insert into applied (key, event_id, outbox_id) values (%s, %s, %s)",
                (event.key, str(event.event_id), event.outbox_id),
            )
        failure, self.fail_after_effect = self.fail_after_effect, None
        if failure:
            raise failure


STORE = "aaaabbbbcccc"


def delivery(number, key="k", payload=b"{}", *, store=STORE, generation=1, offset=None):
    """A record as the broker would give it."""
    origin = Origin(store, generation, number, uuid4(), "T")
    return from_record(
        topic="t",
        partition=0,
        offset=number if offset is None else offset,
        key=key.encode(),
        value=payload,
        headers=[("kylo", origin.header())],
        at=None,
    )


def applied(database):
    """What was applied there, in order: (key, outbox id)."""
    with database.transaction() as tx:
        return tx.execute("select key, outbox_id from applied order by n").fetchall()


def ask(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def on(database, projector=None, **more):
    """A projection on one database: what a process has."""
    return Projection(
        projector or Collects("t"), lambda _delivery: database, dead_letter_name, databases=lambda: [database], **more
    )


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is cleaned up."""


def wait_for_lock(database):
    """Until some session of this database waits for a lock (looked at again and again, as nothing tells it)."""
    waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    wait_until(lambda: ask(database, waits) != [(0,)], 60, "somebody waits for a lock")
