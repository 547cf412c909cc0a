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


def quota_exceeded() -> ApiError:
    """Google's 429, word for word, with the limit of one minute for one user."""
    metadata = {
        "service": "sheets.googleapis.com",
        "consumer": "projects/0",
        "quota_metric": "sheets.googleapis.com/write_requests",
        "quota_limit": "WriteRequestsPerMinutePerUser",
        "quota_limit_value": "60",
        "quota_location": "global",
    }
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": metadata,
    }
    text = (
        "Quota exceeded for quota metric 'Write requests' and limit 'Write requests per minute per user' of service "
        "'sheets.googleapis.com' for consumer 'project_number:0'."
    )
    return ApiError(429, text, [info])
