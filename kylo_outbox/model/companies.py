"""A company: where its data lives and which workbook and tabs show it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.tabs import active_tab, pending_tab

DEFAULT_DSN: Final = "env:PG_DSN_RW"
_MAX_ID: Final = 50
_MAX_TEXT: Final = 100
_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TAKEN_SCHEMAS: Final = frozenset({"kylo", "control", "intake", "public", "information_schema"})


@dataclass(frozen=True, slots=True)
class Company:
    """One row of `control.company_config`.

    Attributes:
        company_id: 1 to 50 characters, the key of everything that belongs to it.
        dsn_ref: A connection string or a reference (`env:NAME`, `file:PATH`); kept out of `repr`, never logged.
        schema: Where its views lie in its database (`app_710`); `app` means it has none of its own.
        spreadsheet_id: The workbook at Google.
        tab_pending: Title of the tab of open transactions.
        tab_active: Title of the tab of active rules.
        paused: Whether its flow is held.
    """

    company_id: str
    dsn_ref: str = field(repr=False)
    schema: str
    spreadsheet_id: str
    tab_pending: str
    tab_active: str
    paused: bool = False


def new_company(
    company_id: str,
    spreadsheet_id: str,
    *,
    dsn_ref: str | None = None,
    schema: str | None = None,
    tab_pending: str | None = None,
    tab_active: str | None = None,
) -> Company:
    """Return a checked company with defaults for what is not given.

    Raises:
        Refused: with every fault at once, each beginning with the name of the field.
    """
    return checked(
        Company(
            company_id=company_id,
            dsn_ref=dsn_ref or DEFAULT_DSN,
            schema=schema or default_schema(company_id),
            spreadsheet_id=spreadsheet_id,
            tab_pending=tab_pending or pending_tab(company_id),
            tab_active=tab_active or active_tab(company_id),
        )
    )


def default_schema(company_id: str) -> str:
    """`app_` and the id in lower case, with `_` for every character that a schema name of ours cannot hold."""
    return "app_" + re.sub(r"[^a-z0-9_]", "_", company_id.lower())


def checked(company: Company) -> Company:
    """Return `company` if it can be stored as it is.

    Raises:
        Refused: with every fault at once, each beginning with the name of the field; no value of a DSN is shown.
    """
    faults = [*_id_faults(company.company_id), *_schema_faults(company.schema)]
    if not company.dsn_ref.strip():
        faults.append("dsn: must not be empty; use env:NAME, file:PATH or a connection string")
    for name, text in (
        ("spreadsheet", company.spreadsheet_id),
        ("tab_pending", company.tab_pending),
        ("tab_active", company.tab_active),
    ):
        if not 1 <= len(text.strip()) <= _MAX_TEXT or len(text) > _MAX_TEXT or _CONTROL.search(text):
            faults.append(f"{name}: must be 1 to {_MAX_TEXT} printable characters")
    if company.tab_pending == company.tab_active:
        faults.append("tab_active: must differ from tab_pending")
    if faults:
        raise Refused(faults)
    return company


def _id_faults(company_id: str) -> list[str]:
    if not 1 <= len(company_id) <= _MAX_ID:
        return [f"company_id: must be 1 to {_MAX_ID} characters"]
    if company_id != company_id.strip() or _CONTROL.search(company_id):
        return ["company_id: must not begin or end with a space or hold control characters"]
    return []


def _schema_faults(schema: str) -> list[str]:
    if not _SCHEMA.fullmatch(schema):
        return ["schema: must begin with a letter a-z and hold at most 41 of a-z, 0-9 and _; give one with --schema"]
    if schema in _TAKEN_SCHEMAS or schema.startswith("pg_"):
        return [f"schema: {schema} belongs to the product or to PostgreSQL; choose another with --schema"]
    return []
