"""What `dlq release --preview` and `dlq replay --preview` show: what an act would change, tried and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.cli.output import print_json, print_table, say
from kylo_outbox.store import identity, relay_dead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.cli.context import Context
    from kylo_outbox.flows.project import Preview
    from kylo_outbox.store.desk import Letter

_BEHIND = 200


def preview_of(
    context: Context, chosen: Sequence[tuple[str, Letter]], name: str | None, *, as_json: bool, behind: int = _BEHIND
) -> None:
    """Try each and take everything back: what it would change, printed. One of the relay is not tried."""
    from kylo_outbox.flows.project import preview  # noqa: PLC0415 - loads a projector's own modules
    from kylo_outbox.wiring import projectors  # noqa: PLC0415

    shown = []
    for store in context.parts.directory.stores():
        with store.database.begin() as connection:
            home = store_id(connection)
        for _, letter in [each for each in chosen if each[0] == home]:
            if letter.of_relay:
                shown.append(_sending_shape(home, letter))
                continue
            projector = projectors.named(context.parts, name or letter.stage)
            projection = projectors.projection(context.parts, projector)
            found = preview(projection, store.database, letter.id, letter.holds, behind)
            shown.append(_preview_shape(home, letter, found))
    if as_json:
        print_json(shown)
        return
    for each in shown:
        say(f"dead letter {each['id']} of {each['stage']}, key {each['key']}:")
        print_table(
            ("outbox id", "event id", "type", "would"),
            [(e["outbox_id"], e["event_id"], e["type"], e["would"]) for e in each["events"]],
        )
        print_table(
            ("table", "inserted", "updated", "deleted"),
            [(table, *rows.values()) for table, rows in each["changes"].items()],
        )
        if each["stage"] != relay_dead.STAGE and not each["tried"]:
            say("its effect lies outside the database and was not tried")


def store_id(connection: Any) -> str:
    """The name of the store behind a connection."""
    return identity.identity(connection).store.store_id


def _sending_shape(store: str, letter: Letter) -> dict[str, Any]:
    would = "be sent again, behind what its key has had since"
    event = {"outbox_id": letter.outbox_id, "event_id": letter.event_id, "type": letter.type, "would": would}
    return {**_head(store, letter), "tried": False, "events": [event], "changes": {}}


def _head(store: str, letter: Letter) -> dict[str, Any]:
    return {"store": store, "id": letter.id, "stage": letter.stage, "topic": letter.topic, "key": letter.key}


def _preview_shape(store: str, letter: Letter, found: Preview) -> dict[str, Any]:
    events = [
        {
            "outbox_id": delivery.event.outbox_id,
            "event_id": delivery.event.event_id,
            "type": delivery.event.type,
            "would": failure or ("pass" if found.tried else "be tried"),
        }
        for delivery, failure in found.events
    ]
    return {**_head(store, letter), "tried": found.tried, "events": events, "changes": found.changes}
