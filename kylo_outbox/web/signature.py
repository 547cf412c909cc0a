"""Signed webhooks: HMAC-SHA256 over `id.timestamp.raw body`, as Standard Webhooks has it.

Headers `webhook-id`, `webhook-timestamp` (Unix seconds), `webhook-signature` (`v1,<base64>`, several separated by
blanks). Two keys may be active, so that one can be exchanged without a gap. The raw bytes are signed, so formatting
does not matter; a message older or newer than five minutes is refused. A repeat within that time is let through: the
ingest behind it gives an identical repeat its first answer, which is what a sender that lost an answer needs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import time
from typing import TYPE_CHECKING, Final

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.web.problems import Denied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

TOLERANCE: Final = 300
_PREFIX: Final = "whsec_"
_SHORT: Final = 16
# No dot in the id: else the end of the id could be read as a time stamp and the body shifted.
_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,200}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_MOST_SIGNATURES: Final = 10


class Signatures:
    """Checks signatures with the active keys.

    Args:
        secrets: `whsec_<base64>` or plain text, in any number (two while one is exchanged); none switches checks off.
        clock: Seconds since 1970.

    Raises:
        Misconfigured: a secret is not readable; it is named by its place only.
    """

    def __init__(self, secrets: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._keys = [_key(secret, place) for place, secret in enumerate(secrets, start=1)]
        self._clock = clock

    @property
    def required(self) -> bool:
        """Whether there are keys, so that messages must be signed."""
        return bool(self._keys)

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Let a message pass if one of its signatures fits one of the keys.

        Raises:
            Denied: 401, saying which header is wrong and never what would be right.
        """
        message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not _ID.fullmatch(message_id):
            raise Denied(401, "webhook-id: must be 1 to 200 printable characters without blanks and dots.")
        if not _TIMESTAMP.fullmatch(timestamp):
            raise Denied(401, "webhook-timestamp: must be Unix seconds.")
        if abs(self._clock() - int(timestamp)) > TOLERANCE:
            raise Denied(401, f"webhook-timestamp: more than {TOLERANCE} seconds away from our clock.")
        given = headers.get("webhook-signature", "").split()[:_MOST_SIGNATURES]
        expected = [_signature(key, message_id, timestamp, body) for key in self._keys]
        fits = [hmac.compare_digest(one.encode(), other.encode()) for one in given for other in expected]
        if not any(fits):
            raise Denied(401, "webhook-signature: does not fit; sign id.timestamp.body with an active key (v1,base64).")


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature` that a sender with `secret` writes."""
    return _signature(_key(secret, 1), message_id, str(timestamp), body)


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    mac = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()


def _key(secret: str, place: int) -> bytes:
    key = secret.encode()
    if secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise Misconfigured(f"KYLO_WEBHOOK_SECRETS: entry {place} is no base64 after {_PREFIX}") from None
    if not key:
        raise Misconfigured(f"KYLO_WEBHOOK_SECRETS: entry {place} is empty")
    if len(key) < _SHORT:
        log.warning("KYLO_WEBHOOK_SECRETS: entry %d is shorter than %d bytes: easy to guess", place, _SHORT)
    return key
