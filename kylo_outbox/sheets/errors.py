"""What can go wrong at Google, told by the one question that matters: did the write take effect?

| error             | took effect | what to do                                             |
|-------------------|-------------|--------------------------------------------------------|
| `NotSent`         | no          | wait `retry_after`, send the same request again        |
| `NotAuthorised`   | no          | as above; a person must look at the credentials        |
| `QuotaExceeded`   | no          | wait `retry_after`, send the same request again        |
| `ReadFailed`      | (a read)    | wait `retry_after`, read again                         |
| `WriteUnknown`    | perhaps     | look for the marker before anything else               |
| `Rejected`        | no          | look for the marker once, then set the request aside   |
| `TabProblem`      | no          | set this company aside with `remedy`, go on with others|

No message ever carries a token, a key or a body that was sent.
"""

from __future__ import annotations

from kylo_outbox.model.errors import Poison, QuotaSpent, Transient, UnknownOutcome, Unreachable

DEFAULT_RETRY_SECONDS = 1.0


class NotSent(Unreachable):
    """No byte of the request reached Google (refused, no such host, TLS failed): sending again is safe."""

    def __init__(self, detail: str, remedy: str, retry_after: float = DEFAULT_RETRY_SECONDS) -> None:
        super().__init__("Google Sheets", detail, remedy)
        self.retry_after = retry_after


class NotAuthorised(NotSent):
    """Google refused the credentials themselves; nothing took effect and no company is at fault."""


class QuotaExceeded(QuotaSpent):
    """Too many requests in this minute; nothing took effect. `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(f"Google Sheets quota: {detail}")
        self.retry_after = retry_after


class ReadFailed(Transient):
    """A read got no usable answer; reading again is always safe. `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float = DEFAULT_RETRY_SECONDS) -> None:
        super().__init__(f"Google Sheets did not answer a read: {detail}")
        self.retry_after = retry_after


class WriteUnknown(UnknownOutcome):
    """A write got no usable answer: applied or not, only its marker can tell."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"Google Sheets did not confirm a write: {detail}. Look for its marker before sending again.")


class Rejected(Poison):
    """Google refused the request as it is, whole; `message` is Google's text.

    `index` is the position of the sub-request that Google named, if it named one: with many companies in one batch
    it tells whose part to set aside.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(f"Google Sheets refused the request: {message}")
        self.message = message
        self.index = index


class TabProblem(Poison):
    """One company's workbook or tab is not as we need it; `remedy` says what a person can do about it."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(f"{detail}. {remedy}")
        self.detail = detail
        self.remedy = remedy


class SheetUnavailable(TabProblem):
    """The workbook does not exist or is not shared with our account."""
