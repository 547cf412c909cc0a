"""Publishing with fencing at the broker: transactions under an id that belongs to the lane, not to the process.

Whoever opens that id last is obeyed; the broker refuses everything of the producer before, whatever it still had in
its queues. Several batches share a transaction, and a batch is done when its transaction is committed: a consumer that
reads committed records sees all of it or nothing. A record that is refused costs its whole transaction: the relay
reads again from what is done.
"""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Literal

from kylo_outbox.kafka.client import KafkaFatal, KafkaFault, classify, guarded
from kylo_outbox.kafka.producer import BATCH_BYTES, Publisher, Ticket
from kylo_outbox.model.errors import Fatal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.kafka.client import KafkaAddress

_RECORDS: Final = 5000
_SECONDS: Final = 0.03
# One wait for the broker is shorter than what is left of a lease; the call is resumed at the next turn.
_PATIENCE: Final = 0.5
# librdkafka mixes up the answers to its own steps when a resumed call gives up within them: never ask for less.
_RESUME: Final = 0.25
# Readers of committed records wait this long for the transaction of a relay that died and has no successor. A longer
# outage of the broker ends the transaction, too: then the worker is refused and starts anew.
_TRANSACTION_MS: Final = 30_000
_TAKEN: Final = frozenset({"_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED"})


class FencedPublisher(Publisher):
    """A `Publisher` whose records count only if nobody took the lane over. Not safe to share between threads.

    The transactional id is `kylo-<store>-<lane>` and is claimed by the first `send`, not before, so that a relay that
    stands by refuses nobody. Every method may raise `Fatal` when the broker says that another has claimed it since,
    and `KafkaFault` while no broker answers.
    """

    def __init__(
        self,
        address: KafkaAddress,
        store_id: str,
        lane: int = 0,
        *,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self.transactional_id = f"kylo-{store_id}-{lane}"
        super().__init__(address, store_id, batch_bytes=batch_bytes)

    def _guarantee(self) -> dict[str, Any]:
        return {"transactional.id": self.transactional_id, "transaction.timeout.ms": _TRANSACTION_MS}

    def _open(self) -> None:
        super()._open()
        self._phase: Literal["unclaimed", "open", "committing", "broken"] = "unclaimed"
        self._inside: list[Ticket] = []
        self._began = 0.0

    def send(self, rows: Sequence[tuple[Any, ...]], *, tracked: bool = False) -> Ticket:
        """Add rows to the open transaction, in order; returns at once, or after the commit that is due.

        Raises:
            KafkaFault: nothing was taken, because the broker does not answer: send the same rows again.
        """
        if self._phase == "unclaimed":
            self._claim()
        self._commit_if_due()
        if self._phase == "committing":
            raise KafkaFault("Kafka: the broker has not confirmed the transaction before", "broker", "_TIMED_OUT")
        ticket = Ticket(len(rows), [row[0] for row in rows] if tracked else None)
        if not self._inside:
            self._began = time.monotonic()
        self._inside.append(ticket)
        self._hand_over(rows, ticket, repeat(ticket.failed))
        self._commit_if_due()
        return ticket

    def poll(self, seconds: float = 0.0) -> None:
        """Serve delivery reports for up to `seconds`; commit what is due."""
        if self._inside and self._phase == "open":
            due = self._began + _SECONDS - time.monotonic()
            self._serve(self._producer.poll, max(0.0, min(seconds, due)))
        else:
            self._serve(self._producer.poll, seconds if self._phase != "committing" else 0.0)
        self._go_on()
        self._commit_if_due()

    def hurry(self) -> None:
        """Commit at once: nothing else is coming."""
        if self._inside:
            self._commit(_RESUME)

    def drain(self, seconds: float) -> int:
        """Commit, waiting up to `seconds`; how many records are left."""
        until = time.monotonic() + seconds
        while self._inside and self._phase in {"open", "committing"} and (left := until - time.monotonic()) > 0:
            self._commit(max(_RESUME, min(left, _PATIENCE)))
        return sum(ticket.expected for ticket in self._inside)

    def close(self) -> None:
        """Drop what is not committed; the records of an open transaction never become visible."""
        if self._inside and self._phase in {"open", "broken"}:
            # Left alone it would hold back readers of committed records until somebody claims the id again.
            with suppress(KafkaFault, KafkaFatal):
                guarded(self._producer.abort_transaction, _PATIENCE)
        self._inside = []
        with suppress(Fatal):
            super().close()

    def _claim(self) -> None:
        try:
            guarded(self._producer.init_transactions, _PATIENCE)
        except KafkaFatal as refused:
            self._open()
            raise KafkaFault(f"Kafka refuses {self.transactional_id}: {refused}", "broker", refused.code) from None
        self._begin()

    def _begin(self) -> None:
        guarded(self._producer.begin_transaction)
        self._phase = "open"

    def _commit_if_due(self) -> None:
        if self._phase == "committing" or (
            self._inside
            and self._phase == "open"
            and (
                sum(ticket.expected for ticket in self._inside) >= _RECORDS
                or time.monotonic() - self._began >= _SECONDS
            )
        ):
            self._commit(_PATIENCE)

    def _commit(self, seconds: float) -> None:
        if self._phase == "broken" or any(ticket.failure for ticket in self._inside):
            self._break(self._fatal)
            return
        self._go_on(seconds)
        if self._line:
            return  # a part of a batch is not committed
        self._phase = "committing"
        try:
            guarded(self._producer.commit_transaction, seconds)
            # Possible after a finished commit only: the proof that the answer above was meant for this call.
            self._begin()
        except KafkaFault as fault:
            if fault.aborts:
                self._break(KafkaFatal(str(fault), fault.code))
            return
        except KafkaFatal as fatal:
            self._break(fatal)
            return
        for ticket in self._inside:
            ticket.complete()
        self._inside = []

    def _serve(self, call: Callable[..., Any], *args: Any) -> None:
        before = self._fatal
        super()._serve(call, *args)
        if self._fatal is not before:
            self._break(self._fatal)

    def _break(self, fatal: KafkaFatal | None) -> None:
        """No commit can follow: either the lane is somebody else's, or `rebuild` is asked for."""
        self._phase, self._fatal = "broken", fatal
        failures = [ticket.failure for ticket in self._inside if ticket.failure]
        codes = {failure.name() for failure in failures}
        if fatal is not None:
            codes.add(fatal.code)
        if fatal is not None or any(classify(failure) != "record" for failure in failures):
            codes.add(self._last_word())
        if codes & _TAKEN:
            raise Fatal(
                f"Kafka: the lane was taken over: another relay has claimed {self.transactional_id} since, or the "
                "broker gave up a transaction that was open for too long; nothing of it is visible"
            )

    def _last_word(self) -> str:
        # What comes out of callbacks may have lost its code on the way; a client that is fatal repeats it.
        try:
            guarded(self._producer.commit_transaction, _RESUME)
        except (KafkaFault, KafkaFatal) as error:
            return error.code
        return ""
