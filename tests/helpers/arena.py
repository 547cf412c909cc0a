"""Two relays, a topic and a store that is watched: what the tests of the relay under fire have in common."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.helpers.broker import make_topic
from tests.helpers.lane_watch import watch
from tests.helpers.look import Look
from tests.helpers.pipeline import wait_until
from tests.helpers.relays import RelayProcess
from tests.helpers.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.writers import Writers

_LANES = "select lane, holder, epoch, acknowledged, high_water from kylo.lanes where parent is null order by lane"
_OPEN = """
select (select count(*) from outbox where processed_at is null) - (select count(*) from kylo.outbox_held)
"""
_UP = "select count(*) from control.heartbeats where part = 'relay' and instance like %s"


def _tail(log_file: Path) -> list[str]:
    return log_file.read_text(errors="replace").splitlines()[-40:] if log_file.exists() else []


@dataclass(frozen=True)
class LaneNow:
    """A lane as it stands: the holder's pid (None: free), and how far it is."""

    pid: int | None
    epoch: int
    acknowledged: int
    high_water: int


class Arena:
    """Relays on one migrated database and one broker; `planted` names the fault that they carry."""

    def __init__(
        self, dsn: str, bootstrap: str, folder: Path, *, planted: str = "", config: dict[str, str] | None = None
    ) -> None:
        self.dsn, self.bootstrap = dsn, bootstrap
        self.topic = make_topic(bootstrap, partitions=6, config=config)
        settings = {"PG_DSN_RW": dsn, "KAFKA_BROKERS": bootstrap}
        self.relays = [RelayProcess(folder / f"relay-{number}.log", settings, planted) for number in range(2)]
        self._look = Look(dsn)
        watch(dsn)

    @contextmanager
    def running(self, count: int = 2) -> Iterator[Arena]:
        """Start so many relays and wait until the first leads; in the end none of them is left."""
        try:
            for number, relay in enumerate(self.relays[:count]):
                relay.start()
                if number == 0:
                    wait_until(lambda: any(lane.pid for lane in self.lanes().values()), 60, "a relay leads")
            for relay in self.relays[:count]:
                self.until_up(relay)
            yield self
        except BaseException:
            self.tell()
            raise
        finally:
            for relay in self.relays:
                relay.kill()
            self._look.close()

    def until_up(self, relay: RelayProcess) -> None:
        """Wait until a relay process says that it is there (it may only stand by)."""
        wait_until(lambda: self._look.ask(_UP, f"%:{relay.pid}:%")[0][0] > 0, 180, "the relay is up")

    def lanes(self) -> dict[int, LaneNow]:
        """The lanes by number."""
        return {
            lane: LaneNow(int(holder.rpartition(":")[2]) if holder else None, *rest)
            for lane, holder, *rest in self._look.ask(_LANES)
        }

    def leader(self) -> RelayProcess:
        """A relay that holds a lane, waited for."""
        found: list[RelayProcess] = []

        def leads() -> bool:
            pids = {lane.pid for lane in self.lanes().values()}
            found[:] = [relay for relay in self.relays if relay.runs and relay.pid in pids]
            return bool(found)

        wait_until(leads, 60, "a relay leads")
        return found[0]

    def other(self, relay: RelayProcess) -> RelayProcess:
        """The other one of the two."""
        return next(each for each in self.relays if each is not relay)

    def open_events(self) -> int:
        """How many events are neither processed nor held, as the store tells."""
        return int(self._look.ask(_OPEN)[0][0])

    def drain(self, seconds: float = 120.0) -> None:
        """Wait until nothing is left that the relay could publish."""
        wait_until(lambda: self.open_events() <= 0, seconds, "the outbox is drained")

    def judge(self, ledger: Writers | set[str]) -> Verdict:
        """What the log says."""
        return judge(self.bootstrap, self.topic, self.dsn, ledger)

    def tell(self) -> None:
        """Print the ends of the relays' logs; pytest shows it where a test failed."""
        for relay in self.relays:
            print(f"== {relay.log_file.name}", *_tail(relay.log_file), sep="\n")
