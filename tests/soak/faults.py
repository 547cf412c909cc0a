"""The plan of faults, drawn from a seed and nothing else, and the doing of it."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from kylo_outbox.model.errors import Transient
from kylo_outbox.store.engine import Database
from kylo_outbox.store.sides import set_lanes
from tests.soak.inside import stop_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.helpers.relays import OwnProcess
    from tests.soak.crew import Crew
    from tests.soak.stage import Stage

# Each round has every fault so often, in an order of its own; about a second lies between two of them.
ROUND = {
    "kill a relay": 3,
    "stop a relay": 2,
    "kill a projector": 3,
    "stop a projector": 2,
    "stop a projector inside its transaction": 1,
    "kill PostgreSQL": 1,
    "kill Kafka": 1,
    "cut PostgreSQL": 2,
    "cut Kafka": 2,
    "slow PostgreSQL": 1,
    "slow Kafka": 1,
    "hold up PostgreSQL": 1,
    "hold up Kafka": 1,
    "end the relays' sessions": 1,
    "change the lanes": 1,
}
# (least, most) seconds until what was killed is started again, what was stopped is woken, what is slow is quick.
_LENGTHS = {
    "kill a relay": (0.0, 1.0),
    "stop a relay": (0.3, 4.0),
    "kill a projector": (0.0, 1.0),
    "stop a projector": (0.5, 9.0),
    "stop a projector inside its transaction": (7.0, 10.0),
    # Until its group has noticed, others have its partitions, and they have applied what it had in hand.
    "stop a projector inside its transaction for long": (12.0, 14.0),
    "kill PostgreSQL": (0.0, 0.5),
    "kill Kafka": (0.0, 1.0),
    "slow PostgreSQL": (1.0, 3.0),
    "slow Kafka": (1.0, 3.0),
    "hold up PostgreSQL": (0.3, 4.0),
    "hold up Kafka": (0.3, 4.0),
}
_SLOW = 0.015
_LANES = (1, 2, 3)
_RELAY_SESSIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
 where datname = current_database() and application_name like 'kylo-outbox relay %'
"""


class Planned(NamedTuple):
    """One fault to come: so long after the former one, to the `victim`th of those concerned, for `length` seconds."""

    after: float
    kind: str
    victim: int
    length: float


def plan(seed: int, mix: Mapping[str, int] | None = None) -> Iterator[Planned]:
    """Faults without end: the same ones for the same seed and mix."""
    dice = random.Random(f"faults {seed}")
    kinds = [kind for kind, often in (mix or ROUND).items() for _ in range(often)]
    while True:
        for kind in dice.sample(kinds, len(kinds)):
            least, most = _LENGTHS.get(kind, (0.0, 0.0))
            yield Planned(dice.uniform(0.5, 1.5), kind, dice.randrange(6), dice.uniform(least, most))


@dataclass
class Fault:
    """One that was done. Times are seconds since 1970; `mended` when what it took away was given back."""

    kind: str
    at: float
    mended: float | None = None


@dataclass
class Faults:
    """Does what is planned; what it breaks is mended by threads of their own, so that faults meet one another."""

    stage: Stage
    crew: Crew
    database: str
    done: list[Fault] = field(default_factory=list)
    passed_over: int = 0
    _busy: set[object] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)
    _mending: list[Future[None]] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(12, thread_name_prefix="mend"))

    def run(self, planned: Iterator[Planned], enough: Callable[[int], bool]) -> None:
        """Go on until `enough` (number of faults done) or somebody calls `mend_all`."""
        for each in planned:
            if self._over.wait(each.after) or enough(len(self.done)):
                return
            for future in [future for future in self._mending if future.done()]:
                future.result()
                self._mending.remove(future)
            fault = Fault(each.kind, time.time())
            name = self._do(each, fault)
            if name:
                self.done.append(fault)
                print(f"fault {len(self.done)}: {name}", flush=True)
            else:
                self.passed_over += 1

    def mend_all(self) -> None:
        """Give everything back at once, and wait until that is done."""
        self._over.set()
        for future in self._mending:
            future.result(180)
        self._pool.shutdown()

    def _do(self, each: Planned, fault: Fault) -> str:
        """Do one; its name as it is counted, or nothing if there was nobody to do it to."""
        verb, last = each.kind.split()[0], each.kind.split()[-1]
        if last in self.stage.doors:
            return self._server(verb, last, each, fault)
        if "a relay" in each.kind:
            return self._process(verb, self.crew.relays, each, fault)
        if "a projector" in each.kind:
            return self._process(verb, self.crew.projectors, each, fault)
        return self._in_database(each)

    def _process(self, verb: str, of: Sequence[OwnProcess], each: Planned, fault: Fault) -> str:
        line = [of[(each.victim + n) % len(of)] for n in range(len(of))]
        victim = next((one for one in line if one not in self._busy and one.runs), None)
        if victim is None:
            return ""
        self._busy.add(victim)
        if victim in self.crew.relays:
            fault.kind = each.kind.replace("a relay", "a leading relay" if self.crew.leads(victim) else "a standby")
        if verb == "kill":
            victim.kill()
            self._mend_later(each.length, fault, victim, victim.start)
            return fault.kind
        if "inside" in each.kind:
            if not stop_inside(self.stage.postgres.dsn(self.database), self.stage.doors["PostgreSQL"], victim):
                fault.kind = "stop a projector"  # it was nowhere inside
        else:
            victim.stop()
        self._mend_later(each.length, fault, victim, victim.go_on)
        return f"{fault.kind} ({each.length:.1f} s)"

    def _server(self, verb: str, name: str, each: Planned, fault: Fault) -> str:
        door, server = self.stage.doors[name], {"PostgreSQL": self.stage.postgres, "Kafka": self.stage.kafka}[name]
        if name in self._busy:
            return ""
        if verb == "cut":
            door.cut()
            return each.kind
        self._busy.add(name)
        if verb == "kill":
            server.kill()
            self._mend_later(each.length, fault, name, server.start)
            return each.kind
        if verb == "slow":
            door.slow(_SLOW)
        else:
            door.hold_up()
        self._mend_later(each.length, fault, name, door.as_usual)
        return f"{each.kind} ({each.length:.1f} s)"

    def _in_database(self, each: Planned) -> str:
        database = Database(self.stage.postgres.dsn(self.database), name="soak")
        try:
            with database.transaction() as tx:
                if each.kind == "change the lanes":
                    count = _LANES[each.victim % len(_LANES)]
                    set_lanes(tx, count)
                    return f"{each.kind} ({count})"
                tx.execute(_RELAY_SESSIONS)
                return each.kind
        except (Transient, psycopg.Error):
            return ""  # PostgreSQL is away just now
        finally:
            database.close()

    def _mend_later(self, seconds: float, fault: Fault, victim: object, mend: Callable[[], None]) -> None:
        def wait_and_mend() -> None:
            self._over.wait(seconds)
            mend()
            fault.mended = time.time()
            self._busy.discard(victim)

        self._mending.append(self._pool.submit(wait_and_mend))
