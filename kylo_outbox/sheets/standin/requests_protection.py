"""Sub-requests about protected ranges: addProtectedRange, updateProtectedRange, deleteProtectedRange."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas
from kylo_outbox.sheets.standin.errors import Refusal
from kylo_outbox.sheets.standin.guarding import ADDRESSES, Protected, may_edit
from kylo_outbox.sheets.standin.masks import merge, update_mask

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Draft, Sheet


def _add(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = dict(body.get("protectedRange", {}))
    protected_range_id = given.get("protectedRangeId") or secrets.randbelow(2**31 - 1) + 1
    if any(held["protectedRangeId"] == protected_range_id for sheet in draft.book.sheets for held in sheet.protections):
        raise Refusal(f"A protected range with the id {protected_range_id} already exists")
    sheet = _checked_sheet(draft, given)
    kept = {**given, "protectedRangeId": protected_range_id}
    if not given.get("warningOnly"):
        # Whoever protects a range may edit it.
        users = given.get("editors", {}).get("users", [])
        kept["editors"] = {**given.get("editors", {}), "users": sorted({*users, ADDRESSES[draft.user]})}
    kept["requestingUserCanEdit"] = may_edit(kept, "api")
    sheet.protections.append(kept)
    return {"protectedRange": kept}


def _update(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("protectedRange", {})
    tree = update_mask(body.get("fields"), "ProtectedRange")
    sheet, position = _find(draft, given.get("protectedRangeId"))
    changed = merge(sheet.protections[position], given, tree)
    changed["protectedRangeId"] = given["protectedRangeId"]
    changed["requestingUserCanEdit"] = may_edit(changed, "api")
    if _checked_sheet(draft, changed) is not sheet:
        raise Refusal("A protected range cannot move to another sheet")
    sheet.protections[position] = changed
    return {}


def _delete(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    sheet, position = _find(draft, body.get("protectedRangeId"))
    del sheet.protections[position]
    return {}


def _find(draft: Draft, protected_range_id: int | None) -> tuple[Sheet, int]:
    for sheet in draft.book.sheets:
        for position, held in enumerate(sheet.protections):
            if held["protectedRangeId"] == protected_range_id:
                if not may_edit(held, draft.user):
                    raise Protected
                return draft.writable(sheet.sheet_id), position
    raise Refusal(f"No protected range with id: {protected_range_id}")


def _checked_sheet(draft: Draft, given: dict[str, Any]) -> Sheet:
    if "range" not in given:
        raise Refusal("A protected range needs a range (the local stand-in knows no named ranges)")
    if given.get("warningOnly") and given.get("editors"):
        raise Refusal("Editors are not supported with warning_only protection")
    sheet = draft.writable(given["range"].get("sheetId", 0))
    areas.check_loose(sheet, given["range"])
    return sheet


HANDLERS = {"addProtectedRange": _add, "updateProtectedRange": _update, "deleteProtectedRange": _delete}
