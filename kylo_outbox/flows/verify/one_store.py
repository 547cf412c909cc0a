"""One store in one pass: log and positions in one transaction of the store, then the effects of each projector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kylo_outbox.flows.verify.effects import EffectCheck, EffectFigures
from kylo_outbox.flows.verify.log import LogCheck, LogFigures
from kylo_outbox.flows.verify.positions import PositionCheck, PositionFigures
from kylo_outbox.store import findings, verify_log, verify_state
from kylo_outbox.store.engine import may_idle
from kylo_outbox.store.identity import require_own

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from kylo_outbox.flows.verify.log import Directly, Reads
    from kylo_outbox.model.appearances import Key
    from kylo_outbox.model.delivery import PositionAt
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.model.verifying import Finding
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.findings import OpenFinding

_LONG = 600.0


@dataclass(slots=True)
class StoreVerdict:
    """One store: figures of this pass, every difference that is open (`new`: found by this pass), what is unknown."""

    store: str
    log: LogFigures = field(default_factory=LogFigures)
    positions: PositionFigures = field(default_factory=PositionFigures)
    effects: dict[str, EffectFigures] = field(default_factory=dict)
    new: list[Finding] = field(default_factory=list)
    open: list[OpenFinding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


class StorePass:
    """One store; raises `Transient` where it or a database that is needed is away.

    Args:
        store: The store.
        homes: Every database that may have positions over its events.
        since: None: what is new; else everything saved since then.
        directly: What is known of events that are handed over in process.
        complete: Whether `homes` are all there are.
        go_on: Called again and again; raises where the pass is to end.
    """

    def __init__(
        self,
        store: Database,
        homes: Sequence[Database],
        since: datetime | None,
        directly: Directly,
        go_on: Callable[[], None],
        *,
        complete: bool,
    ) -> None:
        self.store, self._homes, self._since, self._go_on = store, homes, since, go_on
        self.log = LogCheck(
            store, since=since, directly=directly, complete=complete, taken_up_to=self._taken_up_to, go_on=go_on
        )
        self.state = self.log.state
        self.verdict = StoreVerdict(self.state.store_id, log=self.log.figures)
        self._positions = [self._positions_in(home) for home in homes]

    def compare(self, reader: Reads | None) -> None:
        """Outbox against log and positions; stored as a whole or not at all.

        Raises:
            Transient: not now, or somebody else verifies the store; nothing is stored.
        """
        with self.store.transaction() as tx:
            may_idle(tx, _LONG)
            new = verify_state.boundary(tx)
            self.log.compare(tx, new, reader)
            found = list(self.log.findings)
            for each in self._positions:
                each.compare(tx, self.log.stored_state, new)
                found += each.findings
            names = {finding.name for finding in found}
            compared = {name for each in self._positions for name in each.compared}
            gone = [
                each.id
                for each in findings.still_open(tx)
                if each.finding.name not in names and self._may_be_over(each.finding, compared, read=reader is not None)
            ]
            findings.over(tx, gone)
            self.verdict.new += findings.save(tx, found)
            if self._since is None:
                verify_state.finish(tx, self.state, new, self.log.figures.repeats)
        for each in self._positions:
            self.verdict.positions.add(each.figures)

    def look_for_effects(self, projector: Projector, database_of: Callable[[str], Database]) -> None:
        """The effects of one projector.

        Raises:
            Transient: not now, or somebody else is at it; nothing is stored.
        """
        check = EffectCheck(projector, database_of, self._go_on)
        self.verdict.new += check.run(self.store, self.log.stored_state, self._since)
        self.verdict.effects[projector.name] = check.figures

    def conclude(self) -> StoreVerdict:
        """Everything that is open, and what cannot be known."""
        with self.store.transaction() as tx:
            self.verdict.open = findings.still_open(tx)
        state, log = self.state, self.verdict.log
        if state.counted_from > 1:
            text = f"events up to #{state.counted_from - 1} left the outbox before they were counted"
            self.verdict.unknown.append(text)
        if state.era:
            text = "the store began another life: what was taken in the one before cannot be compared"
            self.verdict.unknown.append(text)
        if state.left_unverified:
            text = f"{state.left_unverified} events left the outbox before they were compared with the log"
            self.verdict.unknown.append(text)
        if log.unknown:
            text = f"{log.unknown} events: their part of the log, or of the outbox, had left before this look"
            self.verdict.unknown.append(text)
        if behind := self.verdict.positions.behind:
            text = f"{behind} positions are far behind; they are compared when they have come nearer"
            self.verdict.unknown.append(text)
        return self.verdict

    def _may_be_over(self, finding: Finding, compared: set[tuple[str, str, str]], *, read: bool) -> bool:
        if finding.part == "positions":
            return (finding.projector, finding.topic, finding.key) in compared
        # What was lost may come back; what happened on the log stays there.
        return finding.part == "log" and finding.anomaly == "lost" and read and self._since is None

    def _positions_in(self, home: Database) -> PositionCheck:
        with home.begin() as connection:
            home_id = require_own(connection).store_id
        return PositionCheck(home, home_id, self.store, self.log.stored_state, everything=self._since is not None)

    def _taken_up_to(self, store_id: str, keys: Collection[Key]) -> dict[Key, PositionAt]:
        found: dict[Key, PositionAt] = {}
        for home in self._homes:
            with home.transaction() as tx:
                for key, at in verify_log.taken_up_to(tx, store_id, keys).items():
                    found[key] = max(at, found.get(key, at))
        return found
