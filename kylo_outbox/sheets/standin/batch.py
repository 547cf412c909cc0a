"""A batchUpdate: every sub-request in order on a draft; the first refusal throws the draft away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import (
    requests_cells,
    requests_dimensions,
    requests_metadata,
    requests_protection,
    requests_sheets,
)
from kylo_outbox.sheets.standin.errors import ApiError, Refusal, invalid
from kylo_outbox.sheets.standin.guarding import Protected
from kylo_outbox.sheets.standin.state import Draft, Workbook

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.sheets.standin.guarding import User

HANDLERS: dict[str, Callable[[Draft, dict[str, Any]], dict[str, Any]]] = {
    **requests_sheets.HANDLERS,
    **requests_cells.HANDLERS,
    **requests_dimensions.HANDLERS,
    **requests_protection.HANDLERS,
    **requests_metadata.HANDLERS,
}
MAX_REQUESTS = 100_000


def apply(book: Workbook, requests: list[dict[str, Any]], user: User = "api") -> tuple[Workbook, list[dict[str, Any]]]:
    """Return the workbook after the batch and the replies; the workbook given stays as it was.

    Raises:
        ApiError: 400 in Google's words, with the position and kind of the first sub-request that cannot be applied;
            403 when it touches what `user` may not edit.
    """
    if not requests:
        raise invalid("Must specify at least one request.")
    if len(requests) > MAX_REQUESTS:
        raise invalid(f"Invalid requests: Cannot exceed {MAX_REQUESTS} requests in a single batch.")
    draft = Draft(book, user)
    replies = []
    for index, request in enumerate(requests):
        if len(request) != 1:
            raise invalid(f"Invalid requests[{index}]: No request set.")
        ((kind, body),) = request.items()
        handler = HANDLERS.get(kind)
        if handler is None:
            raise ApiError(400, f"Invalid requests[{index}].{kind}: the local stand-in does not know this request.")
        try:
            reply = handler(draft, body)
            draft.check_cells()
        except Refusal as refusal:
            code = 403 if isinstance(refusal, Protected) else 400
            raise ApiError(code, f"Invalid requests[{index}].{kind}: {refusal}") from refusal
        replies.append({kind: reply} if reply else {})
    return draft.book, replies
