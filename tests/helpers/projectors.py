"""A projector whose effect can be counted."""

from __future__ import annotations

from typing import ClassVar

from kylo_outbox import Poison, Projector

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
