"""A whole pass: every store's outbox against the log, positions and effects; what was found, what nobody can know."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kylo_outbox.flows.verify.one_store import StorePass, StoreVerdict
from kylo_outbox.model.errors import NotReady, Transient
from kylo_outbox.model.verifying import counts
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from kylo_outbox.flows.verify.log import Directly, Reads
    from kylo_outbox.model.appearances import Place
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.findings import OpenFinding

log = logging.getLogger(__name__)


class Home(Protocol):
    """One store as the directory lists it."""

    @property
    def database(self) -> Database: ...  # noqa: D102
    @property
    def problem(self) -> str | None: ...  # noqa: D102


@dataclass(slots=True)
class Verdict:
    """What a pass came to; `problems` name what could not be compared, and why."""

    stores: list[StoreVerdict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def differences(self) -> list[tuple[str, OpenFinding]]:
        """(store, difference) of everything that is open and that nobody has accepted."""
        return [(store.store, each) for store in self.stores for each in store.open if not each.accepted]


class Verify:
    """The verifier. It writes nothing but its own tables.

    Args:
        stores: Every store, as known now.
        open_log: Makes a reader of the log; None: there is no broker, the log is not compared.
        projectors: Whose effects are looked for; those that do not tell theirs are left out.
        database_of: Where the effect of a projector lives, by key; may raise `Transient`.
        directly: What is known of events that are handed over in process.
        stopped: Whether to end soon; a pass that is broken off stores nothing, the next one does its work.
    """

    def __init__(
        self,
        *,
        stores: Callable[[], Sequence[Home]],
        open_log: Callable[[], Reads] | None,
        projectors: Iterable[Projector] = (),
        database_of: Callable[[Projector, str], Database],
        directly: Directly = lambda _topic, _key: "never",
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stores, self._open_log, self._directly = stores, open_log, directly
        self._projectors = [each for each in projectors if each.tells_effects]
        self._database_of = database_of
        self._stopped = stopped

    def run(self, since: datetime | None = None, *, not_before: float = 0.0, effects_only: bool = False) -> Verdict:
        """Compare what is new since the last pass.

        Args:
            since: Compare everything saved since then once more, whatever former passes saw.
            not_before: Leave a store out whose last pass ended less than so many seconds ago.
            effects_only: Leave log and positions to another process.

        Returns:
            What was found. A store that is away is named in it and stops no other.

        Raises:
            Transient: Kafka is away; nothing was compared with the log, and nothing of it is stored.
        """
        verdict = Verdict()
        found = self._stores()
        verdict.problems += [home.problem for home in found if home.problem is not None]
        homes = [home.database for home in found if home.problem is None]
        passes: list[StorePass] = []
        for home in homes:
            with _told(verdict):
                complete = len(homes) == len(found)
                begun = StorePass(home, homes, since, self._directly, self._go_on, complete=complete)
                if begun.state.age is None or begun.state.age >= not_before:
                    passes.append(begun)
        if not effects_only and passes:
            passes = self._compare(passes, verdict)
        for each in passes:
            with _told(verdict):
                for projector in self._projectors:
                    each.look_for_effects(projector, partial(self._database_of, projector))
                verdict.stores.append(each.conclude())
        return verdict

    def run_job(self, every: float, *, effects_only: bool = False) -> Verdict:
        """The scheduled pass: what it finds goes to the log, a line for each difference, and into the metrics."""
        verdict = self.run(not_before=0.0 if effects_only else 0.9 * every, effects_only=effects_only)
        for store in verdict.stores:
            for finding in store.new:
                metrics.VERIFY_FOUND.labels(finding.part, finding.anomaly).inc()
                log.error("verify: store %s: %s", store.store, finding.line())
        for problem in verdict.problems:
            log.warning("verify: %s", problem)
        if verdict.stores:
            now_open = [each.finding for _, each in verdict.differences]
            for (part, anomaly), number in counts(now_open).items():
                metrics.VERIFY_DIFFERENCES.labels(part, anomaly).set(number)
            if not verdict.problems:
                metrics.VERIFY_LAST_SUCCESS.set_to_current_time()
        return verdict

    def _compare(self, passes: Sequence[StorePass], verdict: Verdict) -> list[StorePass]:
        done = []
        reader = self._open_log() if self._open_log is not None else None
        try:
            if reader is not None:
                self._read(reader, passes)
            for each in passes:
                with _told(verdict):
                    each.compare(reader)
                    done.append(each)
        finally:
            if reader is not None:
                reader.close()
        return done

    def _read(self, reader: Reads, passes: Sequence[StorePass]) -> None:
        """Read each partition once, from where the store that is furthest behind goes on."""
        bounds = reader.bounds({topic for each in passes for topic in each.log.topics})
        stretches: dict[Place, tuple[int, int]] = {}
        for each in passes:
            for place, (start, end) in each.log.stretches(bounds, reader).items():
                stretches[place] = (min(start, stretches.get(place, (start, end))[0]), end)
        for batch in reader.read(stretches):
            self._go_on()
            for each in passes:
                each.log.take(batch)

    def _go_on(self) -> None:
        if self._stopped():
            raise Transient("the process stops; the next pass goes on")


@contextmanager
def _told(verdict: Verdict) -> Iterator[None]:
    """What is away is written into the verdict and stops no other store."""
    try:
        yield
    except (Transient, NotReady) as away:
        verdict.problems.append(str(away))
