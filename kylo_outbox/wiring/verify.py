"""The verifier put together: every store of the directory, the log, and projectors that tell their effects."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from kylo_outbox.flows.verify import Verify
from kylo_outbox.kafka.reading import LogReader
from kylo_outbox.model import topics
from kylo_outbox.model.verifying import Finding
from kylo_outbox.wiring import sheets
from kylo_outbox.wiring.parts import kafka_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.model.projector import Projector
    from kylo_outbox.model.verifying import Anomaly
    from kylo_outbox.store.engine import Database
    from kylo_outbox.wiring.parts import Parts

_UNTIL_POSTED: Final = 5.0
_ANOMALIES: Final[dict[str, Anomaly]] = {"missing": "lost", "double": "duplicated", "unknown": "aborted read"}


def verifier(parts: Parts, projectors: Sequence[Projector], stopped: Callable[[], bool] = lambda: False) -> Verify:
    """The verifier of these stores; without `KAFKA_BROKERS` the log is not compared."""
    settings = parts.settings
    kylo = {topic.name: topic.dead_letter for topic in topics.declared(settings.topic_txns, settings.topic_promote)}

    def database_of(projector: Projector, key: str) -> Database:
        return parts.directory.database_of(key) if projector.store == "company" else parts.control

    def directly(topic: str, key: str) -> Literal["never", "if taken", "always"]:
        if topic not in kylo:
            return "never"
        if kylo[topic] != topic:
            return "if taken"
        # Nobody of ours reads dead letter topics: only the present way can be known.
        return "never" if settings.via_kafka(key) else "always"

    return Verify(
        stores=parts.directory.stores,
        open_log=partial(LogReader, kafka_address(settings)) if settings.kafka_brokers else None,
        projectors=projectors,
        database_of=database_of,
        directly=directly,
        stopped=stopped,
    )


def tab_differences(parts: Parts) -> tuple[list[Finding], list[str]]:
    """(differences between tabs and tables, companies whose tabs could not be looked at).

    What has just arrived is not posted yet: a difference counts if it is still there at a second look.
    """
    desk = sheets.desk(parts)
    first = desk.reconcile()
    differing = [each.company_id for each in first if each.findings]
    problems = [f"tabs of {each.company_id}: {each.problem}" for each in first if each.problem]
    if not differing:
        return [], problems
    time.sleep(_UNTIL_POSTED)
    before = {(each.company_id, finding) for each in first for finding in each.findings}
    found = [
        Finding(
            *("tabs", _ANOMALIES.get(each.what, "inconsistent"), each.tab, company.company_id),
            *(0, (), (), f"{each.what}: row {each.row or '-'} {each.row_hash}: {each.detail}"),
        )
        for company in desk.reconcile(differing)
        for each in company.findings
        if (company.company_id, each) in before
    ]
    return found, problems
