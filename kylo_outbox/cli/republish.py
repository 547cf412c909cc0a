"""The verb `republish`: stored events on the log once more, under the same ids."""

from __future__ import annotations

from typing import Annotated

import typer

from kylo_outbox.cli.actor import who
from kylo_outbox.cli.context import opened
from kylo_outbox.cli.dlq import Company, Since, moment
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, say
from kylo_outbox.flows.republish import Republish
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.store import audit, identity
from kylo_outbox.wiring.parts import require_schema


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(republish)


def republish(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
    *,
    company: Company = None,
    since: Since = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put published events that are still in the outbox on the log again, for readers that lost them to retention.

    The ids are the same: projectors take them for repeats. Exits with 4 if a store could not be reached.

    Example: kylo-outbox republish txns.company.batches --company 710 --since 2d --yes
    """
    from_when = moment(since, "--since")
    done: dict[str, int] = {}
    complete = True
    with opened() as context:
        require_schema(context.parts)
        if not confirmed(f"put stored events of {topic} on the log again", yes=yes, dry_run=dry_run):
            return
        for store in context.parts.directory.stores():
            if store.problem is not None:
                say(store.problem)
                complete = False
                continue
            with store.database.begin() as connection:
                own = identity.require_own(connection)
            publisher = Publisher(context.kafka, own.store_id)
            try:
                flow = Republish(store.database, publisher, lambda number: say(f"{number} events"))
                done[own.store_id] = flow.run(topic, key=company, since=from_when)
            finally:
                publisher.close()
            with store.database.transaction() as tx:
                before = {"events": done[own.store_id], "since": since}
                audit.write(tx, who=who(), verb="republish", topic=topic, key=company, before=before)
    if as_json:
        print_json({"topic": topic, "stores": done})
    say(f"{sum(done.values())} events of {topic} are on the log again")
    if not complete:
        raise typer.Exit(PARTLY)
