"""The verbs `topics apply / verify / ls / show / read`."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kylo_outbox.cli.context import opened
from kylo_outbox.cli.errors import FAILED
from kylo_outbox.cli.output import AsJson, DryRun, Yes, duration, print_json, print_line, print_table, say
from kylo_outbox.kafka.tail import Record, tail
from kylo_outbox.model.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.kafka.topics import Change, Drift, TopicState

_group = typer.Typer(help="Declared topics against the broker, and a look at the records.", no_args_is_help=True)
_DEFAULT_READ = 10
_WIDTH = 100

Replication = Annotated[int | None, typer.Option(help="Copies of each partition; by default up to three.", min=1)]
TopicName = Annotated[str, typer.Argument(metavar="TOPIC")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.add_typer(_group, name="topics")


@_group.command()
def apply(
    *, replication: Replication = None, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Create missing topics and correct retention and size limits; partition counts are never changed.

    A shorter retention deletes records and needs --yes. Exits with 1 if something differs that must not be changed.

    Example: kylo-outbox topics apply --dry-run
    """
    with opened() as context:
        declared, topics = context.declared, context.topics
        changes = topics.plan(declared, replication)
        losing = [change for change in changes if change.loses]
        if losing and not (yes or dry_run):
            _show_changes(losing, as_json=False, verb="would change")
            say("this deletes records that are kept now: say --yes to do it, --dry-run to look first")
            raise typer.Exit(2)
        if not dry_run:
            changes = topics.apply(declared, replication)
        _show_changes(changes, as_json=as_json, verb="would change" if dry_run else "changed")
        drifts = [] if dry_run else topics.verify(declared, replication)
    for drift in drifts:
        say(str(drift))
    if drifts:
        raise typer.Exit(FAILED)


@_group.command()
def verify(*, replication: Replication = None, as_json: AsJson = False) -> None:
    """Compare the broker with what is declared; exits with 1 if anything differs.

    Example: kylo-outbox topics verify --json
    """
    with opened() as context:
        drifts: Sequence[Drift] = context.topics.verify(context.declared, replication)
        count = len(context.declared)
    if as_json:
        print_json([asdict(drift) for drift in drifts])
    else:
        for drift in drifts:
            say(str(drift))
        if not drifts:
            say(f"{count} topics are as declared")
    if drifts:
        raise typer.Exit(FAILED)


@_group.command()
def ls(*, as_json: AsJson = False) -> None:
    """List the topics of the broker, Kafka's internal ones left out.

    Example: kylo-outbox topics ls
    """
    with opened() as context:
        names = {topic.name for topic in context.declared}
        states = sorted(context.topics.describe().values(), key=lambda state: state.name)
    if as_json:
        print_json([{**asdict(state), "declared": state.name in names} for state in states])
        return
    print_table(
        ("topic", "partitions", "retention", "record limit", "copies", "declared"),
        [
            (s.name, s.partitions, _kept(s.retention_ms), s.max_message_bytes, s.replication, s.name in names)
            for s in states
        ],
    )


@_group.command()
def show(topic: TopicName, *, as_json: AsJson = False) -> None:
    """Show one topic: its settings and how many records each partition keeps.

    Example: kylo-outbox topics show txns.company.batches
    """
    with opened() as context:
        state: TopicState | None = context.topics.describe([topic]).get(topic)
        if state is None:
            raise NotReady(f"topic {topic} does not exist; `kylo-outbox topics ls` shows those that do")
        marks = context.topics.watermarks(topic)
    if as_json:
        offsets = [{"partition": number, "low": low, "high": high} for number, (low, high) in sorted(marks.items())]
        print_json({**asdict(state), "offsets": offsets})
        return
    print_table(("setting", "value"), list(asdict(state).items()))
    print_table(
        ("partition", "oldest", "next", "records"),
        [(number, low, high, high - low) for number, (low, high) in sorted(marks.items())],
    )


@_group.command()
def read(
    topic: TopicName,
    *,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="From the oldest record; else the newest.")
    ] = False,
    max_n: Annotated[int | None, typer.Option("--max", help="At most so many (10, with --from-beginning all).")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written later.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> None:
    """Look at the records of a topic; no group is joined and nothing is changed.

    Example: kylo-outbox topics read tabs.changed --from-beginning --max 5
    """
    stop = threading.Event()
    if follow and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    limit = max_n if max_n is not None or from_beginning else _DEFAULT_READ
    with opened() as context:
        records = tail(
            context.kafka, topic, from_beginning=from_beginning, max_n=limit, follow=follow, stopped=stop.is_set
        )
        for record in records:
            if as_json:
                print_line(record.as_json())
            else:
                print(_line(record), flush=True)


def _show_changes(changes: Sequence[Change], *, as_json: bool, verb: str) -> None:
    if as_json:
        print_json([asdict(change) for change in changes])
        return
    for change in changes:
        say(f"{verb} {change.topic}: {change.what} {change.before} -> {change.after}")
    if not changes:
        say("nothing to change")


def _line(record: Record) -> str:
    shown = record.as_json()
    value = shown["value"] or ""
    cut = value if len(value) <= _WIDTH else value[: _WIDTH - 3] + "..."
    at = record.at.strftime("%H:%M:%S.%f")[:-3] if record.at else ""
    return f"{record.partition}/{record.offset}  {at}  {shown['key'] or ''}  {cut}".replace("\n", " ")


def _kept(retention_ms: int) -> str:
    return "for ever" if retention_ms < 0 else duration(retention_ms / 1000)
