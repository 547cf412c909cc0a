"""PROMOTE_RULES: approved proposals become the next rule set, and the open items that match now are resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kylo_outbox.model.errors import Poison
from kylo_outbox.model.messages import PromoteRules, tabs_changed
from kylo_outbox.model.projector import Effect, Projector
from kylo_outbox.store import company_state, rules
from kylo_outbox.store.emit import emit_many
from kylo_outbox.store.isolation import acting_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kylo_outbox.model.events import Event

_LONGEST_NAME = 200


class Promote(Projector):
    """Projector `promote`. Effect, position and the events for the tabs are one transaction of the company's store."""

    name: ClassVar[str] = "promote"
    store = "company"

    def __init__(self, *, topic: str, group: str, is_known: Callable[[str], bool]) -> None:
        self.topics = (topic,)
        self.group = group
        self._is_known = is_known

    def apply(self, tx: Any, events: Sequence[Event]) -> None:
        """Serve requests in order; one with nothing approved only replays. A request that was served adds nothing."""
        requests = [(self._message(event), event) for event in events]
        versions = company_state.lock(tx, (message.company_id for message, _ in requests))
        changed: list[Event] = []
        for message, event in requests:
            company_id = message.company_id
            with acting_for(tx, company_id):
                if event.event_id and rules.of_request(tx, company_id, event.event_id):
                    continue
                done = rules.promote(
                    tx, company_id, versions[company_id], request_id=event.event_id, asked_by=_asked_by(message)
                )
            versions[company_id] = done.version
            changed += [tabs_changed(company_id, "active")] if done.version != done.former else []
            changed += [tabs_changed(company_id, "pending")] if done.resolved else []
        emit_many(tx, changed)

    def effects(self, tx: Any, events: Sequence[Event]) -> Iterable[Effect]:
        """A request that was served has its line in the company's history, numbered under the company's lock."""
        requests = [event.event_id for event in events if event.event_id is not None]
        return [Effect(request, number) for request, number in rules.served(tx, requests)]

    def _message(self, event: Event) -> PromoteRules:
        message = PromoteRules.parse(event.raw)
        if event.key != message.company_id:
            raise Poison(f"PROMOTE_RULES: the record's key is {event.key!r}, its company_id is another one")
        if not self._is_known(message.company_id):
            raise Poison(
                f"PROMOTE_RULES: unknown company {message.company_id}; `kylo-outbox company add` makes it known"
            )
        return message


def _asked_by(message: PromoteRules) -> str | None:
    by = (message.meta or {}).get("by")
    return by[:_LONGEST_NAME].replace("\x00", "") if isinstance(by, str) else None
