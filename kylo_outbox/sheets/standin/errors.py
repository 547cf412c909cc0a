"""Refusals in the shape in which Google sends them."""

from __future__ import annotations

from typing import Any

_STATUS = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class ApiError(Exception):
    """An HTTP answer other than success; `body` is Google's JSON for it."""

    def __init__(self, code: int, message: str, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @property
    def body(self) -> dict[str, Any]:
        """The error object, with details only where there are some."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "status": _STATUS[self.code]}
        if self.details:
            error["details"] = self.details
        return {"error": error}


class Refusal(Exception):  # noqa: N818 - one sub-request is refused, and with it the batch
    """Why one sub-request cannot be applied; the batch adds its position and kind."""


def not_found() -> ApiError:
    """Answer for an id that names nothing."""
    return ApiError(404, "Requested entity was not found.")


def invalid(message: str) -> ApiError:
    """Answer for a request that is wrong in itself."""
    return ApiError(400, message)


def forbidden() -> ApiError:
    """Answer for a workbook that is not shared with the API's account."""
    return ApiError(403, "The caller does not have permission")


def quota_exceeded(*, write: bool = True, limit: int = 60) -> ApiError:
    """Google's 429, word for word, with the limit of one minute for one user."""
    kind = "Write" if write else "Read"
    metadata = {
        "service": "sheets.googleapis.com",
        "consumer": "projects/0",
        "quota_metric": f"sheets.googleapis.com/{kind.lower()}_requests",
        "quota_limit": f"{kind}RequestsPerMinutePerUser",
        "quota_limit_value": str(limit),
        "quota_location": "global",
    }
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": metadata,
    }
    text = (
        f"Quota exceeded for quota metric '{kind} requests' and limit '{kind} requests per minute per user' of service "
        "'sheets.googleapis.com' for consumer 'project_number:0'."
    )
    return ApiError(429, text, [info])
