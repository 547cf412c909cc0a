"""What people do with rules: look, propose, approve, withdraw, ask for promotion, undo.

Everything but the request for a promotion happens in the company's own store, as the role that sees this company
alone. A request is an event of the control store, so it can be made while the company's database is away.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid5

from kylo_outbox.model.errors import Conflict, Refused
from kylo_outbox.model.events import Event
from kylo_outbox.model.messages import PromoteRules, tabs_changed
from kylo_outbox.model.rules import parse_rules
from kylo_outbox.store import companies, company_state, pending, proposals, rules, targets
from kylo_outbox.store.emit import emit_many
from kylo_outbox.store.isolation import company_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.rules import Targets
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.pending import OpenRow
    from kylo_outbox.store.proposals import Proposal
    from kylo_outbox.store.rules import ActiveSet, Preview, Promotion

_REQUEST = UUID("4f0b1c9e-55a4-5a5e-8f1c-6f4f3c2b7d10")
_MAX_KEY = 200


class Requested(NamedTuple):
    """A promotion that was asked for; `request_id` finds what became of it in the history."""

    company_id: str
    request_id: UUID


class Rules:
    """The rules of all companies. Safe to share between threads.

    Args:
        control: The control store.
        topic: Where requests for promotion go, keyed by company.
        company_of: A company's row, None if it is unknown.
        store_of: The store in which a company lives; may raise `Transient`.

    Every method raises `NotFound` for an unknown company and `Transient` while a database that it needs is away or
    the company is being moved; nothing is half done then.
    """

    def __init__(
        self,
        control: Database,
        topic: str,
        company_of: Callable[[str], Company | None],
        store_of: Callable[[str], Database],
    ) -> None:
        self._control, self._topic = control, topic
        self._company_of, self._store_of = company_of, store_of

    def active(self, company_id: str) -> ActiveSet:
        """The rules in force."""
        with self._reading(company_id) as tx:
            return rules.in_force(tx, company_id)

    def proposals(self, company_id: str, states: Sequence[str] | None = None) -> list[Proposal]:
        """Proposals, all or those in some states, by number."""
        with self._reading(company_id) as tx:
            return proposals.listed(tx, company_id, states)

    def history(self, company_id: str, limit: int = 50) -> list[Promotion]:
        """What was promoted and undone, newest first."""
        with self._reading(company_id) as tx:
            return rules.history(tx, company_id, limit)

    def outcome(self, requested: Requested) -> Promotion | None:
        """What a request came to; None while it is on its way."""
        with self._reading(requested.company_id) as tx:
            return rules.of_request(tx, requested.company_id, requested.request_id)

    def open_items(self, company_id: str, after: int = 0, limit: int = 100) -> list[OpenRow]:
        """Open transactions in the order in which they were left open, behind the one numbered `after`."""
        with self._reading(company_id) as tx:
            return pending.page(tx, company_id, after, limit)

    def preview(self, company_id: str) -> Preview:
        """What a promotion would do now; nothing is changed."""
        with self._reading(company_id) as tx:
            return rules.preview(tx, company_id)

    def propose(self, company_id: str, rows: Any, by: str) -> tuple[list[Proposal], int]:
        """Store proposals, all or none; one for each row, and how many are new. A repeat gets the same ones.

        Raises:
            Refused: with every fault and its path.
        """
        wanted = parse_rules(rows, self.targets(company_id))
        with self._changing(company_id) as (tx, _):
            return proposals.propose(tx, company_id, wanted, by)

    def approve(self, company_id: str, numbers: Iterable[int], by: str) -> list[Proposal]:
        """Approve proposals, all or none; one that is approved already stays so.

        Raises:
            Refused: a number is unknown.
            Conflict: a proposal was withdrawn or undone, or two would be approved for one source.
        """
        with self._changing(company_id) as (tx, _):
            return proposals.approve(tx, company_id, numbers, by)

    def withdraw(self, company_id: str, numbers: Iterable[int]) -> list[Proposal]:
        """Withdraw proposals that are not promoted.

        Raises:
            Refused: a number is unknown.
            Conflict: a proposal is promoted.
        """
        with self._changing(company_id) as (tx, _):
            return proposals.withdraw(tx, company_id, numbers)

    def undo(self, company_id: str, by: str, version: int | None = None) -> Promotion:
        """Put the former version in force again and open what only the undone one had decided.

        Args:
            company_id: Whose rules.
            by: Who, for the history.
            version: The version to undo; a repeat of the last undo then gets its answer. None: the one in force.

        Raises:
            Refused: no rules are in force.
            Conflict: `version` is not the one in force.
        """
        with self._changing(company_id) as (tx, at):
            if version is not None and version != at:
                last = next(iter(rules.history(tx, company_id, 1)), None)
                if last is not None and (last.act, last.former) == ("undo", version):
                    return last
                raise Conflict([f"version: {version} is not in force, {at or 'none'} is"])
            done = rules.undo(tx, company_id, at, asked_by=by)
            emit_many(tx, [tabs_changed(company_id, "active"), tabs_changed(company_id, "pending")])
            return done

    def request(self, company_id: str, by: str, key: str | None = None) -> Requested:
        """Ask for the promotion of one company's approved rules; `key` makes a repeat the same request."""
        self._known(company_id)
        return self._request([company_id], by, key)[0]

    def request_all(self, by: str, key: str | None = None) -> list[Requested]:
        """Ask for the promotion of every company, in one transaction."""
        with self._control.begin() as connection:
            everybody = [company.company_id for company in companies.all_companies(connection)]
        return self._request(everybody, by, key)

    def targets(self, company_id: str) -> Targets:
        """Where rules of the company may point to; empty: anywhere."""
        self._known(company_id)
        with self._control.transaction() as tx:
            return targets.read(tx, company_id)

    def change_targets(
        self, company_id: str, add: Sequence[tuple[str, str]] = (), remove: Sequence[tuple[str, str]] = ()
    ) -> Targets:
        """Allow and no longer allow targets; what is allowed then."""
        self._known(company_id)
        with self._control.transaction() as tx:
            targets.add(tx, company_id, add)
            targets.remove(tx, company_id, remove)
            return targets.read(tx, company_id)

    def _request(self, company_ids: Sequence[str], by: str, key: str | None) -> list[Requested]:
        if key is not None and not (0 < len(key) <= _MAX_KEY and key.isascii() and key.isprintable()):
            raise Refused([f"Idempotency-Key: must be 1 to {_MAX_KEY} printable ASCII characters"])
        at = datetime.now(UTC)
        events = [
            Event(
                topic=self._topic,
                key=company_id,
                type=PromoteRules.TYPE,
                payload=PromoteRules(company_id=company_id, created_at=at, meta={"by": by}).payload(),
                event_id=uuid5(_REQUEST, f"{company_id}|{key}") if key is not None else None,
            )
            for company_id in company_ids
        ]
        with self._control.transaction() as tx:
            saved = emit_many(tx, events)
        return [Requested(event.key, event.event_id) for event in saved if event.event_id is not None]

    def _known(self, company_id: str) -> None:
        if self._company_of(company_id) is None:
            raise companies.unknown(company_id)

    @contextmanager
    def _reading(self, company_id: str) -> Iterator[Any]:
        self._known(company_id)
        with company_transaction(self._store_of(company_id), company_id) as tx:
            yield tx

    @contextmanager
    def _changing(self, company_id: str) -> Iterator[tuple[Any, int]]:
        with self._reading(company_id) as tx:
            yield tx, company_state.lock(tx, [company_id])[company_id]
