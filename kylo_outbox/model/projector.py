"""What a projector author writes: one class, one method over a batch. Everything hard is the runtime's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from uuid import UUID

    from kylo_outbox.model.events import Event


class Effect(NamedTuple):
    """One effect of one event, as `Projector.effects` tells of it.

    Attributes:
        event_id: The event.
        place: Anything that grows in the order in which effects of a key were written (an identity column, a number
            drawn under the key's lock; not a time). None: the tables do not tell.
        fault: Why the effect is not whole; empty if it is.
    """

    event_id: UUID
    place: Any = None
    fault: str = ""


class Projector:
    """A named reader of topics whose effect is applied exactly once.

    `kylo-outbox project my.module:Balances` runs it. The consumer group is `group` (by default the name), from the
    earliest record.

    Attributes:
        name: Stable; positions are kept under it.
        topics: Topics to read.
        on_poison: `"hold"` or `"skip"`: what later events of a key do after a dead letter.
        store: `"control"` or `"company"`: whose database the transaction is in.
        group: Consumer group id; None means the name.
        session_timeout: Seconds that `apply` may compute between two statements. A process that is stopped inside
            its transaction holds its keys for as long, so it is no longer than it must be.
        batch: At most so many records in one transaction.
        upcasters: How older versions of an event are read: {(type, version): function}. The function gets the parsed
            payload of that version and returns the next one's; `version` in it is raised by the runtime. A payload
            without `version` is version 1. `Event.raw` stays as published.
        tables: The tables that `apply` writes, unqualified; naming them makes the projector rebuildable.
        repeatable: Whether `apply`, of an event that was applied before, adds what is missing of its effect and
            nothing else, whatever was applied since. With `effects`, `rebuild` then mends the tables in place.
    """

    name: ClassVar[str]
    topics: Sequence[str]
    on_poison: Literal["hold", "skip"] = "hold"
    store: Literal["control", "company"] = "control"
    group: str | None = None
    session_timeout: float = 6.0
    batch: int = 1000
    upcasters: ClassVar[Mapping[tuple[str, int], Callable[[Any], Any]]] = {}
    tables: Sequence[str] = ()
    repeatable: bool = False

    def apply(self, tx: Any, events: Sequence[Event]) -> None:
        """Write the effect of `events` through `tx`, a psycopg Connection inside one transaction.

        The transaction holds the effect, the position and what `emit` adds to it; it is committed by the runtime.
        Events are ordered per key; each was never applied before. Raise `Poison` for an event that can never be
        applied and `Transient` for "not now"; any other error is taken for poison and the event is looked for by
        halving the batch, so `apply` must not keep state of its own between calls.
        """
        raise NotImplementedError

    def effects(self, tx: Any, events: Sequence[Event]) -> Iterable[Effect]:
        """Tell which effects of `events` are in the tables: one `Effect` for each time that one took effect.

        Optional: with it `kylo-outbox verify` finds effects that are gone, doubled or in the wrong order. Reads only,
        set-based like `apply`; `events` are some that were applied, at most a thousand.
        """
        raise NotImplementedError

    @property
    def tells_effects(self) -> bool:
        """Whether `effects` is written."""
        return type(self).effects is not Projector.effects


class EffectProjector(Projector):
    """A projector whose effect lies outside PostgreSQL, where no transaction reaches.

    `perform` does the effect and must be harmless when repeated (it is called again after a crash); the runtime
    stores the position after it returns. No transaction is open meanwhile.
    """

    def perform(self, events: Sequence[Event]) -> None:
        """Do the effect of `events`; raise `Transient` to be called again later."""
        raise NotImplementedError
