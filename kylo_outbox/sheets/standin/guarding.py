"""Who may edit what: the API's account, a person with the sheet open, and the owner of the workbook.

A protection that the API makes names the API's account as its editor, so that the person of the page is kept out; one
that the owner makes (`/_standin/people/...`) keeps the API out unless it is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from kylo_outbox.sheets.standin.errors import Refusal

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.areas import Area
    from kylo_outbox.sheets.standin.state import Sheet

User = Literal["api", "person", "owner"]

ADDRESSES: dict[User, str] = {
    "api": "service@standin.invalid",
    "person": "person@standin.invalid",
    "owner": "owner@standin.invalid",
}
_TEXT = (
    "You are trying to edit a protected cell or object. Please contact the spreadsheet owner to remove protection if "
    "you need to edit."
)


class Protected(Refusal):
    """The caller may not edit this; Google answers 403."""

    def __init__(self) -> None:
        super().__init__(_TEXT)


def may_edit(protection: dict[str, Any], user: User) -> bool:
    """Whether a protection lets this user pass; one kept by an earlier version lets everybody."""
    if user == "owner" or protection.get("warningOnly") or "editors" not in protection:
        return True
    users: list[str] = protection["editors"].get("users", [])
    return ADDRESSES[user] in users


def guard(sheet: Sheet, user: User, area: Area) -> None:
    """Let pass who may edit every cell of an area.

    Raises:
        Protected: One of the sheet's protections forbids it.
    """
    if any(not may_edit(held, user) and _touches(held.get("range", {}), area) for held in sheet.protections):
        raise Protected


def guard_tab(sheet: Sheet, user: User) -> None:
    """Let pass who may delete or rename the tab: a protection of all of it forbids that.

    Raises:
        Protected: As said.
    """
    for held in sheet.protections:
        bounds = set(held.get("range", {})) - {"sheetId"}
        if not bounds and not may_edit(held, user):
            raise Protected


def _touches(bounds: dict[str, Any], area: Area) -> bool:
    rows = range(bounds.get("startRowIndex", 0), bounds.get("endRowIndex", 1 << 31))
    columns = range(bounds.get("startColumnIndex", 0), bounds.get("endColumnIndex", 1 << 31))
    return rows.start < area.bottom and area.top < rows.stop and columns.start < area.right and area.left < columns.stop
