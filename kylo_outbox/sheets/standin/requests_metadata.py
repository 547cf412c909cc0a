"""Sub-requests about developer metadata: create, update, delete."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin.errors import Refusal
from kylo_outbox.sheets.standin.masks import merge, update_mask
from kylo_outbox.sheets.standin.metadata import located, lookup_of, matching

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Draft, Workbook

MAX_CHARACTERS = 30_000
"""Bound of keys and values of one location, and of the whole workbook for those that lie on it."""


def _create(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("developerMetadata", {})
    metadata_id = given.get("metadataId")
    if metadata_id is None:
        metadata_id = secrets.randbelow(2**31 - 1) + 1
    elif metadata_id <= 0:
        raise Refusal("metadataId must be positive")
    elif metadata_id in draft.book.metadata:
        raise Refusal(f"Developer metadata with the id {metadata_id} already exists")
    if not given.get("metadataKey"):
        raise Refusal("Developer metadata must always have a key")
    if given.get("visibility", "DEVELOPER_METADATA_VISIBILITY_UNSPECIFIED").endswith("UNSPECIFIED"):
        raise Refusal("Developer metadata must always have a visibility specified")
    kept = {**given, "metadataId": metadata_id, "location": located(draft.book, given.get("location", {}))}
    draft.book.metadata[metadata_id] = kept
    _check_size(draft.book, kept["location"])
    return {"developerMetadata": kept}


def _update(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    tree = update_mask(body.get("fields"), "DeveloperMetadata")
    if "metadataId" in tree:
        raise Refusal("metadataId cannot be changed")
    given = body.get("developerMetadata", {})
    changed = []
    for item in _selected(draft.book, body.get("dataFilters", [])):
        new = merge(item, given, tree)
        new["metadataId"] = item["metadataId"]
        new["location"] = located(
            draft.book, {name: value for name, value in new.get("location", {}).items() if name != "locationType"}
        )
        draft.book.metadata[item["metadataId"]] = new
        _check_size(draft.book, new["location"])
        changed.append(new)
    return {"developerMetadata": changed} if changed else {}


def _delete(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    gone = _selected(draft.book, [body.get("dataFilter", {})])
    for item in gone:
        del draft.book.metadata[item["metadataId"]]
    return {"deletedDeveloperMetadata": gone} if gone else {}


def _selected(book: Workbook, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not filters:
        raise Refusal("At least one data filter must be given")
    found = {item["metadataId"]: item for one in filters for item in matching(book, lookup_of(one))}
    return list(found.values())


def _check_size(book: Workbook, location: dict[str, Any]) -> None:
    used = sum(
        len(item["metadataKey"]) + len(item.get("metadataValue", ""))
        for item in book.metadata.values()
        if item["location"] == location
    )
    if used > MAX_CHARACTERS:
        raise Refusal(f"Developer metadata of one location may not exceed {MAX_CHARACTERS} characters")


HANDLERS = {
    "createDeveloperMetadata": _create,
    "updateDeveloperMetadata": _update,
    "deleteDeveloperMetadata": _delete,
}
