"""The messages of both flows, version 1: what travels on the topics, and nothing else (no address, no secret).

A message says what it is about; the rows stay in the stores. A reader refuses what it does not know:
an unknown field might be a meaning it would lose, a later version is set aside until it has learned it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self
from uuid import UUID  # noqa: TC003 - pydantic reads it at run time

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from kylo_outbox.model.errors import Poison
from kylo_outbox.model.events import Event
from kylo_outbox.model.topics import TABS_CHANGED

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
_BIGINT_MAX = 2**63 - 1


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


CompanyId = Annotated[str, Field(min_length=1, max_length=50)]
Id = Annotated[int, Field(ge=1, le=_BIGINT_MAX)]
Time = Annotated[AwareDatetime, PlainSerializer(_iso)]


class _Message(BaseModel):
    """Common ground: strict types, unknown fields refused, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
    TYPE: ClassVar[str]

    def payload(self) -> dict[str, Any]:
        """The message as JSON can hold it: ids as text, times as ISO 8601 in UTC, an absent meta left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def parse(cls, message: bytes | str | Mapping[str, Any]) -> Self:
        """Read a message from its bytes or from its parsed form.

        Raises:
            Poison: naming what is wrong, never repeating the content. `unsupported version` is a message of a later
                release: it can be replayed once this one is updated.
        """
        try:
            raw = message if isinstance(message, (bytes, str)) else json.dumps(message)
            found = json.loads(raw)
        except (ValueError, TypeError, RecursionError):
            raise Poison(f"{cls.TYPE}: not readable as JSON") from None
        if not isinstance(found, dict):
            raise Poison(f"{cls.TYPE}: must be an object")
        if found.get("event_type") != cls.TYPE:
            raise Poison(f"{cls.TYPE}: event_type is another one or missing")
        version = found.get("version")
        if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
            raise Poison(f"unsupported version: this release reads {cls.TYPE} up to version {VERSION}")
        try:
            return cls.model_validate_json(raw)
        except ValidationError as invalid:
            raise Poison(f"{cls.TYPE}: " + "; ".join(_faults(invalid))) from None


class TxnsBatch(_Message):
    """TXNS_BATCH v1: one company's slice of an ingest waits in the control store.

    `batch_id` and `ingest_batch_id` name the ingest, `slice_signature` the content of the slice (64 hex digits).
    """

    TYPE: ClassVar[str] = "TXNS_BATCH"

    event_type: Literal["TXNS_BATCH"] = "TXNS_BATCH"
    version: Literal[1] = 1
    batch_id: UUID
    company_id: CompanyId
    ingest_batch_id: Id
    slice_signature: Annotated[str, Field(min_length=1, max_length=200)]
    created_at: Time
    meta: dict[str, Any] | None = None


class PendingReady(_Message):
    """PENDING_READY v1: triage of a slice left `unmatched` transactions (at least one) open for people."""

    TYPE: ClassVar[str] = "PENDING_READY"

    event_type: Literal["PENDING_READY"] = "PENDING_READY"
    version: Literal[1] = 1
    company_id: CompanyId
    batch_id: UUID
    ingest_batch_id: Id
    unmatched: Id
    created_at: Time


class PromoteRules(_Message):
    """PROMOTE_RULES v1: somebody asks that a company's approved proposals become its next rule set."""

    TYPE: ClassVar[str] = "PROMOTE_RULES"

    event_type: Literal["PROMOTE_RULES"] = "PROMOTE_RULES"
    version: Literal[1] = 1
    company_id: CompanyId
    created_at: Time
    meta: dict[str, Any] | None = None


class TabsChanged(_Message):
    """TABS_CHANGED v1: a tab no longer shows what the tables say; the tables are to be read anew."""

    TYPE: ClassVar[str] = "TABS_CHANGED"

    event_type: Literal["TABS_CHANGED"] = "TABS_CHANGED"
    version: Literal[1] = 1
    company_id: CompanyId
    tab: Literal["pending", "active"]
    created_at: Time


def tabs_changed(company_id: str, tab: Literal["pending", "active"]) -> Event:
    """The event that tells the Sheets projector to look at a tab of a company."""
    message = TabsChanged(company_id=company_id, tab=tab, created_at=datetime.now(UTC))
    return Event(topic=TABS_CHANGED, key=company_id, type=TabsChanged.TYPE, payload=message.payload())


def _faults(invalid: ValidationError) -> list[str]:
    # A part of a path may be a name that the sender made up: shown as ASCII, whatever it was.
    return [
        f"{'.'.join(ascii(str(part))[1:-1] for part in error['loc'])}: {error['msg']}"
        for error in invalid.errors(include_input=False, include_url=False, include_context=False)
    ]
