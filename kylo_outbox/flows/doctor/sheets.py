"""Checks of Google Sheets: who we are there, and whether each company's workbook lets us in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kylo_outbox.flows.doctor.finding import Finding
from kylo_outbox.model.errors import KyloError, Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.sheets.gateway import GoogleSheets

# Each costs one of Google's 60 reads a minute, which the projectors need too.
_MOST: Final = 10


def workbooks(open_gateway: Callable[[], GoogleSheets], companies: Sequence[Company]) -> Iterator[Finding]:
    """The account's address, and the tabs of up to ten companies' workbooks.

    Raises:
        Misconfigured: there are no credentials, or they cannot be used.
        Transient: Google or the stand-in does not answer.
    """
    gateway = open_gateway()
    account = gateway.account
    if account is not None:
        yield Finding("note", "sheets", account, "workbooks must be shared with this address, as editor")
    share = (
        f"share the workbook with {account} as editor" if account else "does the stand-in run, and has it the workbook?"
    )
    for company in companies[:_MOST]:
        try:
            gateway.tabs(company.spreadsheet_id)
        except Transient:
            raise
        except KyloError as refused:
            yield Finding("error", "sheets", f"company {company.company_id}", str(refused), share)
    if len(companies) > _MOST:
        yield Finding("note", "sheets", "", f"{_MOST} of {len(companies)} workbooks were looked at")


def shadow() -> Iterator[Finding]:
    """What is to be known while nothing is posted."""
    yield Finding(
        "note", "sheets", "", "shadow mode: nothing is written to tabs", "KYLO_SHEETS_POST=1 turns posting on"
    )
