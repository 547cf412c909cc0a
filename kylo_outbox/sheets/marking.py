"""Markers: developer metadata that a post leaves on its tab, in the same atomic batch as its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.model.tabs import marker_ordinal
from kylo_outbox.sheets.tab import MARKER_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.sheets.tab import Marker

KEPT_MARKERS = 20
"""Markers that stay on a tab. Google bounds the metadata of a tab (the figure is not published reliably), and only
the post whose outcome is not known yet is ever asked for."""

_POSITIVE_INT32 = 0x7FFFFFFF


def marker_requests(sheet_id: int, signature: str, marker: str, old: Sequence[Marker]) -> list[dict[str, Any]]:
    """Return the sub-requests that put the marker on the tab and remove the oldest ones beyond `KEPT_MARKERS`.

    The marker lies on the tab, not on the workbook: when somebody deletes the tab, its rows and its markers go
    together and a post of unknown outcome is rightly sent again.
    """
    ours = sorted(
        ((ordinal, held.metadata_id) for held in old if (ordinal := marker_ordinal(held.value)) is not None),
        reverse=True,
    )
    gone = [metadata_id for _ordinal, metadata_id in ours[KEPT_MARKERS - 1 :]]
    create = {
        "metadataId": int(signature[:8], 16) & _POSITIVE_INT32 or 1,
        "metadataKey": MARKER_KEY,
        "metadataValue": marker,
        "location": {"sheetId": sheet_id},
        # DOCUMENT, not PROJECT: the marker must be found after the account or its project changed.
        "visibility": "DOCUMENT",
    }
    return [
        *({"deleteDeveloperMetadata": {"dataFilter": {"developerMetadataLookup": {"metadataId": i}}}} for i in gone),
        {"createDeveloperMetadata": {"developerMetadata": create}},
    ]
