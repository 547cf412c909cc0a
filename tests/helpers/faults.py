"""What is done to a running system, one fault after the other, and how long it takes to publish again."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import psycopg

from kylo_outbox.store.engine import Database
from kylo_outbox.store.sides import set_lanes
from tests.helpers.pipeline import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from kylo_outbox.local.kafka import LocalKafka
    from kylo_outbox.local.postgres import LocalPostgres
    from tests.helpers.arena import Arena, LaneNow

# Every fault of a round comes once or more often, in an order drawn anew for each round.
ROUND = [
    *["kill the leader"] * 2,
    "kill the standby",
    *["stop the leader"] * 2,
    "stop the standby",
    *["kill PostgreSQL"] * 2,
    "kill Kafka",
    "cut the relay's session",
    *["change the lanes"] * 2,
]
_RELAY_SESSIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
 where datname = current_database() and application_name like 'kylo-outbox relay %'
"""
_LONGER_THAN_A_LEASE = 1.5
_AGAIN = 120.0


class Faults:
    """`run` does them; `times` are the seconds until the lanes concerned were publishing again, by fault."""

    def __init__(
        self, arena: Arena, postgres: LocalPostgres, kafka: LocalKafka, dice: random.Random, *, longest: float
    ) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self._arena, self._postgres, self._kafka = arena, postgres, kafka
        self._dice, self._longest = dice, longest
        self._lanes = [3, 2, 1]
        self._never = threading.Event()
        self._do: dict[str, Callable[[], Callable[[], bool] | None]] = {
            "kill the leader": self._kill_leader,
            "kill the standby": self._kill_standby,
            "stop the leader": self._stop_leader,
            "stop the standby": self._stop_standby,
            "kill PostgreSQL": self._kill_postgres,
            "kill Kafka": self._kill_kafka,
            "cut the relay's session": self._cut_session,
            "change the lanes": self._change_lanes,
        }

    def run(self, count: int) -> None:
        """So many faults in rounds; between two of them there may be hardly any time or a second."""
        round_: list[str] = []
        for number in range(count):
            round_ = round_ or self._dice.sample(ROUND, len(ROUND))
            name = round_.pop()
            self._wait(self._dice.choice([0.05, 1.0]) * self._dice.random())
            again = self._do[name]()
            begun = time.monotonic()
            if again is not None:
                wait_until(again, _AGAIN, f"publishing again after: {name}")
                self.times[name].append(time.monotonic() - begun)
                print(f"fault {number + 1}: {name}; publishing again after {self.times[name][-1]:.2f} s")
            else:
                print(f"fault {number + 1}: {name}")
            self._heal()

    def _kill_leader(self) -> Callable[[], bool]:
        victim = self._arena.leader()
        theirs = self._lanes_of(victim.pid)
        victim.kill()
        return self._moved_on(theirs, taken=True)

    def _kill_standby(self) -> None:
        self._arena.other(self._arena.leader()).kill()

    def _stop_leader(self) -> Callable[[], bool] | None:
        victim = self._arena.leader()
        theirs = self._lanes_of(victim.pid)
        victim.stop()
        pause = 0.3 + self._dice.random() * self._longest
        if pause > _LONGER_THAN_A_LEASE:
            return self._moved_on(theirs, taken=True)
        self._wait(pause)
        return None

    def _stop_standby(self) -> None:
        self._arena.other(self._arena.leader()).stop()
        self._wait(0.3 + self._dice.random() * self._longest)

    def _kill_postgres(self) -> Callable[[], bool]:
        self._postgres.kill()
        self._wait(self._dice.random() * 0.5)
        self._postgres.start()
        return self._moved_on(self._arena.lanes(), taken=False)

    def _kill_kafka(self) -> Callable[[], bool]:
        self._kafka.kill()
        self._wait(self._dice.random())
        self._kafka.start()
        return self._moved_on(self._arena.lanes(), taken=False)

    def _cut_session(self) -> Callable[[], bool]:
        lanes = self._arena.lanes()
        with psycopg.connect(self._arena.dsn) as connection:
            connection.execute(_RELAY_SESSIONS)
        return self._moved_on(lanes, taken=True)

    def _change_lanes(self) -> Callable[[], bool]:
        count = self._lanes.pop(0)
        self._lanes.append(count)
        database = Database(self._arena.dsn, name="tests")
        with database.transaction() as tx:
            set_lanes(tx, count)
        database.close()
        return self._moved_on(self._arena.lanes(), taken=False)

    def _heal(self) -> None:
        """Wake whoever is stopped, start whoever was killed."""
        for relay in self._arena.relays:
            if relay.stopped:
                relay.go_on()
            if not relay.runs:
                relay.start()
                self._arena.until_up(relay)

    def _lanes_of(self, pid: int) -> dict[int, LaneNow]:
        return {lane: now for lane, now in self._arena.lanes().items() if now.pid == pid}

    def _moved_on(self, before: dict[int, LaneNow], *, taken: bool) -> Callable[[], bool]:
        def moved_on() -> bool:
            now = self._arena.lanes()
            return all(
                now[lane].acknowledged > then.acknowledged and (now[lane].epoch > then.epoch or not taken)
                for lane, then in before.items()
            )

        return moved_on

    def _wait(self, seconds: float) -> Any:
        return self._never.wait(seconds)
