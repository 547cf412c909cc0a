"""Checks of one store, each on one transaction (`tx`, psycopg) of it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.flows.doctor.finding import Finding, Level, Report
from kylo_outbox.store import holds, migrate, pauses, prepare, sessions, upkeep
from kylo_outbox.store.backlog import oldest_age, read_dead_letters
from kylo_outbox.store.identity import require_own
from kylo_outbox.store.server import clock, unsafe_settings
from kylo_outbox.store.standing import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.store.engine import Database

OLD_EVENT: Final = 60.0
"""Seconds that an event may wait before `doctor` says so."""
_CLOCKS: Final = 2.0
_FEW_IDS: Final = 1_000_000
_MOST: Final = 10

Check = tuple[str, "Callable[[Any], Iterator[Finding]]"]


def examine(
    report: Report, database: Database, *, old_transaction: float = sessions.OLD, control: bool = False
) -> bool:
    """Every check of a store; False if it does not answer or is not of this release, so that the rest was left out."""
    name = database.name
    for tree in ("store", "control") if control else ("store",):
        if not report.look("schema", name, lambda tree=tree: _schema(database, tree)):  # type: ignore[misc]
            return False
    if not report.look("identity", name, lambda: _identity(database)):
        return False
    for check, looks in (*CHECKS, ("old transactions", partial(_old_transactions, older_than=old_transaction))):
        report.look(check, name, lambda looks=looks: _on(database, looks))  # type: ignore[misc]
    return True


def homes(companies: Sequence[Company], environ: Mapping[str, str]) -> Iterator[Finding]:
    """Companies whose connection string leads nowhere: nobody looks into their store."""
    _, problems = prepare.homes(companies, environ)
    for company_id, problem in problems.items():
        remedy = f"`kylo-outbox company set {company_id} --dsn env:NAME`"
        yield Finding("error", "companies", f"company {company_id}", problem, remedy)


def _on(database: Database, looks: Callable[[Any], Iterator[Finding]]) -> list[Finding]:
    with database.transaction() as tx:
        return [
            Finding(each.level, each.check, each.subject or database.name, each.cause, each.remedy)
            for each in looks(tx)
        ]


def _schema(database: Database, tree: migrate.Tree) -> list[Finding]:
    migrate.require_head(database, tree)
    return []


def _identity(database: Database) -> list[Finding]:
    with database.begin() as connection:
        require_own(connection)
    return []


def _clock(tx: Any) -> Iterator[Finding]:
    before = time.time()
    there = clock(tx)
    after = time.time()
    difference = there - (before + after) / 2
    if abs(difference) > _CLOCKS + (after - before) / 2:
        yield Finding(
            "warning",
            "clock",
            "",
            f"its clock and this machine's differ by {difference:+.1f} s: delays and ages are told wrong",
            "let both machines follow a time server",
        )


def _durability(tx: Any) -> Iterator[Finding]:
    for setting, value in unsafe_settings(tx):
        yield Finding(
            "error",
            "durability",
            "",
            f"{setting} is {value}: a crash of the server can lose what was published, or damage the database",
            f"set {setting} = on in postgresql.conf",
        )


def _partitions(tx: Any) -> Iterator[Finding]:
    left = upkeep.ahead(tx)
    if left <= 0:
        yield Finding(
            "error",
            "partitions",
            "",
            "new events go into the last, open-ended partition of the outbox: it can never be dropped",
            "let `kylo-outbox relay` run: it makes partitions ahead every minute",
        )
    elif left < _FEW_IDS:
        yield Finding(
            "warning", "partitions", "", f"partitions are made for {left} more events only", "is a relay running?"
        )


def _waiting(tx: Any) -> Iterator[Finding]:
    age = oldest_age(tx)
    if age is not None and age > OLD_EVENT:
        yield Finding(
            "error",
            "oldest event",
            "",
            f"the oldest unpublished event has waited for {age:.0f} s",
            "`kylo-outbox outbox ls` shows it; the findings about relay, Kafka and held keys say why",
        )


def _held(tx: Any) -> Iterator[Finding]:
    found = holds.held(tx)
    for key in found[:_MOST]:
        where = f"{key.topic} {key.key}"
        cause = f"{key.waiting} events of the key wait since {key.since:%Y-%m-%d %H:%M:%S}: {key.reason}"
        if key.paused:
            level: Level = "note"
            remedy = f"`kylo-outbox outbox resume {key.topic}` (or `{where}`) lets it go on"
        elif key.blocked_by is None:
            level, remedy = (
                "warning",
                "the relay tries it again by itself every few seconds; mend what the reason names",
            )
        else:
            level = "error"
            remedy = (
                f"mend the cause, then `kylo-outbox outbox release {where}`; or `outbox discard`, `outbox dead-letter`"
            )
        yield Finding(level, "held keys", where, cause, remedy)
    if len(found) > _MOST:
        yield Finding("warning", "held keys", "", f"{len(found)} keys in all", "`kylo-outbox outbox held`")


def _paused(tx: Any) -> Iterator[Finding]:
    for each in pauses.paused(tx):
        what = each.topic if each.key is None else f"{each.topic} {each.key}"
        yield Finding(
            "note",
            "pauses",
            what,
            f"paused by {each.paused_by} since {each.paused_at:%Y-%m-%d %H:%M}: {each.reason or 'no reason given'}",
            f"`kylo-outbox outbox resume {what}`",
        )


def _dead_letters(tx: Any) -> Iterator[Finding]:
    for topic, number in read_dead_letters(tx).items():
        yield Finding(
            "warning", "dead letters", topic, f"{number} dead letters that nobody has settled", "`kylo-outbox dlq ls`"
        )


def _lanes(tx: Any) -> Iterator[Finding]:
    for lane in standing(tx):
        if not lane.led and lane.parent is None:
            yield Finding(
                "error",
                "lanes",
                "",
                f"nobody leads lane {lane.lane}: its events are not published",
                "start `kylo-outbox relay`; if one runs, its log says why it does not lead",
            )


def _old_transactions(tx: Any, older_than: float) -> Iterator[Finding]:
    remedies = {
        "session": "finish it, or end it: select pg_terminate_backend({pid})",
        "prepared transaction": "commit or roll it back: rollback prepared '{name}'",
        "replication slot": "let its reader catch up, or drop it: select pg_drop_replication_slot('{name}')",
    }
    for one in sessions.holders(tx, older_than):
        yield Finding(
            "warning",
            "old transactions",
            "",
            f"{one.line} (it keeps PostgreSQL from cleaning up; the relay goes on)",
            remedies[one.kind].format(pid=one.pid, name=one.name),
        )


CHECKS: Final[tuple[Check, ...]] = (
    ("clock", _clock),
    ("durability", _durability),
    ("partitions", _partitions),
    ("lanes", _lanes),
    ("oldest event", _waiting),
    ("held keys", _held),
    ("pauses", _paused),
    ("dead letters", _dead_letters),
)
