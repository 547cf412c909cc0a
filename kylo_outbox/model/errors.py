"""One small tree of errors; the class answers "wait, set aside or stop?".

`Transient`: the world is away for a moment; the same work succeeds later, so wait in place and spend no attempt.
`Poison`: this record can never succeed as it is; set it aside with its reason and go on.
`Fatal`: going on would do harm (lost ownership, wrong settings, a missing schema); stop and say so.
`Refused`: somebody handed us bad input; nothing was stored.

Messages are shown to people and stored: they name the part and the remedy and never carry a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class KyloError(Exception):
    """Root of every error that this package raises on purpose."""


class Transient(KyloError):  # noqa: N818 - the name answers the question; "TransientError" adds nothing
    """The same work will succeed later: wait in place, keep order, spend no attempt."""


class Unreachable(Transient):
    """A dependency (PostgreSQL, Kafka, Google) does not answer; `remedy` says what to look at."""

    def __init__(self, part: str, detail: str, remedy: str) -> None:
        super().__init__(f"{part} is not reachable: {detail}. {remedy}")
        self.part = part
        self.remedy = remedy


class Overloaded(Transient):
    """Too much waits already, so nothing more is taken; `retry_after` says when to come back, in seconds."""

    def __init__(self, faults: Sequence[str], retry_after: float) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)
        self.retry_after = retry_after


class QuotaSpent(Transient):
    """Somebody else's limit is used up for the moment; no outage, and nobody needs to mend anything."""


class CircuitOpen(Transient):
    """Most of what arrives fails: nothing is set aside until that has another cause than the records themselves."""

    retry_after = 5.0


class Stopping(Transient):
    """The process was asked to stop: what is not done yet is done by whoever comes next."""


class Poison(KyloError):  # noqa: N818
    """This record can never be applied as it is; `reason` is stored beside its bytes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Fatal(KyloError):  # noqa: N818
    """Going on would do harm: the worker stops and its supervisor starts it anew."""


class NotReady(KyloError):  # noqa: N818
    """Something that must exist before a process starts does not: schema, topic, company. Exit code 3."""


class Misconfigured(KyloError):  # noqa: N818
    """Settings that cannot be followed; the message lists every fault at once. Exit code 2."""


class Refused(KyloError):  # noqa: N818
    """Bad input, refused whole; `faults` has one line a fault, each beginning with its path."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class Conflict(Refused):
    """The input contradicts what is stored (same id, other content)."""


class NotFound(Refused):
    """What was asked for does not exist."""


class UnknownOutcome(Transient):
    """A call to the outside may or may not have taken effect: look before sending again."""
