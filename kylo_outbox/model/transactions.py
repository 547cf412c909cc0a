"""A bank transaction as it is received: what is accepted, its identity, and digests that do not depend on order.

Decisions, each one so that nothing is changed in silence:
- Every field is required, unknown fields are refused: a `currency` that nobody stores would be a hidden loss.
- `id` and `company_id` may be whole numbers (JSON of many banks); they count as their decimal text.
- `description` keeps every character. Tab and line ends are text (memo fields of bank exports have them); other control
  characters are refused, because neither a cell nor a terminal shows them as what they are.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from kylo_outbox.model.errors import Conflict, Refused
from kylo_outbox.model.normalise import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FIELDS: Final = ("id", "company_id", "date", "amount", "description")
MAX_COMPANY_ID: Final = 50
MAX_TXN_ID: Final = 200
MAX_DESCRIPTION: Final = 50_000
MAX_LISTED: Final = 10_000
"""Faults that one refusal spells out; what is beyond is counted, so that a small body cannot ask for a huge answer."""

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "kylo://transaction").bytes
_BIGINT: Final = range(-(2**63), 2**63)
_DECIMALS: Final = 2
_LARGEST_MAGNITUDE: Final = 18
_LONGEST_AMOUNT: Final = 40
_YEARS: Final = range(1900, 2201)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PLAIN_AMOUNT = re.compile(r"([+-]?[0-9]{1,16})(?:\.([0-9]{1,2}))?")
_AMOUNT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Invalid(ValueError):  # noqa: N818 - it never leaves this module as an error: it becomes one line of a refusal
    """One field is not acceptable; the text says what is wrong and what is accepted."""


class HasDigest(Protocol):
    """A transaction, wherever it was read from."""

    @property
    def content_digest(self) -> bytes:
        """SHA-256 of everything that makes it what it is."""
        ...


@dataclass(frozen=True, slots=True)
class Transaction:
    """One accepted transaction; `(company_id, txn_id)` is its identity and `txn_uid` the same in one value.

    Attributes:
        amount_cents: Minor units, exact; zero is a valid amount.
        description: As received, whole.
        description_norm: What rules are compared with (`normalise`).
        content_digest: SHA-256 over all that was received; the same id with another digest is a conflict.
    """

    company_id: str
    txn_id: str
    txn_uid: uuid.UUID
    occurred_at: date
    amount_cents: int
    description: str
    description_norm: str
    content_digest: bytes

    @classmethod
    def of(cls, company_id: str, txn_id: str, occurred_at: date, amount_cents: int, description: str) -> Transaction:
        """Derive identity, normalised text and digest from checked values."""
        # Control characters cannot stand in the first four, so the joined text has one reading.
        content = f"{company_id}\x1f{txn_id}\x1f{occurred_at.isoformat()}\x1f{amount_cents}\x1f{description}"
        return cls(
            company_id,
            txn_id,
            txn_uid(company_id, txn_id),
            occurred_at,
            amount_cents,
            description,
            normalise(description),
            hashlib.sha256(content.encode()).digest(),
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What one ingest asks for: each transaction once, in the order of first appearance, and where it stood.

    `positions[n]` is the index, in what was sent, of `transactions[n]`.
    """

    transactions: tuple[Transaction, ...]
    positions: tuple[int, ...]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the content; the order of rows and true repeats do not change it."""
        return _digest_of(self.transactions, b"kylo request 1\n")

    def paths(self) -> dict[tuple[str, str], str]:
        """Where in the request each transaction (company_id, txn_id) stands, such as `transactions[2]`."""
        return {
            (txn.company_id, txn.txn_id): f"transactions[{index}]"
            for txn, index in zip(self.transactions, self.positions, strict=True)
        }


def parse_request(rows: Iterable[Any], lines: Sequence[int] | None = None) -> Request:
    """Check rows (dicts with the fields of `FIELDS`) and make them transactions.

    Args:
        rows: As read from a body; numbers with a fraction must be `Decimal` or text, never float.
        lines: For formats of lines (NDJSON, CSV) the line of each row; faults then name it too.

    Raises:
        Refused: with every fault as `transactions[2].amount: what is wrong; what is accepted` (beyond `MAX_LISTED`
            only their number).
        Conflict: if one id comes twice with different content.
    """
    faults: list[str] = []
    more = 0
    parsed: dict[tuple[str, str], tuple[int, Transaction]] = {}
    clashes: list[str] = []
    for index, row in enumerate(rows):
        wrong: list[str] = []
        found = _transaction(row, wrong)
        if found is None:
            line = f" (line {lines[index]})" if lines else ""
            room = MAX_LISTED - len(faults)
            faults += [f"transactions[{index}]{fault}{line}" for fault in wrong[:room]]
            more += max(0, len(wrong) - room)
            continue
        first, former = parsed.setdefault((found.company_id, found.txn_id), (index, found))
        if former.content_digest != found.content_digest and len(clashes) < MAX_LISTED:
            clashes.append(
                f"transactions[{index}].id: {shown(found.txn_id)} of company {shown(found.company_id)} also stands at "
                f"transactions[{first}] with other content; one id names one transaction"
            )
    if faults:
        raise Refused([*faults, f"transactions: {more} more faults"] if more else faults)
    if clashes:
        raise Conflict(clashes)
    return Request(tuple(txn for _, txn in parsed.values()), tuple(index for index, _ in parsed.values()))


def txn_uid(company_id: str, txn_id: str) -> uuid.UUID:
    """The identity of a transaction in one value, the same everywhere and for ever."""
    # uuid5(_NAMESPACE, "company|id"), without the second UUID that uuid.uuid5 makes on its way.
    named = hashlib.sha1(_NAMESPACE + f"{company_id}|{txn_id}".encode(), usedforsecurity=False)
    return uuid.UUID(bytes=named.digest()[:16], version=5)


def slice_signature(transactions: Iterable[HasDigest]) -> str:
    """64 hex digits that name the content of one company's slice, whatever the order of its rows."""
    return _digest_of(transactions, b"kylo slice 1\n").hex()


def shown(value: Any) -> str:
    """A value as a fault may repeat it: short, ASCII, and one line whatever was sent."""
    if isinstance(value, (dict, list)):
        return "a nested value"
    # Very long numbers are not turned into text at all: that itself is slow and limited.
    if isinstance(value, int) and value not in _BIGINT:
        return "a number of many digits"
    text = ascii(value) if isinstance(value, str) and len(value) <= _LONGEST_AMOUNT else ascii(str(value)[:41])
    return text if len(text) <= _LONGEST_AMOUNT + 2 else f"{text[:_LONGEST_AMOUNT]}..."


def _digest_of(transactions: Iterable[HasDigest], kind: bytes) -> bytes:
    return hashlib.sha256(kind + b"".join(sorted(txn.content_digest for txn in transactions))).digest()


def _transaction(row: Any, faults: list[str]) -> Transaction | None:
    """Check one row; what is wrong is added to `faults`, beginning with `.field: `."""
    if not isinstance(row, dict):
        faults.append(f": must be an object with {', '.join(FIELDS)}")
        return None
    values = []
    for field, check in _CHECKS:
        try:
            values.append(check(row[field]))
        except KeyError:
            faults.append(f".{field}: missing")
        except Invalid as invalid:
            faults.append(f".{field}: {invalid}")
    if len(row) != len(values):
        # Field names are the sender's text too.
        faults += [
            f".{shown(name)[1:-1]}: unknown field; accepted: {', '.join(FIELDS)}" for name in row if name not in FIELDS
        ]
    if faults:
        return None
    txn_id, company_id, occurred_at, cents, description = values
    return Transaction.of(company_id, txn_id, occurred_at, cents, description)


def _identifier(value: Any, longest: int, example: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value in _BIGINT:
        value = str(value)
    if not isinstance(value, str):
        raise Invalid(f"must be a text of 1 to {longest} characters such as {example}")
    if not 0 < len(value) <= longest:
        raise Invalid(f"has {len(value)} characters; accepted: 1 to {longest}")
    if _NOT_IN_IDS.search(value) or value != value.strip():
        raise Invalid("no control characters, and no blanks at the ends")
    return value


def _txn_id(value: Any) -> str:
    return _identifier(value, MAX_TXN_ID, '"t1"')


def _company_id(value: Any) -> str:
    text = _identifier(value, MAX_COMPANY_ID, '"710"')
    if "|" in text:
        raise Invalid('no "|": it separates company and id in the identity of a transaction')
    return text


@lru_cache(maxsize=4096)
def _day(value: str) -> date:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise Invalid(f"{shown(value)} is no day of the calendar") from None
    if day.year not in _YEARS:
        raise Invalid(f"{shown(value)} is out of range; accepted: 1900-01-01 to 2200-12-31")
    return day


def _occurred_at(value: Any) -> date:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise Invalid(f"{shown(value)} is no date; accepted: YYYY-MM-DD such as 2025-08-26")
    return _day(value)


def amount_cents(value: Any) -> int:
    """Return an amount in minor units, exactly as written; nothing is ever rounded.

    Args:
        value: `Decimal`, int, or text such as `-12.34`.

    Raises:
        Invalid: for other types (float and bool too), more than two decimals, and what bigint cannot hold.
    """
    if isinstance(value, (str, Decimal)):
        plain = _PLAIN_AMOUNT.fullmatch(value if isinstance(value, str) else str(value))
        if plain:
            return int(plain[1] + (plain[2] or "").ljust(2, "0"))
    return _unusual_cents(value)


def amount_text(cents: int) -> str:
    """Minor units as people write them: -1234 is `-12.34`."""
    whole, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}{whole}.{rest:02}"


def _unusual_cents(value: Any) -> int:
    """The same for whole numbers, exponents, amounts near the limit, and everything that is to be refused."""
    if isinstance(value, str):
        if len(value) > _LONGEST_AMOUNT or not _AMOUNT.fullmatch(value):
            raise Invalid(f"{shown(value)} is no amount; accepted: digits with at most two decimals such as -12.34")
        value = Decimal(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        # A number of very many digits is settled here: spelling it out is slow and limited.
        value = Decimal(value if value in _BIGINT else _BIGINT.stop)
    if not isinstance(value, Decimal) or not value.is_finite():
        raise Invalid("must be a decimal number or its text, with at most two decimals, such as -12.34")
    if int(value.as_tuple().exponent) < -_DECIMALS:
        raise Invalid(f"{shown(value)} has more than two decimals; nothing is rounded here")
    cents = int(value.scaleb(_DECIMALS)) if value.adjusted() <= _LARGEST_MAGNITUDE else _BIGINT.stop
    if cents not in _BIGINT:
        raise Invalid("is out of range; accepted: up to 92233720368547758.07 either way")
    return cents


def _description(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Invalid(f"must be a text of up to {MAX_DESCRIPTION:,} characters")
    if len(value) > MAX_DESCRIPTION:
        raise Invalid(f"has {len(value)} characters; accepted: up to {MAX_DESCRIPTION:,}")
    if found := _NOT_IN_TEXT.search(value):
        raise Invalid(f"has the character U+{ord(found[0]):04X}; control characters and lone surrogates are no text")
    return value


_CHECKS: Final[tuple[tuple[str, Callable[[Any], Any]], ...]] = (
    ("id", _txn_id),
    ("company_id", _company_id),
    ("date", _occurred_at),
    ("amount", amount_cents),
    ("description", _description),
)
